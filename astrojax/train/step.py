"""One update of the parameters: accumulate, clip, guard, apply."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from astrojax.parallel.sharding import BATCH
from astrojax.train.task import Batch, Params, Task, TrainConfig

Metrics = dict[str, Any]


class TrainState(NamedTuple):
    """Everything a step changes.

    Attributes:
        step: updates attempted so far.
        params: the weights.
        opt_state: the optimizer's statistics.
        skipped: steps that changed nothing because something was not finite.
        skipped_in_a_row: the length of the current series of such steps.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def init_state(task: Task, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step. Traceable: ``jax.eval_shape`` gives its shapes and shardings for free."""
    params = task.init(jax.random.key(seed))
    zero = jnp.zeros((), jnp.int32)
    # Statistics are float32 whatever the weights are: bfloat16 cannot hold a slowly moving average.
    opt_state = optimizer.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))
    return TrainState(zero, params, opt_state, zero, zero)


def make_train_step(
    task: Task, optimizer: optax.GradientTransformationExtraArgs, schedule: optax.Schedule
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds the step: ``(state, batch) -> (state, metrics)``, to be compiled with the state donated.

    Gradients of the micro-batches are summed in float32 and divided by the batch's whole weight, so that accumulation
    changes nothing but rounding. Where the loss, a gradient or an updated weight is not finite the state stays and the
    step is counted.

    Metrics: ``loss``, ``grad_norm``, ``learning_rate``, ``skipped``, ``skipped_in_a_row``, and ``nonfinite``, which
    holds for every parameter whether its gradient or its updated value was not finite.
    """
    config = task.config.train

    def gradients(params: Params, batch: Batch, key: jax.Array):
        grad = jax.value_and_grad(task.loss, has_aux=True)
        micro_batches = num_micro_batches(config)
        if micro_batches == 1:
            (loss, weight), grads = grad(params, batch, key)
        else:

            def accumulate(total, xs):
                index, micro_batch = xs
                (loss, weight), grads = grad(params, micro_batch, jax.random.fold_in(key, index))
                return jax.tree.map(jnp.add, total, ((loss, weight), grads)), None

            zero = jnp.zeros((), jnp.float32)
            zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
            xs = (jnp.arange(micro_batches), split_batch(batch, micro_batches))
            ((loss, weight), grads), _ = jax.lax.scan(accumulate, ((zero, zero), zeros), xs)
        weight = jnp.maximum(weight, 1e-9)
        return loss / weight, jax.tree.map(lambda g: g.astype(jnp.float32) / weight, grads)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        loss, grads = gradients(state.params, batch, key)

        def objective(params):  # One micro-batch: a sample is enough for an estimate of the curvature.
            total, weight = task.loss(
                params, jax.tree.map(lambda x: x[0], split_batch(batch, num_micro_batches(config))), key
            )
            return total / jnp.maximum(weight, 1e-9)

        squares = jax.tree.map(lambda g: jnp.sum(jnp.square(g)), grads)
        grad_norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
        healthy = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, obj_fn=objective, healthy=healthy)
        params = optax.apply_updates(state.params, updates)
        nonfinite = jax.tree.map(lambda s, p: ~(jnp.isfinite(s) & jnp.all(jnp.isfinite(p))), squares, params)
        finite = healthy & ~jnp.any(jnp.stack(jax.tree.leaves(nonfinite)))

        def keep(new, old):  # What lies in host memory has seen to that itself.
            on_host = jax.typeof(new).memory_space == jax.memory.Space.Host
            return new if on_host else jnp.where(finite, new, old)

        params, opt_state = jax.tree.map(keep, (params, opt_state), (state.params, state.opt_state))
        return concluded(
            state,
            params,
            opt_state,
            loss=loss,
            grad_norm=grad_norm,
            nonfinite=nonfinite,
            good=finite,
            schedule=schedule,
        )

    return train_step


def concluded(
    state: TrainState,
    params: Params,
    opt_state: optax.OptState,
    *,
    loss: jax.Array,
    grad_norm: jax.Array,
    nonfinite: Any,
    good: jax.Array,
    schedule: optax.Schedule,
) -> tuple[TrainState, Metrics]:
    """The state after a step, with its counters, and the metrics of the step that began with ``state``; a step that
    was not ``good`` counts as skipped."""
    skip = jnp.where(good, 0, 1)
    after = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        skipped=state.skipped + skip,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * skip,
    )
    metrics = {
        "loss": loss,
        "grad_norm": grad_norm,
        "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
        "skipped": after.skipped,
        "skipped_in_a_row": after.skipped_in_a_row,
        "nonfinite": nonfinite,
    }
    return after, metrics


def num_micro_batches(config: TrainConfig) -> int:
    """Into how many micro-batches a batch is cut on the current mesh: as ``microbatch_size`` asks, or fewer where such
    a micro-batch would not split over the devices."""
    shape = jax.sharding.get_abstract_mesh().shape
    shards = math.prod(shape[axis] for axis in BATCH)
    wanted = config.batch_size // (config.microbatch_size or config.batch_size)
    return next(
        (n for n in range(wanted, 0, -1) if config.batch_size % n == 0 and config.batch_size // n % shards == 0), 1
    )


def split_batch(batch: Batch, micro_batches: int) -> Batch:
    """``[b, ...]`` as ``[micro_batches, b / micro_batches, ...]``: micro-batch ``i`` takes every such row from the
    ``i``-th on, so that each device cuts its own rows and none of them moves."""

    def split(x):
        spec = jax.typeof(x).sharding.spec
        shape = (x.shape[0] // micro_batches, micro_batches, *x.shape[1:])
        x = jnp.reshape(x, shape, out_sharding=P(spec[0], None, *spec[1:]))
        return jnp.moveaxis(x, 1, 0)

    return jax.tree.map(split, batch)
