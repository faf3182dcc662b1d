"""A graph is what it is, wherever it stands in a batch and however its nodes are numbered."""

import jax
import numpy as np
import pytest
from flax import nnx

from astrojax.chemistry.notation import Notation
from astrojax.data.graphs import Budget, Graph, assemble, write_graphs
from astrojax.models.graph_encoder import Channels, check_mesh
from astrojax.models.graph_vae import GraphVAE, Posterior
from astrojax.models.molecule_decoder import MoleculeDecoder
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.sharding import put_batch
from tests.graphs import TINY

CHANNELS = Channels(graph_nodes=6, node_kinds=5, edge_kinds=4, node_features=3, edge_features=2)
NOTATION = Notation(num_types=4, max_atoms=5, max_bonds=6)


@pytest.fixture(autouse=True)
def mesh():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture(scope="module")
def model() -> GraphVAE:
    def new():
        rngs = nnx.Rngs(params=jax.random.key(0))
        return GraphVAE(TINY, CHANNELS, MoleculeDecoder(TINY, NOTATION, rngs=rngs), rngs=rngs)

    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        return jax.jit(new)()


def random_graph(nodes: int, pairs: int, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    ends = rng.integers(nodes, size=(2, pairs)).astype(np.int32)
    kind, features = rng.integers(4, size=pairs).astype(np.int32), rng.normal(size=(pairs, 2)).astype(np.float32)
    return Graph(
        nodes={
            "kind": rng.integers(5, size=nodes).astype(np.int32),
            "features": rng.normal(size=(nodes, 3)).astype(np.float32),
        },
        edges={"kind": np.tile(kind, 2), "features": np.tile(features, (2, 1))},
        senders=np.concatenate([ends[0], ends[1]]),
        receivers=np.concatenate([ends[1], ends[0]]),
        globals={"label": np.float32(seed)},
    )


def renumbered(graph: Graph, order: np.ndarray, edge_order: np.ndarray) -> Graph:
    place = np.argsort(order)
    return Graph(
        nodes={name: values[order] for name, values in graph.nodes.items()},
        edges={name: values[edge_order] for name, values in graph.edges.items()},
        senders=place[graph.senders][edge_order],
        receivers=place[graph.receivers][edge_order],
        globals=graph.globals,
    )


GRAPHS = [random_graph(6, 8, 1), random_graph(3, 2, 2), random_graph(1, 0, 3), random_graph(5, 4, 4)]


def encode(model, folder, graphs, rows, budget):
    """Of every graph mean, log variance, and its nodes' states."""
    store = write_graphs(folder / "graphs", graphs)
    batch = put_batch(assemble(store, rows, budget), make_mesh(MeshConfig(), jax.devices()[:1]))
    posterior, encoded = jax.jit(lambda m, g: m.encode(g))(model, batch)
    found = {}
    for r, row in enumerate(rows):
        begins = np.cumsum([0, *(len(graphs[place].nodes["kind"]) for place in row)])
        for slot, place in enumerate(row):
            nodes = encoded.nodes[r, begins[slot] : begins[slot + 1]]
            found[place] = (posterior.mean[r, slot], posterior.logvar[r, slot], nodes)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((posterior, encoded.nodes, encoded.edges)))
    return found


def assert_same(found, expected):
    for place in expected:
        for one, other in zip(found[place], expected[place], strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.fixture
def alone(model, tmp_path):
    """Each graph in a row of its own."""
    return encode(model, tmp_path, GRAPHS, [[0], [1], [2], [3]], Budget(nodes=7, edges=16, graphs=2, graph_nodes=6))


@pytest.mark.parametrize(
    ("rows", "budget"),
    [
        ([[0], [1], [2], [3]], Budget(nodes=12, edges=40, graphs=3, graph_nodes=6)),
        ([[0, 1, 2, 3]], Budget(nodes=16, edges=28, graphs=5, graph_nodes=6)),
        ([[3, 0], [2, 1]], Budget(nodes=14, edges=30, graphs=4, graph_nodes=6)),
    ],
    ids=["more padding", "one row", "other company"],
)
def test_padding_and_company_change_nothing(model, tmp_path, alone, rows, budget):
    assert_same(encode(model, tmp_path, GRAPHS, rows, budget), alone)


def test_graphs_differ(alone):
    assert np.abs(alone[0][0] - alone[3][0]).max() > 1e-2


def test_the_order_of_nodes_and_edges_changes_nothing(model, tmp_path, alone):
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(graph.nodes["kind"])) for graph in GRAPHS]
    graphs = [renumbered(g, o, rng.permutation(len(g.senders))) for g, o in zip(GRAPHS, orders, strict=True)]
    found = encode(model, tmp_path, graphs, [[0], [1], [2], [3]], Budget(nodes=7, edges=16, graphs=2, graph_nodes=6))
    assert_same({p: (*found[p][:2], found[p][2][np.argsort(orders[p])]) for p in found}, alone)


def test_structure_matters_and_not_only_kinds(model, tmp_path):
    """Two rings of three and one of six look alike to messages; walks that return tell them apart."""

    def ring(pairs):
        ends = np.asarray(pairs, np.int32)
        return Graph(
            nodes={"kind": np.zeros(6, np.int32), "features": np.zeros((6, 3), np.float32)},
            edges={"kind": np.zeros(12, np.int32), "features": np.zeros((12, 2), np.float32)},
            senders=np.concatenate([ends[:, 0], ends[:, 1]]),
            receivers=np.concatenate([ends[:, 1], ends[:, 0]]),
            globals={"label": np.float32(0)},
        )

    six = ring([(i, (i + 1) % 6) for i in range(6)])
    threes = ring([(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)])
    found = encode(model, tmp_path, [six, threes], [[0], [1]], Budget(nodes=7, edges=12, graphs=2, graph_nodes=6))
    assert np.abs(found[0][0] - found[1][0]).max() > 1e-3


def test_the_divergence_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 1, 1, 3))
    expected = np.sum(0.5 * (np.exp(logvar) + mean**2 - 1 - logvar))
    np.testing.assert_allclose(Posterior(mean, logvar).kl(0.0)[0, 0], expected, rtol=1e-5)
    # At the prior each dimension costs its free bits.
    zeros = np.zeros((1, 1, 3))
    np.testing.assert_allclose(Posterior(zeros, zeros).kl(0.5)[0, 0], 1.5 * np.log(2), rtol=1e-5)


def test_a_sample_has_the_mean_and_variance_it_should():
    words = np.random.default_rng(0).integers(1 << 32, size=(4000, 2)).astype(np.uint32)
    posterior = Posterior(jax.numpy.full((4000, 1, 2), 3.0), jax.numpy.full((4000, 1, 2), np.log(4.0)))
    drawn = np.asarray(posterior.sample(jax.numpy.asarray(words)))
    np.testing.assert_allclose(drawn.mean((0, 1)), 3.0, atol=0.15)
    np.testing.assert_allclose(drawn.std((0, 1)), 2.0, atol=0.1)


def test_a_token_depends_on_those_before_it_alone(model):
    rng = np.random.default_rng(0)
    latent = jax.numpy.asarray(rng.normal(size=(1, 8)), jax.numpy.float32)
    tokens = rng.integers(NOTATION.num_tokens, size=(1, NOTATION.length)).astype(np.int32)
    changed = tokens.copy()
    changed[0, 5] = (changed[0, 5] + 1) % NOTATION.num_tokens
    one, other = model.decoder(latent, tokens), model.decoder(latent, changed)
    np.testing.assert_array_equal(one[:, :6], other[:, :6])
    assert np.abs(one[:, 6:] - other[:, 6:]).max() > 1e-4


def test_writing_with_a_cache_takes_the_likeliest_token_of_the_whole_sequence(model):
    latent = jax.numpy.asarray(np.random.default_rng(0).normal(size=(16, 8)), jax.numpy.float32)
    valences = np.asarray([4, 3, 2, 1], np.int32)
    for masked in (True, False):
        tokens = model.decoder.write(latent, jax.random.key(0), valences, 0.0, masked)
        logits = np.asarray(model.decoder(latent, tokens))
        if masked:
            logits = np.where(NOTATION.permitted(tokens, valences), logits, -np.inf)
        ended = np.cumsum(np.asarray(tokens) == 0, axis=1) > (np.asarray(tokens) == 0)
        np.testing.assert_array_equal(np.where(ended, 0, logits.argmax(-1)), tokens)


def test_what_is_written_under_the_mask_is_always_a_molecule(model):
    latent = jax.numpy.asarray(np.random.default_rng(0).normal(size=(200, 8)), jax.numpy.float32)
    tokens = np.asarray(model.decoder.write(latent, jax.random.key(0), np.asarray([4, 3, 2, 1], np.int32), 1.0, True))
    for kinds, bonds, orders in map(NOTATION.read, tokens):
        load = np.zeros(len(kinds), int)
        np.add.at(load, bonds, orders[:, None])
        assert (load <= np.asarray([4, 3, 2, 1])[kinds]).all()


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"model\.num_heads=4 does not split over mesh tensor=3"):
        check_mesh(TINY, {"data": 1, "fsdp": 1, "tensor": 3})
