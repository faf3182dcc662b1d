"""JAX's splash attention for TPUs, behind the project's own conventions."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jaxtyping import Array, Float

from astrojax.ops.attention.call import Call
from astrojax.ops.attention.shards import on_shards, split_refusal
from astrojax.ops.attention.visibility import Layout, Reach
from astrojax.parallel.mesh import backend

_LANES = 128

# The larger a tile, the less is read twice; 512 x 512 scores in float32 take a fraction of the vector memory.
_TILES = (512, 256, 128)


def refusal(call: Call) -> str | None:
    """Why splash attention cannot take the call, if it cannot."""
    if call.mask is not None:
        return "it takes no mask"
    if call.layout.positions is not None:
        return "it takes no positions"
    if call.reach.prefix:
        return "it knows no prefix"
    if not call.never_empty:
        return "it leaves queries that may read no key undefined"
    if call.query.dtype == jnp.float16:
        return "TPUs have no float16"
    for name, x in (("queries", call.query), ("keys", call.key)):
        if x.shape[1] % _LANES:
            return f"it takes multiples of {_LANES} {name}, not {x.shape[1]}"
    if not call.interpret and backend() != "tpu":
        return "the program is not traced for a TPU"
    return split_refusal(call)


def attention(call: Call) -> Float[Array, "b t n h"]:
    """See :func:`astrojax.ops.attention.attention`."""
    kernel = functools.partial(_attention, call.reach, call.interpret)
    # The kernel scales nothing.
    query = (call.query.astype(jnp.float32) * call.scale).astype(call.query.dtype)
    (out,) = on_shards(kernel, query, (query, call.key, call.value, call.layout), ("btnh",))
    return out


def _attention(reach: Reach, interpret: bool, query, key, value, layout: Layout):
    """One device's part."""
    (b, t, n, h), (_, s, k, _) = query.shape, key.shape
    mask = splash_attention.MultiHeadMask([_mask(reach, t, s)] * (n // k))
    kernel = splash_attention.make_splash_mqa(
        mask, block_sizes=_block_sizes(t, s), head_shards=1, q_seq_shards=1, interpret=interpret
    )
    segments = None
    if layout.query_segments is not None:
        segments = splash_attention.SegmentIds(layout.query_segments, layout.key_segments)
    # One key head with its queries at a time: the kernel pads heads, and its logarithms of sums, to 128 lanes. A TPU
    # core works on one program after the other anyway.
    query_kbgth = query.reshape(b, t, k, n // k, h).transpose(2, 0, 3, 1, 4)
    key_kbsh, value_kbsh = (jnp.moveaxis(x, 2, 0) for x in (key, value))
    out_kbgth = jax.lax.map(lambda xs: jax.vmap(kernel)(*xs, segments), (query_kbgth, key_kbsh, value_kbsh))
    return (out_kbgth.transpose(1, 3, 0, 2, 4).reshape(b, t, n, h),)


def _mask(reach: Reach, t: int, s: int) -> splash_attention.Mask:
    if reach.window is not None:
        back = reach.window - 1
        return splash_attention.LocalMask((t, s), (back, 0 if reach.causal else back), offset=s - t)
    return splash_attention.CausalMask((t, s), offset=s - t) if reach.causal else splash_attention.FullMask((t, s))


def _block_sizes(t: int, s: int) -> splash_attention.BlockSizes:
    q, kv = (next(tile for tile in _TILES if length % tile == 0) for length in (t, s))
    return splash_attention.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )
