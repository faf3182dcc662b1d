"""A network that a universe was made without: which of the universe's compounds and reactions it has."""

import dataclasses
import functools
from collections import defaultdict

import numpy as np

from astrojax.data.networks.identity import Clusters, evidence, is_proton, reaction_key, skeleton, surest_first
from astrojax.data.networks.network import Network, Reaction
from astrojax.data.networks.universe import UniversalReaction, Universe


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """A network beside a universe.

    Attributes:
        network: the draft.
        matched: of each metabolite the universe's compound, None where it has none.
        present: ``[reaction]`` bool, which of the universe's reactions the draft has.
    """

    network: Network
    matched: tuple[int | None, ...]
    present: np.ndarray

    @functools.cached_property
    def places(self) -> dict[tuple[int, str], int]:
        """``(compound, compartment)`` -> the draft's metabolite."""
        found = zip(self.matched, self.network.metabolites, strict=True)
        return {(c, m.compartment): i for i, (c, m) in enumerate(found) if c is not None}

    @functools.cached_property
    def compounds(self) -> frozenset[int]:
        """Those of the universe that it has, wherever."""
        return frozenset(compound for compound in self.matched if compound is not None)

    @functools.cached_property
    def compartments(self) -> frozenset[str]:
        """Where the draft has metabolites."""
        return frozenset(m.compartment for m in self.network.metabolites)

    def missing(self, reaction: UniversalReaction) -> int:
        """How many of a reaction's compounds it has nowhere."""
        return len({term.compound for term in reaction.terms} - self.compounds)

    def missing_compartments(self, reaction: UniversalReaction) -> list[str]:
        """Where a reaction takes place and the draft has nothing."""
        return sorted({term.compartment for term in reaction.terms} - self.compartments)


def make_draft(universe: Universe, network: Network) -> Draft:
    """Finds a network's compounds and reactions in a universe."""
    matched = match(universe, network)
    return Draft(network, matched, known_reactions(universe, network, matched))


def match(universe: Universe, network: Network) -> tuple[int | None, ...]:
    """Of each metabolite the universe's compound that it is, by the evidence that makes compounds of metabolites.

    Refused where formulas differ in an element other than hydrogen; and two metabolites of one compartment never become
    one compound. What shares nothing with the universe may get there by what shares a name with it in another
    compartment.
    """
    compounds, metabolites = universe.compounds, network.metabolites
    known: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, compound in enumerate(compounds):
        for kind, texts in compound.evidence.items():
            for text in texts:
                known[kind, text].append(place)
    asked: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, metabolite in enumerate(metabolites, start=len(compounds)):
        for key in evidence(metabolite):
            asked[key].append(place)
    clusters = Clusters(
        [skeleton(either.elements) for either in (*compounds, *metabolites)],
        # All compounds in one place: a draft joins none that the universe tells apart.
        [(-1, "")] * len(compounds) + [(0, metabolite.compartment) for metabolite in metabolites],
    )
    for key in surest_first(asked):
        for place in asked[key]:
            any(clusters.join(compound, place) for compound in known.get(key, ()))
        first, *others = asked[key]
        for other in others:
            clusters.join(first, other)
    # A second pool of protons would part reactions that exchange them.
    protons = [place for place, compound in enumerate(compounds) if compound.proton]
    for place, metabolite in enumerate(metabolites, start=len(compounds)):
        if is_proton(metabolite):
            any(clusters.join(proton, place) for proton in protons)
    compound_of = {clusters.root(place): place for place in range(len(compounds))}
    places = range(len(compounds), len(compounds) + len(metabolites))
    return tuple(compound_of.get(clusters.root(place)) for place in places)


def keys_of(network: Network, matched: tuple[int | None, ...]) -> dict[frozenset[tuple[int, str, float]], Reaction]:
    """A network's reactions by what makes them the universe's (:meth:`Universe.key`)."""
    # What is not matched gets numbers that no compound has.
    compound_of = [-1 - i if compound is None else compound for i, compound in enumerate(matched)]
    return {reaction_key(network, reaction, compound_of): reaction for reaction in network.reactions}


def known_reactions(universe: Universe, network: Network, matched: tuple[int | None, ...]) -> np.ndarray:
    """``[reaction]`` bool: which of the universe's reactions a network has, by what makes two reactions one."""
    keys = keys_of(network, matched)
    return np.array([universe.key(reaction) in keys for reaction in universe.reactions], bool)


def could_take(universe: Universe, draft: Draft) -> np.ndarray:
    """``[reaction]`` bool: what a draft may lack: neither makes nor loses an element, and the draft has its compounds
    and its compartments.

    A formula that is not known is no reason to leave a reaction out. The draft may have a compound elsewhere than the
    reaction needs it.
    """

    def takes(reaction: UniversalReaction) -> bool:
        within = not draft.missing(reaction) and not draft.missing_compartments(reaction)
        return within and not universe.imbalance(reaction)

    return ~draft.present & np.array([takes(reaction) for reaction in universe.reactions], bool)
