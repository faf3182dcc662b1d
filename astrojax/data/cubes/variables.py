"""The variables a cube may hold: names, units, plausible values and how each is regridded."""

import dataclasses
import math
from typing import Literal

from astrojax.physics.regrid import Method

Group = Literal["levels", "surface", "static"]


@dataclasses.dataclass(frozen=True)
class Variable:
    """One variable of a cube.

    Attributes:
        name: short name, that of CMIP where there is one.
        standard_name: CF standard name, or an empty string.
        units: what the store holds.
        group: ``"levels"`` has a vertical axis, ``"surface"`` has none, ``"static"`` has no time axis either.
        valid: the least and greatest plausible value; the quality report counts what lies outside.
        method: how it is brought to another grid.
        required: a conversion that is not told its variables refuses a file without this one.
    """

    name: str
    standard_name: str
    units: str
    group: Group
    valid: tuple[float, float] = (-math.inf, math.inf)
    method: Method = "bilinear"
    required: bool = False


# K. From a night side whose carbon dioxide would freeze out to a surface of molten rock.
_TEMPERATURE = (50.0, 2000.0)
# m s-1. A few times the speed of sound of a temperate atmosphere.
_WIND = (-1000.0, 1000.0)
# W m-2. 40 000 reach a planet that is 30 times nearer to its star, in flux, than Earth.
_FLUX = (0.0, 40_000.0)
_FRACTION = (0.0, 1.0)

# Conservative where the area mean is a budget or a share of the area: fluxes, masses, masks and fractions.
VARIABLES = {
    variable.name: variable
    for variable in (
        Variable("ta", "air_temperature", "K", "levels", _TEMPERATURE, required=True),
        Variable("hus", "specific_humidity", "1", "levels", _FRACTION, required=True),
        Variable("ua", "eastward_wind", "m s-1", "levels", _WIND, required=True),
        Variable("va", "northward_wind", "m s-1", "levels", _WIND, required=True),
        Variable("cl", "cloud_area_fraction_in_atmosphere_layer", "1", "levels", _FRACTION, "conservative"),
        Variable("ts", "surface_temperature", "K", "surface", _TEMPERATURE, required=True),
        Variable("tas", "air_temperature", "K", "surface", _TEMPERATURE),
        # Pa. From Mars's tenth to three times Venus.
        Variable("ps", "surface_air_pressure", "Pa", "surface", (50.0, 3e7), "conservative", required=True),
        # kg m-2 s-1. 8 m of rain a day would release 230 kW m-2 of latent heat.
        Variable("pr", "precipitation_flux", "kg m-2 s-1", "surface", (0.0, 0.1), "conservative"),
        # kg m-2. An ocean that has boiled away to a depth of 100 m.
        Variable("prw", "atmosphere_mass_content_of_water_vapor", "kg m-2", "surface", (0.0, 1e5), "conservative"),
        Variable("clt", "cloud_area_fraction", "1", "surface", _FRACTION, "conservative"),
        Variable("sic", "sea_ice_area_fraction", "1", "surface", _FRACTION, "conservative"),
        Variable("albs", "surface_albedo", "1", "surface", _FRACTION, "conservative"),
        Variable("rsdt", "toa_incoming_shortwave_flux", "W m-2", "surface", _FLUX, "conservative"),
        Variable("rsut", "toa_outgoing_shortwave_flux", "W m-2", "surface", _FLUX, "conservative"),
        Variable("rst", "toa_net_downward_shortwave_flux", "W m-2", "surface", _FLUX, "conservative", required=True),
        Variable("rlut", "toa_outgoing_longwave_flux", "W m-2", "surface", _FLUX, "conservative", required=True),
        Variable("sftlf", "land_area_fraction", "1", "static", _FRACTION, "conservative"),
        # m. From twice the deepest trench of Earth to above Olympus Mons.
        Variable("orog", "surface_altitude", "m", "static", (-2e4, 3e4)),
    )
}

# What CF calls a flux of mass per area it also has as a depth of liquid water per time: 1 m of it is 1000 kg m-2.
EQUIVALENTS = {"precipitation_flux": ("lwe_precipitation_rate", "m s-1", 1000.0)}

# Parts of the standard names of what is conserved, for variables that are not in the table.
_CONSERVED = ("_flux", "_fraction", "_content", "_amount", "_mask", "albedo")


def other_variable(name: str, standard_name: str, units: str, group: Group) -> Variable:
    """A variable that is not in the table, with the units it has in its first file."""
    conserved = any(part in (standard_name or name) for part in _CONSERVED)
    return Variable(name, standard_name, units, group, method="conservative" if conserved else "bilinear")
