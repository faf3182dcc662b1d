import gzip
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from astrojax.data.networks.sbml import read_network
from astrojax.data.networks.writing import Addition, NewSpecies, write_filled
from astrojax.errors import RequestError
from tests.data.networks.models import reaction, species, state_bounds, write_model
from tests.data.networks.test_sbml import KINASE, KINASE_SPECIES

LEGACY = Path("data/metabolic/MODEL1311070000.xml.gz")  # Level 2, bounds in kinetic laws.
ONE_COMPARTMENT = Path("data/metabolic/MODEL1507180063.xml.gz")  # Where a metabolite is stands in its identifier.

OLDEST = """<?xml version="1.0" encoding="UTF-8"?><sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2">
<model name="m">
<listOfCompartments><compartment name="c"/></listOfCompartments>
<listOfSpecies><species name="a_c" compartment="c" initialAmount="0"/></listOfSpecies>
<listOfReactions><reaction name="R"><listOfReactants><speciesReference species="a_c"/></listOfReactants></reaction>
</listOfReactions></model></sbml>"""

FRUCTOSE = NewSpecies(
    id="f6p",
    name="Fructose 6-phosphate <beta>",
    compartment="c",
    formula="C6H11O9P",
    charge=-2.0,
    references=(("kegg.compound", "C05345"), ("seed.compound", "cpd00072")),
)


def additions(g6p, atp, adp):
    """An isomerase that runs both ways and a kinase that does not, both of a species that is new."""
    common = {"probability": 0.87654, "networks": ("iJO1366", "R&D")}
    return [
        Addition(id="R_PGI", name="isomerase", terms=((g6p, -1), (FRUCTOSE, 1)), reversible=True, **common),
        Addition(id="HEX", name="3'-kinase", terms=((FRUCTOSE, -1), (atp, -2), (adp, 2)), reversible=False, **common),
    ]


def draft(folder, dialect):
    """Two kinases, and a reaction back that runs both ways, in a file that states bounds one way or another."""
    twice = [KINASE, KINASE.replace("R_HEX", "R_GLK"), reaction("R_back", {"M_g6p_c": -1, "M_glc__D_c": 1}, True)]
    path = write_model(folder / "draft.xml", KINASE_SPECIES, twice)
    return state_bounds(path, {"R_HEX": (0, 999), "R_GLK": (0, 999), "R_back": (-999, 999)}, dialect)


def read_by_cobrapy(*files):
    """Of each file what cobrapy, in a process of its own, reads of what was added: bounds, equation, notes."""
    script = """
import json, logging, sys
logging.disable(logging.CRITICAL)
import cobra
print(json.dumps([
    {r.id: [r.bounds, r.reaction, r.notes] for r in model.reactions if "GAPFILL_PROBABILITY" in r.notes}
    for model in map(cobra.io.read_sbml_model, sys.argv[1:])
]))
"""
    command = [sys.executable, "-c", script, *map(str, files)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("dialect", ["none", "fbc1", "fbc2"])
def test_what_was_there_stays_and_what_was_added_is_read_again(tmp_path, dialect):
    path = draft(tmp_path, dialect)
    before = read_network(path)
    write_filled(path, tmp_path / "filled.xml", additions("M_g6p_c", "M_atp_c", "M_adp_c"))
    after = read_network(tmp_path / "filled.xml")
    assert after.metabolites[: len(before.metabolites)] == before.metabolites
    assert after.reactions[: len(before.reactions)] == before.reactions
    assert after.remarks == before.remarks  # Where the draft states no bounds, what is added does.
    (new,) = after.metabolites[len(before.metabolites) :]
    assert (new.id, new.name, new.compartment) == ("M_f6p_c", FRUCTOSE.name, "c")
    assert (new.elements, new.charge) == ({"C": 6, "H": 11, "O": 9, "P": 1}, -2)
    assert new.references == set(FRUCTOSE.references)
    isomerase, kinase = after.reactions[len(before.reactions) :]
    assert (isomerase.id, kinase.id) == ("R_PGI", "R_HEX_2")  # The draft has a HEX already.
    assert (isomerase.reversible, kinase.reversible) == (True, False)
    places = {m.id: i for i, m in enumerate(after.metabolites)}
    assert isomerase.stoichiometry == {places["M_g6p_c"]: -1, places["M_f6p_c"]: 1}
    assert kinase.stoichiometry == {places["M_f6p_c"]: -1, places["M_atp_c"]: -2, places["M_adp_c"]: 2}
    text = (tmp_path / "filled.xml").read_text()
    assert 'probability="0.8765" networks="iJO1366 R&amp;D"' in text


def test_cobrapy_reads_bounds_of_every_dialect(tmp_path):
    files = []
    for dialect in ("none", "fbc1", "fbc2"):
        (tmp_path / dialect).mkdir()
        files.append(tmp_path / f"{dialect}.xml")
        write_filled(draft(tmp_path / dialect, dialect), files[-1], additions("M_g6p_c", "M_atp_c", "M_adp_c"))
    for path, suffix in ((LEGACY, "_c"), (ONE_COMPARTMENT, "_LSQBKTc_RSQBKT")):
        files.append(tmp_path / f"{suffix}.xml.gz")
        write_filled(path, files[-1], additions(*(f"M_{name}{suffix}" for name in ("pep", "atp", "adp"))))
    # Level 2 without bounds.
    old = Path("data/metabolic/MODEL1011080003.xml.gz")
    files.append(tmp_path / "old.xml.gz")
    write_filled(old, files[-1], additions("M_pep_c", "M_atp_c", "M_adp_c"))
    for file, found in zip(files, read_by_cobrapy(*files), strict=True):
        limit = 999 if file.name.startswith("fbc") else 1000
        (isomerase, kinase) = found.values()
        assert isomerase[0] == [-limit, limit]
        assert kinase[0] == [0, limit]
        assert re.fullmatch(r"(g6p|pep)\S* <=> f6p\S*", isomerase[1])
        assert isomerase[2] == {"GAPFILL_PROBABILITY": "0.8765", "GAPFILL_NETWORKS": "iJO1366 R&amp;D"}


def test_a_file_that_shares_no_parameters_gets_its_own(tmp_path):
    path = draft(tmp_path, "fbc2")
    text = path.read_text()
    text = text.replace("<listOfParameters>", '<listOfParameters><parameter id="a" value="7" constant="true"/>')
    # Each reaction but one with an upper bound of its own: 999 is no habit any more.
    path.write_text(text.replace('fbc:upperFluxBound="high"', 'fbc:upperFluxBound="a"', 1))
    write_filled(path, tmp_path / "filled.xml", additions("M_g6p_c", "M_atp_c", "M_adp_c"))
    added = ET.parse(tmp_path / "filled.xml").getroot().findall(".//{*}reaction")[-2:]
    names = {key.rsplit("}")[-1]: value for key, value in added[0].attrib.items()}
    assert (names["lowerFluxBound"], names["upperFluxBound"]) == ("gapfill_lower_bound", "high")


def test_nothing_of_an_old_model_is_lost(tmp_path):
    def elements(path):
        with gzip.open(path) as file:
            return Counter(re.sub(r"\{.*\}", "", element.tag) for element in ET.parse(file).iter())

    write_filled(LEGACY, tmp_path / "same.xml.gz", [])
    assert elements(tmp_path / "same.xml.gz") == elements(LEGACY)
    write_filled(LEGACY, tmp_path / "filled.xml.gz", additions("M_pep_c", "M_atp_c", "M_adp_c"))
    added = elements(tmp_path / "filled.xml.gz") - elements(LEGACY)
    assert (added["reaction"], added["species"], added["kineticLaw"]) == (2, 1, 2)


def test_compressed_or_not_it_is_the_same(tmp_path):
    path = draft(tmp_path, "fbc2")
    chosen = additions("M_g6p_c", "M_atp_c", "M_adp_c")
    write_filled(path, tmp_path / "filled.xml", chosen)
    write_filled(path, tmp_path / "filled.xml.gz", chosen)
    packed = (tmp_path / "filled.xml.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "filled.xml").read_bytes()


def test_what_cannot_be_written_is_refused(tmp_path):
    path, out = draft(tmp_path, "fbc2"), tmp_path / "filled.xml"
    elsewhere = NewSpecies(id="f6p", name="f6p", compartment="p")
    terms = (("M_g6p_c", -1.0), (elsewhere, 1.0))
    export = Addition(id="R_OUT", name="export", terms=terms, reversible=True, probability=1.0, networks=())
    with pytest.raises(RequestError, match=r"draft\.xml: no compartment p, which R_OUT needs"):
        write_filled(path, out, [export])
    # Its bounds are in a namespace that it does not declare: libsbml would leave all of them out.
    with pytest.raises(RequestError, match=r"MODEL1510010000\.xml\.gz: would lose 1410 elements .*fluxBound"):
        write_filled(Path("data/metabolic/MODEL1510010000.xml.gz"), out, [])
    (tmp_path / "old.xml").write_text(OLDEST)
    with pytest.raises(RequestError, match=r"old\.xml: SBML of level 1"):
        write_filled(tmp_path / "old.xml", out, [])
    with zipfile.ZipFile(tmp_path / "draft.xml.zip", "w") as packed:
        packed.write(path, "draft.xml")
    with pytest.raises(RequestError, match=r"draft\.xml\.zip: no XML that can be compared"):
        write_filled(tmp_path / "draft.xml.zip", out, [])
    with pytest.raises(RequestError, match=r"nowhere\.xml: no such file"):
        write_filled(tmp_path / "nowhere.xml", out, [])
    assert not out.exists()


def test_lists_of_nothing_are_not_missed(tmp_path):
    path = draft(tmp_path, "fbc2")
    path.write_text(path.read_text().replace("<listOfCompartments>", "<listOfUnitDefinitions/><listOfCompartments>"))
    write_filled(path, tmp_path / "filled.xml", additions("M_g6p_c", "M_atp_c", "M_adp_c"))
    assert "R_PGI" in (tmp_path / "filled.xml").read_text()


def test_what_is_new_outside_the_cell_may_leave_and_says_what_it_is(tmp_path):
    path = draft(tmp_path, "fbc2")
    text = path.read_text()
    outside = species("M_glc__D_e", "D-Glucose", "C6H12O6", 0)
    path.write_text(text.replace("</listOfSpecies>", f"{outside}</listOfSpecies>"))
    fructose = NewSpecies(id="fru", name="Fructose", compartment="e", formula="C6H12O6", charge=0.0)
    terms = (("M_glc__D_c", -1.0), (fructose, 1.0))
    references = (("bigg.reaction", "FRUt"), ("ec-code", "2.7.1.69"))
    export = Addition(
        id="R_FRUt", name="", terms=terms, reversible=False, probability=0.9, networks=(), references=references
    )
    assert write_filled(path, tmp_path / "filled.xml", [export]) == ["R_FRUt"]
    network = read_network(tmp_path / "filled.xml")
    way, added = network.reactions[-2:]
    assert (way.id, network.kind(way), way.reversible) == ("R_EX_fru_e", "exchange", False)
    assert [(network.metabolites[i].id, c) for i, c in way.stoichiometry.items()] == [("M_fru_e", -1.0)]
    assert added.references == set(references)
    assert 'probability="0.9"' in (tmp_path / "filled.xml").read_text()
