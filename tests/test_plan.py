"""Planning: what the compiled step says of itself, and how the command reports it."""

import dataclasses
import functools
import json

import jax
import pytest

from astrojax import config as configs
from astrojax.parallel.mesh import make_mesh
from astrojax.parallel.sharding import num_elements
from astrojax.parallel.topology import parse_topology
from astrojax.plan import describe, largest_batch, make_plan
from astrojax.tasks import make_task
from astrojax.train.program import make_program
from tests.conftest import ROOT

GIB = 2**30

SMALL = {
    "model.vocab_size": "2048",
    "model.num_layers": "4",
    "model.d_model": "512",
    "model.d_ff": "1024",
    "model.num_heads": "8",
    "model.num_kv_heads": "4",
    "model.head_dim": "64",
    "model.attention": "reference",
    "model.precision.params": "bfloat16",
    "model.precision.compute": "bfloat16",
    "data.seq_len": "256",
    "train.batch_size": "8",
    "train.microbatch_size": "2",
    "optimizer": "fused_adafactor",
}


def plan_of(preset, topology, **overrides):
    return _plan_of(preset, topology, tuple(sorted(overrides.items())))


@functools.cache  # Each costs a compilation of ten seconds.
def _plan_of(preset, topology, overrides):
    config = configs.override(configs.load_config(f"configs/llm.py:{preset}"), dict(overrides))
    return make_plan(config, *parse_topology(topology))


def test_the_gradient_as_a_whole_does_not_fit():
    plan = plan_of("13b", "rtx-a5000:2", optimizer="adamw")
    assert not plan.fits
    assert plan.optimizer_bytes > 48 * GIB
    assert "DOES NOT FIT" in describe(plan)


def temporaries(layers: int, **overrides):
    plan = plan_of("tiny", "rtx-a5000:2", **SMALL | {"model.num_layers": str(layers)} | overrides)
    return plan.temporary_bytes, plan.activation_bytes, plan.weight_bytes


@pytest.mark.slow
def test_temporaries_grow_with_depth_by_the_layers_inputs_alone():
    (few, few_inputs, few_weights), (many, many_inputs, many_weights) = temporaries(4), temporaries(12)
    assert many_inputs == 3 * few_inputs == 12 * 8 * 256 * 512 * 2 // 2
    assert many_weights > 2 * few_weights
    assert many - few == pytest.approx(many_inputs - few_inputs, rel=0.02)


@pytest.mark.parametrize(
    ("optimizer", "bytes_per_parameter"),
    [
        ({"optimizer": "adamw"}, 8),
        ({"optimizer": "adamw", "optimizer.moments": "bfloat16"}, 4),
        ({"optimizer": "adamw", "optimizer.moments": "int8"}, 2 + 8 / 256),
        ({"optimizer": "lion", "optimizer.moments": "int8"}, 1 + 4 / 256),
    ],
)
def test_moments_take_what_they_should(optimizer, bytes_per_parameter):
    task = make_task(configs.override(configs.load_config("configs/llm.py"), SMALL | optimizer))
    mesh = make_mesh(task.config.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = make_program(task).abstract_state(mesh)
    weights = num_elements(state.params)
    stored = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    assert stored == pytest.approx(bytes_per_parameter * weights, rel=0.01)


@pytest.mark.slow
def test_moments_on_the_host_are_not_on_the_device():
    on_host = {"optimizer": "lion", "optimizer.moments": "bfloat16", "optimizer.moments_on_host": "true"}
    plan = plan_of("tiny", "rtx-a5000:2", **SMALL | on_host)
    assert plan.optimizer_bytes < 1000
    assert plan.host_bytes == plan.weight_bytes


@pytest.mark.slow
def test_micro_batches_collect_each_weight_once():
    """Collected for every micro-batch anew, twice the micro-batches would send twice as much."""
    two, four = (plan_of("tiny", "rtx-a5000:2", **SMALL | {"train.batch_size": size}) for size in ("4", "8"))
    assert (two.micro_batches, four.micro_batches) == (2, 4)
    assert four.collective_bytes_per_step < 1.7 * two.collective_bytes_per_step


@pytest.mark.slow
def test_the_largest_batch_is_the_largest():
    config = configs.override(configs.load_config("configs/llm.py"), SMALL)
    first = plan_of("tiny", "rtx-a5000:2", **SMALL)

    def with_room(room):
        return dataclasses.replace(first, capacity_bytes=room, reserve_bytes=0)

    room = first.peak_bytes + 5 * 2**20
    size = largest_batch(config, with_room(room))
    assert size > 8
    assert plan_of("tiny", "rtx-a5000:2", **SMALL | {"train.batch_size": str(size + 2)}).peak_bytes > room


def test_a_refusal_of_the_compiler_is_a_plan_that_does_not_fit():
    plan = plan_of("13b", "tpu-v5e:1", **{"model.num_layers": "8", "optimizer": "adamw"})
    assert not plan.fits
    assert plan.peak_bytes > plan.capacity_bytes
    assert plan.temporary_bytes is None
    assert "DOES NOT FIT" in describe(plan)


def plan_by_command(launch, workdir, topology, overrides, **variables):
    finished = launch(workdir, overrides, "--mode", "plan", "--topology", topology, **variables)
    file = workdir / "plan.json"
    return finished, json.loads(file.read_text()) if file.exists() else None


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(launch, tmp_path):
    topology = "rtx-a5000:2"
    finished, plan = plan_by_command(launch, tmp_path / "run", topology, SMALL | {"model.attention": "auto"})
    assert finished.returncode == 0
    assert finished.stderr == ""
    assert finished.stdout.count("attention on gpu: triton (256 queries, 256 keys, 8 heads of 64, 4 for keys") == 1
    assert "peak, as compiled" in finished.stdout
    assert "largest batch that fits: --config.train.batch_size=" in finished.stdout
    assert plan["topology"] == topology
    assert plan["devices"] == 2
    assert plan["tokens_per_step"] == 8 * 256
    assert plan["fits"] is True
    assert plan["peak_bytes"] + plan["reserve_bytes"] + plan["margin_bytes"] == plan["capacity_bytes"]
    assert plan["largest_batch_size"] >= 8
    for field in ("weight", "optimizer", "temporary", "activation"):
        assert plan[f"{field}_bytes"] > 0
    assert 0 < plan["model_flops_per_step"] < plan["compiled_flops_per_step"]


@pytest.mark.slow
def test_what_does_not_fit_ends_with_1(launch, tmp_path):
    huge = {"model.d_model": "8192", "model.d_ff": "65536", "model.num_layers": "24", "optimizer": "lion"}
    finished, plan = plan_by_command(launch, tmp_path / "run", "rtx-a5000:1", SMALL | huge)
    assert finished.returncode == 1
    assert "DOES NOT FIT" in finished.stdout
    assert "no batch size fits" in finished.stdout
    assert plan["fits"] is False
    assert plan["largest_batch_size"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mode", "plan"), "--mode plan and --topology NAME:COUNT go together"),
        (("--topology", "h200:1"), "--mode plan and --topology NAME:COUNT go together"),
        (("--mode", "plan", "--topology", "gtx:1"), "unknown accelerator 'gtx'"),
        (("--mode", "plan", "--topology", "tpu-v5p:16"), "--config.train.batch_size=16"),
    ],
)
def test_a_wrong_request_is_one_line_and_2(launch, tmp_path, flags, message):
    finished = launch(tmp_path / "run", SMALL, *flags)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_without_the_extra_the_message_names_the_command(launch, tmp_path):
    """A folder without the plug-ins stands before the installed ones."""
    hidden = tmp_path / "hidden"
    for package in ("jax_plugins", "nvidia", "libtpu"):
        (hidden / package).mkdir(parents=True)
    (hidden / "jax_plugins" / "__init__.py").touch()
    (hidden / "nvidia" / "__init__.py").touch()
    finished = launch(tmp_path / "run", SMALL, "--mode", "plan", "--topology", "rtx-a5000:2", PYTHONPATH=f"{hidden}")
    assert finished.returncode == 2
    assert "needs jax-cuda12-plugin and nvidia-cuda-nvcc-cu12" in finished.stderr
    assert "pip install -c requirements.lock -e '.[aot]'" in finished.stderr
    assert (ROOT / "requirements.lock").exists()
