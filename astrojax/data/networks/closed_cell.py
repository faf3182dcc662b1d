"""What a network makes of nothing: energy or electrons where no more than water and protons enters the cell, an element
where nothing with that element does.

Reactions each right on its own can form an energy-generating cycle, which no thermodynamics allows, and one that is
written out of balance makes matter once others let it run backwards. Flux balance takes what it gets: a model with such
a cycle grows on too little, and so needs too little to grow (Fritzemeier et al. 2017, PLOS Computational Biology
13:e1005494, on energy and electrons; Gevorgyan et al. 2008, Bioinformatics 24:2245, on matter). Of the carriers ATP,
NADH and NADPH are tried, into which most others turn; of elements those that media limit.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
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
_INFEASIBLE = 2  # As scipy says it.

_ELEMENTS = {"carbon": "C", "nitrogen": "N", "phosphorus": "P", "sulfur": "S"}

# What each is known by: identifiers of BiGG, ModelSEED and KEGG, and one name or two.
_SCHEMES = ("bigg.metabolite", "seed.compound", "kegg.compound", "name", "name")
_COMPOUNDS = {
    "ATP": ("atp", "cpd00002", "C00002", "atp"),
    "water": ("h2o", "cpd00001", "C00001", "h2o", "water"),
    "ADP": ("adp", "cpd00008", "C00008", "adp"),
    "phosphate": ("pi", "cpd00009", "C00009", "phosphate", "orthophosphate"),
    "NADH": ("nadh", "cpd00004", "C00004", "nadh"),
    "NAD": ("nad", "cpd00003", "C00003", "nad", "nad+"),
    "NADPH": ("nadph", "cpd00005", "C00005", "nadph"),
    "NADP": ("nadp", "cpd00006", "C00006", "nadp", "nadp+"),
}
_HYDROLYSIS = {"ATP": -1.0, "water": -1.0, "ADP": 1.0, "phosphate": 1.0}
_OXIDATIONS = ({"NADH": -1.0, "NAD": 1.0}, {"NADPH": -1.0, "NADP": 1.0})


class Way(NamedTuple):
    """What a reaction does.

    Attributes:
        terms: position of a metabolite in a network -> coefficient.
        reversible: whether it runs both ways.
    """

    terms: Mapping[int, float]
    reversible: bool


def made_of_nothing(network: Network) -> dict[str, bool | None]:
    """Whether a network makes ``"ATP"``, ``"electrons"``, ``"carbon"``, ``"nitrogen"``, ``"phosphorus"`` and
    ``"sulfur"`` of nothing, as far as its formulas tell; None where that cannot be known, for want of the carriers that
    would show it, or of any formula with the element in it, or because the solver fails."""
    return ClosedCells(network).made


class ClosedCells:
    """Networks whose exchanges are shut, one for each thing that a network must not make of nothing.

    Attributes:
        made: as :func:`made_of_nothing` has it.
    """

    def __init__(self, network: Network):
        self._cells = _cells(network)
        self.made = {product: cell and _makes_anything(cell) for product, cell in self._cells.items()}

    def closing(self, added: Sequence[Way], enough: int | None = None) -> dict[int, str]:
        """Which of some reactions let the network make something of nothing, with those before them that do not.

        Args:
            added: the reactions.
            enough: so many that do not are looked for; all where not given.

        Returns:
            Their positions, and what they let it make. What the network makes of nothing without them, or what cannot
            be known of it, counts against none.
        """
        enough = len(added) if enough is None else enough
        found: dict[int, str] = {}
        kept: list[int] = []
        rest = list(range(len(added)))
        while rest and len(kept) < enough:
            # More reactions never make less: those before the last that is used are tried until they make nothing.
            tried = [*kept, *rest[: enough - len(kept)]]
            last, product = tried[-1], ""
            while made := self._making([added[place] for place in tried], product):
                product, used = made
                last, tried = tried[used], tried[:used]
            if product:
                found[last] = product
            kept, rest = tried, [place for place in rest if place > last]
        return found

    def _making(self, ways: Sequence[Way], first: str) -> tuple[str, int] | None:
        """What is made with some reactions, and the last of them that it takes; ``first`` is tried first."""
        for product in sorted(self.made, key=lambda product: product != first):
            if self.made[product] is False and (used := self._cells[product].makes(ways)):
                return product, used[-1]
        return None


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

    def makes(self, added: Sequence[Way] = ()) -> list[int] | None:
        """The added reactions that it takes to gain something, in order; the later ones are avoided. None where there
        is nothing to gain."""
        # What is added counts by the size of its flux: each direction is a column of its own.
        back = [(place, way) for place, way in enumerate(added) if way.reversible]
        columns = [
            *((way.terms, 1.0, -_MOST if way.reversible else 0.0) for way in self.ways),
            *((way.terms, 1.0, 0.0) for way in added),
            *((way.terms, -1.0, 0.0) for _, way in back),
        ]
        rows: dict[int, int] = {}
        entries = [
            (rows.setdefault(metabolite, len(rows)), column, sign * coefficient)
            for column, (terms, sign, _) in enumerate(columns)
            for metabolite, coefficient in terms.items()
            if abs(coefficient) > NOTHING
        ]
        row, column, coefficient = zip(*entries, strict=True)
        own, places = len(self.ways), np.asarray([*range(len(added)), *(place for place, _ in back)], int)
        gains = np.pad(np.asarray(self.gains), (0, len(columns) - len(self.gains)))
        solved = linprog(
            np.concatenate([np.zeros(own), 1.0 + places]),
            A_ub=csc_array(-gains[None]),
            b_ub=[-_SOME],
            A_eq=csc_array((coefficient, (row, column)), shape=(len(rows), len(columns))),
            b_eq=np.zeros(len(rows)),
            bounds=[(least, _MOST) for _, _, least in columns],
            method="highs",
        )
        if solved.status == _INFEASIBLE:
            return None
        if solved.status:
            raise RunError(f"{self.name}: its closed cell cannot be solved: {solved.message}")
        fluxes = solved.x[own:]
        return sorted(set(places[fluxes > NOTHING * np.max(fluxes, initial=0.0)].tolist()))


def _makes_anything(cell: _Cell) -> bool | None:
    """None where the solver fails."""
    try:
        return cell.makes() is not None
    except RunError:
        return None


def _cells(network: Network) -> dict[str, _Cell | None]:
    ways = [
        Way(reaction.stoichiometry, reaction.reversible)
        for reaction in network.reactions
        if network.kind(reaction) != "exchange" and not reaction.shut and not reaction.crosses
    ]

    def cell(sinks: Sequence[tuple[Mapping[int, float], float]], free: Iterable[int]) -> _Cell | None:
        """One that gains by sinks, ``(terms, gain)``, and where some metabolites come and go."""
        opened = [Way({place: -1.0}, True) for place in free]
        takes = [Way(terms, False) for terms, _ in sinks]
        return _Cell(network.name, [*takes, *opened, *ways], [gain for _, gain in sinks]) if sinks else None

    places = _places(network)

    def spending(*reactions: Mapping[str, float]) -> list[tuple[Mapping[int, float], float]]:
        return [(terms, 1.0) for carriers in reactions if (terms := _reaction(places, carriers))]

    # Of protons authors write other numbers at other charges. Where they make a gradient, outside, they stay.
    protons = [place for key, place in places.items() if key == ("proton", CYTOSOL)]
    inert = [place for (name, _), place in places.items() if name in ("proton", "water")]
    cells = {"ATP": cell(spending(_HYDROLYSIS), protons), "electrons": cell(spending(*_OXIDATIONS), inert)}
    known = [(place, m.elements) for place, m in enumerate(network.metabolites) if m.elements is not None]
    for name, symbol in _ELEMENTS.items():
        # What holds the element may leave, what surely holds none may come and go; a group may hold some.
        sinks = [({place: -1.0}, elements[symbol]) for place, elements in known if elements.get(symbol)]
        cells[name] = cell(sinks, [place for place, elements in known if not elements.keys() & {symbol, *GROUPS}])
    return cells


def _reaction(places: Mapping[tuple[str, str], int], terms: Mapping[str, float]) -> dict[int, float] | None:
    """A reaction in the cytosol; None where it lacks one of the compounds, or takes two of them for one."""
    found = {places.get((name, CYTOSOL)): coefficient for name, coefficient in terms.items()}
    return None if None in found or len(found) < len(terms) else found


def _places(network: Network) -> dict[tuple[str, str], int]:
    """Where the compounds that carry energy and electrons are, protons and water: ``(name, compartment)``."""
    name_of = {
        (scheme, text): name
        for name, texts in _COMPOUNDS.items()
        for scheme, text in zip(_SCHEMES, texts, strict=False)
    }
    places: dict[tuple[str, str], int] = {}
    for place, metabolite in enumerate(network.metabolites):
        names = {name_of[key] for key in evidence(metabolite) if key in name_of}
        if is_proton(metabolite):
            names.add("proton")
        for name in names:
            places.setdefault((name, metabolite.compartment), place)
    return places
