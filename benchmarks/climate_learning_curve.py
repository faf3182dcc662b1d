"""How much the climate emulator and its baselines gain from every planet they learn from.

python -m benchmarks.climate_learning_curve --workdir runs/learning-curve

Trains `configs/datacube.py` on 4, 8 and all 15 training planets and evaluates on the same held-out planets; finished
runs in the workdir are not repeated. Draws R2 of surface temperature.
"""

import argparse
from pathlib import Path

import jax

from astrojax.evaluation.climate_plots import learning_curve
from benchmarks.evaluated import evaluation_of
from benchmarks.record import RESULTS, save_result

NUM_PLANETS = (4, 8, 15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="where the runs go")
    flags, more = parser.parse_known_args()
    evaluations = [
        evaluation_of(
            flags.workdir / str(number), "configs/datacube.py", f"--config.data.num_train_planets={number}", *more
        )
        for number in NUM_PLANETS
    ]
    curves = {"network": [e["r2"]["ts"] for e in evaluations]}
    curves |= {name: [e["baselines"][name]["r2"]["ts"] for e in evaluations] for name in evaluations[0]["baselines"]}
    label = "R² of surface temperature (from 0)"
    learning_curve(RESULTS / "climate_learning_curve.png", NUM_PLANETS, curves, label, bottom=0)
    figures = {"num_planets": NUM_PLANETS, "r2_ts": curves, "rmse": [e["rmse"] for e in evaluations]}
    print("written to", save_result("climate_learning_curve", figures, {"jax": jax.__version__}))


if __name__ == "__main__":
    main()
