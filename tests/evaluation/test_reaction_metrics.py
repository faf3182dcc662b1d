"""Scores against closed forms and counting."""

import math

import numpy as np
import pytest

from astrojax.evaluation.reaction_metrics import (
    auprc,
    auprc_difference,
    auprc_interval,
    auroc,
    recovery_at,
)

RNG = np.random.default_rng(0)


def pairs_of(number=400, networks=5):
    network = RNG.integers(networks, size=number)
    label = RNG.random(number) < 0.3
    return network, label, np.round(label + RNG.normal(0, 1.5, number), 1)  # Rounded: many are equal.


def test_auroc_is_the_chance_that_a_true_pair_is_above_a_false_one():
    _, label, score = pairs_of()
    true, false = score[label, None], score[~label]
    assert auroc(label, score) == pytest.approx(np.mean((true > false) + 0.5 * (true == false)))


def test_auprc_is_the_mean_precision_at_true_pairs():
    label = np.asarray([True, False, True, True, False])
    assert auprc(label, np.asarray([5, 4, 3, 2, 1])) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert auprc(label, np.zeros(5)) == pytest.approx(3 / 5)


def test_labels_that_are_all_alike_have_no_curve():
    score = np.asarray([0.1, 0.9])
    assert math.isnan(auroc(np.ones(2, bool), score))
    assert math.isnan(auroc(np.zeros(2, bool), score))
    assert math.isnan(auprc(np.zeros(2, bool), score))
    assert math.isnan(recovery_at(1, np.zeros(2, int), np.zeros(2, bool), score))


def test_recovery_averages_over_the_networks_that_miss_reactions():
    network = np.asarray([0, 0, 0, 0, 1, 1, 2])
    label = np.asarray([True, True, True, False, False, True, False])
    score = np.asarray([0.9, 0.1, 0.8, 0.5, 0.7, 0.2, 1.0])
    assert recovery_at(1, network, label, score) == pytest.approx((1 / 1 + 0 / 1) / 2)
    assert recovery_at(3, network, label, score) == pytest.approx((2 / 3 + 1 / 1) / 2)
    assert recovery_at(100, network, label, score) == 1


def test_recovery_of_equal_scores_is_what_chance_orders_recover():
    network, label, score = pairs_of()
    score = np.round(score)
    drawn = [recovery_at(10, network, label, score + 1e-6 * RNG.random(len(score))) for _ in range(1000)]
    assert recovery_at(10, network, label, score) == pytest.approx(np.mean(drawn), abs=0.01)


def test_interval_spans_what_two_networks_can_be_drawn_to():
    network, label, score = pairs_of(networks=2)
    of = {n: auprc(label[network == n], score[network == n]) for n in (0, 1)}
    both = auprc(label, score)
    value, low, high = auprc_interval(network + 7, label, score)
    assert value == both
    assert (low, high) == pytest.approx((min(*of.values(), both), max(*of.values(), both)))


def test_networks_that_are_alike_leave_no_doubt():
    label, score = RNG.random(50) < 0.5, RNG.random(50)
    network = np.repeat(np.arange(4), 50)
    value, low, high = auprc_interval(network, np.tile(label, 4), np.tile(score, 4))
    assert (low, high) == pytest.approx((value, value))
    assert value == pytest.approx(auprc(label, score))


def test_difference_pairs_the_resamples():
    network, label, score = pairs_of()
    assert auprc_difference(network, label, score, score) == (0, 0, 0)
    better, low, high = auprc_difference(network, label, label + 0.0, score)
    assert better == pytest.approx(1 - auprc(label, score))
    assert low <= better <= high
