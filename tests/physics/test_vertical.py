"""Vertical coordinates and interpolation in the logarithm of pressure."""

import numpy as np
import pytest

from astrojax.physics.vertical import height_to_pressure, hybrid_to_pressure, interpolate_levels, sigma_to_pressure

SOURCE = np.array([1e3, 5e3, 2e4, 5e4, 1e5])
TARGET = np.array([1e3, 3e3, 3.3e4, 1e5])


def surface_pressure(*shape):
    return np.random.default_rng(1).uniform(9e4, 1.1e5, shape)


def log_linear(pressure):
    return 200 + 7 * np.log(pressure)


def columns(pressure, *leading):
    return np.broadcast_to(pressure[:, None, None], (*leading, len(pressure), 2, 3))


@pytest.mark.parametrize("leading", [(), (2, 4)])
def test_fields_linear_in_log_pressure_are_exact(leading):
    result = interpolate_levels(log_linear(columns(SOURCE, *leading)), SOURCE, TARGET)
    np.testing.assert_allclose(result, log_linear(columns(TARGET, *leading)), rtol=1e-13)


@pytest.mark.parametrize(("source_3d", "target_3d"), [(True, False), (False, True), (True, True)])
def test_every_column_has_its_own_pressures(source_3d, target_3d):
    ps = surface_pressure(4, 2, 3)
    source = sigma_to_pressure(np.array([0.01, 0.2, 0.6, 1.2]), ps) if source_3d else np.array([5e2, 3e4, 1.2e5])
    target = sigma_to_pressure(np.array([0.1, 0.3, 0.5, 0.7, 0.9]), ps) if target_3d else TARGET[1:3]
    wide = source if source_3d else columns(source, 4)
    result = interpolate_levels(log_linear(wide).astype(np.float32), source, target)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, log_linear(target if target_3d else columns(target, 4)), rtol=1e-6)


def test_agrees_with_interpolation_column_by_column():
    rng, ps = np.random.default_rng(0), surface_pressure(2, 3)
    field, source = rng.normal(size=(7, 5, 2, 3)), sigma_to_pressure(np.array([0.05, 0.2, 0.4, 0.8, 0.99]), ps)
    result = interpolate_levels(field, source, TARGET, extrapolate="nearest")
    for t, y, x in np.ndindex(7, 2, 3):
        expected = np.interp(np.log(TARGET), np.log(source[:, y, x]), field[t, :, y, x])
        np.testing.assert_allclose(result[t, :, y, x], expected, rtol=1e-12)


def test_beyond_the_source_there_is_nothing_unless_asked():
    field, target = log_linear(columns(SOURCE)), np.array([5e2, 2e4, 2e5])
    result = interpolate_levels(field, SOURCE, target)
    assert np.isnan(result[[0, 2]]).all()
    np.testing.assert_allclose(result[1], field[2])
    nearest = interpolate_levels(field, SOURCE, target, extrapolate="nearest")
    np.testing.assert_array_equal(nearest[[0, 2]], field[[0, -1]])


def test_a_shared_outer_level_survives_float32():
    result = interpolate_levels(columns(SOURCE), SOURCE, SOURCE.astype(np.float32) * np.float32(1 + 2e-7))
    np.testing.assert_allclose(result, columns(SOURCE), rtol=1e-5)


def test_a_missing_level_spoils_its_neighbours_alone():
    field = columns(SOURCE).copy()
    field[2, 0, 0] = np.nan
    missing = np.isnan(interpolate_levels(field, SOURCE, np.array([3e3, 1e4, 3e4, 7e4])))
    np.testing.assert_array_equal(missing[:, 0, 0], [False, True, True, False])
    assert missing.sum() == 2


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SOURCE[::-1], TARGET, "source pressures from 1000.0 to 100000.0 should ascend"),
        (SOURCE, TARGET[::-1], "target pressures from 1000.0 to 100000.0 should ascend"),
        (SOURCE - 1e3, TARGET, "source pressures from 0.0 to 99000.0 should ascend along lev, above 0"),
        (SOURCE[:4], TARGET, "4 source pressures for 5 levels"),
    ],
)
def test_other_pressures_are_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        interpolate_levels(columns(SOURCE), source, target)


def test_sigma_and_hybrid_levels():
    ps, a, b = surface_pressure(2, 3, 4), np.array([100.0, 50.0, 0.0]), np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(sigma_to_pressure(b, ps)[:, 1], ps / 2)
    pressure = hybrid_to_pressure(a, b, ps)
    assert pressure.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(pressure[:, 1], 50 + ps / 2)
    np.testing.assert_array_equal(pressure[:, 0], 100)


def test_heights_in_an_isothermal_atmosphere_and_at_constant_lapse_rate():
    height, ps, g, gas_constant = np.array([20e3, 8e3, 3e3, 0.0]), surface_pressure(2, 3), 9.8, 287.0
    isothermal = height_to_pressure(height, np.full((4, 2, 3), 250.0), ps, g, gas_constant)
    expected = ps * np.exp(-height[:, None, None] / (gas_constant * 250 / g))
    np.testing.assert_allclose(isothermal, expected, rtol=1e-12)
    temperature = columns(300 - 6.5e-3 * height)
    lapsed = height_to_pressure(height, temperature, ps, g, gas_constant)
    np.testing.assert_allclose(lapsed, ps * (temperature / 300) ** (g / (gas_constant * 6.5e-3)), rtol=1e-4)


@pytest.mark.parametrize("height", [[0.0, 1e3], [1e3, -5.0]])
def test_other_heights_are_refused(height):
    with pytest.raises(ValueError, match=f"heights from {max(height)} to {min(height)} m should descend"):
        height_to_pressure(np.array(height), np.full((2, 1, 1), 250.0), np.full((1, 1), 1e5), 9.8, 287.0)
