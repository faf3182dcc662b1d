"""Layers that the transformers share: RMSNorm, projections, rotary positions, SwiGLU, initialisers, remat.

Weights are split on their major dimensions: with the last one split, XLA keeps a transposed copy of the whole stack.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from astrojax.parallel.sharding import BATCH, gathered
from astrojax.precision import Precision

_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

# Where the weights of a projection live: into the heads or the feed-forward layer, and back.
IN_SPLIT = P("fsdp", "tensor")
OUT_SPLIT = P(("tensor", "fsdp"), None)


def remat(keep: str, prevent_cse: bool = True) -> Callable[[Callable], Callable]:
    """A decorator for a layer, of whose activations the backward pass keeps some and computes the others again.

    Args:
        keep: ``none`` of them is computed again, ``dots`` are kept, or only the layer's inputs are: ``full``
            rematerialisation.
        prevent_cse: False in a scan, whose loop keeps the two computations apart; it is faster.
    """
    if keep == "none":
        # A checkpoint that keeps everything rounds all of it again, to no end (XLA's ReducePrecision).
        return lambda layer: layer
    return functools.partial(jax.checkpoint, policy=_REMAT_POLICIES[keep], prevent_cse=prevent_cse)


def rms_norm(x: Float[Array, "... d"], scale: Float[Array, "d"], eps: float) -> Float[Array, "... d"]:
    """``x / sqrt(mean(x^2) + eps) * scale``, the mean in float32 (Zhang and Sennrich 2019, eq. 4)."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * inverse * scale.astype(jnp.float32)).astype(x.dtype)


def rotate(x: Float[Array, "... h"], angles: tuple[Array, Array]) -> Float[Array, "... h"]:
    """Turns the pairs ``(x[i], x[i + h / 2])`` by their angle: Llama's rotate-half convention.

    Args:
        x: queries or keys.
        angles: cosine and sine, which broadcast against ``[..., h / 2]``.
    """
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def kernel(weight: nnx.Param, precision: Precision) -> Array:
    """A weight in compute dtype, collected over ``fsdp``: what a product takes."""
    return gathered(weight[...].astype(precision.compute_dtype))


def linear(x: Float[Array, "b t i"], weight: nnx.Param, precision: Precision) -> Float[Array, "b t o"]:
    """``x @ weight`` in compute dtype; ``weight`` is ``[i, o]``. Sums that cross devices are in the accumulate dtype.

    The product runs on ``[b * t, i]``: with three axes XLA's CPU backend transposes copies for the weight's gradient,
    which makes the pair of passes 1.6 times slower.
    """
    return _product(x, kernel(weight, precision), precision)


def _product(x, weight_io: Array, precision: Precision):
    b, t, i = x.shape
    rows, _, split = jax.typeof(x).sharding.spec
    x_ri = jnp.reshape(x, (b * t, i), out_sharding=P(rows, split))
    columns = jax.typeof(weight_io).sharding.spec.partitions[1]
    # Within a device hardware sums in float32 and rounds once, whatever it returns.
    crosses = split is not None and jax.sharding.get_abstract_mesh().shape[split] > 1
    summed_in = precision.accumulate_dtype if crosses else precision.compute_dtype
    y_ro = jnp.einsum("ri,io->ro", x_ri, weight_io, preferred_element_type=summed_in, out_sharding=P(rows, columns))
    y_ro = y_ro.astype(precision.compute_dtype)
    return jnp.reshape(y_ro, (b, t, y_ro.shape[1]), out_sharding=P(rows, None, columns))


def heads(x: Float[Array, "b t d"], weight: nnx.Param, head_dim: int, precision: Precision) -> Float[Array, "b t n h"]:
    """:func:`linear` with what comes out cut into heads, which are split over ``tensor``."""
    y_bto = linear(x, weight, precision)
    b, t, o = y_bto.shape
    return jnp.reshape(y_bto, (b, t, o // head_dim, head_dim), out_sharding=P(BATCH, None, "tensor", None))


def small_heads(
    x: Float[Array, "b t d"], weights: Sequence[nnx.Param], head_dim: int, precision: Precision
) -> list[Float[Array, "b t n h"]]:
    """:func:`heads` of several weights by one product, which copies the weights: faster where they are small."""
    b, t, d = x.shape
    whole = [kernel(weight, precision) for weight in weights]
    reduced = jax.typeof(whole[0]).sharding.spec.reduced
    # Side by side within each head, so that a split of the heads stays one.
    cut = P(None, "tensor", None, reduced=reduced)
    parts = [jnp.reshape(weight, (d, -1, head_dim), out_sharding=cut) for weight in whole]
    together = jnp.concatenate(parts, axis=2)
    together = jnp.reshape(together, (d, -1), out_sharding=P(None, "tensor", reduced=reduced))
    y_bto = _product(x, together, precision)
    shape = (b, t, parts[0].shape[1], len(weights) * head_dim)
    return jnp.split(jnp.reshape(y_bto, shape, out_sharding=P(BATCH, None, "tensor", None)), len(weights), axis=-1)


def check_splits(splits: Iterable[tuple[str, int, str, int]]) -> None:
    """Checks that dimensions divide.

    Args:
        splits: field of the model's configuration, its size, the mesh axes that split it, and into how many parts.

    Raises:
        ValueError: names the field and the mesh axes that do not fit.
    """
    for field, size, axes, parts in splits:
        if size % parts:
            raise ValueError(f"model.{field}={size} does not split over mesh {axes}={parts}")


@jax.checkpoint
def _gate(gate_btf, up_btf):
    # Checkpointed: the backward pass keeps these two and not the sigmoid and the product as well.
    gate32, up32 = gate_btf.astype(jnp.float32), up_btf.astype(jnp.float32)
    return (jax.nn.silu(gate32) * up32).astype(gate_btf.dtype)


class SwiGLU(nnx.Module):
    """Gated feed-forward layer ``(silu(x gate) * (x up)) down`` (Shazeer 2020)."""

    def __init__(self, d_model: int, d_ff: int, num_layers: int, precision: Precision, *, rngs: nnx.Rngs):
        d, f = d_model, d_ff
        self.precision = precision
        self.gate_df = normal(rngs, (d, f), d**-0.5, precision, IN_SPLIT)
        self.up_df = normal(rngs, (d, f), d**-0.5, precision, IN_SPLIT)
        self.down_fd = normal(rngs, (f, d), residual_std(f, num_layers), precision, OUT_SPLIT)

    def __call__(self, x_btd):
        gate_btf = linear(x_btd, self.gate_df, self.precision)
        up_btf = linear(x_btd, self.up_df, self.precision)
        return linear(_gate(gate_btf, up_btf), self.down_fd, self.precision)


def residual_std(fan_in: int, num_layers: int) -> float:
    """Standard deviation of a projection into the residual stream, which sums one per sub-layer: GPT-2's scaling."""
    return fan_in**-0.5 / (2 * num_layers) ** 0.5


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, precision: Precision, spec: P) -> nnx.Param:
    """A weight drawn in float32 and rounded, so that every params dtype starts from the same weights."""
    value = jax.nn.initializers.normal(std)(rngs.params(), shape, jnp.float32, out_sharding=spec)
    return nnx.Param(value.astype(precision.params_dtype))


def constant(value: float, shape: tuple[int, ...], precision: Precision) -> nnx.Param:
    """A weight that starts as one ``value`` and lives on every device."""
    return nnx.Param(jnp.full(shape, value, precision.params_dtype, out_sharding=P(*[None] * len(shape))))
