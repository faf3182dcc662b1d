"""Thermodynamics against closed forms and tabulated values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.physics import thermodynamics
from astrojax.physics.constants import GAS_CONSTANT_H2O, GAS_CONSTANT_N2
from astrojax.physics.grid import layer_mass

SIGMA_EDGES = np.linspace(0, 1, 41)
SIGMA = (SIGMA_EDGES[1:] + SIGMA_EDGES[:-1]) / 2


def column(values):
    return np.asarray(values)[:, None, None]


def test_gas_constants_of_mixtures():
    assert thermodynamics.dry_gas_constant(1.0, 0.0) == pytest.approx(GAS_CONSTANT_N2)
    # Molar masses add up by partial pressure: half nitrogen, half carbon dioxide is 36.01 g mol-1.
    assert thermodynamics.dry_gas_constant(2e5, 2e5) == pytest.approx(8.314463 / 36.0115e-3, rel=1e-6)


def test_density_is_that_of_both_gases():
    temperature, pressure, q = 290.0, 1e5, 0.02
    moist = thermodynamics.density(pressure, thermodynamics.virtual_temperature(temperature, q))
    partial = moist * temperature * np.array([(1 - q) * GAS_CONSTANT_N2, q * GAS_CONSTANT_H2O])
    assert partial.sum() == pytest.approx(pressure)  # Dalton


def test_isothermal_atmosphere_has_one_scale_height():
    scale_height = GAS_CONSTANT_N2 * 250 / 9.8
    heights = thermodynamics.heights(jnp.full((2, 40, 1, 3), 250.0), SIGMA, SIGMA_EDGES, 9.8)
    assert heights.shape == (2, 40, 1, 3)
    np.testing.assert_allclose(
        heights, np.broadcast_to(-scale_height * np.log(column(SIGMA)), heights.shape), rtol=1e-5
    )


def test_dry_adiabat_cools_by_g_over_heat_capacity():
    temperature = 300 * column(SIGMA) ** (2 / 7)
    np.testing.assert_allclose(thermodynamics.potential_temperature(temperature, 1e5 * column(SIGMA)), 300, rtol=1e-5)
    heights = np.asarray(thermodynamics.heights(jnp.asarray(temperature), SIGMA, SIGMA_EDGES, 9.8))[:, 0, 0]
    lapse_rate = np.polyfit(heights[20:], temperature[20:, 0, 0], 1)[0]
    assert lapse_rate == pytest.approx(-9.8 / (GAS_CONSTANT_N2 * 7 / 2), rel=2e-3)


def test_layers_weigh_the_surface_pressure():
    ps = np.array([[1e5, 7e4]])
    np.testing.assert_allclose(9.8 * layer_mass(ps, SIGMA_EDGES, 9.8).sum(0), ps, rtol=1e-12)


@pytest.mark.parametrize(
    ("over", "temperature", "pressure"),
    [
        # Murphy and Koop 2005, Table C1, and the triple point.
        ("ice", 150, 6.106e-6),
        ("ice", 180, 0.0053975),
        ("ice", 240, 27.272),
        ("ice", 273.16, 611.657),
        ("water", 240, 37.667),
        ("water", 273.16, 611.657),
        ("water", 300, 3536.8),
    ],
)
def test_saturation_vapour_pressures(over, temperature, pressure):
    function = getattr(thermodynamics, f"saturation_vapour_pressure_over_{over}")
    assert float(function(float(temperature))) == pytest.approx(pressure, rel=2e-4)
    if temperature != 273.16:
        chosen = thermodynamics.saturation_vapour_pressure(float(temperature))
        assert (float(chosen) == float(function(float(temperature)))) == ((temperature < 273.16) == (over == "ice"))


@pytest.mark.parametrize(("over", "latent_heat"), [("water", 2.466e6), ("ice", 2.834e6)])
def test_clausius_clapeyron(over, latent_heat):
    """d ln e / dT = L / (R T^2): 6.5 % per K at 288 K over water."""
    temperature = 288.0 if over == "water" else 250.0
    function = getattr(thermodynamics, f"saturation_vapour_pressure_over_{over}")
    slope = jax.grad(lambda t: jnp.log(function(t)))(temperature)
    assert float(slope) == pytest.approx(latent_heat / (GAS_CONSTANT_H2O * temperature**2), rel=5e-3)


def test_saturated_air_has_a_relative_humidity_of_one():
    temperature, pressure = np.array([180.0, 250.0, 280.0, 320.0]), np.array([2e3, 5e4, 1e5, 9e4])
    q = thermodynamics.saturation_specific_humidity(temperature, pressure)
    np.testing.assert_allclose(thermodynamics.relative_humidity(q, temperature, pressure), 1, rtol=1e-5)
    np.testing.assert_allclose(thermodynamics.relative_humidity(0 * q, temperature, pressure), 0)
    assert float(thermodynamics.saturation_specific_humidity(330.0, 1e4)) == pytest.approx(1)


@pytest.mark.parametrize("xp", [np, jnp])
def test_water_and_dry_air_weigh_the_surface_pressure_together(xp):
    rng = np.random.default_rng(0)
    ps, q = xp.asarray(rng.uniform(9e4, 1.1e5, (2, 3, 4))), xp.asarray(rng.uniform(0, 0.02, (2, 40, 3, 4)))
    water = thermodynamics.column_water(q, layer_mass(ps, SIGMA_EDGES, 9.8))
    dry = thermodynamics.dry_surface_pressure(ps, q, SIGMA_EDGES)
    assert isinstance(dry, np.ndarray if xp is np else jnp.ndarray)
    np.testing.assert_allclose(dry + 9.8 * water, ps, rtol=1e-6)
    assert (water > 0).all()
