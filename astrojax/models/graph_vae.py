"""The graph VAE: a graph to a distribution over latents, and a latent to what a decoder makes of it.

Its decoders are in :mod:`astrojax.models.molecule_decoder`, which writes a molecule atom by atom, and
:mod:`astrojax.models.reaction_decoder`, which says of a candidate reaction whether a network has it, and what it turns
into what.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from astrojax.models.graph_encoder import Channels, Encoded, GraphEncoder, GraphVAEConfig, at_ends
from astrojax.models.layers import normal
from astrojax.parallel.sharding import BATCH

# Bounds of the log variance, where a sample is the mean and where it is all noise.
_LOGVAR = 8.0


class Posterior(NamedTuple):
    """What a graph says of its latent: independent normal distributions.

    Attributes:
        mean: ``[b, g, z]``.
        logvar: ``[b, g, z]``.
    """

    mean: Float[Array, "b g z"]
    logvar: Float[Array, "b g z"]

    def sample(self, words: Array) -> Float[Array, "b g z"]:
        """One latent of each graph.

        Args:
            words: ``[b, 2]`` uint32, of each row a random key: what a row draws depends on no other.
        """
        draw = jax.vmap(lambda w: jax.random.normal(jax.random.wrap_key_data(w), self.mean.shape[1:]))
        return self.mean + jnp.exp(0.5 * self.logvar) * draw(words)

    def kl(self, free_bits: float) -> Float[Array, "b g"]:
        """Divergence from the standard normal distribution, nats.

        Each dimension of each graph costs at least ``free_bits`` bits, so that nothing is won by using fewer (Kingma
        et al. 2016, there of means over a batch, which would make accumulation inexact).
        """
        each = 0.5 * (jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar)
        return jnp.sum(jnp.maximum(each, free_bits * jnp.log(2.0)), axis=-1)


class GraphVAE(nnx.Module):
    """Encoder, latent and decoder.

    Attributes:
        decoder: one of the decoders, as it was given.
    """

    def __init__(self, config: GraphVAEConfig, channels: Channels, decoder: nnx.Module, *, rngs: nnx.Rngs):
        d, c, p = config.d_model, config.d_edge, config.precision
        pooled = (config.num_tokens + 1) * d + c
        self.config = config
        self.encoder = GraphEncoder(config, channels, rngs=rngs)
        self.latent_pz = normal(rngs, (pooled, 2 * config.d_latent), pooled**-0.5, p, P(None, None))
        self.decoder = decoder

    def encode(self, graphs: Any) -> tuple[Posterior, Encoded]:
        """What graphs say of their latents, pooled at three scales: their tokens, nodes and edges."""
        encoded = self.encoder(graphs)
        members = encoded.structure.members
        nodes = _mean(members, encoded.nodes)
        edges = _mean(at_ends(members, encoded.structure.receivers), encoded.edges)
        b, g = nodes.shape[:2]
        tokens = jnp.reshape(encoded.tokens, (b, g, -1), out_sharding=P(BATCH))
        pooled = jnp.concatenate([tokens, nodes, edges], axis=-1)
        both = jnp.einsum(
            "bgp,pz->bgz", pooled, self.latent_pz[...].astype(pooled.dtype), preferred_element_type=jnp.float32
        )
        mean, logvar = jnp.split(both, 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, -_LOGVAR, _LOGVAR)), encoded


def _mean(members: Float[Array, "b n g"], x: Float[Array, "b n d"]) -> Float[Array, "b g d"]:
    """Over the members of each graph; zero where it has none."""
    share = members / jnp.maximum(jnp.sum(members, axis=1, keepdims=True), 1.0)
    return jnp.einsum("bng,bnd->bgd", share.astype(x.dtype), x)
