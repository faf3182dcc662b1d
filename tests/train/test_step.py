import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from astrojax import config as configs
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.sharding import put_batch
from astrojax.train.optimizers import make_optimizer, make_schedule
from astrojax.train.step import init_state, make_train_step, num_micro_batches, split_batch
from astrojax.train.task import TrainConfig


class LeastSquares:
    """The smallest task: the loss of a batch is the weighted squared error of a linear map."""

    unit, units_per_example, resumable_changes = "rows", 1, ()

    def __init__(self, config, params_dtype=jnp.float32):
        self.config, self.params_dtype = config, params_dtype

    def init(self, key):
        params = {"w_df": jax.random.normal(key, (3, 2)), "bias_f": jnp.zeros((2,))}
        return jax.tree.map(lambda p: p.astype(self.params_dtype), params)

    def loss(self, params, batch, key):
        del key
        error = batch["x"] @ params["w_df"] + params["bias_f"] - batch["y"]
        return jnp.sum(batch["weight"][:, None] * error**2), jnp.sum(batch["weight"])


@pytest.fixture
def mesh():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


def setup(microbatch_size=None, **optimizer):
    overrides = {"train.batch_size": "8", "train.microbatch_size": str(microbatch_size)}
    overrides |= {f"optimizer.{name}": str(value) for name, value in optimizer.items()}
    task = LeastSquares(configs.override(configs.load_config("configs/llm.py"), overrides))
    transformation = make_optimizer(task.config.optimizer, 10)
    step = jax.jit(make_train_step(task, transformation, make_schedule(task.config.optimizer, 10)))
    return init_state(task, transformation, 0), step


def batch(mesh, seed=0):
    rng = np.random.default_rng(seed)
    return put_batch(
        {
            "x": rng.normal(size=(8, 3)).astype(np.float32),
            "y": rng.normal(size=(8, 2)).astype(np.float32),
            "weight": np.asarray([1, 0, 1, 1, 0, 1, 0.5, 0], np.float32),
        },
        mesh,
    )


@pytest.mark.parametrize("microbatch_size", [1, 2, 4])
def test_accumulation_changes_nothing(mesh, microbatch_size):
    state, step = setup()
    accumulated_state, accumulated_step = setup(microbatch_size)
    for seed in range(3):
        state, metrics = step(state, batch(mesh, seed))
        accumulated_state, accumulated = accumulated_step(accumulated_state, batch(mesh, seed))
        np.testing.assert_allclose(metrics["loss"], accumulated["loss"], rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"], accumulated["grad_norm"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, accumulated_state.params
    )


def test_the_first_step_is_the_optimizers_own(mesh):
    state, step = setup(schedule="constant", warmup_steps=0, peak_lr=0.1, weight_decay=0, clip_norm="none")
    new, _ = step(state, batch(mesh))
    # Adam's first update has the size of the learning rate and the gradient's sign.
    moved = jax.tree.map(lambda a, b: np.abs(a - b), new.params, state.params)
    jax.tree.map(lambda m: np.testing.assert_allclose(m, 0.1, rtol=1e-4), moved)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_step_changes_nothing_and_is_counted(mesh, bad):
    state, step = setup()
    state, _ = step(state, batch(mesh, 0))
    x = np.array(batch(mesh, 1)["x"])
    x[0, 1] = bad
    poisoned = batch(mesh, 1) | put_batch({"x": x}, mesh)
    after, metrics = step(state, poisoned)
    after, again = step(after, poisoned)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)
    assert (int(metrics["skipped"]), int(again["skipped"]), int(again["skipped_in_a_row"])) == (1, 2, 2)
    assert int(after.step) == 3
    assert bool(metrics["nonfinite"]["w_df"])
    after, healthy = step(after, batch(mesh, 2))
    assert (int(healthy["skipped"]), int(healthy["skipped_in_a_row"])) == (2, 0)
    assert not np.array_equal(after.params["w_df"], state.params["w_df"])


@pytest.mark.parametrize("microbatch_size", [None, 2])
@pytest.mark.parametrize("kind", ["adamw", "lion", "sophia", "adafactor"])
def test_a_step_keeps_every_shape_and_dtype(mesh, kind, microbatch_size):
    """Else the second step would compile again, and a checkpoint would not fit the state it is restored into."""
    overrides = {"train.batch_size": "8", "train.microbatch_size": str(microbatch_size), "optimizer": kind}
    task = LeastSquares(configs.override(configs.load_config("configs/llm.py"), overrides), params_dtype=jnp.bfloat16)
    optimizer = make_optimizer(task.config.optimizer, 10)
    step = make_train_step(task, optimizer, make_schedule(task.config.optimizer, 10))
    state = jax.eval_shape(lambda: init_state(task, optimizer, 0))
    after, _ = jax.eval_shape(step, state, batch(mesh))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert state.params["w_df"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(state.opt_state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}


def test_a_batch_of_no_weight_moves_nothing_but_the_count(mesh):
    state, step = setup(weight_decay=0)
    empty = batch(mesh) | {"weight": batch(mesh)["weight"] * 0}
    after, metrics = step(state, empty)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert float(metrics["loss"]) == 0


@pytest.mark.parametrize(
    ("devices", "microbatch_size", "micro_batches"), [(1, None, 1), (1, 2, 4), (2, 2, 4), (4, 2, 2), (8, 1, 1)]
)
def test_micro_batches_are_no_smaller_than_splits_over_the_devices(devices, microbatch_size, micro_batches):
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:devices])):
        assert num_micro_batches(TrainConfig(steps=1, batch_size=8, microbatch_size=microbatch_size)) == micro_batches


def test_micro_batches_are_rows_of_the_batch_without_moving_between_devices():
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        whole = put_batch({"x": np.arange(8)}, mesh)
        parts = jax.jit(lambda b: split_batch(b, 2))(whole)["x"]
        assert parts.sharding.spec == P(None, ("data", "fsdp"))
        np.testing.assert_array_equal(parts, [[0, 2, 4, 6], [1, 3, 5, 7]])
        compiled = jax.jit(lambda b: split_batch(b, 2)).lower(whole).compile().as_text()
    assert not any(word in compiled for word in ("all-gather", "all-to-all", "collective-permute"))


def test_optimizer_state_is_sharded_like_the_parameters():
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        params = {"w": jnp.zeros((8, 4), out_sharding=P("fsdp", None))}
        optimizer = make_optimizer(configs.load_config("configs/llm.py").optimizer, 10)
        moments = optax.tree.get(jax.eval_shape(optimizer.init, params), "mu")
    assert moments["w"].sharding.spec == P("fsdp", None)
