"""Keeps the evaluation of a finished run among the benchmark results.

python -m benchmarks.record_run runs/llm llm_tiny --training-seconds 295 --commit 7ff0664 \\
    --command "python launch.py --config configs/llm.py"
"""

import argparse
import json
import platform
from pathlib import Path

import jax

from benchmarks.record import save_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("name")
    parser.add_argument("--command", required=True, help="the command that made the run")
    parser.add_argument("--training-seconds", type=float, required=True, help="as the run printed them")
    parser.add_argument("--commit", required=True, help="the commit that made the run")
    flags = parser.parse_args()
    figures = {
        "command": flags.command,
        "commit": flags.commit,
        "training_seconds": flags.training_seconds,
        "evaluation": json.loads((flags.workdir / "eval" / "metrics.json").read_text()),
        "last_step": json.loads((flags.workdir / "metrics.jsonl").read_text().splitlines()[-1]),
    }
    print("written to", save_result(flags.name, figures, {"jax": jax.__version__, "system": platform.system()}))


if __name__ == "__main__":
    main()
