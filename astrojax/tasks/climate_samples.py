"""How the climate task sees a sample: turned, mirrored, disturbed, and a part of it at a time."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from astrojax.config import Config, Fraction, NonNegativeFloat, Positive
from astrojax.data import boundary, cubes
from astrojax.ops.augment import VARIABLES as AUGMENTED
from astrojax.ops.augment import Policy, Variable, augment, draw
from astrojax.train.task import Batch

# What of a batch has the axes of a cube, and what has one number, or some, for each epoch.
_CUBES = ("levels", "surface", "maps", "insolation")
_OF_EPOCHS = ("parameters", "ages", "pressure", "present")

# The variables of each of a batch's cubes, and how they are moved and disturbed.
Groups = Mapping[str, Sequence[Variable]]


class AugmentConfig(Config):
    """How training samples are disturbed (:mod:`astrojax.ops.augment`).

    Attributes:
        noise, smooth, smooth_bound, roll, mirror: see :class:`astrojax.ops.augment.Policy`.
        parameters: standard deviation of noise on the standardised parameters of each epoch. A network could tell a
            score of planets apart by any of them and learn each by heart.
        months: how many consecutive months of a sample are seen at a time, from anywhere in its year; None: all.
        epochs: how many of its epochs, in their order; None: all. Fewer of both make room for more planets in a batch.
    """

    noise: Fraction = 0.0
    smooth: Fraction = 0.0
    smooth_bound: Fraction = 0.25
    roll: Fraction = 1.0
    mirror: Fraction = 0.5
    parameters: NonNegativeFloat = 0.15
    months: Positive | None = None
    epochs: Positive | None = None

    @property
    def policy(self) -> Policy:
        names = [field.name for field in dataclasses.fields(Policy)]
        return Policy(**{name: getattr(self, name) for name in names})


class Keys(NamedTuple):
    """Of each sample, ``[b]``.

    Attributes:
        draws: for what :func:`astrojax.ops.augment.draw` draws.
        noise: on parameters.
        hidden: what a cube to be completed hides.
        crop: which months and epochs are seen.
    """

    draws: jax.Array
    noise: jax.Array
    hidden: jax.Array
    crop: jax.Array


def keys(batch: Batch) -> Keys:
    """Those that the samples' random words make."""
    made = jax.vmap(lambda words: jax.random.split(jax.random.wrap_key_data(words), 4))(batch["words"])
    return Keys(*(made[:, i] for i in range(4)))


def augmented_groups(level_variables: Sequence[str], surface_variables: Sequence[str]) -> Groups:
    """Boundary maps and starlight are moved with the fields and otherwise left alone."""
    return {
        "levels": [_augmented(name) for name in level_variables],
        "surface": [_augmented(name) for name in surface_variables],
        "maps": [
            Variable(name, "fixed", mirror_sign=-1 if name in boundary.ANTISYMMETRIC else 1) for name in boundary.MAPS
        ],
        "insolation": [AUGMENTED["toa_incoming_shortwave_flux"]],
    }


def disturbed(batch: Batch, config: AugmentConfig, groups: Groups, parameter_std: np.ndarray) -> Batch:
    """The batch as its random words say it is seen this time.

    Args:
        batch: whole cubes.
        config: what may happen to them.
        groups: see :func:`augmented_groups`.
        parameter_std: ``[parameter]``, what noise on parameters is relative to; not finite where there is none.
    """
    random = keys(batch)
    draws = draw(
        random.draws,
        config.policy,
        rotating=batch["rotating"],
        seasons=batch["seasons"],
        num_climate_time=batch["maps"].shape[2],
    )
    moved = {name: augment(batch[name], draws, variables) for name, variables in groups.items()}
    shape = batch["parameters"].shape[1:]
    noise = config.parameters * jax.vmap(lambda key: jax.random.normal(key, shape))(random.noise)
    scaled = noise * np.where(np.isfinite(parameter_std), parameter_std, 0.0).astype(np.float32)
    return _cropped(batch | moved | {"parameters": batch["parameters"] + scaled}, config, random.crop)


def _cropped(batch: Batch, config: AugmentConfig, keys: jax.Array) -> Batch:
    """Some consecutive months, and some epochs in their order, of each sample."""
    if config.months is None and config.epochs is None:
        return batch
    year, history = batch["maps"].shape[2:4]
    months, epochs = config.months or year, config.epochs or history

    def crop(sample, key):
        first_key, epochs_key = jax.random.split(key)
        first = jax.random.randint(first_key, (), 0, year) if months < year else 0
        t = (first + jnp.arange(months)) % year
        g = jnp.sort(jax.random.permutation(epochs_key, history)[:epochs])
        fields = {name: sample[name][:, t][:, :, g] for name in _CUBES}
        return sample | fields | {name: sample[name][g] for name in _OF_EPOCHS}

    return batch | jax.vmap(crop)({name: batch[name] for name in (*_CUBES, *_OF_EPOCHS)}, keys)


def mirrored(batch: Batch, groups: Groups) -> Batch:
    """The planets with their hemispheres exchanged."""
    signs = {name: np.asarray([v.mirror_sign for v in variables], np.float32) for name, variables in groups.items()}
    return batch | {n: jnp.flip(batch[n], -2) * sign.reshape(-1, 1, 1, 1, 1, 1) for n, sign in signs.items()}


def flipped(field: jax.Array, variable: str) -> jax.Array:
    """A field ``[..., lat, lon]`` with hemispheres exchanged."""
    return jnp.flip(field, -2) * _augmented(variable).mirror_sign


def _augmented(name: str) -> Variable:
    """How a variable of the store is disturbed; one that nothing is known of is only moved."""
    standard_name = cubes.VARIABLES[name].standard_name if name in cubes.VARIABLES else name
    return AUGMENTED.get(standard_name, Variable(standard_name, "fixed"))
