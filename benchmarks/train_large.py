"""Trains a large preset on the shipped corpus for a few steps and sets what was measured beside what was planned.

XLA_PYTHON_CLIENT_MEM_FRACTION=0.34 python -m benchmarks.train_large --preset 13b_aligned --topology h200:1

The fraction caps the allocator at 48 GiB of an H200's 141. Losses, tokens per second, model-FLOP utilisation, the peak
the allocator saw and the peak the compiler announced go to benchmarks/results/train_large.json.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from astrojax.parallel.topology import ACCELERATORS, parse_topology


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="13b_aligned")
    parser.add_argument("--topology", required=True, help="what this machine is, such as h200:1")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--workdir", type=Path, help="kept if given")
    flags, rest = parser.parse_known_args()

    with tempfile.TemporaryDirectory(prefix="astrojax-") as folder:
        measure(flags, rest, flags.workdir or Path(folder))


def measure(flags: argparse.Namespace, rest: list[str], workdir: Path) -> None:
    import jax

    from astrojax import config as configs
    from astrojax.plan import make_plan
    from astrojax.tasks import make_task
    from astrojax.train import loop
    from astrojax.train.metrics import read_metrics
    from benchmarks.record import save_result

    name, count = parse_topology(flags.topology)
    overrides = {
        "train.steps": str(flags.steps),
        "train.log_every": "1",
        "checkpoint.every_steps": str(flags.steps),
        "optimizer.warmup_steps": str(flags.steps),
    } | configs.parse_overrides(rest)
    config = configs.override(configs.load_config(f"configs/llm.py:{flags.preset}"), overrides)
    outcome = loop.train(make_task(config), workdir)
    records = read_metrics(workdir)
    rate = statistics.median(r["tokens_per_second"] for r in records if r["tokens_per_second"])
    planned = make_plan(config, name, count)
    figures = {
        "preset": flags.preset,
        "steps": outcome.step,
        "tokens_per_step": planned.units_per_step,
        "allocator_fraction": os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION"),
        "first_loss": records[0]["loss"],
        "last_loss": records[-1]["loss"],
        "tokens_per_second": rate,
        "measured_peak_bytes": records[-1]["memory_peak_bytes"],
        "planned_peak_bytes": planned.peak_bytes,
    }
    if name in ACCELERATORS:
        flops = planned.model_flops_per_step / planned.units_per_step * rate
        figures["model_flop_utilisation"] = flops / (count * ACCELERATORS[name].flops)
    for label, value in figures.items():
        print(f"  {label:<26} {value}")
    figures["losses"] = [r["loss"] for r in records]
    device = f"{count} x {jax.devices()[0].device_kind}"
    print("written to", save_result("train_large", figures, {"jax": jax.__version__}, device))


if __name__ == "__main__":
    main()
