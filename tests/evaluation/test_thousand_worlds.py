"""The benchmark's scores against numbers that follow from their definition."""

import re

import numpy as np
import pytest

from astrojax.data.cubes import convert
from astrojax.data.thousand_worlds import convert_thousand_worlds
from astrojax.errors import RequestError
from astrojax.evaluation.thousand_worlds import PUBLISHED, VARIABLES, protocol_planets, render, score
from tests.data import worlds
from tests.data.cubes.runs import write_run

# The part of the sphere in each row, by Gauss-Legendre quadrature.
WEIGHTS = np.polynomial.legendre.leggauss(32)[1] / 2
# Two shared planets; the second by the UM is one of those that are trained on otherwise.
SECOND = (12, 16)


def world(number: int, name: str) -> np.ndarray:
    """Patterns that differ between fields, 10 more in the UM's first planet, 5 more in its second, than in ExoCAM's."""
    planet = number if number not in (10, 11, *SECOND) else {10: 0, 11: 0, 12: 1, 16: 1}[number]
    pattern = worlds.random_field(planet, name) + {11: 10, 12: 5}.get(number, 0)
    return (pattern * 1e-3 if "humidity" in name else pattern).astype(np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The test simulations are 18 of one planet, 10 and 11 of another, 16 and 12 of a third."""
    folder = worlds.write_benchmark(tmp_path_factory.mktemp("benchmark") / "dataset", world)
    rows = [worlds.inputs(number) for number in worlds.SIMULATIONS]
    rows = [row | {"planet_id": "305"} if row["simulation_id"] == 12 else row for row in rows]
    rows = [row | {"gcm_label": "exocam"} if row["simulation_id"] == 16 else row for row in rows]
    worlds.write_table(folder / "inputs.csv", rows)
    for name, numbers in (
        ("train", [13, 17]),
        ("test", [18, 10, 11, 12, 16]),
        ("test_shared_planets_only", [10, 11, 12, 16]),
    ):
        worlds.write_table(folder / f"subsets/multi-partial/{name}.csv", [{"simulation_id": n} for n in numbers])
    return folder


@pytest.fixture(scope="module")
def store(dataset, tmp_path_factory):
    return convert_thousand_worlds(dataset, tmp_path_factory.mktemp("store") / "cubes", "multi-partial")


def truth(store, protocol="standard"):
    """Perfect predictions, which say something where the truth has no value too."""
    index = store.index(protocol_planets(store, protocol))
    return {name: np.nan_to_num(store.read_variable(name)[index], nan=7.0) for name in VARIABLES}


def test_protocols_name_their_planets(store):
    assert protocol_planets(store, "standard") == ("18", "10", "11", "12", "16")
    assert protocol_planets(store, "shared_planets") == ("10", "11", "12", "16")


def test_the_truth_is_perfect(store):
    scores = score(truth(store), store, "standard")
    assert scores["rmse"] == pytest.approx(dict.fromkeys(VARIABLES, 0.0))
    assert scores["acc"] == pytest.approx(dict.fromkeys(VARIABLES, 1.0), abs=1e-4)
    assert (scores["subset"], scores["protocol"], scores["num_simulations"]) == ("multi-partial", "standard", 5)
    assert "relative_rmse" not in scores


def test_simulations_are_averaged_after_the_root(store):
    predicted = truth(store)
    predicted["ts"][[0, 1]] += np.asarray([3, 7], np.float32).reshape(2, 1, 1, 1, 1, 1)
    assert score(predicted, store)["rmse"]["ts"] == pytest.approx((3 + 7) / 5, rel=1e-5)


def test_levels_are_averaged_over_the_simulations_that_have_them(store):
    predicted = truth(store)
    # Level 9 of temperature, which the store has first, is missing in simulation 10.
    predicted["ta"] += np.asarray([1, 2, 3, 4, 5], np.float32).reshape(5, 1, 1, 1, 1, 1)
    assert score(predicted, store)["rmse"]["ta"] == pytest.approx((9 * 15 / 5 + (1 + 3 + 4 + 5) / 4) / 10, rel=1e-5)


def test_rows_count_by_their_area(store):
    predicted = truth(store)
    predicted["rlut"][..., 3, :] += 8
    assert score(predicted, store)["rmse"]["rlut"] == pytest.approx(8 * np.sqrt(WEIGHTS[3]), rel=1e-5)
    assert WEIGHTS[3] < WEIGHTS[16]


def test_humidity_is_in_decades(store):
    predicted = truth(store)
    predicted["hus"] *= np.float32(100)
    assert score(predicted, store)["rmse"]["hus"] == pytest.approx(2, rel=1e-5)


def test_humidity_has_a_floor(store):
    predicted, true = truth(store), truth(store)["hus"].astype(np.float64)
    predicted["hus"][:] = -1
    distance = np.sqrt((((np.log10(true) + 12) ** 2).mean(-1) * WEIGHTS).sum(-1))
    assert score(predicted, store)["rmse"]["hus"] == pytest.approx(distance.mean(), rel=1e-5)


def test_correlation_is_that_of_departures_from_the_mean(store):
    predicted = truth(store)
    predicted["ua"] = 100 - 2 * predicted["ua"]
    predicted["va"] = 100 + 2 * predicted["va"]
    predicted["cl"][:] = 0.5
    acc = score(predicted, store)["acc"]
    assert acc["ua"] == pytest.approx(-1, abs=1e-4)
    assert acc["va"] == pytest.approx(1, abs=1e-4)
    assert acc["cl"] == pytest.approx(0, abs=1e-4)


def test_errors_of_shared_planets_are_relative_to_the_disagreement(store):
    predicted = truth(store, "shared_planets")
    # ExoCAM and the UM differ by 10 on the planet of 10 and 11, by 5 on that of 16 and 12.
    errors = {"10": 4, "11": 2, "12": 1, "16": 3}
    offsets = np.asarray([errors[name] for name in protocol_planets(store, "shared_planets")], np.float32)
    for name in ("rst", "ta"):
        predicted[name] += offsets.reshape(4, 1, 1, 1, 1, 1)
    # The top level, which simulation 10 lacks, counts for neither model.
    predicted["ta"][1, :, :, 0] += 1000
    relative = score(predicted, store, "shared_planets")["relative_rmse"]
    assert relative["rst"] == pytest.approx(((4 + 2) / 2 / 10 + (1 + 3) / 2 / 5) / 2, rel=1e-4)
    assert relative["ta"] == pytest.approx(relative["rst"], rel=1e-4)
    assert relative["ts"] == pytest.approx(0, abs=1e-6)


def test_levels_are_averaged_before_the_division(store):
    predicted = truth(store, "shared_planets")
    predicted["va"][:, :, :, 4] += 20
    # One level in ten is off by 20; the models disagree by 10 and by 5 on all.
    expected = (20 / 10 / 10 + 20 / 10 / 5) / 2
    assert score(predicted, store, "shared_planets")["relative_rmse"]["va"] == pytest.approx(expected, rel=1e-4)


def test_correlation_of_shared_planets_is_relative_too(store):
    predicted = truth(store, "shared_planets")
    predicted["ua"][:2] *= -1
    relative = score(predicted, store, "shared_planets")["relative_acc"]
    # The models' patterns are the same: the first planet's are predicted upside down, the second's as they are.
    assert relative["ua"] == pytest.approx(0, abs=1e-4)
    assert relative["va"] == pytest.approx(1, abs=1e-4)


def test_published_ratios_have_the_published_means():
    means = {method: np.mean(values) for method, values in PUBLISHED["relative_rmse"]["multi-partial"].items()}
    assert means == pytest.approx({"GPLFR": 0.637, "PCA-MLP": 0.790, "kNN": 1.053}, abs=6e-4)
    assert all(len(v) == 8 for subsets in PUBLISHED.values() for methods in subsets.values() for v in methods.values())


def test_a_table_has_the_published_scores_beside(store):
    predicted = truth(store)
    predicted["ts"] += 3
    lines = render(score(predicted, store)).splitlines()
    assert lines[0] == "rmse on 5 simulations of multi-partial"
    assert lines[1].split() == list(VARIABLES)
    assert re.fullmatch(r"this model +3\.000( +0\.000){7}", lines[2])
    assert lines[3].split() == ["GPLFR", "10.690", "8.630", "0.459", "0.050", "9.910", "4.310", "25.800", "17.400"]
    relative = render(score(truth(store, "shared_planets"), store, "shared_planets")).splitlines()
    assert relative[1].split() == [*VARIABLES, "mean"]
    assert float(relative[3].split()[-1]) == pytest.approx(0.637, abs=1e-3)


def test_refuses_what_cannot_be_scored(store, dataset, tmp_path):
    predicted = truth(store)
    with pytest.raises(ValueError, match=r"ta: predicted \(5, 1, 1, 9, 32, 64\), true \(5, 1, 1, 10, 32, 64\)"):
        score(predicted | {"ta": predicted["ta"][:, :, :, 1:]}, store)
    del predicted["cl"]
    with pytest.raises(ValueError, match="cl: not predicted"):
        score(predicted, store)
    with pytest.raises(RequestError, match="no protocol shared; there are standard, shared_planets"):
        score(predicted, store, "shared")
    single = convert_thousand_worlds(dataset, tmp_path / "single", "single-complete")
    with pytest.raises(RequestError, match="single-complete has no protocol shared_planets"):
        score(predicted, single, "shared_planets")
    other = convert([str(write_run(tmp_path / "planet00_epoch0.nc"))], tmp_path / "other", workers=1)
    with pytest.raises(RequestError, match="not a store of ThousandWorlds"):
        score(predicted, other)
