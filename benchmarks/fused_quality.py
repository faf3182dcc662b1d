"""What a model loses by being trained in half the memory of its weights alone: the fused step beside AdamW.

python -m benchmarks.fused_quality

The default preset, 500 steps. One side is AdamW on float32 weights; the other the fused step, which sees each layer's
gradient once and forgets it, with factored statistics and bfloat16 weights that are rounded stochastically. Both
compute in float32, start from the same draw, read the same batches, and may choose their learning rate from the same
grid by validation loss. Each side's best run is then judged on text neither has seen.
"""

import argparse
import tempfile
from pathlib import Path

from astrojax.parallel.host import restart_with_huge_pages

SIDES = {
    "adamw_float32": {"optimizer": "adamw"},
    "fused_bfloat16": {"optimizer": "fused_adafactor", "model.precision.params": "bfloat16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 4e-3, 8e-3])
    flags = parser.parse_args()

    import jax

    from benchmarks.record import RESULTS, save_result

    with tempfile.TemporaryDirectory() as folder:
        runs = {side: [train(Path(folder), side, rate, flags.steps) for rate in flags.rates] for side in SIDES}
        best = {side: min(tried, key=lambda run: run["validation"]) for side, tried in runs.items()}
        for run in best.values():
            run["heldout_bits_per_byte"] = heldout_bits_per_byte(run.pop("workdir"))
    for tried in runs.values():
        for run in tried:
            run.pop("workdir", None)
    curves = {side: run["validation_curve"] for side, run in best.items()}
    print(f"\nvalidation bits per byte\n{'step':>6}", *(f"{side:>16}" for side in best))
    for points in zip(*curves.values(), strict=True):
        print(f"{points[0][0]:>6}", *(f"{value:>16.4f}" for _, value in points))
    for side, run in best.items():
        print(f"{side}: rate {run['rate']:g}, {run['heldout_bits_per_byte']:.4f} bits per byte of held-out text")
    ratio = best["fused_bfloat16"]["heldout_bits_per_byte"] / best["adamw_float32"]["heldout_bits_per_byte"]
    print(f"fused over AdamW: {ratio:.4f}")
    figures = {"steps": flags.steps, "rates": flags.rates, "fused_over_adamw": ratio, "best": best, "runs": runs}
    print("written to", save_result("fused_quality", figures, {"jax": jax.__version__}))
    plot(curves, best, RESULTS / "fused_quality.png")


def train(folder: Path, side: str, rate: float, steps: int) -> dict:
    """One run: its rate, its last validation figure and its curve."""
    from astrojax import config as configs
    from astrojax.tasks import make_task
    from astrojax.train import loop
    from astrojax.train.metrics import read_metrics

    overrides = SIDES[side] | {
        "optimizer.peak_lr": str(rate),
        "train.steps": str(steps),
        "train.validate_every": str(max(steps // 10, 1)),
        "checkpoint.every_steps": str(steps),
        "logging.tensorboard": "false",
    }
    workdir = folder / f"{side}-{rate:g}"
    print(f"\n{side} at {rate:g}")
    loop.train(make_task(configs.override(configs.load_config("configs/llm.py"), overrides)), workdir)
    records = read_metrics(workdir)
    curve = [(r["step"], r["validation_bits_per_byte"]) for r in records if "validation_bits_per_byte" in r]
    return {
        "rate": rate,
        "validation": curve[-1][1],
        "skipped": records[-1]["skipped"],
        "validation_curve": curve,
        "training_curve": [(r["step"], r["loss"]) for r in records],
        "workdir": str(workdir),
    }


def heldout_bits_per_byte(workdir: str) -> float:
    """The score of a run's last checkpoint on the held-out documents, as the evaluation takes it."""
    import jax

    from astrojax.evaluation.language import score_text
    from astrojax.runs import load_run

    run = load_run(workdir)
    with jax.set_mesh(run.mesh):
        return score_text(run.task, run.params, run.mesh, run.task.stores["heldout"])["bits_per_byte"]


def plot(curves: dict, best: dict, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (side, points), color in zip(curves.items(), ("#1f5a94", "#d1661f"), strict=True):
        label = f"{side.replace('_', ', ')}: {best[side]['heldout_bits_per_byte']:.3f} held out"
        axes.plot([step for step, _ in points], [value for _, value in points], "o-", color=color, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("validation bits per byte")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
