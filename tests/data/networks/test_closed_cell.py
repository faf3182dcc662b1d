import json
import subprocess
import sys
from pathlib import Path

import pytest

from astrojax.data.networks.closed_cell import ClosedCells, Way, made_of_nothing
from astrojax.data.networks.collection import read_collection, render
from astrojax.data.networks.sbml import read_network
from tests.data.networks.models import reaction, species, state_bounds, write_model

SPECIES = [
    species("M_atp_c", "ATP", "C10H12N5O13P3", -4),
    species("M_adp_c", "ADP", "C10H12N5O10P2", -3),
    species("M_pi_c", "Phosphate", "HO4P", -2),
    species("M_h2o_c", "H2O", "H2O", 0),
    species("M_h_c", "H+", "H", 1),
    species("M_h_e", "H+", "H", 1),
    species("M_cr_c", "Creatine", "C4H9N3O2", 0),
    species("M_pcr_c", "Phosphocreatine", "C4H8N3O5P", -2),
]
KINASE = ("R_kinase", {"M_pcr_c": -1, "M_adp_c": -1, "M_h_c": -1, "M_cr_c": 1, "M_atp_c": 1})
PHOSPHATASE = ("R_phosphatase", {"M_pcr_c": -1, "M_h2o_c": -1, "M_cr_c": 1, "M_pi_c": 1})
SYNTHASE = ("R_synthase", {"M_adp_c": -1, "M_pi_c": -1, "M_h_e": -4, "M_atp_c": 1, "M_h2o_c": 1, "M_h_c": 3})
LEAK = ("R_leak", {"M_h_e": -1, "M_h_c": 1})
FOOD = ("EX_pcr", {"M_pcr_c": 1})

# What the tests' cell makes where nothing is wrong with it: it has neither NADH nor sulfur.
NOTHING = {
    "ATP": False,
    "electrons": None,
    "carbon": False,
    "nitrogen": False,
    "phosphorus": False,
    "sulfur": None,
}


def network(path, *reactions, species=SPECIES):
    """Of ``(reaction, whether it runs both ways)``."""
    ways = [reaction(*one, reversible=reversible) for one, reversible in reactions]
    return read_network(write_model(path / "cell.xml", species, ways))


@pytest.mark.parametrize("one", [PHOSPHATASE, LEAK])
@pytest.mark.parametrize("reversible", [True, False])
def test_a_cycle_needs_a_reaction_that_runs_uphill(tmp_path, one, reversible):
    cell = network(tmp_path, (KINASE, True), (SYNTHASE, True), (FOOD, True), (one, reversible))
    assert made_of_nothing(cell) == NOTHING | {"ATP": reversible}


def test_what_a_file_shuts_closes_no_cycle(tmp_path):
    ways = [reaction(*KINASE, reversible=True), reaction(*PHOSPHATASE, reversible=True)]
    path = write_model(tmp_path / "cell.xml", SPECIES, ways)
    assert made_of_nothing(read_network(path))["ATP"]
    bounds = {"R_kinase": (-1000.0, 1000.0), "R_phosphatase": (0.0, 0.0)}
    assert made_of_nothing(read_network(state_bounds(path, bounds, "fbc2"))) == NOTHING


@pytest.mark.parametrize("protons", [-1, 0, 1])
def test_a_cycle_is_found_however_many_protons_it_is_written_with(tmp_path, protons):
    terms = PHOSPHATASE[1] | ({"M_h_c": protons} if protons else {})
    assert made_of_nothing(network(tmp_path, (KINASE, True), (("R_any", terms), True)))["ATP"]
    assert not made_of_nothing(network(tmp_path, (KINASE, True), (("R_any", terms), False)))["ATP"]


def test_what_takes_from_beyond_the_boundary_makes_nothing_of_nothing(tmp_path):
    whole = [*SPECIES, species("M_cr_b", "Creatine", "C4H9N3O2", 0)]
    for taken, made in (("M_cr_b", False), ("M_h2o_c", True)):
        uptake = ("R_uptake", {taken: -1, "M_h_e": -1, "M_cr_c": 1, "M_h_c": 1})
        assert made_of_nothing(network(tmp_path, (uptake, False), species=whole))["carbon"] is made


def test_compounds_are_known_by_other_names_too(tmp_path):
    names = ("ATP", "ADP", "Orthophosphate", "Water", "NAD+", "NADH", "Lactate", "Pyruvate")
    atp, adp, phosphate, water, oxidised, reduced, lactate, pyruvate = range(len(names))
    whole = [species(f"M_x{place}_c", name) for place, name in enumerate(names)]
    ways = [
        {atp: 1, water: 1, adp: -1, phosphate: -1},
        {lactate: -1, oxidised: -1, pyruvate: 1, reduced: 1},
        {pyruvate: -1, lactate: 1},
    ]
    reactions = [
        ((f"R_{i}", {f"M_x{place}_c": c for place, c in terms.items()}), False) for i, terms in enumerate(ways)
    ]
    assert made_of_nothing(network(tmp_path, *reactions, species=whole)) == dict.fromkeys(NOTHING) | {
        "ATP": True,
        "electrons": True,
    }


@pytest.mark.parametrize("protons", [True, False])
def test_a_cycle_is_found_where_there_are_no_formulas(tmp_path, protons):
    bare = [species(f"M_{name}_c", name) for name in ("atp", "adp", "pi", "h2o", "h", "cr", "pcr")]
    kinase = {place: c for place, c in KINASE[1].items() if protons or place != "M_h_c"}
    cell = network(tmp_path, (("R_kinase", kinase), True), (PHOSPHATASE, True), species=bare)
    assert made_of_nothing(cell) == dict.fromkeys(NOTHING) | {"ATP": True}


@pytest.mark.parametrize("missing", [None, "M_atp_c", "M_h2o_c"])
def test_without_its_compounds_nothing_is_known_of_hydrolysis(tmp_path, missing):
    whole = [one for one in SPECIES if missing is None or missing not in one]
    kinase = {place: c for place, c in KINASE[1].items() if place != missing}
    cell = network(tmp_path, (("R_kinase", kinase), True), (FOOD, True), species=whole)
    place = {metabolite.id: i for i, metabolite in enumerate(cell.metabolites)}
    up = Way({place["M_cr_c"]: -1.0, place["M_pi_c"]: -1.0, place["M_pcr_c"]: 1.0}, False)
    assert made_of_nothing(cell)["ATP"] is (None if missing else False)
    water = {place["M_h2o_c"]: 1.0} if "M_h2o_c" in place else {}
    found = ClosedCells(cell).closing([up._replace(terms=up.terms | water)])
    assert ("ATP" in found.values()) is (missing is None)


def test_of_what_closes_a_cycle_together_the_last_does(tmp_path):
    cell = network(tmp_path, (KINASE, True), species=[*SPECIES, species("M_new_c"), species("M_newer_c")])
    place = {metabolite.id: i for i, metabolite in enumerate(cell.metabolites)}
    # Uphill in two steps.
    up = Way({place["M_cr_c"]: -1.0, place["M_pi_c"]: -1.0, place["M_new_c"]: 1.0}, False)
    over = Way({place["M_new_c"]: -1.0, place["M_pcr_c"]: 1.0, place["M_h2o_c"]: 1.0}, False)
    away = Way({place["M_new_c"]: -1.0, place["M_newer_c"]: 1.0}, True)
    cells = ClosedCells(cell)
    assert cells.closing([up]) == cells.closing([over, away]) == {}
    assert cells.closing([up, over]) == cells.closing([over, up]) == {1: "ATP"}
    assert cells.closing([away, up, over, away, over]) == {2: "ATP", 4: "ATP"}
    assert cells.closing([away, up, over, away, over], enough=3) == {2: "ATP"}
    assert cells.closing([away, up, over, away, over], enough=2) == {}


def test_a_network_that_makes_energy_of_nothing_is_not_mended(tmp_path):
    cell = network(tmp_path, (KINASE, True), (PHOSPHATASE, True))
    assert ClosedCells(cell).closing([Way({0: -1.0, 1: 1.0, 2: 1.0}, True)]) == {}


@pytest.mark.parametrize(
    ("element", "symbol"), [("carbon", "C"), ("nitrogen", "N"), ("phosphorus", "P"), ("sulfur", "S")]
)
def test_an_element_comes_of_what_is_out_of_balance_once_it_runs_backwards(tmp_path, element, symbol):
    whole = [*SPECIES, species("M_rich_c", "Rich", f"H2O{symbol}")]
    burns = ("R_burns", {"M_rich_c": -1, "M_h2o_c": 1})
    nothing = NOTHING | {element: False}
    cell = network(tmp_path, (burns, False), (KINASE, True), (FOOD, True), species=whole)
    assert made_of_nothing(cell) == nothing
    place = {metabolite.id: i for i, metabolite in enumerate(cell.metabolites)}
    back = Way({place["M_h2o_c"]: -1.0, place["M_rich_c"]: 1.0}, False)
    away = Way({place["M_h2o_c"]: -1.0, place["M_pi_c"]: 1.0}, False)
    assert ClosedCells(cell).closing([back, away]) == {0: element, 1: "phosphorus"}
    both_ways = network(tmp_path, (burns, True), (KINASE, True), (FOOD, True), species=whole)
    assert made_of_nothing(both_ways) == nothing | {element: True}


@pytest.mark.parametrize("carrier", ["NADH", "NADPH"])
def test_electrons_come_of_what_is_reduced_by_nothing(tmp_path, carrier):
    oxidised = carrier.removesuffix("H")
    whole = [
        species("M_reduced_c", carrier, "C21H27N7O14P2", -2),
        species("M_oxidised_c", oxidised, "C21H26N7O14P2", -1),
        species("M_lac_c", "Lactate", "C3H5O3", -1),
        species("M_pyr_c", "Pyruvate", "C3H3O3", -1),
        species("M_h_c", "H+", "H", 1),
    ]
    oxidation = {"M_lac_c": -1, "M_oxidised_c": -1, "M_pyr_c": 1, "M_reduced_c": 1}
    for protons in (0, 1):  # Of which authors write other numbers at other charges.
        dehydrogenase = ("R_LDH", oxidation | ({"M_h_c": protons} if protons else {}))
        cell = network(tmp_path, (dehydrogenase, True), species=whole)
        assert made_of_nothing(cell)["electrons"] is False
        place = {metabolite.id: i for i, metabolite in enumerate(cell.metabolites)}
        lost = Way({place["M_lac_c"]: -1.0, place["M_pyr_c"]: 1.0}, False)
        gained = Way({place["M_lac_c"]: 1.0, place["M_pyr_c"]: -1.0}, False)
        assert ClosedCells(cell).closing([lost]) == {}
        assert ClosedCells(cell).closing([lost, gained]) == {1: "electrons"}


@pytest.mark.parametrize("formula", ["", "R", "X"])
def test_what_may_hold_carbon_gives_it(tmp_path, formula):
    """A protein of which a formula says no more than that it has a rest."""
    cell = network(
        tmp_path,
        (("R_degradation", {"M_protein_c": -1, "M_gly_c": 1}), True),
        species=[species("M_protein_c", "protein", formula), species("M_gly_c", "Glycine", "C2H5NO2")],
    )
    assert made_of_nothing(cell)["carbon"] is False


def test_without_formulas_nothing_is_known_of_carbon(tmp_path):
    cell = network(tmp_path, (("R_any", {"M_a_c": -1, "M_b_c": 1}), True), species=[species("M_a_c"), species("M_b_c")])
    assert made_of_nothing(cell) == dict.fromkeys(NOTHING)


@pytest.mark.parametrize(
    ("model", "made"),
    [
        ("MODEL1507180070", []),
        ("MODEL1510010000", ["ATP"]),
        # Its reaction R01313 turns 36 atoms of carbon into 70.
        ("MODEL2404260001", ["ATP", "carbon", "nitrogen", "phosphorus", "sulfur"]),
        ("BIOMD0000001099", ["nitrogen", "phosphorus", "sulfur"]),  # rxn11950 and rxn11752 run both ways.
    ],
)
def test_published_models_that_make_something_of_nothing_are_told_of(model, made):
    report = read_collection([f"data/metabolic/{model}.xml.gz"], workers=1).report
    assert report["models"][0]["made_of_nothing"] == {product: product in made for product in NOTHING}
    told = f"{model}: makes {', '.join(made)} of nothing, so that its growth may be overestimated\n"
    assert (told in render(report)) is bool(made)


@pytest.mark.parametrize(("model", "makes"), [("MODEL1510010000", True), ("MODEL1507180052", False)])
def test_cobrapy_finds_the_same_of_published_models(model, makes):
    path = Path(f"data/metabolic/{model}.xml.gz")
    script = """
import logging, sys
logging.disable(logging.CRITICAL)
import cobra
model = cobra.io.read_sbml_model(sys.argv[1])
for reaction in model.reactions:
    if reaction.boundary:
        reaction.bounds = 0.0, 0.0
    else:
        reaction.bounds = min(reaction.lower_bound, 0.0), max(reaction.upper_bound, 0.0)
atp = cobra.Reaction("hydrolysis", lower_bound=0.0, upper_bound=1000.0)
model.add_reactions([atp])
atp.build_reaction_from_string("atp_c + h2o_c --> adp_c + pi_c + h_c")
model.objective = atp
print(model.slim_optimize())
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert (json.loads(done.stdout.splitlines()[-1]) > 1.0) is makes
    assert made_of_nothing(read_network(path))["ATP"] is makes
