"""How well scores tell the reactions that networks lack from those they do not have.

A pair is a network and a candidate reaction. ``network`` is ``[p]`` int, ``label`` ``[p]`` bool, true where the network
has the reaction, ``score`` ``[p]``, higher where it is more likely.
"""

import math

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

_RESAMPLES = 1000
_INTERVAL = (0.025, 0.975)


def auroc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the receiver operating characteristic of all pairs together; NaN where labels are all alike."""
    return float(roc_auc_score(label, score)) if 0 < np.sum(label) < len(label) else math.nan


def auprc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the curve of precision over recall of all pairs together, as average precision: the precision at each
    true pair, averaged. By chance it is the share of true pairs. NaN where there are none."""
    return float(average_precision_score(label, score)) if np.any(label) else math.nan


def recovery_at(n: int, network: np.ndarray, label: np.ndarray, score: np.ndarray) -> float:
    """Share of its missing reactions that a network has among its ``n`` highest-scored candidates, of as many as can be
    among them, averaged over the networks that miss any; NaN where none does.

    Candidates of one score are in an order by chance, over which this is the expectation.
    """
    shares = []
    for one in np.unique(network[label]):
        true, scores = label[network == one], score[network == one]
        lowest = np.sort(scores)[-min(n, len(scores))]
        above, tied = scores > lowest, scores == lowest
        found = true[above].sum() + (min(n, len(scores)) - above.sum()) * true[tied].mean()
        shares.append(found / min(n, true.sum()))
    return float(np.mean(shares)) if shares else math.nan


def auprc_interval(group: np.ndarray, label: np.ndarray, score: np.ndarray) -> tuple[float, float, float]:
    """``auprc`` and its 95 % interval by percentile bootstrap over groups of pairs, ``(value, low, high)``.

    Each group is drawn as a whole: what is held out as one, from relatives that share it, counts as one.
    """
    return auprc(label, score), *_interval(_resampled_auprc(group, label, score))


def auprc_difference(
    group: np.ndarray, label: np.ndarray, score: np.ndarray, baseline: np.ndarray
) -> tuple[float, float, float]:
    """``auprc`` of ``score`` less that of ``baseline``, and its interval; see ``auprc_interval``. Both are asked about
    the same groups each time."""
    resampled = (_resampled_auprc(group, label, x) for x in (score, baseline))
    return auprc(label, score) - auprc(label, baseline), *_interval(np.subtract(*resampled))


def _resampled_auprc(group: np.ndarray, label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """``auprc`` of each of the resamples, which are the same for every score; NaN where it has no true pair.

    A pair that is drawn twice weighs twice, so that one order of the pairs serves all resamples.
    """
    names, group = np.unique(group, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))  # Of each run of equal scores.
    true = label[order]
    values = np.full(_RESAMPLES, math.nan)
    for i, times in enumerate(drawn):
        weight = times[group[order]]
        pairs, found = np.cumsum(weight)[last], np.cumsum(weight * true)[last]
        if found[-1]:
            values[i] = np.sum(np.diff(found, prepend=0) * found / np.maximum(pairs, 1)) / found[-1]
    return values


def _interval(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return tuple(np.quantile(known, _INTERVAL).tolist()) if known.size else (math.nan, math.nan)
