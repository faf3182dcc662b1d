"""A finished or running run, opened from its workdir: for evaluation, and for anyone's own script."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from astrojax import config as configs
from astrojax.errors import RequestError
from astrojax.parallel.mesh import make_mesh
from astrojax.tasks import make_task, read_config
from astrojax.train.checkpoint import SKIP, Checkpoints
from astrojax.train.loop import check_same_run, checkpoint_directory
from astrojax.train.metrics import read_metrics
from astrojax.train.program import make_program
from astrojax.train.task import RunConfig, Task


class Run(NamedTuple):
    """What :func:`load_run` found.

    Attributes:
        workdir: the run's folder.
        config: its configuration.
        step: the checkpoint's step.
        params: the weights, a nested dict of arrays on ``mesh``.
        mesh: the device mesh; use the model under ``jax.set_mesh(run.mesh)``.
        task: the model's data, loss and evaluation.
        metrics: the lines of ``metrics.jsonl``.
        evaluation: ``eval/metrics.json``, empty before the first evaluation.
    """

    workdir: Path
    config: RunConfig
    step: int
    params: Any
    mesh: jax.sharding.Mesh
    task: Task
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any]

    @property
    def model(self):
        """The Flax module with its weights in place."""
        return self.task.model(self.params)


def load_run(
    workdir: str | Path,
    *,
    step: int | Literal["newest", "best"] = "newest",
    overrides: dict[str, str] | None = None,
    devices: list[jax.Device] | None = None,
) -> Run:
    """Restores a run's weights from its checkpoint onto this machine's devices.

    Args:
        workdir: the run's folder, such as ``runs/llm``.
        step: which checkpoint: a step, the newest, or the one with the lowest validation loss.
        overrides: fields to change, such as ``{"data.eval_path": "my.txt"}``; those that decide what the run is
            cannot be.
        devices: what to restore onto; all devices where not given.

    Raises:
        RequestError: there is no such run, checkpoint or field.
        RunError: the checkpoints there cannot be read.
    """
    workdir = Path(workdir)
    file = workdir / "config.json"
    if not file.is_file():
        raise RequestError(f"no run in {workdir}: train one first, or name it with --workdir")
    saved = read_config(file.read_bytes())
    config = configs.override(saved, overrides or {})
    task = make_task(config)
    check_same_run(saved, task, workdir)
    task.open(workdir)
    mesh = make_mesh(config.mesh, devices)
    with jax.set_mesh(mesh):
        abstract = make_program(task).abstract_state(mesh)
        # Only the weights are read: the optimizer's statistics may be twice as large.
        abstract = abstract._replace(opt_state=jax.tree.map(lambda _: SKIP, abstract.opt_state))
        checkpoints = Checkpoints(checkpoint_directory(workdir, config), config.checkpoint)
        try:
            step, state = checkpoints.read(step, abstract)
        finally:
            checkpoints.close()
    evaluation = workdir / "eval" / "metrics.json"
    return Run(
        workdir=workdir,
        config=config,
        step=step,
        params=state.params,
        mesh=mesh,
        task=task,
        metrics=read_metrics(workdir),
        evaluation=json.loads(evaluation.read_text()) if evaluation.exists() else {},
    )
