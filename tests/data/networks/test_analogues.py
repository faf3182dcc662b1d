"""Likeness by hand, and what it must not depend on."""

import math

import numpy as np
import pytest

from astrojax.data.networks.analogues import NUM_ANALOGUE_FEATURES, Analogues
from astrojax.data.networks.universe import Compound, Term, UniversalReaction, Universe

# Compounds a to f. The candidate is a -> b; what is like it comes after it.
CANDIDATE, TWIN, NEAR, FAR, APART, UNKNOWN = range(6)
REACTIONS = (
    [("a", -1), ("b", 1)],
    [("b", -2), ("a", 1)],
    [("a", -1), ("b", -1), ("c", 1)],
    [("b", -1), ("d", 1)],
    [("d", -1), ("e", 1)],
    [("a", -1), ("f", 1)],
)
# The near one is in one draft of two, the far one in both; the unknown one in none.
DRAFTS = np.asarray([[0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0]], bool)


def universe_of(reactions) -> Universe:
    def compound(name):
        return Compound(name=name, elements=None, charge=None, accessions={}, evidence={})

    return Universe(
        networks=("n0", "n1"),
        organisms=("", ""),
        compounds=tuple(compound(name) for name in "abcdef"),
        reactions=tuple(
            UniversalReaction("", "", [Term("abcdef".index(c), "c", n) for c, n in terms], reversible=False)
            for terms in reactions
        ),
        present=np.zeros((2, len(reactions)), bool),
    )


@pytest.fixture(scope="module")
def analogues() -> Analogues:
    return Analogues(universe_of(REACTIONS), DRAFTS)


def test_likeness_is_the_weighted_share_of_common_compounds(analogues):
    # Known reactions that a compound is in: a 2 (the twin, the near one), b 3, c 1, d 2.
    a, b, c, d = (1 / math.log(2 + n) for n in (2, 3, 1, 2))
    found = dict(zip(*(x.tolist() for x in analogues.of(CANDIDATE)), strict=True))
    assert found == pytest.approx({NEAR: (a + b) / (a + b + c), FAR: b / (a + b + d)})


def test_features_by_hand(analogues):
    near, far = (dict(zip(*analogues.of(CANDIDATE), strict=True))[r] for r in (NEAR, FAR))
    more = 0.5 * near**3 / (near**3 + far**3)
    np.testing.assert_allclose(analogues.features(DRAFTS[0], CANDIDATE), [more, near, near])
    np.testing.assert_allclose(analogues.features(DRAFTS[1], CANDIDATE), [-more, far, near])


def test_what_no_draft_has_and_the_same_compounds_say_nothing(analogues):
    assert not {TWIN, UNKNOWN, APART} & set(analogues.of(CANDIDATE)[0].tolist())
    # A draft that has the twin is seen as one that does not.
    with_twin = DRAFTS[0].copy()
    with_twin[TWIN] = True
    np.testing.assert_array_equal(analogues.features(with_twin, CANDIDATE), analogues.features(DRAFTS[0], CANDIDATE))


def test_nothing_alike_is_no_error():
    universe = universe_of([[("a", -1), ("b", 1)], [("c", -1), ("d", 1)]])
    drafts = np.asarray([[False, True]] * 2)
    np.testing.assert_array_equal(Analogues(universe, drafts).features(drafts[0], 0), np.zeros(NUM_ANALOGUE_FEATURES))
    np.testing.assert_array_equal(
        Analogues(universe, np.zeros((2, 2), bool)).features(np.zeros(2, bool), 0), np.zeros(NUM_ANALOGUE_FEATURES)
    )


def test_the_order_of_reactions_and_networks_does_not_matter(analogues):
    order = np.asarray([4, 2, 0, 5, 3, 1])
    other = Analogues(universe_of([REACTIONS[r] for r in order]), DRAFTS[::-1, order])
    for draft in DRAFTS:
        np.testing.assert_allclose(
            other.features(draft[order], int(np.flatnonzero(order == CANDIDATE)[0])),
            analogues.features(draft, CANDIDATE),
        )
