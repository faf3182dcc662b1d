"""Compiled peak memory of the largest presets on machines that need not be there.

python -m benchmarks.plans                  # the language model
python -m benchmarks.plans datacube         # the climate emulator

Each row is what `python launch.py --config configs/llm.py:PRESET --mode plan --topology TOPOLOGY` prints, or that of
`configs/datacube.py`.
"""

import argparse
import os
import sys

_LLM = [
    ("13b", "rtx-a5000:2", {}),
    ("13b", "rtx-a5000:2", {"train.batch_size": "16"}),
    ("13b", "rtx-a5000:2", {"train.batch_size": "16", "optimizer.inputs_on_host": "true"}),
    ("13b_aligned", "rtx-a5000:2", {}),
    ("13b_aligned", "rtx-a5000:2", {"train.batch_size": "16"}),
    ("13b_aligned", "rtx-a5000:2", {"train.batch_size": "16", "optimizer.inputs_on_host": "true"}),
    ("13b", "rtx-a5000:2", {"optimizer": "adafactor"}),
    ("13b", "rtx-a5000:2", {"optimizer": "lion", "optimizer.moments": "int8"}),
    ("13b", "rtx-a5000:2", {"optimizer": "adamw", "optimizer.moments": "int8", "optimizer.moments_on_host": "true"}),
    ("13b", "rtx-a5000:2", {"optimizer": "adamw"}),
    ("13b_aligned", "h200:1", {}),
    ("13b", "tpu-v6e:2", {}),
    ("13b_aligned", "tpu-v6e:2", {}),
    ("13b", "tpu-v5e:4", {}),
    ("13b_aligned", "tpu-v5e:4", {}),
]
_DATACUBE = [
    ("2b5", "rtx-a5000:2", {}),
    ("2b5", "rtx-a5000:2", {"optimizer": "adamw"}),
    ("30m", "rtx-a5000:1", {}),
]
ROWS = {"llm": _LLM, "datacube": _DATACUBE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", choices=tuple(ROWS), default="llm")
    name = parser.parse_args().config

    import jax

    from astrojax import config as configs
    from astrojax.parallel.topology import parse_topology
    from astrojax.plan import make_plan
    from benchmarks.record import save_result

    rows = []
    columns = ("preset", "topology", "changed", "per step", "peak per device", "fits")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for preset, topology, overrides in ROWS[name]:
        config = configs.override(configs.load_config(f"configs/{name}.py:{preset}"), overrides)
        plan = make_plan(config, *parse_topology(topology))
        changed = " ".join(f"{field}={value}" for field, value in overrides.items())
        size, fits = f"{plan.peak_bytes / 2**30:.2f} GiB", "yes" if plan.fits else "no"
        print(
            f"| {preset} | {topology} | {changed} | {plan.units_per_step:,} {plan.unit} | {size} | {fits} |", flush=True
        )
        rows.append({"preset": preset, "overrides": overrides} | plan.as_dict())
    print(
        "written to",
        save_result("plans" if name == "llm" else f"plans_{name}", {"plans": rows}, {"jax": jax.__version__}),
    )


if __name__ == "__main__":
    from astrojax.parallel.topology import prepare_environment

    for name in ("rtx-a5000", "tpu-v6e"):
        prepare_environment(name, 1)
    if "jax" in sys.modules:
        raise SystemExit("JAX was imported too early")
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
    main()
