import bz2
import gzip
from pathlib import Path

import pytest

from astrojax.data.networks.sbml import name_of, read_network
from astrojax.errors import RequestError
from tests.data.networks.models import reaction, species, state_bounds, write_model

GLUCOSE = species("M_glc__D_c", "D-Glucose", "C6H12O6", 0, "http://identifiers.org/kegg.compound/C00031")
KINASE = reaction("R_HEX", {"M_glc__D_c": -1, "M_atp_c": -1, "M_g6p_c": 1, "M_adp_c": 1, "M_h_c": 1})
KINASE_SPECIES = [
    GLUCOSE,
    species("M_atp_c", "ATP", "C10H12N5O13P3", -4),
    species("M_adp_c", "ADP", "C10H12N5O10P2", -3),
    species("M_g6p_c", "Glucose 6-phosphate", "C6H11O9P", -2),
    species("M_h_c", "H+", "H", 1),
]


def test_a_kinase(tmp_path):
    path = write_model(tmp_path / "kinase.xml", KINASE_SPECIES, [KINASE])
    network = read_network(path)
    assert (network.name, network.organism) == ("kinase", "kinase of a microbe")
    glucose = network.metabolites[0]
    assert glucose.elements == {"C": 6, "H": 12, "O": 6}
    assert (glucose.charge, glucose.compartment) == (0, "c")
    assert glucose.references == {("kegg.compound", "C00031")}
    (kinase,) = network.reactions
    assert kinase.stoichiometry == {0: -1, 1: -1, 3: 1, 2: 1, 4: 1}
    assert network.kind(kinase) == "internal"
    assert network.imbalance(kinase) == {}
    assert network.remarks == {"reactions of which no bounds are stated": 1}


@pytest.mark.parametrize(
    ("file", "name"),
    [("E. coli.xml", "E. coli"), ("GCF_1.2.xml.gz", "GCF_1.2"), ("draft.sbml", "draft"), ("draft.bz2", "draft")],
)
def test_a_model_is_called_as_its_file(file, name):
    assert name_of(Path("models") / file) == name


@pytest.mark.parametrize("dialect", ["law", "fbc1", "fbc2"])
@pytest.mark.parametrize(
    ("lower", "upper", "backwards", "reversible"),
    [(0, 9, False, False), (-9, 9, False, True), (-9, 0, True, False), (1, 1, False, False), (0, 0, False, True)],
)
def test_a_reaction_runs_as_its_bounds_say(tmp_path, dialect, lower, upper, backwards, reversible):
    """Its attribute says that it runs both ways, and counts where it is shut."""
    text = reaction("R_1", {"M_glc__D_c": -1, "M_g6p_c": 1}, reversible=True)
    path = write_model(tmp_path / "bound.xml", KINASE_SPECIES, [text])
    state_bounds(path, {"R_1": (lower, upper)}, dialect)
    network = read_network(path)
    (found,) = network.reactions
    sign = -1 if backwards else 1
    assert found.stoichiometry == {0: -sign, 3: sign}
    assert found.reversible == reversible
    assert network.remarks == ({"reactions that run backwards alone, turned round": 1} if backwards else {})


@pytest.mark.parametrize("dialect", ["law", "fbc1"])
@pytest.mark.parametrize("bounds", [("NaN", 9), (-9, "NaN"), ("NaN", "NaN"), (9, -9)])
def test_bounds_that_are_no_range_say_nothing(tmp_path, dialect, bounds):
    text = reaction("R_1", {"M_glc__D_c": -1, "M_g6p_c": 1}, reversible=True)
    path = state_bounds(write_model(tmp_path / "bound.xml", KINASE_SPECIES, [text]), {"R_1": bounds}, dialect)
    (found,) = read_network(path).reactions
    assert (found.stoichiometry, found.reversible) == ({0: -1, 3: 1}, True)


@pytest.mark.parametrize(
    ("identifier", "name", "found"),
    [
        ("k", "cytosol", "c"),
        ("cm", "cytosolic membrane", "cm"),
        ("w", "Cell wall", "w"),
        ("C_e", "extracellular space", "e"),
        ("C_p", "", "p"),
    ],
)
def test_compartments_are_known_by_their_names(tmp_path, identifier, name, found):
    path = write_model(tmp_path / "where.xml", KINASE_SPECIES, [KINASE])
    text = path.read_text().replace('id="c" name="Cytosol"', f'id="{identifier}" name="{name}"')
    path.write_text(text.replace('compartment="c"', f'compartment="{identifier}"'))
    assert {metabolite.compartment for metabolite in read_network(path).metabolites} == {found}


def test_accessions_are_alike_however_they_are_written(tmp_path):
    names = [f"http://identifiers.org/biocyc/{text}" for text in ("META:WATER", "metacyc.compound:WATER", "WATER")]
    names.append("http://identifiers.org/kegg.compound/C00031; C00293")
    found = [species(f"M_{i}_c", "x", "H2O", 0, name) for i, name in enumerate(names)]
    network = read_network(write_model(tmp_path / "names.xml", found, [reaction("R_1", {"M_0_c": -1, "M_1_c": 1})]))
    *water, two = (metabolite.references for metabolite in network.metabolites)
    assert water == [{("biocyc", "WATER")}] * 3
    assert two == {("kegg.compound", "C00031"), ("kegg.compound", "C00293")}


def test_a_lost_proton_shows_in_the_balance(tmp_path):
    lost = reaction("R_HEX", {"M_glc__D_c": -1, "M_atp_c": -1, "M_g6p_c": 1, "M_adp_c": 1})
    network = read_network(write_model(tmp_path / "lost.xml", KINASE_SPECIES, [lost]))
    assert network.imbalance(network.reactions[0]) == {"H": -1, "charge": -1}


@pytest.mark.parametrize("opener", [gzip.open, bz2.open])
def test_compressed_models_are_the_same(tmp_path, opener):
    path = write_model(tmp_path / "kinase.xml", KINASE_SPECIES, [KINASE])
    packed = tmp_path / f"kinase.xml.{'gz' if opener is gzip.open else 'bz2'}"
    with opener(packed, "wb") as file:
        file.write(path.read_bytes())
    assert read_network(packed) == read_network(path)


def test_what_older_models_write_elsewhere(tmp_path):
    found = [
        species("M_glc_c", "D-Glucose", notes="FORMULA: C6H12O6"),
        species("M_fru_c", "M_D_Fructose_C6H12O6", notes="CHARGE: -2"),
        species("M_unknown_c", "Something"),
        species("M_poly_c", "Starch", notes="FORMULA: (C6H10O5)n"),
    ]
    network = read_network(
        write_model(tmp_path / "old.xml", found, [reaction("R_1", {"M_glc_c": -1, "M_fru_c": None, "M_unknown_c": 1})])
    )
    glucose, fructose, unknown, starch = network.metabolites
    assert glucose.elements == fructose.elements == {"C": 6, "H": 12, "O": 6}
    assert (fructose.name, fructose.charge) == ("M_D_Fructose", -2)
    assert unknown.elements is None
    assert starch.elements is None
    assert network.imbalance(network.reactions[0]) is None
    assert network.reactions[0].stoichiometry[1] == 1
    assert network.remarks == {
        "metabolites without a formula": 1,
        "formulas not understood": 1,
        "coefficients not given, taken as 1": 1,
        "reactions of which no bounds are stated": 1,
    }


def test_kinds_of_reactions_and_the_boundary(tmp_path):
    found = [*KINASE_SPECIES, species("M_glc__D_e", "D-Glucose", "C6H12O6", 0), species("M_glc__D_b", "D-Glucose")]
    reactions = [
        KINASE,
        reaction("R_GLCt", {"M_glc__D_e": -1, "M_glc__D_c": 1}),
        reaction("R_EX_glc", {"M_glc__D_e": -1, "M_glc__D_b": 1}, reversible=True),
        reaction("R_BIOMASS", {"M_atp_c": -1, "M_adp_c": 1}),
        reaction("R_nothing", {"M_glc__D_b": -1}),
        reaction("R_dangling", {"M_nowhere_c": -1, "M_glc__D_c": 1}),
    ]
    network = read_network(write_model(tmp_path / "kinds.xml", found, reactions))
    assert [network.kind(r) for r in network.reactions] == ["internal", "transport", "exchange", "biomass", "exchange"]
    assert network.reactions[2].reversible
    assert network.remarks["reactions of nothing within the boundary, left out"] == 1
    assert network.remarks["metabolites that reactions name and the model lacks, such as M_nowhere_c"] == 1


def test_files_that_are_not_models(tmp_path):
    path = write_model(tmp_path / "whole.xml", KINASE_SPECIES, [KINASE])
    packed = tmp_path / "cut.xml.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-40])
    with pytest.raises(RequestError, match=r"cut\.xml\.gz: damaged"):
        read_network(packed)
    broken = tmp_path / "broken.xml"
    broken.write_text(path.read_text().replace("</listOfSpecies>", ""))
    with pytest.raises(RequestError, match=r"broken\.xml: malformed SBML, line \d+"):
        read_network(broken)
    broken.write_text("this is no XML")
    with pytest.raises(RequestError, match=r"broken\.xml: malformed SBML, line 1"):
        read_network(broken)
    with pytest.raises(RequestError, match=r"empty\.xml: no reactions"):
        read_network(write_model(tmp_path / "empty.xml", [GLUCOSE], []))
    with pytest.raises(RequestError, match=r"nowhere\.xml: no such file"):
        read_network(tmp_path / "nowhere.xml")
    with pytest.raises(RequestError, match=r"nowhere\.xml\.gz: no such file"):
        read_network(tmp_path / "nowhere.xml.gz")


def test_infinite_coefficients_are_refused(tmp_path):
    path = write_model(tmp_path / "much.xml", KINASE_SPECIES, [KINASE])
    path.write_text(path.read_text().replace('stoichiometry="1"', 'stoichiometry="INF"', 1))
    with pytest.raises(RequestError, match=r"much\.xml: reaction R_HEX has -inf of M_glc__D_c$"):
        read_network(path)
