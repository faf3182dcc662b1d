"""Scores against closed forms."""

import math

import numpy as np
import pytest

from astrojax.evaluation.climate_metrics import (
    Climates,
    energy_residual,
    mass_residual,
    planet_rmse,
    rmse_ratio,
    scores,
    spread_skill,
    weather_noise,
)
from astrojax.physics.grid import area_mean, regular

GRID = regular(6, 8)
SHAPE = (6, 3, 2, 6, 8)


def climates_of(fields, planets=("a", "a", "b", "b", "c", "c"), boundary=None) -> Climates:
    n, num_months = len(planets), next(iter(fields.values())).shape[1]
    return Climates(
        planets=tuple(planets),
        epochs=np.arange(n) % 2,
        parameter_names=("flux",),
        parameters=np.arange(n, dtype=float)[:, None],
        boundary_names=("insolation",),
        boundary=np.ones((n, num_months, 1, 6, 8)) if boundary is None else boundary,
        fields=fields,
        lev=np.asarray([0.2, 0.8]),
        grid=GRID,
    )


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return climates_of({"ta": rng.normal(250, 20, SHAPE).astype(np.float32)})


def climatology_of(truth):
    return {name: np.full(field.shape[1:], 250.0) for name, field in truth.fields.items()}


def test_a_shift_is_bias_and_rmse_alike(truth):
    result = scores(truth, {"ta": truth.fields["ta"] + np.float32(2)}, climatology_of(truth))
    assert result["rmse"]["ta"] == pytest.approx(2, rel=1e-5)
    assert result["bias"]["ta"] == pytest.approx(2, rel=1e-5)


def test_the_truth_is_perfect(truth):
    result = scores(truth, truth.fields, climatology_of(truth))
    assert {name: value["ta"] for name, value in result.items()} == pytest.approx(
        {"rmse": 0, "bias": 0, "acc": 1, "r2": 1, "time_mean_r2": 1}
    )


def test_opposite_and_absent_anomalies(truth):
    climatology = climatology_of(truth)
    assert scores(truth, {"ta": 500 - truth.fields["ta"]}, climatology)["acc"]["ta"] == pytest.approx(-1, rel=1e-6)
    assert scores(truth, {"ta": np.full(SHAPE, 250.0)}, climatology)["acc"]["ta"] == 0


def test_anomalies_are_not_centred(truth):
    """A uniform anomaly correlates with any anomaly that has a mean."""
    true = {"ta": np.where(np.arange(SHAPE[-1]) % 2, 251.0, 253.0) * np.ones(SHAPE)}
    acc = scores(climates_of(true), {"ta": np.full(SHAPE, 251.0)}, climatology_of(truth))["acc"]["ta"]
    assert acc == pytest.approx(2 / math.sqrt(5))


def test_the_own_mean_has_no_skill_and_cells_count_by_area(truth):
    field = truth.fields["ta"].astype(float)
    mean = area_mean(field, GRID).mean()
    result = scores(truth, {"ta": np.full(SHAPE, mean)}, climatology_of(truth))
    assert result["r2"]["ta"] == pytest.approx(0, abs=1e-12)
    assert result["rmse"]["ta"] == pytest.approx(math.sqrt(area_mean((field - mean) ** 2, GRID).mean()))
    assert result["bias"]["ta"] == pytest.approx(0, abs=1e-10)


def test_errors_that_cancel_over_the_year_do_not_count_in_the_time_mean(truth):
    away = np.asarray([5.0, -5.0, 0.0])[:, None, None, None]
    result = scores(truth, {"ta": truth.fields["ta"] + away}, climatology_of(truth))
    assert result["time_mean_r2"]["ta"] == pytest.approx(1)
    assert result["r2"]["ta"] < 0.97


def test_missing_values_do_not_count(truth):
    field = truth.fields["ta"].copy()
    field[:, :, 0, 1:] = np.nan
    field[2] = np.nan
    predicted = np.where(np.isfinite(field), field + np.float32(3), 1e6)
    result = scores(climates_of({"ta": field}), {"ta": predicted}, climatology_of(truth))
    assert result["rmse"]["ta"] == pytest.approx(3, rel=1e-4)
    assert all(math.isfinite(value["ta"]) for value in result.values())


def test_a_missing_prediction_is_not_passed_over(truth):
    predicted = truth.fields["ta"].copy()
    predicted[0, 0, 0, 0, 0] = np.nan
    assert math.isnan(scores(truth, {"ta": predicted}, climatology_of(truth))["rmse"]["ta"])


def test_what_cannot_be_scored_is_named(truth):
    with pytest.raises(ValueError, match=r"ta: predicted \(6, 3, 1, 6, 8\)"):
        scores(truth, {"ta": truth.fields["ta"][:, :, :1]}, climatology_of(truth))
    with pytest.raises(ValueError, match="ta: there is no value"):
        scores(climates_of({"ta": np.full(SHAPE, np.nan)}), truth.fields, climatology_of(truth))


def test_energy_residual_is_that_of_the_global_annual_means():
    rng = np.random.default_rng(1)
    fields = {name: rng.uniform(100, 300, (6, 3, 1, 6, 8)).astype(np.float32) for name in ("rst", "rlut")}
    shift = np.asarray([3, -3, 3, -3, 3, -3], np.float32).reshape(6, 1, 1, 1, 1)
    seasonal = np.asarray([7, -7, 0], np.float32).reshape(3, 1, 1, 1)
    predicted = {"rst": fields["rst"] + shift + seasonal, "rlut": fields["rlut"] - np.float32(1)}
    expected = math.sqrt((4**2 + 2**2) / 2)
    assert energy_residual(climates_of(fields), predicted) == pytest.approx(expected, rel=1e-4)


def test_mass_residual_is_relative():
    true = np.random.default_rng(2).uniform(5e4, 2e5, (2, 3, 6, 8))
    assert mass_residual(true * np.asarray([1.01, 0.99])[:, None, None, None], true, GRID) == pytest.approx(0.01)


def test_weather_noise_is_that_of_climates_without_seasons():
    rng = np.random.default_rng(4)
    seasons = 100 * np.sin(np.arange(12.0))[:, None, None, None]
    field = rng.normal(0, 2, (40, 12, 1, 6, 8)) + np.where(np.arange(40) % 2, 0, 1)[:, None, None, None, None] * seasons
    boundary = np.ones((40, 12, 1, 6, 8))
    boundary[::2] += seasons
    climates = climates_of({"ua": field}, [str(i) for i in range(40)], boundary)
    assert weather_noise(climates)["ua"] == pytest.approx(2, rel=0.03)
    assert weather_noise(climates.select(np.arange(0, 40, 2))) == {}


def test_ratio_of_errors_and_its_interval(truth):
    field = truth.fields["ta"]
    half, one = {"ta": field + np.float32(1)}, {"ta": field - np.float32(2)}
    assert rmse_ratio(truth, half, one)["ta"] == pytest.approx((0.5, 0.5, 0.5), rel=1e-4)
    size = np.asarray([1, 1, 2, 2, 4, 4.0]).reshape(6, 1, 1, 1, 1)
    ratio, low, high = rmse_ratio(truth, {"ta": field + size}, one)["ta"]
    assert ratio == pytest.approx(math.sqrt(7) / 2, rel=1e-4)
    assert (low, high) == pytest.approx((0.5, 2), rel=1e-4)


def test_errors_of_each_planet_over_its_epochs(truth):
    field = truth.fields["ta"].copy()
    truth.fields["ta"][2:4] = np.nan
    truth.fields["ta"][0, :, 0] = np.nan  # One of a planet's epochs has half its values: they count alike.
    shift = np.asarray([1, 2, 5, 5, 3, 4.0]).reshape(6, 1, 1, 1, 1)
    errors = planet_rmse(truth, {"ta": field + shift})["ta"]
    assert errors == pytest.approx({"a": math.sqrt((1 + 2 * 4) / 3), "c": math.sqrt(12.5)}, rel=1e-4)


def test_selected_climates_keep_together(truth):
    chosen = truth.select([4, 1])
    assert chosen.planets == ("c", "a")
    np.testing.assert_array_equal(chosen.fields["ta"], truth.fields["ta"][[4, 1]])
    np.testing.assert_array_equal(chosen.parameters[:, 0], [4, 1])


def test_a_reliable_ensemble_has_as_much_spread_as_error():
    drawn = np.random.default_rng(3).normal(size=(5, 400, 1, 1, 6, 8))
    result = spread_skill(drawn[1:], drawn[0], GRID)
    assert result["ratio"] == pytest.approx(1, abs=0.02)
    assert result["skill"] == pytest.approx(math.sqrt(5 / 4), abs=0.02)
