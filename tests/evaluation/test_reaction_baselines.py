"""Features by hand and by counting, what they must not depend on, and what the regressions can learn."""

import itertools
import math

import numpy as np
import pytest

from astrojax.data.networks.analogues import Analogues
from astrojax.data.networks.candidates import Pairs
from astrojax.data.networks.universe import Compound, Term, UniversalReaction, Universe
from astrojax.evaluation import reaction_baselines
from astrojax.evaluation.reaction_baselines import (
    BASELINES,
    fit_and_score,
    formula_features,
    network_features,
    training_features,
)
from astrojax.evaluation.reaction_metrics import auroc

NUM_NETWORKS = 6


def pairs_of(*pairs) -> Pairs:
    network, reaction, label = zip(*pairs, strict=True)
    return Pairs(np.asarray(network), np.asarray(reaction), np.asarray(label, bool))


def universe_of(reactions, compounds, present) -> Universe:
    """``reactions``: terms, each a compound, a coefficient and perhaps a compartment; and whether it is reversible."""
    return Universe(
        networks=tuple(f"n{i}" for i in range(len(present))),
        organisms=("",) * len(present),
        compounds=tuple(
            Compound(name=f"c{i}", elements=elements, charge=charge, accessions={}, evidence={})
            for i, (elements, charge) in enumerate(compounds)
        ),
        reactions=tuple(
            UniversalReaction(
                id=f"r{i}", name="", terms=[Term(c, *where or ("c",), n) for c, n, *where in terms], reversible=both
            )
            for i, (terms, both) in enumerate(reactions)
        ),
        present=np.asarray(present, bool),
    )


@pytest.fixture(scope="module")
def small():
    """c0 -> c1, c1 <-> c2, c0 + c2 -> c3 + c4, and c3 from one compartment to another."""
    reactions = [
        ([(0, -1), (1, 1)], False),
        ([(1, -1), (2, 1)], True),
        ([(0, -1), (2, -1), (3, 1), (4, 1)], False),
        ([(3, -1), (3, 1, "e")], False),
    ]
    compounds = [({"C": 6, "H": 12, "O": 6}, 0), ({"C": 6, "Fe": 1}, -2), (None, None), ({"H": 1}, 1), ({}, 0)]
    return universe_of(reactions, compounds, np.ones((2, 4)))


@pytest.fixture(scope="module")
def random():
    rng = np.random.default_rng(0)
    num_compounds, num_reactions = 40, 300
    reactions = [
        ([(int(c), s) for c, s in zip(rng.choice(num_compounds, 4, False), (-1, -2, 1, 1), strict=True)], bool(i % 3))
        for i in range(num_reactions)
    ]
    compounds = [({"C": int(rng.integers(20)), "N": int(rng.integers(4))}, -1) for _ in range(num_compounds)]
    return universe_of(reactions, compounds, rng.random((NUM_NETWORKS, num_reactions)) < 0.4)


def all_pairs(universe, reactions) -> Pairs:
    network, place = np.divmod(np.arange(len(universe.networks) * len(reactions)), len(reactions))
    reaction = np.asarray(reactions)[place]
    return Pairs(network, reaction, universe.present[network, reaction])


def test_formulas(small):
    features = formula_features(small)[0].reshape(3, -1)
    # C, H, N, O, P, S, others, charge, compounds, compounds without formula.
    used, made = [6, 12, 0, 6, 0, 0, 0, 0, 1, 0], [6, 0, 0, 0, 0, 0, 1, -2, 1, 0]
    for row, counts in zip(features, (used, made, np.subtract(made, used)), strict=True):
        np.testing.assert_allclose(row, np.sign(counts) * np.log1p(np.abs(counts)))
    assert formula_features(small)[1, -1] == pytest.approx(math.log(2))  # c2 has none, c1 has.


def test_degrees_and_dead_ends(small):
    drafts = np.asarray([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    features = network_features(small, drafts, pairs_of((0, 2, True)))[0]
    least, mean, absent, absent_there, dead_ends, share, *_ = features
    assert least == 0  # c3 and c4 have no reaction.
    assert mean == pytest.approx((2 * math.log(2)) / 4)
    assert (absent, absent_there) == (2, 2)
    assert dead_ends == 1  # c0 is only used; c2 is both, by a reversible reaction.
    assert share == 0.5
    known = Analogues(small, drafts)
    np.testing.assert_allclose(features[7:], known.features(drafts[0], 2))
    assert features[7] > 0  # The second reaction, which the other draft lacks.
    transport = network_features(small, drafts, pairs_of((1, 3, True)))[0]
    assert (transport[2], transport[3]) == (0, 1)  # c3 is there, but not in the other compartment.
    assert transport[6] == 0


def test_common_neighbours_are_those_of_adamic_and_adar(random):
    drafts, test = random.present, all_pairs(random, [3, 50, 299])
    scores = fit_and_score("common_neighbours", random, drafts, test, test)
    compounds = [{t.compound for t in reaction.terms} for reaction in random.reactions]
    for n, r, score in zip(test.network, test.reaction, scores, strict=True):
        neighbours = {c: set() for c in range(len(random.compounds))}
        for s in np.flatnonzero(drafts[n]):
            for a, b in itertools.permutations(compounds[s], 2):
                neighbours[a].add(b)
        expected = [
            sum(1 / math.log(len(neighbours[c])) for c in neighbours[a] & neighbours[b])
            for a, b in itertools.combinations(compounds[r], 2)
        ]
        assert score == pytest.approx(np.mean(expected))


def test_frequency_counts_the_reactions_of_all_drafts(small):
    drafts = np.asarray([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    test = pairs_of((0, 2, True), (1, 1, False), (0, 3, False))
    uses = np.log1p([3, 3, 2, 1, 1])  # Of c0 to c4.
    expected = [math.log(2) + uses[[0, 2, 3, 4]].mean(), math.log(2) + uses[[1, 2]].mean(), uses[3]]
    np.testing.assert_allclose(fit_and_score("frequency", small, drafts, test, test), expected)


def test_training_features_do_not_tell_whether_a_draft_has_the_reaction(random):
    reactions = np.arange(0, 300, 40)
    train = all_pairs(random, reactions)
    expected = training_features(random, random.present, train)
    for r in reactions[:3]:
        of_reaction = train.reaction == r
        for held in (False, True):
            drafts = random.present.copy()
            drafts[:, r] = held
            drafts[-1, r] = True  # What no draft has is no part of any tenth.
            np.testing.assert_array_equal(training_features(random, drafts, train)[of_reaction], expected[of_reaction])
        others = training_features(random, random.present & (np.arange(300) % 2 == 1), train)
        assert (others[of_reaction] != expected[of_reaction]).any()  # But they are of the draft.


def test_reactions_of_the_same_compounds_are_taken_out_together(random):
    twice = Universe(
        networks=random.networks,
        organisms=random.organisms,
        compounds=random.compounds,
        reactions=random.reactions * 2,
        present=np.tile(random.present, (1, 2)),
    )
    train = all_pairs(twice, [0])
    drafts = twice.present.copy()
    drafts[:, 300] = False
    np.testing.assert_array_equal(
        training_features(twice, drafts, train), training_features(twice, twice.present, train)
    )


@pytest.mark.parametrize("name", BASELINES)
def test_labels_of_candidates_are_not_read(random, name, monkeypatch):
    monkeypatch.setattr(reaction_baselines, "_MAX_TREES", 10)
    held_out = np.arange(250, 300)
    drafts = random.present.copy()
    drafts[:, held_out] = False
    train, test = all_pairs(random, np.arange(250)), all_pairs(random, held_out)
    scores = fit_and_score(name, random, drafts, train, test)
    assert scores.shape == test.label.shape
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, fit_and_score(name, random, drafts, train, test._replace(label=~test.label)))


def test_regressions_learn_what_they_can_see():
    """A network has the reactions whose compounds are all in its half, but for those with nitrogen, which none has."""
    rng = np.random.default_rng(1)
    halves = [rng.permutation(30) < 20 for _ in range(NUM_NETWORKS)]
    chosen = [rng.choice(30, 3, False) for _ in range(600)]
    compounds = [({"C": 1, "N": 1} if i < 4 else {"C": 1}, 0) for i in range(30)]
    with_nitrogen = np.asarray([c.min() < 4 for c in chosen])
    present = np.asarray([[half[c].all() for c in chosen] for half in halves]) & ~with_nitrogen
    universe = universe_of(
        [([(int(a), -1), (int(b), -1), (int(c), 1)], False) for a, b, c in chosen], compounds, present
    )
    drafts, held_out = present.copy(), np.arange(500, 600)
    drafts[:, held_out] = False
    train, test = all_pairs(universe, np.arange(500)), all_pairs(universe, held_out)
    formula, network = (
        auroc(test.label, fit_and_score(name, universe, drafts, train, test))
        for name in ("formula_regression", "network_regression")
    )
    assert formula > 0.65
    assert network > 0.98


def test_what_cannot_be_fitted_is_refused(random):
    train = all_pairs(random, [0, 1])
    with pytest.raises(ValueError, match="'majority' should be one of frequency"):
        fit_and_score("majority", random, random.present, train, train)
    with pytest.raises(ValueError, match=r"drafts.shape=\(6, 299\) should be \(6, 300\)"):
        fit_and_score("frequency", random, random.present[:, 1:], train, train)
