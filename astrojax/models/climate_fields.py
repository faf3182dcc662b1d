"""From what the network leaves, numbers of order one, to physical fields.

Each variable has a link that keeps it where physics has it: fractions between 0 and 1, absorbed starlight between
nothing and all of what arrives, humidity as a share of what the air at its predicted temperature can hold. A network
then has to learn an albedo or a relative humidity, which vary far less between planets than the fields do.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from astrojax.physics.thermodynamics import saturation_specific_humidity

Link = Literal["linear", "fraction", "positive", "absorbed", "humidity", "pressure"]

_LINKS: dict[str, Link] = {
    "cl": "fraction",
    "clt": "fraction",
    "sic": "fraction",
    "albs": "fraction",
    "pr": "positive",
    "prw": "positive",
    "rst": "absorbed",
    "hus": "humidity",
    "ps": "pressure",
}

# Where a link starts, so that a network that says nothing gives a plausible planet: two thirds of the starlight
# absorbed, relative humidity around one half.
_ABSORBED_AT_ZERO, _HUMIDITY_AT_ZERO = 0.7, -0.4


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """The training planets' statistics of one variable.

    Attributes:
        mean: ``[lev]``, over area, time and planets.
        std: over everything.
    """

    mean: np.ndarray
    std: float

    @property
    def mean_zyx(self) -> np.ndarray:
        return np.asarray(self.mean, np.float32)[:, None, None]


def link_of(variable: str) -> Link:
    """How a variable is computed; ``"linear"``, mean and standard deviation, where nothing else is known of it."""
    return _LINKS.get(variable, "linear")


def physical_fields(
    raw: Mapping[str, Float[Array, "b t g z y x"]],
    scales: Mapping[str, Scale],
    *,
    insolation: Float[Array, "b t g 1 y x"],
    pressure: Float[Array, "b g"],
    lev: np.ndarray,
) -> dict[str, Float[Array, "b t g z y x"]]:
    """Fields in the units of the store.

    Args:
        raw: what the network leaves for each variable; levels of one for surface fields.
        scales: the statistics of each variable.
        insolation: at the top of the atmosphere, W m-2.
        pressure: nominal at the surface, Pa.
        lev: ``[z]``, sigma.

    Returns:
        The same variables. Humidity needs ``ta`` among them; without it, it is linear.
    """
    pressure = pressure[:, None, :, None, None, None]
    fields = {}
    for name, x in raw.items():
        scale, link = scales[name], link_of(name)
        if link == "humidity" and "ta" in raw:
            continue
        if link == "fraction":
            mean = np.clip(scale.mean_zyx, 0.02, 0.98)
            fields[name] = jax.nn.sigmoid(x + np.log(mean / (1 - mean)))
        elif link == "positive":
            fields[name] = scale.std * jax.nn.softplus(x)
        elif link == "absorbed":
            fields[name] = insolation * jax.nn.sigmoid(x + _ABSORBED_AT_ZERO)
        elif link == "pressure":
            # A tenth of the nominal pressure is what weather and moderate mountains do.
            fields[name] = pressure * jnp.exp(0.1 * x)
        else:
            fields[name] = scale.mean_zyx + scale.std * x
    if "hus" in raw and "hus" not in fields:
        # No gradient through saturation: errors of humidity are no reason to change the temperature.
        temperature = jax.lax.stop_gradient(jnp.clip(fields["ta"], 100.0, 400.0))
        saturation = saturation_specific_humidity(temperature, np.asarray(lev, np.float32)[:, None, None] * pressure)
        fields["hus"] = jax.nn.softplus(raw["hus"] + _HUMIDITY_AT_ZERO) * saturation
    return {name: fields[name] for name in raw}
