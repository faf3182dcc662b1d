"""Calibration of the reaction task's logits."""

import numpy as np
import pytest

from astrojax.tasks.reactions import Calibration


def drawn(weights, offset, count=50_000):
    """Evidence, and labels that are true as often as a calibration of these weights says."""
    rng = np.random.default_rng(0)
    evidence = rng.normal(size=(len(weights), count))
    return rng.random(count) < Calibration(tuple(weights), offset)(*evidence), evidence


@pytest.mark.parametrize(("weights", "offset"), [((1.0,), 0.0), ((0.5,), -1.0), ((0.8, 2.0), 0.5)])
def test_a_fit_finds_the_weights_that_labels_were_drawn_by(weights, offset):
    label, evidence = drawn(weights, offset)
    fitted = Calibration.fit(label, *evidence)
    assert fitted.weights == pytest.approx(weights, abs=0.05)
    assert fitted.offset == pytest.approx(offset, abs=0.05)


def test_evidence_never_speaks_against():
    label, evidence = drawn((-1.0, 1.0), 0.0)
    weights = Calibration.fit(label, *evidence).weights
    assert weights[0] == pytest.approx(0, abs=1e-6)
    assert weights[1] > 0.5


@pytest.mark.parametrize("label", [np.ones(50), np.zeros(50), np.arange(50) >= 25])
def test_a_few_labels_are_no_certainty(label):
    probability = Calibration.fit(label, np.linspace(-1, 1, 50))(np.linspace(-1, 1, 50))
    assert np.isfinite(probability).all()
    assert (np.diff(probability) >= 0).all()
    assert 0.005 < probability.mean() < 0.995
