"""Graphs on disk and in batches: packed into rows of a fixed size, each row a padded ``jraph.GraphsTuple``.

Sizes are known before a graph is read, so which graphs share a row is planned for a whole epoch from its number and
the seed alone: the place in the data is one integer, and a batch is cut from flat arrays at once. This is the only file
that knows jraph.
"""

import bisect
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import grain
import jax
import msgspec
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from astrojax.config import Config, Fraction, NonNegativeFloat, Positive
from astrojax.data.workers import in_workers
from astrojax.errors import RequestError
from astrojax.files import whole_folder
from astrojax.parallel.sharding import BATCH

try:
    from jraph import GraphsTuple
except ImportError as error:
    raise RequestError("graphs need jraph: pip install -e '.[graphs]'") from error

Features = Mapping[str, np.ndarray]

# How many rows may wait for a graph that fits: more waste less space, and take longer to look through.
_OPEN_ROWS = 16


class Budget(Config):
    """The size of a row. One node and one graph of it are padding always, as jraph has it.

    Attributes:
        nodes: of all graphs in a row.
        edges: likewise; a bond is two, one each way.
        graphs: in a row.
        graph_nodes: of one graph. Attention has that many places for each.
    """

    nodes: Positive
    edges: Positive
    graphs: Annotated[int, msgspec.Meta(ge=2)]
    graph_nodes: Positive

    def __post_init__(self):
        if self.graph_nodes >= self.nodes:
            raise ValueError(f"graph_nodes={self.graph_nodes}: less than nodes={self.nodes}, one of which is padding")


class Annealing(Config):
    """The weight of the divergence from the prior over the course of a run: a latent that costs from the first step on
    is never used (Bowman et al. 2016); cycles give it several starts (Fu et al. 2019).

    It is a function of the batch's number, and travels with the batch.

    Attributes:
        kind: ``"linear"``: rises from 0 to ``weight`` and stays; ``"cyclical"``: again in each cycle.
        weight: at its highest.
        steps: of the rise, or of a cycle.
        rise: share of a cycle in which it rises.
    """

    kind: Literal["linear", "cyclical"] = "linear"
    weight: NonNegativeFloat = 1.0
    steps: Positive = 1000
    rise: Fraction = 0.5

    def at(self, batch: int) -> float:
        """The weight at the batch of this number."""
        if self.kind == "linear":
            return self.weight * min(batch / self.steps, 1.0)
        return self.weight * min(batch % self.steps / max(self.rise * self.steps, 1), 1.0)


class Graph(NamedTuple):
    """One graph of ``n`` nodes and ``m`` edges.

    Attributes:
        nodes: name -> ``[n, ...]``.
        edges: name -> ``[m, ...]``.
        senders: ``[m]`` int, where each edge begins.
        receivers: ``[m]`` int, where it ends.
        globals: name -> what the whole graph has, of any shape.
    """

    nodes: Features
    edges: Features
    senders: np.ndarray
    receivers: np.ndarray
    globals: Features


class GraphStore:
    """Graphs one after the other in flat arrays, memory-mapped.

    Attributes:
        n_node: ``[g]`` int32, nodes of each graph.
        n_edge: ``[g]`` int32, edges of each.
        fields: of ``"nodes"``, ``"edges"`` and ``"globals"``: name -> ``[all nodes, edges or graphs, ...]``.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.fields: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
        for part in _PARTS:
            for file in sorted((folder / part).glob("*.npy")):
                # An empty array cannot be mapped.
                mapped = np.load(file, mmap_mode="r" if file.stat().st_size > 256 else None)
                self.fields[part][file.stem] = mapped
        self.n_node, self.n_edge = np.load(folder / "n_node.npy"), np.load(folder / "n_edge.npy")
        self._starts = {"nodes": _starts(self.n_node), "edges": _starts(self.n_edge)}

    def __reduce__(self):
        # A data worker maps the files again; pickling the maps would copy the graphs into every worker.
        return GraphStore, (self._folder,)

    def __len__(self) -> int:
        return len(self.n_node)

    def __getitem__(self, place: int) -> Graph:
        def cut(part: str) -> dict[str, np.ndarray]:
            where = slice(*self._starts[part][place : place + 2])
            return {name: np.asarray(values[where]) for name, values in self.fields[part].items()}

        edges = cut("edges")
        ends = edges.pop("senders"), edges.pop("receivers")
        return Graph(cut("nodes"), edges, *ends, {name: v[place] for name, v in self.fields["globals"].items()})

    def fits(self, budget: Budget) -> np.ndarray:
        """Whether each graph fits into a row, ``[g]`` bool."""
        return (self.n_node <= budget.graph_nodes) & (self.n_edge <= budget.edges)

    def take(self, part: str, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in the flat arrays the nodes or edges of graphs are, and how many each has."""
        counts = self.n_node[places] if part == "nodes" else self.n_edge[places]
        return np.repeat(self._starts[part][places], counts) + _ranges(counts), counts


def write_graphs(folder: Path, graphs: Iterable[Graph]) -> GraphStore:
    """Writes graphs that have the same fields into ``folder``, which appears only when it is complete.

    Raises:
        ValueError: there is no graph, or one without nodes.
    """
    graphs = list(graphs)
    if not graphs or not all(len(next(iter(graph.nodes.values()))) for graph in graphs):
        raise ValueError("no graph, or one without nodes")
    with whole_folder(folder) as partial:
        for part in _PARTS:
            (partial / part).mkdir()
        for name in graphs[0].nodes:
            np.save(partial / "nodes" / f"{name}.npy", np.concatenate([graph.nodes[name] for graph in graphs]))
        for name in graphs[0].edges:
            np.save(partial / "edges" / f"{name}.npy", np.concatenate([graph.edges[name] for graph in graphs]))
        for name in ("senders", "receivers"):
            ends = np.concatenate([getattr(graph, name) for graph in graphs]).astype(np.int32)
            np.save(partial / "edges" / f"{name}.npy", ends)
        for name in graphs[0].globals:
            np.save(partial / "globals" / f"{name}.npy", np.stack([graph.globals[name] for graph in graphs]))
        n_node = [len(next(iter(graph.nodes.values()))) for graph in graphs]
        np.save(partial / "n_node.npy", np.asarray(n_node, np.int32))
        np.save(partial / "n_edge.npy", np.asarray([len(graph.senders) for graph in graphs], np.int32))
    return GraphStore(folder)


def pack(n_node: np.ndarray, n_edge: np.ndarray, order: Sequence[int], budget: Budget) -> list[list[int]]:
    """Rows of graphs, by first fit in the order given: each row the places of its graphs.

    Args:
        n_node: ``[g]``, nodes of each graph; each fits into a row.
        n_edge: ``[g]``, edges of each.
        order: places of graphs.
        budget: of a row.
    """
    rows: list[list[int]] = []
    waiting: list[list[int]] = []  # Row, and what is left of it.
    sizes = zip(order, n_node[order].tolist(), n_edge[order].tolist(), strict=True)
    for place, nodes, edges in sizes:
        for row in waiting:
            if row[1] >= nodes and row[2] >= edges:
                break
        else:
            if len(waiting) == _OPEN_ROWS:
                waiting.pop(0)
            row = [len(rows), budget.nodes - 1, budget.edges, budget.graphs - 1]
            rows.append([])
            waiting.append(row)
        rows[row[0]].append(int(place))
        row[1], row[2], row[3] = row[1] - nodes, row[2] - edges, row[3] - 1
        if not row[3] or not row[1]:
            waiting.remove(row)
    return rows


def assemble(store: GraphStore, rows: Sequence[Sequence[int]], budget: Budget) -> GraphsTuple:
    """Rows as one ``GraphsTuple`` of NumPy arrays with a leading axis of rows: ``nodes[name]`` is ``[row, node, ...]``,
    ``n_node`` ``[row, graph]``; ``senders`` and ``receivers`` count within their row.

    As in jraph, what pads a row is one more graph after its own. ``globals`` has besides the graphs' own the ``place``
    of each in the store, -1 where there is none.
    """
    num_rows, count = len(rows), np.asarray([len(row) for row in rows])
    places = np.asarray([place for row in rows for place in row], np.int64)
    row_of = np.repeat(np.arange(num_rows), count)
    slot = row_of * budget.graphs + _ranges(count)

    def filled(size: int, where: np.ndarray, values: np.ndarray, fill: int = 0) -> np.ndarray:
        array = np.full((num_rows * size, *values.shape[1:]), fill, values.dtype)
        array[where] = values
        return array.reshape(num_rows, size, *values.shape[1:])

    def sizes(counts: np.ndarray, size: int) -> np.ndarray:
        array = filled(budget.graphs, slot, counts)
        array[np.arange(num_rows), count] = size - array.sum(1)
        return array

    def targets(counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in its row each graph begins, and the places of all their nodes or edges in the batch."""
        before = _starts(counts)[:-1]
        begins = before - before[_starts(count)[row_of]]
        return begins, np.repeat(row_of * size + begins, counts) + _ranges(counts)

    node_from, node_counts = store.take("nodes", places)
    edge_from, edge_counts = store.take("edges", places)
    node_begins, node_at = targets(node_counts, budget.nodes)
    _, edge_at = targets(edge_counts, budget.edges)
    edges = dict(store.fields["edges"])
    first_padding = np.repeat(np.bincount(row_of, node_counts, num_rows).astype(np.int32), budget.edges)
    ends = {}
    for name in ("senders", "receivers"):
        ends[name] = first_padding.copy()
        ends[name][edge_at] = edges.pop(name)[edge_from] + np.repeat(node_begins, edge_counts)
        ends[name] = ends[name].reshape(num_rows, budget.edges)
    return GraphsTuple(
        nodes={name: filled(budget.nodes, node_at, v[node_from]) for name, v in store.fields["nodes"].items()},
        edges={name: filled(budget.edges, edge_at, v[edge_from]) for name, v in edges.items()},
        globals={name: filled(budget.graphs, slot, v[places]) for name, v in store.fields["globals"].items()}
        | {"place": filled(budget.graphs, slot, places.astype(np.int32), fill=-1)},
        n_node=sizes(node_counts, budget.nodes),
        n_edge=sizes(edge_counts, budget.edges),
        **ends,
    )


def training_batches(
    store: GraphStore,
    budget: Budget,
    *,
    batch_size: int,
    seed: int,
    annealing: Annealing,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Endless batches of rows, shuffled and packed anew in every epoch; this process's share of each.

    A checkpoint of its iterator is the number of batches: it holds for any number of processes.

    Args:
        store: the graphs; those that no row holds are left out.
        budget: of a row.
        batch_size: rows in a batch, over all processes.
        seed: of the order, and of the batches' ``words``.
        annealing: the weight of the divergence at each batch.
        num_workers: processes that assemble; 0 uses threads of this one.
        process_index: this process's place among those that train together.
        process_count: how many these are.

    Raises:
        RequestError: the graphs do not fill the rows of a batch.

    Returns:
        Batches ``{"graphs": see :func:`assemble`, "words": [row, 2] uint32, for random keys, "kl_weight": [row]}``.
    """
    source = _Batches(store, budget, batch_size, seed, annealing, process_index, process_count)
    batches = grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8))
    return in_workers(batches, num_workers)


def evaluation_batches(
    store: GraphStore, places: Sequence[int], budget: Budget, *, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Batches like those of :func:`training_batches` with each of the graphs in ``places`` once, packed in that order;
    the last is filled up with rows of nothing."""
    rows = pack(store.n_node, store.n_edge, np.asarray(places, np.int64), budget)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        part += [[] for _ in range(batch_size - len(part))]
        yield {
            "graphs": assemble(store, part, budget),
            "words": np.zeros((batch_size, 2), np.uint32),
            "kl_weight": np.ones(batch_size, np.float32),
        }


def abstract_batch(example: Graph, budget: Budget, batch_size: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings on ``mesh`` of a batch of :func:`training_batches` whose graphs have the fields of
    ``example``."""
    sharding = NamedSharding(mesh, P(BATCH))

    def rows(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)

    def filled(fields: Features, size: int, cut: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: rows((size, *v.shape[cut:]), v.dtype) for name, v in sorted(fields.items())}

    integers = {name: rows((size,), np.int32) for name, size in _integers(budget)}
    graphs = GraphsTuple(
        nodes=filled(example.nodes, budget.nodes, 1),
        edges=filled(example.edges, budget.edges, 1),
        globals=filled(example.globals, budget.graphs, 0) | {"place": rows((budget.graphs,), np.int32)},
        **integers,
    )
    return {"graphs": graphs, "words": rows((2,), np.uint32), "kl_weight": rows((), np.float32)}


def _integers(budget: Budget) -> tuple[tuple[str, int], ...]:
    return (
        ("n_node", budget.graphs),
        ("n_edge", budget.graphs),
        ("senders", budget.edges),
        ("receivers", budget.edges),
    )


class _Batches:
    """Batches by their number."""

    def __init__(self, store, budget, batch_size, seed, annealing, process_index, process_count):
        self._arguments = (store, budget, batch_size, seed, annealing, process_index, process_count)
        self._store, self._budget, self._batch_size, self._seed, self._annealing = self._arguments[:5]
        self._mine = slice(process_index, None, process_count)
        self._fitting = np.flatnonzero(store.fits(budget))
        self._ends: list[int] = []  # Batches up to the end of each epoch, as far as known.
        self._rows = functools.lru_cache(maxsize=2)(self._pack)
        if len(self._rows(0)) < batch_size:
            raise RequestError(f"train.batch_size={batch_size}: all graphs fill {len(self._rows(0))} rows only")

    def __reduce__(self):
        return _Batches, self._arguments

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> dict[str, Any]:
        number = int(number)
        while not self._ends or self._ends[-1] <= number:
            rows = self._rows(len(self._ends))
            # An epoch whose order fills fewer rows than a batch is passed over; the first fills one.
            self._ends.append((self._ends[-1] if self._ends else 0) + len(rows) // self._batch_size)
        epoch = bisect.bisect_right(self._ends, number)
        first = (number - (self._ends[epoch - 1] if epoch else 0)) * self._batch_size
        rows = self._rows(epoch)[first : first + self._batch_size][self._mine]
        words = np.random.default_rng((self._seed, 1, number)).integers(1 << 32, size=(self._batch_size, 2))
        return {
            "graphs": assemble(self._store, rows, self._budget),
            "words": words.astype(np.uint32)[self._mine],
            "kl_weight": np.full(len(rows), self._annealing.at(number), np.float32),
        }

    def _pack(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(self._fitting)
        return pack(self._store.n_node, self._store.n_edge, order, self._budget)


_PARTS = ("nodes", "edges", "globals")


def _starts(counts: np.ndarray) -> np.ndarray:
    """Where each of some consecutive pieces begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _ranges(counts: np.ndarray) -> np.ndarray:
    """``0 ... count - 1`` of each piece, one after the other."""
    return np.arange(counts.sum()) - np.repeat(_starts(counts)[:-1], counts)
