"""The climate emulator and its baselines on every shipped planet, each held out once.

python -m benchmarks.climate_folds --workdir runs/folds

Trains and evaluates `configs/datacube.py` with each of the five folds held out in turn; finished runs in the workdir
are not repeated. Errors are pooled over all planets, whose epochs count alike.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from astrojax.data import cubes
from astrojax.evaluation.climate_metrics import bootstrap_ratio
from astrojax.runs import load_run
from benchmarks.evaluated import evaluation_of
from benchmarks.record import save_result

FOLDS = range(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="where the runs go")
    flags, more = parser.parse_known_args()
    evaluations = [
        evaluation_of(flags.workdir / str(fold), "configs/datacube.py", f"--config.data.fold={fold}", *more)
        for fold in FOLDS
    ]
    store = load_run(flags.workdir / "0").task.store
    epochs = Counter({planet: int(there.sum()) for planet, there in zip(store.planets, store.present, strict=True)})
    rmse, beside, r2 = {}, {}, {}
    for variable in evaluations[0]["rmse"]:
        squares = {name: _squares(evaluations, name, variable, epochs) for name in evaluations[0]["planet_rmse"]}
        rmse[variable] = {name: math.sqrt(row.sum() / epochs.total()) for name, row in squares.items()}
        best = min((name for name in rmse[variable] if name != "network"), key=rmse[variable].get)
        ratio, low, high = bootstrap_ratio(squares["network"], squares[best])
        beside[variable] = {"baseline": best, "ratio": ratio, "interval95": [low, high]}
        variance = _variance(store, variable)
        r2[variable] = {name: 1 - error**2 / variance for name, error in rmse[variable].items()}
        errors = f"{rmse[variable]['network']:10.4g}  {best} {rmse[variable][best]:.4g}"
        print(f"{variable:7}{errors}  R2 {r2[variable]['network']:.3f}")
    figures = {
        "planets": len(epochs),
        "rmse": rmse,
        "rmse_over_best_baseline": beside,
        "r2": r2,
        "folds": [{key: e[key] for key in ("planets", "rmse", "r2", "planet_rmse")} for e in evaluations],
    }
    print("written to", save_result("climate_folds", figures, {"jax": jax.__version__}))


def _squares(evaluations: list[dict], name: str, variable: str, epochs: Counter) -> np.ndarray:
    """Of every planet the sum over its epochs of squared errors."""
    errors = [e["planet_rmse"][name][variable] for e in evaluations]
    return np.asarray([epochs[planet] * error**2 for fold in errors for planet, error in fold.items()])


def _variance(store: cubes.CubeStore, variable: str) -> float:
    """Of a variable over all planets, epochs, months, levels and cells, about its one mean."""
    climates = np.moveaxis(store.read_variable(variable), 2, 1)[store.present].astype(np.float64)
    weights = np.broadcast_to(store.grid.areas, climates.shape)
    mean = np.average(climates, weights=weights)
    return float(np.average((climates - mean) ** 2, weights=weights))


if __name__ == "__main__":
    main()
