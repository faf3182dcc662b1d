"""The promises about memory, held by compiling the very step for the very devices."""

import pytest

from astrojax import config as configs
from astrojax.ops import attention
from astrojax.parallel.topology import parse_topology
from astrojax.plan import make_plan

GIB = 2**30


def plan_of(preset, topology, **overrides):
    config = configs.override(configs.load_config(f"configs/llm.py:{preset}"), overrides)
    return make_plan(config, *parse_topology(topology))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "topology", "overrides", "most"),
    [
        ("13b", "rtx-a5000:2", {}, 17.7),
        ("13b", "rtx-a5000:2", {"train.batch_size": "16"}, 21.6),
        ("13b", "rtx-a5000:2", {"train.batch_size": "16", "optimizer.inputs_on_host": "true"}, 14.2),
        ("13b_aligned", "rtx-a5000:2", {}, 17.2),
    ],
)
def test_thirteen_billion_parameters_train_on_two_24_gb_cards(preset, topology, overrides, most, caplog, monkeypatch):
    monkeypatch.setattr(attention, "_reported", set())
    with caplog.at_level("INFO", logger="astrojax"):
        plan = plan_of(preset, topology, **overrides)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["attention on gpu: triton"]
    assert plan.units_per_step == 2048 * int(overrides.get("train.batch_size", 8))
    assert plan.weight_bytes == pytest.approx(12.24 * GIB, rel=0.001)
    assert plan.optimizer_bytes < 0.02 * GIB
    assert plan.weight_bytes < plan.peak_bytes <= most * GIB
    assert plan.fits


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "most"), [("tpu-v6e:2", 18.0), ("tpu-v5e:4", 9.5)])
def test_and_on_tpus(topology, most):
    plan = plan_of("13b", topology)
    assert plan.peak_bytes <= most * GIB
    assert plan.fits
