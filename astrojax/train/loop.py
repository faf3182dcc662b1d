"""The one training loop: any task, any mesh, resumable at every step."""

import contextlib
import datetime
import signal
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
from jax.experimental import multihost_utils

from astrojax import config as configs
from astrojax.console import Progress, format_seconds, say
from astrojax.errors import RequestError, RunError
from astrojax.files import write_atomically
from astrojax.parallel.memory import device_memory, explain_out_of_memory
from astrojax.parallel.mesh import make_mesh
from astrojax.parallel.sharding import BATCH, num_elements, put_batch
from astrojax.train.checkpoint import Checkpoints
from astrojax.train.metrics import MetricsWriter, check_logging
from astrojax.train.program import Program, make_program
from astrojax.train.step import TrainState
from astrojax.train.task import RESUMABLE_CHANGES, RunConfig, Task

# Steps of the process, counted from its first, that a profile covers: late enough to be past compilation.
PROFILED_STEPS = range(4, 8)


class Outcome(NamedTuple):
    """How a call of :func:`train` ended.

    Attributes:
        step: updates made in all.
        params: the last parameters.
        mesh: where they live.
        stopped_by: the signal that ended the run before its last step, if one did.
        seconds: wall-clock time of this call's training, without compilation.
        compile_seconds: time until the first step had been compiled and made.
    """

    step: int
    params: Any
    mesh: jax.sharding.Mesh
    stopped_by: str | None
    seconds: float
    compile_seconds: float


def checkpoint_directory(workdir: Path, config: RunConfig) -> str:
    """Where the run's checkpoints are: absolute, as Orbax wants it, or a URL."""
    directory = config.checkpoint.directory or str(workdir / "checkpoints")
    return directory if "://" in directory else str(Path(directory).absolute())


def prepare(task: Task, workdir: Path) -> None:
    """Makes ``workdir`` the home of this run, with its data prepared once, and opens the data in every process.

    ``config.json`` is written last: a workdir without it is not a run yet, and is prepared from the start.

    Raises:
        RequestError: the workdir belongs to a run of another configuration, or cannot be written.
    """
    refusal = None
    if jax.process_index() == 0:
        try:
            _prepare_workdir(task, workdir)
        except (RequestError, OSError) as error:
            refusal = error
    if jax.process_count() > 1 and not multihost_utils.broadcast_one_to_all(np.asarray(refusal is None)):
        refusal = refusal or RequestError("process 0 refused the request and says why")
    if refusal:
        raise refusal
    if jax.process_index():
        task.open(workdir)


def _prepare_workdir(task: Task, workdir: Path) -> None:
    file = workdir / "config.json"
    if file.exists():
        try:
            existing = configs.from_json(file.read_bytes(), type(task.config))
        except RequestError as error:
            raise RequestError(f"{file}: {error}; choose another --workdir") from error
        check_same_run(existing, task, workdir)
    else:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"--workdir: cannot make {workdir}: {error.strerror or error}") from error
        elsewhere = task.config.checkpoint.directory
        if elsewhere and "://" not in elsewhere and any(Path(elsewhere).glob("[0-9]*")):
            raise RequestError(f"checkpoint.directory={elsewhere} already holds the checkpoints of another run")
        task.prepare(workdir)
    task.open(workdir)
    write_atomically(file, configs.to_json(task.config))


def check_same_run(existing: RunConfig, task: Task, workdir: Path) -> None:
    """Refuses a task that is not the run whose configuration the workdir holds.

    Raises:
        RequestError: names the first field that differs.
    """
    changed = configs.differences(existing, task.config, RESUMABLE_CHANGES + task.resumable_changes)
    if changed:
        field, (old, new) = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more fields)" if len(changed) > 1 else ""
        raise RequestError(f"{workdir} holds a run with {field}={old}, not {new}{more}; choose another --workdir")


def train(task: Task, workdir: Path, *, profile: bool = False, devices: list[jax.Device] | None = None) -> Outcome:
    """Trains ``task`` to its last step, from the newest readable checkpoint in ``workdir`` if there is one.

    SIGTERM and SIGINT save and return. A resumed run is bit-identical to one never stopped: the state, the place in
    the data and the random keys are all functions of the step.

    Args:
        task: what to train.
        workdir: holds everything about the run; made if missing.
        profile: write a trace of a few steady steps for TensorBoard.
        devices: what to train on; all devices where not given.

    Raises:
        RequestError: the request does not fit the machine or the workdir.
        RunError: too many non-finite steps in a row, or a checkpoint could not be written.
        OutOfMemoryError: a device's memory does not suffice.
    """
    config = task.config
    mesh = make_mesh(config.mesh, devices)
    check_batch(config, mesh)
    check_logging(config.logging)
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        program = make_program(task)
        # Traced before anything is written: a model that does not fit the mesh is refused here.
        abstract = program.abstract_state(mesh)
        memory = stack.enter_context(explain_out_of_memory(abstract))
        prepare(task, workdir)
        checkpoints = Checkpoints(checkpoint_directory(workdir, config), config.checkpoint)
        stack.callback(checkpoints.close)
        data = iter(task.training_data())
        stack.callback(data.close)
        restored = checkpoints.resume(abstract)
        if restored is None:
            state = jax.jit(program.init)()
            start = 0
        else:
            start, state, data_state = restored
            data.set_state(data_state)
        _announce(task, workdir, mesh, abstract, start)
        if start >= config.train.steps:
            return Outcome(start, state.params, mesh, None, 0.0, 0.0)
        writer = MetricsWriter(workdir, config.logging, start_step=start, run_config=msgspec.to_builtins(config))
        stack.callback(writer.close)
        stop = stack.enter_context(_StopSignal())
        run = _Run(task, workdir, mesh, checkpoints, writer, stop, start, profile, memory)
        return run.loop(state, data, program)


class _Run:
    """The loop's bookkeeping: what is logged, measured and saved after which step."""

    def __init__(self, task, workdir, mesh, checkpoints, writer, stop, start, profile, memory):
        self.task, self.config, self.workdir, self.mesh = task, task.config, workdir, mesh
        self.checkpoints, self.writer, self.stop, self.start = checkpoints, writer, stop, start
        self.progress = Progress(self.config.train.steps, start, task.unit)
        self.profile = PROFILED_STEPS if profile else None
        self.tracing = False
        self.memory = memory
        self.first_bad: tuple[int, list[str]] | None = None
        self.warned = False
        # Pace since the last record; the time spent on validation and compilation does not count.
        self.clock, self.clock_step = None, start
        self.clock_late = False

    def loop(self, state: TrainState, data, program: Program) -> Outcome:
        train = self.config.train
        began = time.monotonic()
        step_fn = first_done = None
        pending = None
        try:
            for step in range(self.start + 1, train.steps + 1):
                self._trace(step - self.start, pending)
                batch = put_batch(next(data), self.mesh)
                if step_fn is None:
                    step_fn = program.compile(program.trace(state, batch))
                    self.memory.step = step_fn.memory_analysis()
                state, metrics = step_fn(state, batch)
                # Step n is running; n - 1 is done, so reading its metrics does not hold up the device.
                if pending is not None:
                    self._record(*pending)
                pending = (step, metrics)
                last = step == train.steps
                stopping, overdue = self._requests(step)
                save = last or stopping or overdue or self.checkpoints.due(step)
                validate = last or step % train.validate_every == 0
                if first_done is None:
                    jax.block_until_ready(metrics)
                    first_done = time.monotonic()
                    self.clock, self.clock_step = first_done, step
                if save or validate:
                    measured = self._record(*pending, state.params if validate else None, waited_for=True)
                    pending = None
                if save:
                    self.checkpoints.save(step, state, data.get_state(), measured)
                if stopping:
                    break
        finally:
            self._end_trace()
            self.progress.end_line()
        if self.profile is not None:
            say(f"no profile: the run ended before step {self.profile.start} of this process")
        self.checkpoints.wait()
        return Outcome(
            step=step,
            params=state.params,
            mesh=self.mesh,
            stopped_by=None if step == train.steps else self.stop.name or "another process's signal",
            seconds=time.monotonic() - first_done,
            compile_seconds=first_done - began,
        )

    def _record(
        self, step: int, metrics: dict[str, Any], params: Any = None, *, waited_for: bool = False
    ) -> dict[str, float]:
        """Logs a step if it is due; validates ``params`` if given. Returns what validation measured.

        Args:
            step: its number.
            metrics: what it left.
            params: the weights after it.
            waited_for: no other step runs meanwhile.
        """
        skipped_in_a_row = int(metrics["skipped_in_a_row"])
        if skipped_in_a_row:
            self._note_skip(step, skipped_in_a_row, metrics["nonfinite"])
        else:
            self.first_bad = None
        if step % self.config.train.log_every and params is None:
            return {}
        record = {
            "step": step,
            "loss": float(metrics["loss"]),
            "grad_norm": float(metrics["grad_norm"]),
            "learning_rate": float(metrics["learning_rate"]),
            "skipped": int(metrics["skipped"]),
        }
        rate = self._rate(step, waited_for=waited_for)
        memory = device_memory()
        record |= {
            f"{self.task.unit}_per_second": rate and round(rate, 1),
            "memory_in_use_bytes": memory["in_use"],
            "memory_peak_bytes": memory["peak"],
        }
        self._warn_of_memory(memory)
        measured = {}
        if params is not None:
            measured = self.task.validate(params, self.mesh)
            self.clock = time.monotonic()
        self.writer.write(record | measured)
        self.progress.show(step, record["loss"], rate, record["skipped"])
        if measured:
            self.progress.end_line()
            say("  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in measured.items()))
        return measured

    def _rate(self, step: int, *, waited_for: bool) -> float | None:
        """Units per second since the last record.

        GPUs run a step's loops with the host at their side, so that a record can come when the next step is nearly
        done. Nothing is known of the pace of that step alone.
        """
        now = time.monotonic()
        steps, seconds = step - self.clock_step, now - (self.clock or now)
        unknown = self.clock_late and waited_for and steps == 1
        self.clock, self.clock_step, self.clock_late = now, step, not waited_for
        if steps <= 0 or seconds <= 0 or unknown:
            return None
        return steps * self.config.train.batch_size * self.task.units_per_example / seconds

    def _note_skip(self, step: int, in_a_row: int, nonfinite: Any) -> None:
        if self.first_bad is None:
            bad = [
                ".".join([jax.tree_util.keystr(path, simple=True, separator="."), *(str(i) for i in index)])
                for path, flags in jax.tree_util.tree_leaves_with_path(nonfinite)
                for index in np.argwhere(np.asarray(flags))  # One flag, or one for each layer.
            ]
            self.first_bad = (step, bad)
            self.progress.end_line()
            say(f"step {step} skipped: {_where(bad)}")
        if in_a_row >= self.config.train.max_skipped_steps:
            step, bad = self.first_bad
            raise RunError(
                f"stopped after {in_a_row} non-finite steps in a row; the first was step {step}: {_where(bad)}"
            )

    def _warn_of_memory(self, memory: dict[str, float]) -> None:
        limit = self.config.train.memory_warning_fraction * memory["limit"]
        if memory["limit"] and memory["peak"] > limit and not self.warned:
            self.warned = True
            self.progress.end_line()
            say(
                f"warning: peak memory {memory['peak'] / 2**30:.2f} GiB is over "
                f"{self.config.train.memory_warning_fraction:.0%} of the device's {memory['limit'] / 2**30:.2f} GiB"
            )

    def _requests(self, step: int) -> tuple[bool, bool]:
        """Whether a signal asks to stop, the clock to save. Processes agree on both, at the steps that are logged."""
        wishes = np.asarray([self.stop.name is not None, self.checkpoints.overdue()])
        if jax.process_count() > 1:
            if step % self.config.train.log_every:
                return False, False
            wishes = np.any(multihost_utils.process_allgather(wishes), axis=0)
        return bool(wishes[0]), bool(wishes[1])

    def _trace(self, steps_here: int, metrics: Any) -> None:
        """Starts and stops the profiler around the profiled steps; ``metrics`` belong to the step before."""
        if self.profile is None:
            return
        if steps_here == self.profile.start:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(str(self.workdir / "tensorboard"))
            self.tracing = True
        elif steps_here == self.profile.stop:
            jax.block_until_ready(metrics)
            self._end_trace()

    def _end_trace(self) -> None:
        if self.tracing:
            jax.profiler.stop_trace()
            self.tracing = False
            self.progress.end_line()
            say(f"profile from step {self.profile.start} of this process on in {self.workdir}/tensorboard")
            self.profile = None


class _StopSignal:
    """Notes SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""

    def __init__(self):
        self.name: str | None = None

    def __enter__(self) -> "_StopSignal":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


def check_batch(config: RunConfig, mesh: jax.sharding.Mesh) -> None:
    """Refuses a batch that does not split over the mesh.

    Raises:
        RequestError: names a batch size that does.
    """
    shards = int(np.prod([mesh.shape[axis] for axis in BATCH]))
    if config.train.batch_size % shards:
        raise RequestError(
            f"train.batch_size={config.train.batch_size} does not split over the mesh's {shards} data and fsdp devices "
            f"(try --config.train.batch_size={-(-config.train.batch_size // shards) * shards})"
        )
    if shards % jax.process_count():
        # Each process reads rows of its own, so no two of them may share a shard of the batch.
        raise RequestError(f"mesh.data * mesh.fsdp = {shards} does not split over {jax.process_count()} processes")


def _announce(task: Task, workdir: Path, mesh: jax.sharding.Mesh, abstract: TrainState, start: int) -> None:
    devices = mesh.devices.ravel()
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    where = f"{len(devices)} {devices[0].device_kind} device(s), mesh {shape}"
    say(f"{num_elements(abstract.params) / 1e6:,.1f}M parameters on {where}; workdir {workdir}")
    if start:
        say(f"resuming after step {start}")


def _where(bad: list[str]) -> str:
    if not bad:
        return "the loss is not finite"
    more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
    return f"not finite: gradient or update of {', '.join(bad[:4])}{more}"


def summary(outcome: Outcome) -> str:
    """One line on how the training went."""
    spent = f"{format_seconds(outcome.seconds)} of training, {format_seconds(outcome.compile_seconds)} of compilation"
    if outcome.stopped_by:
        now = datetime.datetime.now().strftime("%H:%M")
        return f"{outcome.stopped_by} at {now}: saved step {outcome.step}; the same command continues ({spent})"
    return f"trained to step {outcome.step} ({spent})"
