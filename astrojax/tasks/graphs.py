"""What the two tasks of the graph VAE share: stores of packed graphs, their batches, the model's parameters."""

import abc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from astrojax.config import Config, NonNegative, NonNegativeFloat, Positive
from astrojax.data import graphs as graph_data
from astrojax.data.graphs import Annealing, Budget, Graph, GraphStore
from astrojax.errors import RequestError
from astrojax.models.graph_encoder import GraphVAEConfig, check_mesh
from astrojax.models.graph_vae import GraphVAE
from astrojax.parallel.mesh import UNIT_MESH
from astrojax.parallel.sharding import filling, own_rows, put_batch
from astrojax.train.task import Batch, Params, RunConfig

SPLITS = ("train", "validation", "heldout")


class KL(Config):
    """How much it costs that a graph says more of its latent than the prior does.

    Attributes:
        annealing: of the weight, over the run.
        free_bits: the least that each dimension costs, so that nothing is won by saying less.
    """

    annealing: Annealing = Annealing()
    free_bits: NonNegativeFloat = 0.1


class GraphConfig(RunConfig, kw_only=True):
    """What a run of either task has.

    Attributes:
        model: encoder, latent and decoder.
        budget: of a row of graphs; ``train.batch_size`` counts rows.
        kl: of the latent.
        num_workers: processes that assemble batches; 0 does so in a thread.
        eval_batch_size: rows predicted at a time, rounded up to fill the devices.
    """

    model: GraphVAEConfig
    budget: Budget
    kl: KL = KL()
    num_workers: NonNegative = 0
    eval_batch_size: Positive = 64


class GraphTask(abc.ABC):
    """The part of :class:`astrojax.train.task.Task` that does not depend on what the graphs are.

    Attributes:
        stores: the graphs of each split, once opened.
    """

    unit = "rows"
    units_per_example = 1
    stack = None  # An encoder and a decoder are no stack of equal layers.
    resumable_changes = ("num_workers", "eval_batch_size", "model.remat", "model.scan_unroll")

    def __init__(self, config: GraphConfig):
        self.config = config
        with jax.sharding.use_abstract_mesh(UNIT_MESH):
            self.graphdef = nnx.graphdef(jax.eval_shape(lambda: self.new_model(nnx.Rngs(params=jax.random.key(0)))))
        self.validation_step = jax.jit(self.loss)

    @abc.abstractmethod
    def new_model(self, rngs: nnx.Rngs) -> GraphVAE:
        """The model with its initial weights."""

    @abc.abstractmethod
    def example(self) -> Graph:
        """A graph with the fields that this task's have."""

    @abc.abstractmethod
    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Summed over graphs, and their number."""

    def open(self, workdir: Path) -> None:
        self.stores = {split: GraphStore(workdir / "data" / split) for split in SPLITS}

    def init(self, key: jax.Array) -> Params:
        try:
            check_mesh(self.config.model, dict(jax.sharding.get_abstract_mesh().shape))
        except ValueError as error:
            raise RequestError(str(error)) from error
        return nnx.to_pure_dict(nnx.state(self.new_model(nnx.Rngs(params=key))))

    def model(self, params: Params) -> GraphVAE:
        """The graph VAE with ``params`` in place."""
        return nnx.merge(self.graphdef, params)

    def abstract_batch(self, mesh: jax.sharding.Mesh) -> Batch:
        return graph_data.abstract_batch(self.example(), self.config.budget, self.config.train.batch_size, mesh)

    def training_data(self) -> grain.IterDataset:
        return graph_data.training_batches(
            self.stores["train"],
            self.config.budget,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            annealing=self.config.kl.annealing,
            num_workers=self.config.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def validate(self, params: Params, mesh: jax.sharding.Mesh) -> dict[str, float]:
        """The loss of the validation split, with the divergence at its full weight."""
        store = self.stores["validation"]
        places = np.flatnonzero(store.fits(self.config.budget))[:_VALIDATED]
        total = weight = 0.0
        for batch in self.batches(store, places, mesh):
            batch["kl_weight"] = jnp.full_like(batch["kl_weight"], self.config.kl.annealing.weight)
            loss, count = self.validation_step(params, batch, jax.random.key(0))
            total, weight = total + float(loss), weight + float(count)
        return {"validation_loss": total / weight} if weight else {}

    def batches(self, store: GraphStore, places: Sequence[int], mesh: jax.sharding.Mesh) -> Iterator[Batch]:
        """Batches on ``mesh`` with each of the graphs in ``places`` once."""
        size = filling(self.config.eval_batch_size, mesh)
        for batch in graph_data.evaluation_batches(store, places, self.config.budget, batch_size=size):
            yield put_batch(jax.tree.map(lambda rows: rows[own_rows(size)], batch), mesh)

    def collect(self, function, params: Params, store: GraphStore, places: Sequence[int], mesh: jax.sharding.Mesh):
        """``function(params, batch)`` for every graph, as arrays in the order of ``places``.

        Args:
            function: compiled; returns a tree of arrays ``[row, graph, ...]``, on every device.
            params: the weights.
            store: where the graphs are.
            places: which of them.
            mesh: where the weights live.
        """
        results: dict[int, Any] = {}
        for batch in self.batches(store, places, mesh):
            values = jax.tree.map(np.asarray, function(params, batch))
            found = np.asarray(jax.sharding.reshard(batch["graphs"].globals["place"], P(None, None)))
            for row, slot in zip(*np.nonzero(found >= 0), strict=True):
                results[int(found[row, slot])] = jax.tree.map(lambda v, at=(row, slot): v[at], values)
        ordered = [results[int(place)] for place in places]
        return jax.tree.map(lambda *values: np.stack(values), *ordered)


# Graphs that a validation looks at: enough to tell checkpoints apart.
_VALIDATED = 2048
