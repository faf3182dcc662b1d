"""Augmentation for NVIDIA GPUs from Ampere on, in Pallas on Triton: one read and one write of the cube, in place.

A program owns cells that the moves permute among themselves: two climate times half a year apart, latitudes and their
mirror images, and all geological times and longitudes. It loads them all before it stores any. Rolling, mirroring and
the half year are the addresses it loads from.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from astrojax.ops.augment import noise
from astrojax.ops.augment.effects import Change, Effects, Move
from astrojax.ops.gpu import below_ampere

# Threads of a program. Each has one cell of a plane (latitude, longitude) where rows are not longer than the most of
# them, so that loads, whose addresses are not aligned, and stores need not have different threads for one cell.
_THREADS, _MAX_THREADS, _WARP = 128, 512, 32


def refusal(cube, interpret: bool) -> str | None:
    """Why the kernel cannot take the cube, if it cannot."""
    del cube
    return None if interpret else below_ampere()


def augment(
    cube: Float[Array, "b v ct gt lev lat lon"], effects: Effects, *, interpret: bool
) -> Float[Array, "b v ct gt lev lat lon"]:
    """See :func:`astrojax.ops.augment.augment`."""
    b, v, *shape = cube.shape
    num_ct, _, num_lev, num_lat, num_lon = shape
    lower, row = (num_lat + 1) // 2, pl.next_power_of_2(num_lon)
    rows = min(max(1, _THREADS // row), pl.next_power_of_2(lower))
    threads = min(max(rows * row, _WARP), _MAX_THREADS)

    def per_variable(*block):
        return pl.BlockSpec((None, None, *block), lambda lat, time, field: (field // v, field % v, *(0 for _ in block)))

    call = pl.pallas_call(
        functools.partial(_kernel, shape=tuple(shape), rows=rows, interpret=interpret),
        grid=(pl.cdiv(lower, rows), (num_ct + 1) // 2 * num_lev, b * v),
        in_specs=[
            pl.BlockSpec((None, 3), lambda lat, time, field: (field // v, 0)),
            per_variable(6),
            per_variable(2),
            per_variable(*shape),
        ],
        out_specs=per_variable(*shape),
        out_shape=jax.ShapeDtypeStruct(cube.shape, cube.dtype),
        input_output_aliases={3: 0},
        compiler_params=plgpu.CompilerParams(num_warps=threads // _WARP, num_stages=1),
        cost_estimate=pl.CostEstimate(
            flops=50 * cube.size, transcendentals=cube.size // 2, bytes_accessed=2 * cube.size * cube.dtype.itemsize
        ),
        interpret=interpret,
        name="augment",
    )
    return call(*effects, cube)


def _kernel(moves_ref, changes_ref, keys_ref, _, cube_ref, *, shape, rows, interpret):
    num_ct, num_gt, num_lev, num_lat, num_lon = shape
    half_year = (num_ct + 1) // 2
    time = pl.program_id(1)
    ct, lev = lax.div(time, num_lev), lax.rem(time, num_lev)
    move = Move(*(moves_ref[i] for i in range(3)))
    change = Change(*(changes_ref[i] for i in range(6)))
    key = (keys_ref[0], keys_ref[1])

    plane = (rows, pl.next_power_of_2(num_lon))
    lat = pl.program_id(0) * rows + lax.broadcasted_iota(jnp.int32, plane, 0)
    lon = lax.broadcasted_iota(jnp.int32, plane, 1)
    inside = (lat < (num_lat + 1) // 2) & (lon < num_lon)
    from_lon = lon - move.shift_lon
    from_lon = jnp.where(from_lon < 0, from_lon + num_lon, from_lon)

    def smoothed(half, north):
        """What moves to one half of the year and of the latitudes, for each geological time."""
        source_ct = ct + half_year * (half ^ move.half_year)
        source_lat = jnp.where(move.mirrored != north, num_lat - 1 - lat, lat)
        mask = inside & (source_ct < num_ct)
        places = [cube_ref.at[source_ct, gt, lev, source_lat, from_lon] for gt in range(num_gt)]
        xs = [plgpu.load(place, mask=mask, other=0).astype(jnp.float32) for place in places]
        mean = sum(xs) / num_gt
        return [change.smoothed(x, mean) for x in xs]

    halves = (0, 1) if num_ct > 1 else (0,)
    cells = {place: smoothed(*place) for place in itertools.product(halves, (0, 1))}
    if not interpret:
        plgpu.debug_barrier()  # No warp overwrites what another has yet to load.
    for half, gt in itertools.product(halves, range(num_gt)):
        to_ct = ct + half_year * half
        first, second = noise.words(noise.mixed(noise.position(shape, to_ct, gt, lev, lat, lon), key))
        radius = noise.radius(first)
        for north in (0, 1):
            to_lat = num_lat - 1 - lat if north else lat
            # The row at the equator is its own mirror image.
            mask = inside & (to_ct < num_ct) & ((to_lat != lat) if north else True)
            y = change.disturbed(cells[half, north][gt], noise.variate(radius, second, north))
            plgpu.store(cube_ref.at[to_ct, gt, lev, to_lat, lon], y.astype(cube_ref.dtype), mask=mask)
