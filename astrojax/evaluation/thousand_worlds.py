"""The scores of the ThousandWorlds benchmark (Stevenson et al. 2026, arXiv 2606.18338), beside those published.

They differ from those of :mod:`astrojax.evaluation.climate_metrics` in what is averaged when: the root is taken of each
field's mean squared error over the sphere, then the mean over the simulations that have the field, then over a
variable's levels. Specific humidity is its decimal logarithm, with a floor of 1e-12, so that its errors are in dex. The
anomaly correlation is that of a field's departures from its own mean over the sphere.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from astrojax.data.cubes.store import CubeStore
from astrojax.data.thousand_worlds import DATASET
from astrojax.errors import RequestError
from astrojax.physics.grid import Grid, area_mean

# The benchmark's order, with its units.
VARIABLES = {
    "ts": "K",
    "ta": "K",
    "hus": "dex",
    "cl": "1",
    "ua": "m s-1",
    "va": "m s-1",
    "rst": "W m-2",
    "rlut": "W m-2",
}
PROTOCOLS = {"standard": "heldout", "shared_planets": "shared_planets"}

# Score, subset and method to the numbers of the variables in their order; the mean of five seeds (kNN has none) of
# results/scores_5seeds.csv in github.com/edstevenson/ThousandWorlds. PCA-MLP is the best of the neural networks.
PUBLISHED: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "rmse": {
        "single-complete": {
            "GPLFR": (11.18, 8.90, 0.510, 0.080, 7.18, 3.47, 29.7, 19.1),
            "PCA-MLP": (12.92, 10.39, 0.599, 0.094, 9.45, 4.28, 30.6, 20.7),
            "kNN": (13.41, 11.18, 0.608, 0.090, 8.88, 3.92, 31.7, 21.9),
        },
        "multi-complete": {
            "GPLFR": (11.52, 8.84, 0.463, 0.054, 8.93, 4.38, 26.2, 17.5),
            "PCA-MLP": (13.10, 10.24, 0.531, 0.063, 9.97, 4.86, 32.1, 20.3),
            "kNN": (23.17, 18.45, 0.883, 0.073, 10.51, 4.83, 32.8, 26.3),
        },
        "multi-partial": {
            "GPLFR": (10.69, 8.63, 0.459, 0.050, 9.91, 4.31, 25.8, 17.4),
            "PCA-MLP": (12.70, 10.52, 0.551, 0.065, 12.02, 5.22, 37.4, 20.5),
            "kNN": (20.54, 16.49, 0.880, 0.070, 11.36, 4.76, 37.8, 27.0),
        },
    },
    "relative_rmse": {
        "multi-partial": {
            "GPLFR": (0.7642, 0.6871, 0.6410, 0.3054, 0.7441, 0.7344, 0.6036, 0.6122),
            "PCA-MLP": (0.8742, 0.8294, 0.7547, 0.4299, 0.9181, 0.9035, 0.8974, 0.7158),
            "kNN": (1.4198, 1.3530, 1.3127, 0.4725, 0.8276, 0.8438, 1.0558, 1.1375),
        },
    },
}

_HUMIDITY_FLOOR = 1e-12
# Keeps the correlation of a uniform field, such as a cloudless level, from being 0 / 0: it is 0.
_NO_VARIANCE = 1e-12
# Models that differ by less than this do not disagree, and nothing is relative to it.
_AGREEMENT = 1e-6


def protocol_planets(store: CubeStore, protocol: str = "standard") -> tuple[str, ...]:
    """The planets of ``store`` that a protocol tests on, in the order in which :func:`score` takes predictions.

    Raises:
        RequestError: the store is not of ThousandWorlds, or its subset does not have the protocol.
    """
    if store.provenance["request"].get("dataset") != DATASET:
        raise RequestError(f"{store.path}: not a store of {DATASET}")
    if protocol not in PROTOCOLS:
        raise RequestError(f"no protocol {protocol}; there are {', '.join(PROTOCOLS)}")
    if PROTOCOLS[protocol] not in store.split:
        raise RequestError(f"{store.path}: subset {_subset(store)} has no protocol {protocol}")
    return store.split[PROTOCOLS[protocol]]


def score(predicted: Mapping[str, np.ndarray], store: CubeStore, protocol: str = "standard") -> dict[str, Any]:
    """The benchmark's scores of predictions for :func:`protocol_planets`.

    - ``rmse``: in the units of ``VARIABLES``.
    - ``acc``: anomaly correlation.
    - ``relative_rmse``, ``relative_acc``, of shared planets: the mean of both models' scores over the score of one
      model as a prediction of the other, from the fields that both have; the mean over a variable's levels before the
      division and over planets after it.

    Args:
        predicted: ``[planet, 1, 1, lev, lat, lon]`` of each variable, in the units of the store.
        store: what :func:`astrojax.data.thousand_worlds.convert_thousand_worlds` made.
        protocol: ``"standard"`` or ``"shared_planets"``.

    Returns:
        ``subset``, ``protocol`` and ``num_simulations``, and of each score variable -> number; NaN where no simulation
        has the variable.

    Raises:
        RequestError: see :func:`protocol_planets`.
        ValueError: a variable is missing or of another shape than the truth; names it.
    """
    planets = protocol_planets(store, protocol)
    pairs = _pairs(store, planets) if protocol == "shared_planets" else None
    cubes = store.read(store.index(planets))
    truth = {name: cubes[group][:, v] for group, names in store.variables.items() for v, name in enumerate(names)}
    names = ("rmse", "acc") if pairs is None else ("rmse", "acc", "relative_rmse", "relative_acc")
    result: dict[str, Any] = {name: {} for name in names}
    for variable in VARIABLES:
        true = truth[variable]
        if variable not in predicted:
            raise ValueError(f"{variable}: not predicted")
        if predicted[variable].shape != true.shape:
            raise ValueError(f"{variable}: predicted {predicted[variable].shape}, true {true.shape}")
        known = np.isfinite(true).all((-2, -1))[:, 0, 0]
        true, mine = (_comparable(variable, field[:, 0, 0]) for field in (true, predicted[variable]))
        for name, compare in (("rmse", _rmse), ("acc", _correlation)):
            scores = compare(mine, true, store.grid)
            result[name][variable] = _variable_mean(scores, known)
            if pairs is not None:
                a, b = pairs.T
                disagreement = compare(true[a], true[b], store.grid)
                mean = (scores[a] + scores[b]) / 2
                result[f"relative_{name}"][variable] = _relative(mean, disagreement, known[a] & known[b])
    return {"subset": _subset(store), "protocol": protocol, "num_simulations": len(planets), **result}


def render(scores: Mapping[str, Any]) -> str:
    """A table of what :func:`score` returned, beside the published scores of its subset and protocol."""
    # Published are errors on the standard protocol, and relative errors on shared planets.
    name = "rmse" if scores["protocol"] == "standard" else "relative_rmse"
    rows = {"this model": tuple(scores[name].values())} | PUBLISHED[name].get(scores["subset"], {})
    columns = list(VARIABLES)
    if name == "relative_rmse":  # Ratios have a mean over variables.
        columns.append("mean")
        rows = {method: (*values, float(np.mean(values))) for method, values in rows.items()}
    return "\n".join(
        [
            f"{name} on {scores['num_simulations']} simulations of {scores['subset']}",
            " ".join([" " * 10, *(f"{column:>8}" for column in columns)]),
            *(" ".join([f"{method:<10}", *(f"{value:8.3f}" for value in values)]) for method, values in rows.items()),
        ]
    )


def _subset(store: CubeStore) -> str:
    return store.provenance["request"]["subset"]


def _pairs(store: CubeStore, planets: tuple[str, ...]) -> np.ndarray:
    """``[pair, 2]``: the places in ``planets`` of each shared planet's simulations by the target models."""
    places = {name: place for place, name in enumerate(planets)}
    return np.asarray([[places[name] for name in pair] for pair in store.provenance["shared_pairs"]])


def _comparable(variable: str, field: np.ndarray) -> np.ndarray:
    field = field.astype(np.float64)
    return np.log10(np.maximum(field, _HUMIDITY_FLOOR)) if variable == "hus" else field


def _rmse(a: np.ndarray, b: np.ndarray, grid: Grid) -> np.ndarray:
    """``[planet, lev]`` of fields ``[planet, lev, lat, lon]``."""
    return np.sqrt(area_mean((a - b) ** 2, grid))


def _correlation(a: np.ndarray, b: np.ndarray, grid: Grid) -> np.ndarray:
    """``[planet, lev]``: how alike the patterns of fields ``[planet, lev, lat, lon]`` are."""
    a, b = (field - area_mean(field, grid)[..., None, None] for field in (a, b))
    norms = np.sqrt(area_mean(a**2, grid) + _NO_VARIANCE) * np.sqrt(area_mean(b**2, grid) + _NO_VARIANCE)
    return area_mean(a * b, grid) / norms


def _variable_mean(scores: np.ndarray, known: np.ndarray) -> float:
    """The mean over levels of the mean over the planets that have the level."""
    count = known.sum(0)
    levels = count > 0
    if not levels.any():
        return float("nan")
    return float((np.where(known, scores, 0).sum(0)[levels] / count[levels]).mean())


def _relative(scores: np.ndarray, disagreement: np.ndarray, known: np.ndarray) -> float:
    """The mean over planets of the ratio of means over the levels that both models have."""
    count = known.sum(1)
    scores, disagreement = (
        np.where(known, values, 0).sum(1)[count > 0] / count[count > 0] for values in (scores, disagreement)
    )
    disagree = disagreement > _AGREEMENT
    return float((scores[disagree] / disagreement[disagree]).mean()) if disagree.any() else float("nan")
