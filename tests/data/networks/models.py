"""Small metabolic models, as files."""

from pathlib import Path

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level3/version1/core" level="3" version="1"
  xmlns:fbc="http://www.sbml.org/sbml/level3/version1/fbc/version2" fbc:required="false">
<model id="{name}" name="{name} of a microbe" fbc:strict="false">
<listOfCompartments>
  <compartment id="c" name="Cytosol" constant="true"/><compartment id="e" name="Extracellular" constant="true"/>
  <compartment id="b" constant="true"/>
</listOfCompartments>
"""
_ANNOTATION = """<annotation><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
  xmlns:bqbiol="http://biomodels.net/biology-qualifiers/"><rdf:Description rdf:about="#meta_{id}"><bqbiol:is><rdf:Bag>
  <rdf:li rdf:resource="{uri}"/></rdf:Bag></bqbiol:is></rdf:Description></rdf:RDF></annotation>"""


def species(
    id: str, name: str = "", formula: str = "", charge: int | None = None, uri: str = "", notes: str = ""
) -> str:
    compartment = id.rsplit("_", 1)[-1]
    fbc = (f' fbc:chemicalFormula="{formula}"' if formula else "") + (
        "" if charge is None else f' fbc:charge="{charge}"'
    )
    inside = (f'<notes><p xmlns="http://www.w3.org/1999/xhtml">{notes}</p></notes>' if notes else "") + (
        _ANNOTATION.format(id=id, uri=uri) if uri else ""
    )
    return (
        f'<species id="{id}" metaid="meta_{id}" name="{name or id}" compartment="{compartment}" constant="false" '
        f'hasOnlySubstanceUnits="true" boundaryCondition="{str(compartment == "b").lower()}"{fbc}>{inside}</species>\n'
    )


def reaction(id: str, terms: dict[str, float | None], reversible: bool = False) -> str:
    def side(name, chosen):
        references = "".join(
            f'<speciesReference species="{s}" constant="true"'
            + ("" if c is None else f' stoichiometry="{abs(c)}"')
            + "/>"
            for s, c in chosen.items()
        )
        return f"<listOf{name}>{references}</listOf{name}>" if chosen else ""

    consumed = {s: c for s, c in terms.items() if c is not None and c < 0}
    made = {s: c for s, c in terms.items() if c is None or c > 0}
    return (
        f'<reaction id="{id}" fast="false" reversible="{str(reversible).lower()}">'
        f"{side('Reactants', consumed)}{side('Products', made)}</reaction>\n"
    )


def write_model(path: Path, species: list[str], reactions: list[str]) -> Path:
    content = _HEAD.format(name=path.name.split(".")[0])
    content += f"<listOfSpecies>{''.join(species)}</listOfSpecies>\n"
    content += f"<listOfReactions>{''.join(reactions)}</listOfReactions>\n</model></sbml>\n"
    path.write_text(content)
    return path


def state_bounds(path: Path, bounds: dict[str, tuple[float, float]], dialect: str) -> Path:
    """States flux bounds of reactions in a written model, in one of the three ways there are: ``law``, ``fbc1``,
    ``fbc2``. Of each sign there is one value."""
    text = path.read_text()
    if dialect == "law":
        for reaction, sides in bounds.items():
            values = zip(("LOWER", "UPPER"), sides, strict=True)
            limits = "".join(f'<localParameter id="{side}_BOUND" value="{value}"/>' for side, value in values)
            law = f"<kineticLaw><listOfLocalParameters>{limits}</listOfLocalParameters></kineticLaw>"
            head, tail = text.split(f'<reaction id="{reaction}"')
            text = f'{head}<reaction id="{reaction}"{tail.replace("</reaction>", f"{law}</reaction>", 1)}'
    if dialect == "fbc1":
        stated = "".join(
            f'<fbc:fluxBound fbc:reaction="{reaction}" fbc:operation="{side}" fbc:value="{value}"/>'
            for reaction, sides in bounds.items()
            for side, value in zip(("greaterEqual", "lessEqual"), sides, strict=True)
        )
        text = text.replace("fbc/version2", "fbc/version1").replace(' fbc:strict="false"', "")
        text = text.replace("</model>", f"<fbc:listOfFluxBounds>{stated}</fbc:listOfFluxBounds></model>")
    if dialect == "fbc2":
        name = {
            value: "low" if value < 0 else "high" if value > 0 else "none" for pair in bounds.values() for value in pair
        }
        parameters = "".join(f'<parameter id="{i}" value="{v}" constant="true"/>' for v, i in name.items())
        text = text.replace("<listOfReactions>", f"<listOfParameters>{parameters}</listOfParameters><listOfReactions>")
        for reaction, (lower, upper) in bounds.items():
            own = f'<reaction id="{reaction}"'
            text = text.replace(own, f'{own} fbc:lowerFluxBound="{name[lower]}" fbc:upperFluxBound="{name[upper]}"')
    path.write_text(text)
    return path


def state_objective(path: Path, reaction: str) -> Path:
    """States in a written model with bounds in ``fbc2`` that a reaction is its objective."""
    flux = f'<fbc:fluxObjective fbc:reaction="{reaction}" fbc:coefficient="1"/>'
    objective = (
        f'<fbc:objective fbc:id="most" fbc:type="maximize"><fbc:listOfFluxObjectives>{flux}'
        "</fbc:listOfFluxObjectives></fbc:objective>"
    )
    stated = f'<fbc:listOfObjectives fbc:activeObjective="most">{objective}</fbc:listOfObjectives>'
    path.write_text(path.read_text().replace("</model>", f"{stated}</model>"))
    return path
