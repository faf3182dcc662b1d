"""Augmentation for TPUs, in Pallas on Mosaic: one read and one write of the cube, in place.

A program owns one level of one variable of one sample. Climate times are chosen by their index; latitude and longitude
are permuted by products with matrices of zeros and ones.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from astrojax.ops.augment import noise
from astrojax.ops.augment.effects import Change, Effects, Move
from astrojax.parallel.mesh import backend

# Of a core's vector memory, 128 MiB on v5e and v6e and less on others, what a block may be made to fill.
_VECTOR_MEMORY = 60 * 2**20


def refusal(cube, interpret: bool) -> str | None:
    """Why the kernel cannot take the cube, if it cannot."""
    if not interpret:
        if backend() != "tpu":
            return "the program is not traced for a TPU"
        if cube.dtype == jnp.float16:
            return "TPUs have no float16"
    if (needed := _vector_memory(cube.shape)) > _VECTOR_MEMORY:
        return (
            f"all times of one level need {needed / 2**20:.0f} MiB of vector memory, over {_VECTOR_MEMORY / 2**20:.0f}"
        )
    return None


def _vector_memory(shape: tuple[int, ...]) -> int:
    """Bytes for a block that is read and one that is written, each twice for what is on its way, and some to spare; the
    last two axes fill tiles of 8 x 128."""
    *_, num_ct, num_gt, _, num_lat, num_lon = shape
    block = num_ct * num_gt * pl.cdiv(num_lat, 8) * 8 * pl.cdiv(num_lon, 128) * 128 * 4
    return 4 * block + 8 * 2**20


def augment(
    cube: Float[Array, "b v ct gt lev lat lon"], effects: Effects, *, interpret: bool
) -> Float[Array, "b v ct gt lev lat lon"]:
    """See :func:`astrojax.ops.augment.augment`."""
    b, v, *shape = cube.shape
    num_ct, num_gt, _, num_lat, num_lon = shape
    field = pl.BlockSpec(
        (None, None, num_ct, num_gt, None, num_lat, num_lon),
        lambda sample, variable, lev: (sample, variable, 0, 0, lev, 0, 0),
    )
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    call = pl.pallas_call(
        functools.partial(_kernel, shape=tuple(shape), v=v),
        grid=(b, v, shape[2]),
        in_specs=[scalars, scalars, scalars, field],
        out_specs=field,
        out_shape=jax.ShapeDtypeStruct(cube.shape, cube.dtype),
        input_output_aliases={3: 0},
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_vector_memory(cube.shape)),
        interpret=interpret,
        name="augment",
    )
    # Scalar memory pads the last axis.
    return call(*(x.reshape(-1) for x in effects), cube)


def _kernel(moves_ref, changes_ref, keys_ref, in_ref, out_ref, *, shape, v):
    num_ct, num_gt, _, num_lat, num_lon = shape
    sample, variable, lev = (pl.program_id(axis) for axis in range(3))
    field = sample * v + variable
    move = Move(*(moves_ref[3 * sample + i] for i in range(3)))
    change = Change(*(changes_ref[6 * field + i] for i in range(6)))
    key = (keys_ref[2 * field], keys_ref[2 * field + 1])

    def iota(axis, *plane):
        return lax.broadcasted_iota(jnp.int32, plane, axis)

    to_lat, from_lat = iota(0, num_lat, num_lat), iota(1, num_lat, num_lat)
    flip = from_lat == jnp.where(move.mirrored > 0, num_lat - 1 - to_lat, to_lat)
    from_lon, to_lon = iota(0, num_lon, num_lon), iota(1, num_lon, num_lon)
    to_shifted = from_lon + move.shift_lon
    roll = to_lon == jnp.where(to_shifted < num_lon, to_shifted, to_shifted - num_lon)
    flip, roll = (x.astype(jnp.float32).astype(jnp.bfloat16) for x in (flip, roll))
    lat, lon = iota(0, num_lat, num_lon), iota(1, num_lat, num_lon)
    north = lat >= (num_lat + 1) // 2
    lat = jnp.where(north, num_lat - 1 - lat, lat)

    def step(ct, carry):
        source = ct + move.half_year * (num_ct // 2)
        source = jnp.where(source < num_ct, source, source - num_ct)
        moved = [_permuted(in_ref[source, gt].astype(jnp.float32), flip, roll) for gt in range(num_gt)]
        mean = sum(moved) / num_gt
        for gt, x in enumerate(moved):
            first, second = noise.words(noise.mixed(noise.position(shape, ct, gt, lev, lat, lon), key))
            radius = noise.radius(first)
            variate = jnp.where(north, noise.variate(radius, second, 1), noise.variate(radius, second, 0))
            out_ref[ct, gt] = change.disturbed(change.smoothed(x, mean), variate).astype(out_ref.dtype)
        return carry

    lax.fori_loop(0, num_ct, step, None)


def _permuted(x, rows, columns):
    """``rows @ x @ columns`` byte by byte: a byte is exact in bfloat16, and a missing value (NaN) stays where it is."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    moved = jnp.zeros_like(bits)
    for shift in (0, 8, 16, 24):
        byte = ((bits >> shift) & 255).astype(jnp.float32).astype(jnp.bfloat16)
        byte = jnp.dot(rows, byte, preferred_element_type=jnp.float32).astype(jnp.bfloat16)
        byte = jnp.dot(byte, columns, preferred_element_type=jnp.float32).astype(jnp.int32)
        moved |= byte << shift
    return lax.bitcast_convert_type(moved, jnp.float32)
