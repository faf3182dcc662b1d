"""Every picture is drawn, also of awkward inputs, and shows what it should."""

import sys

import numpy as np
import pytest
from matplotlib.image import imread

from astrojax.data.networks.universe import Compound, Term, UniversalReaction, Universe
from astrojax.evaluation.calibration import reliability
from astrojax.evaluation.graph_plots import (
    interpolation,
    latent_map,
    molecule_grid,
    pathway,
    precision_recall,
    property_distributions,
    reliability_diagram,
)

RNG = np.random.default_rng(0)
SMILES = ["CCO", "c1ccccc1", "CC#N", "C1CC1", "OC(F)F"]


def colours_of(path) -> set[tuple]:
    return set(map(tuple, (imread(path)[..., :3].reshape(-1, 3) * 255).round().astype(int).tolist()))


def ink_of(path) -> int:
    """Pixels that are not white."""
    return int((imread(path)[..., :3].min(axis=-1) < 0.98).sum())


@pytest.mark.parametrize(
    "colours",
    [
        np.linspace(0, 1, 30),
        np.arange(30) % 2 == 0,
        ["first", "second", "third"] * 10,
        [f"number {i}" for i in range(30)],
        [f"number {i % 15}" for i in range(30)],
    ],
    ids=["numbers", "booleans", "few names", "all names differ", "many names"],
)
def test_latent_map(tmp_path, colours):
    latent_map(tmp_path / "map.png", RNG.normal(size=(30, 4)), colours, "colour (1)", "Title")
    assert ink_of(tmp_path / "map.png") > 1000


def test_reliability_diagram_and_precision_recall(tmp_path):
    probability = RNG.random(500)
    label = RNG.random(500) < probability
    scores = {"model": probability, "other_model": RNG.random(500), "constant": np.full(500, 0.5)}
    reliability_diagram(tmp_path / "r.png", {name: reliability(label, score) for name, score in scores.items()})
    precision_recall(tmp_path / "p.png", label, scores)
    for name in ("r.png", "p.png"):
        assert (193, 39, 45) in colours_of(tmp_path / name)  # The line in question.


def test_molecules_are_in_a_grid(tmp_path):
    molecule_grid(tmp_path / "some.png", SMILES, list("abcde"))
    molecule_grid(tmp_path / "many.png", SMILES * 10, ["name"] * 50)
    assert imread(tmp_path / "some.png").shape[:2] == (190, 5 * 220)
    assert imread(tmp_path / "many.png").shape[:2] == (5 * 190, 6 * 220)
    interpolation(tmp_path / "rows.png", [SMILES, [*SMILES[:2], None, "C"]])
    rows = imread(tmp_path / "rows.png")
    assert rows.shape[:2] == (2 * 190, 5 * 220)
    assert (rows[190:, 440:660] == 1).all()  # None is left empty, and so is what a shorter row lacks.
    assert (rows[190:, 880:] == 1).all()
    assert (rows[190:, :220] < 1).any()


def test_a_system_that_cannot_draw_molecules_is_told_what_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rdkit.Chem.Draw", None)  # As where one of the libraries behind it is missing.
    molecule_grid(tmp_path / "some.png", SMILES, list("abcde"))
    assert not (tmp_path / "some.png").exists()
    said = capsys.readouterr().out
    assert said.startswith("not drawn: some.png: ")
    assert "apt install libxrender1" in said


def test_property_distributions(tmp_path):
    training = {"molecular_weight": RNG.normal(120, 5, 100), "rings": RNG.integers(0, 4, 100).astype(float)}
    property_distributions(tmp_path / "p.png", {name: values[:40] for name, values in training.items()}, training)
    assert {(193, 39, 45)} < colours_of(tmp_path / "p.png")
    nothing = {name: values[:0] for name, values in training.items()}
    property_distributions(tmp_path / "nothing.png", nothing, training)
    assert ink_of(tmp_path / "nothing.png") > 1000


@pytest.fixture(scope="module")
def universe():
    """A chain of 20 compounds, in whose every step ATP becomes ADP, and the last of which leaves the cell."""
    names = [*(f"compound with a rather long name, number {i}" for i in range(20)), "ATP", "ADP"]
    compounds = [Compound(name=name, elements=None, charge=None, accessions={}, evidence={}) for name in names]
    steps = [[(i, "c", -1), (20, "c", -1), (i + 1, "c", 1), (21, "c", 1)] for i in range(19)]
    reactions = [*steps, [(19, "c", -1), (19, "e", 1)]]
    return Universe(
        networks=("n",),
        organisms=("",),
        compounds=tuple(compounds),
        reactions=tuple(
            UniversalReaction(id=f"R_STEP{i}", name="", terms=[Term(*term) for term in terms], reversible=i % 2 == 0)
            for i, terms in enumerate(reactions)
        ),
        present=np.ones((1, 20), bool),
    )


def test_a_pathway_is_as_tall_as_it_is_long(tmp_path, universe):
    heights = []
    for length in (1, 3, 5):
        pathway(tmp_path / "p.png", universe, [(r, None) for r in range(length)])
        heights.append(imread(tmp_path / "p.png").shape[0])
    # ATP and ADP are in small print, or all reactions would be in few layers.
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0], abs=2)
    assert heights[0] > 150


def test_probabilities_colour_the_boxes(tmp_path, universe):
    pathway(tmp_path / "grey.png", universe, [(3, None), (4, None)])
    assert all(max(colour) - min(colour) <= 1 for colour in colours_of(tmp_path / "grey.png"))
    pathway(tmp_path / "colour.png", universe, [(3, None), (4, 0.93), (5, 0.2), (19, 1.0)])
    assert any(red > 150 > green + 60 for red, green, _ in colours_of(tmp_path / "colour.png"))
