"""The climate task: its loss, its three objectives, its laws, and a run from NetCDF files to a page of maps."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from astrojax import config as configs
from astrojax.data import cubes
from astrojax.errors import RequestError
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.sharding import put_batch
from astrojax.physics.constraints import energy_imbalance
from astrojax.tasks import make_task
from astrojax.train import loop
from astrojax.train.layers import num_layers, read
from astrojax.train.metrics import read_metrics
from astrojax.train.optimizers import FusedAdafactor
from astrojax.train.program import make_program
from tests.conftest import ROOT, environment
from tests.data.cubes.runs import write_run
from tests.tasks.climates import get_config, write_ensemble

ONE, MANY = (1, 1, 1), (2, 2, 2)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return write_ensemble(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="module")
def store(ensemble, tmp_path_factory):
    """The ensemble's store, for tests that need no conversion."""
    path = tmp_path_factory.mktemp("store") / "cubes.zarr"
    cubes.convert([str(ensemble)], path, workers=1)
    return str(path)


def changed(config, **fields):
    """``config`` with fields of its sections changed, as ``train__steps=3``."""
    for field, value in fields.items():
        *sections, leaf = field.split("__")
        for section in reversed(sections):
            value, leaf = msgspec.structs.replace(getattr(config, section), **{leaf: value}), section
        config = msgspec.structs.replace(config, **{leaf: value})
    return config


@pytest.fixture
def opened(store, tmp_path):
    """Makes an opened task of a changed configuration."""

    def make(**fields):
        task = make_task(changed(get_config(store), **fields))
        task.open(tmp_path)
        return task

    return make


def mesh_of(shape):
    devices = jax.devices()[: int(np.prod(shape))]
    return make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]), devices)


def train(task, shape, steps=3):
    """Losses and final parameters on a mesh."""
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        program = make_program(task)
        step, state = jax.jit(program.step, donate_argnums=0), jax.jit(program.init)()
        losses = []
        for _, batch in zip(range(steps), task.training_data(), strict=False):
            state, metrics = step(state, put_batch(batch, mesh))
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state.params)


def test_the_loss_falls(opened):
    losses, _ = train(opened(train__steps=30), ONE, steps=30)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_mesh_and_accumulation_change_only_rounding(opened):
    losses, params = train(opened(), ONE)
    for fields, shape in (({}, MANY), ({"train__microbatch_size": 1}, ONE)):
        others, other_params = train(opened(**fields), shape)
        np.testing.assert_allclose(others, losses, rtol=2e-4)
        for a, b in zip(jax.tree.leaves(other_params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("objective", ["emulate", "complete"])
def test_the_layer_stack_is_the_loss(opened, objective):
    task, mesh = opened(objective=objective), mesh_of(ONE)
    with jax.set_mesh(mesh):
        params = jax.jit(task.init)(jax.random.key(0))
        batch, key = put_batch(next(iter(task.training_data())), mesh), jax.random.key(1)

        def stacked(params):
            x = task.stack.embed({n: params[n] for n in task.stack.embed_params}, batch, key)
            for i in range(num_layers(params["blocks"])):
                x = task.stack.layer(read(params["blocks"], i), x, batch)
            return task.stack.head({n: params[n] for n in task.stack.head_params}, x, batch)[0]

        plain = jax.jit(jax.value_and_grad(lambda p: task.loss(p, batch, key)[0]))(params)
        layered = jax.jit(jax.value_and_grad(stacked))(params)
    for a, b in zip(jax.tree.leaves(layered), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()))


def test_the_fused_step_trains_it_on_a_mesh(opened):
    fused = FusedAdafactor(peak_lr=3e-2, warmup_steps=2, min_dim_size_to_factor=8)
    losses, _ = train(opened(optimizer=fused, train__steps=12, train__microbatch_size=2), MANY, steps=12)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_what_is_shown_is_not_scored_and_what_is_hidden_is_not_read(opened):
    for objective in ("forecast", "complete"):
        task, mesh = opened(objective=objective), mesh_of(ONE)
        with jax.set_mesh(mesh):
            params = jax.jit(task.init)(jax.random.key(0))
            batch = put_batch(next(iter(task.training_data())), mesh)
            loss = jax.jit(lambda p, b, task=task: task.loss(p, b, jax.random.key(0)))
            total, weight = loss(params, batch)
            if objective == "forecast":  # Two of four months.
                assert float(weight) == pytest.approx(4 * 0.5, rel=1e-5)
                predicted = task.predict(params, mesh, task.store, task.store.split["heldout"])
                shown = np.isnan(predicted["ta"])
                assert shown[:, :2].all()
                assert not shown[:, 2:].any()
                later = {name: batch[name].at[:, :, 2:].add(jnp.nan) for name in ("levels", "surface")}
                earlier = {name: batch[name].at[:, :, :2].multiply(1.01) for name in ("levels", "surface")}
                assert np.isfinite(loss(params, batch | later)[0])
                assert float(loss(params, batch | earlier)[0]) != float(total)
            else:
                assert 0.2 * 4 < float(weight) < 4


def test_missing_epochs_and_values_do_not_count(ensemble, tmp_path):
    for file in ensemble.glob("*.nc"):
        if file.name != "planet03_epoch1.nc":
            (tmp_path / file.name).symlink_to(file)
    path = tmp_path / "cubes.zarr"
    cubes.convert([str(tmp_path)], path, workers=1)
    task = make_task(get_config(str(path)))
    task.open(tmp_path)
    losses, params = train(task, ONE, steps=4)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_the_same_words_disturb_alike_whatever_the_batch(opened):
    task, mesh = opened(augmentation__noise=1.0), mesh_of(ONE)
    with jax.set_mesh(mesh):
        params = jax.jit(task.init)(jax.random.key(0))
        loss = jax.jit(task.loss)
        batch = next(iter(task.training_data()))
        halves = [{name: x[rows] for name, x in batch.items()} for rows in (slice(0, 2), slice(2, 4))]
        total, weight = loss(params, put_batch(batch, mesh), jax.random.key(0))
        parts = [loss(params, put_batch(half, mesh), jax.random.key(1)) for half in halves]
        other = batch | {"words": batch["words"] + np.uint32(1)}
        again, _ = loss(params, put_batch(other, mesh), jax.random.key(0))
    # Laws are averaged over the batch they are seen in.
    assert float(total) == pytest.approx(sum(float(t) for t, _ in parts), rel=0.05)
    assert float(weight) == pytest.approx(sum(float(w) for _, w in parts), rel=1e-5)
    assert abs(float(again) - float(total)) > 1e-4 * float(total)


def test_fields_obey_physics(opened):
    task, mesh = opened(constraints__energy="projection"), mesh_of(ONE)
    planets = task.store.planets
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda p: p + 0.3, jax.jit(task.init)(jax.random.key(0)))
        fields = task.predict(params, mesh, task.store, planets)
    light = task.boundary.insolation
    assert (fields["hus"] >= 0).all()
    assert (fields["rst"] >= 0).all()
    assert (fields["rst"] <= light * (1 + 1e-5)).all()
    assert set(fields) == set(task.config.data.variables)
    imbalance = energy_imbalance(fields["rst"], fields["rlut"], task.store.grid)
    assert np.abs(imbalance).max() < 0.1
    dry = np.asarray(
        [
            (fields["ps"][..., 0, :, :] * (1 - np.einsum("ptgzyx,z->ptgyx", fields["hus"], _thickness(task)))).mean(-1)
            @ task.store.grid.lat_weights
        ]
    )
    np.testing.assert_allclose(dry, np.broadcast_to(dry.mean(2, keepdims=True), dry.shape), rtol=1e-4)


def _thickness(task):
    return np.diff(task.store.lev_edges)


def test_a_resumed_run_is_one_that_never_stopped(store, tmp_path):
    config = get_config(store)
    whole = loop.train(make_task(config), tmp_path / "whole", profile=False)
    loop.train(make_task(changed(config, train__steps=3)), tmp_path / "parts", profile=False)
    # The schedule bends with the number of steps: the first part is compared by its data.
    parts = loop.train(make_task(config), tmp_path / "parts", profile=False)
    assert parts.step == whole.step == 6
    losses = [[record["loss"] for record in read_metrics(tmp_path / name)] for name in ("whole", "parts")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.2)
    assert losses[0][0] == losses[1][0]


@pytest.fixture(scope="module")
def finished(ensemble, tmp_path_factory):
    """A run from the command line: conversion, training, evaluation."""
    workdir = tmp_path_factory.mktemp("runs") / "climate"
    done = launch(workdir, f"--config.data.path={ensemble}")
    assert done.returncode == 0, done.stderr
    return workdir


def launch(workdir, *arguments):
    return subprocess.run(
        [sys.executable, "launch.py", "--config", "tests/tasks/climates.py", "--workdir", str(workdir), *arguments],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_run_from_netcdf_to_maps(finished):
    metrics = json.loads((finished / "eval/metrics.json").read_text())
    assert metrics["baselines"].keys() == {"mean", "nearest_neighbours", "pca_ridge", "pca_gp", "boosting"}
    for scores in (metrics, *metrics["baselines"].values()):
        for name in ("rmse", "bias", "acc", "r2"):
            assert scores[name].keys() == {"ta", "hus", "ua", "va", "ts", "ps", "rst", "rlut"}
    assert np.isfinite([metrics["energy_residual_W_m2"], metrics["mass_residual"]]).all()
    assert len(metrics["planets"]) == 1
    assert not set(metrics["planets"]) & set(metrics["train_planets"])
    page = (finished / "eval/index.html").read_text()
    pictures = re.findall(r'src="([^"]+\.png)"', page)
    assert len(pictures) > 8
    assert all((finished / "eval" / picture).stat().st_size > 5000 for picture in pictures)
    assert (finished / "data/cubes.zarr/quality.txt").exists()


def test_evaluation_on_other_runs(finished, tmp_path):
    for epoch in range(2):
        write_run(tmp_path / f"planet09_epoch{epoch}.nc", 9, epoch)
    done = launch(finished, "--mode", "eval", f"--config.data.eval_glob={tmp_path}/*.nc")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((finished / "eval/metrics.json").read_text())
    assert metrics["planets"] == ["world9"]
    assert metrics["runs"] == f"{tmp_path}/*.nc"
    none = launch(finished, "--mode", "eval", f"--config.data.eval_glob={tmp_path}/*.nothing")
    assert none.returncode == 2
    assert none.stderr.strip() == f"error: {tmp_path}/*.nothing: no NetCDF file there"


def test_requests_that_do_not_fit_are_refused(store, tmp_path):
    for fields, message in (
        ({"data__shape__lev": 6}, r"cubes of \(4, 2, 3, 8, 16\), but data.shape says \(4, 2, 6, 8, 16\)"),
        ({"data__surface_variables": ("ts", "sic")}, "no variable sic among its surface"),
        ({"data__parameters": ("gravity", "colour")}, "no parameter colour"),
        ({"model__patch__lat": 3}, "model.patch.lat=3 does not divide the cube's lat=8"),
    ):
        with pytest.raises(RequestError, match=message):
            make_task(changed(get_config(store), **fields)).open(tmp_path)
    with pytest.raises(RequestError, match="observed_months=4 leaves nothing of 4 to forecast"):
        configs.override(get_config(store), {"observed_months": "4"})
