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
    """See :func:`astrojax.ops.attention.attention`. The scores held at a time are ``[b, n, BLOCK, s]``: memory grows
    with the length, not with its square. The backward pass computes each block again."""
    b, t, n, h = query.shape
    blocks = t // BLOCK
    batch, _, heads, _ = jax.typeof(query).sharding.spec
    mask_from = segment_ids if segment_ids is not None else jnp.zeros((1, t), jnp.int32)

    def split(x, spec):
        x = jnp.reshape(x, (x.shape[0], blocks, BLOCK, *x.shape[2:]), out_sharding=P(spec[0], None, *spec[1:]))
        return jnp.moveaxis(x, 1, 0)

    # float32: the gradients of keys and values are summed over the blocks of queries in the dtype they have here.
    key32, value32 = key.astype(jnp.float32), value.astype(jnp.float32)

    @jax.checkpoint
    def block(first, query_bxnh, segments_bx):
        mask_bxs = None
        if causal:
            place_xs = first * BLOCK + jnp.arange(BLOCK)[:, None] + key.shape[1] - t
            mask_bxs = (place_xs >= jnp.arange(key.shape[1]))[None]
        if segment_ids is not None:
            same_bxs = segments_bx[:, :, None] == segment_ids[:, None, :]
            mask_bxs = same_bxs if mask_bxs is None else jnp.logical_and(mask_bxs, same_bxs)
        return reference.masked_attention(
            query_bxnh, key32.astype(key.dtype), value32.astype(value.dtype), mask_bxs, scale
        )

    out = jax.lax.map(
        lambda xs: block(*xs),
        (jnp.arange(blocks), split(query, jax.typeof(query).sharding.spec), split(mask_from, (batch if segment_ids is not None else None, None))),
    )
    return jnp.reshape(jnp.moveaxis(out, 0, 1), (b, t, n, h), out_sharding=P(batch, None, heads, None))
