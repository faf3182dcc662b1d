"""Regridding: what it reproduces, what it conserves, where it writes."""

import numpy as np
import pytest

from astrojax.physics.grid import Grid, area_mean, gaussian, regular
from astrojax.physics.regrid import Regridder

POLES = Grid.of_centres(np.linspace(-90, 90, 19), np.arange(0, 360, 10))
PAIRS = [
    (regular(48, 96), regular(64, 128)),
    (gaussian(32, 64), Grid.of_centres(regular(46, 72).lat, regular(46, 72).lon + 2.5)),
    (regular(50, 70), gaussian(9, 11)),
    (POLES, regular(37, 24)),
    (regular(4, 5), POLES),
]
BOTH = pytest.mark.parametrize("method", ["bilinear", "conservative"])


def noise(grid, *leading, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=(*leading, len(grid.lat), len(grid.lon))).astype(dtype)


def dense(regridder, field):
    """The two matrices as they are, without blocks."""
    rows = field @ regridder.lon_weights_ts.T
    if regridder.method == "bilinear":
        south, north = (np.broadcast_to(field[..., i, :].mean(-1)[..., None], rows[..., 0, :].shape) for i in (0, -1))
        rows = np.concatenate([south[..., None, :], rows, north[..., None, :]], axis=-2)
    return regridder.lat_weights_ts @ rows


@BOTH
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_blocks_are_the_whole_product(method, source, target):
    regridder, field = Regridder(source, target, method), noise(source, 2, 3)
    result = regridder(field)
    assert result.shape == (2, 3, len(target.lat), len(target.lon))
    np.testing.assert_allclose(result, dense(regridder, field), atol=1e-12)


@BOTH
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_constants_stay(method, source, target):
    field = np.full((len(source.lat), len(source.lon)), 101325.0, np.float32)
    result = Regridder(source, target, method)(field)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, 101325, rtol=1e-6)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_bilinear_keeps_what_is_linear_between_centres(source, target):
    inside = (target.lat >= source.lat[0]) & (target.lat <= source.lat[-1])
    field = np.broadcast_to(2 + 3 * source.lat[:, None], (len(source.lat), len(source.lon)))
    expected = np.broadcast_to(2 + 3 * target.lat[:, None], (len(target.lat), len(target.lon)))
    result = Regridder(source, target)(field)
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-9)
    # Linear in longitude between two meridians, and back to the first one after the last.
    tooth = np.minimum(source.lon - source.lon[0], 90)
    aligned = Regridder(source, Grid.of_centres(source.lat, target.lon))(np.broadcast_to(tooth, field.shape))
    expected = np.interp(target.lon, [*source.lon, source.lon[0] + 360], [*tooth, tooth[0]], period=None)
    later = target.lon >= source.lon[0]
    np.testing.assert_allclose(aligned[:, later], np.broadcast_to(expected, aligned.shape)[:, later], atol=1e-9)


def test_bilinear_wraps_around_the_circle():
    source, target = regular(2, 4), Grid.of_centres(regular(2, 4).lat, [45, 135, 225, 315])
    np.testing.assert_allclose(Regridder(source, target)(np.array([[0.0, 1, 2, 10]] * 2)), [[0.5, 1.5, 6, 5]] * 2)
    west = Grid.of_centres(source.lat, np.array([45, 135, 225, 315]) - 360)
    np.testing.assert_allclose(Regridder(source, west)(np.array([[0.0, 1, 2, 10]] * 2)), [[0.5, 1.5, 6, 5]] * 2)


def test_bilinear_reaches_the_zonal_mean_at_the_poles():
    source, target = regular(6, 8), Grid.of_centres([-90, -80, 0, 90], regular(6, 8).lon)
    field = noise(source)
    result = Regridder(source, target)(field)
    np.testing.assert_allclose(result[[0, -1]], np.broadcast_to(field[[0, -1]].mean(1)[:, None], (2, 8)), atol=1e-12)
    np.testing.assert_allclose(result[1], (field[0] * 2 + field[0].mean()) / 3, atol=1e-12)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_conservative_keeps_the_area_mean(source, target, dtype, rtol):
    field = 300 + noise(source, 4, dtype=dtype)
    result = Regridder(source, target, "conservative")(field)
    np.testing.assert_allclose(area_mean(result, target), area_mean(field, source), rtol=rtol)
    assert result.min() >= field.min() * (1 - 1e-6)


def test_conservative_averages_the_cells_that_overlap():
    source, target = regular(4, 8), regular(2, 4)
    field, weights = noise(source), source.areas
    result = Regridder(source, target, "conservative")(field)
    # Centred on the same meridian, a target cell covers one source cell and half of either neighbour.
    columns = np.stack([(field[:, (i - 1) % 8] + 2 * field[:, i] + field[:, (i + 1) % 8]) / 4 for i in range(0, 8, 2)])
    pairs = (columns.T * weights[:, :1]).reshape(2, 2, 4).sum(1) / weights[:, :1].reshape(2, 2, 1).sum(1)
    np.testing.assert_allclose(result, pairs, atol=1e-12)


@BOTH
@pytest.mark.parametrize("grid", [regular(48, 96), gaussian(32, 64), POLES])
def test_equal_grids_change_nothing(method, grid):
    field = noise(grid, 3, dtype=np.float32)
    np.testing.assert_array_equal(Regridder(grid, grid, method)(field), field)


@BOTH
def test_missing_values_spoil_what_they_contribute_to_and_nothing_else(method):
    source, target = regular(48, 96), regular(64, 128)
    regridder, field = Regridder(source, target, method), noise(source, 5, dtype=np.float32)
    complete = regridder(field)
    field[1, 20, 95], field[3, 0, 7] = np.nan, np.inf
    hole = np.zeros_like(field)
    hole[1, 20, 95] = hole[3, 0, 7] = 1
    touched = dense(regridder, hole) > 0
    result = regridder(field)
    assert 0 < touched[1].sum() < 20
    np.testing.assert_array_equal(np.isnan(result), touched)
    np.testing.assert_allclose(result[~touched], complete[~touched], atol=1e-6)


def test_writes_into_a_part_of_a_larger_array():
    source, target = regular(6, 8), regular(9, 10)
    regridder, field = Regridder(source, target, num_threads=2), noise(source, 3, 4, 5, dtype=np.float32)
    cube = np.full((3, 2, 4, 2, 5, 9, 10), -1, np.float32)
    out = cube[:, 1, :, 0]
    assert regridder(field, out) is out
    np.testing.assert_array_equal(out, regridder(field))
    assert (cube[:, 0] == -1).all()
    assert (cube[:, :, :, 1] == -1).all()


def test_reads_any_layout_and_many_slabs_with_many_threads():
    source, target = regular(48, 96), regular(64, 128)
    field = noise(source, 150, dtype=np.float32)
    expected = Regridder(source, target, num_threads=1)(field)
    np.testing.assert_array_equal(Regridder(source, target, num_threads=3)(field), expected)
    reversed_twice = np.ascontiguousarray(field[..., ::-1, :])[..., ::-1, :]
    np.testing.assert_array_equal(Regridder(source, target)(reversed_twice), expected)
    np.testing.assert_array_equal(Regridder(source, target)(field.astype(">f4")), expected)
    assert Regridder(source, target)(field[:0]).shape == (0, 64, 128)


def test_what_does_not_fit_is_refused():
    regridder = Regridder(regular(6, 8), regular(9, 10))
    with pytest.raises(ValueError, match=r"\(8, 6\) should end in \(6, 8\)"):
        regridder(np.zeros((8, 6)))
    with pytest.raises(ValueError, match=r"out is float32\(9, 10\), the result is float64\(9, 10\)"):
        regridder(np.zeros((6, 8)), np.zeros((9, 10), np.float32))
    with pytest.raises(ValueError, match="method='cubic' should be one of bilinear, conservative"):
        Regridder(regular(6, 8), regular(9, 10), "cubic")
