"""Encoder of graphs: nodes, and a few tokens for each whole graph, attend to one another; edges carry messages.

Each layer first passes messages along edges, which have a state of their own, then lets every node attend to all others
of its graph and to the graph's tokens (the local and global halves of Rampášek et al. 2022). What attention should know
of the structure enters as biases: powers of the normalised adjacency between two nodes (Ma et al. 2023), and how few
steps apart they are (Ying et al. 2021). Combinations of the first powers are the smooth functions of the graph's
spectrum, such as diffusion; what sets single eigenvectors apart they do not hold. Eigenvectors themselves have
arbitrary signs, and an arbitrary order where eigenvalues meet: a network that reads them answers differently when nodes
are numbered otherwise. With powers it does not.

Rows hold several graphs; nothing crosses from one to another. Nodes lie one after the other where messages pass and
where they are projected, so that little of a row is padding; for attention they are copied to blocks of equal size, a
graph each, so that no pair of nodes of different graphs is computed.
"""

import functools
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
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
    linear,
    normal,
    remat,
    residual_std,
    rms_norm,
    small_heads,
)
from astrojax.ops.embedding import embed
from astrojax.parallel.sharding import BATCH, gathered
from astrojax.precision import Precision

_ROWS = P(BATCH, None, None)

# Beside what the structure says of two places, a bias knows which of the two is a token: the first, the second, both.
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
        remat: which activations a layer keeps for its backward pass (:func:`remat`).
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
    """What graphs are like: how many nodes the largest has, how many kinds of nodes and edges there are, and how many
    numbers each has."""

    graph_nodes: int
    node_kinds: int
    edge_kinds: int
    node_features: int = 0
    edge_features: int = 0


class Structure(NamedTuple):
    """What layers need to know of the graphs in rows of ``n`` nodes, ``m`` edges, ``g`` graphs and ``t`` nodes and
    tokens. The first ``g - 1`` graphs each have a block of ``v`` places: those of its nodes, then those of its tokens.
    The last one, which only ever pads, has none.

    Attributes:
        senders: int ``[b, m]``, where an edge begins.
        receivers: int ``[b, m]``, where it ends.
        degrees: ``[b, n, 1]``, edges that end at a node.
        members: ``[b, n, g]``, 1 where a node belongs to a graph.
        adjacency: ``[b, g - 1, v, v]``, edges that end at a node and begin at another.
        walks: ``[f, 2, b, g - 1, v, v]``, what attention knows of two nodes: powers of the normalised adjacency, and
            whether the one is within so many steps of the other.
        returns: ``[b, g - 1, v, f]``, how often walks come back to where they began.
        to_blocks: int ``[b, g - 1, v]``, which of the nodes and tokens is at a place in a block.
        from_blocks: int ``[b, t]``, at which of all places in blocks a node or a token is.
        present: bool ``[b, g - 1, v]``, places in blocks that are not empty.
    """

    senders: Array
    receivers: Array
    degrees: Array
    members: Array
    adjacency: Array
    walks: Array
    returns: Array
    to_blocks: Array
    from_blocks: Array
    present: Array


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


def find_structure(graphs: Any, graph_nodes: int, config: GraphVAEConfig) -> Structure:
    """The structure of a ``GraphsTuple`` whose arrays have a leading axis of rows.

    Args:
        graphs: of which those that do not pad have at most ``graph_nodes`` nodes.
        graph_nodes: that a block has places for.
        config: of the model.
    """
    (b, n), m = graphs.nodes["kind"].shape, graphs.senders.shape[1]
    g, k = graphs.n_node.shape[1] - 1, config.num_tokens
    w, v = graph_nodes, graph_nodes + k

    def in_rows(values, *shape):
        return jnp.broadcast_to(values, (b, *shape), out_sharding=P(BATCH))

    members = membership(graphs.n_node, n)
    starts_bg = jnp.cumsum(graphs.n_node, axis=1) - graphs.n_node
    graph_bn = jnp.argmax(members, axis=-1)
    place_bn = jnp.arange(n) - jnp.einsum("bng,bg->bn", members.astype(jnp.int32), starts_bg)
    # What pads a row may have more nodes than a block has places; where those are does not matter.
    outside_bn = (place_bn >= w) | (graph_bn >= g)
    at_bn = jnp.minimum(graph_bn, g - 1) * v + jnp.minimum(place_bn, w - 1)
    nodes_bgw = jnp.minimum(starts_bg[:, :g, None] + jnp.arange(w), n - 1)
    present_bgw = jnp.arange(w) < graphs.n_node[:, :g, None]
    tokens_gk = jnp.arange(g * k).reshape(g, k)
    at_tokens = jnp.arange(g)[:, None] * v + w + jnp.arange(k)

    about_bn3 = jnp.stack([at_bn, place_bn, outside_bn.astype(jnp.int32)], axis=-1)
    sender, receiver = (_of_rows(_taken, about_bn3, ends) for ends in (graphs.senders, graphs.receivers))
    outside_bm = (sender[..., 2] + receiver[..., 2]) > 0
    pair_bm = jnp.where(outside_bm, g * v * v, receiver[..., 0] * v + sender[..., 1])
    ones = in_rows(jnp.ones((m, 1)), m, 1)
    adjacency = jnp.reshape(at_receivers(ones, pair_bm, g * v * v), (b, g, v, v), out_sharding=P(BATCH))
    scale = jax.lax.rsqrt(jnp.maximum(jnp.sum(adjacency, axis=-1), 1.0))
    normalised = adjacency * scale[..., None] * scale[..., None, :]
    here = in_rows(jnp.eye(v) * (jnp.arange(v) < w), g, v, v)

    def step(state, _):
        power, near = state
        power = jnp.einsum("bgij,bgjk->bgik", power, normalised)
        near = jnp.maximum(near, (power > 0).astype(near.dtype))
        return (power, near), (jnp.stack([power, near]), jnp.sum(power * here, axis=-1))

    _, (walks, returns) = jax.lax.scan(step, (here, here), length=config.walk_length)
    return Structure(
        senders=graphs.senders,
        receivers=graphs.receivers,
        degrees=at_receivers(ones, graphs.receivers, n),
        members=members,
        adjacency=adjacency,
        walks=walks,
        returns=jnp.moveaxis(returns, 0, -1),
        to_blocks=jnp.concatenate([nodes_bgw, in_rows(n + tokens_gk, g, k)], axis=2),
        from_blocks=jnp.concatenate([at_bn, in_rows(at_tokens.reshape(-1), g * k)], axis=1),
        present=jnp.concatenate([present_bgw, in_rows(True, g, k)], axis=2),
    )


def at_ends(nodes_bnc: Float[Array, "b n c"], ends_bm: Int[Array, "b m"]) -> Float[Array, "b m c"]:
    """What the node at one end of each edge has. Its gradient is summed in float32: a hub has hundreds of edges."""
    at = _of_rows(_taken, nodes_bnc.astype(jnp.float32), ends_bm)
    return at.astype(nodes_bnc.dtype)


def at_receivers(edges_bmc: Float[Array, "b m c"], receivers_bm: Int[Array, "b m"], n: int) -> Float[Array, "b n c"]:
    """The sum of what its edges bring to each of ``n`` nodes, in float32."""
    summed = functools.partial(jax.ops.segment_sum, num_segments=n)
    return _of_rows(summed, edges_bmc.astype(jnp.float32), receivers_bm)


def _taken(x_ic: Array, places_m: Array) -> Array:
    return x_ic[places_m]


def _of_rows(function, x_bic: Array, ends_bm: Array) -> Array:
    """``function`` of each row, on the device where it is: no row looks into another, no channel either."""
    spec = jax.typeof(x_bic).sharding.spec
    return jax.shard_map(jax.vmap(function), in_specs=(spec, P(BATCH, None)), out_specs=spec)(x_bic, ends_bm)


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
        config, structure = self.config, find_structure(graphs, self.channels.graph_nodes, self.config)
        dtype, g, k = config.precision.compute_dtype, graphs.n_node.shape[1] - 1, config.num_tokens
        n = graphs.nodes["kind"].shape[1]
        returns = jnp.reshape(
            structure.returns, (len(structure.returns), -1, config.walk_length), out_sharding=P(BATCH)
        )
        known = [jnp.log1p(structure.degrees), at_ends(returns, structure.from_blocks[:, :n])]
        if self.channels.node_features:
            known.append(graphs.nodes["features"].astype(jnp.float32))
        nodes = embed(self.node_kind_vd[...], graphs.nodes["kind"], _ROWS).astype(dtype)
        nodes += _project(jnp.concatenate(known, axis=-1).astype(dtype), self.node_features_fd)
        edges = embed(self.edge_kind_vc[...], graphs.edges["kind"], _ROWS).astype(dtype)
        if self.channels.edge_features:
            edges += _project(graphs.edges["features"].astype(dtype), self.edge_features_fc)
        tokens = jnp.tile(self.tokens_kd[...].astype(dtype), (g, 1))
        tokens = jnp.broadcast_to(tokens, (nodes.shape[0], *tokens.shape), out_sharding=P(BATCH))

        @remat(config.remat, prevent_cse=False)
        def layer(state, weights_and_bias):
            weights, bias = weights_and_bias
            return weights(*state, structure, bias), None

        (x_btd, edges), _ = jax.lax.scan(
            layer,
            (jnp.concatenate([nodes, tokens], axis=1), edges),
            (self.layers, self._biases(structure)),
            unroll=min(config.scan_unroll, config.num_layers),
        )
        x_btd = rms_norm(x_btd, self.norm_d[...], config.norm_eps)
        tokens = jnp.reshape(x_btd[:, n:], (x_btd.shape[0], g, k, config.d_model), out_sharding=P(BATCH))
        tokens = jnp.pad(tokens, ((0, 0), (0, 1), (0, 0), (0, 0)))
        return Encoded(x_btd[:, :n], rms_norm(edges, self.edge_norm_c[...], config.norm_eps), tokens, structure)

    def _biases(self, structure: Structure) -> Float[Array, "l h b g v v"]:
        """What every layer's heads add to the scores of two nodes; they are the same nodes to all."""
        weight_lfh = gathered(self.layers.bias_fh[...].astype(jnp.float32))
        (layers, _, num_heads), f = weight_lfh.shape, self.config.walk_length
        spec = jax.typeof(weight_lfh).sharding.spec
        cut = P(*spec.partitions[:1], None, *spec.partitions[1:], reduced=spec.reduced)
        weight = jnp.reshape(weight_lfh[:, : 2 * f], (layers, 2, f, num_heads), out_sharding=cut)
        weight = jnp.transpose(weight, (0, 3, 2, 1))
        return jnp.einsum("lhfs,fsbgij->lhbgij", weight, structure.walks)


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

    def __call__(self, x_btd, edges_bmc, structure: Structure, bias):
        eps = self.config.norm_eps
        messages, edge_change = self._messages(x_btd[:, : structure.members.shape[1]], edges_bmc, structure)
        edges_bmc += edge_change
        x_btd += jnp.pad(messages, ((0, 0), (0, x_btd.shape[1] - messages.shape[1]), (0, 0)))
        x_btd += self._attend(rms_norm(x_btd, self.attention_norm_d[...], eps), structure, bias)
        x_btd += self.mlp(rms_norm(x_btd, self.mlp_norm_d[...], eps))
        return x_btd, edges_bmc

    def _messages(self, nodes_bnd, edges_bmc, structure: Structure):
        """What nodes receive along their edges, and how edges change."""
        p, eps = self.config.precision, self.config.norm_eps
        senders, receivers = structure.senders, structure.receivers
        nodes_bnd = rms_norm(nodes_bnd, self.local_norm_d[...], eps)
        hidden_bmc = linear(rms_norm(edges_bmc, self.edge_norm_c[...], eps), self.edge_cc, p)
        hidden_bmc += at_ends(linear(nodes_bnd, self.sender_dc, p), senders)
        hidden_bmc += at_ends(linear(nodes_bnd, self.receiver_dc, p), receivers)
        change_bmc = linear(jax.nn.silu(hidden_bmc), self.edge_out_cc, p)
        gate_bmd = jax.nn.sigmoid(linear(edges_bmc + change_bmc, self.gate_cd, p))
        sent_bmd = at_ends(linear(nodes_bnd, self.message_dd, p), senders)
        summed_bnd = at_receivers(gate_bmd * sent_bmd, receivers, nodes_bnd.shape[1])
        # A hub hears hundreds: the sum of so many random terms has this size.
        summed_bnd *= jax.lax.rsqrt(1.0 + structure.degrees)
        return linear(summed_bnd.astype(p.compute_dtype), self.message_out_dd, p), change_bmc

    def _attend(self, x_btd, structure: Structure, bias):
        p, h, (b, g, v) = self.config.precision, self.config.head_dim, structure.present.shape
        to_blocks = jnp.reshape(structure.to_blocks, (b, g * v), out_sharding=P(BATCH))
        three = small_heads(at_ends(x_btd, to_blocks), (self.q_do, self.k_do, self.v_do), h, p)
        split = P(BATCH, None, None, "tensor", None)
        queries, keys, values = (jnp.reshape(x, (b, g, v, *x.shape[2:]), out_sharding=split) for x in three)
        scores = jnp.einsum("bginh,bgjnh->nbgij", queries, keys, preferred_element_type=jnp.float32) * h**-0.5
        token = np.arange(v) >= v - self.config.num_tokens
        pairs_fij = np.float32([token[:, None] & ~token, ~token[:, None] & token, token[:, None] & token])
        weight_fh = gathered(self.bias_fh[-_PAIRINGS:].astype(jnp.float32))
        scores += bias + jnp.einsum("fh,fij->hij", weight_fh, pairs_fij)[:, None, None]
        scores = jnp.where(structure.present[..., None, :], scores, -jnp.inf)
        shares = jax.nn.softmax(scores, axis=-1).astype(p.compute_dtype)
        out = jnp.einsum("nbgij,bgjnh->bginh", shares, values)
        out = linear(jnp.reshape(out, (b, g * v, -1), out_sharding=P(BATCH, None, "tensor")), self.o_od, p)
        return at_ends(out, structure.from_blocks)


def _project(x_bnf: Float[Array, "b n f"], weight_fd: nnx.Param) -> Float[Array, "b n d"]:
    return jnp.einsum("bnf,fd->bnd", x_bnf, weight_fd[...].astype(x_bnf.dtype))
