import json

import numpy as np

from astrojax.parallel.memory import device_memory
from astrojax.train.metrics import MetricsWriter, read_metrics
from astrojax.train.task import LoggingConfig


def write(workdir, start, steps):
    writer = MetricsWriter(workdir, LoggingConfig(tensorboard=False), start_step=start, run_config={})
    for step in steps:
        writer.write({"step": step, "loss": step / 2})
    writer.close()


def test_a_resumed_run_writes_its_steps_once(tmp_path):
    write(tmp_path, 0, range(1, 8))
    write(tmp_path, 4, range(5, 7))
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_line_torn_by_a_kill_is_left_out(tmp_path):
    write(tmp_path, 0, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]
    write(tmp_path, 3, [4])
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_lines_are_strict_json_even_when_the_loss_is_not_finite(tmp_path):
    writer = MetricsWriter(tmp_path, LoggingConfig(), start_step=0, run_config={})
    writer.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "tokens_per_second": None})
    writer.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert record == {"step": 1, "loss": None, "grad_norm": None, "tokens_per_second": None}


def test_memory_of_the_host_is_plausible():
    before = device_memory()
    block = np.ones(1 << 27, np.uint8)
    after = device_memory()
    assert after["in_use"] - before["in_use"] > 100 << 20
    assert after["in_use"] <= after["limit"]
    assert after["peak"] <= after["limit"]
    assert block.sum() == 1 << 27
