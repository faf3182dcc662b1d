"""The fused step against the plain one: same optimizer, same batches, same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from astrojax import config as configs
from astrojax.errors import RequestError
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.sharding import put_batch
from astrojax.runs import load_run
from astrojax.tasks import make_task
from astrojax.train import loop
from astrojax.train.metrics import read_metrics
from astrojax.train.optimizers import decayed, make_schedule
from astrojax.train.program import make_program
from astrojax.train.task import LayerStack
from tests.conftest import SMALL

FUSED = SMALL | {"optimizer": "fused_adafactor", "optimizer.min_dim_size_to_factor": "16", "train.steps": "40"}
PLAIN = FUSED | {"optimizer": "adafactor", "optimizer.clip_norm": "none"}


def batches(steps, rows=8, seq_len=64, vocab=512):
    """Packed windows as the pipeline makes them: two segments, some positions that do not count."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        tokens = rng.integers(0, vocab, (rows, seq_len + 1)).astype(np.int32)
        cut = seq_len // 3
        yield {
            "tokens": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "segment_ids": np.tile(np.repeat([1, 2], [cut, seq_len - cut]), (rows, 1)).astype(np.int32),
            "positions": np.tile([*range(cut), *range(seq_len - cut)], (rows, 1)).astype(np.int32),
            "loss_mask": (rng.random((rows, seq_len)) < 0.9).astype(np.float32),
        }


def language(overrides):
    return make_task(configs.override(configs.load_config("configs/llm.py"), overrides))


def run(task, steps, mesh_shape=(1, 1, 1), data=None):
    """Final parameters and every step's metrics."""
    mesh = make_mesh(MeshConfig(data=mesh_shape[0], fsdp=mesh_shape[1], tensor=mesh_shape[2]), devices(mesh_shape))
    with jax.set_mesh(mesh):
        program = make_program(task)
        step = jax.jit(program.step, donate_argnums=0)
        state, metrics = jax.jit(program.init)(), []
        for batch in batches(steps) if data is None else data:
            state, measured = step(state, put_batch(batch, mesh))
            metrics.append(jax.device_get(measured))
    return jax.device_get(state), metrics


def devices(mesh_shape):
    return jax.devices()[: int(np.prod(mesh_shape))]


def assert_equal_to(first, second, rtol):
    """Each tensor as a whole: a single weight near zero says nothing."""

    def check(path, a, b):
        error = np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64))
        assert error < rtol, f"{jax.tree_util.keystr(path)}: {error:.2e}"

    jax.tree_util.tree_map_with_path(check, first, second)


@functools.cache
def unfused():
    """Twenty steps that take the gradient as a whole and hand each layer's tensors to optax's Adafactor."""
    task = language(FUSED)
    config = task.config.optimizer
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    optimizer = optax.chain(
        optax.scale_by_factored_rms(decay_rate=config.decay_rate, min_dim_size_to_factor=config.min_dim_size_to_factor),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(make_schedule(config, task.config.train.steps)),
    )

    def apart(params):  # One tree for each layer.
        layers = [jax.tree.map(lambda p, i=i: p[i], params["blocks"]) for i in range(2)]
        return {**params, "blocks": layers}

    def together(params):
        return {**params, "blocks": jax.tree.map(lambda *p: jnp.stack(p), *params["blocks"])}

    def loss(params, batch):
        total, weight = task.loss(together(params), batch, jax.random.key(0))
        return total / weight

    @jax.jit
    def step(params, state, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    with jax.set_mesh(mesh):
        params = apart(jax.jit(make_program(task).init)().params)
        state, losses = optimizer.init(params), []
        for batch in batches(20):
            params, state, value = step(params, state, put_batch(batch, mesh))
            losses.append(float(value))
        return jax.device_get(together(params)), losses


@pytest.mark.parametrize(
    ("mesh_shape", "microbatch_size"),
    [((1, 1, 1), None), ((1, 1, 1), 2), ((1, 4, 1), 4), ((2, 2, 2), 4)],
)
def test_twenty_fused_steps_equal_twenty_plain_ones(mesh_shape, microbatch_size):
    params, losses = unfused()
    state, metrics = run(language(FUSED | {"train.microbatch_size": str(microbatch_size)}), 20, mesh_shape)
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-5)
    assert_equal_to(state.params, params, 1e-5)


def test_the_classic_step_with_adafactor_is_the_same_optimizer():
    params, _ = unfused()
    state, metrics = run(language(PLAIN), 20)
    assert_equal_to(state.params, params, 1e-5)
    fused_state, fused = run(language(FUSED), 20)
    np.testing.assert_allclose([m["grad_norm"] for m in fused], [m["grad_norm"] for m in metrics], rtol=1e-4)
    assert jax.tree.structure(fused_state.opt_state) == jax.tree.structure(state.opt_state)


def test_tied_embeddings_collect_both_gradients():
    tied = {"model.tie_embeddings": "true"}
    plain, _ = run(language(PLAIN | tied), 5)
    fused, _ = run(language(FUSED | tied | {"train.microbatch_size": "4"}), 5)
    assert_equal_to(fused.params, plain.params, 1e-5)


def test_inputs_in_host_memory_change_nothing():
    here, _ = run(language(FUSED), 3)
    there, _ = run(language(FUSED | {"optimizer.inputs_on_host": "true"}), 3)
    jax.tree.map(np.testing.assert_array_equal, there.params, here.params)


BF16 = {"model.precision.params": "bfloat16", "model.precision.compute": "bfloat16"}


@pytest.mark.slow
def test_rounding_draws_the_same_again_and_anew_at_every_step():
    """With the gradient gone what is left to a step is to decay each weight a little, and to round it."""
    decay_only = {"optimizer.peak_lr": "1e-3", "optimizer.schedule": "constant", "optimizer.warmup_steps": "0"}
    task = language(FUSED | BF16 | decay_only | {"optimizer.weight_decay": "1"})
    batch = {**next(batches(1)), "loss_mask": np.zeros((8, 64), np.float32)}
    states = [run(task, 0, data=[batch] * steps)[0].params["blocks"]["mlp"]["up_df"] for steps in (0, 1, 2, 2)]
    start, one, two, two_again = (np.asarray(state, np.float64) for state in states)
    np.testing.assert_array_equal(two, two_again)
    first, second = one != start, two != one
    # A step of 1e-3 where neighbours are 2^-8 to 2^-7 apart moves 13 to 26 % of the weights: not one by rounding to
    # nearest, and different ones each time.
    assert 0.1 < first.mean() < 0.3
    assert (first & second).mean() < 1.5 * first.mean() * second.mean()
    assert (1 - one / start).mean() == pytest.approx(1e-3, rel=0.1)


class Roots:
    """Three layers ``x + root(w)``; a weight of zero has an infinite gradient and harms nobody else's."""

    unit, units_per_example, resumable_changes = "rows", 1, ()

    def __init__(self, weights):
        self.config = configs.override(
            configs.load_config("configs/llm.py"),
            {"optimizer": "fused_adafactor", "optimizer.weight_decay": "0", "train.batch_size": "4"},
        )
        self.weights = jnp.asarray(weights, jnp.float32)
        self.stack = LayerStack(
            layers="layers",
            embed_params=("scale",),
            head_params=("offset",),
            embed=lambda params, batch, key: batch["x"] * params["scale"],
            layer=lambda layer, x, batch: x + jnp.sqrt(layer["w"]),
            head=lambda params, x, batch: (jnp.sum((x - params["offset"]) ** 2), jnp.float32(x.shape[0])),
        )

    def init(self, key):
        return {"scale": jnp.ones(()), "layers": {"w": self.weights}, "offset": jnp.zeros(())}

    def step(self, x):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        with jax.set_mesh(mesh):
            program = make_program(self)
            before = jax.jit(program.init)()
            after, metrics = jax.jit(program.step)(before, put_batch({"x": np.asarray(x, np.float32)}, mesh))
            return before, after, metrics


def test_a_layer_with_a_bad_gradient_keeps_its_weights_and_is_counted():
    before, after, metrics = Roots([1.0, 0.0, 1.0]).step([1, 2, 3, 4])
    assert np.isfinite(float(metrics["loss"]))
    np.testing.assert_array_equal(metrics["nonfinite"]["layers"], [False, True, False])
    moved = np.asarray(after.params["layers"]["w"] != before.params["layers"]["w"])
    np.testing.assert_array_equal(moved, [True, False, True])
    assert float(after.params["offset"]) != 0
    counts = optax.tree.get_all_with_path(after.opt_state["layers"], "count")
    assert all((np.asarray(count) == [1, 0, 1]).all() for _, count in counts)
    assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_loss_changes_nothing(bad):
    before, after, metrics = Roots([1.0, 2.0, 3.0]).step([1, 2, bad, 4])
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert int(metrics["skipped"]) == 1
    assert all(np.all(flag) for flag in jax.tree.leaves(metrics["nonfinite"]))


def test_a_model_without_layers_is_refused():
    task = Roots([1.0])
    task.stack = None
    with pytest.raises(RequestError, match="needs a model made of equal layers; take adafactor"):
        make_program(task)


@pytest.mark.slow
def test_a_fused_run_resumes_bit_for_bit_and_loads(small, tmp_path):
    """Stochastic rounding included: its draws are counted by step, not by what has been drawn before."""
    overrides = small | FUSED | BF16 | {"optimizer.schedule": "constant", "train.microbatch_size": "4"}
    overrides |= {"data.path": small["data.path"], "data.questions_path": small["data.questions_path"]}

    def train(workdir, steps):
        task = language(overrides | {"train.steps": str(steps)})
        return loop.train(task, workdir, devices=jax.devices()[:2])

    straight = train(tmp_path / "straight", 12)
    for steps in (5, 12):
        resumed = train(tmp_path / "resumed", steps)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
    losses = [record["loss"] for record in read_metrics(tmp_path / "straight")]
    assert losses == [record["loss"] for record in read_metrics(tmp_path / "resumed")]
    assert losses[-1] < losses[0]
    restored = load_run(tmp_path / "resumed", devices=jax.devices()[:4])
    jax.tree.map(np.testing.assert_array_equal, restored.params, straight.params)
