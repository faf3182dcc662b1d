"""Attention for a block of queries at a time: the scores of all pairs never exist, forwards or backwards."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from astrojax.ops.attention import reference
from astrojax.ops.attention.call import Call
from astrojax.ops.attention.visibility import default_positions, visible

BLOCK = 128  # Queries at a time.


def refusal(call: Call) -> str | None:
    """Why this implementation cannot take the call."""
    del call


def attention(call: Call) -> Float[Array, "b t n h"]:
    """See :func:`astrojax.ops.attention.attention`. Scores are held for ``[b, n, BLOCK, s]`` at a time: memory grows
    with the length, not with its square. The backward pass computes each block again."""
    query, key, value, reach, layout, mask, scale, _ = call
    t, s = query.shape[1], key.shape[1]
    # float32: their gradients are summed over the blocks in the dtype they have here.
    key32, value32 = key.astype(jnp.float32), value.astype(jnp.float32)
    places = jnp.arange(s, dtype=jnp.int32)
    key_segments = None if layout.key_segments is None else layout.key_segments[:, None, :]

    @jax.checkpoint
    def block(xs):
        query_bxnh, positions_bx, segments_bx, mask_bnxs = xs
        segments_bx1 = None if segments_bx is None else segments_bx[:, :, None]
        pairs_bxs = visible(reach, positions_bx[:, :, None], places, segments_bx1, key_segments)
        return reference.masked_attention(
            query_bxnh,
            key32.astype(key.dtype),
            value32.astype(value.dtype),
            pairs_bxs,
            mask_bnxs if by_rows else mask,
            scale,
            never_empty=call.never_empty,
        )

    positions = default_positions(t, s)[None] if layout.positions is None else layout.positions
    by_rows = mask is not None and mask.shape[2] > 1
    xs = (
        _split(query, 1),
        _split(positions, 1),
        None if layout.query_segments is None else _split(layout.query_segments, 1),
        _split(mask, 2) if by_rows else None,
    )
    return _join(jax.lax.map(block, xs))[:, :t]


def _split(x, axis: int):
    """``[..., t, ...]`` as ``[blocks, ..., BLOCK, ...]``, filled up with zeros."""
    blocks = -(-x.shape[axis] // BLOCK)
    missing = blocks * BLOCK - x.shape[axis]
    if missing:
        x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    spec = jax.typeof(x).sharding.spec
    shape = (*x.shape[:axis], blocks, BLOCK, *x.shape[axis + 1 :])
    x = jnp.reshape(x, shape, out_sharding=P(*spec[:axis], None, *spec[axis:]))
    return jnp.moveaxis(x, axis, 0)


def _join(blocks):
    x = jnp.moveaxis(blocks, 0, 1)
    batch, _, *rest = jax.typeof(x).sharding.spec
    return jnp.reshape(x, (x.shape[0], -1, *x.shape[3:]), out_sharding=P(batch, *rest))
