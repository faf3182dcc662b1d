"""Rayleigh scattering against closed forms."""

import math

import numpy as np
import pytest

from astrojax.physics.scattering import rayleigh_optical_depth, scattered_share

COLUMN = 101_325 / 9.80665


def test_the_optical_depth_is_that_of_earths_air():
    # Green light at sea level; tabulations differ by a few per cent (Bodhaine et al. 1999).
    assert rayleigh_optical_depth(0.55, COLUMN) == pytest.approx(0.0973, rel=0.01)
    assert rayleigh_optical_depth(0.55, 2 * COLUMN) == pytest.approx(2 * rayleigh_optical_depth(0.55, COLUMN))


def test_thin_air_scatters_by_the_mean_inverse_fourth_power_of_the_wavelength():
    """Over Planck's law that mean is (k T / h c)^4 Gamma(8) zeta(8) / (Gamma(4) zeta(4))."""
    temperature, column = 3000.0, 1e-3 * COLUMN
    moment = math.factorial(7) * 1.00407736 / (math.pi**4 / 15) * (temperature / 14387.76877) ** 4
    # Within the few per cent of the higher powers that the closed form leaves out.
    assert scattered_share(temperature, column) == pytest.approx(0.75 * 0.008569e-3 * moment, rel=0.04)


def test_dense_air_and_hot_stars_scatter_more():
    share = scattered_share(np.asarray([2600.0, 3900.0, 5772.0])[:, None], COLUMN * np.asarray([0.5, 1.0, 2.0]))
    assert share.shape == (3, 3)
    assert (np.diff(share, axis=0) > 0).all()
    assert (np.diff(share, axis=1) > 0).all()
    assert 0.05 < share[2, 1] < 0.12
    assert scattered_share(5772.0, 1e9) == pytest.approx(1, abs=0.05)
