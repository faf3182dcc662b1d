"""Eight simulated CPU devices for every test, and the command line as a user types it."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Before JAX is imported: tests never look for an accelerator.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Many tests compile the same small step, also in processes of their own: each program is compiled once a session.
_cache = tempfile.TemporaryDirectory(prefix="astrojax-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Most of a test's time goes into compiling what then runs for a moment: a third of it without LLVM's optimizations and
# with fewer fusions. What is computed is the same to rounding.
_fast = "--xla_backend_optimization_level=0 --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_fast}"

# A transformer that compiles in a second and a corpus that trains it in a few.
SMALL = {
    "model.vocab_size": "512",
    "model.num_layers": "2",
    "model.d_model": "64",
    "model.d_ff": "128",
    "model.num_heads": "4",
    "model.num_kv_heads": "2",
    "model.head_dim": "16",
    "model.scan_unroll": "1",
    "data.seq_len": "64",
    "train.batch_size": "8",
    "train.steps": "12",
    "train.log_every": "1",
    "train.validate_every": "6",
    "checkpoint.every_steps": "4",
    "optimizer.warmup_steps": "4",
    "eval_batch_size": "8",
}


def pytest_collection_modifyitems(items):
    """Files with the most slow tests first, so that the processes end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    """Configs and data are named from the repository's root."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> str:
    """60 shipped documents, shortened: about 90 kB in all three splits."""
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    with gzip.open(ROOT / "data/text/documents/train.jsonl.gz", "rt") as train:
        lines = [json.loads(line) for _, line in zip(range(50), train, strict=False)]
    with gzip.open(ROOT / "data/text/documents/heldout.jsonl.gz", "rt") as heldout:
        lines += [json.loads(line) for _, line in zip(range(10), heldout, strict=False)]
    path.write_text("".join(json.dumps({"id": d["id"], "text": d["text"][:1500]}) + "\n" for d in lines))
    return str(path)


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> str:
    """The first 20 shipped questions."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("".join((ROOT / "data/text/questions.jsonl").read_text().splitlines(keepends=True)[:20]))
    return str(path)


@pytest.fixture
def small(corpus, questions) -> dict[str, str]:
    """Overrides that turn ``configs/llm.py`` into a run of seconds."""
    return SMALL | {"data.path": corpus, "data.questions_path": questions}


def command(workdir: Path | None, overrides: dict[str, str], *flags: str) -> list[str]:
    """The command line of ``launch.py``."""
    fields = [f"--config.{field}={value}" for field, value in overrides.items()]
    place = ["--workdir", str(workdir)] if workdir else []
    return [sys.executable, "launch.py", "--config", "configs/llm.py", *place, *flags, *fields]


def environment(devices: int = 1) -> dict[str, str]:
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}


@pytest.fixture
def launch():
    """Runs ``launch.py`` on one simulated device and returns the finished process."""

    def run(workdir, overrides, *flags, **variables) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(workdir, overrides, *flags),
            cwd=ROOT,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
