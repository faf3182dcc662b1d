"""Writes a benchmark's figures with what is needed to make them again."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def save_result(name: str, figures: dict[str, Any], versions: dict[str, str], device: str | None = None) -> Path:
    """Writes ``benchmarks/results/<name>.json`` with the command, the commit, the device and the date."""
    record = {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain") else ""),
        "device": device or cpu_name(),
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version()} | versions,
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def cpu_name() -> str:
    """The processor's name and the number of cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()
