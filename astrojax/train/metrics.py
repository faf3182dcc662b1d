"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard, Weights & Biases and the terminal."""

import json
import math
import os
import resource
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import jax

from astrojax.errors import RequestError
from astrojax.train.task import LoggingConfig


class MetricsWriter:
    """Writes records ``{"step": ..., name: number, ...}``; does nothing in processes other than the first."""

    def __init__(self, workdir: Path, config: LoggingConfig, *, start_step: int, run_config: dict[str, Any]):
        self._file = self._tensorboard = self._wandb = None
        if jax.process_index():
            return
        truncate_metrics(workdir, start_step)
        self._file = (workdir / "metrics.jsonl").open("a")
        if config.tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)
        if config.wandb:
            self._wandb = _start_wandb(workdir, config, run_config)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record, complete lines only, so that a killed run leaves a readable file."""
        if self._file is None:
            return
        record = {name: value if _is_finite(value) else None for name, value in record.items()}  # JSON has no NaN.
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        numbers = {name: value for name, value in record.items() if name != "step" and value is not None}
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, record["step"])
        if self._wandb:
            self._wandb.log(numbers, step=record["step"])

    def close(self) -> None:
        for sink in (self._file, self._tensorboard):
            if sink:
                sink.close()
        if self._wandb:
            self._wandb.finish()


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl``; a last line cut short by a kill is left out."""
    file = workdir / "metrics.jsonl"
    records = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def truncate_metrics(workdir: Path, step: int) -> None:
    """Drops the records after ``step``: the resumed run will write them again."""
    if not (workdir / "metrics.jsonl").exists():
        return
    kept = [json.dumps(record) + "\n" for record in read_metrics(workdir) if record["step"] <= step]
    write_atomically(workdir / "metrics.jsonl", "".join(kept).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces ``path`` as a whole, or leaves it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def device_memory() -> dict[str, float]:
    """Bytes in use, peak and limit of the fullest local device; of this process where the device is the host."""
    statistics = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if statistics:
        fullest = max(statistics, key=lambda s: s.get("peak_bytes_in_use", 0))
        names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}
        return {name: fullest.get(key, 0) for name, key in names.items()}
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "in_use": int(Path("/proc/self/statm").read_text().split()[1]) * page if sys.platform == "linux" else 0,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "limit": os.sysconf("SC_PHYS_PAGES") * page,
    }


def say(line: str) -> None:
    """Prints a line for the person who watches the run, once for all its processes."""
    if jax.process_index() == 0:
        print(line, flush=True)


class Progress:
    """The line a person watches: on a terminal it rewrites itself, in a file each record is a line."""

    def __init__(self, steps: int, start_step: int, unit: str):
        self._steps, self._start, self._unit = steps, start_step, unit
        self._began: float | None = None

    def show(self, step: int, loss: float, rate: float | None, skipped: int) -> None:
        """Prints step, loss, throughput in units per second and the time left, by the mean pace so far."""
        now = time.monotonic()
        if self._began is None:  # The first record comes after compilation, which says nothing of the pace.
            self._began, self._start = now, step
        done = step - self._start
        left = (now - self._began) / done * (self._steps - step) if done else None
        parts = [f"step {step:>{len(str(self._steps))}}/{self._steps}", f"loss {loss:.4f}"]
        if rate is not None:
            parts.append(f"{rate:,.0f} {self._unit}/s")
        if left is not None:
            parts.append(f"{format_seconds(left)} left")
        if skipped:
            parts.append(f"{skipped} skipped")
        self._print("  ".join(parts))

    def _print(self, line: str) -> None:
        if jax.process_index():
            return
        if sys.stdout.isatty():
            print(f"\r{line}\x1b[K", end="", flush=True)
        else:
            print(line, flush=True)

    def end_line(self) -> None:
        """Leaves the line on the terminal, so that something else can be printed below it."""
        if sys.stdout.isatty() and not jax.process_index():
            print()


def format_seconds(seconds: float) -> str:
    """``75`` as ``1m15s``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def _start_wandb(workdir: Path, config: LoggingConfig, run_config: dict[str, Any]):
    try:
        import wandb
    except ImportError as error:
        raise RequestError("logging.wandb=true needs wandb: pip install 'astrojax[wandb]'") from error
    # The run keeps its identity when it is resumed, and no other run of the same name can take it.
    identity = workdir / "wandb-id"
    if not identity.exists():
        write_atomically(identity, uuid.uuid4().hex.encode())
    try:
        return wandb.init(
            project=config.wandb_project,
            name=workdir.name,
            id=identity.read_text(),
            resume="allow",
            dir=workdir,
            config=run_config,
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        raise RequestError(f"logging.wandb=true: {' '.join(str(error).split())}") from error
