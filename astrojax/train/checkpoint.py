"""Checkpoints: the state of the run and of its data in one, written by Orbax, verified when read.

A checkpoint appears under its final name only when it is complete. Each also records a checksum of every array,
computed on the device, so that a file damaged on disk is noticed and not trained on.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from astrojax.console import say
from astrojax.errors import RequestError, RunError
from astrojax.train.task import CheckpointConfig

SKIP = ocp.PLACEHOLDER  # Stands for a leaf that need not be read.


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: str, config: CheckpointConfig):
        policies = [ocp.training.preservation_policies.LatestN(config.keep)]
        if config.keep_best:
            policies.append(
                ocp.training.preservation_policies.BestN(
                    get_metric_fn=lambda metrics: metrics["validation_loss"],
                    reverse=True,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._directory = directory
        self._config = config
        self._checkpointer = ocp.training.Checkpointer(
            directory,
            preservation_policy=ocp.training.preservation_policies.AnyPreservationPolicy(policies),
        )
        self._saving: tuple[int, Any] | None = None
        self._failed = False
        self._last_save = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether ``step`` is one to save after."""
        return step % self._config.every_steps == 0

    def overdue(self) -> bool:
        """Whether the clock asks for a checkpoint."""
        minutes = (time.monotonic() - self._last_save) / 60
        return self._config.every_minutes is not None and minutes >= self._config.every_minutes

    def save(self, step: int, state: Any, data_state: Any, metrics: dict[str, float]) -> None:
        """Copies the state off the device and writes it while training goes on.

        Args:
            step: the checkpoint's name.
            state: a tree of arrays.
            data_state: the data iterator's state, as JSON values.
            metrics: holds ``validation_loss`` if it was measured at this step.

        Raises:
            RunError: this or the previous checkpoint could not be written.
        """
        self.wait()
        self._last_save = time.monotonic()
        metadata = {"data": data_state, "checksums": _checksums(state)}
        best = {"validation_loss": metrics["validation_loss"]} if "validation_loss" in metrics else None
        try:
            response = self._checkpointer.save_checkpointables_async(
                step, {"state": state}, metrics=best, custom_metadata=metadata, overwrite=True
            )
        except Exception as error:
            raise self._failure(step, error) from error
        self._saving = (step, response)

    def wait(self) -> None:
        """Returns once nothing is being written.

        Raises:
            RunError: the checkpoint could not be written.
        """
        if self._saving is None:
            return
        (step, response), self._saving = self._saving, None
        try:
            response.result()
        except Exception as error:
            raise self._failure(step, error) from error

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, ascending."""
        self._checkpointer.reload()
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def best_step(self) -> int | None:
        """The step with the lowest validation loss among the checkpoints kept, if any was measured."""
        measured = [c for c in self._checkpointer.checkpoints if (c.metrics or {}).get("validation_loss") is not None]
        return min(measured, key=lambda c: c.metrics["validation_loss"]).step if measured else None

    def load(self, step: int, abstract_state: Any) -> tuple[Any, Any]:
        """The state and the data iterator's state saved at ``step``.

        Args:
            step: which checkpoint.
            abstract_state: shapes, dtypes and shardings to restore onto; the mesh may differ from the saving run's.
                Leaves that are ``SKIP`` are not read.

        Raises:
            Exception: whatever Orbax says of a checkpoint it cannot read.
            ValueError: an array differs from what was saved, or is asked for in another shape.
        """
        problem, state, metadata = None, None, None
        try:
            saved = self._checkpointer.checkpointables_metadata(step)
            metadata = saved.custom_metadata
            _check_shapes(saved.metadata["state"], abstract_state)
            state = self._checkpointer.load_checkpointables(step, {"state": abstract_state})["state"]
        except Exception as error:  # Orbax and TensorStore raise many kinds, and a damaged file may cause any.
            problem = error
        # The checksums are computed by all processes together, or by none.
        if jax.process_count() > 1 and not np.all(multihost_utils.process_allgather(np.asarray(problem is None))):
            problem = problem or ValueError("another process cannot read its part")
        if problem:
            raise problem
        damaged = [name for name, value in _checksums(state).items() if metadata["checksums"][name] != value]
        if damaged:
            raise ValueError(f"checksum mismatch in {', '.join(damaged[:3])}")
        return state, metadata["data"]

    def read(self, which: int | str, abstract_state: Any) -> tuple[int, Any]:
        """One checkpoint for a reader: ``(step, state)``. Nothing in the directory is touched.

        Args:
            which: a step, ``"newest"`` (the newest that can be read) or ``"best"``.
            abstract_state: as for :meth:`load`.

        Raises:
            RequestError: there is no such checkpoint.
            RunError: it cannot be read.
        """
        steps = self.steps()
        if not steps:
            raise RequestError(f"no finished checkpoint in {self._directory}")
        if which == "newest":
            step, state, _, _ = self._newest_readable(abstract_state)
            return step, state
        step = self.best_step() if which == "best" else which
        if step not in steps:
            raise RequestError(f"no checkpoint {which} in {self._directory}; there are {steps}")
        try:
            return step, self.load(step, abstract_state)[0]
        except Exception as error:  # As in load.
            raise RunError(f"checkpoint {step} cannot be read: {_reason(error)}") from error

    def resume(self, abstract_state: Any) -> tuple[int, Any, Any] | None:
        """The newest checkpoint that can be read, as ``(step, state, data state)``; None where there is none at all.

        What a kill left half-written is removed, and checkpoints that cannot be read are moved aside once an older
        one has been read, so that the resumed run can save under their names. Both are reported.

        Raises:
            RunError: there are checkpoints and none of them can be read.
        """
        for name in self._unfinished():
            say(f"checkpoint {name} was still being written when the run ended; it is ignored")
        if not self.steps():
            return None
        step, state, data_state, unreadable = self._newest_readable(abstract_state)
        for bad in unreadable:
            self._move_aside(bad)
        return step, state, data_state

    def _newest_readable(self, abstract_state: Any) -> tuple[int, Any, Any, list[int]]:
        unreadable = []
        for step in reversed(self.steps()):
            try:
                return step, *self.load(step, abstract_state), unreadable
            except Exception as error:  # As in load.
                say(f"checkpoint {step} cannot be read: {_reason(error)}")
                unreadable.append(step)
        raise RunError(f"none of the checkpoints {unreadable} in {self._directory} can be read; they are left there")

    def close(self) -> None:
        """Waits for the last save and lets go of the directory."""
        try:
            self.wait()
        finally:
            try:
                self._checkpointer.close()
            except Exception:
                if not self._failed:  # Orbax raises here once more what wait() has reported.
                    raise

    def _unfinished(self) -> Iterator[str]:
        if "://" not in self._directory and jax.process_index() == 0:
            for path in sorted(Path(self._directory).glob("*.orbax-checkpoint-tmp*")):
                yield path.name.partition(".")[0]
                shutil.rmtree(path, ignore_errors=True)

    def _move_aside(self, step: int) -> None:
        if "://" in self._directory:
            self._checkpointer.delete(step)
        elif jax.process_index() == 0:
            aside = Path(self._directory).with_name("unreadable-checkpoints") / f"{step}-{int(time.time())}"
            aside.parent.mkdir(exist_ok=True)
            shutil.move(Path(self._directory) / str(step), aside)
            say(f"moved it to {aside}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("moved aside")
        self._checkpointer.reload()

    def _failure(self, step: int, error: Exception) -> RunError:
        self._failed = True
        cause: BaseException = error
        while not isinstance(cause, OSError) and (cause.__cause__ or cause.__context__):
            cause = cause.__cause__ or cause.__context__
        kept = f"the newest complete one is {max(steps)}" if (steps := self.steps()) else "there is none before it"
        return RunError(f"checkpoint {step} could not be saved in {self._directory}: {_reason(cause)}; {kept}")


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


@jax.jit
def _sums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    # Integer addition wraps and does not depend on order, so the sums are the same on every mesh.
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}

    def total(x):
        return jnp.sum(jax.lax.bitcast_convert_type(x, unsigned[x.dtype.itemsize]), dtype=jnp.uint32)

    return jax.tree.map(total, leaves)


def _checksums(state: Any) -> dict[str, int]:
    return {name: int(value) for name, value in jax.device_get(_sums(_named(state))).items()}


def _check_shapes(saved: Any, abstract_state: Any) -> None:
    """Says of a checkpoint of another model what differs, where Orbax says that it knows no handler."""
    found = _named(saved)
    for name, leaf in _named(abstract_state).items():
        if name in found and found[name].shape != leaf.shape:
            raise ValueError(f"{name} has shape {found[name].shape} there, {leaf.shape} in this version of the model")


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if leaf is not SKIP
    }
