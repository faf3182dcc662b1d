"""Which keys a query may read: one definition for the reference and for every kernel."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


class Reach(NamedTuple):
    """The static part of the rule.

    Attributes:
        causal: no key after the query.
        window: how many places back a query reads, itself included; without ``causal`` as many ahead.
        prefix: the first keys, which are read from beyond the window too.
    """

    causal: bool = False
    window: int | None = None
    prefix: int = 0


class Layout(NamedTuple):
    """The part of the rule that is data; None is the usual case.

    Attributes:
        positions: the place of each query among the keys; by default the last query stands at the last key.
        query_segments: the document of each query.
        key_segments: the document of each key.
    """

    positions: Int[Array, "b t"] | None = None
    query_segments: Int[Array, "b t"] | None = None
    key_segments: Int[Array, "b s"] | None = None


def visible(
    reach: Reach,
    positions: Int[Array, "..."],
    places: Int[Array, "..."],
    query_segments: Int[Array, "..."] | None = None,
    key_segments: Int[Array, "..."] | None = None,
) -> Bool[Array, "..."] | None:
    """Whether the query at ``positions`` reads the key at ``places``; None where every query reads every key. The
    arguments broadcast against each other, such as ``[t, 1]`` and ``[1, s]``."""
    conditions = []
    if reach.causal:
        conditions.append(places <= positions)
    if reach.window is not None:
        near = positions - places < reach.window
        if not reach.causal:
            near &= places - positions < reach.window
        conditions.append(near | (places < reach.prefix) if reach.prefix else near)
    if query_segments is not None:
        conditions.append(query_segments == key_segments)
    return functools.reduce(jnp.logical_and, conditions) if conditions else None


def default_positions(num_queries: int, num_keys: int) -> Int[Array, "t"]:
    """The place of each query among the keys: the last stands at the last."""
    return jnp.arange(num_queries, dtype=jnp.int32) + (num_keys - num_queries)


def visible_pairs(reach: Reach, layout: Layout, num_queries: int, num_keys: int) -> Bool[Array, "#b t s"] | None:
    """:func:`visible` for all pairs of queries and keys."""
    positions = layout.positions
    if positions is None:
        positions = default_positions(num_queries, num_keys)[None]
    segments = layout.query_segments is not None
    return visible(
        reach,
        positions[:, :, None],
        jnp.arange(num_keys, dtype=jnp.int32),
        layout.query_segments[:, :, None] if segments else None,
        layout.key_segments[:, None, :] if segments else None,
    )


def count_visible(reach: Reach, num_queries: int, num_keys: int) -> int:
    """How many pairs :func:`visible_pairs` allows by default positions, without making them."""
    places = np.arange(num_keys - num_queries, num_keys)
    first, last = np.zeros_like(places), np.full_like(places, num_keys - 1)
    if reach.causal:
        last = np.minimum(last, places)
    if reach.window is not None:
        first = np.maximum(first, places - reach.window + 1)
        last = np.minimum(last, places + reach.window - 1)
    prefix = min(reach.prefix, num_keys)
    pairs = np.maximum(last + 1 - first, 0) + np.minimum(first, prefix)
    if not reach.causal:
        pairs += np.maximum(prefix - np.maximum(last + 1, first), 0)
    return int(np.sum(pairs))
