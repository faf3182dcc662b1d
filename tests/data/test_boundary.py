"""Boundary maps and parameters of a store's planets."""

import numpy as np
import pytest

from astrojax.data import cubes
from astrojax.data.boundary import ANTISYMMETRIC, MAPS, Standard, make_boundary
from astrojax.errors import RequestError
from astrojax.physics.grid import area_mean
from astrojax.physics.scattering import scattered_share
from tests.data.cubes.runs import write_run

PARAMETERS = ("instellation", "tidally_locked", "pCO2", "land_area_fraction")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    for planet in range(4):
        for epoch in range(2):
            if (planet, epoch) != (3, 1):
                name = folder / f"planet{planet:02d}_epoch{epoch}.nc"
                write_run(name, planet, epoch, locked=planet == 2, land=float(planet == 1))
    return cubes.convert([str(folder)], tmp_path_factory.mktemp("store") / "cubes.zarr", workers=1)


def test_insolation_is_that_of_star_and_orbit(store):
    boundary = make_boundary(store, PARAMETERS)
    light = boundary.insolation[:, :, :, 0]
    instellation = store.parameters[..., store.parameter_names.index("instellation")]
    means = area_mean(light.mean(1), store.grid)
    np.testing.assert_allclose(means[store.present], instellation[store.present] / 4, rtol=2e-3)
    # The tidally locked planet's star stands over 180 degrees east, and its night side is dark.
    noon = np.unravel_index(light[2, 0, 0].argmax(), light.shape[-2:])
    assert store.grid.lon[noon[1]] == 180
    assert light[2, :, :, :, 0].max() == 0
    np.testing.assert_array_equal(boundary.rotating, [True, True, False, True])
    np.testing.assert_array_equal(boundary.seasons, [True, True, False, True])


def test_a_files_own_insolation_goes_before(tmp_path):
    store = cubes.convert(["data/exoplasim/planet04_*.nc"], tmp_path / "cubes.zarr", workers=1)
    light = make_boundary(store, PARAMETERS).insolation
    np.testing.assert_array_equal(light, store.read_variable("rsdt"))
    # Five days are two and a half turns of this planet: not every longitude has as much light in a month.
    assert np.ptp(light[0, 0, 3, 0, 8]) > 20


def test_maps_are_what_their_names_say(store):
    boundary = make_boundary(store, PARAMETERS)
    maps = dict(zip(MAPS, np.moveaxis(boundary.maps, 1, 0)[..., 0, :, :], strict=True))
    sine = np.sin(np.deg2rad(store.grid.lat))[:, None]
    present = store.present[:, None, :, None, None]
    np.testing.assert_allclose(maps["coriolis_parameter"][0, 0, 0], 4 * np.pi * sine * np.ones(16), rtol=1e-5)
    parameters = dict(zip(store.parameter_names, np.moveaxis(store.parameters, -1, 0), strict=True))
    column = (parameters["pN2"] + parameters["pCO2"]) / parameters["gravity"]
    clear = 1 - scattered_share(parameters["stellar_temperature"], column)[:, None, :, None, None]
    radiated = 5.670374e-8 * maps["emission_temperature"] ** 4
    np.testing.assert_allclose(maps["insolation"] * present * np.nan_to_num(clear), radiated, rtol=1e-3)
    # Air rises under the star of the tidally locked planet, at 180 degrees east, and leaves it aloft to both sides.
    equator, noon = slice(3, 5), 8
    assert (maps["linear_eastward_wind"][2, 0, 0, equator, noon + 2] > 0).all()
    assert (maps["linear_eastward_wind"][2, 0, 0, equator, noon - 2] < 0).all()
    assert (maps["land_area_fraction"][1] == 1).all()
    assert (maps["land_area_fraction"][0] == 0).all()
    for name, values in maps.items():
        assert (values[3, :, 1] == 0).all(), name
        mirrored = -values[..., ::-1, :] if name in ANTISYMMETRIC else values[..., ::-1, :]
        if name not in ("surface_altitude", "land_area_fraction", "emission_temperature", "insolation"):
            np.testing.assert_allclose(values[2], mirrored[2], atol=1e-4 * np.abs(values).max())


def test_parameters_are_standardised_over_training_planets_alone(store):
    boundary = make_boundary(store, PARAMETERS)
    assert boundary.parameters[0, 0, 2] == pytest.approx(np.log10(0.1e5))
    assert boundary.parameters[1, 0, 3] == pytest.approx(1.0)
    standard = Standard.of(boundary, [0, 1], store.grid)
    scaled = standard.parameters(boundary.parameters[:2])
    np.testing.assert_allclose(scaled.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled[..., [0, 3]].std((0, 1)), 1, atol=1e-3)
    maps = standard.maps(boundary.maps[:2])
    np.testing.assert_allclose(area_mean(maps[..., 0, :, :].mean((0, 2, 3)), store.grid), 0, atol=1e-3)


def test_an_unknown_parameter_is_refused(store):
    with pytest.raises(RequestError, match="no parameter colour; there are instellation"):
        make_boundary(store, ("colour",))
