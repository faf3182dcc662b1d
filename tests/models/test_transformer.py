import functools

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from flax import nnx

from astrojax.config import load_config
from astrojax.models.layers import rms_norm, rotate
from astrojax.models.transformer import Transformer, TransformerConfig, rotary_angles
from astrojax.parallel.mesh import UNIT_MESH, MeshConfig, make_mesh
from astrojax.parallel.sharding import num_elements
from astrojax.precision import Precision

CONFIG = TransformerConfig(
    vocab_size=64,
    num_layers=3,
    d_model=32,
    d_ff=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    precision=Precision(compute="float32"),
)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


@functools.cache
def new_model(config=CONFIG):
    init = jax.jit(lambda key: nnx.state(Transformer(config, rngs=nnx.Rngs(params=key))))
    abstract = jax.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(params=jax.random.key(0))))
    return nnx.merge(nnx.graphdef(abstract), init(jax.random.key(0)))


def inputs(tokens):
    tokens = jnp.asarray(tokens)
    return tokens, jnp.ones_like(tokens), jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)


def logits(model, tokens, segment_ids, positions):
    graphdef, params = nnx.split(model)
    return _logits(graphdef, params, tokens, segment_ids, positions)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, params, tokens, segment_ids, positions):
    return nnx.merge(graphdef, params)(tokens, segment_ids, positions)


def random_tokens(shape, seed=0):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, shape)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("tiny", 3.197e6), ("125m", 125e6), ("1b", 1.0e9), ("13b", 13.147e9), ("13b_aligned", 13.147e9)],
)
def test_presets_have_the_size_their_name_says(preset, parameters):
    config = load_config(f"configs/llm.py:{preset}").model
    with jax.sharding.use_abstract_mesh(UNIT_MESH):
        model = jax.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(params=jax.random.key(0))))
    counted = num_elements(nnx.state(model))
    d, f, v = config.d_model, config.d_ff, config.vocab_size
    attention = d * config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    assert counted == config.num_layers * (attention + 3 * d * f + 2 * d) + 2 * v * d + d
    assert counted == pytest.approx(parameters, rel=0.0002 if preset.startswith("13b") else 0.05)


def test_no_position_reads_a_later_one():
    tokens = random_tokens((1, 12))
    changed = tokens.copy()
    changed[0, 7:] = (changed[0, 7:] + 1) % CONFIG.vocab_size
    before, after = logits(new_model(), *inputs(tokens)), logits(new_model(), *inputs(changed))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 1e-3


def test_packed_documents_do_not_see_each_other():
    first, second = random_tokens((1, 5), 1), random_tokens((1, 7), 2)
    packed = jnp.concatenate([first, second], axis=1)
    segment_ids = jnp.asarray([[1] * 5 + [2] * 7])
    positions = jnp.asarray([[*range(5), *range(7)]])
    together = logits(new_model(), packed, segment_ids, positions)
    np.testing.assert_allclose(together[:, :5], logits(new_model(), *inputs(first)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together[:, 5:], logits(new_model(), *inputs(second)), rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing():
    tokens = random_tokens((1, 6))
    padded = np.pad(tokens, ((0, 0), (0, 4)))
    segment_ids = jnp.asarray([[1] * 6 + [0] * 4])
    positions = jnp.asarray([[*range(6), 0, 0, 0, 0]])
    out = logits(new_model(), jnp.asarray(padded), segment_ids, positions)
    np.testing.assert_allclose(out[:, :6], logits(new_model(), *inputs(tokens)), rtol=1e-4, atol=1e-5)
    assert np.isfinite(out).all()


def test_grouped_queries_equal_repeated_keys():
    grouped = new_model()
    full_config = msgspec.structs.replace(CONFIG, num_kv_heads=CONFIG.num_heads)
    params = nnx.to_pure_dict(nnx.state(grouped))
    attention = params["blocks"]["attention"]
    for name in ("k_do", "v_do"):
        layers, d, _ = attention[name].shape
        heads = np.asarray(attention[name]).reshape(layers, d, CONFIG.num_kv_heads, CONFIG.head_dim)
        attention[name] = jnp.asarray(np.repeat(heads, 2, axis=2).reshape(layers, d, -1))
    full = nnx.merge(nnx.graphdef(new_model(full_config)), params)
    tokens = inputs(random_tokens((2, 9)))
    np.testing.assert_allclose(logits(grouped, *tokens), logits(full, *tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"remat": "none"}, {"remat": "dots"}, {"scan_unroll": 3}])
def test_remat_and_unrolling_change_neither_loss_nor_gradient(change):
    tokens = inputs(random_tokens((2, 9)))

    def loss_and_grads(config):
        graphdef, params = nnx.split(new_model())
        graphdef = nnx.graphdef(new_model(config))
        return jax.jit(jax.value_and_grad(lambda p: jnp.mean(nnx.merge(graphdef, p)(*tokens) ** 2)))(params)

    loss, grads = loss_and_grads(CONFIG)
    other_loss, other_grads = loss_and_grads(msgspec.structs.replace(CONFIG, **change))
    np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), grads, other_grads)


def test_tied_embeddings_have_no_head():
    config = msgspec.structs.replace(CONFIG, tie_embeddings=True)
    tied = new_model(config)
    saved = num_elements(nnx.state(new_model())) - num_elements(nnx.state(tied))
    assert saved == config.vocab_size * config.d_model
    assert logits(tied, *inputs(random_tokens((1, 4)))).shape == (1, 4, config.vocab_size)


def test_precision_policy_is_followed():
    config = msgspec.structs.replace(CONFIG, precision=Precision(params="bfloat16", compute="bfloat16"))
    model = new_model(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("bfloat16")}
    tokens = inputs(random_tokens((2, 9)))
    assert jax.eval_shape(model.hidden, *tokens).dtype == jnp.bfloat16
    assert logits(model, *tokens).dtype == jnp.float32
    np.testing.assert_allclose(logits(model, *tokens), logits(new_model(), *tokens), atol=0.15)


def test_explicit_attention_scale_is_used():
    scaled = msgspec.structs.replace(CONFIG, attention_scale=CONFIG.head_dim**-0.5)
    other = msgspec.structs.replace(CONFIG, attention_scale=1.0)
    tokens = inputs(random_tokens((1, 9)))
    np.testing.assert_array_equal(logits(new_model(), *tokens), logits(new_model(scaled), *tokens))
    assert np.abs(logits(new_model(), *tokens) - logits(new_model(other), *tokens)).max() > 1e-3


def test_rotation_depends_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def score(m, n):
        turned = [rotate(x, rotary_angles(jnp.full((1, 1), place), 8, 100.0)) for x, place in ((q, m), (k, n))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(3, 1) == pytest.approx(score(20, 18), rel=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), rel=1e-2)


def test_rotation_pairs_the_halves():
    """Llama's convention: dimension i turns with dimension i + h / 2, by position * theta^(-2i / h)."""
    x = np.zeros((1, 1, 1, 4), np.float32)
    x[..., 1] = 1
    angle = 5 * 10_000.0 ** (-2 / 4)
    turned = rotate(x, rotary_angles(jnp.full((1, 1), 5), 4, 10_000.0))
    np.testing.assert_allclose(turned[0, 0, 0], [0, np.cos(angle), 0, np.sin(angle)], atol=1e-6)


def test_rms_norm_by_its_definition():
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    scale = np.linspace(0.5, 2, 8, dtype=np.float32)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(rms_norm(x, scale, 1e-5), expected, rtol=1e-5)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_heads=4 is not a multiple of num_kv_heads=3"):
        msgspec.structs.replace(CONFIG, num_kv_heads=3)
