"""A metabolic network: what an organism can make of what, by which reactions."""

import dataclasses
from collections import Counter
from typing import Literal

from astrojax.chemistry.formula import imbalance

# Where a metabolite is. Other compartments keep a name of their own.
CYTOSOL, PERIPLASM, EXTRACELLULAR = "c", "p", "e"

# Below this a sum of coefficients, such as 0.1 + 0.2 - 0.3, is nothing.
NOTHING = 1e-6

Kind = Literal["internal", "transport", "exchange", "biomass"]

# A reaction of more metabolites than this assembles a cell: its coefficients are measured, not balanced.
_BIOMASS_FROM = 25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metabolite:
    """A compound in a compartment.

    Attributes:
        id: as in the model's file.
        name: for people; the id where there is none.
        compartment: ``"c"``, ``"p"``, ``"e"``, or another name.
        elements: symbol -> number of atoms; None where the formula is not known.
        charge: electric, in elementary charges; None where it is not known.
        references: ``(database, accession)``, the databases as in identifiers.org.
    """

    id: str
    name: str
    compartment: str
    elements: dict[str, float] | None = None
    charge: float | None = None
    references: frozenset[tuple[str, str]] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reaction:
    """What is turned into what.

    Attributes:
        id: as in the model's file.
        name: for people; the id where there is none.
        stoichiometry: position of a metabolite in its network -> coefficient, below 0 where it is consumed.
        reversible: whether it runs both ways.
        shut: its file lets nothing run through it.
        crosses: it also takes from, or gives to, what is beyond the system's boundary and left out here.
        references: ``(database, accession)``.
    """

    id: str
    name: str
    stoichiometry: dict[int, float]
    reversible: bool
    shut: bool = False
    crosses: bool = False
    references: frozenset[tuple[str, str]] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The metabolic network of one organism.

    Attributes:
        name: of the model: its file's name without suffixes.
        organism: the title that the file gives it.
        metabolites: all that reactions name; what is beyond the system's boundary is left out.
        reactions: all that name a metabolite.
        remarks: what the reader had to do, or could not: message -> how often.
    """

    name: str
    organism: str
    metabolites: tuple[Metabolite, ...]
    reactions: tuple[Reaction, ...]
    remarks: Counter[str] = dataclasses.field(default_factory=Counter)

    def kind(self, reaction: Reaction) -> Kind:
        """What a reaction is for.

        An exchange has one side only: it lets something in or out. Biomass is what assembles a cell. A transport moves
        a compound, by name, to another compartment.
        """
        coefficients = reaction.stoichiometry.values()
        if all(c > 0 for c in coefficients) or all(c < 0 for c in coefficients):
            return "exchange"
        if len(coefficients) > _BIOMASS_FROM or "biomass" in f"{reaction.id} {reaction.name}".lower():
            return "biomass"
        compartments = {self.metabolites[i].compartment for i in reaction.stoichiometry}
        return "transport" if len(compartments) > 1 else "internal"

    def imbalance(self, reaction: Reaction) -> dict[str, float] | None:
        """What a reaction makes or loses of each element and, where all charges are known, of ``"charge"``.

        None where a formula is not known; empty where everything balances.
        """
        members = [(self.metabolites[i], coefficient) for i, coefficient in reaction.stoichiometry.items()]
        if any(m.elements is None for m, _ in members):
            return None
        charged = all(m.charge is not None for m, _ in members)
        return imbalance((c, {**m.elements, **({"charge": m.charge} if charged else {})}) for m, c in members)
