"""Optimizers and learning-rate schedules: a typed choice in the configuration, optax underneath."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from astrojax.config import Config, Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat
from astrojax.train.adafactor import scale_by_factored_rms
from astrojax.train.layers import num_layers, read, write
from astrojax.train.moments import Moments, with_stored_moments

DEVICE, HOST = jax.memory.Space.Device, jax.memory.Space.Host


class ScheduleConfig(Config, tag_field="kind"):
    """What all optimizers share.

    Attributes:
        peak_lr: the highest learning rate.
        schedule: its course: ``cosine`` falls to the end, ``one_cycle`` rises and falls as cosines (Smith and Topin
            2017), ``warm_restarts`` repeats ``cycles`` cosine falls (Loshchilov and Hutter 2016), each with its
            warm-up; ``constant`` stays; ``inverse_sqrt`` is the smaller of ``peak_lr`` and ``1 / sqrt(step)`` (Shazeer
            and Stern 2018, section 9).
        warmup_steps: linear rise at the start (of each cycle); for ``one_cycle`` the length of its rise.
        final_lr_fraction: the last learning rate over ``peak_lr``.
        cycles: number of cosine falls of ``warm_restarts``.
        weight_decay: decoupled decay of every weight but norms and biases, times the learning rate.
    """

    peak_lr: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine", "one_cycle", "warm_restarts", "inverse_sqrt"] = "cosine"
    warmup_steps: NonNegative = 100
    final_lr_fraction: Fraction = 0.1
    cycles: Positive = 3
    weight_decay: NonNegativeFloat = 0.1


class OptimizerConfig(ScheduleConfig):
    """What the optimizers share that see the whole gradient.

    Attributes:
        clip_norm: gradients are scaled down to this global norm; None leaves them.
    """

    clip_norm: PositiveFloat | None = 1.0


class AdamW(OptimizerConfig, tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017).

    Attributes:
        moments: how both moments are kept between steps (:mod:`astrojax.train.moments`).
        moments_on_host: keep them in host memory; one layer's at a time come to the device.
    """

    b1: Fraction = 0.9
    b2: Fraction = 0.95
    eps: PositiveFloat = 1e-8
    moments: Moments = "float32"
    moments_on_host: bool = False


class Lion(OptimizerConfig, tag="lion"):
    """Sign of an interpolated momentum (Chen et al. 2023): a third of AdamW's rate, three times its decay.

    Attributes:
        moments: how the momentum is kept between steps.
        moments_on_host: keep it in host memory.
    """

    peak_lr: PositiveFloat = 3e-4
    weight_decay: NonNegativeFloat = 0.3
    b1: Fraction = 0.9
    b2: Fraction = 0.99
    moments: Moments = "float32"
    moments_on_host: bool = False


class Sophia(OptimizerConfig, tag="sophia"):
    """Clipped momentum over a Hutchinson estimate of the Hessian's diagonal (Liu et al. 2023, Sophia-H)."""

    peak_lr: PositiveFloat = 5e-4
    weight_decay: NonNegativeFloat = 0.2
    b1: Fraction = 0.965
    b2: Fraction = 0.99
    gamma: PositiveFloat = 0.01
    hessian_every: Positive = 10


class Adafactor(OptimizerConfig, tag="adafactor"):
    """Factored second moments, updates clipped by their root mean square, no momentum (Shazeer and Stern 2018).

    Attributes:
        relative_step: the learning rate is times the root mean square of the tensor it moves, at least 1e-3.
        decay_rate: the moments' decay at step ``t`` is ``1 - t^-decay_rate``.
        min_dim_size_to_factor: tensors whose second-largest axis is smaller keep whole moments.
    """

    peak_lr: PositiveFloat = 3e-3
    relative_step: bool = False
    decay_rate: Fraction = 0.8
    min_dim_size_to_factor: Positive = 128


class FusedAdafactor(ScheduleConfig, tag="fused_adafactor"):
    """Adafactor inside the backward pass (:mod:`astrojax.train.fused_step`): the gradient never exists as a whole, so
    that it cannot be scaled by its norm either. bfloat16 weights are rounded stochastically.

    Attributes:
        relative_step: as for ``adafactor``.
        decay_rate: as for ``adafactor``.
        min_dim_size_to_factor: as for ``adafactor``.
        inputs_on_host: what the layers read is kept in host memory between the passes.
    """

    peak_lr: PositiveFloat = 3e-3
    relative_step: bool = False
    decay_rate: Fraction = 0.8
    min_dim_size_to_factor: Positive = 128
    inputs_on_host: bool = False


Optimizer = AdamW | Lion | Sophia | Adafactor | FusedAdafactor


def make_schedule(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """The learning rate of each step of a run of ``steps``."""
    peak, final, warmup = config.peak_lr, config.peak_lr * config.final_lr_fraction, min(config.warmup_steps, steps)
    # The warm-up's first step already moves: a rate of zero would waste one update.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    if config.schedule == "inverse_sqrt":
        return lambda step: jnp.minimum(peak, (step + 1.0) ** -0.5)
    if config.schedule == "constant":
        return optax.join_schedules([rise, optax.constant_schedule(peak)], [warmup])
    if config.schedule == "warm_restarts":
        length = max(-(-steps // config.cycles), 1)
        warmup = min(warmup, length)
        cycle = optax.join_schedules([rise, _fall(peak, final, length - warmup)], [warmup])
        return optax.join_schedules([cycle] * config.cycles, [length * i for i in range(1, config.cycles)])
    if config.schedule == "one_cycle":
        mirrored = _fall(peak, peak / 25, warmup)
        return optax.join_schedules(
            [lambda step: peak + peak / 25 - mirrored(step), _fall(peak, final, steps - warmup)], [warmup]
        )
    return optax.join_schedules([rise, _fall(peak, final, steps - warmup)], [warmup])


def make_optimizer(
    config: ScheduleConfig, steps: int, *, seed: int = 0, layers: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Clipping, the optimizer, decoupled decay and the schedule as one transformation.

    Its ``update`` takes ``obj_fn``, the loss as a function of the parameters alone, which Sophia differentiates twice.

    Args:
        config: which optimizer.
        steps: the length of the run.
        seed: of what the optimizer draws.
        layers: the entry of the parameters whose tensors are stacked over layers; Adafactor treats each layer's tensors
            as its own.
    """
    schedule = make_schedule(config, steps)
    if isinstance(config, Sophia):
        tx = optax.contrib.sophia(
            schedule,
            config.b1,
            config.b2,
            weight_decay=config.weight_decay,
            weight_decay_mask=decayed,
            gamma=config.gamma,
            update_interval=config.hessian_every,
            hessian_diagonal_fn=hutchinson_diagonal(seed),
        )
    elif isinstance(config, AdamW | Lion):
        if isinstance(config, AdamW):
            tx = optax.adamw(schedule, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=decayed)
        else:
            tx = optax.lion(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=decayed)
        if config.moments != "float32" or config.moments_on_host:
            tx = per_layer(with_stored_moments(tx, config.moments, seed), layers, on_host=config.moments_on_host)
    else:
        tx = per_layer(make_adafactor(config, steps), layers)
    clip_norm = None if isinstance(config, FusedAdafactor) else config.clip_norm
    return optax.chain(optax.clip_by_global_norm(clip_norm), tx) if clip_norm else tx


def make_adafactor(config: Adafactor | FusedAdafactor, steps: int) -> optax.GradientTransformation:
    """Adafactor for tensors that are not stacked, without clipping of the gradient."""
    return optax.chain(
        scale_by_factored_rms(config.decay_rate, config.min_dim_size_to_factor),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(1e-3) if config.relative_step else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
    )


def per_layer(
    optimizer: optax.GradientTransformation, layers: str | None, *, on_host: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Applies ``optimizer`` to every entry of the parameters on its own, and to the layers stacked in the entry
    ``layers`` one after the other, so that what it computes exists for one layer at a time.

    Its state is a dict of the entries' states, in host memory if ``on_host``. Its ``update`` takes ``healthy``: where
    it does not hold, a state in host memory stays as it is (nothing outside can see to that).
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def kept(state, scalar_ndim: int = 0):
        def keep(leaf):
            return jax.device_put(leaf, HOST) if on_host and leaf.ndim > scalar_ndim else leaf

        return jax.tree.map(keep, state)

    def init(params):
        def start(name, entry):
            if name == layers:
                return kept(jax.vmap(optimizer.init)({name: entry}), scalar_ndim=1)
            return kept(optimizer.init({name: entry}))

        return {name: start(name, entry) for name, entry in params.items()}

    def update(updates, state, params, *, healthy=True, **extra):
        del extra

        def move(name, grads, old, params, place):
            near = jax.device_put(old, DEVICE)
            moved, new = optimizer.update({name: grads}, near, {name: params}, place=place)
            if on_host:
                new = kept(jax.tree.map(lambda n, o: jnp.where(healthy, n, o), new, near))
            return moved[name], new

        def move_layer(carry, index):
            updates, state = carry
            moved, new = move(layers, *read((updates, state, params[layers]), index), len(params) + index)
            return (write(updates, moved, index), write(state, new, index)), None

        moved, new = {}, {}
        for place, name in enumerate(sorted(params)):
            if name == layers:
                order = jnp.arange(num_layers(params[name]))
                (moved[name], new[name]), _ = jax.lax.scan(move_layer, (updates[name], state[name]), order)
            else:
                moved[name], new[name] = move(name, updates[name], state[name], params[name], place)
        return moved, new

    return optax.GradientTransformationExtraArgs(init, update)


def decayed(params):
    """Which parameters decay: all but those whose name has ``norm`` or ``bias`` in it."""

    def is_decayed(path, _):
        return not any(word in str(path[-1]) for word in ("norm", "bias"))

    return jax.tree_util.tree_map_with_path(is_decayed, params)


class HutchinsonState(NamedTuple):
    count: jax.Array


def hutchinson_diagonal(seed: int) -> optax.GradientTransformationExtraArgs:
    """Estimates the Hessian's diagonal as ``u * (H u)`` with random signs ``u`` (Liu et al. 2023, eq. 6).

    Like optax's own, but the signs are drawn in each parameter's sharding, and from a counter instead of a stored key.
    """

    def init(params):
        del params
        return HutchinsonState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, obj_fn, **_):
        del updates
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.count), len(leaves))
        signs = treedef.unflatten(
            jax.sharding.reshard(jax.random.rademacher(key, leaf.shape, leaf.dtype), jax.typeof(leaf).sharding.spec)
            for key, leaf in zip(keys, leaves, strict=True)
        )
        product = jax.jvp(jax.grad(obj_fn), (params,), (signs,))[1]
        return jax.tree.map(jnp.multiply, signs, product), HutchinsonState(state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _fall(start: float, end: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(start, max(steps, 1), end / start)
