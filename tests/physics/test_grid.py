"""Cells, areas and means."""

import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.physics.grid import Grid, area_mean, gaussian, layer_mass, mass_mean, regular

SIGMA_EDGES = np.array([0.0, 0.1, 0.4, 1.0])


@pytest.mark.parametrize(
    "grid", [regular(7, 12), gaussian(32, 64), Grid.of_centres([-90, -10, 30, 90], [10, 130, 250])]
)
def test_cells_cover_the_sphere(grid):
    assert grid.areas.shape == (len(grid.lat), len(grid.lon))
    assert grid.areas.min() > 0
    np.testing.assert_allclose(grid.areas.sum(), 4 * np.pi, rtol=1e-14)
    np.testing.assert_allclose(grid.areas.sum(axis=1), 4 * np.pi * grid.lat_weights, rtol=1e-14)


def test_areas_of_an_octant_grid():
    np.testing.assert_allclose(Grid.of_centres([-45, 45], [0, 90, 180, 270]).areas, np.pi / 2, rtol=1e-14)


def test_gaussian_latitudes_are_recognised_in_float32_and_integrate_polynomials():
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(8)[0]))
    grid = Grid.of_centres(lat.astype(np.float32), np.arange(0, 360, 22.5))
    np.testing.assert_allclose(grid.lat, lat, atol=1e-12)
    sin_lat = np.sin(np.deg2rad(grid.lat))
    for power in range(0, 16, 2):  # Exact up to degree 15, where a grid of midpoints has an error of percents.
        field = np.broadcast_to(sin_lat[:, None] ** power, (8, 16))
        np.testing.assert_allclose(area_mean(field, grid), 1 / (power + 1), rtol=1e-12)


def test_other_latitudes_are_bounded_by_midpoints():
    grid = Grid.of_centres([-60, 0, 30], [0, 180])
    np.testing.assert_array_equal(grid.lat_edges, [-90, -30, 15, 90])
    np.testing.assert_array_equal(grid.lon_edges, [-90, 90, 270])


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        ([30, 0, -30], [0, 180], "lat should ascend: 30.0 is followed by 0.0"),
        ([0, 95], [0, 180], "95.0 should lie within"),
        ([0, np.nan], [0, 180], "lat should be a list of finite numbers"),
        ([-30, 30], [0, 90, 180], "lon should go around the circle in 3 steps"),
        ([-30, 30], [180, 0], "lon should ascend"),
    ],
)
def test_other_coordinates_are_refused(lat, lon, message):
    with pytest.raises(ValueError, match=message):
        Grid.of_centres(lat, lon)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lat_edges": [-80, 0, 90]}, "lat_edges from -80.0"),
        ({"lat_edges": [-90, 50, 90]}, r"lat: \[45.\] outside"),
        ({"lat_edges": [-90, -50, 50, 90]}, "2 centres need 3 edges, not 4"),
        ({"lon_edges": [0, 180, 350]}, "lon_edges from 0.0 to 350.0"),
    ],
)
def test_edges_that_do_not_fit_are_refused(change, message):
    whole = {"lat": [-45, 45], "lon": [90, 270], "lat_edges": [-90, 0, 90], "lon_edges": [0, 180, 360]}
    Grid(**whole)
    with pytest.raises(ValueError, match=message):
        Grid(**(whole | change))


@pytest.mark.parametrize("xp", [np, jnp])
def test_means_are_those_of_the_weights(xp):
    grid, rng = gaussian(6, 8), np.random.default_rng(0)
    field, ps = rng.normal(size=(2, 3, 6, 8)), rng.uniform(8e4, 1.1e5, (2, 6, 8))
    mass = layer_mass(xp.asarray(ps), SIGMA_EDGES, 9.8)
    mean = mass_mean(xp.asarray(field), mass, grid)
    assert isinstance(mean, np.ndarray if xp is np else jnp.ndarray)
    weights = ps[:, None] * np.diff(SIGMA_EDGES)[:, None, None] * grid.areas
    np.testing.assert_allclose(mean, (weights * field).sum((1, 2, 3)) / weights.sum((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(area_mean(xp.asarray(ps), grid), np.average(ps.reshape(2, -1), 1, grid.areas.ravel()))


def test_the_mass_of_a_column_weighs_the_surface_pressure():
    ps, gravity = np.array([[[1e5, 2e5]], [[3e5, 4e5]]]), np.array([5.0, 20.0])[:, None, None]
    mass = layer_mass(ps, SIGMA_EDGES, gravity)
    assert mass.shape == (2, 3, 1, 2)
    np.testing.assert_allclose(mass.sum(axis=1) * gravity, ps, rtol=1e-14)
    np.testing.assert_allclose(mass[0, :, 0, 0] * 5.0, np.diff(SIGMA_EDGES) * 1e5)
