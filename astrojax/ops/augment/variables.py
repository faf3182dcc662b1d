"""The variables of a climate cube and how each may be disturbed."""

import dataclasses
import math
import zlib
from typing import Literal, get_args

Noise = Literal["additive", "multiplicative", "fixed"]


@dataclasses.dataclass(frozen=True)
class Variable:
    """How one variable may be disturbed.

    Attributes:
        name: CF standard name. Its CRC-32 chooses the variable's noise, which therefore depends neither on the order
            of the variables nor on the group they are in.
        noise: ``"additive"``: ``x + std n``; ``"multiplicative"``, for fields that cannot be negative:
            ``max(0, x (1 + std n))``; ``"fixed"``: moved with the others and otherwise left alone.
        std: standard deviation of the noise, in the variable's unit, or relative where it is multiplicative.
        mirror_sign: -1 for the northward component of a vector, which changes its sign in a mirrored hemisphere.
        maximum: noise takes no value above it: 1 for a fraction.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    name: str
    noise: Noise
    std: float = 0.0
    mirror_sign: int = 1
    maximum: float = math.inf

    def __post_init__(self):
        if self.noise not in get_args(Noise):
            raise ValueError(f"{self.name}: noise={self.noise!r} should be one of {', '.join(get_args(Noise))}")
        if not 0 <= self.std < math.inf or (self.noise == "fixed" and self.std):
            raise ValueError(f"{self.name}: std={self.std} should be 0 where noise is 'fixed', else 0 or more")
        if self.mirror_sign not in (1, -1):
            raise ValueError(f"{self.name}: mirror_sign={self.mirror_sign} should be 1 or -1")

    @property
    def stream(self) -> int:
        return zlib.crc32(self.name.encode())


# Noise is of the size in which two equally good simulations of one climate differ, their interannual variability, or
# below it: it blurs what no observation could tell apart and leaves circulation and budgets alone.
_FIELDS = (
    # K. Monthly means at one place differ by about 0.5 K from year to year in the tropics and by more elsewhere.
    Variable("air_temperature", "additive", 0.5),
    Variable("surface_temperature", "additive", 0.5),
    Variable("sea_surface_temperature", "additive", 0.3),
    # 1. 0.5 K at constant relative humidity: 7 % per K (Clausius and Clapeyron).
    Variable("specific_humidity", "multiplicative", 0.035),
    # 1. Relative humidity and clouds respond to sub-grid choices more than to the state.
    Variable("relative_humidity", "multiplicative", 0.05),
    Variable("cloud_area_fraction_in_atmosphere_layer", "multiplicative", 0.05, maximum=1.0),
    Variable("cloud_area_fraction", "multiplicative", 0.05, maximum=1.0),
    # kg m-2 s-1
    Variable("precipitation_flux", "multiplicative", 0.1),
    # m s-1. Half of the interannual standard deviation near the ground.
    Variable("eastward_wind", "additive", 0.5),
    Variable("northward_wind", "additive", 0.5, mirror_sign=-1),
    # Pa s-1. A tenth of the large-scale ascent in the tropics.
    Variable("lagrangian_tendency_of_air_pressure", "additive", 0.005),
    # m2 s-2. 5 m of height.
    Variable("geopotential", "additive", 50.0),
)

# Their area-weighted global means are budgets: of mass, energy, water and land.
_FIXED = (
    "surface_air_pressure",  # Pa
    "air_pressure_at_mean_sea_level",  # Pa
    "toa_incoming_shortwave_flux",  # W m-2
    "toa_net_downward_shortwave_flux",  # W m-2, `rst`
    "toa_outgoing_longwave_flux",  # W m-2, `rlut`
    "surface_albedo",  # 1
    "land_area_fraction",  # 1
    "sea_ice_area_fraction",  # 1
    "surface_altitude",  # m
)

VARIABLES = {v.name: v for v in (*_FIELDS, *(Variable(name, "fixed") for name in _FIXED))}
