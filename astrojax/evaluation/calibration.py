"""How far predicted probabilities can be trusted.

``label`` is ``[p]`` bool, what turned out, ``probability`` ``[p]``, what was predicted of it.
"""

import math
from typing import NamedTuple

import numpy as np

_BINS = 15


class Reliability(NamedTuple):
    """Bins of predictions whose probabilities are alike, from the lowest on.

    Attributes:
        probability: ``[bin]``, the mean of what was predicted.
        frequency: ``[bin]``, the share that is true.
        count: ``[bin]`` int, number of predictions.
    """

    probability: np.ndarray
    frequency: np.ndarray
    count: np.ndarray


def reliability(label: np.ndarray, probability: np.ndarray) -> Reliability:
    """Predicted probability and true frequency in 15 bins of equal count. Equal probabilities share a bin, so that
    counts differ and bins are fewer where many are equal. No predictions have no bins."""
    if not len(probability):
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0, int))
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, _BINS + 1)[1:-1], method="inverted_cdf"))
    bins = np.searchsorted(edges, probability)
    count = np.bincount(bins)
    held = count > 0
    means = (np.bincount(bins, x)[held] / count[held] for x in (probability, label))
    return Reliability(*means, count[held])


def expected_calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean distance of predicted probability from true frequency over the bins of ``reliability``, by their counts;
    NaN where there are none.

    Naeini, Cooper and Hauskrecht 2015 (AAAI); Guo et al. 2017, arXiv 1706.04599, eq. 3, there with bins of equal width.
    """
    bins = reliability(label, probability)
    if not len(bins.count):
        return math.nan
    return float(np.average(np.abs(bins.probability - bins.frequency), weights=bins.count))
