"""Layers follow the arrows, and nothing lies on top of anything."""

import numpy as np
import pytest

from astrojax.evaluation.graph_layout import layered, spaced


def arrows_of(*reactions) -> np.ndarray:
    """``reactions``: compounds used and compounds made, numbered from 0."""
    place = len(reactions)
    return np.asarray(
        [(place + c, i) for i, (used, _) in enumerate(reactions) for c in used]
        + [(i, place + c) for i, (_, made) in enumerate(reactions) for c in made]
    )


def layout_of(*reactions, reversible=None):
    arrows = arrows_of(*reactions)
    turns = np.zeros(len(reactions), bool) if reversible is None else np.asarray(reversible, bool)
    return layered(arrows, np.ones(arrows.max() + 1), turns)


def test_a_chain_goes_down_straight():
    layout = layout_of(([0], [1]), ([1], [2]))
    assert layout.layer.tolist() == [1, 3, 0, 2, 4]
    np.testing.assert_allclose(layout.x, layout.x[0], atol=1e-6)


def test_a_reversible_reaction_written_backwards_is_turned_round():
    reactions = ([0], [1]), ([1], [2]), ([3], [2]), ([3], [0])
    assert layout_of(*reactions, reversible=[0, 0, 0, 1]).layer.tolist() == [1, 3, 3, 1, 0, 2, 4, 2]


def test_no_arrow_stays_in_a_layer_of_a_cycle():
    reactions = ([0], [1]), ([1], [2]), ([2], [0]), ([0, 3], [2])
    layout = layout_of(*reactions)
    for tail, head in arrows_of(*reactions):
        assert layout.layer[tail] != layout.layer[head]


def test_long_arrows_bend_in_every_layer_they_pass():
    layout = layout_of(([0], [1]), ([1], [2]), ([0, 2], [3]))
    for route in layout.routes:
        assert np.abs(np.diff(layout.layer[route])).tolist() == [1] * (len(route) - 1)
    assert layout.layer[:7].tolist() == [1, 3, 5, 0, 2, 4, 6]
    assert max(map(len, layout.routes)) == 6  # From the first compound to the last reaction.


@pytest.mark.parametrize("seed", range(3))
def test_nodes_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    reactions = [(rng.choice(12, 2), rng.choice(12, 2)) for _ in range(8)]
    arrows = arrows_of(*reactions)
    widths = rng.uniform(0.5, 2, arrows.max() + 1)
    used = np.unique(arrows)
    arrows, widths = np.searchsorted(used, arrows), widths[used]
    layout = layered(arrows, widths, rng.random(8) < 0.5)
    nodes = np.arange(len(widths))
    for k in np.unique(layout.layer):
        row = nodes[layout.layer[nodes] == k]
        row = row[np.argsort(layout.x[row])]
        gaps = np.diff(layout.x[row]) - (widths[row[1:]] + widths[row[:-1]]) / 2
        assert (gaps > -1e-9).all()


def test_parts_that_are_not_connected_stand_side_by_side():
    layout = layout_of(([0], [1]), ([2], [3]))
    first, second = layout.x[[0, 2, 3]], layout.x[[1, 4, 5]]
    assert max(second.min() - first.max(), first.min() - second.max()) == pytest.approx(1)  # And no further.


def test_spaced_moves_no_more_than_needed():
    np.testing.assert_allclose(spaced(np.asarray([0.0, 0.0, 9.0]), np.asarray([0.0, 2.0, 4.0])), [-1, 1, 9])
