import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.precision import stochastic_round


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def rounded(x, key=0):
    return stochastic_round(jnp.asarray(x, jnp.float32), jnp.dtype("bfloat16"), jax.random.key(key))


@pytest.mark.parametrize("value", [1.0 + 1 / 1024, 1.0 + 2**-7 * 0.9, -3.0001, 1e-30, 6.5e4 + 1, 1e-39])
def test_the_mean_of_many_roundings_is_the_value(value):
    """The mean of n roundings of x between neighbours h apart has standard deviation h sqrt(p (1 - p) / n). A deviation
    of 5 of them has a probability below 6e-7; the key is fixed, so the test does not flicker."""
    n = 2**20
    results = np.asarray(rounded(jnp.full(n, value)), np.float64)
    low, high = results.min(), results.max()
    exact = float(np.float32(value))
    assert low <= exact <= high
    assert len(np.unique(results)) == 2
    p = (exact - low) / (high - low)
    sigma = (high - low) * np.sqrt(p * (1 - p) / n)
    assert abs(results.mean() - exact) < 5 * sigma


def test_rounding_to_nearest_would_not_pass():
    value = np.float32(1.0 + 1 / 1024)
    assert float(jnp.bfloat16(value)) == 1.0  # The update of 1/1024 is lost, every time.
    assert np.asarray(rounded(jnp.full(10_000, value)), np.float32).mean() == pytest.approx(value, abs=1e-4)


def test_what_bfloat16_can_hold_stays():
    values = np.asarray([0.0, -0.0, 1.0, -2.5, 2.0**127, np.inf, -np.inf, 2.0**-126], np.float32)
    np.testing.assert_array_equal(np.asarray(rounded(values), np.float32), values)
    assert np.isnan(np.asarray(rounded([np.nan]), np.float32)).all()


def test_rounding_is_a_function_of_the_key():
    x = np.random.default_rng(0).normal(size=1000)
    np.testing.assert_array_equal(rounded(x, 3), rounded(x, 3))
    assert (np.asarray(rounded(x, 3)) != np.asarray(rounded(x, 4))).any()


def test_rounding_does_not_depend_on_the_mesh():
    x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    expected = rounded(x)
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices())
    with jax.set_mesh(mesh):
        split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("fsdp", "tensor")))
        got = jax.jit(lambda x: stochastic_round(x, jnp.dtype("bfloat16"), jax.random.key(0)))(split)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


def test_float32_is_left_alone_and_other_dtypes_are_refused():
    x = jnp.asarray([1.1], jnp.float32)
    assert stochastic_round(x, jnp.dtype("float32"), jax.random.key(0)) is x
    with pytest.raises(ValueError, match="no stochastic rounding from float32 to float16"):
        stochastic_round(x, jnp.dtype("float16"), jax.random.key(0))
