"""Reads a metabolic model from SBML of any level: as cobrapy and BioModels write it today, and as authors did.

libsbml parses; what it does not settle is settled here: where formulas and charges are written (the fbc package, an
attribute, notes, the end of a name), what is beyond the boundary, which compartment is which, which way a reaction runs
(by its bounds, where a file states any: its attribute is often left as it was).
"""

import bz2
import dataclasses
import gzip
import lzma
import math
import re
import tempfile
import urllib.parse
import zlib
from collections import Counter
from pathlib import Path

from astrojax.chemistry.formula import parse_formula
from astrojax.data.networks.identifiers import split_identifier
from astrojax.data.networks.network import CYTOSOL, EXTRACELLULAR, PERIPLASM, Metabolite, Network, Reaction
from astrojax.errors import RequestError

OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)

_COMPARTMENTS = {
    CYTOSOL: ("cyto", "intracellular", "cell", "default", "no compartment"),
    PERIPLASM: ("periplasm",),
    EXTRACELLULAR: ("extra", "external", "outside"),
}
_BARRIER = re.compile(r"membrane|wall|envelope", re.IGNORECASE)
_BOUNDARY = re.compile(r"(?:C_)?b|.*boundary.*", re.IGNORECASE)

_REFERENCE = re.compile(r"(?:identifiers\.org/|urn:miriam:)(?:obo\.)?([A-Za-z0-9._-]+)[/:](.+)$")
_DATABASES = {"inchi_key": "inchikey", "kegg": "kegg.compound", "bigg.compound": "bigg.metabolite"}

_SIDES = {"greaterEqual": ("lower",), "lessEqual": ("upper",), "equal": ("lower", "upper")}

_NOTE = {field: re.compile(rf"\b{field}\s*:\s*([^<\s]+)", re.IGNORECASE) for field in ("formula", "charge")}
# A formula that ends a name, as in "M_D_Glucose_C6H12O6".
_FORMULA_AT_END = re.compile(r"_((?:[A-Z][a-z]?\d*){2,})$")


def read_network(path: str | Path) -> Network:
    """Reads one model.

    Args:
        path: SBML, plain or compressed (``.gz``, ``.bz2``, ``.xz``).

    Raises:
        RequestError: there is no such file, it is damaged, not SBML, has no reactions or an infinite coefficient; names
            file and line, or reaction.
    """
    path = Path(path)
    document = parse_sbml(path)
    model = document.getModel()
    remarks: Counter[str] = Counter()
    boundary = {c.getId() for c in model.getListOfCompartments() if _BOUNDARY.fullmatch(c.getId())}
    compartments = {c.getId(): _compartment(c.getId(), c.getName()) for c in model.getListOfCompartments()}
    metabolites, places = [], {}
    for species in model.getListOfSpecies():
        if species.getBoundaryCondition() or species.getCompartment() in boundary:
            places[species.getId()] = None
            continue
        places[species.getId()] = len(metabolites)
        compartment = compartments.get(species.getCompartment(), species.getCompartment())
        metabolites.append(_metabolite(species, compartment, remarks))
    metabolites = _compartments_from_ids(metabolites, remarks)
    bounds = _bounds(model)
    if unbound := model.getNumReactions() - len(bounds):
        remarks["reactions of which no bounds are stated"] += unbound
    reactions = [_reaction(reaction, places, bounds, remarks) for reaction in model.getListOfReactions()]
    for reaction in reactions:
        for place, coefficient in reaction.stoichiometry.items():
            if not math.isfinite(coefficient):
                raise RequestError(f"{path}: reaction {reaction.id} has {coefficient} of {metabolites[place].id}")
    found = [reaction for reaction in reactions if reaction.stoichiometry]
    if len(found) < len(reactions):
        remarks["reactions of nothing within the boundary, left out"] += len(reactions) - len(found)
    if not found:
        raise RequestError(f"{path}: no reactions")
    return Network(
        name=name_of(path),
        organism=model.getName() or model.getId(),
        metabolites=tuple(metabolites),
        reactions=tuple(found),
        remarks=remarks,
    )


def name_of(path: Path) -> str:
    """A file's name without what says how it is written: ``"GCF_1.2"`` of ``GCF_1.2.xml.gz``."""
    name = path.name.removesuffix(path.suffix) if path.suffix in OPENERS else path.name
    return name.removesuffix(".xml").removesuffix(".sbml")


def parse_sbml(path: Path):
    """The document (``libsbml.SBMLDocument``) in a file; errors as :func:`read_network`, which reads it."""
    try:
        import libsbml
    except ImportError as error:
        raise RequestError("reading SBML needs libsbml: pip install -e '.[graphs]'") from error
    with tempfile.TemporaryDirectory() as scratch:
        source = path
        if opener := OPENERS.get(path.suffix):
            # By Python's libraries: libsbml does not notice a file that ends too early.
            source = Path(scratch) / "model.xml"
            try:
                with opener(path) as file:
                    source.write_bytes(file.read())
            except FileNotFoundError as error:
                raise RequestError(f"{path}: no such file") from error
            except _DAMAGED as error:
                raise RequestError(f"{path}: damaged: {error}") from error
        elif not path.is_file():
            raise RequestError(f"{path}: no such file")
        document = libsbml.readSBMLFromFile(str(source))
    errors = [document.getError(i) for i in range(document.getNumErrors())]
    for error in errors:
        # Models as published break many of SBML's rules, such as those on units; what is not XML cannot be read.
        if error.getSeverity() == libsbml.LIBSBML_SEV_FATAL or (
            error.getCategory() == libsbml.LIBSBML_CAT_XML and error.getSeverity() == libsbml.LIBSBML_SEV_ERROR
        ):
            message = " ".join(error.getMessage().split())
            raise RequestError(f"{path}: malformed SBML, line {error.getLine()}: {message}")
    if document.getModel() is None:
        raise RequestError(f"{path}: SBML without a model")
    return document


def _compartment(identifier: str, name: str) -> str:
    """By its name, else by its identifier; those of no known kind keep theirs, as membranes and walls do."""
    if _BARRIER.search(name):
        return identifier
    for text in (name.lower(), identifier.lower()):
        for kind, words in _COMPARTMENTS.items():
            if any(text.startswith(word) for word in words) or re.fullmatch(rf"(?:c_)?{kind}\d?", text):
                return kind
    return identifier


def _compartments_from_ids(metabolites: list[Metabolite], remarks: Counter[str]) -> list[Metabolite]:
    """Some models have one compartment, and say in identifiers where a metabolite is."""
    parts = [split_identifier(m.id) for m in metabolites]
    said = [part.compartment for part in parts]
    if len({m.compartment for m in metabolites}) > 1 or len(set(said)) < 2 or None in said:
        return metabolites
    remarks["metabolites whose compartment is in their identifier alone"] += len(metabolites)
    return [dataclasses.replace(m, compartment=place) for m, place in zip(metabolites, said, strict=True)]


def _metabolite(species, compartment: str, remarks: Counter[str]) -> Metabolite:
    plugin = species.getPlugin("fbc")
    notes = species.getNotesString() if species.isSetNotes() else ""
    name, elements, written = species.getName() or species.getId(), None, ""
    if plugin and plugin.isSetChemicalFormula():
        written = plugin.getChemicalFormula()
    elif match := _NOTE["formula"].search(notes):
        written = match[1]
    elif species.isSetName() and (match := _FORMULA_AT_END.search(name)) and _elements(match[1]):
        written, name = match[1], name[: match.start()]
    if not written:
        remarks["metabolites without a formula"] += 1
    elif (elements := _elements(written)) is None:
        remarks["formulas not understood"] += 1
    charge = None
    if plugin and plugin.isSetCharge():
        charge = float(plugin.getCharge())
    elif species.isSetCharge():
        charge = float(species.getCharge())
    elif (match := _NOTE["charge"].search(notes)) and re.fullmatch(r"[-+]?\d+(?:\.\d+)?", match[1]):
        charge = float(match[1])
    return Metabolite(
        id=species.getId(),
        name=name,
        compartment=compartment,
        elements=elements,
        charge=charge,
        references=_references(species),
    )


def _elements(formula: str) -> dict[str, float] | None:
    try:
        return parse_formula(formula)
    except ValueError:
        return None


def _bounds(model) -> dict[str, tuple[float, float]]:
    """Least and greatest flux of the reactions of which a file states both, in any of the three ways there are."""
    stated: dict[str, dict[str, float]] = {reaction.getId(): {} for reaction in model.getListOfReactions()}
    values = {parameter.getId(): parameter.getValue() for parameter in model.getListOfParameters()}
    for reaction in model.getListOfReactions():
        own, plugin, law = stated[reaction.getId()], reaction.getPlugin("fbc"), reaction.getKineticLaw()
        for side, attribute in (("lower", "LowerFluxBound"), ("upper", "UpperFluxBound")):
            parameter = law.getParameter(f"{side.upper()}_BOUND") if law else None
            if plugin and getattr(plugin, f"isSet{attribute}", bool)():
                own[side] = values.get(getattr(plugin, f"get{attribute}")(), math.nan)
            elif parameter:
                own[side] = parameter.getValue()
    fbc = model.getPlugin("fbc")
    for bound in fbc.getListOfFluxBounds() if fbc else ():
        if bound.getReaction() in stated:
            sides = _SIDES.get(bound.getOperation(), ())
            stated[bound.getReaction()].update(dict.fromkeys(sides, bound.getValue()))
    return {name: (own["lower"], own["upper"]) for name, own in stated.items() if len(own) == 2}


def _reaction(
    reaction, places: dict[str, int | None], bounds: dict[str, tuple[float, float]], remarks: Counter[str]
) -> Reaction:
    stoichiometry: dict[int, float] = {}
    crosses = False
    for side, sign in ((reaction.getListOfReactants(), -1), (reaction.getListOfProducts(), 1)):
        for member in side:
            if member.getSpecies() not in places:
                remarks[f"metabolites that reactions name and the model lacks, such as {member.getSpecies()}"] += 1
                continue
            place, coefficient = places[member.getSpecies()], member.getStoichiometry()
            if coefficient != coefficient:  # NaN is what libsbml has for a coefficient not given: one, by level 2.
                remarks["coefficients not given, taken as 1"] += 1
                coefficient = 1.0
            if place is None:
                crosses = True
            else:
                stoichiometry[place] = stoichiometry.get(place, 0.0) + sign * coefficient
    # A reaction that is shut, 0 to 0, or whose bounds are no range of numbers, is what its attribute says.
    lower, upper = bounds.get(reaction.getId(), (math.nan, math.nan))
    runs = lower <= upper and (lower < 0 or upper > 0)
    backwards = lower < 0 and upper <= 0
    if backwards:
        remarks["reactions that run backwards alone, turned round"] += 1
    return Reaction(
        id=reaction.getId(),
        name=reaction.getName() or reaction.getId(),
        stoichiometry={place: -c if backwards else c for place, c in stoichiometry.items() if c},
        reversible=lower < 0 < upper if runs else reaction.getReversible(),
        shut=lower == upper == 0,
        crosses=crosses,
        references=_references(reaction),
    )


def _references(element) -> frozenset[tuple[str, str]]:
    """What an element is said to be (``bqbiol:is``), not what it has or is described by."""
    import libsbml

    found = set()
    for i in range(element.getNumCVTerms()):
        term = element.getCVTerm(i)
        if term.getBiologicalQualifierType() != libsbml.BQB_IS:
            continue
        for j in range(term.getNumResources()):
            if match := _REFERENCE.search(urllib.parse.unquote(term.getResourceURI(j))):
                database = match[1].lower()
                # MIRIAM repeats the database where its accessions do: chebi/CHEBI:15377. BioCyc's have one of their
                # own: META:WATER.
                accession = re.sub(rf"^{database}:", "", match[2], flags=re.IGNORECASE)
                if database == "biocyc":
                    accession = re.sub(r"^(meta|metacyc\.\w+):", "", accession, flags=re.IGNORECASE)
                # Some write several into one.
                database = _DATABASES.get(database, database)
                found.update((database, one) for text in accession.split(";") if (one := text.strip()))
    return frozenset(found)
