"""Statistics are those of all training values at once, whatever they are put together from."""

import dataclasses

import numpy as np
import pytest

from astrojax.data.cubes import statistics
from astrojax.physics.grid import gaussian

GRID = gaussian(8, 16)


@pytest.fixture
def planets() -> list[np.ndarray]:
    """``[climate_time, geological_time, lev, lat, lon]`` each, with a large mean and missing values."""
    rng = np.random.default_rng(0)
    cubes = [(1e5 + 10 * rng.standard_normal((4, 2, 3, 8, 16))).astype(np.float32) for _ in range(3)]
    cubes[1][:, 1] = np.nan
    cubes[2][0, 0, 2, 3, 4] = np.nan
    return cubes


def test_moments_are_those_of_all_values(planets):
    parts = [statistics.from_json(statistics.to_json(statistics.moments(p, GRID))) for p in planets]
    summary = statistics.summary(statistics.total(parts))
    values = np.stack(planets).astype(np.float64)
    areas = np.where(np.isfinite(values), GRID.areas, 0)
    mean = np.average(np.nan_to_num(values), weights=areas)
    assert summary["mean"] == pytest.approx(mean, rel=1e-14)
    assert summary["std"] == pytest.approx(
        np.sqrt(np.average((np.nan_to_num(values) - mean) ** 2, weights=areas)), rel=1e-12
    )
    assert (summary["min"], summary["max"]) == (np.nanmin(values), np.nanmax(values))
    assert summary["count"] == np.isfinite(values).sum()
    for level in range(3):
        x, w = np.nan_to_num(values[:, :, :, level]), areas[:, :, :, level]
        level_mean = np.average(x, weights=w)
        assert summary["level_mean"][level] == pytest.approx(level_mean, rel=1e-14)
        assert summary["level_std"][level] == pytest.approx(
            np.sqrt(np.average((x - level_mean) ** 2, weights=w)), rel=1e-12
        )


def test_a_variable_without_values_has_no_moments(planets):
    empty = statistics.summary(statistics.moments(np.full_like(planets[0], np.nan), GRID))
    assert empty["count"] == 0
    assert (empty["mean"], empty["std"], empty["min"], empty["max"]) == (None, None, None, None)
    whole = statistics.moments(planets[0], GRID)
    both = statistics.moments(np.full_like(planets[0], np.nan), GRID) + whole
    for field in dataclasses.fields(whole):
        np.testing.assert_allclose(getattr(both, field.name), getattr(whole, field.name), rtol=1e-14)
