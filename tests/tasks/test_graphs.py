"""The graph VAE's two tasks, as a user runs them: from files to a checkpoint, an evaluation, a script of one's own."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.data.networks.matching import Draft
from astrojax.data.networks.relatives import held_by_relatives, likeness
from astrojax.errors import RequestError
from astrojax.runs import load_run
from astrojax.tasks import make_task
from astrojax.train import loop
from astrojax.train.metrics import read_metrics
from tests.conftest import ROOT, environment
from tests.graphs import SMALL, molecule_config, reaction_config, write_molecules


def losses(workdir):
    return np.asarray([record["loss"] for record in read_metrics(workdir)])


def launch(spec: str, workdir, *flags: str, **fields: str):
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "launch.py", "--config", spec, "--workdir", str(workdir), *flags, *overrides]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """A finished run of the molecule task, and what it printed."""
    folder = tmp_path_factory.mktemp("molecules")
    path = write_molecules(folder / "few.csv")
    # What is no molecule, what is too large and what is repeated is said, and the rest is learnt.
    with path.open("a") as file:
        file.write("C1CC,train\nCCCCCCCCCCCCCC,train\n[CH3],train\nCC.CC,train\n")
    fields = SMALL | {"data.path": str(path), "num_samples": "24"}
    return folder / "run", launch("configs/graph_vae.py:molecules", folder / "run", **fields)


@pytest.mark.slow
def test_molecules_from_a_file_to_an_evaluation(molecules):
    workdir, finished = molecules
    assert finished.returncode == 0, finished.stderr
    for line in ("not a molecule that RDKit can read", "14 atoms and 13 bonds", "radicals", "several fragments"):
        assert f"left out: 1 molecules: {line}" in finished.stdout
    result = json.loads((workdir / "eval/metrics.json").read_text())
    assert result["validity_masked"] == 1.0
    rates = ("validity_unmasked", "uniqueness", "novelty", "reconstruction_exact")
    for key in (*rates, "bonds_right", "expected_calibration_error"):
        assert 0 <= result[key] <= 1
    assert 0 < result["active_dimensions"] <= 8
    assert result["published"]["GraphVAE"]["valid"] == 55.7
    for plot in ("latent_map", "generated", "interpolation", "properties", "reliability"):
        assert (workdir / "eval" / f"{plot}.png").stat().st_size > 5000


def test_a_molecule_run_opens_in_a_script(molecules):
    run = load_run(molecules[0], devices=jax.devices()[:1])
    with jax.set_mesh(run.mesh):
        latents = run.task.latents(run.params, run.mesh, "heldout", np.arange(5))
        again = run.task.latents(run.params, run.mesh, "heldout", np.asarray([3]))
        written = run.task.write(run.params, run.mesh, latents)
        drawn = [run.task.write(run.params, run.mesh, latents, seed=seed, temperature=1.0) for seed in (0, 0, 1)]
    np.testing.assert_allclose(latents[3], again[0], atol=1e-5)
    assert None not in written
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_low_temperature_leaves_the_molecule_in_the_middle_of_the_prior(molecules):
    run = load_run(molecules[0], devices=jax.devices()[:1])
    with jax.set_mesh(run.mesh):
        middle = run.task.write(run.params, run.mesh, np.zeros((1, run.task.config.model.d_latent)))
        cold = run.task.generate(run.params, run.mesh, 8, temperature=1e-8)
        warm = run.task.generate(run.params, run.mesh, 8)
    assert cold == 8 * middle
    assert len(set(warm)) > 1


def test_bonds_come_with_the_decoders_probabilities(molecules):
    run = load_run(molecules[0], devices=jax.devices()[:1])
    task, place = run.task, np.asarray([3])
    with jax.set_mesh(run.mesh):
        probability, right = task.bonds(run.params, run.mesh, "heldout", place)
        latent = task.latents(run.params, run.mesh, "heldout", place)
        tokens = task.stores["heldout"][3].globals["tokens"][None]
        logits = np.array(run.model.decoder(jnp.asarray(latent), jnp.asarray(tokens)))[0]
        permitted = np.asarray(task.config.notation.permitted(jnp.asarray(tokens), task._valences))[0]
    shares = np.where(permitted, np.exp(logits), 0.0)
    shares /= shares.sum(axis=1, keepdims=True)
    likeliest = shares.argmax(axis=1)
    bonds = likeliest > task.config.data.num_types
    assert bonds.sum() > 0
    np.testing.assert_allclose(probability, shares.max(axis=1)[bonds], rtol=1e-4)
    np.testing.assert_array_equal(right, (likeliest == tokens[0])[bonds])


@pytest.fixture(scope="module")
def reactions(tmp_path_factory):
    """A run of the reaction task on one device."""
    workdir = tmp_path_factory.mktemp("reactions") / "run"
    outcome = loop.train(make_task(reaction_config()), workdir, devices=jax.devices()[:1])
    assert outcome.step == 6
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(1, 2, 2), (4, 1, 1)])
def test_the_mesh_changes_only_rounding(tmp_path, reactions, data, fsdp, tensor):
    shutil.copytree(reactions / "data", tmp_path / "run/data")
    shutil.copy(reactions / "config.json", tmp_path / "run/config.json")
    config = reaction_config(**{"mesh.data": str(data), "mesh.fsdp": str(fsdp), "mesh.tensor": str(tensor)})
    loop.train(make_task(config), tmp_path / "run", devices=jax.devices()[: data * fsdp * tensor])
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(reactions), rtol=2e-4)


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, reactions):
    shutil.copytree(reactions, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/6")
    kept = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    loop.train(make_task(reaction_config()), tmp_path / "run", devices=jax.devices()[:1])
    after = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    expected, found = ([json.loads(line)["loss"] for line in lines][-3:] for lines in (kept, after))
    assert found == expected


def test_candidates_are_judged_beside_baselines(reactions):
    run = load_run(reactions, devices=jax.devices()[:1])
    with jax.set_mesh(run.mesh):
        run.task.evaluate(run.params, run.mesh, reactions, run.step)
    result = json.loads((reactions / "eval/metrics.json").read_text())
    assert result["candidates"] == len(run.task.stores["heldout"])
    assert set(result["baselines"]) >= {"frequency", "common_neighbours", "formula_regression"}
    for scores in (result, *result["baselines"].values()):
        assert {"auroc", "auprc", "recovery_at_20"} <= scores.keys()
    known = result["known"]
    for scores in (known["known"], known["unknown"], known["relatives_alone"]):
        assert {"auroc", "auprc", "recovery_at_20"} <= scores.keys()
    assert 0 <= result["expected_calibration_error"] <= 1
    assert result["recovery_at_20_by_chance"] < 1
    assert 0 <= result["active_dimensions"] <= 8
    for plot in ("precision_recall", "reliability", "latent_map", "pathway"):
        assert (reactions / "eval" / f"{plot}.png").stat().st_size > 5000


def test_an_ensemble_answers_with_the_mean_of_its_members(reactions):
    run, pair = load_run(reactions, devices=jax.devices()[:1]), make_task(reaction_config(members="2"))
    one, store = run.task, run.task.stores["heldout"]
    pair.open(reactions)
    other = jax.tree.map(lambda p: 1.2 * p, run.params)
    places = np.arange(40)
    with jax.set_mesh(run.mesh):
        assert {x.shape[0] for x in jax.tree.leaves(jax.eval_shape(pair.init, jax.random.key(0)))} == {2}
        both, twice = (
            jax.tree.map(lambda a, b: jnp.stack([a, b]), run.params, second) for second in (other, run.params)
        )
        logit, latent = pair.predict(both, run.mesh, store, places)
        alone, others = (one.predict(params, run.mesh, store, places) for params in (run.params, other))
        written, again = pair.rewrite(twice, run.mesh, store, places), one.rewrite(run.params, run.mesh, store, places)
    np.testing.assert_allclose(logit, (alone[0] + others[0]) / 2, rtol=1e-4, atol=1e-6)
    assert np.abs(alone[0] - others[0]).max() > 1e-3
    np.testing.assert_allclose(latent, alone[1], rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, written, again)


def test_held_out_reactions_are_in_no_draft(reactions):
    run = load_run(reactions, devices=jax.devices()[:1])
    seen = {split: set(np.asarray(s.fields["globals"]["reaction"])) for split, s in run.task.stores.items()}
    assert not seen["train"] & seen["heldout"]
    assert not run.task.drafts[:, sorted(seen["heldout"])].any()


def test_a_new_draft_is_seen_as_those_that_were_learnt_from(reactions):
    run = load_run(reactions, devices=jax.devices()[:1])
    task, store = run.task, run.task.stores["heldout"]
    places = np.flatnonzero(store.fields["globals"]["network"] == 0)
    asked = np.asarray(store.fields["globals"]["reaction"])[places]
    others, everyone = (dataclasses.replace(task.universe, present=task.drafts[first:]) for first in (1, 0))
    draft = Draft(network=None, matched=(), present=task.drafts[0])
    with jax.set_mesh(run.mesh):
        logit, _ = task.predict(run.params, run.mesh, store, places)
        known = task.calibrations(run.params, run.mesh).known
        found = task.score_candidates(run.params, run.mesh, others, draft, asked, 1.0)
        # The draft itself does not count among those that are like it.
        beside_itself = task.score_candidates(run.params, run.mesh, everyone, draft, asked, 1.0)
        complete = task.score_candidates(run.params, run.mesh, others, draft, asked, 0.2)
        nothing = task.rewrite(run.params, run.mesh, store, places[:0])
        # If all others have the first of them, the network sees what it saw, and the probability is another.
        held = task.drafts[1:] | (np.arange(task.drafts.shape[1]) == asked[0])
        others = dataclasses.replace(others, present=held)
        (first,) = task.score_candidates(run.params, run.mesh, others, draft, asked[:1], 1.0)
    np.testing.assert_allclose(found, known(logit, 0.0), rtol=1e-4)
    np.testing.assert_array_equal(beside_itself, found)
    np.testing.assert_allclose(complete / (1 - complete), 0.2 * found / (1 - found), rtol=1e-4)
    (share,) = held_by_relatives(held, likeness(held, draft.present))[asked[:1]]
    assert share > 0
    np.testing.assert_allclose(first, known(logit[0], share), rtol=1e-4)
    assert known(0.0, 1.0) != known(0.0, 0.0)
    assert len(nothing["balanced"]) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.path": "nothing/here"}, "nothing/here: no SBML file there"),
        ({"data.max_compounds": "10"}, "more than data.max_compounds=10"),
        ({"data.path": "data/metabolic/MODEL1507180052.xml.gz"}, "one network"),
        ({"budget.graph_nodes": "1"}, "all graphs of train are too large for budget"),
    ],
)
def test_bad_networks_are_refused(tmp_path, fields, message):
    with pytest.raises(RequestError, match=message):
        loop.train(make_task(reaction_config(**fields)), tmp_path / "run", devices=jax.devices()[:1])


@pytest.mark.slow
def test_bad_molecules_are_refused(tmp_path):
    (tmp_path / "none.smi").write_text("C1CC\nnothing\n")
    with pytest.raises(RequestError, match="too few molecules: 0 in train, 0 in validation, 0 in heldout"):
        loop.train(make_task(molecule_config(tmp_path / "none.smi")), tmp_path / "run", devices=jax.devices()[:1])
    names = {"Train ": ["C", "CC", "CCC"], "val": ["CCCC"], "test": ["CCCCC"]}
    for split, message in (
        ("eval", "line 7: split 'eval' should be one of train"),
        ("", "line 7: split '' should be one of train"),
        (" VALID", "too few molecules: 1 in heldout"),
    ):
        lines = [f"{smiles},{name}" for name, found in (names | {split: ["CCCCCC"]}).items() for smiles in found]
        (tmp_path / "named.csv").write_text("\n".join(["smiles,split", *lines]))
        with pytest.raises(RequestError, match=message):
            loop.train(make_task(molecule_config(tmp_path / "named.csv")), tmp_path / "run", devices=jax.devices()[:1])
    assert not list((tmp_path / "run").rglob("*.smi"))
    finished = launch("configs/graph_vae.py:molecules", tmp_path / "run", **{"data.path": "no/such.smi"})
    assert (finished.returncode, finished.stderr) == (2, "error: no/such.smi: no such file\n")


@pytest.mark.slow
def test_what_no_row_holds_is_said(tmp_path, capsys):
    config = reaction_config(**{"budget.graph_nodes": "24"})
    loop.train(make_task(config), tmp_path / "run", devices=jax.devices()[:1])
    assert "too large for budget" in capsys.readouterr().out
