"""Attention for a block of queries at a time: the scores of all pairs never exist, forwards or backwards."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from astrojax.ops.attention import reference

BLOCK = 128  # Queries at a time.


def attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k h"],
    *,
    causal: bool,
    segment_ids: Int[Array, "b t"] | None,
    scale: float,
) -> Float[Array, "b t n h"]:
    """See :func:`astrojax.ops.attention.attention`. Scores are held for ``[b, n, BLOCK, s]`` at a time: memory grows
    with the length, not with its square. The backward pass computes each block again."""
    t, s = query.shape[1], key.shape[1]
    # float32: their gradients are summed over the blocks in the dtype they have here.
    key32, value32 = key.astype(jnp.float32), value.astype(jnp.float32)

    @jax.checkpoint
    def block(xs):
        first, query_bxnh, segments_bx = xs
        mask_bxs = reference.attention_mask(
            first * BLOCK + jnp.arange(BLOCK) + s - t, jnp.arange(s), causal, segments_bx, segment_ids
        )
        return reference.masked_attention(
            query_bxnh, key32.astype(key.dtype), value32.astype(value.dtype), mask_bxs, scale
        )

    segments = None if segment_ids is None else _split(segment_ids)
    return _join(jax.lax.map(block, (jnp.arange(t // BLOCK), _split(query), segments)))


def _split(x):
    """``[b, t, ...]`` as ``[blocks, b, BLOCK, ...]``."""
    spec = jax.typeof(x).sharding.spec
    shape = (x.shape[0], x.shape[1] // BLOCK, BLOCK, *x.shape[2:])
    return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=P(spec[0], None, *spec[1:])), 1, 0)


def _join(blocks):
    x = jnp.moveaxis(blocks, 0, 1)
    batch, _, *rest = jax.typeof(x).sharding.spec
    return jnp.reshape(x, (x.shape[0], -1, *x.shape[3:]), out_sharding=P(batch, *rest))
