"""Puts metabolic models together and says what is good and bad about them; ``--help`` says how."""

import argparse
import json
import sys
from pathlib import Path

from astrojax.data.networks.collection import read_collection, render
from astrojax.errors import FAILURES, report
from astrojax.files import write_atomically

_EPILOG = """
SOURCE is any number of folders (their *.xml and *.sbml, compressed or not), SBML files and quoted glob patterns.

examples:
  python -m astrojax.data.networks models/
  python -m astrojax.data.networks 'drafts/*.xml.gz' data/metabolic --out universe.json.zst --report report.json
"""


def main(arguments: list[str]) -> int:
    """Reads and reports. Returns 0: done; 1: it failed; 2: the request was wrong; 130: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m astrojax.data.networks",
        description="Reads metabolic models (SBML), finds which compounds and reactions they share, and reports.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, file or glob pattern")
    parser.add_argument("--out", type=Path, metavar="FILE", help="writes compounds and reactions (JSON, zstandard)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="writes the report as JSON")
    flags = parser.parse_args(arguments)
    try:
        collection = read_collection(flags.sources)
        if flags.out:
            collection.universe.save(flags.out)
        if flags.report:
            write_atomically(flags.report, json.dumps(collection.report, indent=1).encode() + b"\n")
    except FAILURES as error:
        return report(error, place=flags.out, interrupted="interrupted")
    print(render(collection.report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
