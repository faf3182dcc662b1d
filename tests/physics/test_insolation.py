"""Insolation against what celestial mechanics knows in closed form."""

import dataclasses

import numpy as np
import pytest

from astrojax.physics.grid import Grid, area_mean, gaussian, regular
from astrojax.physics.insolation import Orbit, fit_initial_solar_longitude, insolation

MONTHS = np.arange(13) / 12
MOMENT = np.array([-5e-7, 5e-7])
GRID = gaussian(32, 64)


@pytest.mark.parametrize("eccentricity", [0, 0.1, 0.6])
@pytest.mark.parametrize("obliquity", [0, 23.4, 90])
def test_the_year_and_globe_receive_a_quarter(eccentricity, obliquity):
    orbit = Orbit(instellation=1361, obliquity=obliquity, eccentricity=eccentricity, periapsis=70)
    mean = area_mean(insolation(GRID, orbit, np.linspace(0, 1, 49)), GRID).mean()
    np.testing.assert_allclose(mean, 1361 / 4 / np.sqrt(1 - eccentricity**2), rtol=2e-4)


def test_equinox():
    fine = regular(180, 4)
    flux = insolation(fine, Orbit(instellation=1000, obliquity=23.4), MOMENT)[0, :, 0]
    lat = np.deg2rad(fine.lat_edges)  # The area mean of cos(lat) over a band.
    mean_cos = np.diff(lat / 2 + np.sin(2 * lat) / 4) / np.diff(np.sin(lat))
    np.testing.assert_allclose(flux[1:-1], 1000 / np.pi * mean_cos[1:-1], rtol=1e-5)
    np.testing.assert_allclose(flux[89:91], 1000 / np.pi, rtol=1e-4)


def test_solstice_has_polar_night_and_polar_day():
    fine, orbit = regular(180, 4), Orbit(instellation=1000, obliquity=30, initial_solar_longitude=90)
    flux = insolation(fine, orbit, MOMENT)[0, :, 0]
    night, day = fine.lat_edges[1:] <= -60, fine.lat_edges[:-1] >= 60
    np.testing.assert_allclose(flux[night], 0, atol=1e-9)
    assert (flux[~night] > 0).all()
    sin_lat = np.sin(np.deg2rad(fine.lat_edges))  # Where the star does not set: S sin(lat) sin(obliquity).
    np.testing.assert_allclose(flux[day], 500 * ((sin_lat[1:] + sin_lat[:-1]) / 2)[day], rtol=1e-6)


def test_hemispheres_exchange_seasons_after_half_a_year():
    flux = insolation(GRID, Orbit(instellation=900, obliquity=40, initial_solar_longitude=17), MONTHS)
    np.testing.assert_allclose(flux, np.roll(flux, 6, axis=0)[:, ::-1], atol=1e-9)
    assert np.abs(flux - flux[:, ::-1]).max() > 300


def test_kepler_moves_fastest_at_periapsis():
    """From periapsis to the end of the latus rectum, a quarter of the way around: Kepler's equation by hand."""
    e = 0.4
    eccentric = np.arccos(e)
    time = (eccentric - e * np.sin(eccentric)) / (2 * np.pi)
    orbit = Orbit(instellation=1000, eccentricity=e, periapsis=200, initial_solar_longitude=200)
    at_periapsis, quarter = (insolation(GRID, orbit, t + MOMENT) for t in (0, time))
    np.testing.assert_allclose(area_mean(at_periapsis, GRID), 250 / (1 - e) ** 2, rtol=1e-4)
    np.testing.assert_allclose(area_mean(quarter, GRID), 250 / (1 - e**2) ** 2, rtol=1e-4)
    solstice = dataclasses.replace(orbit, obliquity=30, periapsis=0, initial_solar_longitude=0)
    np.testing.assert_allclose(insolation(GRID, solstice, time + MOMENT)[0, 0], 0, atol=1e-6)


def test_months_are_means_over_time():
    orbit = Orbit(instellation=1000, obliquity=23, eccentricity=0.2, periapsis=30)
    days = insolation(GRID, orbit, np.linspace(0, 1, 241))
    months = insolation(GRID, orbit, MONTHS)
    np.testing.assert_allclose(months, days.reshape(12, 20, 32, 64).mean(axis=1), atol=0.3)


@pytest.mark.parametrize("substellar", [0, 180, 77, -90])
def test_locked_planet_is_lit_on_one_side(substellar):
    flux = insolation(GRID, Orbit(instellation=1000, tidally_locked=True, substellar_longitude=substellar), MONTHS)
    assert flux.shape == (12, 32, 64)
    np.testing.assert_allclose(area_mean(flux, GRID), 250, rtol=1e-12)
    cos_zenith = np.cos(np.deg2rad(GRID.lat))[:, None] * np.cos(np.deg2rad(GRID.lon - substellar))
    inner = cos_zenith > np.cos(np.deg2rad(80))
    np.testing.assert_allclose(flux[5][inner], 1000 * cos_zenith[inner], atol=2)
    assert (flux[5][np.cos(np.deg2rad(GRID.lon - substellar))[None].repeat(32, 0) < -0.1] == 0).all()


@pytest.mark.parametrize("phase", [3.5, 280.5])
def test_the_season_of_a_record_is_found(phase):
    grid, orbit = regular(24, 4), Orbit(instellation=1300, obliquity=20, eccentricity=0.1, periapsis=100)
    record = insolation(grid, dataclasses.replace(orbit, initial_solar_longitude=phase), MONTHS)
    found, rms = fit_initial_solar_longitude(record, grid, orbit, MONTHS)
    assert abs(found - phase) < 0.02
    assert rms < 0.1
    noise = np.random.default_rng(0).normal(scale=5, size=record.shape)
    found, rms = fit_initial_solar_longitude(record + noise, grid, orbit, MONTHS)
    assert abs(found - phase) < 2
    assert 4.5 < rms < 5.5


def test_without_seasons_the_fit_is_zero():
    orbit = Orbit(instellation=1000, tidally_locked=True)
    record = insolation(GRID, orbit, MONTHS)
    assert fit_initial_solar_longitude(record + 3, GRID, orbit, MONTHS) == pytest.approx((0, 3))


def test_what_is_no_orbit_is_refused():
    with pytest.raises(ValueError, match="eccentricity=1 should"):
        Orbit(instellation=1, eccentricity=1)
    with pytest.raises(ValueError, match="instellation=-1"):
        Orbit(instellation=-1)
    with pytest.raises(ValueError, match="obliquity=nan"):
        Orbit(instellation=1, obliquity=np.nan)
    with pytest.raises(ValueError, match="tidally locked with obliquity=10"):
        Orbit(instellation=1, obliquity=10, tidally_locked=True)
    with pytest.raises(ValueError, match="ascending times"):
        insolation(GRID, Orbit(instellation=1), [0.5, 0.5])
    with pytest.raises(ValueError, match=r"rsdt of shape \(12, 3, 4\)"):
        fit_initial_solar_longitude(np.zeros((12, 3, 4)), Grid.of_centres([0], [0]), Orbit(instellation=1), MONTHS)
