"""One run, many machines: the losses of a small language model must not depend on where and how it is trained."""

import jax
import numpy as np
import pytest

from astrojax import config as configs
from astrojax.errors import RequestError
from astrojax.runs import load_run
from astrojax.tasks import make_task
from astrojax.train import loop
from astrojax.train.metrics import read_metrics
from tests.conftest import SMALL

STEPS = 20


def train(small, workdir, overrides=None, devices=1):
    config = configs.override(
        configs.load_config("configs/llm.py"),
        small | {"train.steps": str(STEPS), "train.validate_every": str(STEPS)} | (overrides or {}),
    )
    outcome = loop.train(make_task(config), workdir, devices=jax.devices()[:devices])
    assert outcome.step == config.train.steps
    return outcome


def losses(workdir) -> np.ndarray:
    records = read_metrics(workdir)
    assert [r["step"] for r in records] == list(range(1, len(records) + 1))
    return np.asarray([r["loss"] for r in records])


@pytest.fixture(scope="module")
def expected(tmp_path_factory, corpus, questions):
    workdir = tmp_path_factory.mktemp("one") / "run"
    train(SMALL | {"data.path": corpus, "data.questions_path": questions}, workdir)
    return workdir


def test_the_loss_falls(expected):
    assert losses(expected)[-1] < losses(expected)[0] - 0.5
    assert read_metrics(expected)[-1]["validation_bits_per_byte"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2), (4, 1, 2), (1, 1, 2)])
def test_the_mesh_changes_only_rounding(small, tmp_path, expected, data, fsdp, tensor):
    mesh = {"mesh.data": str(data), "mesh.fsdp": str(fsdp), "mesh.tensor": str(tensor)}
    train(small, tmp_path / "run", mesh, devices=data * fsdp * tensor)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"model.remat": "full"},
        {"model.remat": "dots"},
        {"model.scan_unroll": "2"},
        {"train.microbatch_size": "2"},
    ],
)
def test_remat_unrolling_and_accumulation_change_only_rounding(small, tmp_path, expected, change):
    train(small, tmp_path / "run", change)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=1e-4)


@pytest.mark.slow
def test_accumulation_on_a_mesh_changes_only_rounding(small, tmp_path, expected):
    train(small, tmp_path / "run", {"train.microbatch_size": "4", "mesh.fsdp": "4"}, devices=4)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=1e-4)


@pytest.mark.slow
def test_a_run_moves_to_another_mesh_and_goes_on(small, tmp_path, expected):
    workdir = tmp_path / "run"
    # The schedule is constant: the cosine of a run stopped at 8 would differ from that of one stopped at 20.
    constant = {"optimizer.schedule": "constant"}
    train(small, tmp_path / "straight", constant)
    for steps, devices in ((8, 2), (14, 8), (STEPS, 1)):
        train(small, workdir, constant | {"train.steps": str(steps)}, devices)
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "straight"), rtol=1e-4)


def test_parameters_and_optimizer_state_are_split(small, tmp_path):
    outcome = train(small, tmp_path / "run", {"train.steps": "1"}, devices=8)
    weight = outcome.params["blocks"]["mlp"]["gate_df"]
    assert len(weight.sharding.device_set) == 8
    assert weight.addressable_shards[0].data.size * 8 == weight.size


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "peak_lr"), [("lion", "3e-3"), ("sophia", "3e-3"), ("adafactor", "1e-2")])
def test_every_optimizer_trains_on_a_mesh(small, tmp_path, optimizer, peak_lr):
    overrides = {"optimizer": optimizer, "optimizer.peak_lr": peak_lr, "optimizer.warmup_steps": "4"}
    train(small, tmp_path / "run", overrides | {"mesh.fsdp": "2", "mesh.tensor": "2"}, devices=4)
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.3


@pytest.mark.slow
def test_moments_on_the_host_are_saved_and_restored(small, tmp_path):
    host = {"optimizer.moments_on_host": "true", "optimizer.moments": "int8", "optimizer.schedule": "constant"}
    train(small, tmp_path / "straight", host | {"train.steps": "8"})
    for steps in ("4", "8"):
        train(small, tmp_path / "resumed", host | {"train.steps": steps}, devices=1)
    np.testing.assert_array_equal(losses(tmp_path / "resumed"), losses(tmp_path / "straight"))


@pytest.mark.slow
def test_a_loaded_run_is_the_trained_one(small, tmp_path):
    workdir = tmp_path / "run"
    outcome = train(small, workdir, {"train.steps": "4"})
    run = load_run(workdir, devices=jax.devices()[:4])
    assert run.step == 4
    assert run.metrics[-1]["step"] == 4
    jax.tree.map(np.testing.assert_array_equal, run.params, outcome.params)
    with jax.set_mesh(run.mesh):
        tokens = np.zeros((4, 8), np.int32)
        assert run.model(tokens, tokens + 1, tokens).shape == (4, 8, 512)


@pytest.mark.parametrize(
    ("change", "devices", "message"),
    [
        ({"mesh.data": "3"}, 8, r"mesh.data=3 x mesh.fsdp=-1 x mesh.tensor=1 does not fit the 8 cpu device"),
        ({"mesh.fsdp": "4"}, 8, r"does not fit the 8 cpu"),
        ({"mesh.data": "-1"}, 8, "only one axis may be -1"),
        ({"mesh.data": "0"}, 8, "mesh.data=0"),
        ({"mesh.tensor": "4"}, 4, "model.num_kv_heads=2 does not split over mesh tensor=4"),
        ({"train.batch_size": "6"}, 4, "train.batch_size=6 does not split over the mesh's 4"),
        ({"train.batch_size": "4096"}, 1, "do not fill one batch of 4096"),
        ({"data.tokenizer_path": "missing.json"}, 1, "no such tokenizer"),
    ],
)
def test_requests_that_do_not_fit_are_refused(small, tmp_path, change, devices, message):
    config = configs.override(configs.load_config("configs/llm.py"), small | change)
    with pytest.raises(RequestError, match=message):
        loop.train(make_task(config), tmp_path / "run", devices=jax.devices()[:devices])
