"""astrojax: trains, evaluates and serves the models of an astrobiology group in JAX."""

from typing import TYPE_CHECKING

from astrojax.parallel.host import skip_absent_accelerators

__version__ = "0.1.0"
__all__ = ["load_run"]

if TYPE_CHECKING:
    from astrojax.runs import load_run

skip_absent_accelerators()


def __getattr__(name: str):
    # Importing the package must not import JAX: launch.py sets up the process first.
    if name == "load_run":
        from astrojax.runs import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
