"""Encoder of graphs: nodes, edges and a few tokens for each whole graph attend to one another.

Each layer first passes messages along edges, which have a state of their own, then lets every node attend to all others
of its graph and to the graph's tokens (the local and global halves of Rampášek et al. 2022). What attention should know
of the structure enters as biases: powers of the normalised adjacency between two nodes (Ma et al. 2023), linear
combinations of which are all functions of the graph's spectrum, and how few steps apart they are (Ying et al. 2021).
Laplacian eigenvectors say the same, but their signs are arbitrary, and their order too where eigenvalues meet: a
network that reads them answers differently when nodes are numbered otherwise. Powers do not.

Rows hold several graphs; nothing crosses from one to another.
"""

import functools
from typing import Annotated, Any, Literal, NamedTuple

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
    REMAT_POLICIES,
    SwiGLU,
    check_splits,
    constant,
    heads,
    linear,
    normal,
    residual_std,
    rms_norm,
)
from astrojax.ops.embedding import embed
from astrojax.parallel.sharding import BATCH, gathered
from astrojax.precision import Precision

_ROWS = P(BATCH, None, None)

# Beside what the structure says of two nodes, a bias knows which of the two is a token: the first, the second, both.
_PAIRINGS = 3


class GraphVAEConfig(Config):
    """Shape of a graph VAE.

    Attributes:
        num_layers: of the encoder.
        decoder_layers: of the decoder, where it has layers.
        d_edge: size of an edge's state.
        num_tokens: for each whole graph.
        d_latent: of the latent.
        walk_length: the highest power of the adjacency that attention sees.
        remat: which activations a layer keeps for its backward pass (``REMAT_POLICIES``).
        scan_unroll: layers per iteration of the scan; more run faster and compile slower.
    """

    num_layers: Positive
    decoder_layers: Positive
    d_model: Positive
    d_edge: Positive
    d_ff: Positive
    num_heads: Positive
    head_dim: Annotated[int, msgspec.Meta(ge=2, multiple_of=2)]
    num_tokens: Positive = 2
    d_latent: Positive = 64
    walk_length: Positive = 8
    norm_eps: PositiveFloat = 1e-5
    remat: Literal["none", "dots", "full"] = "none"
    scan_unroll: Positive = 1
    precision: Precision = Precision()


class Channels(NamedTuple):
    """What graphs are described by: how many kinds of nodes and edges there are, and how many numbers each has."""

    node_kinds: int
    edge_kinds: int
    node_features: int = 0
    edge_features: int = 0


class Structure(NamedTuple):
    """What layers need to know of the graphs in rows of ``n`` nodes, ``m`` edges, ``g`` graphs and ``t`` nodes and
    tokens.

    Attributes:
        senders: ``[b, m, n]``, 1 where an edge begins.
        receivers: ``[b, m, n]``, 1 where it ends.
        members: ``[b, n, g]``, 1 where a node belongs to a graph.
        degrees: ``[b, n, 1]``, edges that end at a node.
        bias: ``[b, t, t, f]``, what attention knows of two places.
        apart: ``[b, t, t]`` bool, places of different graphs.
    """

    senders: Array
    receivers: Array
    members: Array
    degrees: Array
    bias: Array
    apart: Array


class Encoded(NamedTuple):
    """What the encoder leaves, normalised.

    Attributes:
        nodes: ``[b, n, d]``.
        edges: ``[b, m, c]``.
        tokens: ``[b, g, k, d]``.
        structure: of the graphs.
    """

    nodes: Array
    edges: Array
    tokens: Array
    structure: Structure


def check_mesh(config: GraphVAEConfig, mesh_shape: dict[str, int]) -> None:
    """Checks that every split dimension divides.

    Raises:
        ValueError: names the field and the mesh axes that do not fit.
    """
    fsdp, tensor = mesh_shape["fsdp"], mesh_shape["tensor"]
    check_splits(
        (
            ("num_heads", config.num_heads, "tensor", tensor),
            ("d_model", config.d_model, "fsdp * tensor", fsdp * tensor),
            ("d_edge", config.d_edge, "fsdp * tensor", fsdp * tensor),
            ("d_ff", config.d_ff, "fsdp * tensor", fsdp * tensor),
            ("d_latent", config.d_latent, "fsdp", fsdp),
            ("num_heads * head_dim", config.num_heads * config.head_dim, "fsdp * tensor", fsdp * tensor),
        )
    )


def membership(n_node: Int[Array, "b g"], nodes: int) -> Float[Array, "b n g"]:
    """1 where a node of a row belongs to a graph; rows list the nodes of one graph after those of another."""
    ends_bg = jnp.cumsum(n_node, axis=1)
    place_n1 = jnp.arange(nodes)[:, None]
    inside = (place_n1 < ends_bg[:, None]) & (place_n1 >= (ends_bg - n_node)[:, None])
    return inside.astype(jnp.float32)


def find_structure(graphs: Any, config: GraphVAEConfig) -> Structure:
    """The structure of a ``GraphsTuple`` whose arrays have a leading axis of rows."""
    (_, n), g, k = graphs.nodes["kind"].shape, graphs.n_node.shape[1], config.num_tokens
    # Incidence as matrices: sums over edges are products, which run at full speed everywhere and split over devices.
    senders, receivers = (jax.nn.one_hot(ends, n, dtype=jnp.float32) for ends in (graphs.senders, graphs.receivers))
    members = membership(graphs.n_node, n)
    degrees = jnp.sum(receivers, axis=1)
    scale = jax.lax.rsqrt(jnp.maximum(degrees, 1.0))
    adjacency = jnp.einsum("bmi,bmj->bij", receivers, senders) * scale[:, :, None] * scale[:, None, :]
    powers = [adjacency]
    for _ in range(config.walk_length - 1):
        powers.append(jnp.einsum("bij,bjk->bik", powers[-1], adjacency))
    near, steps = jnp.broadcast_to(jnp.eye(n, dtype=bool), adjacency.shape, out_sharding=P(BATCH)), []
    for power in powers:
        near |= power > 0
        steps.append(near.astype(jnp.float32))
    walks = jnp.pad(jnp.stack(powers + steps, axis=-1), ((0, 0), (0, g * k), (0, g * k), (0, 0)))
    token = jnp.arange(n + g * k) >= n
    pairing = jnp.stack([token[:, None] & ~token, ~token[:, None] & token, token[:, None] & token], axis=-1)
    pairing = jnp.broadcast_to(pairing.astype(jnp.float32), (*walks.shape[:3], _PAIRINGS), out_sharding=P(BATCH))
    graph_of_node = jnp.einsum("bng,g->bn", members, jnp.arange(g, dtype=jnp.float32))
    graph_of_token = jnp.broadcast_to(
        jnp.repeat(jnp.arange(g, dtype=jnp.float32), k), (members.shape[0], g * k), out_sharding=P(BATCH)
    )
    graph_bt = jnp.concatenate([graph_of_node, graph_of_token], axis=1)
    return Structure(
        senders,
        receivers,
        members,
        degrees[..., None],
        jnp.concatenate([walks, pairing], axis=-1),
        graph_bt[:, :, None] != graph_bt[:, None, :],
    )


class GraphEncoder(nnx.Module):
    """Embeds nodes, edges and tokens, and lets ``num_layers`` stacked layers work on them."""

    def __init__(self, config: GraphVAEConfig, channels: Channels, *, rngs: nnx.Rngs):
        d, c, p = config.d_model, config.d_edge, config.precision
        self.config, self.channels = config, channels
        self.node_kind_vd = normal(rngs, (channels.node_kinds, d), 1.0, p, P(None, None))
        self.edge_kind_vc = normal(rngs, (channels.edge_kinds, c), 1.0, p, P(None, None))
        # A node is told its degree, and how often walks come back to it.
        features = channels.node_features + 1 + config.walk_length
        self.node_features_fd = normal(rngs, (features, d), features**-0.5, p, P(None, None))
        if channels.edge_features:
            self.edge_features_fc = normal(rngs, (channels.edge_features, c), channels.edge_features**-0.5, p, P())
        self.tokens_kd = normal(rngs, (config.num_tokens, d), 1.0, p, P(None, None))
        self.layers = jax.vmap(lambda r: EncoderLayer(config, rngs=r))(rngs.split(config.num_layers))
        self.norm_d = constant(1.0, (d,), p)
        self.edge_norm_c = constant(1.0, (c,), p)

    def __call__(self, graphs: Any) -> Encoded:
        """Encodes a ``GraphsTuple`` whose arrays have a leading axis of rows: ``nodes`` and ``edges`` have ``kind``,
        int ``[b, n]``, and where the channels say so ``features``, ``[b, n, f]``."""
        config, structure = self.config, find_structure(graphs, self.config)
        dtype, g, k = config.precision.compute_dtype, graphs.n_node.shape[1], config.num_tokens
        n = graphs.nodes["kind"].shape[1]
        walks = structure.bias[:, :n, :n, : config.walk_length]
        known = [jnp.log1p(structure.degrees), jnp.sum(walks * jnp.eye(n)[..., None], axis=2)]
        if self.channels.node_features:
            known.append(graphs.nodes["features"].astype(jnp.float32))
        nodes = embed(self.node_kind_vd[...], graphs.nodes["kind"], _ROWS).astype(dtype)
        nodes += _project(jnp.concatenate(known, axis=-1).astype(dtype), self.node_features_fd)
        edges = embed(self.edge_kind_vc[...], graphs.edges["kind"], _ROWS).astype(dtype)
        if self.channels.edge_features:
            edges += _project(graphs.edges["features"].astype(dtype), self.edge_features_fc)
        tokens = jnp.tile(self.tokens_kd[...].astype(dtype), (g, 1))
        tokens = jnp.broadcast_to(tokens, (nodes.shape[0], *tokens.shape), out_sharding=P(BATCH))

        @functools.partial(jax.checkpoint, prevent_cse=False, policy=REMAT_POLICIES[config.remat])
        def layer(state, weights):
            return weights(*state, structure), None

        (x_btd, edges), _ = jax.lax.scan(
            layer,
            (jnp.concatenate([nodes, tokens], axis=1), edges),
            self.layers,
            unroll=min(config.scan_unroll, config.num_layers),
        )
        x_btd = rms_norm(x_btd, self.norm_d[...], config.norm_eps)
        tokens = jnp.reshape(x_btd[:, n:], (x_btd.shape[0], g, k, config.d_model), out_sharding=P(BATCH))
        return Encoded(x_btd[:, :n], rms_norm(edges, self.edge_norm_c[...], config.norm_eps), tokens, structure)


class EncoderLayer(nnx.Module):
    """Messages along edges, attention within graphs, a gated feed-forward layer; each added to what there was."""

    def __init__(self, config: GraphVAEConfig, *, rngs: nnx.Rngs):
        d, c, p = config.d_model, config.d_edge, config.precision
        nh, out = config.num_heads * config.head_dim, functools.partial(residual_std, num_layers=config.num_layers)
        self.config = config
        self.local_norm_d = constant(1.0, (d,), p)
        self.edge_norm_c = constant(1.0, (c,), p)
        self.sender_dc = normal(rngs, (d, c), d**-0.5, p, IN_SPLIT)
        self.receiver_dc = normal(rngs, (d, c), d**-0.5, p, IN_SPLIT)
        self.edge_cc = normal(rngs, (c, c), c**-0.5, p, IN_SPLIT)
        self.edge_out_cc = normal(rngs, (c, c), out(c), p, OUT_SPLIT)
        self.gate_cd = normal(rngs, (c, d), c**-0.5, p, IN_SPLIT)
        self.message_dd = normal(rngs, (d, d), d**-0.5, p, IN_SPLIT)
        self.message_out_dd = normal(rngs, (d, d), out(d), p, OUT_SPLIT)
        self.attention_norm_d = constant(1.0, (d,), p)
        self.q_do = normal(rngs, (d, nh), d**-0.5, p, IN_SPLIT)
        self.k_do = normal(rngs, (d, nh), d**-0.5, p, IN_SPLIT)
        self.v_do = normal(rngs, (d, nh), d**-0.5, p, IN_SPLIT)
        self.o_od = normal(rngs, (nh, d), out(nh), p, OUT_SPLIT)
        self.bias_fh = normal(rngs, (2 * config.walk_length + _PAIRINGS, config.num_heads), 0.5, p, P(None, "tensor"))
        self.mlp_norm_d = constant(1.0, (d,), p)
        self.mlp = SwiGLU(d, config.d_ff, config.num_layers, p, rngs=rngs)

    def __call__(self, x_btd, edges_bmc, structure: Structure):
        eps = self.config.norm_eps
        messages, edge_change = self._messages(x_btd[:, : structure.members.shape[1]], edges_bmc, structure)
        edges_bmc += edge_change
        x_btd += jnp.pad(messages, ((0, 0), (0, x_btd.shape[1] - messages.shape[1]), (0, 0)))
        x_btd += self._attend(rms_norm(x_btd, self.attention_norm_d[...], eps), structure)
        x_btd += self.mlp(rms_norm(x_btd, self.mlp_norm_d[...], eps))
        return x_btd, edges_bmc

    def _messages(self, nodes_bnd, edges_bmc, structure: Structure):
        """What nodes receive along their edges, and how edges change."""
        p, eps = self.config.precision, self.config.norm_eps
        senders, receivers = (ends.astype(p.compute_dtype) for ends in (structure.senders, structure.receivers))
        nodes_bnd = rms_norm(nodes_bnd, self.local_norm_d[...], eps)
        hidden_bmc = linear(rms_norm(edges_bmc, self.edge_norm_c[...], eps), self.edge_cc, p)
        hidden_bmc += jnp.einsum("bmn,bnc->bmc", senders, linear(nodes_bnd, self.sender_dc, p))
        hidden_bmc += jnp.einsum("bmn,bnc->bmc", receivers, linear(nodes_bnd, self.receiver_dc, p))
        change_bmc = linear(jax.nn.silu(hidden_bmc), self.edge_out_cc, p)
        gate_bmd = jax.nn.sigmoid(linear(edges_bmc + change_bmc, self.gate_cd, p))
        sent_bmd = jnp.einsum("bmn,bnd->bmd", senders, linear(nodes_bnd, self.message_dd, p))
        summed_bnd = jnp.einsum("bmn,bmd->bnd", receivers, gate_bmd * sent_bmd)
        # A hub hears hundreds: the sum of so many random terms has this size.
        summed_bnd *= jax.lax.rsqrt(1.0 + structure.degrees).astype(p.compute_dtype)
        return linear(summed_bnd, self.message_out_dd, p), change_bmc

    def _attend(self, x_btd, structure: Structure):
        p, h = self.config.precision, self.config.head_dim
        q_bihd, k_bjhd, v_bjhd = (heads(x_btd, weight, h, p) for weight in (self.q_do, self.k_do, self.v_do))
        scores_bhij = jnp.einsum("bihd,bjhd->bhij", q_bihd, k_bjhd, preferred_element_type=jnp.float32) * h**-0.5
        weight_fh = gathered(self.bias_fh[...].astype(jnp.float32))
        scores_bhij += jnp.einsum("bijf,fh->bhij", structure.bias, weight_fh)
        scores_bhij = jnp.where(structure.apart[:, None], -jnp.inf, scores_bhij)
        shares_bhij = jax.nn.softmax(scores_bhij, axis=-1).astype(p.compute_dtype)
        out = jnp.einsum("bhij,bjhd->bihd", shares_bhij, v_bjhd)
        out = jnp.reshape(out, (*out.shape[:2], -1), out_sharding=P(BATCH, None, "tensor"))
        return linear(out, self.o_od, p)


def _project(x_bnf: Float[Array, "b n f"], weight_fd: nnx.Param) -> Float[Array, "b n d"]:
    return jnp.einsum("bnf,fd->bnd", x_bnf, weight_fd[...].astype(x_bnf.dtype))
