"""Scaled dot-product attention: one public function, one file per implementation."""

import logging
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from astrojax.ops.attention import chunked, reference, splash, triton
from astrojax.ops.attention.call import Call
from astrojax.ops.attention.visibility import Layout, Reach
from astrojax.parallel.mesh import backend

Implementation = Literal["auto", "reference", "chunked", "triton", "splash"]

_IMPLEMENTATIONS = {"reference": reference, "chunked": chunked, "triton": triton, "splash": splash}

# What "auto" tries, the fastest first.
_PREFERRED = {"gpu": ("triton", "chunked"), "tpu": ("splash", "chunked"), "cpu": ("chunked",)}

# With fewer queries the scores of all pairs are small, and kernels have too few rows to work on.
_FEW = {"gpu": 16, "tpu": 128, "cpu": 1024}

_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)

_logger = logging.getLogger(__name__)
_reported = set()


def attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k h"],
    *,
    causal: bool = False,
    window: int | None = None,
    prefix: int = 0,
    segment_ids: Int[Array, "b t"] | tuple[Int[Array, "b t"], Int[Array, "b s"]] | None = None,
    positions: Int[Array, "b t"] | None = None,
    mask: Array | None = None,
    scale: float | None = None,
    implementation: Implementation = "auto",
    interpret: bool = False,
) -> Float[Array, "b t n h"]:
    """Grouped-query attention: query head ``i`` reads key/value head ``i // (n // k)``, which is never repeated.

    A pair of query and key must pass every condition that is given. A query that may read no key gets zeros. The
    softmax and all sums are float32. To be called under a mesh (``jax.set_mesh``), of one device or many; batch and
    heads may be split over it.

    Args:
        query: queries in float32, bfloat16 or float16.
        key: keys; ``k`` divides ``n`` (``k == n`` is multi-head, ``k == 1`` multi-query attention).
        value: values.
        causal: a query reads no key after its own position.
        window: a query at position ``p`` reads keys at ``p - window + 1`` to ``p``, and, where not ``causal``, to
            ``p + window - 1``: Mistral's sliding window.
        prefix: the first ``prefix`` keys are read from beyond the window too.
        segment_ids: the document each place belongs to; no query reads another document's keys. A pair where queries
            and keys are not the same places.
        positions: the place of each query among the keys, of which key ``j`` has place ``j``: with a cache, the number
            of tokens before the query. By default the last query stands at the last key.
        mask: which pairs may meet (bool), or what is added to their scores (floating; ``-inf`` and the lowest number
            of the dtype forbid). ``[t, s]``, ``[b, t, s]`` or ``[b, n, t, s]``, any axis may be 1.
        scale: factor on the scores, ``h ** -0.5`` where not given.
        implementation: ``"reference"`` holds the scores of all pairs, ``"chunked"`` those of a block of queries at a
            time; ``"triton"`` is a kernel for NVIDIA GPUs from Ampere on, ``"splash"`` JAX's kernel for TPUs.
            ``"auto"`` takes the fastest of these that can, for the platform the program is traced for, and logs which.
        interpret: run a kernel on a CPU, operation by operation, for tests.

    Raises:
        ValueError: names the argument that does not fit the others, or that the implementation cannot take, and why.

    Source: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023 (grouped queries); Beltagy et al. 2020 (window and prefix).
    """
    _check_shapes(query, key, value)
    call = Call(
        query=query,
        key=key,
        value=value,
        reach=_reach(causal, window, prefix),
        layout=_layout(segment_ids, positions, query, key),
        mask=_scores_mask(mask, query, key),
        scale=_scale(scale, query),
        interpret=interpret,
    )
    if implementation not in get_args(Implementation):
        raise ValueError(f"unknown attention {implementation=}; known: {', '.join(get_args(Implementation))}")
    if implementation == "auto":
        implementation = _choose(call)
    elif reason := _IMPLEMENTATIONS[implementation].refusal(call):
        raise ValueError(f"attention {implementation=}: {reason}")
    return _IMPLEMENTATIONS[implementation].attention(call)


def _choose(call: Call) -> str:
    """The first of the platform's implementations that takes the call; which one, and why none before it, is logged
    once."""
    platform, rejected, chosen = backend(), [], "reference"
    if call.query.shape[1] < _FEW[platform]:
        rejected.append(f"{', '.join(_PREFERRED[platform])}: fewer than {_FEW[platform]} queries")
    else:
        for name in _PREFERRED[platform]:
            reason = _IMPLEMENTATIONS[name].refusal(call)
            if reason is None:
                chosen = name
                break
            rejected.append(f"{name}: {reason}")
    _, t, n, h = call.query.shape
    shape = f"{t} queries, {call.key.shape[1]} keys, {n} heads of {h}, {call.key.shape[2]} for keys"
    message = f"attention on {platform}: {chosen} ({shape}, {call.query.dtype})"
    message += f"; not {'; not '.join(rejected)}" if rejected else ""
    if message not in _reported:
        _reported.add(message)
        _logger.info(message)
    return chosen


def _check_shapes(query, key, value) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.ndim != 4:
            raise ValueError(f"{name} must be [batch, seq, heads, head_dim], got shape {x.shape}")
        if 0 in x.shape:
            raise ValueError(f"{name} must not be empty, got shape {x.shape}")
        if x.dtype not in _DTYPES:
            raise ValueError(f"{name} must be float32, bfloat16 or float16, got {x.dtype}")
    if key.shape != value.shape:
        raise ValueError(f"key and value differ in shape: {key.shape} and {value.shape}")
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError(f"query, key and value differ in dtype: {query.dtype}, {key.dtype} and {value.dtype}")
    if query.shape[0] != key.shape[0]:
        raise ValueError(f"query and key differ in batch: {query.shape[0]} and {key.shape[0]}")
    if query.shape[3] != key.shape[3]:
        raise ValueError(f"query and key differ in head_dim: {query.shape[3]} and {key.shape[3]}")
    num_heads, num_kv_heads = query.shape[2], key.shape[2]
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads=} must be a multiple of {num_kv_heads=}")


def _scale(scale: float | None, query) -> float:
    if scale is None:
        return query.shape[-1] ** -0.5
    if isinstance(scale, jax.core.Tracer):
        raise ValueError("scale must be a number that is known while tracing; multiply the query by one that is not")
    return float(scale)


def _reach(causal: bool, window: int | None, prefix: int) -> Reach:
    if window is not None and window < 1:
        raise ValueError(f"{window=} must be at least 1: a query's own place")
    if prefix < 0:
        raise ValueError(f"{prefix=} must not be negative")
    if prefix and window is None:
        raise ValueError(f"{prefix=} without a window: every key is within reach already")
    return Reach(causal, window, prefix)


def _layout(segment_ids, positions, query, key) -> Layout:
    b, t, s = query.shape[0], query.shape[1], key.shape[1]
    if segment_ids is None:
        query_segments = key_segments = None
    elif isinstance(segment_ids, tuple | list):
        if len(segment_ids) != 2 or any(x is None for x in segment_ids):
            raise ValueError("segment_ids must be one array, or a pair (of queries, of keys) without None")
        query_segments, key_segments = segment_ids
    else:
        query_segments = key_segments = segment_ids
        if t != s:
            raise ValueError(f"segment_ids must be a pair (of queries, of keys) for {t} queries and {s} keys")
    for name, x, shape in (
        ("segment_ids of the queries", query_segments, (b, t)),
        ("segment_ids of the keys", key_segments, (b, s)),
        ("positions", positions, (b, t)),
    ):
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {x.shape}")
        if x is not None and not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"{name} must be integers, got {x.dtype}")
    batch = P(jax.typeof(query).sharding.spec[0], None)

    def placed(x):
        return None if x is None else jax.sharding.reshard(jnp.asarray(x), batch)

    # What queries and keys share stays one array: that every query has a key of its document can then be seen.
    shared, query_segments = query_segments is key_segments, placed(query_segments)
    return Layout(placed(positions), query_segments, query_segments if shared else placed(key_segments))


def _scores_mask(mask, query, key):
    """The mask with the four axes of the scores."""
    if mask is None:
        return None
    if mask.dtype != jnp.bool and not jnp.issubdtype(mask.dtype, jnp.floating):
        raise ValueError(f"mask must be bool (which pairs may meet) or floating (added to scores), got {mask.dtype}")
    scores = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    axes = {2: (2, 3), 3: (0, 2, 3), 4: (0, 1, 2, 3)}.get(mask.ndim)
    if axes is None or any(n not in (1, scores[axis]) for n, axis in zip(mask.shape, axes, strict=True)):
        raise ValueError(f"mask must broadcast to [t, s], [b, t, s] or [b, n, t, s] = {scores}, got {mask.shape}")
    return jnp.expand_dims(mask, [axis for axis in range(4) if axis not in axes])
