import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.train.moments import BLOCK, Quantised, dequantise, quantise
from astrojax.train.optimizers import AdamW, Lion, make_optimizer


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def values(signed, shape=(3, 4 * BLOCK)):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) ** 3
    return jnp.asarray(x if signed else x**2)


@pytest.mark.parametrize("signed", [True, False])
def test_every_value_comes_back_within_half_a_step(signed):
    """A decade i below the block's largest is cut into 2^(bits - 1 - i) steps of 0.9 / 2^(bits - 1 - i) of it."""
    x = np.asarray(values(signed))
    back = np.asarray(dequantise(quantise(jnp.asarray(x), signed=signed)))
    blocks, back = x.reshape(3, -1, BLOCK), back.reshape(3, -1, BLOCK)
    scale = np.abs(blocks).max(-1, keepdims=True)
    decade = np.clip(np.floor(-np.log10(np.abs(blocks) / scale)), 0, 6 if signed else 7)
    half = 0.45 * 10.0**-decade / 2 ** ((6 if signed else 7) - decade) * scale
    lowest = 0.55 * 10.0**-decade * scale  # What lies below the last decade is raised to its middle.
    assert (np.abs(back - blocks) <= np.where(decade == decade.max(), lowest, half) * 1.001).all()
    assert (np.sign(back) == np.sign(blocks)).all()


def test_the_largest_values_are_kept_best():
    x = np.asarray(values(False))
    back = np.asarray(dequantise(quantise(jnp.asarray(x), signed=False)))
    large = x > 0.5 * x.max()
    assert np.abs(back / x - 1)[large].max() < 0.01


def test_zero_stays_zero_and_nothing_else_becomes_zero():
    x = jnp.asarray([[0.0, 1e-12, 1.0, 1e-30]])
    back = dequantise(quantise(x, signed=False))
    assert float(back[0, 0]) == 0
    assert (back[0, 1:] > 0).all()
    np.testing.assert_array_equal(dequantise(quantise(jnp.zeros((2, 5)), signed=True)), 0)


def test_codes_take_a_byte_and_scales_little():
    quantised = quantise(values(True), signed=True)
    assert quantised.codes.dtype == jnp.int8
    assert quantised.codes.shape == (3, 4 * BLOCK)
    assert quantised.scales.shape == (3, 4)
    assert quantise(values(False, (2, 544)), signed=False).scales.shape == (2, 4)


def test_blocks_do_not_cross_devices():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4), jax.devices())
    x = np.asarray(values(True, (4, 512)))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, jax.NamedSharding(mesh, P("fsdp", "tensor")))
        quantised = jax.jit(lambda x: quantise(x, signed=True))(split)
        assert quantised.scales.sharding.spec == P("fsdp", "tensor")
        back = jax.jit(dequantise)(quantised)
    np.testing.assert_allclose(back, x, atol=0.01 * np.abs(x).max())


def descend(config, steps=200):
    """Final loss of a quadratic with two layers, and the last optimizer state."""
    rng = np.random.default_rng(0)
    target = {
        "blocks": {"w": jnp.asarray(rng.normal(size=(2, 16, 64)), jnp.float32)},
        "head": jnp.asarray(rng.normal(size=(32,)), jnp.float32),
    }
    optimizer = make_optimizer(config, steps, layers="blocks")

    def loss(params):
        return sum(
            jnp.mean((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True)
        )

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params, healthy=jnp.bool(True))
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.zeros_like, target)
    state = jax.jit(optimizer.init)(params)
    for _ in range(steps):
        params, state = step(params, state)
    return float(loss(params)) / float(loss(jax.tree.map(jnp.zeros_like, target))), state


@pytest.mark.parametrize("kind", [AdamW, Lion])
@pytest.mark.parametrize(
    "storage",
    [
        {"moments": "bfloat16"},
        {"moments": "int8"},
        {"moments_on_host": True},
        {"moments": "int8", "moments_on_host": True},
    ],
)
def test_training_is_as_good_with_stored_moments(kind, storage):
    options = {"peak_lr": 0.05, "weight_decay": 0.0, "warmup_steps": 5, "final_lr_fraction": 0.0}
    plain, _ = descend(kind(**options))
    stored, state = descend(kind(**options, **storage))
    assert stored < max(1.5 * plain, 1e-3)
    leaves = jax.tree.leaves(state)
    if storage.get("moments") == "int8":
        assert any(isinstance(x, Quantised) for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Quantised)))
    elif storage.get("moments") == "bfloat16":
        assert {x.dtype for x in leaves if x.ndim > 1} == {jnp.dtype("bfloat16")}
    if storage.get("moments_on_host"):
        assert {x.sharding.memory_kind for x in leaves if x.ndim > 1} == {"pinned_host"}


def test_float32_moments_on_the_host_change_nothing():
    options = {"peak_lr": 0.05, "warmup_steps": 5}
    plain, host = descend(AdamW(**options), 20), descend(AdamW(moments_on_host=True, **options), 20)
    assert host[0] == pytest.approx(plain[0], rel=1e-6)


def test_a_step_that_is_not_healthy_leaves_moments_on_the_host():
    optimizer = make_optimizer(AdamW(moments_on_host=True, clip_norm=None), 10, layers="blocks")
    params = {"blocks": {"w": jnp.ones((2, 4, 4))}, "head": jnp.ones((4,))}
    state = jax.jit(optimizer.init)(params)
    update = jax.jit(optimizer.update)
    _, moved = update(params, state, params, healthy=jnp.bool(True))
    _, kept = update(params, state, params, healthy=jnp.bool(False))
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(np.asarray, s) for s in (kept, state)))
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(state), strict=True)
    )
