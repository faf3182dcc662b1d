"""Optimizer moments in less memory: bfloat16, or 8 bits in blocks with a scale each."""

import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from astrojax.parallel.sharding import axes_of
from astrojax.precision import stochastic_round

Moments = Literal["float32", "bfloat16", "int8"]

BLOCK = 256  # Values that share a scale, at most.


class Quantised(NamedTuple):
    """Values as 8-bit codes (:func:`quantise`).

    Attributes:
        codes: int8 where values have a sign, uint8 where they have none; the shape of the values.
        scales: the largest magnitude of each block, ``[..., blocks]``.
    """

    codes: jax.Array
    scales: jax.Array


class StoredState(NamedTuple):
    """The state of an optimizer with its moments in another format, and the number of updates made."""

    count: jax.Array
    inner: Any


def with_stored_moments(
    optimizer: optax.GradientTransformationExtraArgs, moments: Moments, seed: int
) -> optax.GradientTransformationExtraArgs:
    """``optimizer`` with every moment kept as ``moments`` between updates.

    bfloat16 is rounded stochastically: a moving average that moves by less than half the distance to the next number
    would stand still. Its ``update`` takes ``place``, which tells one layer's draw from another's.
    """

    def init(params):
        return StoredState(jnp.zeros((), jnp.int32), _encode(optimizer.init(params), moments, jax.random.key(seed)))

    def update(updates, state, params=None, *, place=0, **extra):
        updates, inner = optimizer.update(updates, _decode(state.inner), params, **extra)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.count), place)
        return updates, StoredState(state.count + 1, _encode(inner, moments, key))

    return optax.GradientTransformationExtraArgs(init, update)


def quantise(values: Float[Array, "... n"], *, signed: bool) -> Quantised:
    """Dynamic tree quantisation in blocks along the last axis (Dettmers et al. 2022, arXiv 2110.02861, section 1.3).

    Relative to its block's largest magnitude a value lies in one of seven decades (eight without a sign). The code's
    leading one says which, the bits after it divide the decade evenly: the largest values have the finest steps. What
    is not zero never becomes zero, so that no step is divided by a vanished second moment.
    """
    bits = 7 if signed else 8
    blocks = _in_blocks(values)
    scales = jnp.max(jnp.abs(blocks), axis=-1)
    relative = jnp.abs(blocks) / jnp.where(scales == 0, 1, scales)[..., None]
    # Thresholds instead of a logarithm: exact at the decades' borders.
    decade = sum((relative < 10.0**-i).astype(jnp.int32) for i in range(1, bits))
    levels = jnp.left_shift(1, bits - 1 - decade).astype(jnp.float32)
    step = jnp.floor((relative * _power_of_ten(decade, bits) - 0.1) / 0.9 * levels)
    magnitude = levels + jnp.clip(step, 0, levels - 1)
    magnitude = jnp.where(blocks == 0, 0, magnitude)
    codes = jnp.where(blocks < 0, -magnitude, magnitude).astype(jnp.int8 if signed else jnp.uint8)
    return Quantised(jnp.reshape(codes, values.shape, out_sharding=_spec(values)), scales)


def dequantise(quantised: Quantised) -> Float[Array, "... n"]:
    """The values in float32: each the middle of its step."""
    bits = 7 if quantised.codes.dtype == jnp.int8 else 8
    codes = _in_blocks(quantised.codes).astype(jnp.float32)
    magnitude = jnp.abs(codes)
    decade = sum((magnitude < 2**i).astype(jnp.int32) for i in range(1, bits))
    levels = jnp.left_shift(1, bits - 1 - decade).astype(jnp.float32)
    relative = (0.1 + 0.9 * (magnitude - levels + 0.5) / levels) / _power_of_ten(decade, bits)
    values = jnp.sign(codes) * relative * quantised.scales[..., None]
    return jnp.reshape(values, quantised.codes.shape, out_sharding=_spec(quantised.codes))


def _power_of_ten(exponent, bits: int):
    return sum(jnp.where(exponent == i, jnp.float32(10.0**i), 0) for i in range(bits))


def _in_blocks(x):
    """``[..., n]`` as ``[..., blocks, block]``, no block across two devices."""
    spec = _spec(x)
    shards = 1
    for axis in axes_of(spec[-1]):
        shards *= jax.sharding.get_abstract_mesh().shape[axis]
    block = max(size for size in range(1, BLOCK + 1) if (x.shape[-1] // shards) % size == 0)
    return jnp.reshape(x, (*x.shape[:-1], x.shape[-1] // block, block), out_sharding=P(*spec, None))


def _spec(x) -> P:
    return jax.typeof(x).sharding.spec


def _encode(state, moments: Moments, key: jax.Array):
    def encode(path, leaf):
        if leaf.ndim == 0 or leaf.dtype != jnp.float32 or moments == "float32":
            return leaf
        if moments == "int8":
            # Adam's second moment has no sign.
            return quantise(leaf, signed=".nu" not in jax.tree_util.keystr(path))
        return stochastic_round(leaf, jnp.bfloat16, jax.random.fold_in(key, next(counter)))

    counter = itertools.count()
    return jax.tree_util.tree_map_with_path(encode, state)


def _decode(state):
    def decode(leaf):
        if isinstance(leaf, Quantised):
            return dequantise(leaf)
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(decode, state, is_leaf=lambda x: isinstance(x, Quantised))
