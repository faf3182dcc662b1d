"""How good a climate model is on planets it has never seen, beside baselines fitted on the same planets."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from astrojax.console import say
from astrojax.data import boundary, cubes
from astrojax.errors import RequestError, RunError
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

    Baselines see what the network sees and are fitted on its training planets. A forecast has two more, the last month
    it was shown and the mean of those, a completion one: the mean of the planet's other epochs.

    Raises:
        RequestError: ``data.eval_glob`` names no files, or such that do not fit the model.
        RunError: the model predicts something that is not finite.
    """
    data, folder = task.config.data, workdir / "eval"
    with tempfile.TemporaryDirectory() as scratch:
        if data.eval_glob:
            # The grid and levels the model was trained on, and no more variables than it needs.
            request = cubes.Request(grid=task.store.grid, levels=task.store.layout.levels, variables=_needed(task))
            store = cubes.convert([data.eval_glob], Path(scratch) / "eval.zarr", request)
            if not _same_year(store, task.store):
                months, known = (len(s.climate_time_edges) - 1 for s in (store, task.store))
                raise RequestError(f"{data.eval_glob}: {months} times of a year; the model knows another {known}")
            planets = store.planets
        else:
            store, planets = task.store, task.store.split["heldout"]
        member_cubes = task.predict_members(params, mesh, store, planets)
        if jax.process_index():
            return {}
        truth = climates(task, store, planets)
    train = climates(task, task.store, task.train_planets)
    predicted_cubes = {name: members.mean(axis=0) for name, members in member_cubes.items()}
    present = store.present[store.index(planets)]
    predicted = {name: _samples(cube, present) for name, cube in predicted_cubes.items()}
    shown = task.config.observed_months if task.config.objective == "forecast" else 0
    for name, field in predicted.items():
        if not np.isfinite(field[:, shown:]).all():
            raise RunError(f"step {step} predicts {name} that is not finite")
    hidden = _without(truth, shown)
    climatology = {name: np.nanmean(field, axis=0) for name, field in train.fields.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for picture in folder.glob("*.png"):  # Those of an earlier evaluation may be of other planets.
        picture.unlink()

    result: dict[str, Any] = {
        "step": step,
        "runs": data.eval_glob or "held-out split",
        "objective": task.config.objective,
        "planets": list(planets),
        "train_planets": list(task.train_planets),
        "learnt_planets": (learnt := sorted(set(planets) & set(task.train_planets))),
        **metrics.scores(hidden, predicted, climatology),
        "planet_rmse": {"network": metrics.planet_rmse(hidden, predicted)},
        **_budgets(hidden, predicted, task.store),
        "baselines": {},
        "weather_noise": metrics.weather_noise(train),
    }
    if learnt:
        say(f"warning: learnt from, so their errors say little: {', '.join(learnt)}")
    if task.config.members > 1:
        ensembles = {n: np.stack([_samples(cube, present) for cube in members]) for n, members in member_cubes.items()}
        result["spread_skill"] = {
            name: metrics.spread_skill(ensemble, hidden.fields[name], truth.grid)
            for name, ensemble in ensembles.items()
        }
    say(f"fitting baselines on {len(task.train_planets)} planets")
    baselines = {}
    for name, fields in _baselines(task, train, truth, climatology):
        baselines[name] = fields
        scores = metrics.scores(hidden, fields, climatology)
        result["baselines"][name] = {score: scores[score] for score in _SCORES}
        result["planet_rmse"][name] = metrics.planet_rmse(hidden, fields)
        say(f"  {name}: {scores['rmse'].get('ts', float('nan')):.2f} K in surface temperature")
    result["rmse_over_best_baseline"] = _beside_the_best(result, hidden, predicted, baselines)
    if store.provenance["request"].get("dataset") == thousand_worlds.DATASET:
        result["thousand_worlds"] = _benchmark_scores(predicted_cubes, planets, store)
    write_atomically(folder / "metrics.json", json.dumps(result, indent=2).encode() + b"\n")
    units = {v.name: v.units for group in task.store.layout.variables.values() for v in group}
    write_report(folder, result, hidden, predicted, units)
    return _summary(result)


def climates(task, store: cubes.CubeStore, planets: tuple[str, ...]) -> Climates:
    """The planet-epochs of ``planets`` that a store has, with the inputs that the task's model sees."""
    inputs = task.boundary_of(store)
    index = store.index(planets)
    present = store.present[index]
    return Climates(
        planets=tuple(name for name, row in zip(planets, present, strict=True) for there in row if there),
        epochs=np.asarray(store.epochs)[np.concatenate([np.flatnonzero(row) for row in present])],
        parameter_names=inputs.parameter_names,
        parameters=inputs.parameters[index][present],
        boundary_names=boundary.MAPS,
        boundary=_samples(np.moveaxis(inputs.maps[index][..., 0, :, :], 1, 3), present),
        fields={name: _samples(store.read_variable(name)[index], present) for name in task.config.data.variables},
        lev=store.lev,
        grid=store.grid,
    )


def _samples(cube: np.ndarray, present: np.ndarray) -> np.ndarray:
    """``[planet, climate_time, geological_time, ...]`` as ``[n, climate_time, ...]`` of the epochs that there are."""
    return np.moveaxis(cube, 2, 1)[present]


def _needed(task) -> tuple[str, ...]:
    held = {name for names in task.store.variables.values() for name in names}
    return (*task.config.data.variables, *(name for name in ("rsdt", "sftlf", "orog") if name in held))


def _same_year(store: cubes.CubeStore, other: cubes.CubeStore) -> bool:
    edges = store.climate_time_edges, other.climate_time_edges
    return len(edges[0]) == len(edges[1]) and np.allclose(*edges, atol=5e-3)


def _without(truth: Climates, months: int) -> Climates:
    """The truth without the first months, which the model was shown."""
    later = np.arange(truth.boundary.shape[1])[:, None, None, None] >= months
    return dataclasses.replace(truth, fields={n: np.where(later, f, np.nan) for n, f in truth.fields.items()})


def _budgets(hidden: Climates, predicted: dict[str, np.ndarray], store: cubes.CubeStore) -> dict[str, float | None]:
    """Of the climates and months in which the truth is whole; None where it never is."""
    budgets: dict[str, float | None] = {}
    months = np.isfinite(next(iter(predicted.values()))).all((0, 2, 3, 4))

    def whole(names: tuple[str, ...]):
        true = {name: hidden.fields[name][:, months] for name in names}
        kept = np.all([np.isfinite(field).all((1, 2, 3, 4)) for field in true.values()], axis=0)
        fields = {name: field[kept] for name, field in true.items()}
        mine = {name: predicted[name][:, months][kept] for name in names}
        return (dataclasses.replace(hidden.select(np.flatnonzero(kept)), fields=fields), mine) if kept.any() else None

    if {"rst", "rlut"} <= predicted.keys():
        pair = whole(("rst", "rlut"))
        budgets["energy_residual_W_m2"] = pair and metrics.energy_residual(*pair)
    if {"ps", "hus"} <= predicted.keys():
        pair = whole(("ps", "hus"))
        dry = pair and [
            np.asarray(dry_surface_pressure(fields["ps"][:, :, 0], fields["hus"], store.lev_edges))
            for fields in (pair[1], pair[0].fields)
        ]
        budgets["mass_residual"] = dry and metrics.mass_residual(*dry, store.grid)
    return budgets


def _baselines(task, train: Climates, truth: Climates, climatology: dict[str, np.ndarray]):
    """Names and predictions of what the model has to beat."""
    if task.config.objective == "forecast":
        shown = {name: field[:, : task.config.observed_months] for name, field in truth.fields.items()}
        for name, months in (("persistence", slice(-1, None)), ("observed_mean", slice(None))):
            yield name, {v: _in_place_of(climatology[v], _mean(f[:, months], 1, True)) for v, f in shown.items()}
    if task.config.objective == "complete":
        fields = truth.fields.items()
        yield "other_epochs", {v: _in_place_of(climatology[v], _mean_of_other_epochs(truth, f)) for v, f in fields}
    for name in BASELINES:
        yield name, fit_and_predict(name, train, truth, tuple(truth.fields))


def _mean(field: np.ndarray, axis: int, keepdims: bool = False) -> np.ndarray:
    """Over what there is; NaN where there is nothing."""
    known = np.isfinite(field)
    count = known.sum(axis, keepdims=keepdims)
    total = np.where(known, field, 0).sum(axis, keepdims=keepdims)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _in_place_of(climatology: np.ndarray, field: np.ndarray) -> np.ndarray:
    """``field`` where it is known, else the training planets' mean."""
    return np.where(np.isfinite(field), field, climatology)


def _mean_of_other_epochs(truth: Climates, field: np.ndarray) -> np.ndarray:
    """For each climate the mean of its planet's other epochs; NaN where it has none."""
    planets, result = np.asarray(truth.planets), np.full(field.shape, np.nan)
    for i, planet in enumerate(planets):
        result[i] = _mean(field[(planets == planet) & (np.arange(len(planets)) != i)], 0)
    return result


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


def _beside_the_best(result, hidden: Climates, predicted, baselines) -> dict[str, dict[str, Any]]:
    """Of each variable the baseline with the smallest RMSE, and the model's RMSE over it with its 95 % interval."""
    beside = {}
    for variable in predicted:
        best = min(baselines, key=lambda name: result["baselines"][name]["rmse"][variable])
        ours, theirs = ({variable: fields[variable]} for fields in (predicted, baselines[best]))
        ratio, low, high = metrics.rmse_ratio(hidden, ours, theirs)[variable]
        beside[variable] = {"baseline": best, "ratio": ratio, "interval95": [low, high]}
    return beside


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """What a person reads at the end of a run: each variable beside the best baseline."""
    lines: dict[str, Any] = {key: result[key] for key in ("step", "runs")}
    for name, rmse in result["rmse"].items():
        best = result["rmse_over_best_baseline"][name]["baseline"]
        lines[f"rmse_{name}"] = [rmse, f"best baseline ({best})", result["baselines"][best]["rmse"][name]]
    lines |= {
        f"r2_{name}": [result["r2"][name], "of time means", result["time_mean_r2"][name]] for name in result["r2"]
    }
    return lines | {key: result[key] for key in ("energy_residual_W_m2", "mass_residual") if key in result}
