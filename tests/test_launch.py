"""The command line as a user types it: train, kill, resume, evaluate, and everything that can go wrong."""

import json
import random
import shlex
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import launch as launcher
from astrojax.runs import load_run
from tests.conftest import ROOT, SMALL, command, environment

METRICS = {
    "bits_per_byte",
    "perplexity",
    "xz_bits_per_byte",
    "xz_primed_bits_per_byte",
    "unigram_bits_per_byte",
    "question_accuracy",
    "question_accuracy_ci95",
    "chance_accuracy",
    "longest_choice_accuracy",
    "step",
}


def records(workdir) -> list[dict]:
    """Lines of ``metrics.jsonl`` without what depends on the machine's mood."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(("tokens_per", "memory"))}
        for line in lines
    ]


def parameter_bytes(workdir) -> dict[str, bytes]:
    params = load_run(workdir, devices=jax.devices()[:1]).params
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def wait_for_records(workdir, count: int, process: subprocess.Popen) -> None:
    file, deadline = workdir / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and file.read_text().count("\n") >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run ended, or hangs, before {count} records: {process.communicate()[0]}")


def start(workdir, overrides, *flags) -> subprocess.Popen:
    return subprocess.Popen(
        command(workdir, overrides, *flags),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(workdir, overrides) -> list[subprocess.Popen]:
    """The same command in two processes that meet on the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    return [
        subprocess.Popen(
            command(workdir, overrides),
            cwd=ROOT,
            env=environment() | meeting | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus, questions):
    """A finished run of 12 steps, and what it printed."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    overrides = SMALL | {"data.path": corpus, "data.questions_path": questions}
    done = subprocess.run(
        command(workdir, overrides, "--profile"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return workdir, overrides, done


@pytest.mark.slow
def test_training_ends_with_an_evaluation_and_says_where_things_are(trained):
    workdir, _, done = trained
    assert done.stderr == ""
    evaluation = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert set(evaluation) >= METRICS
    assert evaluation["step"] == 12
    assert f"{evaluation['bits_per_byte']:.3f}" in done.stdout
    assert str(workdir) in done.stdout
    for place in ("config.json", "metrics.jsonl", "tokenizer.json", "checkpoints", "eval/learning_curve.png"):
        assert (workdir / place).exists()
    low, high = evaluation["question_accuracy_ci95"]
    assert 0 <= low <= evaluation["question_accuracy"] <= high <= 1
    assert evaluation["xz_primed_bits_per_byte"] < evaluation["xz_bits_per_byte"]
    lines = records(workdir)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all({"step", "loss"} <= set(line) for line in lines)
    # Nothing is known of the pace of the first step, nor of one that ran while the record before it was written.
    written = (workdir / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["tokens_per_second"] for line in written]
    assert rates[0] is None
    assert rates[-1] is None
    assert all(rate > 0 for rate in rates[1:3])


def test_the_profile_is_where_tensorboard_looks(trained):
    workdir, _, done = trained
    assert list((workdir / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb"))
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert "profile from step 4" in done.stdout


def test_a_run_too_short_to_profile_says_so(small, tmp_path, launch):
    done = launch(tmp_path / "run", small | {"train.steps": "2", "data.questions_path": "none"}, "--profile")
    assert done.returncode == 0, done.stderr
    assert "no profile: the run ended before step 4" in done.stdout


def test_the_same_command_again_only_evaluates(trained, launch):
    workdir, overrides, _ = trained
    before = parameter_bytes(workdir)
    again = launch(workdir, overrides)
    assert again.returncode == 0, again.stderr
    assert "resuming after step 12" in again.stdout
    assert parameter_bytes(workdir) == before
    assert len(records(workdir)) == 12


def test_evaluation_scores_any_other_text(trained, launch, tmp_path):
    workdir, _, _ = trained
    (tmp_path / "mine.txt").write_text("The planets of the star TRAPPIST-1 are rocky. " * 40)
    done = launch(workdir, {"data.eval_path": tmp_path / "mine.txt", "data.questions_path": "none"}, "--mode", "eval")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert evaluation["bytes"] == 46 * 40 - 1  # The blank at the end is not text.
    assert evaluation["text"] == str(tmp_path / "mine.txt")
    assert "question_accuracy" not in evaluation
    refused = launch(workdir, {"model.num_layers": "3"}, "--mode", "eval")
    assert refused.returncode == 2
    assert "model.num_layers=2, not 3" in refused.stderr


@pytest.mark.slow
def test_a_killed_run_ends_like_one_never_killed(small, tmp_path, launch):
    overrides = small | {"train.steps": "40", "checkpoint.every_steps": "3", "data.questions_path": "none"}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert launch(straight, overrides).returncode == 0
    seed = random.randrange(1 << 30)
    print(f"seed of the moments to kill: {seed}")
    rng = random.Random(seed)
    for low, high in ((1, 12), (14, 36)):
        process = start(killed, overrides)
        wait_for_records(killed, rng.randint(low, high), process)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert launch(killed, overrides).returncode == 0
    assert records(killed) == records(straight)
    assert parameter_bytes(killed) == parameter_bytes(straight)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(small, tmp_path, launch, number):
    overrides = small | {"train.steps": "4000", "checkpoint.every_steps": "100000", "train.validate_every": "100000"}
    workdir = tmp_path / "run"
    process = start(workdir, overrides)
    wait_for_records(workdir, 5, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"{number.name} at" in output
    saved = len(records(workdir))
    done = launch(workdir, overrides | {"train.steps": str(saved + 3)})
    assert f"resuming after step {saved}" in done.stdout
    assert len(records(workdir)) == saved + 3


def test_a_diverging_run_stops_and_says_where(small, tmp_path, launch):
    overrides = small | {
        "optimizer.peak_lr": "1e38",
        "optimizer.warmup_steps": "0",
        "optimizer.clip_norm": "none",
        "train.max_skipped_steps": "3",
    }
    done = launch(tmp_path / "run", overrides)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "stopped after 3 non-finite steps in a row; the first was step 2" in line
    assert "gradient or update of blocks.attention" in line


@pytest.mark.slow
def test_a_full_disk_fails_the_save_and_nothing_else(small, tmp_path, launch):
    """A limit on file sizes stands in for the disk: writing beyond it fails in the same system call."""
    workdir = tmp_path / "run"
    assert launch(workdir, small | {"train.steps": "4"}).returncode == 0
    before = parameter_bytes(workdir)
    limited = ["bash", "-c", 'ulimit -f 16 && exec "$@"', "bash", *command(workdir, small)]
    no_cache = environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # It could not be written either.
    full = subprocess.run(limited, cwd=ROOT, env=no_cache, capture_output=True, text=True, check=False)
    assert full.returncode == 1, full.stdout
    assert full.stderr.startswith("failed: checkpoint 8 could not be saved in")
    assert "the newest complete one is 4" in full.stderr
    assert len(full.stderr.splitlines()) == 1
    assert parameter_bytes(workdir) == before
    done = launch(workdir, small)
    assert done.returncode == 0
    assert "resuming after step 4" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_run_out_of_memory_says_what_fills_it_and_which_plan_to_make(small, tmp_path):
    """A feed-forward layer of a million columns in 8 GB."""
    overrides = small | {"model.d_ff": "1000000", "train.microbatch_size": "4"}
    limited = ["bash", "-c", f"ulimit -v 9000000; exec {shlex.join(command(tmp_path / 'run', overrides))}"]
    finished = subprocess.run(
        limited, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 1, finished.stderr
    assert finished.stderr.startswith("failed: out of memory: ")
    assert "Out of memory allocating" in finished.stderr
    assert "params.blocks.mlp.down_fd float32[2, 1000000, 64]" in finished.stderr
    assert "peak of the compiled step" in finished.stderr
    assert "--mode plan --topology cpu:1" in finished.stderr
    assert "--config.model.d_ff=1000000" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_wandb_works_offline(small, tmp_path):
    workdir = tmp_path / "run"
    offline = environment() | {"WANDB_MODE": "offline"}
    overrides = small | {"train.steps": "2", "logging.wandb": "true", "data.questions_path": "none"}
    done = subprocess.run(
        command(workdir, overrides), cwd=ROOT, env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(workdir.glob("wandb/offline-run-*/*.wandb"))


def test_two_processes_do_not_share_a_row_of_the_batch(small, tmp_path):
    processes = start_two(tmp_path / "run", small | {"mesh.fsdp": "1", "mesh.tensor": "2"})
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "does not split over 2 processes" in outputs[0][1]


@pytest.mark.slow
def test_two_processes_reach_the_losses_of_one(small, tmp_path, launch):
    overrides = small | {"train.steps": "20", "mesh.fsdp": "-1"}
    assert launch(tmp_path / "one", overrides).returncode == 0
    processes = start_two(tmp_path / "two", overrides)
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = ([r["loss"] for r in records(tmp_path / name)] for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    evaluations = [json.loads((tmp_path / name / "eval/metrics.json").read_text()) for name in ("one", "two")]
    assert evaluations[1]["bits_per_byte"] == pytest.approx(evaluations[0]["bits_per_byte"], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config"),
        (["--config", "configs/none.py"], "no such file: configs/none.py"),
        (["--config", "configs/llm.py:huge"], "no preset 'huge'"),
        (["--config", "configs/llm.py", "--mode", "bake"], "'bake'"),
        (["--config", "configs/llm.py", "--verbose"], "unknown argument '--verbose'"),
        (["--config", "configs/llm.py", "--config.train.steps", "3"], "--config.section.field=value"),
        (["--config", "configs/llm.py", "--config.train.step=3"], "did you mean 'steps'"),
        (["--config", "configs/llm.py", "--config.model.num_kv_heads=3"], "num_kv_heads=3"),
        (["--config", "configs/llm.py", "--config.data.path=missing"], "no such file or folder: missing"),
        (["--config", "configs/llm.py", "--config.mesh.data=5"], "does not fit the 8 cpu device"),
        (["--config", "configs/llm.py", "--mode", "eval"], "no run in"),
    ],
)
def test_wrong_requests_get_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    code = launcher.main([*arguments, "--workdir", str(tmp_path / "run")] if arguments else [])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    # A request refused leaves no run behind that would refuse the corrected one.
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_workdir_of_another_run_is_refused_and_left_alone(trained, capsys):
    workdir, overrides, _ = trained
    before = (workdir / "config.json").read_bytes()
    arguments = command(workdir, overrides | {"optimizer.peak_lr": "0.5"})[2:]
    assert launcher.main(arguments) == 2
    assert "optimizer.peak_lr=" in capsys.readouterr().err
    assert (workdir / "config.json").read_bytes() == before


def test_an_unwritable_workdir_is_refused(small, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert launcher.main(command(tmp_path / "file" / "run", small)[2:]) == 2
    assert "--workdir: cannot make" in capsys.readouterr().err
