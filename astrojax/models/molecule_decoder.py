"""Writes the molecule that a latent stands for, in the notation of :mod:`astrojax.chemistry.notation`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from astrojax.chemistry.notation import END, Notation
from astrojax.models.graph_encoder import GraphVAEConfig
from astrojax.models.layers import (
    IN_SPLIT,
    OUT_SPLIT,
    SwiGLU,
    constant,
    heads,
    kernel,
    linear,
    normal,
    remat,
    residual_std,
    rms_norm,
)
from astrojax.ops.embedding import embed
from astrojax.parallel.sharding import BATCH


class Cache(NamedTuple):
    """Keys and values of the tokens so far, ``[layer, s, t, h, d]``."""

    keys: Array
    values: Array


class MoleculeDecoder(nnx.Module):
    """A causal transformer that knows the latent at every place."""

    def __init__(self, config: GraphVAEConfig, notation: Notation, *, rngs: nnx.Rngs):
        d, z, v, p = config.d_model, config.d_latent, notation.num_tokens, config.precision
        self.config, self.notation = config, notation
        self.token_vd = normal(rngs, (v, d), 1.0, p, P(None, None))
        self.position_td = normal(rngs, (notation.length, d), 1.0, p, P(None, None))
        self.latent_zd = normal(rngs, (z, d), z**-0.5, p, P("fsdp", None))
        self.layers = jax.vmap(lambda r: DecoderLayer(config, rngs=r))(rngs.split(config.decoder_layers))
        self.norm_d = constant(1.0, (d,), p)
        self.head_dv = normal(rngs, (d, v), d**-0.5, p, P("fsdp", None))

    def __call__(self, latent_sz: Float[Array, "s z"], tokens_st: Int[Array, "s t"]) -> Float[Array, "s t v"]:
        """Logits of each token given those before it."""
        config = self.config
        before_st = jnp.pad(tokens_st, ((0, 0), (1, 0)))[:, :-1]
        x_std = self._embed(latent_sz, before_st, self.position_td[...])
        causal = jnp.tril(jnp.ones((tokens_st.shape[1],) * 2, bool))

        @remat(config.remat, prevent_cse=False)
        def layer(x_std, weights):
            return weights(x_std, causal)[0], None

        unroll = min(config.scan_unroll, config.decoder_layers)
        x_std, _ = jax.lax.scan(layer, x_std, self.layers, unroll=unroll)
        return self._logits(x_std)

    def write(
        self, latent_sz: Float[Array, "s z"], key: Array, valences: Int[Array, "k"], temperature: float, masked: bool
    ) -> Int[Array, "s t"]:
        """Tokens of one molecule for each latent, drawn one after the other.

        Args:
            latent_sz: latents.
            key: random.
            valences: of the types of atoms (:meth:`Notation.permitted`).
            temperature: of the distributions that are drawn from; 0 takes the likeliest.
            masked: draw only what chemistry permits.
        """
        config, length = self.config, self.notation.length
        s, h = latent_sz.shape[0], config.head_dim
        shape = (config.decoder_layers, s, length, config.num_heads, h)
        empty = jnp.zeros(shape, config.precision.compute_dtype, out_sharding=P(None, BATCH, None, "tensor", None))

        def step(state, position):
            tokens_st, cache = state
            before_s1 = jnp.where(position > 0, jnp.roll(tokens_st, 1, axis=1), END)
            before_s1 = jax.lax.dynamic_slice_in_dim(before_s1, position, 1, axis=1)
            place = jax.lax.dynamic_slice_in_dim(self.position_td[...], position, 1)
            seen = (jnp.arange(length) <= position)[None]

            def layer(x_s1d, layers):
                weights, keys, values = layers
                return weights(x_s1d, seen, (keys, values, position))

            x_s1d = self._embed(latent_sz, before_s1, place)
            x_s1d, cache = jax.lax.scan(layer, x_s1d, (self.layers, *cache))
            logits_sv = self._logits(x_s1d)[:, 0]
            if masked:
                allowed = self.notation.permitted(tokens_st, valences)
                allowed = jax.lax.dynamic_slice_in_dim(allowed, position, 1, axis=1)[:, 0]
                logits_sv = jnp.where(allowed, logits_sv, -jnp.inf)
            if temperature:
                draw = jax.random.gumbel(jax.random.fold_in(key, position), logits_sv.shape)
                logits_sv = logits_sv / temperature + draw
            # What follows the end is the end.
            ended = (before_s1[:, 0] == END) & (position > 0)
            token_s = jnp.where(ended, END, jnp.argmax(logits_sv, axis=-1))
            at = jnp.arange(length) == position
            return (jnp.where(at, token_s[:, None], tokens_st), Cache(*cache)), None

        start = jnp.zeros((s, length), jnp.int32, out_sharding=P(BATCH))
        (tokens_st, _), _ = jax.lax.scan(step, (start, Cache(empty, empty)), jnp.arange(length))
        return tokens_st

    def _embed(self, latent_sz, before_st, position_td):
        dtype = self.config.precision.compute_dtype
        latent_sd = jnp.einsum("sz,zd->sd", latent_sz.astype(dtype), kernel(self.latent_zd, self.config.precision))
        tokens = embed(self.token_vd[...], before_st, P(BATCH, None, None)).astype(dtype)
        return tokens + position_td.astype(dtype) + latent_sd[:, None]

    def _logits(self, x_std):
        x_std = rms_norm(x_std, self.norm_d[...], self.config.norm_eps)
        return jnp.einsum(
            "std,dv->stv", x_std, kernel(self.head_dv, self.config.precision), preferred_element_type=jnp.float32
        )


class DecoderLayer(nnx.Module):
    """Causal attention and a gated feed-forward layer."""

    def __init__(self, config: GraphVAEConfig, *, rngs: nnx.Rngs):
        d, nh, p, layers = config.d_model, config.num_heads * config.head_dim, config.precision, config.decoder_layers
        self.config = config
        self.attention_norm_d = constant(1.0, (d,), p)
        self.q_do = normal(rngs, (d, nh), d**-0.5, p, IN_SPLIT)
        self.k_do = normal(rngs, (d, nh), d**-0.5, p, IN_SPLIT)
        self.v_do = normal(rngs, (d, nh), d**-0.5, p, IN_SPLIT)
        self.o_od = normal(rngs, (nh, d), residual_std(nh, layers), p, OUT_SPLIT)
        self.mlp_norm_d = constant(1.0, (d,), p)
        self.mlp = SwiGLU(d, config.d_ff, layers, p, rngs=rngs)

    def __call__(self, x_std, seen, cached=None):
        """What the layer adds to its input, and its keys and values.

        Args:
            x_std: at ``t`` places.
            seen: ``[t, u]`` bool, which of ``u`` places each may look at.
            cached: keys and values ``[s, u, h, d]`` of other places, and where among them these belong.
        """
        p, eps, h = self.config.precision, self.config.norm_eps, self.config.head_dim
        y_std = rms_norm(x_std, self.attention_norm_d[...], eps)
        q, k, v = (heads(y_std, weight, h, p) for weight in (self.q_do, self.k_do, self.v_do))
        if cached:
            keys, values, position = cached
            k = jax.lax.dynamic_update_slice_in_dim(keys, k, position, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(values, v, position, axis=1)
        scores = jnp.einsum("sthd,suhd->shtu", q, k, preferred_element_type=jnp.float32) * h**-0.5
        shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1).astype(p.compute_dtype)
        out = jnp.einsum("shtu,suhd->sthd", shares, v)
        out = jnp.reshape(out, (*out.shape[:2], -1), out_sharding=P(BATCH, None, "tensor"))
        x_std += linear(out, self.o_od, p)
        return x_std + self.mlp(rms_norm(x_std, self.mlp_norm_d[...], eps)), (k, v)
