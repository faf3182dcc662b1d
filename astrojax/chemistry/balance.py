"""The likeliest reaction that neither makes nor loses an element."""

import heapq

import numpy as np

# Assignments looked at before a reaction counts as one that cannot be balanced.
_TRIED = 2000
_TOLERANCE = 1e-3


def likeliest_balanced(
    log_likelihood: np.ndarray, coefficients: np.ndarray, elements: np.ndarray | None
) -> np.ndarray | None:
    """The classes of greatest likelihood with which a reaction balances, each compound's independent of others'.

    Assignments are tried from the likeliest on (Lawler 1972), so that the first that balances is the answer.

    Args:
        log_likelihood: ``[compound, class]``.
        coefficients: ``[class]``, what each class counts for. The first takes no part in the reaction.
        elements: ``[compound, element]``, atoms of each element in a compound, and its charge where it is to be kept;
            None asks for no balance.

    Returns:
        ``[compound]``, the class of each, or None where none of the first two thousand assignments balances and has
        something take part.
    """
    order = np.argsort(-log_likelihood, axis=1)
    ranked = np.take_along_axis(log_likelihood, order, axis=1)
    choice = np.zeros(len(ranked), np.int64)
    gaps = ranked[:, :1] - ranked
    # Compounds by what their second choice costs: of two assignments the one with the earlier change comes first.
    by_cost = np.argsort(gaps[:, 1])
    queue: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]
    for _ in range(_TRIED):
        if not queue:
            return None
        cost, changes = heapq.heappop(queue)
        choice[:] = 0
        for position, rank in changes:
            choice[by_cost[position]] = rank
        classes = order[np.arange(len(order)), choice]
        found = coefficients[classes]
        scale = max(1.0, np.abs(found).max(initial=0.0))
        if classes.any() and (elements is None or np.all(np.abs(found @ elements) <= _TOLERANCE * scale)):
            return classes
        # Successors: the last change goes one further, moves on to the next compound, or is joined by one there.
        if not changes:
            _push(queue, 0.0, (), 0, 1, gaps, by_cost)
            continue
        position, rank = changes[-1]
        before = changes[:-1]
        base = cost - gaps[by_cost[position], rank]
        _push(queue, base, before, position, rank + 1, gaps, by_cost)
        if rank == 1:
            _push(queue, base, before, position + 1, 1, gaps, by_cost)
        _push(queue, cost, changes, position + 1, 1, gaps, by_cost)
    return None


def _push(queue, base, before, position, rank, gaps, by_cost) -> None:
    if position < len(by_cost) and rank < gaps.shape[1]:
        cost = base + gaps[by_cost[position], rank]
        if np.isfinite(cost):
            heapq.heappush(queue, (float(cost), (*before, (position, rank))))
