import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.train.optimizers import (
    Adafactor,
    AdamW,
    Lion,
    Sophia,
    decayed,
    hutchinson_diagonal,
    make_optimizer,
    make_schedule,
)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def rates(**options):
    schedule = make_schedule(AdamW(peak_lr=1.0, warmup_steps=10, final_lr_fraction=0.1, **options), 100)
    return np.asarray([float(schedule(step)) for step in range(100)])


def test_cosine_rises_and_falls_to_its_end():
    lr = rates(schedule="cosine")
    assert lr[0] == pytest.approx(0.1)
    assert lr.argmax() in (9, 10)
    assert lr.max() == pytest.approx(1.0)
    assert lr[-1] == pytest.approx(0.1, abs=0.005)
    assert (np.diff(lr[11:]) < 0).all()


def test_constant_stays():
    assert (rates(schedule="constant")[10:] == 1).all()


def test_one_cycle_has_one_peak():
    lr = rates(schedule="one_cycle")
    assert lr[0] == pytest.approx(1 / 25)
    assert (np.diff(lr[:11]) > 0).all()
    assert (np.diff(lr[11:]) < 0).all()


def test_warm_restarts_repeat():
    lr = rates(schedule="warm_restarts", cycles=2)
    np.testing.assert_allclose(lr[:50], lr[50:], rtol=1e-5)
    assert lr[:50].max() == pytest.approx(1.0)
    assert lr[49] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("kind", [AdamW, Lion, Sophia, Adafactor])
def test_every_optimizer_finds_the_minimum(kind):
    target = jnp.asarray(np.random.default_rng(0).normal(size=(16, 16)), jnp.float32)
    optimizer = make_optimizer(kind(peak_lr=0.05, warmup_steps=5, weight_decay=0.0, final_lr_fraction=0.0), 300)

    def loss(params):
        return jnp.mean((params["w"] - target) ** 2 * jnp.linspace(0.5, 2, 16))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params, obj_fn=loss)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.zeros((16, 16))}
    state = optimizer.init(params)
    start = loss(params)
    for _ in range(300):
        params, state = step(params, state)
    assert loss(params) < 0.02 * start


@pytest.mark.parametrize("kind", [AdamW, Lion, Sophia, Adafactor])
def test_decay_shrinks_weights_by_rate_times_decay_and_spares_norms(kind):
    config = kind(peak_lr=0.01, warmup_steps=0, schedule="constant", weight_decay=0.5)
    optimizer = make_optimizer(config, 10)
    params = {"w_df": jnp.full((4, 4), 2.0), "norm_d": jnp.full((4,), 2.0)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, obj_fn=lambda p: jnp.float32(0))
    np.testing.assert_allclose(updates["w_df"], -0.01 * 0.5 * 2.0, rtol=1e-5)
    np.testing.assert_array_equal(updates["norm_d"], 0)
    assert decayed(params) == {"w_df": True, "norm_d": False}


def test_gradients_are_clipped_to_the_global_norm():
    gradient = {"w": jnp.full((4,), 100.0)}
    one_sided = make_optimizer(Lion(clip_norm=1.0, b1=0.0, weight_decay=0.0), 10)
    _, state = one_sided.update(gradient, one_sided.init(gradient), gradient)
    momentum = optax.tree.get(state, "mu")["w"]
    assert jnp.linalg.norm(momentum) / (1 - 0.99) == pytest.approx(1.0, rel=1e-4)


def test_hutchinson_is_exact_for_a_diagonal_hessian():
    curvature = {"a": jnp.arange(1.0, 5.0), "b": jnp.full((2, 3), 7.0)}
    estimator = hutchinson_diagonal(seed=1)
    estimate, _ = estimator.update(
        curvature,
        estimator.init(curvature),
        jax.tree.map(jnp.ones_like, curvature),
        obj_fn=lambda p: 0.5 * sum(jnp.sum(curvature[k] * p[k] ** 2) for k in p),
    )
    jax.tree.map(lambda e, c: np.testing.assert_allclose(e, c, rtol=1e-6), estimate, curvature)
