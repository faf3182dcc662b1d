"""Reads many models at once, and says what is good and bad about them."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from astrojax.data.networks.closed_cell import made_of_nothing
from astrojax.data.networks.identity import identify
from astrojax.data.networks.network import Network
from astrojax.data.networks.sbml import read_network
from astrojax.data.networks.universe import Universe, make_universe
from astrojax.data.workers import num_workers, worker_pool
from astrojax.errors import RequestError, RunError
from astrojax.files import find_files

_SUFFIXES = tuple(f"{kind}{packed}" for kind in (".xml", ".sbml") for packed in ("", ".gz", ".bz2", ".xz"))


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """Models and what became of them.

    Attributes:
        networks: those that could be read.
        universe: what they hold together.
        refused: file -> why it could not be read.
        joins_refused: ``refused`` of :class:`astrojax.data.networks.identity.Compounds`.
    """

    networks: tuple[Network, ...]
    universe: Universe
    refused: dict[str, str]
    joins_refused: int

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """``models``, one record each with what was found, left out or not understood; ``refused``; and the totals."""
        present = self.universe.present
        shared = present.sum(0) > 1
        return {
            "models": [_record(network, own, shared) for network, own in zip(self.networks, present, strict=True)],
            "refused": self.refused,
            "compounds": len(self.universe.compounds),
            "reactions": len(self.universe.reactions),
            "shared_reactions": int(shared.sum()),
            "joins_refused": self.joins_refused,
        }


def read_collection(sources: Sequence[str], *, workers: int | None = None) -> Collection:
    """Reads models and finds what they share. Those that cannot be read are ``refused``.

    Args:
        sources: folders (their SBML files, compressed or not), files and glob patterns.
        workers: processes; one for each core where not given.

    Raises:
        RequestError: a source names no file, no file could be read, or two have one name.
        RunError: a process died of a file.
    """
    files = find_files(sources, _SUFFIXES, "no SBML file there (*.xml, *.sbml, compressed or not)")
    networks, refused = [], {}
    for file, network in _read(files, num_workers(workers, len(files))):
        if isinstance(network, RequestError):
            refused[str(file)] = str(network)
        else:
            networks.append(network)
    if not networks:
        raise RequestError(f"none of {len(files)} models could be read: {next(iter(refused.values()))}")
    names = Counter(network.name for network in networks)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise RequestError(f"two models are called {repeated[0]}")
    compounds = identify(networks)
    return Collection(tuple(networks), make_universe(networks, compounds), refused, compounds.refused)


def render(report: dict[str, Any]) -> str:
    """A report as a table."""
    rows = [("model", "reactions", "inner", "shared", "formulas", "balanced", "organism")]
    for record in report["models"]:
        shares = (_percent(record[key]) for key in ("shared", "with_formula", "balanced"))
        rows.append((record["name"], str(record["reactions"]), str(record["inner"]), *shares, record["organism"][:48]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [
        "",
        "inner: neither exchange nor biomass, each once; shared: of those, held by another model as well; formulas: of",
        "metabolites; balanced: of inner reactions whose formulas are known, hydrogen and charge aside.",
        "",
        f"{len(report['models'])} models, {report['compounds']:,} compounds, {report['reactions']:,} inner reactions, "
        f"{report['shared_reactions']:,} of them in two or more models",
        f"{report['joins_refused']:,} times two metabolites shared a name or accession, and their formulas or a model "
        "told them apart",
    ]
    for record in report["models"]:
        lines += [f"{record['name']}: {count} {remark}" for remark, count in record["remarks"].items()]
        if products := [product for product, made in record["made_of_nothing"].items() if made]:
            lines.append(
                f"{record['name']}: makes {', '.join(products)} of nothing, so that its growth may be overestimated"
            )
    lines += [f"refused: {why}" for why in report["refused"].values()]
    return "\n".join(lines) + "\n"


def _read(files: Sequence[Path], workers: int) -> Iterator[tuple[Path, Network | RequestError]]:
    if workers == 1:
        yield from ((file, _network_or_error(file)) for file in files)
        return
    with worker_pool(workers) as pool:
        for file, future in [(file, pool.submit(_network_or_error, file)) for file in files]:
            try:
                yield file, future.result()
            except BrokenProcessPool as error:
                raise RunError(f"{file}, or another read beside it: the process that read it died") from error


def _network_or_error(file: Path) -> Network | RequestError:
    try:
        return read_network(file)
    except RequestError as error:
        return error


def _record(network: Network, present, shared) -> dict[str, Any]:
    kinds = Counter(network.kind(reaction) for reaction in network.reactions)
    inner = [r for r in network.reactions if network.kind(r) in ("internal", "transport")]
    known = [left for r in inner if (left := network.imbalance(r)) is not None]
    return {
        "name": network.name,
        "organism": network.organism,
        "reactions": len(network.reactions),
        "kinds": dict(kinds),
        "inner": int(present.sum()),
        "shared": float(shared[present].mean()) if present.any() else None,
        "with_formula": sum(m.elements is not None for m in network.metabolites) / len(network.metabolites),
        "balanced": sum(not set(left) - {"H", "charge"} for left in known) / len(known) if known else None,
        "made_of_nothing": made_of_nothing(network),
        "remarks": dict(network.remarks),
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
