import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from astrojax.ops.cross_entropy import cross_entropy, token_log_likelihood
from astrojax.parallel.mesh import MeshConfig, make_mesh

B, T, D, V = 4, 12, 16, 40


def arrays(mesh):
    rng = np.random.default_rng(0)
    host = {
        "hidden": (rng.normal(size=(B, T, D)), P(("data", "fsdp"), None, None)),
        "head": (rng.normal(size=(D, V)), P(None, "tensor")),
        "targets": (rng.integers(0, V, (B, T)), P(("data", "fsdp"), None)),
        "weights": (rng.integers(0, 2, (B, T)), P(("data", "fsdp"), None)),
    }
    return [
        jax.device_put(x.astype(np.int32 if name == "targets" else np.float32), NamedSharding(mesh, spec))
        for name, (x, spec) in host.items()
    ]


def plain(hidden, head, targets, weights):
    logits = hidden @ head
    nll = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jnp.sum(nll * weights)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 4, 1), (1, 1, 4)])
@pytest.mark.parametrize("chunk_tokens", [1, 16, 1000])
def test_value_and_gradients_equal_the_plain_loss(shape, chunk_tokens):
    mesh = make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]), jax.devices()[: np.prod(shape)])
    with jax.set_mesh(mesh):
        args = arrays(mesh)
        fused = jax.jit(
            jax.value_and_grad(lambda *a: 0.5 * cross_entropy(*a, chunk_tokens=chunk_tokens), argnums=(0, 1, 3))
        )(*args)
    local = [jnp.asarray(np.asarray(x)) for x in args]
    expected = jax.value_and_grad(lambda *a: 0.5 * plain(*a), argnums=(0, 1, 3))(*local)
    for ours, theirs in zip(jax.tree.leaves(fused), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)


def test_log_likelihoods_are_those_of_the_softmax():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        hidden, head, targets, _ = arrays(mesh)
        scores = token_log_likelihood(hidden, head, targets, chunk_tokens=8)
    expected = jax.nn.log_softmax(np.asarray(hidden) @ np.asarray(head))
    np.testing.assert_allclose(
        scores, np.take_along_axis(expected, np.asarray(targets)[..., None], -1)[..., 0], rtol=1e-5
    )


def test_no_logits_of_all_tokens_are_kept():
    """The compiled loss and gradient need far less memory than the logits of every token."""
    tokens, vocab = 4096, 8192
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        shapes = [(1, tokens, D), (D, vocab), (1, tokens), (1, tokens)]
        dtypes = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
        args = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes, strict=True)]
        step = jax.jit(jax.value_and_grad(lambda *a: cross_entropy(*a, chunk_tokens=256), argnums=(0, 1)))
        memory = step.lower(*args).compile().memory_analysis()
    assert memory.temp_size_in_bytes < tokens * vocab * 4 / 3
