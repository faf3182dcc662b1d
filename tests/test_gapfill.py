import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import libsbml
import numpy as np
import pytest

from astrojax import gapfill
from astrojax.config import load_config
from astrojax.data.networks.closed_cell import made_of_nothing
from astrojax.data.networks.collection import read_collection
from astrojax.data.networks.growth import OutOfReach, find_needed
from astrojax.data.networks.identity import identify
from astrojax.data.networks.matching import make_draft
from astrojax.data.networks.sbml import parse_sbml, read_network
from astrojax.data.networks.universe import make_universe
from astrojax.errors import RunError
from astrojax.gapfill import fill, main, render
from tests.data.networks import test_closed_cell as closed_cell
from tests.data.networks.models import reaction, species, state_bounds, state_objective, write_model
from tests.data.networks.test_sbml import KINASE, KINASE_SPECIES

MYCOPLASMA = Path("data/metabolic/MODEL1507180052.xml.gz")
POOL = ("data/metabolic/MODEL1507180070.xml.gz", "data/metabolic/MODEL1507180007.xml.gz")
# Of its glycolysis, each needed to grow, and known of Staphylococcus and Helicobacter as well.
NEEDED = ("R_TPI", "R_GAPD", "R_FBA", "R_ENO")


@pytest.fixture(scope="module")
def universe():
    return read_collection(POOL, workers=1).universe


@pytest.fixture(scope="module")
def draft(tmp_path_factory) -> Path:
    """Mycoplasma genitalium without some reactions that it needs."""
    document = parse_sbml(MYCOPLASMA)
    for name in NEEDED:
        document.getModel().removeReaction(name)
    path = tmp_path_factory.mktemp("draft") / "draft.xml"
    libsbml.writeSBMLToFile(document, str(path))
    return path


def shared_compounds(universe, draft, reactions):
    """A score: the share of the pool's networks that have a reaction, a little less where the draft lacks a place."""
    common = universe.present[:, reactions].mean(0)
    within = [all(t.compartment in draft.compartments for t in universe.reactions[r].terms) for r in reactions]
    return 0.98 * common + 0.01 * np.asarray(within)


def rows(table):
    with table.open() as file:
        return list(csv.DictReader(file))


def growth(model: Path, *reactions: str) -> list[float]:
    """By cobrapy, in a process of its own: of a model, and of the model without each of some reactions."""
    script = """
import json, logging, sys
logging.disable(logging.CRITICAL)
import cobra
model = cobra.io.read_sbml_model(sys.argv[1], f_replace={})
found = [model.slim_optimize()]
for name in sys.argv[2:]:
    with model:
        model.reactions.get_by_id(name).knock_out()
        found.append(model.slim_optimize(error_value=0.0))
print(json.dumps(found))
"""
    command = [sys.executable, "-c", script, str(model), *reactions]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_draft_that_does_not_grow_grows_when_it_is_filled(universe, draft, tmp_path):
    removed = (
        make_draft(universe, read_network(MYCOPLASMA)).present & ~make_draft(universe, read_network(draft)).present
    )
    assert removed.sum() == len(NEEDED)

    def score(universe, draft, reactions):
        return np.where(removed[reactions], 0.9, 0.1)

    out = tmp_path / "filled.xml.gz"
    fill(draft, universe, score, out=out, table=tmp_path / "filled.csv")
    whole, lacking, filled = (growth(path)[0] for path in (MYCOPLASMA, draft, out))
    assert lacking < 1e-9
    assert filled == pytest.approx(whole, rel=0.05)
    assert len(read_network(out).reactions) == len(read_network(draft).reactions) + len(NEEDED)


@pytest.mark.parametrize("rate", [1.0, 1e-7])  # The latter takes fluxes that a solver cannot tell from none.
def test_growth_takes_nothing_that_it_could_do_without(universe, draft, tmp_path, rate):
    out = tmp_path / "filled.xml"
    _, proposals, _ = fill(draft, universe, shared_compounds, out=out, table=tmp_path / "filled.csv", grow=rate)
    own = {reaction.id for reaction in read_network(draft).reactions}
    added = [reaction.id for reaction in read_network(out).reactions if reaction.id not in own]
    assert 0 < len(added) == sum(not proposal.why_not for proposal in proposals) <= len(NEEDED)
    grown, *without = growth(out, *added)
    assert growth(draft)[0] < 1e-9
    assert grown >= rate * (1 - 1e-6)
    assert max(without) < rate
    reasons = {row["why_not"] for row in rows(tmp_path / "filled.csv") if row["probability"]}
    assert f"not needed to reach {rate:g}" in reasons


@pytest.mark.parametrize("grow", [None, 1.0])
def test_what_makes_atp_of_nothing_is_left_out(universe, draft, tmp_path, grow):
    """Where all is equally likely, flux balance alone prefers acetaldehyde dehydrogenase, which runs uphill here."""
    out, table = tmp_path / "filled.xml", tmp_path / "filled.csv"
    fill(draft, universe, lambda _, __, reactions: np.full(len(reactions), 0.5), out=out, table=table, grow=grow)
    assert made_of_nothing(read_network(out)) == dict.fromkeys(closed_cell.NOTHING, False)
    why_not = {row["reaction"]: row["why_not"] for row in rows(table)}
    assert why_not["R_ACALDi"] == "lets the cell make ATP of nothing"
    if grow:
        assert {reaction for reaction, why in why_not.items() if not why} == set(NEEDED)


def small(tmp_path, own, others, species=closed_cell.SPECIES, drafts=None):
    """A draft of some reactions, and a universe that has others as well."""
    pool = read_network(write_model(tmp_path / "pool.xml", species, [*own, *others]))
    return write_model(tmp_path / "draft.xml", drafts or species, own), make_universe([pool], identify([pool]))


def test_the_limit_counts_what_is_added(tmp_path):
    own = [reaction(*closed_cell.KINASE, reversible=True), reaction(*closed_cell.LEAK)]
    others = [reaction(*closed_cell.PHOSPHATASE, reversible=True), reaction(*closed_cell.SYNTHASE)]
    path, universe = small(tmp_path, own, others)
    table = tmp_path / "filled.csv"
    likely = {"R_phosphatase": 0.9, "R_synthase": 0.8}

    def score(universe, draft, reactions):
        return np.asarray([likely[universe.reactions[r].id] for r in reactions])

    fill(path, universe, score, out=tmp_path / "filled.xml", table=table, limit=1)
    assert [(row["reaction"], row["why_not"]) for row in rows(table)] == [
        ("R_phosphatase", "lets the cell make ATP of nothing"),
        ("R_synthase", ""),
    ]


def test_compounds_new_to_a_compartment_count_by_the_pools_formulas(tmp_path):
    water = {formula: species("M_h2o_c", "H2O", formula) for formula in ("H2O", "")}
    sugars = [species(f"M_glc__D_{place}", "D-Glucose", "C6H12O6", 0) for place in "ce"]
    acid = species("M_ac_c", "Acetate", "C2H3O2", -1)
    outside = species("M_ac_e", "Acetate", "C2H3O2", -1)
    own = [reaction("R_any", {"M_glc__D_c": -1, "M_ac_c": 3}), reaction("R_out", {"M_ac_c": -1, "M_ac_e": 1})]
    others = [reaction("R_wrong", {"M_h2o_c": -1, "M_glc__D_e": 1})]
    path, universe = small(
        tmp_path,
        own,
        others,
        species=[water[""], *sugars, acid, outside],
        drafts=[water["H2O"], sugars[0], acid, outside],
    )
    out, table = tmp_path / "filled.xml", tmp_path / "filled.csv"
    fill(path, universe, lambda *_: np.asarray([0.9]), out=out, table=table)
    assert [row["why_not"] for row in rows(table)] == ["lets the cell make carbon of nothing"]
    assert made_of_nothing(read_network(out))["carbon"] is False


def test_what_growth_cannot_do_without_stays_where_it_is_harmful_with_something_else(tmp_path, monkeypatch):
    """Of two ways to grow one makes ATP of nothing, by the least likely reaction, which both need."""
    own = [reaction(*closed_cell.KINASE, reversible=True)]
    up = {"M_cr_c": -1, "M_pi_c": -1, "M_new_c": 1}
    over = {"M_new_c": -1, "M_pcr_c": 1, "M_h2o_c": 1}
    others = [reaction("R_up", up), reaction("R_over", over), reaction("R_other", {"M_new_c": -1, "M_pi_c": 1})]
    path, universe = small(tmp_path, own, others, species=[*closed_cell.SPECIES, species("M_new_c", "new")])
    likely = {"R_up": 0.9, "R_over": 0.5, "R_other": 0.4}

    def score(universe, draft, reactions):
        return np.asarray([likely[universe.reactions[r].id] for r in reactions])

    def ways_to_grow(model, prices, rate):
        """Flux balance, of an objective that needs R_over and one of the others."""
        for needed in ({"R_up", "R_over"}, {"R_over", "R_other"}):
            if needed <= prices.keys():
                return sorted(needed)
        raise OutOfReach("the objective reaches 0")

    monkeypatch.setattr(gapfill, "find_needed", ways_to_grow)
    table = tmp_path / "filled.csv"
    fill(path, universe, score, out=tmp_path / "filled.xml", table=table, grow=1.0)
    assert {row["reaction"]: row["why_not"] for row in rows(table)} == {
        "R_up": "lets the cell make ATP of nothing",
        "R_over": "",
        "R_other": "",
    }


def test_of_two_cycles_each_is_opened_where_growth_can_do_without(tmp_path, monkeypatch):
    own = [reaction(*closed_cell.KINASE, reversible=True)]
    added = {}
    for n in (1, 2):
        added[f"R_up{n}"] = {"M_cr_c": -1, "M_pi_c": -1, f"M_new{n}_c": 1}
        added[f"R_over{n}"] = {f"M_new{n}_c": -1, "M_pcr_c": 1, "M_h2o_c": 1}
        added[f"R_other{n}"] = {f"M_new{n}_c": -1, "M_pi_c": 1}
    whole = [*closed_cell.SPECIES, species("M_new1_c", "new one"), species("M_new2_c", "new two")]
    path, universe = small(tmp_path, own, [reaction(*one) for one in added.items()], species=whole)
    likely = {"R_up1": 0.9, "R_up2": 0.8, "R_over1": 0.6, "R_over2": 0.5, "R_other1": 0.3, "R_other2": 0.2}

    def score(universe, draft, reactions):
        return np.asarray([likely[universe.reactions[r].id] for r in reactions])

    def ways_to_grow(model, prices, rate):
        """Flux balance, of an objective that cannot do without R_over1 and R_up2."""
        for first in ("R_up1", "R_other1"):
            for second in ("R_over2", "R_other2"):
                if (needed := {"R_over1", "R_up2", first, second}) <= prices.keys():
                    return sorted(needed)
        raise OutOfReach("the objective reaches 0")

    monkeypatch.setattr(gapfill, "find_needed", ways_to_grow)
    table = tmp_path / "filled.csv"
    fill(path, universe, score, out=tmp_path / "filled.xml", table=table, grow=1.0)
    why_not = {row["reaction"]: row["why_not"] for row in rows(table)}
    assert {r for r, why in why_not.items() if not why} == {"R_over1", "R_up2", "R_other1", "R_other2"}
    assert why_not["R_up1"] == why_not["R_over2"] == "lets the cell make ATP of nothing"


@pytest.mark.parametrize("rate", [5.0, 1e-3, 1e-7])
def test_of_two_ways_to_grow_the_likelier_is_taken_at_any_rate(tmp_path, rate):
    ways = {
        "EX_food": {"M_food_c": -1},
        "R_only": {"M_food_c": -1, "M_first_c": 1},
        "R_likely": {"M_food_c": -1, "M_second_c": 1},
        "R_unlikely": {"M_food_c": -1, "M_second_c": 1},
        "R_useless": {"M_food_c": -1, "M_third_c": 1},
        "R_growth": {"M_food_c": -1, "M_first_c": -1e-4, "M_second_c": -1e-4},
    }
    names = ("food", "first", "second", "third")
    path = write_model(
        tmp_path / "cell.xml", [species(f"M_{name}_c") for name in names], [reaction(*way) for way in ways.items()]
    )
    bounds = dict.fromkeys(ways, (0.0, 1000.0)) | {"EX_food": (-10.0, 1000.0)}
    path = state_objective(state_bounds(path, bounds, "fbc2"), "R_growth")
    prices = {"R_only": 1.6, "R_likely": 0.05, "R_unlikely": 4.6, "R_useless": 0.1}
    assert set(find_needed(path, prices, rate)) == {"R_only", "R_likely"}


def test_a_draft_that_makes_energy_of_nothing_by_itself_is_not_judged_by_it(tmp_path):
    own = [reaction(*one, reversible=True) for one in (closed_cell.KINASE, closed_cell.PHOSPHATASE, closed_cell.LEAK)]
    path, universe = small(tmp_path, own, [reaction(*closed_cell.SYNTHASE)])
    out = tmp_path / "filled.xml"
    found = fill(path, universe, lambda *_: np.asarray([0.9]), out=out, table=tmp_path / "filled.csv")
    assert read_network(out).reactions[-1].id == "R_synthase"
    text = render(universe, *found)
    assert "not known: whether what is added makes ATP of nothing; the draft does so by itself" in text
    assert "carbon" not in text


@pytest.mark.parametrize(
    ("asked", "error"),
    [({"grow": 1e6}, "candidates the objective reaches .*, not 1e.06"), ({"grow": 1.0, "limit": 1}, "than --limit 1")],
)
def test_growth_that_cannot_be_reached_writes_nothing(universe, draft, tmp_path, asked, error):
    with pytest.raises(RunError, match=error):
        fill(draft, universe, shared_compounds, out=tmp_path / "filled.xml", table=tmp_path / "filled.csv", **asked)
    assert not list(tmp_path.iterdir())


def test_protons_follow_the_drafts_own_formulas(tmp_path):
    """An acid that the pool writes without its proton and the draft with it."""
    sugar, proton = species("M_glc__D_c", "D-Glucose", "C6H12O6", 0), species("M_h_c", "H+", "H", 1)
    ways = [reaction("R_open", {"M_glc__D_c": -1, "M_acid_c": 1, "M_h_c": 1})]
    acids = [species("M_acid_c", "acid", formula, charge) for formula, charge in (("C6H11O6", -1), ("C6H12O6", 0))]
    pool = read_network(write_model(tmp_path / "pool.xml", [sugar, acids[0], proton], ways))
    path = write_model(
        tmp_path / "draft.xml", [sugar, acids[1], proton], [reaction("R_any", {"M_glc__D_c": -1, "M_h_c": 1})]
    )
    universe = make_universe([pool], identify([pool]))

    def score(universe, draft, reactions):
        return np.full(len(reactions), 0.9)

    fill(path, universe, score, out=tmp_path / "filled.xml", table=tmp_path / "filled.csv")
    added = read_network(tmp_path / "filled.xml").reactions[-1]
    assert (added.id, added.stoichiometry) == ("R_open", {0: -1, 1: 1})
    (row,) = rows(tmp_path / "filled.csv")
    assert (row["hydrogen_and_charge_balanced"], row["protons_changed"]) == ("yes", "yes")
    assert row["equation"] == "D-Glucose [c] => acid [c]"


def test_a_proton_of_no_formula_balances_nothing(tmp_path):
    sugar, acid = species("M_glc__D_c", "D-Glucose", "C6H12O6", 0), species("M_acid_c", "acid", "C6H11O6", -1)
    way = reaction("R_open", {"M_glc__D_c": -1, "M_acid_c": 1})
    pool = read_network(write_model(tmp_path / "pool.xml", [sugar, acid, species("M_h_c", "H+", "H", 1)], [way]))
    any_way = reaction("R_any", {"M_glc__D_c": -1, "M_h_c": 1})
    path = write_model(tmp_path / "draft.xml", [sugar, acid, species("M_h_c", "H+")], [any_way])
    universe = make_universe([pool], identify([pool]))
    fill(path, universe, lambda *_: np.asarray([0.9]), out=tmp_path / "filled.xml", table=tmp_path / "filled.csv")
    assert read_network(tmp_path / "filled.xml").reactions[-1].stoichiometry == {0: -1, 1: 1}
    (row,) = rows(tmp_path / "filled.csv")
    assert (row["hydrogen_and_charge_balanced"], row["protons_changed"]) == ("no", "no")


def test_growth_needs_an_objective(tmp_path):
    path = write_model(tmp_path / "none.xml", KINASE_SPECIES, [KINASE])
    with pytest.raises(RunError, match="it states no objective"):
        find_needed(path, {}, 0.1)


def test_the_table_accounts_for_everything_the_draft_lacks(universe, draft, tmp_path):
    table = tmp_path / "filled.csv"
    found, proposals, made = fill(
        draft, universe, shared_compounds, out=tmp_path / "filled.xml", table=table, accept=0.4, limit=3
    )
    listed = rows(table)
    assert len(listed) == len(proposals) == (~found.present).sum()
    assert [row["accepted"] for row in listed].count("yes") == 3
    scored = [row for row in listed if row["probability"]]
    probabilities = [float(row["probability"]) for row in scored]
    assert listed[: len(scored)] == scored
    assert probabilities == sorted(probabilities, reverse=True)
    assert {row["balanced"] for row in scored} <= {"yes", "unknown"}
    assert {row["compounds_missing"] for row in scored} == {"0"}
    for row in listed:
        assert bool(row["why_not"]) == (row["accepted"] == "no")
        assert row["why_not"].startswith("out of balance: ") == (row["balanced"] == "no")
        assert set(row["networks"].split()) <= set(universe.networks)
    (tpi,) = (row for row in listed if row["reaction"] == "R_TPI")
    assert tpi["equation"] == "Dihydroxyacetone phosphate [c] <=> Glyceraldehyde 3-phosphate [c]"
    assert tpi["networks"] == "MODEL1507180007 MODEL1507180070"
    text = render(universe, found, proposals, made)
    assert f"{len(listed):,} reactions of the pool are not in the draft: {len(scored):,} candidates" in text
    assert f"{found.matched.count(None)} of them unknown to the pool" in text
    assert "beyond the limit of 3" in text
    assert "added: 3;" in text


def test_scores_that_are_none_write_nothing(universe, draft, tmp_path):
    def diverged(universe, draft, reactions):
        return np.full(len(reactions), np.nan)

    with pytest.raises(RunError, match="not between 0 and 1"):
        fill(draft, universe, diverged, out=tmp_path / "filled.xml", table=tmp_path / "filled.csv")
    assert not list(tmp_path.iterdir())


def run_of(universe):
    """What a run offers."""
    task = SimpleNamespace(
        universe=universe,
        score_candidates=lambda params, mesh, universe, draft, reactions, lacking: shared_compounds(
            universe, draft, reactions
        ),
    )
    return SimpleNamespace(params=None, mesh=None, task=task)


def test_command_line(universe, draft, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gapfill, "load_run", lambda workdir: run_of(universe))
    flags = [str(draft), "--checkpoint", "runs/graph", "--accept", "0.9"]
    assert main([*flags, "--out", str(tmp_path / "filled.xml.gz")]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/filled.xml.gz: the draft with what was added" in printed
    assert f"{tmp_path}/filled.csv: all candidates" in printed
    own = read_collection([str(MYCOPLASMA)], workers=1).universe
    own.save(tmp_path / "own.json.zst")
    table = tmp_path / "own.csv"
    pool = ["--pool", str(tmp_path / "own.json.zst"), "--out", str(tmp_path / "own.xml"), "--table", str(table)]
    assert main([*flags, *pool]) == 0
    assert {row["reaction"] for row in rows(table) if row["accepted"] == "yes"} == set(NEEDED)
    assert {reaction.id for reaction in read_network(tmp_path / "own.xml").reactions} == {
        reaction.id for reaction in read_network(MYCOPLASMA).reactions
    }


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"--accept": "1.5"}, "--accept is a probability, between 0 and 1, not 1.5"),
        ({"--lacking": "0"}, "--lacking is a share, above 0 and at most 1, not 0"),
        ({"--lacking": "nan"}, "--lacking is a share, above 0 and at most 1, not nan"),
        ({"--accept": "nan"}, "--accept is a probability, between 0 and 1, not nan"),
        ({"--grow": "0"}, "--grow is a rate above 0, not 0"),
        ({"--limit": "0"}, "--limit should be above 0, not 0"),
        ({"--out": "{folder}/none/filled.xml"}, "{folder}/none/filled.xml: no such folder as {folder}/none"),
        ({"--table": "{folder}/none/filled.csv"}, "{folder}/none/filled.csv: no such folder as {folder}/none"),
        ({"--out": "{folder}/draft.xml"}, "{folder}/draft.xml is the draft itself; choose another name"),
        (
            {"--table": "{folder}/filled.xml"},
            "{folder}/filled.xml is to be both the model and the table; choose another",
        ),
        ({"model": "{folder}/nowhere.xml"}, "{folder}/nowhere.xml: no such file"),
        ({"model": "{folder}/broken.xml"}, "{folder}/broken.xml: malformed SBML, line 1"),
        ({"--pool": "{folder}/nowhere.json.zst"}, "{folder}/nowhere.json.zst: no such file"),
        ({"--pool": "{folder}/draft.xml"}, "{folder}/draft.xml: not a universe of reactions, or damaged"),
    ],
)
def test_requests_that_make_no_sense_say_so_in_a_line_and_write_nothing(
    universe, draft, tmp_path, monkeypatch, capsys, changed, error
):
    monkeypatch.setattr(gapfill, "load_run", lambda workdir: run_of(universe))
    (tmp_path / "draft.xml").write_bytes(draft.read_bytes())
    (tmp_path / "broken.xml").write_text("this is no XML")
    flags = {"model": "{folder}/draft.xml", "--checkpoint": "runs/graph", "--out": "{folder}/filled.xml"} | changed
    flags = {name: value.format(folder=tmp_path) for name, value in flags.items()}
    before = sorted(tmp_path.iterdir())
    assert main([flags.pop("model"), *(word for flag in flags.items() for word in flag)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {error.format(folder=tmp_path)}")
    assert said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_is_missing_or_of_another_task(draft, tmp_path, monkeypatch, capsys):
    flags = [str(draft), "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "filled.xml")]
    assert main(flags) == 2
    assert capsys.readouterr().err.startswith(f"error: no run in {tmp_path}/run: ")
    language = SimpleNamespace(task=object(), config=load_config("configs/llm.py"))
    monkeypatch.setattr(gapfill, "load_run", lambda workdir: language)
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert said == f"error: {tmp_path}/run: a run of the task language, which scores no reactions\n"
    assert not list(tmp_path.iterdir())
