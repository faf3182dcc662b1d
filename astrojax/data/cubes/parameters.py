"""What a file's global attributes say of the planet: star, orbit, atmosphere and epoch."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from astrojax.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: as the store has it.
        units: as the store has it; a day is 86 400 s, Ga are before the present of the planet.
        attribute: the global attribute that holds it.
        factor: what the attribute's value is multiplied with.
        valid: least and greatest allowed value.
        default: what it is where the attribute is missing; None refuses the file.
    """

    name: str
    units: str
    attribute: str
    valid: tuple[float, float]
    factor: float = 1.0
    default: float | None = None


_BAR = 1e5  # Pa

PARAMETERS = (
    Parameter("instellation", "W m-2", "instellation_W_m2", (0.0, 1e6)),
    Parameter("stellar_temperature", "K", "stellar_temperature_K", (1e2, 1e6)),
    Parameter("rotation_period", "day", "rotation_period_days", (1e-3, 1e6)),
    Parameter("orbital_period", "day", "orbital_period_days", (1e-3, 1e8)),
    Parameter("obliquity", "degree", "obliquity_deg", (0.0, 180.0), default=0.0),
    Parameter("eccentricity", "1", "eccentricity", (0.0, 1.0 - 1e-9), default=0.0),
    Parameter("tidally_locked", "1", "tidally_locked", (0.0, 1.0), default=0.0),
    # Degrees east; 0 on a planet that is not tidally locked and has no such place.
    Parameter("substellar_longitude", "degree", "substellar_longitude_deg", (-180.0, 360.0), default=0.0),
    Parameter("radius", "m", "radius_m", (1e5, 1e9)),
    Parameter("gravity", "m s-2", "gravity_m_s2", (1e-2, 1e3)),
    Parameter("pN2", "Pa", "pN2_bar", (0.0, 1e9), _BAR),
    Parameter("pCO2", "Pa", "pCO2_bar", (0.0, 1e9), _BAR),
    Parameter("dry_gas_constant", "J kg-1 K-1", "dry_gas_constant_J_kg_K", (1.0, 1e4)),
    Parameter("epoch_age", "Ga", "epoch_age_Ga", (0.0, 1e2)),
    Parameter("mixed_layer_depth", "m", "mixed_layer_depth_m", (0.0, 1e5), default=0.0),
)
PARAMETER_NAMES = tuple(parameter.name for parameter in PARAMETERS)


def planet_parameters(path: Path, attributes: Mapping[str, Any]) -> np.ndarray:
    """``[parameter]`` float64, in the order and units of ``PARAMETERS``.

    Args:
        path: the file, for errors.
        attributes: its global attributes.

    Raises:
        RequestError: an attribute is missing, not a number or out of range.
    """
    values: dict[str, float] = {}
    for parameter in PARAMETERS:
        value = attributes.get(parameter.attribute, parameter.default)
        if parameter.name == "substellar_longitude" and not values["tidally_locked"]:
            value = parameter.default
        if value is None:
            raise RequestError(
                f"{path}: no global attribute {parameter.attribute} ({parameter.name}, {parameter.units})"
            )
        try:
            number = float(value) * parameter.factor
        except (TypeError, ValueError):
            number = math.nan
        low, high = parameter.valid
        if not low <= number <= high:
            raise RequestError(
                f"{path}: global attribute {parameter.attribute}={value} should be a number that gives "
                f"{parameter.name} between {low:g} and {high:g} {parameter.units}"
            )
        values[parameter.name] = number
    return np.asarray(list(values.values()))
