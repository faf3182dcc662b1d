"""Rows of an embedding table, with a gradient that is summed in float32 and goes straight to where the rows live."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from astrojax.parallel.sharding import axes_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def embed(table: Float[Array, "v d"], tokens: Int[Array, "b t"], out_sharding: P) -> Float[Array, "b t d"]:
    """``table[tokens]``; the table may be split over its rows, the tokens over ``b``.

    A frequent token's gradient is the sum of thousands of terms, more than bfloat16 can add up: the gradient is summed
    in float32 whatever the table's dtype.
    """
    return _rows(table, tokens, out_sharding)


def _rows(table, tokens, out_sharding):
    return jax.sharding.reshard(table, P(None, None)).at[tokens].get(out_sharding=out_sharding)


def _forward(table, tokens, out_sharding):
    return _rows(table, tokens, out_sharding), (table, tokens)


def _backward(out_sharding, residuals, grad_btd):
    table, tokens = residuals
    rows = jax.typeof(table).sharding.spec[0]
    batch, grad_spec = jax.typeof(tokens).sharding.spec, jax.typeof(grad_btd).sharding.spec

    @jax.shard_map(in_specs=(batch, grad_spec), out_specs=P(rows, None), check_vma=False)
    def scatter(tokens, grad_btd):
        d = grad_btd.shape[-1]
        grad_vd = jnp.zeros((table.shape[0], d), jnp.float32)
        grad_vd = grad_vd.at[tokens.reshape(-1)].add(grad_btd.reshape(-1, d).astype(jnp.float32))
        summed_over = axes_of(batch[0])
        for axis in axes_of(rows):  # Major axis first: each cuts the rows that the axes before it left.
            if axis in summed_over:
                grad_vd = jax.lax.psum_scatter(grad_vd, axis, tiled=True)
            else:
                size = grad_vd.shape[0] // jax.lax.axis_size(axis)
                grad_vd = jax.lax.dynamic_slice_in_dim(grad_vd, jax.lax.axis_index(axis) * size, size)
        rest = tuple(axis for axis in summed_over if axis not in axes_of(rows))
        return jax.lax.psum(grad_vd, rest).astype(table.dtype)

    return scatter(tokens, grad_btd), None


embed.defvjp(_forward, _backward)
