"""The decoder-only transformer of the language task: RMSNorm, RoPE, grouped-query attention, SwiGLU.

Parameter names and conventions (rotate-half rotary embedding, pre-norm, gate and up projections) are those of the
Llama family, so its weights need no permutation. The layers are stacked on a leading axis and scanned over.
"""

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import msgspec
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from astrojax.config import Config, Positive, PositiveFloat
from astrojax.models.layers import (
    IN_SPLIT,
    OUT_SPLIT,
    SwiGLU,
    check_splits,
    constant,
    heads,
    kernel,
    linear,
    normal,
    remat,
    residual_std,
    rms_norm,
    rotate,
)
from astrojax.ops import attention as attention_ops
from astrojax.ops.embedding import embed
from astrojax.precision import Precision


class TransformerConfig(Config):
    """Shape of the transformer.

    Attributes:
        num_kv_heads: key/value heads; ``num_heads`` is multi-head, 1 is multi-query attention.
        rope_theta: base of the rotary embedding's wavelengths.
        norm_eps: added to the mean square in RMSNorm.
        tie_embeddings: the unembedding is the transposed embedding.
        attention_scale: factor on the attention scores; ``head_dim ** -0.5`` where None.
        remat: which activations a layer keeps for its backward pass (:func:`remat`).
        scan_unroll: layers per iteration of the scan; more run faster and compile slower.
    """

    vocab_size: Positive
    num_layers: Positive
    d_model: Positive
    d_ff: Positive
    num_heads: Positive
    num_kv_heads: Positive
    head_dim: Annotated[int, msgspec.Meta(ge=2, multiple_of=2)]
    rope_theta: PositiveFloat = 10_000.0
    norm_eps: PositiveFloat = 1e-5
    tie_embeddings: bool = False
    attention_scale: PositiveFloat | None = None
    attention: attention_ops.Implementation = "auto"
    remat: Literal["none", "dots", "full"] = "full"
    scan_unroll: Positive = 1
    precision: Precision = Precision()

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSharding:
    """Where each array lives; the projections' weights are those of :mod:`astrojax.models.layers`."""

    embed_vd: P = P(("fsdp", "tensor"), None)
    head_dv: P = P("fsdp", "tensor")
    act_btd: P = P(("data", "fsdp"), None, None)
    act_bto: P = P(("data", "fsdp"), None, "tensor")
    act_btnh: P = P(("data", "fsdp"), None, "tensor", None)
    act_bt: P = P(("data", "fsdp"), None)


SHARDING = TransformerSharding()


def check_mesh(config: TransformerConfig, mesh_shape: dict[str, int]) -> None:
    """Checks that every split dimension divides.

    Raises:
        ValueError: names the field and the mesh axes that do not fit.
    """
    fsdp, tensor = mesh_shape["fsdp"], mesh_shape["tensor"]
    check_splits(
        (
            ("num_heads", config.num_heads, "tensor", tensor),
            ("num_kv_heads", config.num_kv_heads, "tensor", tensor),
            ("d_model", config.d_model, "fsdp", fsdp),
            ("d_ff", config.d_ff, "fsdp * tensor", fsdp * tensor),
            ("num_heads * head_dim", config.num_heads * config.head_dim, "fsdp * tensor", fsdp * tensor),
            ("vocab_size", config.vocab_size, "fsdp * tensor", fsdp * tensor),
        )
    )


def rotary_angles(positions: Int[Array, "b t"], head_dim: int, theta: float) -> tuple[Array, Array]:
    """Cosine and sine ``[b, t, 1, head_dim / 2]`` of position times frequency (Su et al. 2021, eq. 15), in float32."""
    frequencies_h = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles_bt1h = positions[..., None, None].astype(jnp.float32) * frequencies_h
    return jnp.cos(angles_bt1h), jnp.sin(angles_bt1h)


class Attention(nnx.Module):
    """Causal grouped-query self-attention with rotary positions."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        d, n, k, h = config.d_model, config.num_heads, config.num_kv_heads, config.head_dim
        out_std = residual_std(d, config.num_layers)
        self.config = config
        self.q_do = normal(rngs, (d, n * h), d**-0.5, config.precision, IN_SPLIT)
        self.k_do = normal(rngs, (d, k * h), d**-0.5, config.precision, IN_SPLIT)
        self.v_do = normal(rngs, (d, k * h), d**-0.5, config.precision, IN_SPLIT)
        self.o_od = normal(rngs, (n * h, d), out_std, config.precision, OUT_SPLIT)

    def __call__(self, x_btd, angles, segment_ids):
        p, h = self.config.precision, self.config.head_dim
        q_btnh, k_btkh, v_btkh = (heads(x_btd, weight, h, p) for weight in (self.q_do, self.k_do, self.v_do))
        out_btnh = attention_ops.attention(
            rotate(q_btnh, angles),
            rotate(k_btkh, angles),
            v_btkh,
            causal=True,
            segment_ids=segment_ids,
            scale=self.config.attention_scale,
            implementation=self.config.attention,
        )
        b, t, n, _ = out_btnh.shape
        out_bto = jnp.reshape(out_btnh, (b, t, n * h), out_sharding=SHARDING.act_bto)
        return linear(out_bto, self.o_od, p)


class Block(nnx.Module):
    """One pre-norm layer."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.attention_norm_d = constant(1.0, (config.d_model,), config.precision)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm_d = constant(1.0, (config.d_model,), config.precision)
        self.mlp = SwiGLU(config.d_model, config.d_ff, config.num_layers, config.precision, rngs=rngs)

    def __call__(self, x_btd, segment_ids, positions):
        eps = self.config.norm_eps
        angles = rotary_angles(positions, self.config.head_dim, self.config.rope_theta)
        x_btd += self.attention(rms_norm(x_btd, self.attention_norm_d[...], eps), angles, segment_ids)
        x_btd += self.mlp(rms_norm(x_btd, self.mlp_norm_d[...], eps))
        return x_btd


class Transformer(nnx.Module):
    """Embedding, ``num_layers`` stacked blocks, final norm, unembedding."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        v, d = config.vocab_size, config.d_model
        self.config = config
        self.embed_vd = normal(
            rngs, (v, d), d**-0.5 if config.tie_embeddings else 1.0, config.precision, SHARDING.embed_vd
        )
        self.blocks = jax.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.num_layers))
        self.final_norm_d = constant(1.0, (config.d_model,), config.precision)
        if not config.tie_embeddings:
            self.head_dv = normal(rngs, (d, v), d**-0.5, config.precision, SHARDING.head_dv)

    def embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """What the first layer reads."""
        x_btd = embed(self.embed_vd[...], tokens, SHARDING.act_btd).astype(self.config.precision.compute_dtype)
        return x_btd * self.config.d_model**0.5 if self.config.tie_embeddings else x_btd

    def hidden(
        self, tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"], positions: Int[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        """What the last layer leaves, at every position; the final norm belongs to :meth:`normalised`.

        Args:
            tokens: token ids.
            segment_ids: the document of each token; attention does not cross documents.
            positions: the place of each token in its document.
        """
        config = self.config

        @remat(config.remat, prevent_cse=False)
        def layer(x_btd, block):
            return block(x_btd, segment_ids, positions), None  # never return the block: scan would stack its weights

        x_btd, _ = jax.lax.scan(
            layer, self.embed(tokens), self.blocks, unroll=min(config.scan_unroll, config.num_layers)
        )
        return x_btd

    def normalised(self, x_btd: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """What the unembedding reads."""
        return rms_norm(x_btd, self.final_norm_d[...], self.config.norm_eps)

    def head(self) -> Float[Array, "d v"]:
        """The unembedding matrix in compute dtype."""
        if self.config.tie_embeddings:
            return kernel(self.embed_vd, self.config.precision).T
        return kernel(self.head_dv, self.config.precision)

    def __call__(self, tokens, segment_ids, positions) -> Float[Array, "b t v"]:
        """Logits in float32. Training and scoring go through :mod:`astrojax.ops.cross_entropy` instead."""
        x_btd = self.normalised(self.hidden(tokens, segment_ids, positions))
        return jnp.einsum("btd,dv->btv", x_btd, self.head(), preferred_element_type=jnp.float32)
