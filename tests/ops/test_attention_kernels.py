"""The kernels, run in interpret mode on the CPU: values and gradients against the reference, on one device and many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from astrojax.ops.attention import attention
from astrojax.ops.attention.triton import head_parts
from astrojax.ops.attention.visibility import Layout, Reach, count_visible, visible_pairs
from astrojax.ops.attention.visits import END, FULL_END, FULL_START, PREFIX_END, START, key_visits, query_visits
from astrojax.parallel.mesh import MeshConfig, make_mesh


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def draw(b, t, s, n, k, h, dtype=jnp.float32):
    """Query, key, value and the gradient of the output."""
    rng = np.random.default_rng(0)
    shapes = ((b, t, n, h), (b, s, k, h), (b, s, k, h), (b, t, n, h))
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def documents(b, t):
    """Ids that grow along each row: about four packed documents."""
    return np.sort(np.random.default_rng(1).integers(0, 4, (b, t)), axis=1).astype(np.int32)


def values_and_gradients(implementation, query, key, value, out_grad, **rule):
    """The output and the gradients of query, key and value, in float32."""

    @jax.jit
    def run(query, key, value, out_grad):
        op = functools.partial(attention, implementation=implementation, interpret=True, **rule)
        out, pull = jax.vjp(op, query, key, value)
        return [x.astype(jnp.float32) for x in (out, *pull(out_grad))]

    results = run(query, key, value, out_grad)
    return {name: np.asarray(x) for name, x in zip(("out", "query", "key", "value"), results, strict=True)}


def assert_same(got, expected, tolerance=1e-5):
    """Within ``tolerance`` of the largest number, of which each is a sum of terms that size."""
    for name, x in expected.items():
        assert np.max(np.abs(got[name] - x)) <= tolerance * max(np.max(np.abs(x)), 1.0), name


@pytest.mark.parametrize("h", [64, 68, 80, 128, 256])
@pytest.mark.parametrize("t", [16, 128, 256, 1000, 2048])
def test_any_length_and_any_head(t, h):
    arrays = draw(1, t, t, 2, 1, h)
    assert_same(
        values_and_gradients("triton", *arrays, causal=True), values_and_gradients("chunked", *arrays, causal=True)
    )


@pytest.mark.parametrize("rule", ["all", "causal", "window", "window both ways", "prefix", "documents", "cache"])
@pytest.mark.parametrize("group", [1, 4, 8])
def test_any_group_and_any_rule(group, rule):
    t, s = (100, 260) if rule == "cache" else (260, 260)
    arrays = draw(2, t, s, 8, 8 // group, 68)
    positions = np.random.default_rng(2).integers(0, s, (2, t)).astype(np.int32)
    rules = {
        "all": {},
        "causal": {"causal": True},
        "window": {"causal": True, "window": 100},
        "window both ways": {"window": 30},
        "prefix": {"causal": True, "window": 30, "prefix": 70},
        "documents": {"causal": True, "segment_ids": documents(2, t), "window": 90},
        "cache": {"causal": True, "positions": positions, "window": 200, "prefix": 3},
    }
    assert_same(
        values_and_gradients("triton", *arrays, **rules[rule]),
        values_and_gradients("reference", *arrays, **rules[rule]),
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("t", "h"), [(256, 64), (1000, 68), (256, 128), (128, 256)])
def test_half_precision_errs_like_one_rounding(t, h, dtype):
    """Against float32 on the same numbers, the error is close to that of rounding the exact result once: the kernel
    rounds the softmax's weights as well, and for the gradients also the gradient of the scores."""
    arrays = draw(1, t, t, 4, 1, h, dtype)
    exact = values_and_gradients("reference", *(x.astype(np.float32) for x in arrays), causal=True)
    got = values_and_gradients("triton", *arrays, causal=True)

    def error(x, name):
        return np.sqrt(np.mean(np.square(x - exact[name])))

    for name, x in exact.items():
        times = 1.4 if name == "out" else 2
        assert error(got[name], name) <= times * error(x.astype(dtype).astype(np.float32), name), name


def test_the_future_changes_nothing():
    query, key, value, _ = (jnp.asarray(x) for x in draw(1, 300, 300, 2, 1, 64))

    @jax.jit
    def run(key, value):
        return attention(query, key, value, causal=True, implementation="triton", interpret=True)

    changed = [x.at[:, 201:].set(1e4) for x in (key, value)]
    np.testing.assert_array_equal(run(key, value)[:, :201], run(*changed)[:, :201])


def test_documents_are_separate():
    arrays = draw(1, 300, 300, 2, 1, 64)
    segments = np.where(np.arange(300) < 130, 1, 2)[None].astype(np.int32)
    packed = values_and_gradients("triton", *arrays, causal=True, segment_ids=segments)
    alone = [
        values_and_gradients("triton", *(x[:, part] for x in arrays), causal=True)
        for part in (slice(0, 130), slice(130, 300))
    ]
    assert_same(packed, {name: np.concatenate([part[name] for part in alone], axis=1) for name in packed}, 1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 8), (2, 2, 2), (4, 2, 1)])
def test_every_device_takes_its_part(sizes):
    """Batch and heads are split over the mesh; nothing changes."""
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]), jax.devices()[: np.prod(sizes)])
    arrays, segments = draw(8, 40, 40, 16, 8, 16), documents(8, 40)
    expected = values_and_gradients("reference", *arrays, causal=True, segment_ids=segments)
    batch = ("data", "fsdp")
    with jax.set_mesh(mesh):
        for heads, segments_split in (("tensor", P(batch, None)), ("tensor", P(None, "tensor")), (None, P(None, None))):
            split = [jax.device_put(x, P(batch, None, heads, None)) for x in arrays]
            placed = jax.device_put(segments, segments_split)
            assert_same(values_and_gradients("triton", *split, causal=True, segment_ids=placed), expected)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize(
    ("shape", "split"), [((40, 40), P()), ((8, 1, 40), P("fsdp")), ((8, 16, 40, 40), P(None, "tensor"))]
)
def test_masks_on_a_mesh(shape, split, implementation):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices())
    arrays, mask = draw(8, 40, 40, 16, 8, 16), np.random.default_rng(5).random(shape) < 0.8
    expected = values_and_gradients(implementation, *arrays, mask=mask)
    with jax.set_mesh(mesh):
        split_arrays = [jax.device_put(x, P(("data", "fsdp"), None, "tensor", None)) for x in arrays]
        got = values_and_gradients(implementation, *split_arrays, mask=jax.device_put(mask, split))
    assert_same(got, expected)


@pytest.mark.parametrize("rule", ["causal", "both ways", "documents"])
def test_splash_values_and_gradients(rule):
    """Several tiles, several key heads, more keys than queries, packed documents, split over a mesh."""
    t, s = (256, 256) if rule == "documents" else (256, 384)
    rules = {
        "causal": {"causal": True, "window": 100},
        "both ways": {"window": 30},
        "documents": {"causal": True, "segment_ids": documents(2, t)},
    }
    arrays = draw(2, t, s, 8, 4, 20)
    expected = values_and_gradients("reference", *arrays, **rules[rule])
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])):
        split = [jax.device_put(x, P(("data", "fsdp"), None, "tensor", None)) for x in arrays]
        got = values_and_gradients("splash", *split, **rules[rule])
    assert_same(got, expected)


def test_a_split_sequence_is_refused():
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])):
        query, key, value, _ = (jnp.asarray(x) for x in draw(2, 32, 32, 2, 2, 16))
        with pytest.raises(ValueError, match="the seq axis of key is split over mesh axis fsdp"):
            attention(query, jax.device_put(key, P(None, "fsdp")), value, implementation="triton", interpret=True)
        with pytest.raises(ValueError, match="query, key and value are split differently"):
            attention(jax.device_put(query, P("fsdp")), key, value, implementation="triton", interpret=True)


@pytest.mark.parametrize(
    ("head_dim", "widths"),
    [
        *((8, [16]), (16, [16]), (40, [32, 16]), (64, [64]), (68, [64, 16]), (80, [64, 16]), (96, [64, 32])),
        *((100, [128]), (128, [128]), (160, [128, 32]), (192, [128, 64]), (200, [256]), (256, [256])),
    ],
)
def test_a_head_is_padded_as_little_as_tensor_cores_allow(head_dim, widths):
    parts = head_parts(head_dim)
    assert [width for _, width in parts] == widths
    assert [first for first, _ in parts] == [0, widths[0]][: len(parts)]
    assert sum(widths) >= head_dim


REACHES = [
    Reach(),
    Reach(causal=True),
    Reach(causal=True, window=1),
    Reach(causal=True, window=50),
    Reach(window=50),
    Reach(causal=True, window=20, prefix=30),
    Reach(window=20, prefix=17),
]


def layouts(b, t, s):
    rng = np.random.default_rng(4)
    segments = documents(b, max(t, s))
    unsorted = jnp.asarray(rng.integers(0, 3, (b, max(t, s))), jnp.int32)
    positions = jnp.asarray(rng.integers(0, s, (b, t)), jnp.int32)
    return [
        Layout(),
        Layout(query_segments=segments[:, :t], key_segments=segments[:, :s]),
        Layout(query_segments=unsorted[:, :t], key_segments=unsorted[:, :s]),
        Layout(positions=positions),
        Layout(jnp.sort(positions, axis=1), segments[:, :t], segments[:, :s]),
    ]


@pytest.mark.parametrize(("t", "s"), [(128, 128), (100, 130), (33, 200), (150, 60)])
@pytest.mark.parametrize("reach", REACHES)
def test_visits_leave_out_no_pair_and_mask_every_block_that_needs_it(reach, t, s):
    block_q, block_k = 16, 32
    nq, nk = -(-t // block_q), -(-s // block_k)
    for layout in layouts(2, t, s):
        allowed = visible_pairs(reach, layout, t, s)
        allowed = np.ones((2, t, s), bool) if allowed is None else np.broadcast_to(allowed, (2, t, s))
        padded = np.zeros((2, nq * block_q, nk * block_k), bool)
        padded[:, :t, :s] = allowed
        by_block = padded.reshape(2, nq, block_q, nk, block_k).transpose(0, 1, 3, 2, 4)
        # Rows beyond the queries are computed and not kept, so a block may be full without them.
        beyond = (np.arange(nq * block_q) >= t).reshape(nq, block_q)[None, :, None, :, None]
        some, every = by_block.any((3, 4)), (by_block | beyond).all((3, 4))
        for table, some_of, every_of in (
            (key_visits, some, every),
            (query_visits, some.swapaxes(1, 2), every.swapaxes(1, 2)),
        ):
            visits = np.broadcast_to(table(reach, layout, t, s, block_q, block_k), (2, *some_of.shape[1:2], 5))
            for b, i in np.ndindex(visits.shape[:2]):
                row, order = visits[b, i], np.arange(some_of.shape[2])
                visited = ((order >= row[START]) & (order < row[END])) | (order < row[PREFIX_END])
                unmasked = (order >= row[FULL_START]) & (order < row[FULL_END])
                assert row[START] <= row[FULL_START] <= row[FULL_END] <= row[END]
                assert row[PREFIX_END] <= row[START] or row[START] == row[END]
                assert not (some_of[b, i] & ~visited).any()
                assert not (unmasked & ~every_of[b, i]).any()
                if layout.positions is None and layout.query_segments is None:
                    np.testing.assert_array_equal(visited, some_of[b, i])


@pytest.mark.parametrize(("t", "s"), [(20, 20), (20, 5), (7, 30)])
@pytest.mark.parametrize("reach", [*REACHES, Reach(window=2, prefix=10)])
def test_the_pairs_a_kernel_counts_are_those_that_meet(reach, t, s):
    pairs = visible_pairs(reach, Layout(), t, s)
    assert count_visible(reach, t, s) == (t * s if pairs is None else np.sum(pairs))


def test_a_causal_window_visits_as_many_blocks_as_it_spans():
    visits = np.asarray(key_visits(Reach(causal=True, window=128), Layout(), 4096, 4096, 64, 64))[0]
    assert (visits[2:, END] - visits[2:, START] == 3).all()
    assert (visits[2:, FULL_END] - visits[2:, FULL_START] == 1).all()
