"""Baselines find what is planted for them, and nothing of the planets they are tested on."""

import dataclasses

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from astrojax.evaluation import climate_baselines
from astrojax.evaluation.climate_baselines import BASELINES, fit_and_predict
from astrojax.evaluation.climate_metrics import Climates
from astrojax.physics.grid import regular

GRID = regular(4, 6)
NUM_MONTHS, NUM_LEVELS = 3, 2
INSOLATION, LAND = 0, 1


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(climate_baselines, "_BOOSTING_ITERATIONS", 40)
    monkeypatch.setattr(climate_baselines, "_BOOSTING_CELLS", 6000)
    # On a busy machine the threads of so small a fit wait for one another longer than they work.
    with threadpool_limits(1):
        yield


def climates_of(planets: range, seed: int = 0) -> Climates:
    """Two epochs of each planet; parameters and maps are drawn by planet, so that two ranges never share one."""
    parameters, boundary = [], []
    for planet in planets:
        rng = np.random.default_rng([seed, planet])
        mass, land = rng.normal(size=2), rng.integers(0, 2, (1, 4, 6))
        for _ in range(2):
            parameters.append([*mass, rng.normal(), 7.0])
            insolation = np.broadcast_to(rng.uniform(0, 400, (NUM_MONTHS, 4, 6)), (NUM_MONTHS, 4, 6))
            boundary.append(np.stack([insolation, np.broadcast_to(land, insolation.shape)], axis=1))
    names = tuple(str(planet) for planet in planets for _ in range(2))
    climates = Climates(
        planets=names,
        epochs=np.arange(len(names)) % 2,
        parameter_names=("mass", "radius", "flux", "constant"),
        parameters=np.asarray(parameters),
        boundary_names=("insolation", "land"),
        boundary=np.asarray(boundary),
        fields={},
        lev=np.asarray([0.3, 0.8]),
        grid=GRID,
    )
    return dataclasses.replace(
        climates, fields={"linear": linear(climates), "curved": curved(climates), "local": local(climates)}
    )


def patterns(number: int) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(number, NUM_MONTHS, NUM_LEVELS, 4, 6))


def linear(climates: Climates) -> np.ndarray:
    return (250 + np.tensordot(climates.parameters[:, :3], patterns(3), 1)).astype(np.float32)


def curved(climates: Climates) -> np.ndarray:
    bent = np.stack([np.sin(1.5 * climates.parameters[:, 0]), np.tanh(climates.parameters[:, 2])], axis=1)
    return (250 + np.tensordot(bent, patterns(2), 1)).astype(np.float32)


def local(climates: Climates) -> np.ndarray:
    """A function of the maps at a cell alone, which bends with insolation and jumps at the coast."""
    insolation, land = climates.boundary[:, :, INSOLATION], climates.boundary[:, :, LAND]
    return (200 + np.sqrt(insolation) * (1 + land) - 10 * land).astype(np.float32)[:, :, None]


def explained(predicted: np.ndarray, true: np.ndarray) -> float:
    weights = np.broadcast_to(GRID.areas, true.shape)
    mean = np.average(true, weights=weights)
    return 1 - np.average((predicted - true) ** 2, weights=weights) / np.average((true - mean) ** 2, weights=weights)


@pytest.fixture(scope="module")
def train():
    return climates_of(range(24))


@pytest.fixture(scope="module")
def test():
    return climates_of(range(100, 108))


def predict(name, train, test, variable):
    return fit_and_predict(name, train, test, [variable])[variable]


def test_mean_is_that_of_the_training_climates(train, test):
    predicted = predict("mean", train, test, "linear")
    assert predicted.shape == test.fields["linear"].shape
    np.testing.assert_allclose(predicted[3], train.fields["linear"].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["pca_ridge", "pca_gp"])
def test_a_linear_map_of_the_parameters_is_found(train, test, name):
    assert explained(predict(name, train, test, "linear"), test.fields["linear"]) > 0.98


def test_the_process_bends_where_a_line_does_not_do(train, test):
    gp, ridge = (explained(predict(n, train, test, "curved"), test.fields["curved"]) for n in ("pca_gp", "pca_ridge"))
    assert gp > 0.9
    assert ridge < gp - 0.02


def test_a_twin_among_the_training_planets_is_the_neighbour(train):
    """Each training planet has a twin, so that the single nearest neighbour is the choice of cross-validation."""
    twins = dataclasses.replace(train, planets=tuple(f"twin of {name}" for name in train.planets))
    both = dataclasses.replace(
        train,
        planets=train.planets + twins.planets,
        epochs=np.concatenate([train.epochs] * 2),
        parameters=np.concatenate([train.parameters, train.parameters + 1e-4]),
        boundary=np.concatenate([train.boundary] * 2),
        fields={"curved": np.concatenate([train.fields["curved"]] * 2)},
    )
    some = train.select([5, 0, 11])
    np.testing.assert_allclose(predict("nearest_neighbours", both, some, "curved"), some.fields["curved"], rtol=1e-4)


def test_what_maps_say_of_a_cell_is_found_by_boosting_alone(train, test):
    assert explained(predict("boosting", train, test, "local"), test.fields["local"]) > 0.95
    assert explained(predict("pca_ridge", train, test, "local"), test.fields["local"]) < 0.5


def test_boosting_tells_levels_apart(train, test):
    away = np.asarray([0, 50])[:, None, None]
    columns = {"columns": (local(train) + away).astype(np.float32)}
    predicted = predict("boosting", dataclasses.replace(train, fields=columns), test, "columns")
    assert explained(predicted, local(test) + away) > 0.95


@pytest.mark.parametrize("name", BASELINES)
def test_the_fields_of_the_test_are_not_read_and_runs_agree(train, test, name):
    variables = ["linear", "local"]
    once = fit_and_predict(name, train, test, variables)
    again = fit_and_predict(name, train, dataclasses.replace(test, fields={}), variables)
    assert list(once) == variables
    for variable in variables:
        np.testing.assert_array_equal(once[variable], again[variable])
        assert once[variable].dtype == np.float32
        assert once[variable].shape == test.fields[variable].shape


@pytest.mark.parametrize("name", BASELINES)
def test_missing_values_are_bridged(train, test, name):
    holes = {}
    for variable in ("linear", "local"):
        field = train.fields[variable].copy()
        field[::5, 1, 0, 2] = np.nan
        field[:, :, :, 0, 0] = np.nan
        holes[variable] = field
    gappy = dataclasses.replace(train, fields=holes)
    for variable, predicted in fit_and_predict(name, gappy, test, list(holes)).items():
        assert np.isfinite(predicted).all()
        whole = predict(name, train, test, variable)
        assert np.abs(predicted - whole)[..., 1:, 1:].mean() < 0.3 * train.fields[variable].std()


def test_settings_are_chosen_between_planets_not_epochs():
    """Epochs of a planet are alike and planets have nothing in common: whoever leaves epochs out remembers planets."""
    rng = np.random.default_rng(5)
    climates = climates_of(range(16))
    parameters = np.repeat(rng.normal(size=(16, 4)), 2, axis=0) + 1e-3 * rng.normal(size=(32, 4))
    fields = {"name": np.repeat(rng.normal(size=(16, *patterns(1).shape[1:])), 2, axis=0).astype(np.float32)}
    climates = dataclasses.replace(climates, parameters=parameters, fields=fields)
    new = dataclasses.replace(climates_of(range(50, 58)), parameters=rng.normal(size=(16, 4)))
    for name in ("nearest_neighbours", "pca_ridge", "pca_gp"):
        assert predict(name, climates, new, "name").std() < 0.5


def test_requests_that_cannot_be_served_are_named(train, test):
    with pytest.raises(ValueError, match="name='oracle'"):
        fit_and_predict("oracle", train, test, ["linear"])
    with pytest.raises(ValueError, match="salinity"):
        fit_and_predict("mean", train, test, ["salinity"])
    with pytest.raises(ValueError, match="parameter_names"):
        fit_and_predict("mean", train, dataclasses.replace(test, parameter_names=("mass",)), ["linear"])
    with pytest.raises(ValueError, match=r"\['0'\]"):
        fit_and_predict("mean", train.select([0, 1]), test, ["linear"])
