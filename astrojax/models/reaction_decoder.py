"""Says of a candidate reaction whether a network has it, and from its latent what it turns into what."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from astrojax.models.graph_encoder import Channels, Encoded, GraphVAEConfig, at_ends
from astrojax.models.layers import constant, kernel, normal, rms_norm
from astrojax.ops.embedding import embed
from astrojax.parallel.sharding import BATCH


class ReactionDecoder(nnx.Module):
    """Two heads.

    Presence is read off the latent, the graph's tokens and the candidate's node. The reaction is written from the
    latent alone: of each compound around, known by what it is and not by its edges, the class of its coefficient.
    """

    def __init__(self, config: GraphVAEConfig, channels: Channels, classes: int, *, rngs: nnx.Rngs):
        d, z, f, p = config.d_model, config.d_latent, config.d_ff, config.precision
        seen = z + (config.num_tokens + 2) * d
        self.config = config
        self.presence_sf = normal(rngs, (seen, f), seen**-0.5, p, P("fsdp", None))
        self.presence_f = constant(0.0, (f,), p)
        self.kind_vd = normal(rngs, (channels.node_kinds, d), 1.0, p, P(None, None))
        self.features_fd = normal(rngs, (channels.node_features, d), channels.node_features**-0.5, p, P(None, None))
        self.latent_zd = normal(rngs, (z, d), z**-0.5, p, P("fsdp", None))
        self.norm_d = constant(1.0, (d,), p)
        self.hidden_df = normal(rngs, (d, f), d**-0.5, p, P("fsdp", None))
        self.latent_zf = normal(rngs, (z, f), z**-0.5, p, P("fsdp", None))
        self.classes_fc = normal(rngs, (f, classes), f**-0.5, p, P("fsdp", None))

    def presence(self, latent_bgz: Float[Array, "b g z"], encoded: Encoded, n_node: Int[Array, "b g"]):
        """Logit of each graph's candidate, its first node: float32 ``[b, g]``."""
        (b, g), p = n_node.shape, self.config.precision
        dtype = encoded.nodes.dtype
        # Its compounds are the nodes that its edges lead to. The last graph only pads: it has no block.
        around_bgv = encoded.structure.adjacency[..., 0].astype(dtype)
        around_bgv /= jnp.maximum(jnp.sum(around_bgv, axis=-1, keepdims=True), 1)
        places = jnp.minimum(encoded.structure.to_blocks, encoded.nodes.shape[1] - 1)
        nodes = at_ends(encoded.nodes, jnp.reshape(places, (b, -1), out_sharding=P(BATCH)))
        nodes = jnp.reshape(nodes, (*places.shape, -1), out_sharding=P(BATCH))
        both = jnp.concatenate([nodes[:, :, 0], jnp.einsum("bgv,bgvd->bgd", around_bgv, nodes)], axis=-1)
        both = jnp.pad(both, ((0, 0), (0, 1), (0, 0)))
        tokens = jnp.reshape(encoded.tokens, (b, g, -1), out_sharding=P(BATCH))
        seen = jnp.concatenate([latent_bgz.astype(dtype), tokens, both], axis=-1)
        hidden = jax.nn.silu(jnp.einsum("bgs,sf->bgf", seen, kernel(self.presence_sf, p)).astype(jnp.float32))
        return jnp.einsum("bgf,f->bg", hidden, self.presence_f[...].astype(jnp.float32))

    def coefficients(self, latent_bgz, kinds_bn: Int[Array, "b n"], features_bnf, members_bng) -> Array:
        """Logits ``[b, n, class]`` of the part that each node has in its graph's candidate.

        Args:
            latent_bgz: of each graph.
            kinds_bn: what each node is.
            features_bnf: what else is known of it.
            members_bng: 1 where a node belongs to a graph.
        """
        p = self.config.precision
        dtype = p.compute_dtype
        latent_bnz = jnp.einsum("bng,bgz->bnz", members_bng.astype(dtype), latent_bgz.astype(dtype))
        x_bnd = embed(self.kind_vd[...], kinds_bn, P(BATCH, None, None)).astype(dtype)
        x_bnd += jnp.einsum("bnf,fd->bnd", features_bnf.astype(dtype), kernel(self.features_fd, p))
        x_bnd += jnp.einsum("bnz,zd->bnd", latent_bnz, kernel(self.latent_zd, p))
        x_bnd = rms_norm(x_bnd, self.norm_d[...], self.config.norm_eps)
        hidden = jnp.einsum("bnd,df->bnf", x_bnd, kernel(self.hidden_df, p))
        # The product of the two is what tells whether a compound is one that the latent speaks of.
        hidden = jax.nn.silu(hidden) * jnp.einsum("bnz,zf->bnf", latent_bnz, kernel(self.latent_zf, p))
        return jnp.einsum("bnf,fc->bnc", hidden, kernel(self.classes_fc, p), preferred_element_type=jnp.float32)
