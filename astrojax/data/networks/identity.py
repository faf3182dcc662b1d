"""Which metabolites of different networks are one compound, and which reactions are one.

Models name what they hold by different schemes. Two metabolites are taken for one compound where they share an
accession of a database, an identifier, or a name, unless their formulas differ in an element other than hydrogen (whose
number follows the charge that an author wrote it at) or one network holds both in one compartment, which means that it
tells them apart.
"""

import dataclasses
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from astrojax.data.networks.identifiers import accession, plain, split_identifier
from astrojax.data.networks.network import NOTHING, Metabolite, Network, Reaction

# Databases whose accessions mean one compound, the surest first. ChEBI's do not: models list every protonation state.
DATABASES = ("metanetx.chemical", "inchikey", "bigg.metabolite", "seed.compound", "kegg.compound", "biocyc", "name")

Elements = frozenset[tuple[str, float]]

# Stands for protons in what makes two reactions one: after all compounds.
PROTON = sys.maxsize


@dataclasses.dataclass(frozen=True, eq=False)
class Compounds:
    """The compounds of several networks.

    Attributes:
        of: for each network the compound of each metabolite, as positions in ``members``.
        members: of each compound, ``(network, metabolite)`` positions.
        refused: how many times an accession or name would have joined what formulas or a network tell apart.
    """

    of: tuple[tuple[int, ...], ...]
    members: tuple[tuple[tuple[int, int], ...], ...]
    refused: int


def identify(networks: Sequence[Network]) -> Compounds:
    """Finds the compounds of networks. The result depends on their order only where evidence contradicts itself."""
    metabolites = [(n, i) for n, network in enumerate(networks) for i in range(len(network.metabolites))]
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (n, i) in enumerate(metabolites):
        for key in evidence(networks[n].metabolites[i]):
            groups[key].append(place)
    clusters = Clusters(
        [skeleton(networks[n].metabolites[i].elements) for n, i in metabolites],
        [(n, networks[n].metabolites[i].compartment) for n, i in metabolites],
    )
    refused = 0
    for key in surest_first(groups):
        apart: list[int] = []
        for place in groups[key]:
            if not any(clusters.join(one, place) for one in apart):
                apart.append(place)
        refused += len(apart) - 1
    roots = [clusters.root(place) for place in range(len(metabolites))]
    number = {root: i for i, root in enumerate(dict.fromkeys(roots))}
    of: list[list[int]] = [[] for _ in networks]
    members: list[list[tuple[int, int]]] = [[] for _ in number]
    for (n, i), root in zip(metabolites, roots, strict=True):
        of[n].append(number[root])
        members[number[root]].append((n, i))
    return Compounds(tuple(map(tuple, of)), tuple(map(tuple, members)), refused)


def reaction_key(network: Network, reaction: Reaction, compound_of: Sequence[int]) -> frozenset[tuple[int, str, float]]:
    """What makes a reaction the same in every network: :func:`stoichiometry_key` of its terms."""
    members = [(i, network.metabolites[i], c) for i, c in reaction.stoichiometry.items()]
    return stoichiometry_key((PROTON if is_proton(m) else compound_of[i], m.compartment, c) for i, m, c in members)


def stoichiometry_key(terms: Iterable[tuple[int, str, float]]) -> frozenset[tuple[int, str, float]]:
    """``(compound, compartment, coefficient)`` of a reaction's terms, alike for all ways to write it; empty where there
    is nothing but protons.

    Coefficients are relative to the smallest, and of the two directions it takes the same one always. What happens in
    another compartment is another reaction: a network may have both. Of protons authors write other numbers at other
    charges: they count only where a reaction has them in several compartments, and by where they come from and go
    alone. What pumps them is another reaction than the same without.

    Args:
        terms: protons have the number ``PROTON``.
    """
    places: list[tuple[int, str, float]] = []
    protons: dict[str, float] = {}
    for compound, where, c in terms:
        if compound == PROTON:
            protons[where] = protons.get(where, 0.0) + c
        else:
            places.append((compound, where, c))
    if not places:
        return frozenset()
    smallest = min(abs(c) for _, _, c in places)
    scaled = [(compound, where, round(c / smallest, 3)) for compound, where, c in places]
    moved = [(PROTON, where, math.copysign(1.0, c)) for where, c in protons.items() if abs(c) > NOTHING]
    scaled += moved if len(moved) > 1 else []
    return frozenset(max(sorted(scaled), sorted((compound, where, -c) for compound, where, c in scaled)))


def evidence(metabolite: Metabolite) -> Iterator[tuple[str, str]]:
    """What a metabolite is known by: ``(one of DATABASES, accession or name)``, of references, identifier and name."""
    for database, text in metabolite.references:
        if database == "bigg.metabolite":
            yield database, plain(text)
        elif database in DATABASES:
            yield database, text
    identifier = split_identifier(metabolite.id).compound
    if key := accession(identifier):
        yield key
    name = plain(metabolite.name)
    if metabolite.name != metabolite.id and name != plain(identifier) and not name.isdigit() and len(name) > 1:
        yield "name", name


def surest_first(keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pieces of evidence in the order in which they count."""
    return sorted(keys, key=lambda key: (DATABASES.index(key[0]), key[1]))


def skeleton(elements: Mapping[str, float] | None) -> Elements | None:
    """Elements without hydrogen; hydrogen alone keeps it."""
    if elements is None:
        return None
    heavy = frozenset((symbol, n) for symbol, n in elements.items() if symbol != "H")
    return heavy or frozenset(elements.items())


def is_proton(metabolite: Metabolite) -> bool:
    """Whether it is the hydrogen ion, by its formula or identifier."""
    return metabolite.elements == {"H": 1} or split_identifier(metabolite.id).compound in ("h", "cpd00067", "C00080")


class Clusters:
    """Disjoint sets that refuse to join what must stay apart."""

    def __init__(self, skeletons: list[Elements | None], places: list[tuple[int, str]]):
        self._parent = list(range(len(places)))
        self._skeleton = skeletons
        self._places = [{place} for place in places]

    def root(self, member: int) -> int:
        while self._parent[member] != member:
            self._parent[member] = member = self._parent[self._parent[member]]
        return member

    def join(self, one: int, other: int) -> bool:
        """Makes two sets one; False, and nothing, where their formulas differ or they hold two of one compartment."""
        one, other = self.root(one), self.root(other)
        if one == other:
            return True
        formulas = self._skeleton[one], self._skeleton[other]
        if (None not in formulas and formulas[0] != formulas[1]) or self._places[one] & self._places[other]:
            return False
        if len(self._places[one]) < len(self._places[other]):
            one, other = other, one
        self._parent[other] = one
        self._skeleton[one] = formulas[0] if formulas[0] is not None else formulas[1]
        self._places[one] |= self._places[other]
        return True
