"""One update of the parameters inside the backward pass: the gradient never exists as a whole.

The forward pass keeps what each layer reads and nothing else. The backward pass walks over the layers from the last to
the first; of each it computes the activations again, takes the gradient, summed in float32 over the micro-batches,
updates that layer's weights and statistics in place, and forgets the gradient. A step thus needs the weights, the
layers' inputs and one layer's working set. The idea is LOMO's (Lv et al. 2023, arXiv 2306.09782), with factored
statistics AdaLomo's (arXiv 2310.10195); accumulation inside each layer's backward pass makes it exact for any number of
micro-batches.

What it cannot do is scale the gradient by its global norm before the first update, since the norm is known only after
the last: Adafactor's clipping of each tensor's update takes that place.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from astrojax.parallel.sharding import gathered, scattered, summed
from astrojax.precision import stochastic_round
from astrojax.train.step import Metrics, TrainState, split_batch
from astrojax.train.task import Batch, LayerStack, Params, Task


def make_fused_step(
    task: Task, optimizer: optax.GradientTransformation, schedule: optax.Schedule
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds the step ``(state, batch) -> (state, metrics)``, to be compiled with the state donated.

    A non-finite loss changes nothing. A layer, or an entry outside the layers, whose gradient is not finite keeps its
    weights and statistics; the others are updated.

    Args:
        task: its ``stack`` says how the loss is made of layers.
        optimizer: updates the tensors of one layer, or one entry outside the layers, whatever the others are. The
            state's ``opt_state`` holds its statistics as :func:`astrojax.train.optimizers.per_layer` lays them out.
        schedule: the learning rate, for the metrics.

    Metrics are those of :func:`astrojax.train.step.make_train_step`; ``nonfinite`` holds a flag for each layer and
    each entry outside the layers.
    """
    stack, config = task.stack, task.config.train
    on_host = task.config.optimizer.inputs_on_host
    micro_batches = config.batch_size // (config.microbatch_size or config.batch_size)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        micro = split_batch(batch, micro_batches)
        micro_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(micro_batches))
        params, statistics = dict(state.params), dict(state.opt_state)
        layers = params[stack.layers]
        num_layers = jax.tree.leaves(layers)[0].shape[0]

        def rounding_key(place: int | jax.Array):
            # Counted by step and place, so that a resumed run rounds as the one that was never stopped.
            return jax.random.fold_in(jax.random.fold_in(key, micro_batches), place)

        def update(entry, grads, statistics, healthy, place):
            return _update(optimizer, entry, grads, statistics, healthy, rounding_key(place))

        # Forwards: x holds what the next layer reads, inputs what every layer read, for each micro-batch.
        x = jax.lax.map(lambda xs: stack.embed(params, *xs), (micro, micro_keys))

        def forward(carry, index):
            x, inputs = carry
            layer = jax.tree.map(gathered, _read(layers, index))

            def one(carry, i):
                x, inputs = carry
                x_i = _read(x, i)
                kept = jax.device_put(x_i, jax.memory.Space.Host) if on_host else x_i
                inputs = _write(inputs, kept, index, i)
                return (_write(x, stack.layer(layer, x_i, _read(micro, i)), i), inputs), None

            return jax.lax.scan(one, (x, inputs), jnp.arange(micro_batches))[0], None

        inputs = jax.tree.map(lambda x: _stacked(x, num_layers), x)
        if on_host:
            inputs = jax.device_put(inputs, jax.memory.Space.Host)
        (x, inputs), _ = jax.lax.scan(forward, (x, inputs), jnp.arange(num_layers))

        # The head: from here on, x holds the gradient with respect to what it held.
        head = {name: params[name] for name in stack.head_params}

        def head_one(carry, i):
            x, loss, weight, grads = carry
            (loss_i, weight_i), pull, = _head_vjp(stack, params, head, _read(x, i), _read(micro, i))
            grads_i, dx = pull
            return (_write(x, dx, i), loss + loss_i, weight + weight_i, _accumulate(grads, grads_i, head)), None

        zero = jnp.zeros((), jnp.float32)
        (x, loss, weight, head_grads), _ = jax.lax.scan(
            head_one, (x, zero, zero, _zeros(head)), jnp.arange(micro_batches)
        )
        weight = jnp.maximum(weight, 1e-9)
        loss = loss / weight
        finite = jnp.isfinite(loss)
        grads_of = {name: head_grads[name] for name in stack.head_params}

        def apply(name, grads, place):
            nonlocal params, statistics
            grads = jax.tree.map(lambda g: summed(g) / weight, grads)
            params[name], statistics[name], square, ok = update(
                {name: params[name]}, {name: grads}, statistics[name], finite, place
            )
            params[name] = params[name][name]
            return square, ok

        squares, nonfinite = zero, {}
        # What the embedding does not read is updated at once and its gradient forgotten.
        for place, name in enumerate(stack.head_params):
            if name not in stack.embed_params:
                square, ok = apply(name, grads_of.pop(name), place)
                squares, nonfinite[name] = squares + square, ~ok

        def walk(carry, index):
            x, layers, layer_statistics = carry
            weights = _read(layers, index)
            layer = jax.tree.map(gathered, weights)

            def one(carry, i):
                x, grads = carry
                micro_i = _read(micro, i)
                x_i = _read(inputs, index, i)
                if on_host:
                    x_i = jax.device_put(x_i, jax.memory.Space.Device)
                _, pull = jax.vjp(lambda w, x_i: stack.layer(w, x_i, micro_i), layer, x_i)
                grads_i, dx = pull(_read(x, i))
                return (_write(x, dx, i), _accumulate(grads, grads_i, weights)), None

            (x, grads), _ = jax.lax.scan(one, (x, _zeros(weights, layer)), jnp.arange(micro_batches))
            # Read again, so that the slice is not held while the gradient is taken.
            index, grads = jax.lax.optimization_barrier((index, grads))
            weights = _read(layers, index)
            grads = jax.tree.map(lambda g: summed(g) / weight, grads)
            name = stack.layers
            weights, new_statistics, square, ok = update(
                {name: weights}, {name: grads}, _read(layer_statistics, index), finite, len(params) + index
            )
            layers = _write(layers, weights[name], index)
            return (x, layers, _write(layer_statistics, new_statistics, index)), (square, ~ok)

        (x, params[stack.layers], statistics[stack.layers]), (layer_squares, nonfinite[stack.layers]) = jax.lax.scan(
            walk, (x, layers, statistics[stack.layers]), jnp.arange(num_layers), reverse=True
        )

        embedding = {name: params[name] for name in stack.embed_params}

        def embed_one(grads, i):
            micro_i, key_i = _read(micro, i), micro_keys[i]
            _, pull = jax.vjp(lambda e: stack.embed({**params, **e}, micro_i, key_i), embedding)
            return _accumulate(grads, pull(_read(x, i))[0], embedding), None

        embed_grads = {name: grads_of.get(name) for name in embedding}
        embed_grads = {n: _zeros(embedding[n]) if g is None else g for n, g in embed_grads.items()}
        embed_grads, _ = jax.lax.scan(embed_one, embed_grads, jnp.arange(micro_batches))
        for place, name in enumerate(stack.embed_params):
            square, ok = apply(name, embed_grads[name], len(stack.head_params) + place)
            squares, nonfinite[name] = squares + square, ~ok

        bad = jnp.any(jnp.stack([jnp.any(flag) for flag in nonfinite.values()]))
        skip = jnp.where(bad, 1, 0)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=statistics,
            skipped=state.skipped + skip,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * skip,
        )
        metrics = {
            "loss": loss,
            "grad_norm": jnp.sqrt(squares + jnp.sum(layer_squares)),
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
            "nonfinite": nonfinite,
        }
        return new_state, metrics

    return train_step


def _head_vjp(stack: LayerStack, params: Params, head: Params, x, micro):
    (loss, weight), pull = jax.vjp(lambda h, x: stack.head({**params, **h}, x, micro), head, x)
    return (loss, weight), pull((jnp.ones_like(loss), jnp.zeros_like(weight)))


def _update(optimizer, weights, grads, statistics, healthy, key):
    """New weights and statistics, the gradient's squared norm, and whether it was used."""
    square = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
    ok = healthy & jnp.isfinite(square)
    wide = jax.tree.map(lambda w: w.astype(jnp.float32), weights)
    updates, new_statistics = optimizer.update(grads, statistics, wide)
    leaves, treedef = jax.tree.flatten(weights)
    new = [
        stochastic_round(w + u, old.dtype, jax.random.fold_in(key, i))
        for i, (w, u, old) in enumerate(zip(jax.tree.leaves(wide), jax.tree.leaves(updates), leaves, strict=True))
    ]
    new_weights, new_statistics = jax.tree.map(
        lambda new, old: jnp.where(ok, new, old), (treedef.unflatten(new), new_statistics), (weights, statistics)
    )
    return new_weights, new_statistics, square, ok


def _zeros(weights, used=None):
    """Where gradients of ``weights`` are summed: float32, split as they are, not yet added up over ``data``."""

    def zeros(w, u):
        spec = jax.typeof(w).sharding.spec
        unreduced = {"data"} if jax.typeof(u).sharding.spec.reduced else set()
        return jnp.zeros(w.shape, jnp.float32, out_sharding=jax.P(*spec.partitions, unreduced=unreduced))

    return jax.tree.map(zeros, weights, weights if used is None else used)


def _accumulate(total, grads, weights):
    return jax.tree.map(lambda t, g, w: t + scattered(g, w).astype(jnp.float32), total, grads, weights)


def _stacked(x, num_layers: int):
    spec = jax.typeof(x).sharding.spec
    return jnp.zeros((num_layers, *x.shape), x.dtype, out_sharding=jax.P(None, *spec.partitions))


def _read(tree, *index):
    """``tree[index]``, leaf by leaf."""
    def read(x):
        for i in index:
            x = jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
        return x
    return jax.tree.map(read, tree)


def _write(tree, value, *index):
    """``tree`` with ``value`` at ``index``, in place where the compiler may."""
    def write(x, v):
        start = (*index, *[0] * v.ndim)
        return jax.lax.dynamic_update_slice(x, v.reshape((1,) * len(index) + v.shape), start)
    return jax.tree.map(write, tree, value)
