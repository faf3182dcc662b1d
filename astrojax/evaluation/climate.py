"""How good a climate model is on planets it has never seen, beside baselines fitted on the same planets."""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from astrojax.console import say
from astrojax.data import boundary, cubes
from astrojax.evaluation import climate_metrics as metrics
from astrojax.evaluation import thousand_worlds
from astrojax.evaluation.climate_baselines import BASELINES, fit_and_predict
from astrojax.evaluation.climate_metrics import Climates
from astrojax.evaluation.climate_report import write_report
from astrojax.files import write_atomically
from astrojax.physics.thermodynamics import dry_surface_pressure

_SCORES = ("rmse", "bias", "acc", "r2")


def evaluate(task, params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
    """Scores the held-out planets, or the runs that ``data.eval_glob`` names; writes ``eval/metrics.json``, maps,
    sections and scatter plots as PNG, and ``eval/index.html``.

    Baselines see what the network sees and are fitted on its training planets. A forecast has two of its own instead:
    the last months it was shown, and their mean.
    """
    data, folder = task.config.data, workdir / "eval"
    with tempfile.TemporaryDirectory() as scratch:
        if data.eval_glob:
            request = cubes.Request.like(task.store)  # The grid and levels the model was trained on.
            store = cubes.convert([data.eval_glob], Path(scratch) / "eval.zarr", request)
            planets = store.planets
        else:
            store, planets = task.store, task.store.split["heldout"]
        predicted_cubes = task.predict(params, mesh, store, planets)
        if jax.process_index():
            return {}
        truth = climates(store, planets, data)
    train = climates(task.store, task.train_planets, data)
    predicted = {name: _samples(cube, store.present[store.index(planets)]) for name, cube in predicted_cubes.items()}
    hidden = _only_predicted(truth, predicted)
    climatology = {name: np.nanmean(field, axis=0) for name, field in train.fields.items()}
    folder.mkdir(parents=True, exist_ok=True)

    result: dict[str, Any] = {
        "step": step,
        "runs": data.eval_glob or "held-out split",
        "objective": task.config.objective,
        "planets": list(planets),
        "train_planets": list(task.train_planets),
        **metrics.scores(hidden, predicted, climatology),
        **_budgets(hidden, predicted, task.store),
        "baselines": {},
        "weather_noise": metrics.weather_noise(truth),
    }
    say(f"fitting baselines on {len(task.train_planets)} planets")
    for name, fields in _baselines(task, train, truth, hidden):
        scores = metrics.scores(hidden, fields, climatology)
        result["baselines"][name] = {score: scores[score] for score in _SCORES}
        say(f"  {name}: {scores['rmse'].get('ts', float('nan')):.2f} K in surface temperature")
    if store.provenance["request"].get("dataset") == thousand_worlds.DATASET:
        result["thousand_worlds"] = _benchmark_scores(predicted_cubes, planets, store)
    write_atomically(folder / "metrics.json", json.dumps(result, indent=2).encode() + b"\n")
    units = {v.name: v.units for group in task.store.layout.variables.values() for v in group}
    write_report(folder, result, hidden, predicted, units)
    return _summary(result)


def climates(store: cubes.CubeStore, planets: tuple[str, ...], data) -> Climates:
    """The planet-epochs of ``planets`` that a store has, with the inputs that a model of ``data`` sees."""
    inputs = boundary.make_boundary(store, data.parameters)
    index = store.index(planets)
    present = store.present[index]
    return Climates(
        planets=tuple(name for name, row in zip(planets, present, strict=True) for there in row if there),
        epochs=np.concatenate([np.flatnonzero(row) for row in present]),
        parameter_names=inputs.parameter_names,
        parameters=inputs.parameters[index][present],
        boundary_names=boundary.MAPS,
        boundary=_samples(np.moveaxis(inputs.maps[index][..., 0, :, :], 1, 3), present),
        fields={name: _samples(store.read_variable(name)[index], present) for name in data.variables},
        lev=store.lev,
        grid=store.grid,
    )


def _samples(cube: np.ndarray, present: np.ndarray) -> np.ndarray:
    """``[planet, climate_time, geological_time, ...]`` as ``[n, climate_time, ...]`` of the epochs that there are."""
    return np.moveaxis(cube, 2, 1)[present]


def _only_predicted(truth: Climates, predicted: dict[str, np.ndarray]) -> Climates:
    """The truth without what the model was shown."""
    fields = {name: np.where(np.isnan(predicted[name]), np.nan, field) for name, field in truth.fields.items()}
    return Climates(**{**vars(truth), "fields": fields})


def _budgets(truth: Climates, predicted: dict[str, np.ndarray], store: cubes.CubeStore) -> dict[str, float]:
    budgets = {}
    if {"rst", "rlut"} <= predicted.keys():
        budgets["energy_residual_W_m2"] = metrics.energy_residual(truth, predicted)
    if {"ps", "hus"} <= predicted.keys() and store.level_kind == "sigma":
        dry = [
            np.asarray(dry_surface_pressure(fields["ps"][:, :, 0], fields["hus"], store.lev_edges))
            for fields in (predicted, truth.fields)
        ]
        budgets["mass_residual"] = metrics.mass_residual(*dry, store.grid)
    return budgets


def _baselines(task, train: Climates, truth: Climates, hidden: Climates):
    """Names and predictions of what the model has to beat."""
    if task.config.objective == "forecast":
        months = task.config.observed_months
        shown = {name: field[:, :months] for name, field in truth.fields.items()}
        yield "persistence", {n: _repeated(field[:, -1:], truth.fields[n].shape) for n, field in shown.items()}
        yield (
            "observed_mean",
            {n: _repeated(field.mean(1, keepdims=True), truth.fields[n].shape) for n, field in shown.items()},
        )
    if task.config.objective == "complete":
        yield "other_epochs", {name: _mean_of_other_epochs(truth, field) for name, field in truth.fields.items()}
    for name in BASELINES:
        yield name, fit_and_predict(name, train, truth, tuple(hidden.fields))


def _benchmark_scores(predicted: dict[str, np.ndarray], planets: tuple[str, ...], store: cubes.CubeStore):
    """By the metrics of ThousandWorlds, printed beside what its authors published."""
    scores = {}
    for protocol, part in thousand_worlds.PROTOCOLS.items():
        if part in store.split:
            places = [planets.index(planet) for planet in store.split[part]]
            part_predicted = {name: field[places] for name, field in predicted.items()}
            scores[protocol] = thousand_worlds.score(part_predicted, store, protocol)
            say(thousand_worlds.render(scores[protocol]))
    return scores


def _repeated(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(field, shape)


def _mean_of_other_epochs(truth: Climates, field: np.ndarray) -> np.ndarray:
    """For each climate the mean of its planet's other epochs; of all planets where it has no other."""
    planets, result = np.asarray(truth.planets), np.empty_like(field)
    for i, planet in enumerate(planets):
        others = (planets == planet) & (np.arange(len(planets)) != i)
        result[i] = field[others].mean(0) if others.any() else field.mean(0)
    return result


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """What a person reads at the end of a run: each variable beside the best baseline."""
    lines: dict[str, Any] = {key: result[key] for key in ("step", "runs")}
    for name, rmse in result["rmse"].items():
        best = min(result["baselines"], key=lambda baseline: result["baselines"][baseline]["rmse"][name])
        lines[f"rmse_{name}"] = [rmse, f"best baseline ({best})", result["baselines"][best]["rmse"][name]]
    lines |= {
        f"r2_{name}": [result["r2"][name], "of time means", result["time_mean_r2"][name]] for name in result["r2"]
    }
    return lines | {key: result[key] for key in ("energy_residual_W_m2", "mass_residual") if key in result}
