"""One precision policy for a whole model: what weights are kept in, computed in and summed in."""

from typing import Literal

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
