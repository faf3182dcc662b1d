"""Scaled dot-product attention: one public function, one file per implementation."""

from typing import Literal, get_args

from jaxtyping import Array, Float, Int

from astrojax.ops.attention import chunked, reference

Implementation = Literal["auto", "reference", "chunked"]

# From this many queries on, scores of all pairs are worth avoiding.
_LONG = 1024


def attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k h"],
    *,
    causal: bool = False,
    segment_ids: Int[Array, "b t"] | None = None,
    scale: float | None = None,
    implementation: Implementation = "auto",
) -> Float[Array, "b t n h"]:
    """Grouped-query attention: query head ``i`` reads key/value head ``i // (n // k)``.

    Args:
        query: queries.
        key: keys; ``k`` divides ``n`` (``k == n`` is multi-head, ``k == 1`` multi-query attention).
        value: values.
        causal: query ``t`` reads no key after its own position; the last query is aligned with the last key.
        segment_ids: the document each position belongs to; no position reads another document's keys.
        scale: factor on the scores, ``h ** -0.5`` where not given.
        implementation: ``"reference"`` holds the scores of all pairs, ``"chunked"`` those of a block of queries at a
            time, ``"auto"`` takes the second where there are many queries.

    Raises:
        ValueError: the shapes do not fit each other, or the implementation is unknown.

    Source: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023 (grouped queries).
    """
    num_heads, num_kv_heads = query.shape[2], key.shape[2]
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads=} must be a multiple of {num_kv_heads=}")
    if key.shape != value.shape:
        raise ValueError(f"key and value differ in shape: {key.shape} and {value.shape}")
    if segment_ids is not None and query.shape[1] != key.shape[1]:
        raise ValueError(f"segment_ids need as many queries as keys, got {query.shape[1]} and {key.shape[1]}")
    if implementation not in get_args(Implementation):
        raise ValueError(f"unknown attention {implementation=}")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if implementation == "auto":
        implementation = "chunked" if query.shape[1] >= _LONG and query.shape[1] % chunked.BLOCK == 0 else "reference"
    elif implementation == "chunked" and query.shape[1] % chunked.BLOCK:
        raise ValueError(f"chunked attention takes a multiple of {chunked.BLOCK} queries, got {query.shape[1]}")
    module = {"reference": reference, "chunked": chunked}[implementation]
    return module.attention(query, key, value, causal=causal, segment_ids=segment_ids, scale=scale)
