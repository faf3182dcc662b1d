"""Calibration against counting."""

import math

import numpy as np
import pytest

from astrojax.evaluation.calibration import expected_calibration_error, reliability

RNG = np.random.default_rng(0)


def test_reliability_has_bins_of_equal_count_with_their_means():
    probability = RNG.permutation(np.arange(150) / 150)
    label = RNG.random(150) < probability
    bins = reliability(label, probability)
    np.testing.assert_array_equal(bins.count, np.full(15, 10))
    order = np.argsort(probability)
    np.testing.assert_allclose(bins.probability, probability[order].reshape(15, 10).mean(1))
    np.testing.assert_allclose(bins.frequency, label[order].reshape(15, 10).mean(1))


def test_equal_probabilities_share_a_bin():
    label = np.arange(100) < 40
    bins = reliability(label, np.full(100, 0.5))
    np.testing.assert_allclose((*bins.probability, *bins.frequency, *bins.count), (0.5, 0.4, 100))
    assert expected_calibration_error(label, np.full(100, 0.5)) == pytest.approx(0.1)


def test_calibration_error_weights_bins_by_their_counts():
    label = np.repeat([True, False, True], [60, 20, 20])
    probability = np.repeat([0.7, 0.7, 0.2], [60, 20, 20])  # 3 of 4 are true, then all.
    assert expected_calibration_error(label, probability) == pytest.approx(0.8 * 0.05 + 0.2 * 0.8)


def test_nothing_predicted_is_no_error_known():
    nothing = np.zeros(0)
    assert reliability(nothing > 0, nothing).count.size == 0
    assert math.isnan(expected_calibration_error(nothing > 0, nothing))


def test_calibrated_probabilities_have_little_error():
    probability = RNG.random(100_000)
    assert expected_calibration_error(RNG.random(100_000) < probability, probability) < 0.02
