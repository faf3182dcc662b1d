"""Converts climate model output into a store of cubes; ``--help`` says how."""

import argparse
import sys

import jax

from astrojax.data.cubes.conversion import convert
from astrojax.data.cubes.discover import EPOCH_ATTRIBUTE, PATTERN, PLANET_ATTRIBUTE, Naming
from astrojax.data.cubes.plan import Request
from astrojax.errors import FAILURES, report

_EPILOG = f"""
SOURCE is any number of folders (their *.nc), NetCDF files and quoted glob patterns. Each file holds one planet in one
epoch, by CF conventions: variables are found by their standard_name, else by their short name (ta, hus, ts, rlut, ...),
units are converted, and any order of dimensions and direction of axes is accepted.

Which planet and epoch a file is, its global attributes {PLANET_ATTRIBUTE} and {EPOCH_ATTRIBUTE} say, or others that you
name, or a pattern that its name matches.

A conversion that is stopped goes on with the same command. STORE appears when it is complete; STORE/quality.txt then
says what is good and bad about the data.

examples:
  python -m astrojax.data.cubes runs/ --out cubes.zarr
  python -m astrojax.data.cubes 'runs/*.nc' --out cubes.zarr --grid gaussian:32x64 --levels pressure:10000,50000,85000
  python -m astrojax.data.cubes runs/ --out cubes.zarr --pattern '(?P<planet>\\w+)-(?P<epoch>\\d+)\\.nc' --variables ta
"""


def main(arguments: list[str]) -> int:
    """Runs one conversion. Returns 0: done; 1: it failed; 2: the request was wrong; 130: interrupted."""
    flags = _parser().parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # Files are read and written: accelerators are left to others.
    try:
        request = Request(
            variables=flags.variables and tuple(flags.variables),
            grid=flags.grid,
            levels=flags.levels,
            minimum_completeness=flags.minimum_completeness,
            naming=Naming(
                pattern=flags.pattern,
                planet_attribute=flags.planet_attribute,
                epoch_attribute=flags.epoch_attribute,
            ),
        )
        convert(flags.sources, flags.out, request, workers=flags.workers)
    except FAILURES as error:
        return report(error, place=flags.out, interrupted="interrupted; the same command goes on")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m astrojax.data.cubes",
        description="Converts NetCDF files of climate models into a store of cubes that models are trained from.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="folder, file or glob pattern")
    add("--out", required=True, metavar="STORE", help="the store to make, a folder")
    add("--variables", nargs="+", metavar="NAME", help="short or CF standard names (default: all known ones there are)")
    add("--grid", default="source", metavar="GRID", help="source (default), 32x64 (equal angles) or gaussian:32x64")
    add("--levels", default="source", metavar="LEVELS", help="source (default), sigma:V,V,... or pressure:V,V,... (Pa)")
    add("--pattern", metavar="REGEX", help=f"with groups planet and epoch, matches a file's name, as '{PATTERN}'")
    add("--planet-attribute", metavar="NAME", help="global attribute that says which planet a file is")
    add("--epoch-attribute", metavar="NAME", help="global attribute that says which epoch it is")
    add(
        "--minimum-completeness",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="least share of a variable's values that each file must have (default 0.95)",
    )
    add("--workers", type=_positive, metavar="N", help="processes (default: one for each core)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} should be a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
