"""State, hydrostatics and moisture of an ideal, shallow atmosphere.

Every function takes and returns arrays that broadcast against each other; ``gas_constant`` is that of dry air in
J kg-1 K-1, pure nitrogen unless given, temperatures are in K, pressures in Pa, specific humidity is in kg kg-1. What
needs a logarithm or an exponential is computed by JAX.
"""

import jax.numpy as jnp
import numpy as np

from astrojax.physics.constants import (
    GAS_CONSTANT_H2O,
    GAS_CONSTANT_N2,
    KAPPA_DIATOMIC,
    MOLAR_GAS_CONSTANT,
    MOLAR_MASS_CO2,
    MOLAR_MASS_N2,
    REFERENCE_PRESSURE,
    TRIPLE_POINT,
)


def dry_gas_constant(n2, co2):
    """J kg-1 K-1, of a mixture of ``n2`` and ``co2`` by partial pressure in any one unit (Dalton)."""
    return MOLAR_GAS_CONSTANT * (n2 + co2) / (n2 * MOLAR_MASS_N2 + co2 * MOLAR_MASS_CO2)


def virtual_temperature(temperature, specific_humidity, gas_constant=GAS_CONSTANT_N2):
    """K, of dry air as dense as the moist air at the same pressure (Wallace and Hobbs 2006, section 3.1)."""
    return temperature * (1 + (GAS_CONSTANT_H2O / gas_constant - 1) * specific_humidity)


def density(pressure, virtual_temperature, gas_constant=GAS_CONSTANT_N2):
    """kg m-3, from the equation of state."""
    return pressure / (gas_constant * virtual_temperature)


def potential_temperature(temperature, pressure, kappa=KAPPA_DIATOMIC):
    """K, after a dry adiabatic displacement to 1000 hPa."""
    return temperature * jnp.power(REFERENCE_PRESSURE / pressure, kappa)


def heights(virtual_temperature, sigma, sigma_edges, gravity, gas_constant=GAS_CONSTANT_N2):
    """Heights of the layers' midpoints above the surface, ``[..., lev, lat, lon]`` in m.

    The hypsometric equation with one temperature per layer (Simmons and Burridge 1981). The
    geopotential is ``gravity`` times this, plus that of the surface.

    Args:
        virtual_temperature: ``[..., lev, lat, lon]``.
        sigma: ``[lev]``, pressure over surface pressure at the midpoints.
        sigma_edges: ``[lev + 1]``, the same at the limits of the layers.
        gravity: m s-2, a number.
    """
    sigma, sigma_edges = np.asarray(sigma, np.float64), np.asarray(sigma_edges, np.float64)
    scale_height = gas_constant * virtual_temperature / gravity
    # The top layer may reach to zero pressure; nothing lies on top of it.
    thickness = scale_height[..., 1:, :, :] * np.log(sigma_edges[2:] / sigma_edges[1:-1])[:, None, None]
    bases = jnp.cumsum(thickness[..., ::-1, :, :], axis=-3)[..., ::-1, :, :]
    bases = jnp.concatenate([bases, jnp.zeros_like(scale_height[..., :1, :, :])], axis=-3)
    return bases + scale_height * np.log(sigma_edges[1:] / sigma)[:, None, None]


def saturation_vapour_pressure_over_water(temperature):
    """Pa, from 123 to 332 K (Murphy and Koop 2005, Q. J. R. Meteorol. Soc. 131, eq. 10)."""
    log_temperature = jnp.log(temperature)
    return jnp.exp(
        54.842763
        - 6763.22 / temperature
        - 4.210 * log_temperature
        + 0.000367 * temperature
        + jnp.tanh(0.0415 * (temperature - 218.8))
        * (53.878 - 1331.22 / temperature - 9.44523 * log_temperature + 0.014025 * temperature)
    )


def saturation_vapour_pressure_over_ice(temperature):
    """Pa, above 110 K (Murphy and Koop 2005, eq. 7)."""
    return jnp.exp(9.550426 - 5723.265 / temperature + 3.53068 * jnp.log(temperature) - 0.00728332 * temperature)


def saturation_vapour_pressure(temperature):
    """Pa, over ice below the triple point and over water above."""
    over_ice = saturation_vapour_pressure_over_ice(temperature)
    return jnp.where(temperature < TRIPLE_POINT, over_ice, saturation_vapour_pressure_over_water(temperature))


def saturation_specific_humidity(temperature, pressure, gas_constant=GAS_CONSTANT_N2):
    """1, and 1 where water would boil."""
    ratio = gas_constant / GAS_CONSTANT_H2O
    vapour_pressure = jnp.minimum(saturation_vapour_pressure(temperature), pressure)
    return ratio * vapour_pressure / (pressure - (1 - ratio) * vapour_pressure)


def relative_humidity(specific_humidity, temperature, pressure, gas_constant=GAS_CONSTANT_N2):
    """1, the vapour's pressure over that of saturation."""
    ratio = gas_constant / GAS_CONSTANT_H2O
    vapour_pressure = specific_humidity * pressure / (ratio + (1 - ratio) * specific_humidity)
    return vapour_pressure / saturation_vapour_pressure(temperature)


def column_water(specific_humidity, layer_mass):
    """``[..., lat, lon]`` in kg m-2, of ``[..., lev, lat, lon]`` and the layers' mass in kg m-2."""
    return (specific_humidity * layer_mass).sum(-3)


def dry_surface_pressure(surface_pressure, specific_humidity, sigma_edges):
    """Surface pressure less the weight of water vapour, ``[..., lat, lon]`` in Pa.

    Args:
        surface_pressure: ``[..., lat, lon]``.
        specific_humidity: ``[..., lev, lat, lon]``.
        sigma_edges: ``[lev + 1]``, pressure over surface pressure at the limits of the layers.
    """
    return surface_pressure * (1 - (specific_humidity * np.diff(sigma_edges)[:, None, None]).sum(-3))
