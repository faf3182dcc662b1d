"""Which blocks of keys a block of queries must visit, and which of them need no mask.

Blocks entirely out of reach are never loaded, nor are those of other documents where documents lie in order. What is
decided here is conservative: a block that is visited without need costs time, one that is left out would be wrong.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from astrojax.ops.attention.visibility import Layout, Reach

# The columns of a table of visits. Blocks [START, END) are visited, of them [FULL_START, FULL_END) without a mask, and
# before them those in [0, PREFIX_END).
PREFIX_END, START, FULL_START, FULL_END, END = range(5)


class _Bounds(NamedTuple):
    """The least and the greatest number in each block, ``[#b, blocks]``."""

    least: Int[Array, "#b blocks"]
    greatest: Int[Array, "#b blocks"]


def key_visits(
    reach: Reach, layout: Layout, num_queries: int, num_keys: int, block_q: int, block_k: int
) -> Int[Array, "#b blocks 5"]:
    """For each block of queries, the blocks of keys it visits."""
    needed, full = _pairs(reach, layout, num_queries, num_keys, block_q, block_k)
    in_prefix = np.arange(needed.shape[2]) < -(-reach.prefix // block_k)
    return _table(needed & ~in_prefix, full & ~in_prefix, needed & in_prefix)


def query_visits(
    reach: Reach, layout: Layout, num_queries: int, num_keys: int, block_q: int, block_k: int
) -> Int[Array, "#b blocks 5"]:
    """For each block of keys, the blocks of queries that visit it; there is nothing before ``START``."""
    needed, full = _pairs(reach, layout, num_queries, num_keys, block_q, block_k)
    return _table(needed.swapaxes(1, 2), full.swapaxes(1, 2), np.zeros((1, 1, 1), bool))


def _pairs(reach: Reach, layout: Layout, t: int, s: int, block_q: int, block_k: int):
    """Which blocks of queries and keys must meet, and which of them may meet in every pair: ``[#b, nq, nk]``."""
    positions = np.arange(s - t, s)[None] if layout.positions is None else layout.positions
    places = np.arange(s)[None]
    query, key = _bounds(positions, block_q, along=1), _bounds(places, block_k, along=2)
    # A block that reaches beyond the keys needs a mask. One that reaches beyond the queries does not: what is
    # computed there is not kept.
    whole = (np.arange(-(-s // block_k)) + 1) * block_k <= s
    needed = np.ones((1, 1, 1), bool)
    full = whole[None, None, :]
    if reach.causal:
        needed = key.least <= query.greatest
        full = full & (key.greatest <= query.least)
    if reach.window is not None:
        near = query.least - key.greatest < reach.window
        inside = query.greatest - key.least < reach.window
        if not reach.causal:
            near = near & (key.least - query.greatest < reach.window)
            inside = inside & (key.greatest - query.least < reach.window)
        needed = needed & (near | (key.least < reach.prefix))
        full = full & inside
    if layout.query_segments is not None:
        query = _bounds(layout.query_segments, block_q, along=1)
        key = _bounds(layout.key_segments, block_k, along=2)
        needed = needed & (key.least <= query.greatest) & (query.least <= key.greatest)
        full = full & (query.least == key.greatest) & (key.least == query.greatest)
    shape = (max(needed.shape[0], full.shape[0]), -(-t // block_q), -(-s // block_k))
    numpy = _numpy_for(needed, full)
    return numpy.broadcast_to(needed, shape), numpy.broadcast_to(full & needed, shape)


def _bounds(x: Int[Array, "#b n"], block: int, *, along: int) -> _Bounds:
    """Of each block, broadcastable along axis 1 (queries) or 2 (keys) of a table of pairs."""
    blocks = -(-x.shape[1] // block)
    numpy = _numpy_for(x)
    x = numpy.pad(x, ((0, 0), (0, blocks * block - x.shape[1])), mode="edge")
    x = x.reshape(x.shape[0], blocks, block)
    axis = 2 if along == 1 else 1
    return _Bounds(numpy.expand_dims(x.min(-1), axis), numpy.expand_dims(x.max(-1), axis))


def _table(needed: Bool[Array, "b i j"], full: Bool[Array, "b i j"], prefix: Bool[Array, "..."]) -> Int[Array, "b i 5"]:
    """Rows of visits from the blocks that are needed, full ones among them, and the needed blocks of the prefix."""
    numpy = _numpy_for(needed, full)
    blocks = needed.shape[2]
    order = np.arange(blocks)

    def first(x):
        return numpy.where(x, order, blocks).min(axis=2)

    end = numpy.where(needed, order + 1, 0).max(axis=2)
    start = numpy.minimum(first(needed), end)
    # The first run of full blocks; there is no more than one unless documents are out of order.
    full_start = numpy.minimum(first(full), end)
    full_end = numpy.minimum(first(~full & (order >= full_start[:, :, None])), end)
    prefix_end = numpy.broadcast_to(numpy.where(prefix, order + 1, 0).max(axis=2), end.shape)
    return numpy.stack([prefix_end, start, full_start, full_end, end], axis=2).astype(np.int32)


def _numpy_for(*arrays):
    """NumPy where everything is known while tracing, so that the table is a constant of the program."""
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np
