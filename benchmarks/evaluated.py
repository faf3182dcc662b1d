"""The evaluation of a run, made where there is none yet."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def evaluation_of(workdir: Path, config: str, *flags: str) -> dict[str, Any]:
    """``eval/metrics.json`` of a run; trains and evaluates it if that is not there."""
    metrics = workdir / "eval" / "metrics.json"
    if not metrics.exists():
        subprocess.run([sys.executable, "launch.py", "--config", config, "--workdir", str(workdir), *flags], check=True)
    return json.loads(metrics.read_text())
