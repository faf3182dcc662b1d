"""The programs of a run: its initial state, and its step, compiled the same way for training and for planning."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from astrojax.errors import RequestError
from astrojax.parallel.ahead import compile_ahead
from astrojax.parallel.mesh import backend
from astrojax.parallel.sharding import abstract_results
from astrojax.train.fused_step import make_fused_step
from astrojax.train.optimizers import FusedAdafactor, make_adafactor, make_optimizer, make_schedule
from astrojax.train.step import Metrics, TrainState, init_state, make_train_step
from astrojax.train.task import Batch, Task

# XLA must leave the memory of a step as the step was written; by backend:
COMPILER_OPTIONS = {
    "gpu": {
        # Collectives joined into one need all their operands at once: a layer's worth where one weight's would do.
        "xla_gpu_all_gather_combine_threshold_bytes": 0,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 0,
        "xla_gpu_all_reduce_combine_threshold_bytes": 0,
        # It counts what lies in host memory as if it were on the device, and recomputes to no avail.
        "xla_disable_hlo_passes": "rematerialization",
    },
    # It moves the sum of a gradient over devices behind the loop over micro-batches, where the gradient is whole.
    "tpu": {"xla_disable_hlo_passes": "while-loop-all-reduce-code-motion"},
    "cpu": {},
}


class Program(NamedTuple):
    """What a run executes on the current mesh.

    Attributes:
        init: makes the state before the first step.
        step: ``(state, batch) -> (state, metrics)``; takes the state's memory for the new one.
    """

    init: Callable[[], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

    def abstract_state(self, mesh: jax.sharding.Mesh) -> TrainState:
        """Shapes, dtypes and shardings of the state on ``mesh``."""
        return abstract_results(self.init, mesh)

    def trace(self, state: TrainState, batch: Batch) -> jax.stages.Traced:
        """The step for arrays like these, which may be abstract."""
        return jax.jit(self.step, donate_argnums=0).trace(state, batch)

    def compile(self, traced: jax.stages.Traced, *, attached: bool = True) -> jax.stages.Compiled:
        """The step for the devices of the current mesh, which need not be ``attached``."""
        options = COMPILER_OPTIONS[backend()]
        return traced.lower().compile(compiler_options=options) if attached else compile_ahead(traced, **options)


def make_program(task: Task) -> Program:
    """The programs of ``task`` with the optimizer its configuration names.

    Raises:
        RequestError: the optimizer updates layer by layer and the task has no layers.
    """
    config = task.config
    layers = task.stack.layers if task.stack else None
    optimizer = make_optimizer(config.optimizer, config.train.steps, seed=config.train.seed, layers=layers)
    schedule = make_schedule(config.optimizer, config.train.steps)
    if isinstance(config.optimizer, FusedAdafactor):
        if task.stack is None:
            raise RequestError("optimizer=fused_adafactor needs a model made of equal layers; take adafactor instead")
        step = make_fused_step(
            task,
            make_adafactor(config.optimizer, config.train.steps),
            schedule,
            inputs_on_host=config.optimizer.inputs_on_host,
        )
    else:
        step = make_train_step(task, optimizer, schedule)
    return Program(lambda: init_state(task, optimizer, config.train.seed), step)
