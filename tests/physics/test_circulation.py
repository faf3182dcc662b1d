"""The linear response to heating, and the numbers it depends on, against closed forms."""

import numpy as np
import pytest

from astrojax.physics.circulation import coriolis_parameter, linear_response, rotation_number
from astrojax.physics.grid import area_mean, regular


def day_and_night(grid):
    lat, lon = np.meshgrid(np.deg2rad(grid.lat), np.deg2rad(grid.lon), indexing="ij")
    return np.cos(lat) * np.cos(lon), lat, lon


def test_the_coriolis_parameter_is_twice_the_spin_about_the_vertical():
    np.testing.assert_allclose(coriolis_parameter(0.5, np.asarray([-90.0, 0.0, 30.0])), np.pi * np.asarray([-8, 0, 4]))


def test_the_rotation_number_is_that_of_a_gravity_wave():
    temperature, days, radius = 255.0, 2.0, 6.371e6
    speed = np.sqrt(2 / 7 * 8.31446261815324 / 28.014e-3 * temperature)
    expected = 2 * (2 * np.pi / (days * 86_400)) * radius / speed
    assert rotation_number(temperature, days, radius) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("damping", [0.1, 1.0])
def test_without_rotation_air_flows_from_day_to_night(damping):
    """A spherical harmonic of degree l is answered by itself: h = d Q / (d^2 + l (l + 1)), and wind down its slope."""
    errors = []
    for size in (16, 32):
        grid = regular(size, 2 * size)
        heating, lat, lon = day_and_night(grid)
        found = linear_response(7 + heating, 0.0, damping, grid)  # The mean drives nothing.
        thickness = damping / (damping**2 + 2)
        expected = (thickness / damping * np.sin(lon), thickness / damping * np.sin(lat) * np.cos(lon))
        errors.append(max(np.abs(f - e).max() for f, e in zip(found[:2], expected, strict=True)))
        np.testing.assert_allclose(found.thickness, thickness * heating, atol=0.02)
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 2


def test_a_rotating_planets_flow_obeys_its_equations():
    grid, rotation, damping = regular(90, 180), 4.0, 0.3
    heating, lat, lon = day_and_night(grid)
    u, v, h = linear_response(heating, rotation, damping, grid)
    f, cos = rotation * np.sin(lat), np.cos(lat)
    dlat, dlon = lat[1, 0] - lat[0, 0], lon[0, 1] - lon[0, 0]

    def east(x):
        return (np.roll(x, -1, 1) - np.roll(x, 1, 1)) / (2 * dlon * cos)

    def north(x):
        return np.gradient(x, dlat, axis=0)

    inner = slice(8, -8)  # Second-order differences are coarse beside a pole.
    for residual in (
        damping * u - f * v + east(h),
        damping * v + f * u + north(h),
        damping * h + east(u) + north(v * cos) / cos - heating,
    ):
        assert np.abs(residual[inner]).max() < 0.01 * np.abs(heating).max()
    assert abs(area_mean(h, grid)) < 1e-10
    # The same on both sides of the equator, and in every row that is turned.
    np.testing.assert_allclose(v, -v[::-1], atol=1e-10)
    turned = linear_response(np.roll(heating, 30, 1), rotation, damping, grid)
    np.testing.assert_allclose(turned.eastward, np.roll(u, 30, 1), atol=1e-10)


def test_fast_rotation_keeps_heat_where_it_falls():
    """Geostrophic wind blows along the rows, and a row can only cool: h = Q / d."""
    grid = regular(32, 64)
    heating = np.broadcast_to(np.cos(np.deg2rad(grid.lat))[:, None] ** 2, (32, 64))
    found = linear_response(heating, 1e3, 0.2, grid)
    expected = (heating - area_mean(heating, grid)) / 0.2
    polewards = np.abs(grid.lat) > 20
    np.testing.assert_allclose(found.thickness[polewards], expected[polewards], rtol=0.02, atol=0.02)
    assert np.abs(found.northward[polewards]).max() < 1e-3
