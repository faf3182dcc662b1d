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
from astrojax.tasks import climate_samples as samples
from astrojax.tasks import make_task
from astrojax.train import loop
from astrojax.train.layers import num_layers, read
from astrojax.train.metrics import read_metrics
from astrojax.train.optimizers import FusedAdafactor
from astrojax.train.program import make_program
from tests.conftest import ROOT, environment
from tests.data.cubes import runs
from tests.data.cubes.runs import write_run
from tests.tasks.climates import get_config, write_ensemble

pytestmark = pytest.mark.slow  # Each test compiles steps of the whole model.

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

    def replaced(section, path, value):
        field, *rest = path
        return msgspec.structs.replace(
            section, **{field: replaced(getattr(section, field), rest, value) if rest else value}
        )

    for field, value in fields.items():
        config = replaced(config, field.split("__"), value)
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
    """The losses of the first steps on a mesh."""
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        program = make_program(task)
        step, state = jax.jit(program.step, donate_argnums=0), jax.jit(program.init)()
        losses = []
        for _, batch in zip(range(steps), task.training_data(), strict=False):
            state, metrics = step(state, put_batch(batch, mesh))
            losses.append(float(metrics["loss"]))
    return losses


def test_the_loss_falls_and_mesh_and_accumulation_change_only_rounding(opened):
    losses = train(opened(train__steps=20), ONE, steps=20)
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    for fields, shape in (({}, MANY), ({"train__microbatch_size": 1}, ONE)):
        others = train(opened(train__steps=20, **fields), shape)
        np.testing.assert_allclose(others, losses[: len(others)], rtol=2e-4)


def test_mesh_and_accumulation_change_an_ensemble_by_rounding_only(opened):
    plain = train(opened(members=2), ONE)
    np.testing.assert_allclose(train(opened(members=2, train__microbatch_size=2), MANY), plain, rtol=2e-4)


def test_the_layer_stack_is_the_loss(opened):
    task, mesh = opened(objective="complete", augmentation__months=2), mesh_of(ONE)
    with jax.set_mesh(mesh):
        params = jax.jit(task.init)(jax.random.key(0))
        batch, key = put_batch(next(iter(task.training_data())), mesh), jax.random.key(1)

        def stacked(params):
            x = task.stack.embed(params, batch, key)
            for i in range(num_layers(params["blocks"])):
                x = task.stack.layer(read(params["blocks"], i), x, batch)
            return task.stack.head(params, x, batch)[0]

        plain = jax.jit(jax.value_and_grad(lambda p: task.loss(p, batch, key)[0]))(params)
        layered = jax.jit(jax.value_and_grad(stacked))(params)
    for a, b in zip(jax.tree.leaves(layered), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()))


def test_the_fused_step_trains_it_on_a_mesh(opened):
    fused = FusedAdafactor(peak_lr=3e-2, warmup_steps=2, min_dim_size_to_factor=8)
    losses = train(opened(optimizer=fused, train__steps=12, train__microbatch_size=2), MANY, steps=12)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize("objective", ["forecast", "complete"])
def test_what_is_shown_is_not_scored_and_what_is_hidden_is_not_read(opened, objective):
    task, mesh = opened(objective=objective, augmentation__roll=0.0, augmentation__mirror=0.0), mesh_of(ONE)
    with jax.set_mesh(mesh):
        params = jax.jit(task.init)(jax.random.key(0))
        batch = put_batch(next(iter(task.training_data())), mesh)
        shown = task._visible(batch)
        other = dict(batch)
        for group, names in (
            ("levels", task.config.data.level_variables),
            ("surface", task.config.data.surface_variables),
        ):
            mask = jnp.stack([jnp.broadcast_to(shown[n], batch[group][:, 0].shape) for n in names], axis=1)
            other[group] = jnp.where(mask, batch[group], 1.1 * batch[group])
            batch[f"changed_{group}"] = jnp.where(mask, 1.1 * batch[group], batch[group])
        observed = jax.jit(task._observed)
        np.testing.assert_array_equal(observed(other), observed(batch))
        loss = jax.jit(lambda p, b: task.loss(p, b, jax.random.key(0)))
        total, weight = loss(params, batch)
        read_differently = batch | {group: batch[f"changed_{group}"] for group in ("levels", "surface")}
        assert float(loss(params, read_differently)[0]) != float(total)
        assert float(loss(params, other)[0]) != float(total)
        if objective == "forecast":  # Two of four months.
            assert float(weight) == pytest.approx(4 * 0.5, rel=1e-5)
        else:
            assert 0.2 * 4 < float(weight) < 4
        assert np.isfinite(task.validate(params, mesh)["validation_loss"])
        predicted = task.predict(params, mesh, task.store, task.store.split["heldout"])
    missing = np.isnan(predicted["ta"])
    assert missing[:, :2].all() == (objective == "forecast")
    assert not missing[:, 2:].any()


def test_missing_epochs_and_values_do_not_count(ensemble, tmp_path):
    for file in ensemble.glob("*.nc"):
        if file.name != "planet03_epoch1.nc":
            (tmp_path / file.name).symlink_to(file)
    path = tmp_path / "cubes.zarr"
    cubes.convert([str(tmp_path)], path, workers=1)
    task = make_task(changed(get_config(str(path)), train__batch_size=7))
    task.open(tmp_path)
    mesh = mesh_of(ONE)
    with jax.set_mesh(mesh):
        params = jax.jit(task.init)(jax.random.key(0))
        loss = jax.jit(jax.value_and_grad(lambda p, b: jnp.divide(*task._undisturbed_loss(p, b))))
        (batch,) = task._evaluation_batches(task.store, task.boundary, ("world3", "world0"))
        gaps = batch | {"levels": batch["levels"].copy()}
        gaps["levels"][1, 2, 1, 0, 0, 3, 3] = np.nan
        values = [loss(params, put_batch(x, mesh)) for x in (batch, gaps)]
    for value, gradient in values:
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isnan(batch["levels"][0, :, :, 1]).all()
    assert float(values[0][0]) == pytest.approx(float(values[1][0]), rel=0.01)


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


def test_an_ensemble_is_its_members(opened):
    pair, one, mesh = opened(members=2), opened(), mesh_of(ONE)
    with jax.set_mesh(mesh):
        params = jax.jit(pair.init)(jax.random.key(0))
        members = [jax.tree.map(lambda p, i=i: p[i], params) for i in range(2)]
        batch = put_batch(next(iter(pair.training_data())), mesh)

        def loss_and_gradient(task, params):
            return jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, batch, jax.random.key(0))

        (total, weight), gradient = loss_and_gradient(pair, params)
        parts, gradients = zip(*(loss_and_gradient(one, member) for member in members), strict=True)
        planets = pair.store.split["heldout"]
        fields = pair.predict_members(params, mesh, pair.store, planets)
        alone = [one.predict(member, mesh, one.store, planets)["ts"] for member in members]
        mean = pair.predict(params, mesh, pair.store, planets)["ts"]
    assert float(total) == pytest.approx(sum(float(t) for t, _ in parts), rel=1e-5)
    assert float(weight) == pytest.approx(sum(float(w) for _, w in parts), rel=1e-5)
    assert float(parts[0][0]) != float(parts[1][0])
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *gradients)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()))
    np.testing.assert_allclose(fields["ts"], np.stack(alone), rtol=1e-5)
    np.testing.assert_allclose(mean, np.mean(alone, axis=0), rtol=1e-5)


def described(task, planets):
    """The parameters of a store's planets, and the maps of their surface."""
    places = task.store.index(planets)
    parameters = dict(zip(task.store.parameter_names, np.moveaxis(task.store.parameters[places], -1, 0), strict=True))
    told = {*task.config.data.parameters, "obliquity", "eccentricity", "substellar_longitude"}
    fields = {"land_area_fraction": "sftlf", "surface_altitude": "orog"}
    maps = {name: task.store.read_variable(short)[places][:, :, :, 0] for name, short in fields.items()}
    return {name: values for name, values in parameters.items() if name in told}, maps


def test_a_planet_is_emulated_without_a_file_as_with_one(opened, capsys):
    task, mesh = opened(), mesh_of(MANY)
    planets = (task.train_planets[0], "world0", "world5", "world6")
    parameters, maps = described(task, planets)
    with jax.set_mesh(mesh):
        params = jax.jit(task.init)(jax.random.key(0))
        from_files = task.predict(params, mesh, task.store, planets)
        from_numbers = task.emulate(params, mesh, task.worlds(parameters, **maps))
        alone = {name: np.asarray(values)[:1, :1] for name, values in parameters.items()}
        one = task.emulate(params, mesh, task.worlds(alone | {"pCO2": 9e4}))
    for name, field in from_files.items():
        np.testing.assert_allclose(from_numbers[name], field, rtol=1e-5, atol=1e-6 * np.abs(field).max(), err_msg=name)
    assert one["ta"].shape == (1, 4, 1, 3, 8, 16)
    assert np.isfinite(one["ta"]).all()
    assert capsys.readouterr().out.splitlines()[-1] == (
        "warning: beyond the planets that the model has learnt from: pCO2"
    )


def test_descriptions_that_make_no_planet_are_refused(opened):
    task = opened()
    parameters, maps = described(task, ("world0", "world1", "world2"))
    for change, why in (
        ({"colour": 3}, "no parameter colour; the model knows"),
        ({"gravity": -9.8}, r"gravity=-9\.8 should be 0\.01 to 1000"),
        ({"pCO2": [1.0, np.nan, 2.0]}, r"pCO2=\[1\.0, nan, 2\.0\] should be 0 to 1e\+09"),
        ({"gravity": [9.8, 3.7]}, r"parameters of different numbers of planets or epochs: .*gravity \[2, 1\]"),
        ({"tidally_locked": 1}, "planet 0: tidally locked with obliquity=23"),
    ):
        with pytest.raises(RequestError, match=why):
            task.worlds(parameters | change, **maps)
    with pytest.raises(RequestError, match="no parameter gravity; there are"):
        task.worlds({name: values for name, values in parameters.items() if name != "gravity"})
    with pytest.raises(RequestError, match=r"land_area_fraction \[3, 4\] does not fit 3 planets of \(8, 16\) cells"):
        task.worlds(parameters, land_area_fraction=np.ones((3, 4)))
    with pytest.raises(RequestError, match="surface_altitude has missing values"):
        task.worlds(parameters, surface_altitude=np.full((8, 16), np.nan))
    with pytest.raises(RequestError, match="objective=forecast needs climates to begin from"):
        opened(objective="forecast").emulate(None, None, task.worlds(parameters))


def test_a_mirrored_planet_is_one_whose_files_are_mirrored(opened, tmp_path):
    for planet in range(2):
        for epoch in range(2):
            values = {
                name: field[..., ::-1, :] * (-1 if name == "va" else 1)
                for name, field in runs.fields(planet, epoch).items()
            }
            write_run(tmp_path / f"planet{planet}_epoch{epoch}.nc", planet, epoch, values=values)
    task, mesh = opened(), mesh_of(ONE)
    groups = samples.augmented_groups(task.config.data.level_variables, task.config.data.surface_variables)
    mirrored = cubes.convert([str(tmp_path)], tmp_path / "mirrored.zarr", workers=1)
    with jax.set_mesh(mesh):
        batch = task._batch(task.store.read([0]) | {"planet": np.asarray([0])}, task.store, task.boundary)
        flipped = jax.device_get(samples.mirrored(put_batch(batch, mesh), groups))
    for group in ("levels", "surface"):
        names = {"levels": task.config.data.level_variables, "surface": task.config.data.surface_variables}[group]
        stored = mirrored.read([0])[group][:, [mirrored.variables[group].index(n) for n in names]]
        np.testing.assert_allclose(flipped[group], stored, rtol=1e-5)


def test_a_crop_is_a_part_of_the_cube(opened):
    mesh = mesh_of(ONE)
    task = opened(
        **{f"augmentation__{n}": v for n, v in {"months": 2, "epochs": 1, "roll": 0.0, "mirror": 0.0}.items()}
    )
    batch = next(iter(task.training_data()))
    with jax.set_mesh(mesh):
        crop = jax.device_get(jax.jit(task._disturbed)(put_batch(batch, mesh)))
    for sample in range(len(batch["ages"])):
        epoch = list(batch["ages"][sample]).index(crop["ages"][sample, 0])
        whole = batch["surface"][sample][:, :, epoch]
        starts = [t for t in range(4) if np.array_equal(crop["surface"][sample][:, 0, 0], whole[:, t])]
        assert len(starts) == 1
        np.testing.assert_array_equal(crop["surface"][sample][:, 1, 0], whole[:, (starts[0] + 1) % 4])
        light = batch["insolation"][sample][:, starts[0], epoch]
        np.testing.assert_array_equal(crop["insolation"][sample][:, 0, 0], light)


def test_fields_obey_physics(opened):
    task, mesh = opened(constraints__energy="projection"), mesh_of(ONE)
    planets = task.store.planets
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda p: 1.1 * p + 0.01, jax.jit(task.init)(jax.random.key(0)))
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
    # At a constant rate: another number of steps bends the rest of a schedule.
    config = changed(get_config(store), optimizer__schedule="constant", train__batch_size=8)
    whole = loop.train(make_task(config), tmp_path / "whole", profile=False)
    loop.train(make_task(changed(config, train__steps=3)), tmp_path / "parts", profile=False)
    parts = loop.train(make_task(config), tmp_path / "parts", profile=False)
    assert parts.step == whole.step == 6
    for a, b in zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [[record["loss"] for record in read_metrics(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


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
    for overrides, message in (
        ({"objective": "forecast", "observed_months": "4"}, "observed_months=4 leaves nothing of 4 to forecast"),
        (
            {"objective": "forecast", "augmentation.months": "2"},
            "augmentation.months=2 cuts off what is to be forecast",
        ),
        ({"augmentation.months": "3"}, "augmentation.months=3 should be at most 4, and a multiple of 2"),
    ):
        with pytest.raises(RequestError, match=message):
            configs.override(get_config(store), overrides)
