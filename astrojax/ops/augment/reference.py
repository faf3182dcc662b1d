"""Augmentation in plain JAX: the definition the kernels are tested against, and what a CPU runs.

A loop takes one slab after another through the cache: the part of a variable at one level that its moves stay within,
which is two climate times half a year apart. The cube is the loop's carry, so that it is changed in place where the
caller donates it, and nothing larger than a slab is allocated.

XLA's CPU backend compiles such a loop into one function for one thread. Its speed is decided by whether the innermost
loops, over longitude, vectorise: so rolling is a write into a row of twice the length, and indices are loaded rather
than counted. Barriers mark what is worth keeping for a slab instead of computing it again for each of its uses.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from astrojax.ops.augment import noise
from astrojax.ops.augment.effects import Change, Effects, Move


def refusal(cube, interpret: bool) -> str | None:
    """Why this implementation cannot take the cube: it takes every one."""
    del cube, interpret


def augment(
    cube: Float[Array, "b v ct gt lev lat lon"], effects: Effects, *, interpret: bool = False
) -> Float[Array, "b v ct gt lev lat lon"]:
    """See :func:`astrojax.ops.augment.augment`."""
    del interpret
    b, v, *shape = cube.shape
    num_ct, num_gt, num_lev, num_lat, num_lon = shape
    parts = 2 - num_ct % 2  # Halves of the year, if it has them.
    times, lower = num_ct // parts, (num_lat + 1) // 2

    def iota(axis):
        return lax.broadcasted_iota(jnp.int32, (1, 1, parts, 1, num_gt, 1, lower, num_lon), axis)

    lon = jnp.arange(num_lon)
    numbers = noise.position(shape, times * iota(2), iota(4), 0, iota(6), iota(7))

    def step(i, carry):
        cube, rows, lon, numbers = carry
        i, ct = lax.div(i, times), lax.rem(i, times)
        i, lev = lax.div(i, num_lev), lax.rem(i, num_lev)
        sample, variable = lax.div(i, v), lax.rem(i, v)
        move = Move(*effects.moves[sample])
        change = Change(*effects.changes[sample, variable])

        for part in range(parts):
            source = (part + move.half_year) % parts
            at = (sample, variable, source, ct, 0, lev, 0, 0)
            x = lax.dynamic_slice(cube, at, (1, 1, 1, 1, num_gt, 1, num_lat, num_lon)).astype(jnp.float32)
            # A sum of slices vectorises where XLA's own reduction does not.
            mean = sum(x[:, :, :, :, gt : gt + 1] for gt in range(num_gt)) / num_gt
            x = change.smoothed(x, lax.optimization_barrier(mean))
            x = jnp.where(move.mirrored > 0, x[..., ::-1, :], x)
            rows = lax.dynamic_update_slice(rows, x, (0, 0, part, 0, 0, 0, 0, move.shift_lon))
        x = jnp.where(lon < move.shift_lon, rows[..., num_lon:], rows[..., :num_lon])

        def draw():
            number = numbers + noise.position(shape, ct, 0, lev, 0, 0)
            first, second = noise.words(lax.optimization_barrier(noise.mixed(number, effects.keys[sample, variable])))
            return noise.radius(first), second

        def skip():
            return jnp.zeros(numbers.shape, jnp.float32), jnp.zeros(numbers.shape, jnp.uint32)

        radius, word = lax.cond(change.noisy, draw, skip)
        # The second half of the latitudes shares the words of the first, from the pole inwards.
        radius_up, word_up = (z[..., : num_lat - lower, :][..., ::-1, :] for z in (radius, word))
        south, north = x[..., :lower, :], x[..., lower:, :]
        south = change.disturbed(south, noise.variate(radius, word, 0)).astype(cube.dtype)
        north = change.disturbed(north, noise.variate(radius_up, word_up, 1)).astype(cube.dtype)
        cube = lax.dynamic_update_slice(cube, south, (sample, variable, 0, ct, 0, lev, 0, 0))
        cube = lax.dynamic_update_slice(cube, north, (sample, variable, 0, ct, 0, lev, lower, 0))
        return cube, rows, lon, numbers

    rows = jnp.zeros((1, 1, parts, 1, num_gt, 1, num_lat, 2 * num_lon), jnp.float32)
    # The barrier keeps XLA from computing the indices inside the loop.
    lon, numbers = lax.optimization_barrier((lon, numbers))
    out = cube.reshape(b, v, parts, times, num_gt, num_lev, num_lat, num_lon)
    out, *_ = lax.fori_loop(0, b * v * num_lev * times, step, (out, rows, lon, numbers))
    return out.reshape(cube.shape)
