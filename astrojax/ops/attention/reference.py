"""Attention in plain JAX: the definition every kernel is tested against."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int


def attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k h"],
    *,
    causal: bool,
    segment_ids: Int[Array, "b t"] | None,
    scale: float,
) -> Float[Array, "b t n h"]:
    """See :func:`astrojax.ops.attention.attention`."""
    t, s = query.shape[1], key.shape[1]
    mask_bts = attention_mask(jnp.arange(t) + s - t, jnp.arange(s), causal, segment_ids, segment_ids)
    return masked_attention(query, key, value, mask_bts, scale)


def masked_attention(query, key, value, mask_bts: Bool[Array, "#b t s"] | None, scale: float):
    """Attention to the keys that ``mask_bts`` allows. Keys and values are never repeated for their query group."""
    b, t, n, h = query.shape
    k = key.shape[2]
    g = n // k
    batch, _, heads, _ = jax.typeof(query).sharding.spec
    # Query head i reads key/value head i // g. The g queries of a key head become g * t rows of one product, so that
    # keys are not repeated; x is that joint axis.
    query_btkgh = jnp.reshape(query, (b, t, k, g, h), out_sharding=P(batch, None, heads, None, None))
    query_bkgth = jnp.transpose(query_btkgh, (0, 2, 3, 1, 4))
    query_bkxh = jnp.reshape(query_bkgth, (b, k, g * t, h), out_sharding=P(batch, heads, None, None))
    # float32: the softmax sums over all keys and bfloat16 keeps 8 significant bits.
    scores_bkxs = jnp.einsum("bkxh,bskh->bkxs", query_bkxh, key, preferred_element_type=jnp.float32) * scale
    if mask_bts is not None:
        bias_bxs = jnp.tile(jnp.where(mask_bts, 0.0, jnp.finfo(jnp.float32).min), (1, g, 1))
        scores_bkxs += bias_bxs[:, None]
    weights_bkxs = jax.nn.softmax(scores_bkxs, axis=-1).astype(value.dtype)
    out_bkxh = jnp.einsum("bkxs,bskh->bkxh", weights_bkxs, value)
    out_bkgth = jnp.reshape(out_bkxh, (b, k, g, t, h), out_sharding=P(batch, heads, None, None, None))
    out_btkgh = jnp.transpose(out_bkgth, (0, 3, 1, 2, 4))
    return jnp.reshape(out_btkgh, (b, t, n, h), out_sharding=P(batch, None, heads, None))


def attention_mask(
    query_places: Int[Array, "t"],
    key_places: Int[Array, "s"],
    causal: bool,
    query_segments: Int[Array, "b t"] | None,
    key_segments: Int[Array, "b s"] | None,
) -> Bool[Array, "#b t s"] | None:
    """Which keys each query may read, or None where all may be read."""
    mask_bts = (query_places[:, None] >= key_places)[None] if causal else None
    if query_segments is not None:
        same_bts = query_segments[:, :, None] == key_segments[:, None, :]
        mask_bts = same_bts if mask_bts is None else jnp.logical_and(mask_bts, same_bts)
    return mask_bts
