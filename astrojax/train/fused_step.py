"""One update of the parameters inside the backward pass: the gradient never exists as a whole.

The forward pass keeps what each layer reads and nothing else. The backward pass walks over the layers from the last to
the first; of each it computes the activations again, takes the gradient, summed in float32 over the micro-batches,
updates that layer's weights and statistics in place, and forgets the gradient. A step thus needs the weights, the
layers' inputs and one layer's working set. The idea is LOMO's (Lv et al. 2023, arXiv 2306.09782), with factored
statistics AdaLomo's (arXiv 2310.10195); summing inside each layer's backward pass makes it exact for any number of
micro-batches, and lets a layer's weights be collected once for all of them.

What it cannot do is scale the gradient by its global norm before the first update, since the norm is known only after
the last: Adafactor's clipping of each tensor's update takes that place.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from astrojax.parallel.sharding import gathered, scattered, summed
from astrojax.precision import stochastic_round
from astrojax.train.layers import num_layers, read, stacked_zeros, write
from astrojax.train.step import Metrics, TrainState, concluded, num_micro_batches, split_batch
from astrojax.train.task import Batch, LayerStack, Params, Task

DEVICE, HOST = jax.memory.Space.Device, jax.memory.Space.Host


def make_fused_step(
    task: Task, optimizer: optax.GradientTransformation, schedule: optax.Schedule, *, inputs_on_host: bool = False
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds the step ``(state, batch) -> (state, metrics)``, to be compiled with the state donated.

    A non-finite loss changes nothing. A layer, or an entry outside the layers, whose gradient is not finite keeps its
    weights and statistics while the others are updated; a step in which that happens counts as skipped.

    Metrics are those of :func:`astrojax.train.step.make_train_step`; ``nonfinite`` holds one flag for each entry
    outside the layers and one for each layer.

    Args:
        task: its ``stack`` says how the loss is made of layers.
        optimizer: updates the tensors of one layer, or one entry outside the layers, whatever the others are. The
            state's ``opt_state`` holds its statistics as :func:`astrojax.train.optimizers.per_layer` lays them out.
        schedule: the learning rate, for the metrics.
        inputs_on_host: keep what the layers read in host memory between the passes.
    """
    stack, config = task.stack, task.config.train

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        micro_batches = num_micro_batches(config)
        micro = split_batch(batch, micro_batches)
        drawing_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(micro_batches))
        params, statistics = dict(state.params), dict(state.opt_state)

        # x is what the next layer reads, for every micro-batch; after the head, the gradient with respect to it.
        x = _embed(stack, params, micro, drawing_keys)
        x, inputs = _forward(stack, params[stack.layers], x, micro, inputs_on_host)
        x, loss, weight, outer_grads = _head(stack, params, x, micro)
        update = _Update(optimizer, jax.random.fold_in(key, micro_batches), weight, healthy=jnp.isfinite(loss))

        squares, nonfinite = {}, {}

        def update_entry(name):
            params[name], statistics[name], squares[name], nonfinite[name] = update(
                name, params[name], outer_grads.pop(name), statistics[name], sorted(params).index(name)
            )

        # What the embedding does not read can be updated, and its gradient forgotten, before the walk.
        for name in stack.head_params:
            if name not in stack.embed_params:
                update_entry(name)
        x, params[stack.layers], statistics[stack.layers], squares[stack.layers], nonfinite[stack.layers] = _walk(
            stack, params[stack.layers], statistics[stack.layers], x, inputs, micro, update, len(params)
        )
        outer_grads |= _embed_grads(stack, params, x, micro, drawing_keys, outer_grads)
        for name in stack.embed_params:
            update_entry(name)

        return concluded(
            state,
            params,
            statistics,
            loss=loss,
            grad_norm=jnp.sqrt(sum(jnp.sum(square) for square in squares.values())),
            nonfinite=nonfinite,
            good=~jnp.any(jnp.concatenate([jnp.ravel(flags) for flags in nonfinite.values()])),
            schedule=schedule,
        )

    return train_step


def _embed(stack: LayerStack, params: Params, micro: Batch, keys: jax.Array):
    return jax.lax.map(lambda xs: stack.embed(params, *xs), (micro, keys))


def _forward(stack: LayerStack, layers: Params, x, micro: Batch, inputs_on_host: bool):
    """What the last layer leaves, and what every layer read ``[layers, micro-batches, ...]``."""
    count, indices = num_layers(layers), _indices(micro)
    inputs = stacked_zeros(x, count)
    if inputs_on_host:
        inputs = jax.device_put(inputs, HOST)

    def layer(carry, index):
        weights = jax.tree.map(gathered, read(layers, index))

        def one(carry, i):
            x, inputs = carry
            x_i = read(x, i)
            inputs = write(inputs, jax.device_put(x_i, HOST) if inputs_on_host else x_i, index, i)
            return (write(x, stack.layer(weights, x_i, read(micro, i)), i), inputs), None

        return jax.lax.scan(one, carry, indices)[0], None

    return jax.lax.scan(layer, (x, inputs), jnp.arange(count))[0]


def _head(stack: LayerStack, params: Params, x, micro: Batch):
    """The gradient with respect to ``x``, the mean loss, the weight it was divided by, and the entries' gradients."""
    head = {name: params[name] for name in stack.head_params}

    def one(carry, i):
        x, loss, weight, grads = carry
        (loss_i, weight_i), pull = jax.vjp(lambda h, x_i: stack.head(params | h, x_i, read(micro, i)), head, read(x, i))
        grads_i, dx = pull((jnp.ones_like(loss_i), jnp.zeros_like(weight_i)))
        return (write(x, dx, i), loss + loss_i, weight + weight_i, _add(grads, grads_i, head)), None

    zero = jnp.zeros((), jnp.float32)
    (x, loss, weight, grads), _ = jax.lax.scan(one, (x, zero, zero, _zeros(head, head)), _indices(micro))
    weight = jnp.maximum(weight, 1e-9)
    return x, loss / weight, weight, grads


def _walk(stack: LayerStack, layers: Params, statistics, x, inputs, micro: Batch, update: "_Update", first_place: int):
    """From the last layer to the first: gradient, update, forget."""

    def layer(carry, index):
        x, layers, statistics = carry
        weights = read(layers, index)
        collected = jax.tree.map(gathered, weights)

        def one(carry, i):
            x, grads = carry
            # A no-op for inputs that never left the device.
            x_i = jax.device_put(read(inputs, index, i), DEVICE)
            _, pull = jax.vjp(lambda w, x_i: stack.layer(w, x_i, read(micro, i)), collected, x_i)
            grads_i, dx = pull(read(x, i))
            return (write(x, dx, i), _add(grads, grads_i, weights)), None

        (x, grads), _ = jax.lax.scan(one, (x, _zeros(weights, collected)), _indices(micro))
        # Read again behind a barrier: else this layer's slice would be held while the gradient is taken.
        index, grads = jax.lax.optimization_barrier((index, grads))
        weights, new_statistics, square, bad = update(
            stack.layers, read(layers, index), grads, read(statistics, index), first_place + index
        )
        return (x, write(layers, weights, index), write(statistics, new_statistics, index)), (square, bad)

    order = jnp.arange(num_layers(layers))
    (x, layers, statistics), (squares, bad) = jax.lax.scan(layer, (x, layers, statistics), order, reverse=True)
    return x, layers, statistics, squares, bad


def _embed_grads(stack: LayerStack, params: Params, x, micro: Batch, keys: jax.Array, head_grads: dict[str, Any]):
    """The gradients of what the embedding reads, on top of those the head left."""
    embedding = {name: params[name] for name in stack.embed_params}

    def one(grads, i):
        _, pull = jax.vjp(lambda e: stack.embed(params | e, read(micro, i), keys[i]), embedding)
        return _add(grads, pull(read(x, i))[0], embedding), None

    start = {name: head_grads.get(name, _zeros(entry, entry)) for name, entry in embedding.items()}
    return jax.lax.scan(one, start, _indices(micro))[0]


class _Update:
    """Updates one entry of the parameters, or one layer's tensors, from its summed gradient, which is divided by
    ``weight`` and used only where ``healthy``."""

    def __init__(
        self, optimizer: optax.GradientTransformation, key: jax.Array, weight: jax.Array, *, healthy: jax.Array
    ):
        self._optimizer, self._key, self._weight, self._healthy = optimizer, key, weight, healthy

    def __call__(self, name: str, weights, grads, statistics, place):
        """New weights and statistics, the gradient's squared norm, and whether nothing was changed.

        ``place`` tells this entry or layer from the others: rounding draws from a key counted by step, place and
        tensor, so that a resumed run rounds as one that was never stopped.
        """
        grads = jax.tree.map(lambda g: summed(g) / self._weight, grads)
        square = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
        good = self._healthy & jnp.isfinite(square)
        # The decay is part of the update that is rounded: on its own it would vanish in bfloat16.
        wide = jax.tree.map(lambda w: w.astype(jnp.float32), weights)
        updates, new_statistics = self._optimizer.update({name: grads}, statistics, {name: wide})
        key = jax.random.fold_in(self._key, place)
        leaves, treedef = jax.tree.flatten(weights)
        moved = jax.tree.leaves(jax.tree.map(jnp.add, wide, updates[name]))
        rounded = [
            stochastic_round(new, old.dtype, jax.random.fold_in(key, tensor))
            for tensor, (new, old) in enumerate(zip(moved, leaves, strict=True))
        ]
        new = (treedef.unflatten(rounded), new_statistics)
        new_weights, new_statistics = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), new, (weights, statistics)
        )
        return new_weights, new_statistics, square, ~good


def _zeros(weights, used):
    """Where the gradients of ``weights`` are summed: float32, split as they are. The gradients of ``used``, which may
    be the weights collected from other devices, are added up over ``data`` only when all are there."""

    def zeros(weight, used):
        later = {"data"} if jax.typeof(used).sharding.spec.reduced else set()
        spec = jax.P(*jax.typeof(weight).sharding.spec.partitions, unreduced=later)
        return jnp.zeros(weight.shape, jnp.float32, out_sharding=spec)

    return jax.tree.map(zeros, weights, used)


def _add(total, grads, weights):
    return jax.tree.map(lambda t, g, w: t + scattered(g, w).astype(jnp.float32), total, grads, weights)


def _indices(micro: Batch) -> jax.Array:
    return jnp.arange(jax.tree.leaves(micro)[0].shape[0])
