"""Adds reactions to a draft's SBML, in the way in which the file itself names things and states bounds.

Whatever else the file holds is written as it was: objectives, genes, notes, units.
"""

import bz2
import dataclasses
import functools
import gzip
import lzma
import re
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from astrojax.data.networks.network import EXTRACELLULAR
from astrojax.data.networks.sbml import OPENERS, parse_sbml, read_network
from astrojax.errors import RequestError
from astrojax.files import write_atomically

_PACKERS = {".gz": functools.partial(gzip.compress, mtime=0), ".bz2": bz2.compress, ".xz": lzma.compress}

# Of annotations that cobrapy and others pass by.
_NAMESPACE = "urn:astrojax:gapfill"

# What a reaction may carry where a file has no example, mmol gDW-1 h-1: the bounds that cobrapy takes for none.
_UNLIMITED = 1000.0

# What the fbc package takes for a formula.
_FBC_FORMULA = re.compile(r"(?:[A-Z][a-z]*\d*)+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewSpecies:
    """A compound in a compartment where the draft lacks it.

    Attributes:
        id: without prefix and compartment.
        name: for people.
        compartment: as in :class:`astrojax.data.networks.network.Metabolite`.
        formula: such as ``"C6H12O6"``; None where it is not known.
        charge: electric; None where it is not known.
        references: ``(database, accession)``, the databases as in identifiers.org.
    """

    id: str
    name: str
    compartment: str
    formula: str | None = None
    charge: float | None = None
    references: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Addition:
    """A reaction to add.

    Attributes:
        id: as elsewhere; it is written with the file's prefix, and a number where it is taken.
        name: for people.
        terms: ``(species, coefficient)``, below 0 where it is consumed: the id of one that the draft has, or a new one.
        reversible: whether it runs both ways.
        probability: that the organism has it.
        networks: which networks have it.
        references: ``(database, accession)``, the databases as in identifiers.org.
    """

    id: str
    name: str
    terms: tuple[tuple[str | NewSpecies, float], ...]
    reversible: bool
    probability: float
    networks: tuple[str, ...]
    references: tuple[tuple[str, str], ...] = ()


def write_filled(draft: Path, out: Path, additions: Sequence[Addition]) -> list[str]:
    """Copies a model with reactions added, and returns the ids that they have in it.

    Args:
        draft: SBML of level 2 or 3, plain or compressed.
        out: likewise, compressed where its suffix says so.
        additions: new species that are equal are one.

    Raises:
        RequestError: the draft cannot be read (see :func:`astrojax.data.networks.sbml.read_network`) or not be written
            again as it was, is of level 1, or has no compartment of a new species.
    """
    import libsbml

    document = parse_sbml(draft)
    if document.getLevel() == 1:
        raise RequestError(f"{draft}: SBML of level 1, where names are identifiers; convert it to level 3 first")
    _check_kept(draft, libsbml.writeSBMLToString(document))
    editor = _Editor(draft, document)
    identifiers = [editor.add(addition) for addition in additions]
    content = libsbml.writeSBMLToString(document).encode()
    write_atomically(out, _PACKERS.get(out.suffix, bytes)(content))
    return identifiers


def _check_kept(path: Path, written: str) -> None:
    """libsbml drops what it does not understand without a word, such as bounds in a namespace that nobody declared."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            held = Counter(element.tag for _, element in ET.iterparse(file) if not _is_empty_list(element))
    except ET.ParseError as error:
        raise RequestError(f"{path}: no XML that can be compared with what is written: {error}") from error
    if lost := held - Counter(element.tag for element in ET.fromstring(written.encode()).iter()):
        tag, count = lost.most_common(1)[0]
        raise RequestError(f"{path}: would lose {count} elements that libsbml cannot read, such as {tag}")


def _is_empty_list(element: ET.Element) -> bool:
    return not len(element) and element.tag.rpartition("}")[2].startswith("listOf")


class _Editor:
    """A document that grows."""

    def __init__(self, path: Path, document):
        self._path = path
        self._model = document.getModel()
        elements = document.getListOfAllElements()
        elements = [elements.get(i) for i in range(elements.getSize())]
        # Identifiers and metaids are names of two kinds; what is free of both serves as either.
        self._taken = {e.getIdAttribute() for e in elements} | {e.getMetaId() for e in elements}
        self._prefixes = {
            kind: _prefix(kind, [element.getId() for element in members])
            for kind, members in (("R_", self._model.getListOfReactions()), ("M_", self._model.getListOfSpecies()))
        }
        # Where the reader says "c", the file's own compartment of most such species.
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for metabolite in read_network(path).metabolites:
            found[metabolite.compartment][self._model.getSpecies(metabolite.id).getCompartment()] += 1
        self._compartments = {kind: counts.most_common(1)[0][0] for kind, counts in found.items()}
        self._new: dict[NewSpecies, str] = {}
        self._set_bounds = _bounds(self._model, self._free)

    def add(self, addition: Addition) -> str:
        species = [(s if isinstance(s, str) else self._species(s, addition), c) for s, c in addition.terms]
        reaction = self._reaction(addition.id.removeprefix("R_"), addition.name, species, addition.reversible)
        probability, networks = f"{addition.probability:.4g}", " ".join(addition.networks)
        reaction.setNotes(_notes({"GAPFILL_PROBABILITY": probability, "GAPFILL_NETWORKS": networks}))
        reaction.setAnnotation(
            f'<annotation><gapfill xmlns="{_NAMESPACE}" probability="{probability}" networks={quoteattr(networks)}/>'
            "</annotation>"
        )
        self._refer(reaction, addition.references)
        return reaction.getId()

    def _reaction(self, identifier: str, name: str, species: Sequence[tuple[str, float]], reversible: bool):
        reaction = self._model.createReaction()
        reaction.setId(self._free(_identifier(self._prefixes["R_"] + identifier)))
        reaction.setName(name)
        reaction.setReversible(reversible)
        if (self._model.getLevel(), self._model.getVersion()) == (3, 1):
            reaction.setFast(False)
        for place, coefficient in species:
            member = reaction.createReactant() if coefficient < 0 else reaction.createProduct()
            member.setSpecies(place)
            member.setStoichiometry(abs(coefficient))
            if self._model.getLevel() == 3:
                member.setConstant(True)
        self._set_bounds(reaction)
        return reaction

    def _species(self, new: NewSpecies, addition: Addition) -> str:
        if new in self._new:
            return self._new[new]
        if new.compartment not in self._compartments:
            raise RequestError(f"{self._path}: no compartment {new.compartment}, which {addition.id} needs")
        species = self._model.createSpecies()
        self._new[new] = self._free(_identifier(self._prefixes["M_"] + new.id), _identifier(f"_{new.compartment}"))
        species.setId(self._new[new])
        species.setName(new.name)
        species.setCompartment(self._compartments[new.compartment])
        species.setBoundaryCondition(False)
        species.setConstant(False)
        species.setHasOnlySubstanceUnits(False)
        notes = {}
        fbc = species.getPlugin("fbc")
        if new.formula and not (fbc and _FBC_FORMULA.fullmatch(new.formula)):
            notes["FORMULA"] = new.formula
        elif new.formula:
            fbc.setChemicalFormula(new.formula)
        if new.charge is not None and not (fbc and new.charge.is_integer()):
            notes["CHARGE"] = f"{new.charge:g}"
        elif new.charge is not None:
            fbc.setCharge(int(new.charge))
        if notes:
            species.setNotes(_notes(notes))
        self._refer(species, new.references)
        if new.compartment == EXTRACELLULAR:
            # Nothing else lets it leave, and what cannot leave cannot be made.
            way = f"EX_{species.getId().removeprefix('M_')}"
            self._reaction(way, f"{new.name} exchange", [(species.getId(), -1.0)], reversible=False)
        return self._new[new]

    def _refer(self, element, references: Iterable[tuple[str, str]]) -> None:
        import libsbml

        if not references:
            return
        element.setMetaId(self._free(f"meta_{element.getId()}"))
        term = libsbml.CVTerm(libsbml.BIOLOGICAL_QUALIFIER)
        term.setBiologicalQualifierType(libsbml.BQB_IS)
        for database, accession in references:
            term.addResource(f"https://identifiers.org/{database}/{accession}")
        element.addCVTerm(term)

    def _free(self, identifier: str, suffix: str = "") -> str:
        """An identifier that nothing has yet, and which it takes."""
        free, number = identifier + suffix, 1
        while free in self._taken:
            number += 1
            free = f"{identifier}_{number}{suffix}"
        self._taken.add(free)
        return free


def _bounds(model, free: Callable[[str], str]) -> Callable[[Any], None]:
    """What gives a new reaction its bounds: as the file states those of others. Where it states none, in the way of its
    level, as cobrapy lets a reaction without any run both ways."""
    reactions = list(model.getListOfReactions())
    plugins = [plugin for r in reactions if (plugin := r.getPlugin("fbc")) and plugin.isSetUpperFluxBound()]
    laws = [law for r in reactions if (law := r.getKineticLaw()) and law.getParameter("UPPER_BOUND")]
    fbc = model.getPlugin("fbc")
    in_package = plugins or (fbc and fbc.getNumFluxBounds())
    if laws and not in_package:
        return _by_kinetic_laws(laws)
    if fbc and fbc.getPackageVersion() > 1:
        return _by_shared_parameters(model, plugins, free)
    if fbc:
        return _by_list(fbc)
    return _by_new_laws


def _by_shared_parameters(model, plugins, free: Callable[[str], str]) -> Callable[[Any], None]:
    """As version 2 of the fbc package."""
    values = {parameter.getId(): parameter.getValue() for parameter in model.getListOfParameters()}
    lower = Counter(name for plugin in plugins if (name := plugin.getLowerFluxBound()) in values)
    upper = Counter(name for plugin in plugins if (name := plugin.getUpperFluxBound()) in values)
    lowest, highest = _widest(*([values[name] for name in names.elements()] for names in (lower, upper)))

    @functools.cache
    def parameter(side: str, value: float) -> str:
        for name, count in (lower if side == "lower" else upper).most_common():
            # One that a single reaction has may be meant for it alone.
            if values[name] == value and count > 1:
                return name
        created = model.createParameter()
        created.setId(free(f"gapfill_{side}_bound"))
        created.setValue(value)
        created.setConstant(True)
        return created.getId()

    def set_bounds(reaction) -> None:
        plugin = reaction.getPlugin("fbc")
        plugin.setLowerFluxBound(parameter("lower", lowest if reaction.getReversible() else 0.0))
        plugin.setUpperFluxBound(parameter("upper", highest))

    return set_bounds


def _by_list(fbc) -> Callable[[Any], None]:
    """As version 1 of the fbc package."""
    stated = [(bound.getOperation(), bound.getValue()) for bound in fbc.getListOfFluxBounds()]
    lowest, highest = _widest(*([v for kind, v in stated if kind == side] for side in ("greaterEqual", "lessEqual")))

    def set_bounds(reaction) -> None:
        for side, value in (("greaterEqual", lowest if reaction.getReversible() else 0.0), ("lessEqual", highest)):
            bound = fbc.createFluxBound()
            bound.setReaction(reaction.getId())
            bound.setOperation(side)
            bound.setValue(value)

    return set_bounds


def _by_kinetic_laws(laws) -> Callable[[Any], None]:
    """As COBRA models before the package: parameters of a law that is none."""
    sides = ("LOWER_BOUND", "UPPER_BOUND")
    lowest, highest = _widest(*([p.getValue() for law in laws if (p := law.getParameter(side))] for side in sides))

    def set_bounds(reaction) -> None:
        reaction.setKineticLaw(laws[0])
        law = reaction.getKineticLaw()
        law.unsetMetaId()
        bounds = {"LOWER_BOUND": lowest if reaction.getReversible() else 0.0, "UPPER_BOUND": highest}
        for parameter in law.getListOfParameters():
            parameter.unsetMetaId()
            # What else a law has, such as its reaction's share of the objective, is none of the new one's.
            parameter.setValue(bounds.get(parameter.getId(), 0.0))

    return set_bounds


def _by_new_laws(reaction) -> None:
    law = reaction.createKineticLaw()
    create = law.createParameter if law.getLevel() < 3 else law.createLocalParameter
    lowest = -_UNLIMITED if reaction.getReversible() else 0.0
    for name, value in (("LOWER_BOUND", lowest), ("UPPER_BOUND", _UNLIMITED), ("FLUX_VALUE", 0.0)):
        parameter = create()
        parameter.setId(name)
        parameter.setValue(value)
    law.setFormula("FLUX_VALUE")


def _widest(lower: Iterable[float], upper: Iterable[float]) -> tuple[float, float]:
    """The bounds of reactions that nothing limits: the commonest that let them run at all."""
    lowest = Counter(value for value in lower if value < 0).most_common(1)
    highest = Counter(value for value in upper if value > 0).most_common(1)
    return (lowest[0][0] if lowest else -_UNLIMITED), (highest[0][0] if highest else _UNLIMITED)


def _prefix(prefix: str, identifiers: Sequence[str]) -> str:
    """The prefix where most have it. Where it is not the file's habit, none."""
    return prefix if 2 * sum(i.startswith(prefix) for i in identifiers) > len(identifiers) else ""


def _identifier(text: str) -> str:
    """Text with what SBML does not allow in identifiers replaced; none begins with a digit."""
    return re.sub(r"^(?=\d)|\W", "_", text, flags=re.ASCII)


def _notes(lines: dict[str, str]) -> str:
    """As old COBRA models have them, which cobrapy reads."""
    body = "".join(f"<p>{key}: {escape(value)}</p>" for key, value in lines.items())
    return f'<notes><body xmlns="http://www.w3.org/1999/xhtml">{body}</body></notes>'
