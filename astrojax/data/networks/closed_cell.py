"""What a network makes of nothing: ATP where nothing enters the cell and nothing leaves, carbon where none enters.

Reactions each right on its own can form an energy-generating cycle, which no thermodynamics allows, and one that is
written out of balance makes matter once others let it run backwards. Flux balance takes what it gets: a model with such
a cycle grows on too little, and so needs too little to grow (Fritzemeier et al. 2017, PLOS Computational Biology
13:e1005494, on energy; Gevorgyan et al. 2008, Bioinformatics 24:2245, on matter). Of energy's carriers ATP alone is
tried, into which most others turn.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csc_array

from astrojax.chemistry.formula import GROUPS
from astrojax.data.networks.identity import evidence, is_proton
from astrojax.data.networks.network import CYTOSOL, NOTHING, Network
from astrojax.errors import RunError

# What any reaction may carry, and the least that counts as made: far above the solver's rounding, and far below what
# published models make of nothing, whose only limit is the former.
_MOST, _SOME = 1000.0, 1.0

_HYDROLYSIS = {
    "ATP": (-1.0, {"bigg.metabolite": "atp", "seed.compound": "cpd00002", "kegg.compound": "C00002", "name": "atp"}),
    "water": (-1.0, {"bigg.metabolite": "h2o", "seed.compound": "cpd00001", "kegg.compound": "C00001", "name": "h2o"}),
    "ADP": (1.0, {"bigg.metabolite": "adp", "seed.compound": "cpd00008", "kegg.compound": "C00008", "name": "adp"}),
    "phosphate": (
        1.0,
        {"bigg.metabolite": "pi", "seed.compound": "cpd00009", "kegg.compound": "C00009", "name": "phosphate"},
    ),
}


class Way(NamedTuple):
    """What a reaction does.

    Attributes:
        terms: position of a metabolite in a network -> coefficient.
        reversible: whether it runs both ways.
    """

    terms: Mapping[int, float]
    reversible: bool


def made_of_nothing(network: Network) -> dict[str, bool | None]:
    """Whether a network makes ``"ATP"`` and ``"carbon"`` of nothing, as far as its formulas tell; None where that
    cannot be known, for want of what ATP's hydrolysis takes, or of any formula with carbon in it."""
    return {product: cell and cell.makes() for product, cell in _cells(network).items()}


def closing(network: Network, added: Sequence[Way]) -> dict[int, str]:
    """Which of some reactions let the network make something of nothing, with those before them that do not.

    Returns:
        Their positions, and what they let it make: ``"ATP"`` or ``"carbon"``. What the network makes of nothing without
        them, or what cannot be known of it, counts against none.
    """
    cells = {product: cell for product, cell in _cells(network).items() if cell and not cell.makes()}
    found: dict[int, str] = {}
    kept, rest = [], list(enumerate(added))

    def made_with(count: int) -> str:
        """What is made with so many more reactions; more reactions never make less."""
        ways = [way for _, way in (*kept, *rest[:count])]
        return next((product for product, cell in cells.items() if cell.makes(ways)), "")

    while made_with(len(rest)):
        count = bisect.bisect_left(range(len(rest)), True, key=lambda count: bool(made_with(count)))
        found[rest[count - 1][0]] = made_with(count)
        kept, rest = [*kept, *rest[: count - 1]], rest[count:]
    return found


def atp_hydrolyses(network: Network) -> list[dict[int, float]]:
    """The stoichiometry of ATP's hydrolysis in the cytosol, with as many protons as balance it by the network's own
    formulas; with one and with none where they are not known, nothing where the network lacks one of the compounds."""
    places: dict[str, int] = {}
    for place, metabolite in enumerate(network.metabolites):
        if metabolite.compartment != CYTOSOL:
            continue
        if is_proton(metabolite):
            places.setdefault("proton", place)
        known = set(evidence(metabolite))
        for name, (_, accessions) in _HYDROLYSIS.items():
            if known & accessions.items():
                places.setdefault(name, place)
    if not places.keys() >= _HYDROLYSIS.keys():
        return []
    terms = {places[name]: coefficient for name, (coefficient, _) in _HYDROLYSIS.items()}
    elements = {place: network.metabolites[place].elements for place in terms}
    if None in elements.values():
        protons = (0.0, 1.0)
    else:
        protons = (-sum(coefficient * elements[place].get("H", 0) for place, coefficient in terms.items()),)
    return [
        terms | ({places["proton"]: count} if count else {}) for count in protons if not count or "proton" in places
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Cell:
    """A network whose exchanges are shut. All that it does may run or not, maintenance included.

    Attributes:
        name: the network's.
        ways: what it does, first what takes from it.
        gains: what is gained by a unit of flux through each of the first.
    """

    name: str
    ways: Sequence[Way]
    gains: Sequence[float]

    def makes(self, added: Sequence[Way] = ()) -> bool:
        """Whether there is something to gain."""
        ways, rows = [*self.ways, *added], {}
        entries = [
            (rows.setdefault(metabolite, len(rows)), column, coefficient)
            for column, way in enumerate(ways)
            for metabolite, coefficient in way.terms.items()
            if abs(coefficient) > NOTHING
        ]
        row, column, coefficient = zip(*entries, strict=True)
        gains = np.pad(np.asarray(self.gains), (0, len(ways) - len(self.gains)))
        solved = linprog(
            -gains,
            A_eq=csc_array((coefficient, (row, column)), shape=(len(rows), len(ways))),
            b_eq=np.zeros(len(rows)),
            bounds=[(-_MOST if way.reversible else 0.0, _MOST) for way in ways],
            method="highs",
        )
        # Rest is always a solution.
        if solved.status:
            raise RunError(f"{self.name}: its closed cell cannot be solved: {solved.message}")
        return -solved.fun > _SOME


def _cells(network: Network) -> dict[str, _Cell | None]:
    ways = [
        Way(reaction.stoichiometry, reaction.reversible)
        for reaction in network.reactions
        if network.kind(reaction) != "exchange" and not reaction.shut
    ]
    cells: dict[str, _Cell | None] = {"ATP": None, "carbon": None}
    if hydrolyses := atp_hydrolyses(network):
        cells["ATP"] = _Cell(
            network.name, [*(Way(terms, False) for terms in hydrolyses), *ways], [1.0] * len(hydrolyses)
        )
    carbon = [0.0 if m.elements is None else m.elements.get("C", 0.0) for m in network.metabolites]
    holds = [place for place, count in enumerate(carbon) if count]
    if holds:
        # What holds carbon may leave, what surely holds none may come and go; a group may hold some.
        sinks = [Way({place: -1.0}, False) for place in holds]
        free = [
            Way({place: -1.0}, True)
            for place, metabolite in enumerate(network.metabolites)
            if metabolite.elements is not None and not metabolite.elements.keys() & {"C", *GROUPS}
        ]
        cells["carbon"] = _Cell(network.name, [*sinks, *free, *ways], [carbon[place] for place in holds])
    return cells
