"""The losses of the graph VAE's two tasks, term by term, from what the model says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.chemistry.notation import END
from astrojax.data.networks.neighbourhood import BALANCE, ELEMENT_FEATURES, UNKNOWN
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.sharding import put_batch
from astrojax.tasks import make_task
from astrojax.tasks.reactions import _imbalance
from tests.graphs import molecule_config, reaction_config, write_molecules

KL_WEIGHT = 0.7

pytestmark = pytest.mark.slow


def opened(config, workdir):
    task = make_task(config)
    task.prepare(workdir)
    task.open(workdir)
    return task


def judged(task, says):
    """Loss and weight of the first batch, the batch, and what ``says(params, batch)`` returns, in float64."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        params = jax.jit(task.init)(jax.random.key(0))
        batch = put_batch(next(iter(task.training_data())), mesh)
        batch |= {"kl_weight": jnp.full_like(batch["kl_weight"], KL_WEIGHT)}
        loss, weight = jax.jit(task.loss)(params, batch, jax.random.key(0))
        said = [np.asarray(x, np.float64) for x in jax.jit(says)(params, batch)]
    return float(loss), float(weight), jax.device_get(batch["graphs"]), said


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl_of(mean, log_variance, free_bits):
    """Of each graph, in nats: at least so many bits in each dimension."""
    each = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    return np.maximum(each, free_bits * np.log(2)).sum(-1)


def test_molecules_cost_their_tokens_what_valence_forbids_and_their_latents(tmp_path):
    fields = {"valence": "0.3", "kl.free_bits": "0.05"}
    task = opened(molecule_config(write_molecules(tmp_path / "few.csv"), **fields), tmp_path)

    def says(params, batch):
        model, tokens = task.model(params), batch["graphs"].globals["tokens"]
        posterior, _ = model.encode(batch["graphs"])
        latent = posterior.sample(batch["words"]).reshape(-1, posterior.mean.shape[-1])
        flat = tokens.reshape(-1, tokens.shape[-1])
        permitted = task.config.notation.permitted(flat, task._valences)
        return posterior.mean, posterior.logvar, model.decoder(latent, flat), permitted

    loss, weight, graphs, (mean, log_variance, logits, permitted) = judged(task, says)
    tokens = graphs.globals["tokens"].reshape(len(logits), -1)
    kl = kl_of(mean, log_variance, 0.05).ravel()
    total, molecules = 0.0, np.flatnonzero(graphs.globals["place"].ravel() >= 0)
    for molecule in molecules:
        for place, token in enumerate(tokens[molecule]):
            log_likelihood = log_softmax(logits[molecule, place])
            allowed = np.exp(log_likelihood[permitted[molecule, place] > 0]).sum()
            total -= log_likelihood[token] + 0.3 * np.log(allowed)
            if token == END:
                break
        total += KL_WEIGHT * kl[molecule]
    assert loss == pytest.approx(total, rel=1e-5)
    assert weight == len(molecules)


def test_reactions_cost_their_presence_and_what_they_turn_into_what(tmp_path):
    fields = {"reconstruction": "0.5", "balance": "0.3", "disturbed": "0.0", "kl.free_bits": "0.05"}
    task = opened(reaction_config(**fields), tmp_path)

    def says(params, batch):
        model, seen, nodes = task.model(params), task._disturbed(batch), batch["graphs"].nodes
        posterior, encoded = model.encode(seen)
        latent = posterior.sample(batch["words"])
        members = encoded.structure.members
        written = model.decoder.coefficients(latent, nodes["kind"], nodes["features"], members)
        presence = model.decoder.presence(latent, encoded, seen.n_node)
        return posterior.mean, posterior.logvar, presence, written

    loss, weight, graphs, (mean, log_variance, presence, written) = judged(task, says)
    kl, log_likelihood = kl_of(mean, log_variance, 0.05), log_softmax(written)
    total = count = 0
    for row in range(len(presence)):
        ends = np.cumsum(graphs.n_node[row])
        for g in np.flatnonzero(graphs.globals["place"][row] >= 0):
            nodes = np.arange(ends[g] - graphs.n_node[row][g], ends[g])
            nodes = nodes[graphs.nodes["kind"][row, nodes] >= UNKNOWN]  # Compounds.
            label, z = graphs.globals["label"][row, g], presence[row, g]
            total += np.log1p(np.exp(-z)) if label else np.log1p(np.exp(z))
            chosen = log_likelihood[row, nodes, graphs.nodes["role"][row, nodes]]
            shares = np.exp(log_likelihood[row, nodes])
            atoms = np.expm1(graphs.nodes["features"][row, nodes, :ELEMENT_FEATURES].astype(np.float64))
            left, turned = shares @ BALANCE @ atoms, shares @ np.abs(BALANCE) @ atoms
            off = np.sum(np.abs(left) / (1 + turned))
            total += 0.5 * (-chosen.sum() + KL_WEIGHT * kl[row, g] + 0.3 * off)
            count += 1
    assert loss == pytest.approx(total, rel=1e-4)
    assert weight == count > 8


def test_what_is_true_is_not_out_of_balance(tmp_path):
    """Transports as well: what is moved is neither made nor used."""
    task = opened(reaction_config(), tmp_path)
    moving = [len({t.compartment for t in reaction.terms}) > 1 for reaction in task.universe.reactions]
    off: dict[bool, list[float]] = {False: [], True: []}
    for place in range(0, len(task.stores["train"]), 10):
        graph = task.stores["train"][place]
        reaction = int(graph.globals["reaction"])
        if task.universe.imbalance(task.universe.reactions[reaction]) != {}:
            continue
        truth = jax.nn.one_hot(graph.nodes["role"], len(BALANCE)) * (graph.nodes["kind"] >= UNKNOWN)[:, None]
        members = jnp.ones((1, len(truth), 1))
        off[moving[reaction]].append(
            float(_imbalance(truth[None], jnp.asarray(graph.nodes["features"])[None], members)[0, 0])
        )
    for found in off.values():
        assert len(found) > 10
        # But for protons, and coefficients that have no class of their own.
        assert np.median(found) < 0.01
        assert np.mean(found) < 0.1
