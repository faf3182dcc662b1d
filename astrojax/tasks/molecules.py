"""The molecule task: a graph VAE that encodes a molecule, and writes the one that a latent stands for."""

import functools
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from astrojax.chemistry.notation import END, Notation, kinds_of
from astrojax.chemistry.valence import AtomType, max_bond_orders
from astrojax.config import Config, NonNegativeFloat, Positive, PositiveFloat
from astrojax.console import say
from astrojax.data.graphs import Graph, write_graphs
from astrojax.data.molecules import Molecule, atom_types, read_molecules, to_smiles
from astrojax.errors import RequestError
from astrojax.evaluation import molecules as evaluation
from astrojax.files import write_atomically
from astrojax.models.graph_encoder import Channels
from astrojax.models.graph_vae import GraphVAE
from astrojax.models.molecule_decoder import MoleculeDecoder
from astrojax.parallel.sharding import BATCH, filling
from astrojax.tasks.graphs import SPLITS, GraphConfig, GraphTask
from astrojax.train.task import Batch, Params


class MoleculeData(Config):
    """Molecules to learn.

    Attributes:
        path: a CSV file with columns ``smiles`` and, if they are to be used, ``split`` and ``clean``; or lines that
            begin with a SMILES. Compressed or not. Without splits a hash of the molecule decides.
        max_atoms: larger molecules are left out and counted.
        max_bonds: likewise.
        num_types: room for so many types of atoms.
    """

    path: str = "data/molecules/qm9_split.csv.gz"
    max_atoms: Positive = 9
    max_bonds: Positive = 13
    num_types: Positive = 16


class MoleculeConfig(GraphConfig, kw_only=True, tag="molecules"):
    """A run of the molecule task.

    Attributes:
        data: the molecules.
        valence: weight of the loss on probability that the decoder gives to what chemistry forbids.
        num_samples: molecules that an evaluation generates.
        temperature: they are generated at.
    """

    data: MoleculeData = MoleculeData()
    valence: NonNegativeFloat = 1.0
    num_samples: Positive = 10_000
    temperature: PositiveFloat = 1.0

    @property
    def notation(self) -> Notation:
        return Notation(self.data.num_types, self.data.max_atoms, self.data.max_bonds)


class MoleculeTask(GraphTask):
    """See :class:`astrojax.train.task.Task`.

    Attributes:
        types: the types of atoms, once opened.
        smiles: canonical, of every molecule of each split, once opened.
    """

    resumable_changes = (*GraphTask.resumable_changes, "num_samples", "temperature")

    config: MoleculeConfig

    def __init__(self, config: MoleculeConfig):
        # Until molecules are known: sizes are all that planning needs.
        self._valences = np.ones(config.data.num_types, np.int32)
        super().__init__(config)

    def new_model(self, rngs: nnx.Rngs) -> GraphVAE:
        decoder = MoleculeDecoder(self.config.model, self.config.notation, rngs=rngs)
        return GraphVAE(
            self.config.model,
            Channels(self.config.budget.graph_nodes, self.config.data.num_types, 4),
            decoder,
            rngs=rngs,
        )

    def example(self) -> Graph:
        carbon = Molecule((AtomType("C"), AtomType("C")), np.asarray([[0, 1]], np.int32), np.asarray([1], np.int32))
        return self.graph(carbon, (AtomType("C"),))

    def graph(self, molecule: Molecule, types: tuple[AtomType, ...] | None = None) -> Graph:
        """What the encoder reads of a molecule, and the tokens that the decoder should write."""
        kinds = kinds_of(molecule.atoms, types or self.types)
        ends = molecule.bonds.astype(np.int32)
        return Graph(
            nodes={"kind": kinds},
            edges={"kind": np.tile(molecule.orders.astype(np.int32), 2)},
            senders=np.concatenate([ends[:, 0], ends[:, 1]]),
            receivers=np.concatenate([ends[:, 1], ends[:, 0]]),
            globals={"tokens": self.config.notation.write(kinds, molecule.bonds, molecule.orders)},
        )

    def prepare(self, workdir: Path) -> None:
        data, budget = self.config.data, self.config.budget
        say(f"reading {data.path}")
        parts: dict[str, dict[str, Molecule]] = {split: {} for split in SPLITS}
        left_out: Counter[str] = Counter()
        seen: set[str] = set()
        rows = list(read_molecules(data.path))
        has_splits = any(row.split for row, _ in rows)
        for row, found in rows:
            split = _SPLIT_NAMES.get(row.split.strip().lower())
            if has_splits and split is None:
                raise RequestError(
                    f"{data.path}, line {row.line}: split {row.split!r} should be one of {', '.join(_SPLIT_NAMES)}"
                )
            if isinstance(found, str):
                left_out[found] += 1
                continue
            smiles, molecule = found
            if len(molecule.atoms) > data.max_atoms or len(molecule.bonds) > data.max_bonds:
                left_out[
                    f"{len(molecule.atoms)} atoms and {len(molecule.bonds)} bonds, more than there is room for"
                ] += 1
            elif len(molecule.atoms) > budget.graph_nodes or 2 * len(molecule.bonds) > budget.edges:
                left_out[f"{len(molecule.atoms)} atoms and {len(molecule.bonds)} bonds, more than budget holds"] += 1
            elif smiles in seen:
                left_out["repeated"] += 1
            else:
                seen.add(smiles)
                parts[split or _split_of(smiles)][smiles] = molecule
        for reason, count in left_out.most_common():
            say(f"left out: {count:,} molecules: {reason}")
        types = atom_types(list(parts["train"].values()))
        if len(types) > data.num_types:
            raise RequestError(f"{data.path}: {len(types)} types of atoms, more than data.num_types={data.num_types}")
        content = _Prepared(types=types, valences=max_bond_orders(types).tolist())
        for split in SPLITS:
            strange = {smiles: sorted(set(m.atoms) - set(types)) for smiles, m in parts[split].items()}
            for unknown, count in Counter(", ".join(map(str, u)) for u in strange.values() if u).most_common():
                say(f"left out: {count:,} molecules of {split}: no {unknown} in training")
            parts[split] = {smiles: m for smiles, m in parts[split].items() if not strange[smiles]}
            say(f"{split}: {len(parts[split]):,} molecules")
        # Between two held-out molecules lie the interpolated ones.
        least = dict.fromkeys(SPLITS, 1) | {"heldout": 2}
        if few := [f"{len(parts[split])} in {split}" for split in SPLITS if len(parts[split]) < least[split]]:
            raise RequestError(f"{data.path}: too few molecules: {', '.join(few)}")
        for split, known in parts.items():
            write_graphs(workdir / "data" / split, (self.graph(molecule, types) for molecule in known.values()))
            write_atomically(workdir / "data" / f"{split}.smi", "".join(f"{s}\n" for s in known).encode())
        write_atomically(workdir / _PREPARED, msgspec.json.encode(content))

    def open(self, workdir: Path) -> None:
        super().open(workdir)
        content = msgspec.json.decode((workdir / _PREPARED).read_bytes(), type=_Prepared)
        self.types = content.types
        self._valences = np.pad(content.valences, (0, self.config.data.num_types - len(self.types))).astype(np.int32)
        self.smiles = {split: (workdir / "data" / f"{split}.smi").read_text().split() for split in SPLITS}

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key  # Rows bring random words of their own, so that every portion of a batch draws the same.
        model, graphs = self.model(params), batch["graphs"]
        posterior, _ = model.encode(graphs)
        b, g, _ = graphs.globals["tokens"].shape
        flat, logits, permitted = self._decoded(model, posterior.sample(batch["words"]), graphs)
        counts = jnp.cumsum(flat == END, axis=1) <= (flat == END)  # Every token, and the first end.
        log_total = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.sum(logits * jax.nn.one_hot(flat, logits.shape[-1]), axis=-1)
        log_permitted = jax.nn.logsumexp(jnp.where(permitted, logits, -jnp.inf), axis=-1)
        cost = (log_total - chosen) + self.config.valence * (log_total - log_permitted)
        reconstruction = jnp.reshape(jnp.sum(jnp.where(counts, cost, 0.0), axis=1), (b, g), out_sharding=P(BATCH))
        nelbo = reconstruction + batch["kl_weight"][:, None] * posterior.kl(self.config.kl.free_bits)
        present = graphs.globals["place"] >= 0
        return jnp.sum(jnp.where(present, nelbo, 0.0)), jnp.sum(present.astype(jnp.float32))

    def _decoded(self, model: GraphVAE, latent: jax.Array, graphs) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The tokens of all molecules of a batch, one after the other, ``[s, t]``; and at each place, after what is
        truly before it, the logits and what valences permit, ``[s, t, v]``."""
        tokens = graphs.globals["tokens"]
        s = tokens.shape[0] * tokens.shape[1]
        flat, latent = (jnp.reshape(x, (s, x.shape[-1]), out_sharding=P(BATCH)) for x in (tokens, latent))
        return flat, model.decoder(latent, flat), self.config.notation.permitted(flat, self._valences)

    def evaluate(self, params: Params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
        return evaluation.evaluate(self, params, mesh, workdir, step)

    def latents(self, params: Params, mesh: jax.sharding.Mesh, split: str, places: np.ndarray) -> np.ndarray:
        """The mean latents ``[molecule, d_latent]`` of some molecules of a split."""
        return self.collect(self._means, params, self.stores[split], places, mesh)

    def bonds(
        self, params: Params, mesh: jax.sharding.Mesh, split: str, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How sure the decoder is of the bonds of some molecules of a split, and where it is right.

        It knows the mean latent and, at each place, what is truly before it; a bond is wherever it finds one likeliest
        among what valences permit.

        Returns:
            Probabilities ``[bond]``, and ``[bond]`` bool, whether just that bond is there.
        """
        probability, token = self.collect(self._likeliest, params, self.stores[split], places, mesh)
        truth = np.asarray(self.stores[split].fields["globals"]["tokens"])[places]
        found = token > self.config.data.num_types
        return probability[found], (token == truth)[found]

    def generate(
        self,
        params: Params,
        mesh: jax.sharding.Mesh,
        count: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        masked: bool = True,
    ) -> list[str | None]:
        """Molecules that the model makes up, as :meth:`write` returns them.

        Args:
            params: the weights.
            mesh: where they live.
            count: how many.
            seed: of what is drawn.
            temperature: ``T`` of both draws, of a latent and of tokens: a probability ``p`` becomes ``p**(1/T)``,
                normalised. 1 draws from the model as it was trained.
            masked: write only what valences permit.
        """
        # A normal density to the power 1 / T is one of T times the variance.
        prior = np.random.default_rng(seed).normal(0, temperature**0.5, (count, self.config.model.d_latent))
        return self.write(params, mesh, prior, seed=seed, temperature=temperature, masked=masked)

    def write(
        self,
        params: Params,
        mesh: jax.sharding.Mesh,
        latents: np.ndarray,
        *,
        seed: int = 0,
        temperature: float = 0.0,
        masked: bool = True,
    ) -> list[str | None]:
        """The molecule that each latent stands for, as canonical SMILES; None where what was written is none.

        Args:
            params: the weights.
            mesh: where they live.
            latents: ``[molecule, d_latent]``.
            seed: of what is drawn.
            temperature: of the distributions that tokens are drawn from; 0 takes the likeliest.
            masked: write only what valences permit.
        """
        size = filling(_WRITTEN_AT_A_TIME, mesh)
        written: list[str | None] = []
        for number, start in enumerate(range(0, len(latents), size)):
            part = latents[start : start + size].astype(np.float32)
            filled = np.pad(part, ((0, size - len(part)), (0, 0)))
            key = jax.random.fold_in(jax.random.key(seed), number)
            placed = jax.device_put(filled, jax.NamedSharding(mesh, P(BATCH, None)))
            tokens = np.asarray(self._write(params, placed, key, temperature, masked))
            written += [self._read(row) for row in tokens[: len(part)]]
        return written

    def _read(self, tokens: np.ndarray) -> str | None:
        found = self.config.notation.read(tokens)
        if found is None or max(found[0]) >= len(self.types):
            return None
        kinds, bonds, orders = found
        return to_smiles(Molecule(tuple(self.types[kind] for kind in kinds), bonds, orders))

    @functools.cached_property
    def _means(self):
        @jax.jit
        def means(params, batch):
            return jax.sharding.reshard(self.model(params).encode(batch["graphs"])[0].mean, P(None, None, None))

        return means

    @functools.cached_property
    def _likeliest(self):
        @jax.jit
        def likeliest(params, batch):
            model, graphs = self.model(params), batch["graphs"]
            _, logits, permitted = self._decoded(model, model.encode(graphs)[0].mean, graphs)
            shares = jax.nn.softmax(jnp.where(permitted, logits, -jnp.inf), axis=-1)
            best = jnp.max(shares, axis=-1), jnp.argmax(shares, axis=-1)
            shape = graphs.globals["tokens"].shape
            return jax.sharding.reshard([jnp.reshape(x, shape, out_sharding=P(BATCH)) for x in best], P(None))

        return likeliest

    @functools.cached_property
    def _write(self):
        @functools.partial(jax.jit, static_argnums=(3, 4))
        def write(params, latents, key, temperature, masked):
            tokens = self.model(params).decoder.write(latents, key, self._valences, temperature, masked)
            return jax.sharding.reshard(tokens, P(None, None))

        return write


_PREPARED = Path("data/molecules.json")
_SPLIT_NAMES: dict[str, Literal["train", "validation", "heldout"]] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "heldout",
    "heldout": "heldout",
}
_WRITTEN_AT_A_TIME = 512


class _Prepared(msgspec.Struct):
    """What a run knows of atoms: their types, the most frequent first, and the largest sum of bond orders of each."""

    types: tuple[AtomType, ...]
    valences: list[int]


def _split_of(smiles: str) -> str:
    """By a hash of the molecule alone: 8 of 10 are learnt from, one each is for validation and held out."""
    tenth = int(hashlib.sha256(smiles.encode()).hexdigest()[:8], 16) % 10
    return "heldout" if tenth == 0 else "validation" if tenth == 1 else "train"
