"""Scaled dot-product attention: one public function, one file per implementation."""

from typing import Literal, get_args

from jaxtyping import Array, Float, Int

from astrojax.ops.attention import reference

Implementation = Literal["auto", "reference"]


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
        implementation: ``"auto"`` picks the fastest one for the backend.

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
    return reference.attention(query, key, value, causal=causal, segment_ids=segment_ids, scale=scale)
