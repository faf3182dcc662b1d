import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from astrojax.ops.embedding import embed
from astrojax.parallel.mesh import MeshConfig, make_mesh

BATCH = P(("data", "fsdp"), None)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 4, 1), (1, 1, 4), (8, 1, 1)])
def test_rows_and_their_gradient_are_those_of_indexing(shape):
    rng = np.random.default_rng(0)
    table, tokens = rng.normal(size=(16, 6)).astype(np.float32), rng.integers(0, 16, (8, 5)).astype(np.int32)
    cotangent = rng.normal(size=(8, 5, 6)).astype(np.float32)
    mesh = make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]), jax.devices()[: np.prod(shape)])
    with jax.set_mesh(mesh):
        on_mesh = [
            jax.device_put(x, jax.NamedSharding(mesh, spec))
            for x, spec in ((table, P(("fsdp", "tensor"), None)), (tokens, BATCH), (cotangent, P(*BATCH, None)))
        ]

        @jax.jit
        def rows_and_gradient(table, tokens, cotangent):
            rows, pull = jax.vjp(lambda table: embed(table, tokens, P(*BATCH, None)), table)
            return rows, pull(cotangent)[0]

        rows, gradient = rows_and_gradient(*on_mesh)
    expected = np.zeros_like(table)
    np.add.at(expected, tokens, cotangent)
    np.testing.assert_array_equal(rows, table[tokens])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    assert gradient.sharding.spec == P(("fsdp", "tensor"), None)


def test_a_frequent_token_in_half_precision_counts_every_time():
    """4096 ones: bfloat16 would stop counting at 256."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        table, tokens = jnp.ones((4, 2), jnp.bfloat16), jnp.zeros((1, 4096), jnp.int32)
        gradient = jax.grad(lambda t: jnp.sum(embed(t, tokens, P(*BATCH, None)).astype(jnp.float32)))(table)
    np.testing.assert_array_equal(gradient[0].astype(np.float32), 4096)
    assert gradient.dtype == jnp.bfloat16
