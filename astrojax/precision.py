"""One precision policy for a whole model: what weights are kept in, computed in and summed in."""

from typing import Literal

import jax
import jax.numpy as jnp

from astrojax.config import Config

DType = Literal["float32", "bfloat16"]  # float16 would need loss scaling.


class Precision(Config):
    """The three dtypes of a model.

    Attributes:
        params: the weights as they are stored and updated.
        compute: matrix products and activations.
        accumulate: the sums inside matrix products. Softmax, norms and loss are float32 always.
    """

    params: DType = "float32"
    compute: DType = "bfloat16"
    accumulate: DType = "float32"

    @property
    def params_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.params)

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.compute)

    @property
    def accumulate_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.accumulate)


def stochastic_round(x: jax.Array, dtype: jnp.dtype, key: jax.Array) -> jax.Array:
    """Rounds float32 to one of its two neighbours in ``dtype``, each with the probability that makes the mean exact.

    An update of a bfloat16 weight is mostly smaller than half the distance to the next number, and rounding to nearest
    would lose it every time. float32 stays as it is; infinities and NaN are kept.
    """
    if x.dtype == dtype:
        return x
    if (x.dtype, dtype) != (jnp.float32, jnp.bfloat16):
        raise ValueError(f"no stochastic rounding from {x.dtype} to {dtype}")
    # bfloat16 is the upper half of float32: adding 16 random bits carries into it as often as the lower half is large.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=jax.typeof(x).sharding.spec)
    rounded = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(dtype)
