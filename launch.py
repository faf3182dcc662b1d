"""Trains and evaluates astrojax models, and plans for machines one does not have.

python launch.py --config configs/llm.py
python launch.py --config configs/llm.py:125m --config.train.steps=1000 --workdir runs/mine
python launch.py --config configs/llm.py --mode eval
python launch.py --config configs/llm.py:13b --mode plan --topology rtx-a5000:2
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import absl.logging

from astrojax.config import load_config, override, parse_overrides
from astrojax.errors import FAILURES, OutOfMemoryError, RequestError, report
from astrojax.parallel.host import restart_with_huge_pages
from astrojax.parallel.topology import name_of, parse_topology, prepare_environment


def main(arguments: list[str]) -> int:
    """Runs one command. Returns 0: done; 1: the run failed, or the plan does not fit; 2: the request was wrong; 130:
    interrupted."""
    place = "workdir"
    try:
        flags, rest = _parser().parse_known_args(arguments)
        overrides = parse_overrides(rest)
        topology = _topology(flags)
        config = override(load_config(flags.config), overrides)
        if "://" in (flags.workdir or ""):
            raise RequestError(
                f"--workdir is a folder; checkpoints alone may go to {flags.workdir} (--config.checkpoint.directory)"
            )
        workdir = Path(flags.workdir or _default_workdir(flags.config))
        place = f"workdir {workdir}"
        if flags.profile and flags.mode != "train":
            raise RequestError(f"--profile goes with --mode train, not {flags.mode}")
        if topology:
            return _plan(config, workdir, *topology)
        if flags.mode == "eval":
            _evaluate(workdir, overrides)
        else:
            _train(config, workdir, profile=flags.profile)
    except OutOfMemoryError as error:
        print(f"failed: {error}\nwhat would fit: {_plan_command(flags, rest)}", file=sys.stderr)
        return 1
    except FAILURES as error:
        return report(error, place=place, interrupted="interrupted; what was saved is kept")
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


def _topology(flags: argparse.Namespace) -> tuple[str, int] | None:
    """The accelerators to plan for, with the environment their compilers need; None in the other modes."""
    if (flags.topology is not None) != (flags.mode == "plan"):
        raise RequestError("--mode plan and --topology NAME:COUNT go together")
    if flags.topology is None:
        return None
    topology = parse_topology(flags.topology)
    prepare_environment(*topology)
    return topology


def _plan(config, workdir: Path, name: str, count: int) -> int:
    from astrojax import plan as planning

    print(f"compiling the step for {count} x {name}", flush=True)
    plan = planning.make_plan(config, name, count)
    print(planning.describe(plan), flush=True)
    print("looking for the largest batch that fits", flush=True)
    largest = planning.largest_batch(config, plan)
    if largest is None:
        print("no batch size fits")
    else:
        units = largest * plan.units_per_step // plan.batch_size
        print(f"largest batch that fits: --config.train.batch_size={largest} ({units:,} {plan.unit} per step)")
    print(f"written to {planning.write_plan(workdir, plan, largest)}")
    return 0 if plan.fits else 1


def _plan_command(flags: argparse.Namespace, rest: list[str]) -> str:
    """The command that plans the run which ran out of memory."""
    import jax

    topology = f"{name_of(jax.devices()[0])}:{jax.device_count()}"
    return " ".join(["python launch.py --config", flags.config, "--mode plan --topology", topology, *rest])


def _report(metrics: dict[str, Any], workdir: Path) -> None:
    import jax

    if jax.process_index():
        return
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        print(f"  {name:<30}", *(f"{v:.5g}" if isinstance(v, float) else v for v in values))
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
    parser.add_argument(
        "--mode", choices=("train", "eval", "plan"), default="train", help="what to do (default: train)"
    )
    parser.add_argument("--topology", metavar="NAME:COUNT", help="accelerators to plan for, such as rtx-a5000:2")
    parser.add_argument("--workdir", metavar="DIR", help="home of the run (default: runs/<config>[-<preset>])")
    parser.add_argument("--profile", action="store_true", help="trace a few steady steps for TensorBoard")
    return parser


class _LogLines(logging.Handler):
    """Prints what the package logs, such as the kernels it chose."""

    def emit(self, record: logging.LogRecord) -> None:
        from astrojax.console import say

        say(record.getMessage())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(message)


if __name__ == "__main__":
    restart_with_huge_pages()
    # Orbax logs every attempt that fails; what the user must know is said in one line.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("astrojax").addHandler(_LogLines())
    logging.getLogger("astrojax").setLevel(logging.INFO)
    logging.getLogger("astrojax").propagate = False  # Some libraries print what reaches the root as well.
    sys.exit(main(sys.argv[1:]))
