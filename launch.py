"""Trains and evaluates astrojax models.

python launch.py --config configs/llm.py
python launch.py --config configs/llm.py:125m --config.train.steps=1000 --workdir runs/mine
python launch.py --config configs/llm.py --mode eval
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import absl.logging

from astrojax.config import load_config, override, parse_overrides
from astrojax.errors import RequestError, RunError
from astrojax.parallel.host import restart_with_huge_pages


def main(arguments: list[str]) -> int:
    """Runs one command. Returns 0: done; 1: the run failed; 2: the request was wrong; 130: interrupted."""
    try:
        flags, rest = _parser().parse_known_args(arguments)
        overrides = parse_overrides(rest)
        config = override(load_config(flags.config), overrides)
        if "://" in (flags.workdir or ""):
            raise RequestError(
                f"--workdir is a folder; checkpoints alone may go to {flags.workdir} (--config.checkpoint.directory)"
            )
        workdir = Path(flags.workdir or _default_workdir(flags.config))
        if flags.profile and flags.mode != "train":
            raise RequestError(f"--profile goes with --mode train, not {flags.mode}")
        if flags.mode == "eval":
            _evaluate(workdir, overrides)
        else:
            _train(config, workdir, profile=flags.profile)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was saved is kept", file=sys.stderr)
        return 130
    except OSError as error:
        place = error.filename or f"workdir {workdir}"
        print(f"failed: {place}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


# JAX is imported late: a wrong request is answered at once, and the processes of a run must meet before any device is
# touched.


def _train(config, workdir: Path, *, profile: bool) -> None:
    from astrojax.parallel.mesh import initialize_distributed

    initialize_distributed()
    import jax

    from astrojax.tasks import make_task
    from astrojax.train import loop

    task = make_task(config)
    outcome = loop.train(task, workdir, profile=profile)
    if jax.process_index() == 0:
        print(loop.summary(outcome))
    if outcome.stopped_by is None:
        with jax.set_mesh(outcome.mesh):
            metrics = task.evaluate(outcome.params, outcome.mesh, workdir, outcome.step)
        _report(metrics, workdir)


def _evaluate(workdir: Path, overrides: dict[str, str]) -> None:
    from astrojax.parallel.mesh import initialize_distributed

    initialize_distributed()
    import jax

    from astrojax.runs import load_run

    run = load_run(workdir, overrides=overrides)
    if jax.process_index() == 0:
        print(f"evaluating step {run.step} of {workdir}")
    with jax.set_mesh(run.mesh):
        metrics = run.task.evaluate(run.params, run.mesh, workdir, run.step)
    _report(metrics, workdir)


def _report(metrics: dict[str, Any], workdir: Path) -> None:
    import jax

    if jax.process_index():
        return
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        print(f"  {name:<30}", *(f"{v:.4f}" if isinstance(v, float) else v for v in values))
    print(f"everything about this run is in {workdir}: metrics.jsonl, checkpoints/, eval/, tensorboard/")


def _default_workdir(spec: str) -> str:
    path, _, preset = spec.partition(":")
    return f"runs/{Path(path).stem}" + (f"-{preset}" if preset else "")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="launch.py",
        description=__doc__,
        epilog="Any field of the configuration is set with --config.section.field=value.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:PRESET]", help="the configuration and its preset")
    parser.add_argument("--mode", choices=("train", "eval"), default="train", help="what to do (default: train)")
    parser.add_argument("--workdir", metavar="DIR", help="home of the run (default: runs/<config>[-<preset>])")
    parser.add_argument("--profile", action="store_true", help="trace a few steady steps for TensorBoard")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(message)


if __name__ == "__main__":
    restart_with_huge_pages()
    # Orbax logs every attempt that fails; what the user must know is said in one line.
    absl.logging.set_verbosity(absl.logging.FATAL)
    sys.exit(main(sys.argv[1:]))
