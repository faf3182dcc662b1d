import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.sharding import abstract_batch, abstract_results, gathered, put_batch, scattered, summed

ROWS = P(("data", "fsdp"), None)


def setup(shape):
    rng = np.random.default_rng(0)
    mesh = make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]), jax.devices()[: np.prod(shape)])
    arrays = rng.normal(size=(16, 8)).astype(np.float32), rng.normal(size=(24, 16)).astype(np.float32)
    with jax.set_mesh(mesh):
        w, x = (
            jax.device_put(a, jax.NamedSharding(mesh, spec))
            for a, spec in zip(arrays, (P("fsdp", "tensor"), ROWS), strict=True)
        )
    return mesh, w, x


def product(w, x):
    return jnp.einsum("ri,io->ro", x, w, out_sharding=P(("data", "fsdp"), "tensor"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 1), (2, 2, 2), (4, 1, 2), (2, 4, 1)])
def test_gradients_of_gathered_weights_are_exact_however_they_come_back(shape):
    mesh, w, x = setup(shape)
    expected = 2 * np.asarray(x).T @ (np.asarray(x) @ np.asarray(w))
    with jax.set_mesh(mesh):
        by_transpose = jax.jit(jax.grad(lambda w: jnp.sum(product(gathered(w), x) ** 2)))(w)

        @jax.jit
        def by_hand(w):
            grad = jax.grad(lambda whole: jnp.sum(product(whole, x) ** 2))(gathered(w))
            return summed(scattered(grad, w) + scattered(grad, w)) / 2

        for gradient in (by_transpose, by_hand(w)):
            np.testing.assert_allclose(gradient, expected, rtol=1e-4)
            assert gradient.sharding.spec == P("fsdp", "tensor")


def test_a_weight_that_is_whole_already_is_left_alone():
    mesh, w, x = setup((1, 4, 1))
    with jax.set_mesh(mesh):

        @jax.jit
        def f(w, vector):
            whole = gathered(w)
            assert gathered(whole) is whole
            assert gathered(vector) is vector
            return product(whole, x)

        f(w, jnp.ones(8))


def test_states_in_host_memory_are_known_as_such():
    mesh, _, _ = setup((1, 4, 1))
    with jax.set_mesh(mesh):
        near, far = abstract_results(
            lambda: (
                jnp.zeros((8, 4), out_sharding=P("fsdp", None)),
                jax.device_put(jnp.ones(3), jax.memory.Space.Host),
            ),
            mesh,
        )
    assert (near.sharding.spec, near.sharding.memory_kind) == (P("fsdp", None), "device")
    assert far.sharding.memory_kind == "pinned_host"


def test_an_abstract_batch_is_what_is_put_on_the_mesh():
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    fields = {"tokens": ((16,), np.int32), "mask": ((16, 2), np.float32)}
    batch = put_batch({name: np.zeros((8, *shape), dtype) for name, (shape, dtype) in fields.items()}, mesh)
    abstract = abstract_batch(fields, 8, mesh)
    for name, array in batch.items():
        like = abstract[name]
        assert (like.shape, like.dtype, like.sharding) == (array.shape, array.dtype, array.sharding)
