"""Shares by counting, properties from reference books, distances in closed form."""

import math

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.DataStructs import TanimotoSimilarity

from astrojax.evaluation.molecule_metrics import (
    PUBLISHED,
    internal_diversity,
    properties,
    property_distances,
    quality,
)


def test_quality_counts_valid_then_distinct_then_new_ones():
    generated = ["CCO", "CCO", None, "CC", "C1CC1", None, "CCO", None]
    result = quality(generated, {"CC", "CCN"})
    assert result == {"validity": 5 / 8, "uniqueness": 3 / 5, "novelty": 2 / 3}


def test_shares_of_nothing_are_not_numbers():
    result = quality([None, None], {"CC"})
    assert result["validity"] == 0
    assert math.isnan(result["uniqueness"])
    assert math.isnan(result["novelty"])
    assert math.isnan(quality([], set())["validity"])


def test_properties_of_known_molecules():
    result = properties(["Oc1ccccc1", None, "FC(F)(F)C#N", "C1CC2CC1CC2"])
    assert {name: len(values) for name, values in result.items()} == dict.fromkeys(result, 3)
    assert result["molecular_weight"] == pytest.approx([94.11, 95.02, 96.17], abs=0.01)  # Phenol first.
    assert result["tpsa"] == pytest.approx([20.23, 23.79, 0])  # A hydroxyl group and a nitrile, Ertl et al. 2000.
    for name, expected in {
        "rings": [1, 0, 2],
        "heavy_atoms": [7, 6, 7],
        "C": [6, 2, 7],
        "N": [0, 1, 0],
        "O": [1, 0, 0],
        "F": [0, 3, 0],
    }.items():
        assert result[name].tolist() == expected
    assert result["logp"][2] > result["logp"][0]  # A hydrocarbon prefers octanol.
    assert ((result["qed"] > 0) & (result["qed"] < 1)).all()


def test_a_shift_by_a_standard_deviation_is_one():
    known = np.random.default_rng(0).normal(5, 3, 1000)
    assert property_distances({"x": known + known.std()}, {"x": known})["x"] == pytest.approx(1)
    assert property_distances({"x": np.repeat(known, 2)}, {"x": known})["x"] == pytest.approx(0, abs=1e-12)


def test_distances_without_spread_or_molecules():
    known = {"x": np.ones(3), "y": np.ones(3), "z": np.arange(3.0)}
    generated = {"x": np.ones(2), "y": np.zeros(2), "z": np.zeros(0)}
    result = property_distances(generated, known)
    assert (result["x"], result["y"]) == (0, math.inf)
    assert math.isnan(result["z"])


def test_diversity_is_the_mean_distance_of_pairs():
    smiles = ["CCO", "c1ccccc1", "CCN"]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    a, b, c = (generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles)
    similarities = [TanimotoSimilarity(*pair) for pair in ((a, b), (a, c), (b, c))]
    assert internal_diversity([*smiles, None]) == pytest.approx(1 - np.mean(similarities), abs=0.01)
    assert internal_diversity(["CCO", "CCO"]) == 0
    assert math.isnan(internal_diversity(["CCO", None]))


def test_published_figures_are_percentages_with_a_source():
    for figures in PUBLISHED.values():
        assert all(share is None or 0 <= share <= 100 for share in figures[:3])
        assert "arXiv" in figures.source
