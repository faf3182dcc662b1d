import itertools
import json

import jax
import jraph
import numpy as np
import pytest

from astrojax.data.graphs import (
    Annealing,
    Budget,
    Graph,
    GraphStore,
    abstract_batch,
    assemble,
    evaluation_batches,
    pack,
    training_batches,
    write_graphs,
)
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.sharding import put_batch

BUDGET = Budget(nodes=20, edges=24, graphs=5, graph_nodes=19)
ANNEALING = Annealing(weight=0.5, steps=7)
LARGE = [4, 17]  # More nodes, and more edges, than a row has.


def graph_of(n, m, rng) -> Graph:
    return Graph(
        nodes={"kind": rng.integers(9, size=n, dtype=np.int32), "features": rng.normal(size=(n, 3)).astype(np.float16)},
        edges={"kind": rng.integers(9, size=m, dtype=np.int32)},
        senders=rng.integers(n, size=m, dtype=np.int32),
        receivers=rng.integers(n, size=m, dtype=np.int32),
        globals={"label": np.float32(rng.normal()), "tokens": rng.integers(9, size=4, dtype=np.int32)},
    )


@pytest.fixture(scope="module")
def graphs() -> list[Graph]:
    rng = np.random.default_rng(0)
    graphs = [graph_of(int(rng.integers(1, 12)), int(rng.integers(13)), rng) for _ in range(60)]
    graphs[3] = graph_of(5, 0, rng)
    graphs[LARGE[0]], graphs[LARGE[1]] = graph_of(BUDGET.nodes, 2, rng), graph_of(3, BUDGET.edges + 1, rng)
    graphs[30] = graph_of(BUDGET.nodes - 1, BUDGET.edges, rng)  # Fills a row.
    return graphs


@pytest.fixture(scope="module")
def store(graphs, tmp_path_factory) -> GraphStore:
    return write_graphs(tmp_path_factory.mktemp("graphs") / "store", graphs)


def batches_of(store, num_batches, **options):
    options = {"batch_size": 3, "seed": 0, "annealing": ANNEALING} | options
    return list(itertools.islice(iter(training_batches(store, BUDGET, **options)), num_batches))


def rows_of(batch) -> list[list[int]]:
    """The places of the graphs in each row."""
    return [row[row >= 0].tolist() for row in batch["graphs"].globals["place"]]


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_what_is_stored_comes_back(graphs, store):
    assert len(store) == len(graphs)
    for i, graph in enumerate(graphs):
        assert_same(store[i], graph)


def test_graphs_without_any_edge_are_stored(tmp_path):
    graphs = [graph_of(n, 0, np.random.default_rng(n)) for n in (1, 4)]
    store = write_graphs(tmp_path / "store", graphs)
    assert_same([store[0], store[1]], graphs)
    assert not assemble(store, [[0, 1]], BUDGET).n_edge[0, :2].any()


def test_a_new_store_takes_the_place_of_the_old_one(tmp_path, graphs):
    write_graphs(tmp_path / "store", graphs)
    assert len(write_graphs(tmp_path / "store", graphs[:3])) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_an_empty_graph_and_no_graph_are_refused(tmp_path, graphs):
    for refused in ([], [graphs[0], graph_of(0, 0, np.random.default_rng(0)), graphs[1]]):
        with pytest.raises(ValueError, match="no graph, or one without nodes"):
            write_graphs(tmp_path / "store", refused)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(20))
def test_rows_hold_every_graph_once_and_leave_a_node_and_a_graph_for_padding(seed):
    rng = np.random.default_rng(seed)
    nodes, edges, graphs = (int(rng.integers(*ends)) for ends in ((2, 40), (1, 60), (2, 9)))
    budget = Budget(nodes=nodes, edges=edges, graphs=graphs, graph_nodes=nodes - 1)
    size = int(rng.integers(1, 300))
    n_node, n_edge = rng.integers(1, budget.nodes, size=size), rng.integers(budget.edges + 1, size=size)
    order = rng.permutation(size)[: int(rng.integers(1, size + 1))]
    rows = pack(n_node, n_edge, order, budget)
    assert sorted(itertools.chain(*rows)) == sorted(order.tolist())
    for row in rows:
        assert 0 < len(row) <= budget.graphs - 1
        assert n_node[row].sum() <= budget.nodes - 1
        assert n_edge[row].sum() <= budget.edges


def test_small_graphs_share_rows_as_far_as_they_can():
    budget = Budget(nodes=10, edges=30, graphs=9, graph_nodes=9)
    assert [len(row) for row in pack(np.full(12, 3), np.full(12, 4), np.arange(12), budget)] == [3] * 4


def test_rows_are_padded_as_jraph_pads_them(store):
    # One row is full, and one is of nothing.
    rows = [*pack(store.n_node, store.n_edge, np.flatnonzero(store.fits(BUDGET)), BUDGET), []]
    assert [30] in rows
    batch = assemble(store, rows, BUDGET)
    for i, row in enumerate(rows):
        cut = jax.tree.map(lambda values, i=i: values[i], batch)
        place = cut.globals["place"]
        np.testing.assert_array_equal(place, row + [-1] * (BUDGET.graphs - len(row)))
        assert (cut.n_node.sum(), cut.n_edge.sum()) == (BUDGET.nodes, BUDGET.edges)
        real_nodes = np.arange(BUDGET.nodes) < store.n_node[row].sum()
        real_edges = np.arange(BUDGET.edges) < store.n_edge[row].sum()
        np.testing.assert_array_equal(jraph.get_graph_padding_mask(cut), place >= 0)
        np.testing.assert_array_equal(jraph.get_node_padding_mask(cut), real_nodes)
        np.testing.assert_array_equal(jraph.get_edge_padding_mask(cut), real_edges)
        for ends in (cut.senders, cut.receivers):
            np.testing.assert_array_equal(real_nodes[ends], real_edges)  # Padding joins padding.
        padding = jax.tree.map(lambda v, real=real_nodes: v[~real], cut.nodes), cut.edges["kind"][~real_edges]
        assert not any(values.any() for values in jax.tree.leaves(padding))


def test_graphs_come_back_out_of_their_rows(graphs, store):
    rows = pack(store.n_node, store.n_edge, np.flatnonzero(store.fits(BUDGET)), BUDGET)
    batch = assemble(store, rows, BUDGET)
    for i, row in enumerate(rows):
        cut = jax.tree.map(lambda values, i=i: values[i], batch)
        found = jraph.unbatch_np(jax.tree.map(np.asarray, jraph.unpad_with_graphs(cut)))
        for place, graph in zip(row, found, strict=True):
            assert graph.globals.pop("place").tolist() == [place]
            labels = {name: values[0] for name, values in graph.globals.items()}
            assert_same(Graph(graph.nodes, graph.edges, graph.senders, graph.receivers, labels), graphs[place])


def test_graphs_that_no_row_holds_are_known_and_never_shown(store):
    fits = store.fits(BUDGET)
    assert np.flatnonzero(~fits).tolist() == LARGE
    shown = {place for batch in batches_of(store, 40) for row in rows_of(batch) for place in row}
    assert shown == set(np.flatnonzero(fits).tolist())


def epochs_of(store, seed) -> list[list[list[int]]]:
    """The rows of two epochs: a row of a batch of one is never left out."""
    rows = [rows_of(batch)[0] for batch in batches_of(store, 150, batch_size=1, seed=seed)]
    epochs = []
    for _ in range(2):
        num_rows = int(np.searchsorted(np.cumsum([len(row) for row in rows]), store.fits(BUDGET).sum())) + 1
        epochs.append(rows[:num_rows])
        rows = rows[num_rows:]
    return epochs


def test_an_epoch_shows_every_graph_once_and_the_next_in_another_order(store):
    first, second = epochs_of(store, 0)
    for epoch in (first, second):
        assert sorted(itertools.chain(*epoch)) == np.flatnonzero(store.fits(BUDGET)).tolist()
    assert list(itertools.chain(*first)) != list(itertools.chain(*second))
    assert epochs_of(store, 0) == [first, second]
    assert epochs_of(store, 1) != [first, second]


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_the_last_incomplete_batch_of_an_epoch_is_left_out(store, batch_size):
    whole = [epoch[: len(epoch) // batch_size * batch_size] for epoch in epochs_of(store, 0)]
    num_batches = sum(map(len, whole)) // batch_size
    batches = batches_of(store, num_batches, batch_size=batch_size)
    assert [row for batch in batches for row in rows_of(batch)] == whole[0] + whole[1]


def test_a_batch_brings_its_weight_and_random_words(store):
    batches = batches_of(store, 10)
    for i, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["kl_weight"], np.full(3, ANNEALING.at(i), np.float32))
    assert len({tuple(words) for batch in batches for words in batch["words"].tolist()}) == 30


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_restored_iterator_gives_the_next_batch(store, num_workers):
    plain = batches_of(store, 20)
    options = {"batch_size": 3, "seed": 0, "annealing": ANNEALING, "num_workers": num_workers}
    iterator = iter(training_batches(store, BUDGET, **options))
    for expected in plain[:15]:
        assert_same(next(iterator), expected)
    state = json.loads(json.dumps(iterator.get_state()))  # Checkpoints keep it as JSON.
    iterator.close()
    resumed = iter(training_batches(store, BUDGET, **options))
    resumed.set_state(state)
    for expected in plain[15:]:
        assert_same(next(resumed), expected)
    resumed.close()


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_each_batch_and_go_on_where_one_process_was(store, process_count):
    whole = batches_of(store, 12, batch_size=4)
    options = {"batch_size": 4, "seed": 0, "annealing": ANNEALING}
    alone = iter(training_batches(store, BUDGET, **options))
    for _ in range(5):
        next(alone)
    shares = []
    for process in range(process_count):
        mine = options | {"process_index": process, "process_count": process_count}
        iterator = iter(training_batches(store, BUDGET, **mine))
        shares.append(list(itertools.islice(iterator, 5)))
        iterator = iter(training_batches(store, BUDGET, **mine))
        iterator.set_state(alone.get_state())
        shares[-1] += itertools.islice(iterator, 7)

    def by_row(batch):
        return {tuple(row): jax.tree.map(lambda v, i=i: v[i], batch) for i, row in enumerate(rows_of(batch))}

    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(len(part["words"]) == 4 // process_count for part in parts)
        joined = {row: content for part in parts for row, content in by_row(part).items()}
        expected = by_row(batch)
        assert joined.keys() == expected.keys()
        for row in expected:
            assert_same(joined[row], expected[row])


def test_evaluation_shows_each_place_once_and_fills_the_last_batch(store):
    places = np.random.default_rng(0).permutation(np.flatnonzero(store.fits(BUDGET)))[:31]
    batches = list(evaluation_batches(store, places, BUDGET, batch_size=4))
    rows = [row for batch in batches for row in rows_of(batch)]
    assert sorted(itertools.chain(*rows)) == sorted(places.tolist())
    assert {len(leaf) for batch in batches for leaf in jax.tree.leaves(batch)} == {4}
    num_rows = len(pack(store.n_node, store.n_edge, places, BUDGET))
    assert (len(batches), rows[num_rows:]) == (-(-num_rows // 4), [[]] * (-num_rows % 4))
    assert num_rows % 4
    assert list(evaluation_batches(store, [], BUDGET, batch_size=4)) == []
    assert jax.tree.structure(batches[0]) == jax.tree.structure(batches_of(store, 1)[0])


def test_the_weight_of_the_divergence_rises_once_or_in_cycles():
    linear = Annealing(weight=0.5, steps=10)
    assert [linear.at(i) for i in (0, 1, 5, 10, 11, 1000)] == pytest.approx([0, 0.05, 0.25, 0.5, 0.5, 0.5])
    cyclical = Annealing(kind="cyclical", weight=2.0, steps=8, rise=0.5)
    cycle = [0, 0.5, 1, 1.5, 2, 2, 2, 2]
    assert [cyclical.at(i) for i in range(24)] == pytest.approx(cycle * 3)


@pytest.mark.parametrize("rows", [1, 2])
def test_an_abstract_batch_is_what_is_put_on_the_mesh(graphs, store, rows):
    mesh = make_mesh(MeshConfig(data=1, fsdp=rows, tensor=1), jax.devices()[:rows])
    batch = put_batch(batches_of(store, 1, batch_size=4)[0], mesh)
    abstract = abstract_batch(graphs[0], BUDGET, 4, mesh)
    assert jax.tree.structure(batch) == jax.tree.structure(abstract)
    for array, like in zip(jax.tree.leaves(batch), jax.tree.leaves(abstract), strict=True):
        assert (like.shape, like.dtype, like.sharding) == (array.shape, array.dtype, array.sharding)
