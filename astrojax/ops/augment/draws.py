"""What happens to each sample, drawn from a key."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How often a sample is disturbed in each way.

    Attributes:
        noise: probability of noise.
        smooth: probability of smoothing along geological time.
        smooth_bound: the smoothed sample is ``(1 - w) x + w mean(x)``, ``w`` uniform below this bound.
        roll: probability of a new prime meridian, for planets that rotate with respect to their star.
        mirror: probability that the hemispheres change places.

    Raises:
        ValueError: a field is not in [0, 1]; the message names it and its value.
    """

    noise: float = 0.5
    smooth: float = 0.5
    smooth_bound: float = 0.25
    roll: float = 1.0
    mirror: float = 0.5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not 0 <= (value := getattr(self, field.name)) <= 1:
                raise ValueError(f"policy: {field.name}={value} should lie in [0, 1]")


class Draws(NamedTuple):
    """What happens to each sample of a batch, the same in every group of its variables.

    Attributes:
        turn: by what part of a full turn everything moves eastward, in [0, 1); a grid moves by whole cells.
        mirrored: whether latitude is flipped.
        half_year: whether climate time is shifted by half of its length, where that is even.
        smoothing: weight of the mean over geological time.
        noise: whether there is noise.
        words: what the noise is made from.
    """

    turn: Float[Array, "b"]
    mirrored: Bool[Array, "b"]
    half_year: Bool[Array, "b"]
    smoothing: Float[Array, "b"]
    noise: Bool[Array, "b"]
    words: UInt32[Array, "b 2"]


def draw(
    key: Key[Array, ""] | Key[Array, "b"],
    policy: Policy,
    *,
    rotating: Bool[Array, "b"],
    seasons: Bool[Array, "b"],
    num_climate_time: int,
) -> Draws:
    """Draws what happens to each sample; sample ``i`` gets the same whatever the batch size and the mesh.

    Args:
        key: one for each step, or one for each sample.
        policy: how often each thing happens.
        rotating: whether the planet rotates with respect to its star. A tidally locked planet is never rolled: its
            substellar point is where the insolation says.
        seasons: whether it has seasons: those of a mirrored hemisphere are half a year apart.
        num_climate_time: number of climate times, which cover one year; 1 for annual means.

    Raises:
        ValueError: half a year is no whole number of climate times, and a mirrored sample may need one.
    """
    may_shift = policy.mirror > 0 and (isinstance(seasons, jax.core.Tracer) or bool(np.any(np.asarray(seasons))))
    if may_shift and num_climate_time > 1 and num_climate_time % 2:
        raise ValueError(f"{num_climate_time=} should be even: a mirrored planet's seasons are half a year apart")

    def one(key):
        chances, strength, turn, words = jax.random.split(key, 4)
        return (
            jax.random.uniform(chances, (4,)),
            jax.random.uniform(strength),
            jax.random.uniform(turn),
            jax.random.bits(words, (2,)),
        )

    rotating, seasons = jnp.asarray(rotating, bool), jnp.asarray(seasons, bool)
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rotating.shape[0]))
    chances, strength, turn, words = jax.vmap(one)(keys)
    noise, smooth, roll, mirrored = (
        chances[:, i] < p for i, p in enumerate((policy.noise, policy.smooth, policy.roll, policy.mirror))
    )
    return Draws(
        turn=jnp.where(roll & rotating, turn, 0.0),
        mirrored=mirrored,
        half_year=mirrored & seasons,
        smoothing=jnp.where(smooth, policy.smooth_bound * strength, 0.0),
        noise=noise,
        words=words,
    )
