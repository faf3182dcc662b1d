"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard, Weights & Biases."""

import importlib.util
import json
import math
import uuid
from pathlib import Path
from typing import Any

import jax

from astrojax.errors import RequestError
from astrojax.files import write_atomically
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


def check_logging(config: LoggingConfig) -> None:
    """Checks that what ``config`` asks for is installed.

    Raises:
        RequestError: names the extra to install.
    """
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise RequestError("logging.wandb=true needs wandb: pip install -e '.[wandb]'")


def _start_wandb(workdir: Path, config: LoggingConfig, run_config: dict[str, Any]):
    import wandb

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
