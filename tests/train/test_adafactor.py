import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.train.adafactor import factored_axes, scale_by_factored_rms
from astrojax.train.optimizers import Adafactor, FusedAdafactor, make_adafactor, make_schedule

SHAPES = {"matrix": (6, 9), "tall": (9, 6), "vector": (7,), "heads": (5, 2, 8), "small": (2, 9), "scalar": ()}


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def gradients(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def test_figures_are_optaxs():
    ours, theirs = (
        f(decay_rate=0.8, min_dim_size_to_factor=4) for f in (scale_by_factored_rms, optax.scale_by_factored_rms)
    )
    state, their_state = ours.init(gradients(0)), theirs.init(gradients(0))
    for seed in range(5):
        updates, state = ours.update(gradients(seed), state)
        expected, their_state = theirs.update(gradients(seed), their_state, gradients(0))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), updates, expected)


def test_a_rank_one_second_moment_is_exact():
    """Where squared gradients are an outer product the factored estimate is the true one: every update is a sign."""
    gradient = {"w": jnp.outer(jnp.arange(1.0, 9), -jnp.arange(1.0, 7))}
    tx = scale_by_factored_rms(min_dim_size_to_factor=4)
    updates, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(updates["w"], -1, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((6, 9), (0, 1)), ((9, 6), (1, 0)), ((5, 2, 8), (0, 2)), ((64, 4, 68), (0, 2)), ((7,), None), ((3, 9), None)],
)
def test_the_two_largest_axes_are_factored(shape, axes):
    assert factored_axes(shape, 4) == axes


def test_statistics_live_where_the_weights_live():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices())
    with jax.set_mesh(mesh):
        weights = {"w_df": jax.device_put(jnp.ones((16, 8)), jax.NamedSharding(mesh, P("fsdp", "tensor")))}
        tx = scale_by_factored_rms(min_dim_size_to_factor=4)
        state = jax.jit(tx.init)(weights)
        _, after = jax.jit(tx.update)(weights, state)
    for s in (state, after):
        assert s.columns["w_df"].sharding.spec == P("fsdp")
        assert s.rows["w_df"].sharding.spec == P("tensor")
    assert state.rows["w_df"].size + state.columns["w_df"].size == 16 + 8


def test_updates_are_clipped_by_their_root_mean_square():
    """Section 6: after small gradients have set the scale, a burst may move no weight by more than the rate."""
    tx = make_adafactor(Adafactor(peak_lr=0.1, warmup_steps=0, schedule="constant", weight_decay=0.0), 10)
    weights = {"w": jnp.zeros((4, 4))}
    state = tx.init(weights)
    for size in (1e-3, 1e-3, 1e3):
        updates, state = tx.update({"w": jnp.full((4, 4), size)}, state, weights)
        assert float(jnp.sqrt(jnp.mean(updates["w"] ** 2))) <= 0.1 * 1.0001


def test_relative_steps_are_the_papers():
    """Algorithm 4: the rate is max(1e-3, RMS of the weight) * min(1e-2, 1 / sqrt(t))."""
    config = FusedAdafactor(peak_lr=1e-2, schedule="inverse_sqrt", relative_step=True, weight_decay=0.0)
    assert float(make_schedule(config, 10)(0)) == pytest.approx(1e-2)
    assert float(make_schedule(config, 10)(39_999)) == pytest.approx(1 / 200)
    tx = make_adafactor(config, 10)
    weights = {"w": jnp.full((4, 4), 5.0), "zero": jnp.zeros((4, 4))}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, weights), tx.init(weights), weights)
    np.testing.assert_allclose(updates["w"], -5e-2, rtol=1e-4)
    np.testing.assert_allclose(updates["zero"], -1e-5, rtol=1e-4)
