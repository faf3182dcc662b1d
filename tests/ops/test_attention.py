import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.ops.attention import attention
from astrojax.ops.attention.chunked import BLOCK
from astrojax.parallel.mesh import MeshConfig, make_mesh


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def qkv(b=2, t=5, s=5, n=4, k=2, h=8, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((b, t, n, h), (b, s, k, h), (b, s, k, h))]


def by_hand(query, key, value, mask_ts, scale):
    """One head and one query at a time, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros_like(query)
    group = query.shape[2] // key.shape[2]
    for b, t, n in np.ndindex(query.shape[:3]):
        allowed = np.flatnonzero(mask_ts[t])
        scores = key[b, allowed, n // group] @ query[b, t, n] * scale
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights / weights.sum() @ value[b, allowed, n // group]
    return out


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_matches_the_definition(k, causal, scale):
    query, key, value = qkv(k=k)
    mask_ts = np.tri(5, dtype=bool) if causal else np.ones((5, 5), bool)
    expected = by_hand(query, key, value, mask_ts, scale or 8**-0.5)
    np.testing.assert_allclose(attention(query, key, value, causal=causal, scale=scale), expected, atol=1e-5)


def test_last_query_is_aligned_with_last_key():
    query, key, value = qkv(t=2, s=5)
    expected = by_hand(query, key, value, np.tri(2, 5, k=3, dtype=bool), 8**-0.5)
    np.testing.assert_allclose(attention(query, key, value, causal=True), expected, atol=1e-5)


def test_segments_are_separate():
    query, key, value = qkv()
    segments = np.asarray([1, 1, 2, 2, 2])
    out = attention(query, key, value, causal=True, segment_ids=jnp.tile(segments, (2, 1)))
    mask_ts = np.tri(5, dtype=bool) & (segments[:, None] == segments[None])
    np.testing.assert_allclose(out, by_hand(query, key, value, mask_ts, 8**-0.5), atol=1e-5)


def test_half_precision_keeps_a_float32_softmax():
    exact = attention(*qkv(), causal=True)
    rounded = attention(*qkv(dtype=jnp.bfloat16), causal=True)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(np.float32), exact, atol=0.05)


def test_bad_shapes_are_refused():
    query, key, value = qkv()
    with pytest.raises(ValueError, match="num_heads=3 must be a multiple of num_kv_heads=2"):
        attention(query[:, :, :3], key, value)
    with pytest.raises(ValueError, match="differ in shape"):
        attention(query, key, value[:, :4])
    with pytest.raises(ValueError, match="segment_ids"):
        attention(query[:, :3], key, value, segment_ids=jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ValueError, match="cudnn"):
        attention(query, key, value, implementation="cudnn")


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_chunked_values_and_gradients_are_the_references(causal, segmented):
    query, key, value = qkv(t=2 * BLOCK, s=2 * BLOCK)
    segments = jnp.sort(jnp.asarray(np.random.default_rng(1).integers(0, 4, (2, 2 * BLOCK))), axis=1)

    def values_and_gradients(implementation):
        def f(query, key, value):
            out = attention(
                query,
                key,
                value,
                causal=causal,
                segment_ids=segments if segmented else None,
                implementation=implementation,
            )
            return jnp.sum(out**2), out

        return jax.jit(jax.grad(f, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        values_and_gradients("chunked"),
        values_and_gradients("reference"),
    )


def test_chunked_attention_aligns_the_last_query_with_the_last_key():
    query, key, value = qkv(t=BLOCK, s=BLOCK + 7)
    expected = attention(query, key, value, causal=True, implementation="reference")
    got = attention(query, key, value, causal=True, implementation="chunked")
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_chunked_attention_never_holds_all_scores():
    t = 8 * BLOCK
    shapes = [jax.ShapeDtypeStruct((1, t, 4, 8), jnp.float32)] * 3

    def temporaries(implementation):
        def f(query, key, value):
            return jnp.sum(attention(query, key, value, causal=True, implementation=implementation))

        compiled = jax.jit(jax.grad(f, argnums=(0, 1, 2))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries("auto") == temporaries("chunked") < temporaries("reference") / 3


def test_chunked_attention_takes_whole_blocks():
    query, key, value = qkv()
    with pytest.raises(ValueError, match="multiple of 128 queries, got 5"):
        attention(query, key, value, implementation="chunked")
