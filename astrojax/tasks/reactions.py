"""The reaction task: a graph VAE that says which reactions a draft metabolic network is missing."""

import functools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from scipy.optimize import minimize

from astrojax.chemistry.balance import likeliest_balanced
from astrojax.config import Config, Fraction, NonNegativeFloat, Positive
from astrojax.console import say
from astrojax.data.graphs import Graph, GraphStore, write_graphs
from astrojax.data.networks.candidates import candidates, foldings, splits, without
from astrojax.data.networks.collection import read_collection
from astrojax.data.networks.matching import Draft
from astrojax.data.networks.neighbourhood import (
    ABOVE,
    BALANCE,
    BELOW,
    CLASSES,
    EDGE_KINDS,
    ELEMENT_FEATURES,
    FIRST_COMPOUND,
    NODE_FEATURES,
    UNKNOWN,
    Neighbourhoods,
    Surroundings,
)
from astrojax.data.networks.relatives import held_by_another, held_by_relatives, likeness, likeness_to_others
from astrojax.data.networks.universe import Universe
from astrojax.errors import RequestError
from astrojax.evaluation import reactions as evaluation
from astrojax.models.graph_encoder import Channels
from astrojax.models.graph_vae import GraphVAE
from astrojax.models.reaction_decoder import ReactionDecoder
from astrojax.tasks.graphs import SPLITS, GraphConfig, GraphTask
from astrojax.train.ensemble import first_member, init_members, loss_of_members, of_members
from astrojax.train.task import Batch, Params


class ReactionData(Config):
    """Networks to learn from.

    Attributes:
        path: a folder of SBML files, or a glob pattern.
        max_compounds: room for so many compounds.
        surroundings: how far around a candidate the model sees.
        repeats: how many times all reactions are learnt from, each time in other drafts.
    """

    path: str = "data/metabolic"
    max_compounds: Positive = 4096
    surroundings: Surroundings = Surroundings()
    repeats: Positive = 2


class ReactionConfig(GraphConfig, kw_only=True, tag="reactions"):
    """A run of the reaction task.

    Attributes:
        data: the networks.
        reconstruction: weight of writing the candidate, with the latent's cost and ``balance``, over saying whether a
            network has it.
        balance: weight, within ``reconstruction``, of elements that the written reaction makes or loses.
        anonymous: share of compounds whose identity the encoder is not told in training: with 1 it never is, and has
            formulas and connections to go by, which also hold of reactions that it has not seen.
        disturbed: standard deviation of noise on nodes' features in training.
        members: networks that are trained side by side from different initial weights; their logits are averaged.
    """

    data: ReactionData = ReactionData()
    reconstruction: NonNegativeFloat = 0.2
    balance: NonNegativeFloat = 0.1
    anonymous: Fraction = 1.0
    disturbed: NonNegativeFloat = 0.1
    members: Positive = 1


class Calibration(NamedTuple):
    """Platt's (1999): the probability is that of a weighted sum of the evidence, and an offset."""

    weights: tuple[float, ...]
    offset: float

    def __call__(self, *evidence: np.ndarray) -> np.ndarray:
        """The probabilities that evidence means, an array for each of the weights."""
        total = sum(weight * kind for weight, kind in zip(self.weights, evidence, strict=True))
        return 1.0 / (1.0 + np.exp(-(total + self.offset)))

    @classmethod
    def fit(cls, label: np.ndarray, *evidence: np.ndarray) -> "Calibration":
        """The likeliest for which more evidence is no less likely, with Platt's targets for labels: as if one more of
        each class had been seen.

        Args:
            label: ``[p]``, whether each is true.
            evidence: ``[p]`` of each kind.
        """
        columns, true = np.stack([*evidence, np.ones(len(label))]), label > 0
        target = np.where(true, (true.sum() + 1) / (true.sum() + 2), 1 / ((~true).sum() + 2))

        def cost(weights):
            z = weights @ columns
            return np.mean(np.logaddexp(0, z) - target * z)

        bounds = [(0, None)] * len(evidence) + [(None, None)]
        *weights, offset = minimize(cost, np.eye(len(columns))[0], bounds=bounds).x.tolist()
        return cls(tuple(weights), offset)


class Calibrations(NamedTuple):
    """What a logit means, by the validation split.

    Attributes:
        unknown: of a reaction that nobody is known to have.
        known: beside the share of networks that have it, relatives first (:mod:`astrojax.data.networks.relatives`), of
            a reaction that another network has.
    """

    unknown: Calibration
    known: Calibration


class ReactionTask(GraphTask):
    """See :class:`astrojax.train.task.Task`.

    Attributes:
        universe: of all networks, once opened.
        drafts: ``[network, reaction]`` bool, what is learnt from, once opened.
    """

    config: ReactionConfig

    def new_model(self, rngs: nnx.Rngs) -> GraphVAE:
        kinds = FIRST_COMPOUND + self.config.data.max_compounds
        channels = Channels(self.config.budget.graph_nodes, kinds, EDGE_KINDS, NODE_FEATURES, 1)
        decoder = ReactionDecoder(self.config.model, channels, CLASSES, rngs=rngs)
        return GraphVAE(self.config.model, channels, decoder, rngs=rngs)

    def example(self) -> Graph:
        return Graph(
            nodes={
                "kind": np.zeros(1, np.int32),
                "features": np.zeros((1, NODE_FEATURES), np.float16),
                "role": np.zeros(1, np.int32),
            },
            edges={"kind": np.zeros(1, np.int32), "features": np.zeros((1, 1), np.float16)},
            senders=np.zeros(1, np.int32),
            receivers=np.zeros(1, np.int32),
            globals={"label": np.float32(0), "network": np.int32(0), "reaction": np.int32(0)},
        )

    def prepare(self, workdir: Path) -> None:
        data = self.config.data
        say(f"reading {data.path}")
        collection = read_collection([data.path])
        universe = collection.universe
        for file, reason in collection.refused.items():
            say(f"refused: {file}: {reason}")
        if len(universe.networks) < 2:
            raise RequestError(f"{data.path}: one network; what it is missing can be learnt from others only")
        if len(universe.compounds) > data.max_compounds:
            raise RequestError(
                f"{data.path}: {len(universe.compounds)} compounds, more than data.max_compounds={data.max_compounds}"
            )
        universe.save(workdir / _UNIVERSE)
        parts = splits(universe)
        drafts = universe.present & (parts == "train")
        for split in SPLITS:
            reactions, graphs = np.flatnonzero(parts == split), []
            if split == "train":
                for seed in range(data.repeats):
                    for part in foldings(universe, reactions, seed):
                        graphs += self.graphs(universe, without(drafts, part), part)
            else:
                graphs = self.graphs(universe, drafts, reactions)
            if not graphs:
                raise RequestError(f"{data.path}: no candidates for {split}; more or larger networks are needed")
            labels = np.asarray([graph.globals["label"] for graph in graphs])
            store = write_graphs(workdir / "data" / split, graphs)
            large = np.flatnonzero(~store.fits(self.config.budget))
            for place in large[:3]:
                say(f"left out: a graph of {store.n_node[place]} nodes and {store.n_edge[place]} edges; see budget")
            say(f"{split}: {len(labels):,} candidates, {labels.mean():.0%} of them reactions of their network")
            if len(large) == len(store):
                raise RequestError(f"{data.path}: all graphs of {split} are too large for budget")
            if len(large):
                say(f"left out: {len(large):,} of {len(store):,} graphs of {split}, too large for budget")

    def open(self, workdir: Path) -> None:
        super().open(workdir)
        self.universe = Universe.load(workdir / _UNIVERSE)
        self.split = splits(self.universe)
        self.drafts = self.universe.present & (self.split == "train")

    def init(self, key: jax.Array) -> Params:
        return init_members(super().init, key, self.config.members)

    def model(self, params: Params) -> GraphVAE:
        """The graph VAE with ``params`` in place; of an ensemble, its first member."""
        return super().model(first_member(params, self.config.members))

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key  # Rows bring random words of their own, so that every portion of a batch draws the same.
        graphs = self._disturbed(batch)
        return loss_of_members(lambda member: self._loss(member, batch, graphs), params, self.config.members)

    def _loss(self, member: Params, batch: Batch, graphs: Any) -> tuple[jax.Array, jax.Array]:
        """Of one network that sees ``graphs``, summed over them, and their number."""
        model, config = nnx.merge(self.graphdef, member), self.config
        posterior, encoded = model.encode(graphs)
        latent = posterior.sample(batch["words"])
        members = encoded.structure.members
        logit = model.decoder.presence(latent, encoded, graphs.n_node)
        label = graphs.globals["label"]
        presence = jax.nn.softplus(logit) - label * logit
        # What is written is known by what it is: nothing is withheld or disturbed.
        nodes = batch["graphs"].nodes
        logits = model.decoder.coefficients(latent, nodes["kind"], nodes["features"], members)
        log_likelihood = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.sum(log_likelihood * jax.nn.one_hot(nodes["role"], CLASSES), axis=-1)
        compound = nodes["kind"] >= UNKNOWN
        written = jnp.einsum("bng,bn->bg", members, jnp.where(compound, -chosen, 0.0))
        cost = presence + config.reconstruction * (
            written
            + batch["kl_weight"][:, None] * posterior.kl(config.kl.free_bits)
            + config.balance * _imbalance(jnp.exp(log_likelihood) * compound[..., None], nodes["features"], members)
        )
        present = graphs.globals["place"] >= 0
        return jnp.sum(jnp.where(present, cost, 0.0)), jnp.sum(present.astype(jnp.float32))

    def _disturbed(self, batch: Batch):
        """The graphs as the words of their rows say they are seen this time; words of zero say undisturbed."""
        graphs, config = batch["graphs"], self.config
        kinds, features = graphs.nodes["kind"], graphs.nodes["features"].astype(jnp.float32)

        def draw(words):
            hide, noise = jax.random.split(jax.random.wrap_key_data(words ^ jnp.uint32(1)))
            return jax.random.uniform(hide, kinds.shape[1:]), jax.random.normal(noise, features.shape[1:])

        hide, noise = jax.vmap(draw)(batch["words"])
        training = jnp.any(batch["words"] != 0, axis=1)[:, None]
        # Who is always seen without names is so when it counts as well.
        hidden = (training | (config.anonymous == 1)) & (hide < config.anonymous) & (kinds >= FIRST_COMPOUND)
        noise *= config.disturbed * training[..., None] * (features != 0)
        nodes = graphs.nodes | {"kind": jnp.where(hidden, UNKNOWN, kinds), "features": features + noise}
        return graphs._replace(nodes=nodes)

    def graphs(self, universe: Universe, drafts: np.ndarray, reactions: np.ndarray) -> list[Graph]:
        """The candidates among ``reactions`` for each draft, with what surrounds them."""
        around = Neighbourhoods(universe, drafts, self.config.data.surroundings)
        views, graphs = [around.around(draft) for draft in drafts], []
        for network, reaction, label in zip(*candidates(universe, drafts, reactions), strict=True):
            graph = views[network].graph(reaction, label)
            where = {"network": np.int32(network), "reaction": np.int32(reaction)}
            graphs.append(graph._replace(globals=graph.globals | where))
        return graphs

    def evaluate(self, params: Params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
        return evaluation.evaluate(self, params, mesh, workdir, step)

    def predict(
        self, params: Params, mesh: jax.sharding.Mesh, store: GraphStore, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the model says of graphs: logits ``[graph]``, and mean latents ``[graph, d_latent]``; an ensemble's are
        those of its first member."""
        return self.collect(self._predict, params, store, places, mesh)

    def calibrations(self, params: Params, mesh: jax.sharding.Mesh) -> Calibrations:
        """The probabilities that logits mean, by the validation split."""
        store = self.stores["validation"]
        places = np.flatnonzero(store.fits(self.config.budget))
        logit, _ = self.predict(params, mesh, store, places)
        fields = {name: np.asarray(values)[places] for name, values in store.fields["globals"].items()}
        held = held_by_relatives(self.universe.present, likeness_to_others(self.drafts))
        held = held[fields["network"], fields["reaction"]]
        label = fields["label"]
        # Someone has each reaction: one that no other network has would be the network's own.
        known = held_by_another(self.universe.present, fields["network"], fields["reaction"])
        return Calibrations(Calibration.fit(label, logit), Calibration.fit(label[known], logit[known], held[known]))

    def rewrite(
        self, params: Params, mesh: jax.sharding.Mesh, store: GraphStore, places: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Which reactions are written again exactly from their mean latents: those of known formulas that balance, each
        once, in the first of the graphs that it is the candidate of.

        Returns:
            ``likeliest`` and ``balanced``, bool ``[reaction]``: without and with the constraint that elements balance.
        """
        reactions = np.asarray(store.fields["globals"]["reaction"])[places]
        _, first = np.unique(reactions, return_index=True)
        elements = sorted({e for compound in self.universe.compounds for e in compound.elements or {}} - {"H"})
        found: dict[str, list[bool]] = {"likeliest": [], "balanced": []}
        balanced = [self.universe.imbalance(self.universe.reactions[r]) == {} for r in reactions[first]]
        chosen = places[first][balanced]
        written = self.collect(self._write, params, store, chosen, mesh) if len(chosen) else []
        for place, log_likelihood in zip(chosen, written, strict=True):
            graph = store[int(place)]
            compounds = np.flatnonzero(graph.nodes["kind"] >= FIRST_COMPOUND)
            known = [self.universe.compounds[k - FIRST_COMPOUND].elements for k in graph.nodes["kind"][compounds]]
            atoms = np.asarray([[(e or {"?": 0}).get(symbol, 0.0) for symbol in elements] for e in known])
            # A compound of unknown formula cannot be balanced, and a coefficient of no class not be written.
            allowed = log_likelihood[: len(graph.nodes["kind"])][compounds].astype(np.float64)
            allowed[:, [BELOW, ABOVE]] = -np.inf
            allowed[[e is None for e in known], 1:] = -np.inf
            for name, balance in (("likeliest", None), ("balanced", atoms)):
                answer = likeliest_balanced(allowed, BALANCE, balance)
                found[name].append(answer is not None and np.array_equal(answer, graph.nodes["role"][compounds]))
        return {name: np.asarray(values, bool) for name, values in found.items()}

    def score_candidates(
        self,
        params: Params,
        mesh: jax.sharding.Mesh,
        universe: Universe,
        draft: Draft,
        reactions: np.ndarray,
        lacking: float,
    ) -> np.ndarray:
        """Calibrated probabilities that the organism of a draft has reactions, ``[reaction]``: by what surrounds each
        in the draft, and by which networks of ``universe`` have it, but for those that are the draft itself.

        Args:
            params: the weights.
            mesh: where they live.
            universe: of the reactions; compounds that this run's does not know by name are known by their formulas.
            draft: what is known of the organism.
            reactions: places in ``universe``, of those that the draft lacks.
            lacking: the share of its organism's reactions that the draft is thought to lack, above 0 to 1.
        """
        if not len(reactions):
            return np.zeros(0)
        of_kind = np.concatenate([np.arange(FIRST_COMPOUND), self._kinds(universe)]).astype(np.int32)
        where = {"network": np.int32(0), "reaction": np.int32(0)}
        graphs: dict[int, Graph] = {}
        others = universe.present[(universe.present != draft.present).any(axis=1)]
        # As in training a tenth at a time is taken out of all networks, as if no one knew of it.
        for part in foldings(universe, reactions, seed=0):
            # As in training, too, the draft is one of those that say how common things are.
            drafts = np.vstack([without(others, part), draft.present])
            view = Neighbourhoods(universe, drafts, self.config.data.surroundings).around(draft.present)
            for reaction in part.tolist():
                graph = view.graph(reaction, False)
                nodes = graph.nodes | {"kind": of_kind[graph.nodes["kind"]]}
                graphs[reaction] = graph._replace(nodes=nodes, globals=graph.globals | where)
        with tempfile.TemporaryDirectory() as scratch, jax.set_mesh(mesh):
            store = write_graphs(Path(scratch) / "candidates", [graphs[r] for r in reactions.tolist()])
            fitting = np.flatnonzero(store.fits(self.config.budget))
            if len(fitting) < len(reactions):
                say(f"{len(reactions) - len(fitting)} candidates are too large for budget, and count as unlikely")
            probability = np.zeros(len(reactions))
            if len(fitting):
                logit, _ = self.predict(params, mesh, store, fitting)
                held = held_by_relatives(others, likeness(others, draft.present))[reactions][fitting]
                likely = self.calibrations(params, mesh).known(logit, held)
                # By Bayes' rule: of true reactions the calibration saw all as missing, the draft lacks but a share.
                probability[fitting] = likely * lacking / (likely * lacking + 1 - likely)
        return probability

    def _kinds(self, universe: Universe) -> np.ndarray:
        """What nodes of a universe's compounds are to this run, ``[compound]``: of another universe by their names,
        where no other compound has the same."""
        own = self.universe.compounds
        if universe is self.universe:
            return FIRST_COMPOUND + np.arange(len(own))
        number = {compound.name: FIRST_COMPOUND + place for place, compound in enumerate(own)}
        count = [Counter(compound.name for compound in compounds) for compounds in (own, universe.compounds)]
        return np.asarray(
            [
                number[compound.name] if all(names[compound.name] == 1 for names in count) else UNKNOWN
                for compound in universe.compounds
            ]
        )

    @functools.cached_property
    def _predict(self):
        @jax.jit
        def predict(params, batch):
            graphs = self._disturbed(batch)

            def member(params):
                model = nnx.merge(self.graphdef, params)
                posterior, encoded = model.encode(graphs)
                return model.decoder.presence(posterior.mean, encoded, graphs.n_node), posterior.mean

            logits, means = of_members(member, params, self.config.members)
            # Each member has latents of its own.
            found = jnp.mean(logits, axis=0), means[0]
            return jax.sharding.reshard(found, (P(None, None), P(None, None, None)))

        return predict

    @functools.cached_property
    def _write(self):
        @jax.jit
        def write(params, batch):
            graphs, seen = batch["graphs"], self._disturbed(batch)
            nodes, n = graphs.nodes, graphs.nodes["kind"].shape[1]

            def member(params):
                model = nnx.merge(self.graphdef, params)
                posterior, encoded = model.encode(seen)
                belong = encoded.structure.members
                logits = model.decoder.coefficients(posterior.mean, nodes["kind"], nodes["features"], belong)
                return jax.nn.log_softmax(logits, axis=-1)

            log_likelihood = jnp.mean(of_members(member, params, self.config.members), axis=0)
            # Each graph's nodes, from its first on.
            begins = jnp.cumsum(graphs.n_node, axis=1) - graphs.n_node
            places = jax.nn.one_hot(begins[..., None] + jnp.arange(n), n)
            own = jnp.einsum("bgin,bnc->bgic", places, log_likelihood)
            return jax.sharding.reshard(own, P(None, None, None, None))

        return write


_UNIVERSE = Path("data/universe.json.zst")


def _imbalance(shares_bnc: jax.Array, features_bnf: jax.Array, members_bng: jax.Array) -> jax.Array:
    """How much of each graph's elements the reaction that is expected to be written makes or loses, ``[b, g]``."""
    expected = jnp.einsum("bnc,c->bn", shares_bnc, BALANCE)
    turned = jnp.einsum("bnc,c->bn", shares_bnc, np.abs(BALANCE))
    atoms = jnp.expm1(features_bnf[..., :ELEMENT_FEATURES].astype(jnp.float32))
    left = jnp.einsum("bng,bn,bne->bge", members_bng, expected, atoms)
    total = jnp.einsum("bng,bn,bne->bge", members_bng, turned, atoms)
    return jnp.sum(jnp.abs(left) / (1.0 + total), axis=-1)
