"""How close predicted climates are to simulated ones, on planets never seen.

Climates, months and levels count alike and cells by their area; where the truth has no value (NaN) nothing counts.
"""

import dataclasses
import math

import numpy as np

from astrojax.physics.constraints import energy_imbalance
from astrojax.physics.grid import Grid, area_mean


@dataclasses.dataclass(frozen=True, eq=False)
class Climates:
    """Climates of planets at epochs, with what a model may see of each.

    Attributes:
        planets: ``n`` names; the epochs of a planet share one.
        epochs: ``[n]``.
        parameter_names: ``p`` names.
        parameters: ``[n, p]``, on scales on which equal steps matter alike (logarithms where they span decades).
        boundary_names: ``c`` names.
        boundary: ``[n, ct, c, lat, lon]``: insolation, land, orography and the like.
        fields: ``[n, ct, lev, lat, lon]`` of each variable, ``lev`` = 1 at the surface; NaN where there is no value.
        lev: ``[lev]``, the vertical coordinate of fields with levels.
        grid: the cells.
    """

    planets: tuple[str, ...]
    epochs: np.ndarray
    parameter_names: tuple[str, ...]
    parameters: np.ndarray
    boundary_names: tuple[str, ...]
    boundary: np.ndarray
    fields: dict[str, np.ndarray]
    lev: np.ndarray
    grid: Grid

    def select(self, samples) -> "Climates":
        """The climates at the positions ``samples``."""
        return dataclasses.replace(
            self,
            planets=tuple(self.planets[i] for i in samples),
            epochs=self.epochs[samples],
            parameters=self.parameters[samples],
            boundary=self.boundary[samples],
            fields={name: field[samples] for name, field in self.fields.items()},
        )


def scores(
    truth: Climates, predicted: dict[str, np.ndarray], climatology: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Scores over all climates, months, levels and cells together.

    - ``rmse``, ``bias``: root mean square and mean of predicted minus true, in the variable's unit.
    - ``acc``: correlation of the predicted with the true anomaly from ``climatology``, uncentred (no mean is taken off
      the anomalies) as in WeatherBench 2 (Rasp et al. 2024, arXiv 2308.15560). 0 where an anomaly vanishes.
    - ``r2``: 1 - SSE / SST, with SST about the truth's one mean over everything. NaN where the truth is uniform.
    - ``time_mean_r2``: ``r2`` of the means over the months.

    Args:
        truth: climates of planets never seen.
        predicted: ``[n, ct, lev, lat, lon]`` of each variable to score.
        climatology: mean of the training climates, ``[ct, lev, lat, lon]`` of each variable.

    Returns:
        Score -> variable -> number.

    Raises:
        ValueError: a prediction has another shape than the truth, or the truth has no value; names the variable.
    """
    result = {name: {} for name in ("rmse", "bias", "acc", "r2", "time_mean_r2")}
    for variable, forecast in predicted.items():
        true = truth.fields[variable]
        weights = _weights(variable, true, truth.grid)
        error = _difference(variable, forecast, true)
        true_anomaly, anomaly = (
            _difference(variable, x, climatology[variable], broadcast=True) for x in (true, forecast)
        )
        power = _mean(true_anomaly**2, weights) * _mean(anomaly**2, weights)
        result["rmse"][variable] = math.sqrt(_mean(error**2, weights))
        result["bias"][variable] = _mean(error, weights)
        result["acc"][variable] = _mean(true_anomaly * anomaly, weights) / math.sqrt(power) if power > 0 else 0.0
        result["r2"][variable] = _r2(error, true, weights)
        months = np.isfinite(true)
        true, error = (month_mean(x, months) for x in (true, error))
        result["time_mean_r2"][variable] = _r2(error, true, _weights(variable, true, truth.grid))
    return result


def energy_residual(truth: Climates, predicted: dict[str, np.ndarray]) -> float:
    """RMS over the climates of predicted minus true annual global mean of ``rst - rlut``, W m-2."""
    imbalances = [
        energy_imbalance(*(fields[name][:, :, 0].astype(np.float64) for name in ("rst", "rlut")), truth.grid).mean(
            axis=1
        )
        for fields in (predicted, truth.fields)
    ]
    return math.sqrt(np.mean((imbalances[0] - imbalances[1]) ** 2))


def mass_residual(predicted, true, grid: Grid) -> float:
    """RMS relative error of the atmosphere's dry mass over climates and months.

    Args:
        predicted: dry surface pressure, ``[n, ct, lat, lon]``, Pa.
        true: likewise.
        grid: the cells.
    """
    predicted, true = (area_mean(np.asarray(p, np.float64), grid) for p in (predicted, true))
    return math.sqrt(np.mean((predicted / true - 1) ** 2))


def spread_skill(ensemble: np.ndarray, true: np.ndarray, grid: Grid) -> dict[str, float]:
    """Spread of an ensemble and RMSE of its mean, which are equal where the ensemble is reliable.

    The spread is sqrt((M + 1) / M) times the root mean of the members' unbiased variance (Fortin et al. 2014, J.
    Hydrometeorol. 15, 1708, eq. 15): the truth differs from the mean of M members by more than members do.

    Args:
        ensemble: ``[member, n, ct, lev, lat, lon]``, two members or more.
        true: ``[n, ct, lev, lat, lon]``.
        grid: the cells.
    """
    members = len(ensemble)
    if members < 2:
        raise ValueError(f"an ensemble of {members} has no spread")
    weights = _weights("ensemble", true, grid)
    variance = ensemble.var(axis=0, ddof=1, dtype=np.float64)
    spread = math.sqrt((members + 1) / members * _mean(variance, weights))
    skill = math.sqrt(_mean(_difference("ensemble", ensemble.mean(axis=0, dtype=np.float64), true) ** 2, weights))
    return {"spread": spread, "skill": skill, "ratio": spread / skill if skill > 0 else math.inf}


def weather_noise(climates: Climates) -> dict[str, float]:
    """Root mean variance between the months of the climates without seasons, per variable.

    Their months differ by weather alone, which follows from no parameter: no emulator predicts these months with a
    lower RMSE. A climate without seasons has the same boundary maps in all months, to 0.1 %. Empty where there is none,
    or a single month.
    """
    boundary = climates.boundary
    span = np.ptp(boundary, axis=1).max(axis=(2, 3))
    still = np.flatnonzero((span <= 1e-3 * np.abs(boundary).max(axis=(1, 3, 4))).all(axis=1))
    if not still.size or boundary.shape[1] < 2:
        return {}
    result = {}
    for variable, field in climates.fields.items():
        months = field[still].astype(np.float64)
        variance = np.where(np.isfinite(months).all(axis=1), months.var(axis=1, ddof=1), np.nan)[:, None]
        result[variable] = math.sqrt(_mean(variance, _weights(variable, variance, climates.grid)))
    return result


def planet_rmse(truth: Climates, predicted: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """RMSE of each planet with all its epochs: variable -> planet -> number; no entry where the truth has no value."""
    names = list(dict.fromkeys(truth.planets))
    result = {}
    for variable, forecast in predicted.items():
        squares, weights = _planet_squares(truth, variable, forecast)
        known = np.flatnonzero(weights)
        result[variable] = {names[i]: math.sqrt(squares[i] / weights[i]) for i in known}
    return result


def rmse_ratio(
    truth: Climates, predicted: dict[str, np.ndarray], reference: dict[str, np.ndarray], resamples: int = 2000
) -> dict[str, tuple[float, float, float]]:
    """RMSE of ``predicted`` over that of ``reference`` with a 95 % interval: variable -> (ratio, low, high).

    The interval is the percentile bootstrap over planets, each with all its epochs; few planets make it too narrow.
    """
    return {
        variable: bootstrap_ratio(
            *(_planet_squares(truth, variable, fields[variable])[0] for fields in (predicted, reference)), resamples
        )
        for variable in predicted
    }


def bootstrap_ratio(ours: np.ndarray, theirs: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """The root of the ratio of two sums over planets, and its 95 % interval by percentile bootstrap over planets.

    Args:
        ours: sum of squared errors of each planet.
        theirs: likewise of what is compared with.
        resamples: how many sets of planets are drawn.

    Returns:
        ``(ratio, low, high)``.
    """
    drawn = np.random.default_rng(0).integers(len(ours), size=(resamples, len(ours)))
    low, high = np.quantile(np.sqrt(ours[drawn].sum(axis=1) / theirs[drawn].sum(axis=1)), (0.025, 0.975))
    return math.sqrt(ours.sum() / theirs.sum()), float(low), float(high)


def _planet_squares(truth: Climates, variable: str, forecast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sum of squared errors of each planet, and its share of the weights."""
    names = list(dict.fromkeys(truth.planets))
    planet = np.asarray([names.index(name) for name in truth.planets])
    true = truth.fields[variable]
    weights = _weights(variable, true, truth.grid)
    error = _difference(variable, forecast, true)
    squares, shares = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(squares, planet, np.sum(weights * np.where(weights > 0, error, 0) ** 2, axis=(1, 2, 3, 4)))
    np.add.at(shares, planet, weights.sum(axis=(1, 2, 3, 4)))
    return squares, shares


def month_mean(field: np.ndarray, present: np.ndarray) -> np.ndarray:
    """``[n, 1, lev, lat, lon]``: the mean over the months in which a cell is ``present``, NaN where it never is."""
    count = present.sum(axis=1, keepdims=True)
    total = np.where(present, field, 0).sum(axis=1, keepdims=True, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _difference(variable: str, forecast: np.ndarray, true: np.ndarray, broadcast: bool = False) -> np.ndarray:
    if not broadcast and forecast.shape != true.shape:
        raise ValueError(f"{variable}: predicted {forecast.shape}, true {true.shape}")
    return np.subtract(forecast, true, dtype=np.float64)


def _weights(variable: str, true: np.ndarray, grid: Grid) -> np.ndarray:
    """Cell areas, 0 where there is no value, that sum to 1 over everything."""
    weights = np.where(np.isfinite(true), grid.areas, 0)
    if not weights.any():
        raise ValueError(f"{variable}: there is no value to score against")
    return weights / weights.sum()


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.sum(weights * np.where(weights > 0, values, 0)))


def _r2(error: np.ndarray, true: np.ndarray, weights: np.ndarray) -> float:
    sst = _mean(np.subtract(true, _mean(true, weights), dtype=np.float64) ** 2, weights)
    return 1 - _mean(error**2, weights) / sst if sst > 0 else math.nan
