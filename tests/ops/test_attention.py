"""The definition of attention: every implementation against a loop in float64, and the arguments it refuses."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.ops import attention as attention_module
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


def attend(*arrays, **arguments):
    """The op in one compiled program."""
    return jax.jit(lambda *arrays: attention(*arrays, **arguments))(*arrays)


def by_hand(query, key, value, allowed_bts, scale, bias_bnts=None):
    """One head and one query at a time, in float64; a query without keys gets zeros."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros_like(query)
    group = query.shape[2] // key.shape[2]
    for b, t, n in np.ndindex(query.shape[:3]):
        allowed = np.flatnonzero(allowed_bts[b, t])
        if not len(allowed):
            continue
        scores = key[b, allowed, n // group] @ query[b, t, n] * scale
        scores += 0 if bias_bnts is None else bias_bnts[b, n, t, allowed]
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights / weights.sum() @ value[b, allowed, n // group]
    return out


def pairs(b, t, s, *, causal=False, window=None, prefix=0, segment_ids=None, positions=None):
    """Which pairs may meet, by the words of the docstring."""
    allowed = np.zeros((b, t, s), bool)
    query_segments, key_segments = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    for i, q, j in np.ndindex(b, t, s):
        place = s - t + q if positions is None else positions[i, q]
        ok = not causal or j <= place
        if window is not None:
            ok &= place - window + 1 <= j <= (place if causal else place + window - 1) or (
                j < prefix and (j <= place or not causal)
            )
        if segment_ids is not None:
            ok &= query_segments[i, q] == key_segments[i, j]
        allowed[i, q, j] = ok
    return allowed


SEGMENTS = np.asarray([[1] * 3 + [2] * 8 + [3] * 9, [1] * 12 + [2] * 8], np.int32)
RULES = {
    "all": {},
    "causal": {"causal": True},
    "window": {"causal": True, "window": 4},
    "window of one": {"causal": True, "window": 1},
    "both ways": {"window": 3},
    "prefix": {"causal": True, "window": 3, "prefix": 2},
    "prefix both ways": {"window": 2, "prefix": 3},
    "documents": {"causal": True, "segment_ids": SEGMENTS},
    "documents both ways": {"segment_ids": SEGMENTS, "window": 4},
    "everything": {"causal": True, "window": 5, "prefix": 1, "segment_ids": SEGMENTS},
}


@pytest.mark.parametrize("implementation", ["reference", "chunked", "triton"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [1, 4])
def test_matches_the_definition(k, rule, implementation):
    query, key, value = qkv(t=20, s=20, k=k)
    out = attend(query, key, value, scale=0.3, implementation=implementation, interpret=True, **RULES[rule])
    np.testing.assert_allclose(out, by_hand(query, key, value, pairs(2, 20, 20, **RULES[rule]), 0.3), atol=1e-5)


@pytest.mark.parametrize("rule", [{}, {"causal": True}, {"causal": True, "window": 9}, {"window": 9}])
def test_splash_matches_the_definition(rule):
    query, key, value = qkv(b=1, t=128, s=128, h=16)
    out = attend(query, key, value, implementation="splash", interpret=True, **rule)
    np.testing.assert_allclose(out, by_hand(query, key, value, pairs(1, 128, 128, **rule), 0.25), atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "chunked", "triton"])
def test_a_cache_is_read_up_to_each_querys_place(implementation):
    query, key, value = qkv(t=2, s=40)
    positions = np.asarray([[4, 5], [30, 31]], np.int32)
    segments = (np.ones((2, 2), np.int32), np.ones((2, 40), np.int32))
    for rule in ({"causal": True}, {"causal": True, "window": 3, "prefix": 2, "segment_ids": segments}):
        out = attend(query, key, value, positions=positions, implementation=implementation, interpret=True, **rule)
        expected = by_hand(query, key, value, pairs(2, 2, 40, positions=positions, **rule), 8**-0.5)
        np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "chunked", "triton"])
@pytest.mark.parametrize(("t", "s"), [(2, 5), (5, 2)])
def test_last_query_is_aligned_with_last_key(t, s, implementation):
    query, key, value = qkv(t=t, s=s)
    out = attend(query, key, value, causal=True, implementation=implementation, interpret=True)
    np.testing.assert_allclose(out, by_hand(query, key, value, pairs(2, t, s, causal=True), 8**-0.5), atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (2, 5, 7), (2, 1, 7), (2, 4, 5, 7), (1, 1, 5, 7), (2, 4, 1, 7)])
@pytest.mark.parametrize("dtype", [bool, np.float32, jnp.bfloat16, np.float16])
def test_masks_of_the_usual_shapes(dtype, shape, implementation):
    query, key, value = qkv(t=5, s=7)
    rng = np.random.default_rng(2)
    allowed = rng.random(shape) < 0.7
    bias = np.asarray(rng.normal(size=shape), dtype).astype(np.float32)
    mask = jnp.asarray(allowed)
    if dtype is not bool:
        lowest = -np.inf if dtype == np.float32 else float(jnp.finfo(dtype).min)
        mask = jnp.where(allowed, bias, lowest).astype(dtype)
    axes = {2: (0, 1), 3: (1,), 4: ()}[len(shape)]
    whole, bias_bnts = (np.broadcast_to(np.expand_dims(x, axes), (2, 4, 5, 7)) for x in (allowed, bias))
    bias_bnts = np.where(whole, 0 if dtype is bool else bias_bnts, -np.inf)
    out = attend(query, key, value, causal=True, mask=mask, implementation=implementation)
    # A head at a time, since by_hand knows one set of pairs for all.
    causal = pairs(2, 5, 7, causal=True)
    for n in range(4):
        allowed_bts = causal & whole[:, n]
        expected = by_hand(query, key, value, allowed_bts, 8**-0.5, np.where(whole, bias_bnts, 0))
        np.testing.assert_allclose(out[:, :, n], expected[:, :, n], atol=1e-5)


def test_an_additive_mask_has_a_gradient():
    query, key, value = qkv()
    bias = jnp.zeros((4, 5, 5))[None]

    @jax.jit
    def total(bias):
        return jnp.sum(jnp.sin(attention(query, key, value, mask=bias, implementation="reference")))

    gradient = jax.jit(jax.grad(total))(bias)
    step = jnp.zeros_like(bias).at[0, 1, 2, 3].set(1e-2)
    np.testing.assert_allclose((total(bias + step) - total(bias - step)) / 2e-2, gradient[0, 1, 2, 3], rtol=2e-2)


@pytest.mark.parametrize("implementation", ["reference", "chunked", "triton"])
def test_a_query_that_may_read_nothing_gets_zeros_and_no_gradient(implementation):
    query, key, value = qkv(t=20, s=20)
    strangers = (np.full((2, 20), 7, np.int32), SEGMENTS)
    segments = (np.where(np.arange(20) < 5, strangers[0], SEGMENTS), SEGMENTS)

    def f(query, key, value):
        out = attention(
            query, key, value, causal=True, segment_ids=segments, implementation=implementation, interpret=True
        )
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.jit(jax.grad(f, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in (*grads, out))
    assert not out[:, :5].any()
    assert not grads[0][:, :5].any()
    assert out[:, 5:].any(axis=(2, 3)).all()


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_a_fully_masked_row_is_zeros_in_every_dtype(implementation):
    for dtype, mask_dtype in ((jnp.float32, jnp.float32), (jnp.bfloat16, jnp.bfloat16), (jnp.float16, jnp.float32)):
        query, key, value = qkv(dtype=dtype)
        mask = jnp.full((5, 5), jnp.finfo(mask_dtype).min, mask_dtype).at[1:].set(0)
        out = attend(query, key, value, mask=mask, implementation=implementation)
        assert out.dtype == dtype
        assert not out[:, 0].any()
        assert np.isfinite(np.asarray(out, np.float32)).all()


@pytest.mark.parametrize("implementation", ["reference", "chunked", "triton"])
def test_the_future_changes_nothing(implementation):
    query, key, value = qkv(t=20, s=20)

    def out(key, value):
        return attend(query, key, value, causal=True, window=9, implementation=implementation, interpret=True)

    changed = [x.at[:, 11:].set(jnp.float32(1e3)) for x in (key, value)]
    np.testing.assert_array_equal(out(key, value)[:, :11], out(*changed)[:, :11])


@pytest.mark.parametrize("implementation", ["reference", "chunked", "triton"])
def test_half_precision_sums_in_float32(implementation):
    """4,000 equal weights: a sum in bfloat16 would stop growing at 256, and the mean be many times too large."""
    query, key, value = qkv(b=1, t=16, s=4000, dtype=jnp.bfloat16)
    out = attend(jnp.zeros_like(query), key, value, implementation=implementation, interpret=True)
    assert out.dtype == jnp.bfloat16
    exact = np.asarray(value, np.float64).mean(1)[0].repeat(2, axis=0)
    np.testing.assert_allclose(np.asarray(out[0, 0], np.float64), exact, atol=5e-4)


def test_chunked_attention_never_holds_all_scores():
    t = 8 * BLOCK
    shapes = [jax.ShapeDtypeStruct((1, t, 4, 8), jnp.float32)] * 3

    def temporaries(implementation):
        def f(query, key, value):
            return jnp.sum(attention(query, key, value, causal=True, implementation=implementation))

        compiled = jax.jit(jax.grad(f, argnums=(0, 1, 2))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries("auto") == temporaries("chunked") < temporaries("reference") / 3


@pytest.mark.parametrize(("t", "s"), [(BLOCK, BLOCK + 7), (2 * BLOCK, 2 * BLOCK), (BLOCK + 5, BLOCK + 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_chunked_values_and_gradients_are_the_references(masked, t, s):
    query, key, value = qkv(t=t, s=s)
    mask = jnp.asarray(np.random.default_rng(3).normal(size=(t, s)), jnp.float32) if masked else None

    def values_and_gradients(implementation):
        def f(query, key, value):
            out = attention(query, key, value, causal=True, window=70, mask=mask, implementation=implementation)
            return jnp.sum(out**2), out

        return jax.jit(jax.grad(f, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        values_and_gradients("chunked"),
        values_and_gradients("reference"),
    )


def test_the_choice_is_logged_once_with_its_reason(caplog, monkeypatch):
    monkeypatch.setattr(attention_module, "_reported", set())
    with caplog.at_level(logging.INFO, logger="astrojax"):
        for _ in range(2):
            attention(*qkv(), causal=True)
    assert [record.getMessage() for record in caplog.records] == [
        "attention on cpu: reference (5 queries, 5 keys, 4 heads of 8, 2 for keys, float32); not chunked: fewer than "
        "1024 queries"
    ]


def mask(*shape, dtype=bool):
    return jnp.ones(shape, dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"query": mask(5, 4, 8, dtype=np.float32)},
            r"query must be \[batch, seq, heads, head_dim\], got shape \(5, 4",
        ),
        ({"query": mask(2, 5, 3, 8, dtype=np.float32)}, "num_heads=3 must be a multiple of num_kv_heads=2"),
        ({"query": mask(3, 5, 4, 8, dtype=np.float32)}, "differ in batch: 3 and 2"),
        ({"query": mask(2, 5, 4, 16, dtype=np.float32)}, "differ in head_dim: 16 and 8"),
        ({"query": mask(2, 5, 4, 8, dtype=np.int32)}, "query must be float32, bfloat16 or float16, got int32"),
        ({"query": mask(2, 5, 4, 8, dtype=jnp.bfloat16)}, "differ in dtype: bfloat16, float32 and float32"),
        ({"value": mask(2, 4, 2, 8, dtype=np.float32)}, "key and value differ in shape"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"window": 2, "prefix": -1}, "prefix=-1 must not be negative"),
        ({"prefix": 3}, "prefix=3 without a window"),
        ({"segment_ids": mask(2, 4, dtype=np.int32)}, r"segment_ids of the queries must have shape \(2, 5\)"),
        ({"segment_ids": mask(2, 5, dtype=np.float32)}, "segment_ids of the queries must be integers, got float32"),
        ({"segment_ids": (None, mask(2, 5, dtype=np.int32))}, r"a pair \(of queries, of keys\) without None"),
        ({"key": mask(2, 0, 2, 8, dtype=np.float32)}, r"key must not be empty, got shape \(2, 0, 2, 8\)"),
        ({"positions": mask(5, dtype=np.int32)}, r"positions must have shape \(2, 5\), got \(5,\)"),
        ({"mask": mask(5, 5, dtype=np.int32)}, "mask must be bool .* or floating .*, got int32"),
        ({"mask": mask(3, 5, 5)}, r"mask must broadcast to .* = \(2, 4, 5, 5\), got \(3, 5, 5\)"),
        ({"mask": mask(5)}, r"mask must broadcast to .*, got \(5,\)"),
        ({"implementation": "cudnn"}, "unknown attention implementation='cudnn'; known: auto, reference"),
        ({"implementation": "triton"}, "implementation='triton': the program is not traced for an NVIDIA GPU"),
        ({"implementation": "triton", "mask": mask(5, 5)}, "implementation='triton': it takes no mask"),
        ({"implementation": "splash", "mask": mask(5, 5)}, "implementation='splash': it takes no mask"),
        ({"implementation": "splash"}, "implementation='splash': it takes multiples of 128 queries, not 5"),
        ({"implementation": "splash", "window": 2, "prefix": 1}, "implementation='splash': it knows no prefix"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    query, key, value = qkv()
    arguments = {"query": query, "key": key, "value": value} | changes
    with pytest.raises(ValueError, match=message):
        attention(**arguments)


def test_a_scale_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="scale must be a number that is known while tracing"):
        jax.jit(lambda scale: attention(*qkv(), scale=scale))(0.5)


def test_segments_of_different_lengths_come_as_a_pair():
    query, key, value = qkv(t=3)
    with pytest.raises(ValueError, match=r"must be a pair \(of queries, of keys\) for 3 queries and 5 keys"):
        attention(query, key, value, segment_ids=jnp.ones((2, 3), jnp.int32))


def test_a_head_of_more_than_256_is_refused_by_the_kernel():
    query, key, value = qkv(h=260)
    with pytest.raises(ValueError, match="head_dim=260 is over 256"):
        attention(query, key, value, implementation="triton", interpret=True)
