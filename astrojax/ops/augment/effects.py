"""What happens to each variable of each sample, as the numbers that every implementation computes with."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from astrojax.ops.augment.draws import Draws
from astrojax.ops.augment.noise import stream_key
from astrojax.ops.augment.variables import Variable


class Effects(NamedTuple):
    """See :class:`Move` and :class:`Change` for the last axes.

    Attributes:
        moves: where each sample's cells go.
        changes: what happens to the values of each of its variables.
        keys: what their noise is made from.
    """

    moves: Int[Array, "b 3"]
    changes: Float[Array, "b v 6"]
    keys: UInt32[Array, "b v 2"]


class Move(NamedTuple):
    """Longitudes moved by ``shift_lon``; flags for flipped latitudes and for half a year."""

    shift_lon: Array
    mirrored: Array
    half_year: Array


class Change(NamedTuple):
    """``x`` becomes ``sign * (x + smoothing (mean - x))``; with noise ``n`` that ``y`` becomes
    ``y + n (absolute + relative y)`` between ``least`` and ``most``."""

    smoothing: Array
    sign: Array
    absolute: Array
    relative: Array
    least: Array
    most: Array

    @property
    def noisy(self):
        return self.absolute + self.relative > 0

    def smoothed(self, x, mean):
        # A missing value (NaN) at one geological time is none at the others, unless they are mixed.
        return self.sign * jnp.where(self.smoothing > 0, x + self.smoothing * (mean - x), x)

    def disturbed(self, x, variate):
        # Nothing is added to an infinite value where there is no noise: not zero times infinity.
        y = jnp.where(self.noisy, x + variate * (self.absolute + self.relative * x), x)
        y = jnp.where(y < self.least, self.least, y)
        return jnp.where(y > self.most, self.most, y)


def effects(draws: Draws, variables: Sequence[Variable], num_climate_time: int, num_lon: int) -> Effects:
    """The effects of ``draws`` on ``variables`` with these numbers of climate times and longitudes."""
    half_year = draws.half_year & (num_climate_time % 2 == 0)
    shift_lon = jnp.floor(draws.turn * num_lon).astype(jnp.int32) % num_lon
    moves = Move(shift_lon, draws.mirrored, half_year)
    noisy_b1 = draws.noise[:, None]

    def column(values, otherwise=0.0, where=noisy_b1):
        return jnp.where(where, jnp.asarray(values, jnp.float32), jnp.float32(otherwise))

    kinds = [v.noise for v in variables]
    changes = Change(
        smoothing=draws.smoothing[:, None] * np.asarray([kind != "fixed" for kind in kinds], np.float32),
        sign=column([v.mirror_sign for v in variables], 1.0, draws.mirrored[:, None]),
        absolute=column([v.std * (v.noise == "additive") for v in variables]),
        relative=column([v.std * (v.noise == "multiplicative") for v in variables]),
        least=column([0.0 if kind == "multiplicative" else -math.inf for kind in kinds], -math.inf),
        most=column([v.maximum if v.noise != "fixed" else math.inf for v in variables], math.inf),
    )
    streams = np.asarray([v.stream for v in variables], np.uint32)
    return Effects(
        jnp.stack([x.astype(jnp.int32) for x in moves], axis=-1),
        jnp.stack(changes, axis=-1),
        stream_key(draws.words[:, None], streams),
    )
