"""Attention in plain JAX: the definition every kernel is tested against."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from astrojax.ops.attention.call import Call
from astrojax.ops.attention.visibility import visible_pairs


def refusal(call: Call) -> str | None:
    """Why this implementation cannot take the call: it takes every one."""
    del call


def attention(call: Call) -> Float[Array, "b t n h"]:
    """See :func:`astrojax.ops.attention.attention`. The scores of all pairs exist at once."""
    t, s = call.query.shape[1], call.key.shape[1]
    pairs_bts = visible_pairs(call.reach, call.layout, t, s)
    return masked_attention(
        call.query, call.key, call.value, pairs_bts, call.mask, call.scale, never_empty=call.never_empty
    )


def masked_attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k h"],
    pairs_bts: Bool[Array, "#b t s"] | None,
    mask_bnts: Array | None,
    scale: float,
    *,
    never_empty: bool,
) -> Float[Array, "b t n h"]:
    """Attention to the keys that both masks allow; a query that may read none gets zeros. Keys and values are never
    repeated for their query group.

    Args:
        query: queries.
        key: keys.
        value: values.
        pairs_bts: which pairs may meet.
        mask_bnts: one more mask, bool or additive (``-inf`` or the lowest number of its dtype forbids), whose axes
            have the size of the scores' or 1.
        scale: factor on the scores.
        never_empty: every query may read some key.
    """
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
    if pairs_bts is not None:
        scores_bkxs += _bias(jnp.tile(pairs_bts, (1, g, 1)))[:, None]
    if mask_bnts is not None:
        mask_bkxs = _for_scores(mask_bnts, batch, heads, k, g, t)
        if mask_bkxs.dtype == jnp.bool:
            scores_bkxs += _bias(mask_bkxs)
        else:
            # Beyond every score, so that what is forbidden stays so whatever is added to it.
            scores_bkxs = jnp.maximum(scores_bkxs + mask_bkxs.astype(jnp.float32), _FORBIDDEN)
            scores_bkxs += _bias(mask_bkxs > jnp.finfo(mask_bkxs.dtype).min)
    weights_bkxs = jax.nn.softmax(scores_bkxs, axis=-1)
    if not never_empty:
        # The softmax of a row without keys is uniform.
        weights_bkxs *= jnp.max(scores_bkxs, axis=-1, keepdims=True) > _FORBIDDEN / 2
    out_bkxh = jnp.einsum("bkxs,bskh->bkxh", weights_bkxs.astype(value.dtype), value)
    out_bkgth = jnp.reshape(out_bkxh, (b, k, g, t, h), out_sharding=P(batch, heads, None, None, None))
    out_btkgh = jnp.transpose(out_bkgth, (0, 3, 1, 2, 4))
    return jnp.reshape(out_btkgh, (b, t, n, h), out_sharding=P(batch, None, heads, None))


# A score no product reaches: a quarter of the lowest float32, since three of them may meet and must not overflow.
_FORBIDDEN = float(jnp.finfo(jnp.float32).min) / 4


def _bias(allowed: Bool[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(allowed, 0.0, _FORBIDDEN)


def _for_scores(mask_bnts, batch, heads, k: int, g: int, t: int):
    """``[#b, #n, #t, #s]`` as ``[#b, #k, #x, #s]``, split over devices as the scores are."""
    b, n, rows, s = mask_bnts.shape
    batch, heads = batch if b > 1 else None, heads if n > 1 else None
    mask_bnts = jax.sharding.reshard(mask_bnts, P(batch, heads, None, None))
    if n == 1 and rows == 1:
        return mask_bnts
    if n == 1:
        return jnp.tile(mask_bnts, (1, 1, g, 1))
    mask_bkgts = jnp.reshape(mask_bnts, (b, k, g, rows, s), out_sharding=P(batch, heads, None, None, None))
    mask_bkgts = jnp.broadcast_to(mask_bkgts, (b, k, g, t, s), out_sharding=P(batch, heads, None, None, None))
    return jnp.reshape(mask_bkgts, (b, k, g * t, s), out_sharding=P(batch, heads, None, None))
