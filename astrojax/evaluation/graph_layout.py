"""Where to draw the nodes of a small directed graph of two kinds: in layers, with arrows downwards if they can be."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.sparse.csgraph import connected_components

_STARTS, _SWEEPS = 20, 40
_WEIGHT_OF_REVERSIBLE = 0.1
_LANE = 0.15  # Inches that an arrow takes where it passes a layer.


class Layout(NamedTuple):
    """Places of ``v`` nodes, and after them of the bends of arrows that pass a layer.

    Attributes:
        x: in the unit of widths.
        layer: int, 0 at the top.
        routes: the places of each arrow: its tail, its bends, its head.
    """

    x: np.ndarray
    layer: np.ndarray
    routes: list[list[int]]


def layered(arrows: np.ndarray, widths: np.ndarray, reversible: np.ndarray) -> Layout:
    """Lays out reactions, which come first among the nodes, and compounds.

    Which arrows of a cycle run upwards follows from levels that minimise the sum over arrows of (level of the head -
    level of the tail - 1)^2 (MacKay, Johnson and Sansom 2020, arXiv 2001.05173), in which reversible reactions count
    for little; those are then turned downwards. A layer is the longest way down to a node: even for compounds, odd for
    reactions. Within a layer nodes move towards their neighbours as far as their widths allow, from several orders by
    chance, of which the one with the shortest arrows is taken.

    Args:
        arrows: ``[e, 2]`` int, tail and head, one of them a reaction.
        widths: ``[v]``, inches.
        reversible: ``[reaction]`` bool.
    """
    reaction, rows = arrows.min(axis=1), np.arange(len(arrows))
    difference = np.zeros((len(arrows), len(widths)))
    difference[rows, arrows[:, 1]], difference[rows, arrows[:, 0]] = 1, -1
    weight = np.where(reversible, _WEIGHT_OF_REVERSIBLE, 1.0)[reaction]
    level = np.linalg.lstsq(weight[:, None] * difference, weight)[0]
    upwards = np.bincount(reaction, difference @ level, len(reversible)) < 0
    downwards = np.where((reversible & upwards)[reaction, None], arrows[:, ::-1], arrows)
    layer, routes = _with_bends(_longest_ways(level, downwards, len(reversible)), arrows)
    _, component = connected_components(np.abs(difference).T @ np.abs(difference))
    links = np.concatenate([np.stack([route[:-1], route[1:]], axis=1) for route in routes])
    neighbours = np.zeros((len(layer), len(layer)))
    neighbours[links[:, 0], links[:, 1]] = neighbours[links[:, 1], links[:, 0]] = 1
    bends = len(layer) - len(widths)
    widths, component = np.pad(widths, (0, bends), constant_values=_LANE), np.pad(component, (0, bends))
    for route in routes:
        component[route] = component[route[0]]
    rng = np.random.default_rng(0)
    tried = [_columns(neighbours, layer, widths, component + rng.random(len(layer))) for _ in range(_STARTS)]
    shortest = min(tried, key=lambda x: np.sum(np.diff(x[links]) ** 2))
    return Layout(_side_by_side(shortest, widths, component), layer, routes)


def _side_by_side(x: np.ndarray, widths: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Parts that are not connected, which nothing draws together, next to each other."""
    placed, end = np.empty_like(x), 0.0
    for k in np.unique(component):
        nodes = component == k
        placed[nodes] = x[nodes] - np.min(x[nodes] - widths[nodes] / 2) + end
        end = np.max(placed[nodes] + widths[nodes] / 2)
    return placed


def _longest_ways(level: np.ndarray, arrows: np.ndarray, num_reactions: int) -> np.ndarray:
    """``[v]`` int, of arrows that are turned where they run upwards; what nothing leads to is just above what it leads
    to."""
    rank = np.empty(len(level), int)
    rank[np.argsort(level.round(6), kind="stable")] = np.arange(len(level))
    before = [[] for _ in level]
    after = [[] for _ in level]
    for tail, head in arrows.tolist():
        first, second = (tail, head) if rank[tail] < rank[head] else (head, tail)
        before[second].append(first)
        after[first].append(second)
    layer = (np.arange(len(level)) < num_reactions).astype(int)
    for node in np.argsort(rank):
        layer[node] = max((layer[other] + 1 for other in before[node]), default=layer[node])
    for node in range(len(level)):
        if not before[node]:
            layer[node] = min(layer[other] for other in after[node]) - 1
    return layer


def _with_bends(layer: np.ndarray, arrows: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    layers, routes = layer.tolist(), []
    for tail, head in arrows.tolist():
        step = 1 if layer[head] > layer[tail] else -1
        passed = range(layer[tail] + step, layer[head], step)
        routes.append([tail, *range(len(layers), len(layers) + len(passed)), head])
        layers += passed
    return np.asarray(layers), routes


def _columns(neighbours: np.ndarray, layer: np.ndarray, widths: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Nodes of a layer side by side, each near the mean of its neighbours."""
    x = x * widths.sum()  # Apart at first, parts that are not connected furthest.
    for sweep in range(_SWEEPS):
        layers = np.unique(layer)
        for k in layers if sweep % 2 == 0 else layers[::-1]:
            nodes = np.flatnonzero(layer == k)
            wanted = neighbours[nodes] @ x / neighbours[nodes].sum(axis=1)
            order = np.argsort(wanted, kind="stable")
            half = widths[nodes[order]] / 2
            x[nodes[order]] = spaced(wanted[order], np.concatenate([[0], np.cumsum(half[1:] + half[:-1])]))
    return x


def spaced(wanted: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Places in the same order, nearest to the ``wanted`` ones in the least squares, no two nearer than in ``apart``.

    Args:
        wanted: ``[n]``.
        apart: ``[n]``, ascending.
    """
    return isotonic_regression(wanted - apart).x + apart
