import dataclasses

import jax
import msgspec
import numpy as np
import pytest

from astrojax.data.networks.analogues import NUM_ANALOGUE_FEATURES, Analogues
from astrojax.data.networks.candidates import candidates, foldings, participation, same_compounds, split_of, splits
from astrojax.data.networks.neighbourhood import (
    ABOVE,
    BALANCE,
    BELOW,
    COEFFICIENTS,
    EDGE_KINDS,
    FIRST_COMPOUND,
    MOVED,
    NODE_FEATURES,
    REACTION,
    Neighbourhoods,
    Surroundings,
    coefficient_class,
)
from astrojax.data.networks.universe import Compound, Term, UniversalReaction, Universe

NUM_COMPOUNDS, NUM_REACTIONS, NUM_NETWORKS = 30, 200, 5
HELD_OUT = np.arange(150, NUM_REACTIONS)
CONFIG = Surroundings(max_reactions=6, max_compounds=9, hub=25)


def compound(name, elements=None) -> Compound:
    return Compound(name=name, elements=elements, charge=None, accessions={}, evidence={})


def universe_of(reactions, names, present=None) -> Universe:
    """``reactions``: terms, each a compound, a coefficient and perhaps a compartment."""
    return Universe(
        networks=tuple(f"n{i}" for i in range(NUM_NETWORKS)),
        organisms=("",) * NUM_NETWORKS,
        compounds=tuple(compound(name, {"C": i}) for i, name in enumerate(names)),
        reactions=tuple(
            UniversalReaction(
                id=f"r{i}",
                name="",
                terms=[Term(c, *where or ("c",), n) for c, n, *where in terms],
                reversible=i % 3 == 0,
            )
            for i, terms in enumerate(reactions)
        ),
        present=np.ones((NUM_NETWORKS, len(reactions)), bool) if present is None else present,
    )


@pytest.fixture(scope="module")
def universe() -> Universe:
    """Reactions of two to four compounds, one of which most have; some of the same compounds."""
    rng = np.random.default_rng(0)
    reactions = []
    for i in range(NUM_REACTIONS):
        size = int(rng.integers(2, 5))
        members = [*rng.choice(np.arange(1, NUM_COMPOUNDS), size - 1, replace=False).tolist(), 0]
        if i % 5 == 0:
            members[-1] = (members[0] + 1) % NUM_COMPOUNDS
        coefficients = rng.choice([-1, -2, 1, 1, 3, -2.5, 7], size).tolist()
        reactions.append(list(zip(dict.fromkeys(members), coefficients, strict=False)))
    reactions[7], reactions[160] = ([(c, -2 * n, "e") for c, n in reactions[r]] for r in (6, 159))
    # Nothing but what has its number below 20 is in the first network.
    present = rng.random((NUM_NETWORKS, NUM_REACTIONS)) < 0.5
    present[0] = [max(c for c, *_ in terms) < 20 for terms in reactions]
    return universe_of(reactions, [f"c{i}" for i in range(NUM_COMPOUNDS)], present)


@pytest.fixture(scope="module")
def drafts(universe) -> np.ndarray:
    drafts = universe.present.copy()
    drafts[:, HELD_OUT] = False
    return drafts


def compounds_of(universe, reaction) -> set[int]:
    return {term.compound for term in universe.reactions[reaction].terms}


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def pairs_of_drafts(drafts):
    """Some pairs of a draft and a reaction that it lacks."""
    return [(n, int(r)) for n in range(len(drafts)) for r in HELD_OUT[::3]]


def test_protons_do_not_part_reactions():
    """One way to write a conversion in training would tell of another that is held out."""
    both = universe_of([[(0, -1), (1, 1)], [(0, -1), (1, 1), (2, 1)], [(0, -1), (3, 1)]], ["a", "b", "H+", "c"])
    compounds = tuple(msgspec.structs.replace(c, proton=c.name == "H+") for c in both.compounds)
    first, second, other = same_compounds(dataclasses.replace(both, compounds=compounds), np.arange(3)).tolist()
    assert first == second != other


def test_the_split_of_a_reaction_is_that_of_its_compounds_names():
    one = universe_of([[(0, -1), (1, 1)], [(0, -1), (2, 2)]], ["water", "glucose", "ATP"])
    # Other places, coefficients, compartments, order, formulas and networks.
    other = universe_of(
        [[(3, 5)], [(1, -3, "e"), (2, 1, "e"), (2, -1)], [(0, 0.5), (2, -1)]],
        ["ATP", "glucose", "water", "iron"],
        np.zeros((NUM_NETWORKS, 3), bool),
    )
    assert splits(one).tolist() == splits(other)[1:].tolist()
    assert splits(one).tolist() == [split_of(one, reaction) for reaction in one.reactions]


def test_eight_of_ten_reactions_are_learnt_from():
    many = universe_of([[(i, -1), (i + 1, 1)] for i in range(2000)], [f"c{i}" for i in range(2001)])
    shares = {split: np.mean(splits(many) == split) for split in ("train", "validation", "heldout")}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "heldout": 0.1}, abs=0.03)


def test_participation_counts_a_compound_once():
    moved = universe_of([[(1, -1), (1, 1, "e"), (2, -1)], [(0, 1)]], ["a", "b", "c", "d"])
    assert participation(moved).toarray().tolist() == [[0, 1], [1, 0], [1, 0], [0, 0]]


def test_candidates_are_the_reactions_all_of_whose_compounds_and_compartments_a_draft_has(universe, drafts):
    def places_of(reaction):
        return {term.compartment for term in universe.reactions[reaction].terms}

    outside = int(np.flatnonzero([places_of(r) == {"e"} for r in range(NUM_REACTIONS)])[0])
    drafts = drafts.copy()
    drafts[:, outside] = np.arange(len(drafts)) > 2  # Some have nothing outside.
    found = candidates(universe, drafts, HELD_OUT)
    expected = set()
    for n, draft in enumerate(drafts):
        held = np.flatnonzero(draft)
        there, where = (set().union(*(of(r) for r in held)) for of in (lambda r: compounds_of(universe, r), places_of))
        expected |= {(n, r) for r in HELD_OUT.tolist() if compounds_of(universe, r) <= there and places_of(r) <= where}
    pairs = list(zip(found.network.tolist(), found.reaction.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    assert 0 < len([r for n, r in pairs if n == 0]) < len(HELD_OUT)
    assert found.label.tolist() == [universe.present[pair] for pair in pairs]


def test_a_draft_of_nothing_has_no_candidates(universe, drafts):
    assert not len(candidates(universe, np.zeros_like(drafts), HELD_OUT).network)


def test_foldings_are_a_partition_that_keeps_the_same_compounds_together(universe):
    twice = dataclasses.replace(universe, reactions=universe.reactions * 2, present=np.tile(universe.present, (1, 2)))
    reactions = np.random.default_rng(0).permutation(2 * NUM_REACTIONS)[:300]
    folds = list(foldings(twice, reactions, 0))
    assert len(folds) == 10
    assert sorted(np.concatenate(folds).tolist()) == sorted(reactions.tolist())
    fold_of = {int(r): i for i, fold in enumerate(folds) for r in fold}
    folds_of = {}
    for r, fold in fold_of.items():
        folds_of.setdefault(frozenset(compounds_of(twice, r)), set()).add(fold)
    assert {len(found) for found in folds_of.values()} == {1}
    assert len(folds_of) < 200
    assert max(map(len, folds)) < 90
    for fold, again in zip(folds, foldings(twice, reactions, 0), strict=True):
        np.testing.assert_array_equal(fold, again)
    assert any(
        fold.tolist() != other.tolist() for fold, other in zip(folds, foldings(twice, reactions, 1), strict=True)
    )


def test_a_graph_does_not_tell_its_label_or_who_has_its_candidate_or_whether_that_turns(universe, drafts):
    turned = [
        msgspec.structs.replace(r, reversible=not r.reversible) if i in HELD_OUT else r
        for i, r in enumerate(universe.reactions)
    ]
    others = (
        dataclasses.replace(universe, present=~universe.present),
        dataclasses.replace(universe, reactions=tuple(turned)),
    )
    plain, *views = ([Neighbourhoods(u, drafts, CONFIG).around(draft) for draft in drafts] for u in (universe, *others))
    for n, r in pairs_of_drafts(drafts):
        graph = plain[n].graph(r, True)
        without = plain[n].graph(r, False)
        assert (graph.globals.pop("label"), without.globals.pop("label")) == (1, 0)
        assert_same(graph, without)
        for view in views:
            other = view[n].graph(r, True)
            other.globals.pop("label")
            assert_same(graph, other)


def test_a_graph_is_of_its_draft_alone_but_for_how_common_things_are(universe, drafts):
    # Which networks have what: compounds' and reactions' features alone may tell.
    fewer = drafts & (np.arange(NUM_NETWORKS) < 3)[:, None]
    one, other = (Neighbourhoods(universe, known, CONFIG).around(drafts[0]) for known in (drafts, fewer))
    for r in HELD_OUT[::5]:
        first, second = one.graph(int(r), True), other.graph(int(r), True)
        first.nodes.pop("features"), second.nodes.pop("features")
        assert_same(first, second)


def test_the_candidate_comes_first_then_its_compounds_with_their_roles(universe, drafts):
    view = Neighbourhoods(universe, drafts, CONFIG).around(drafts[1])
    for r in HELD_OUT.tolist():
        graph, terms = view.graph(r, True), universe.reactions[r].terms
        own = slice(1, 1 + len(terms))
        assert graph.nodes["kind"][0] == REACTION
        assert graph.nodes["kind"][own].tolist() == [FIRST_COMPOUND + term.compound for term in terms]
        assert graph.nodes["role"][own].tolist() == [coefficient_class(term.coefficient) for term in terms]
        assert not graph.nodes["role"][0]
        assert not graph.nodes["role"][own.stop :].any()
        assert sorted(graph.receivers[graph.senders == 0].tolist()) == list(range(1, 1 + len(terms)))


def test_truth_balances_whatever_is_moved():
    """A symporter, a phosphotransferase that changes what it moves, and a reaction within one compartment."""
    ways = [
        [(1, -1), (1, 1, "e"), (2, -1), (2, 1, "e")],
        [(1, -1, "e"), (3, -1), (2, -1), (4, 1)],
        [(1, -2), (2, 1)],
    ]
    carbons = [0, 1, 2, 3, 6]
    names = [f"c{i}" for i in range(5)]
    moving = dataclasses.replace(
        universe_of(ways, names),
        compounds=tuple(compound(n, {"C": c} if c else {}) for n, c in zip(names, carbons, strict=True)),
    )
    nothing = np.zeros(3, bool)
    view = Neighbourhoods(moving, np.zeros((NUM_NETWORKS, 3), bool), CONFIG).around(nothing)
    for r in range(3):
        assert moving.imbalance(moving.reactions[r]) == {}
        graph = view.graph(r, True)
        members = graph.nodes["kind"] >= FIRST_COMPOUND
        atoms = [carbons[kind - FIRST_COMPOUND] for kind in graph.nodes["kind"][members]]
        assert BALANCE[graph.nodes["role"][members]] @ atoms == 0
        assert (graph.nodes["role"][members] > 0).all()


def test_classes_of_coefficients():
    assert [COEFFICIENTS[coefficient_class(c)] for c in COEFFICIENTS[1:]] == list(COEFFICIENTS[1:])
    assert [coefficient_class(c) for c in (-0.5, -7, 2.5, 100)] == [BELOW] * 2 + [ABOVE] * 2
    assert coefficient_class(0.1 + 0.2 - 0.3) == MOVED


def test_what_is_moved_counts_on_its_larger_side_or_as_used():
    moves = [[(0, -1), (0, 1, "e")], [(0, -2), (0, 1, "e"), (1, -1)], [(0, -1), (0, 3, "e")]]
    moved = universe_of(moves, ["a", "b"])
    view = Neighbourhoods(moved, np.zeros((NUM_NETWORKS, 3), bool), CONFIG).around(np.zeros(3, bool))
    roles = [view.graph(r, True).nodes["role"][1:].tolist() for r in range(3)]
    assert roles == [[MOVED], [coefficient_class(-1)] * 2, [coefficient_class(2)]]
    # What is moved and not changed is at an edge of its own side: the candidate uses it.
    assert view.graph(0, True).edges["kind"].tolist() == [0, 1]


def test_hubs_are_left_out_and_limits_kept(universe, drafts):
    neighbourhoods = Neighbourhoods(universe, drafts, CONFIG)
    met_hub = met_reactions = met_compounds = False
    for n, r in pairs_of_drafts(drafts):
        graph = neighbourhoods.around(drafts[n]).graph(r, True)
        kinds = graph.nodes["kind"]
        own, members = compounds_of(universe, r), kinds[kinds >= FIRST_COMPOUND] - FIRST_COMPOUND
        assert len(set(members.tolist())) == len(members) <= CONFIG.max_compounds
        assert (kinds == REACTION).sum() <= 1 + CONFIG.max_reactions
        uses = participation(universe)[members].toarray() @ drafts[n]
        assert all(use <= CONFIG.hub for c, use in zip(members.tolist(), uses, strict=True) if c not in own)
        met_hub |= bool((uses > CONFIG.hub).any())
        met_reactions |= bool((kinds == REACTION).sum() == 1 + CONFIG.max_reactions)
        met_compounds |= len(members) == CONFIG.max_compounds
    assert met_hub
    assert met_reactions
    assert met_compounds


def test_the_most_telling_reactions_come_first():
    # The last shares a compound that it alone has, the others one that they all have.
    near = universe_of([[(0, -1), (1, 1)], *[[(1, -1), (c, 1)] for c in (3, 4, 5)], [(0, 1), (2, -1)]], "abcdef")
    draft = np.asarray([False, True, True, True, True])
    view = Neighbourhoods(near, np.tile(draft, (NUM_NETWORKS, 1)), Surroundings(max_reactions=1)).around(draft)
    kinds = view.graph(0, True).nodes["kind"]
    assert kinds.tolist() == [REACTION, *(FIRST_COMPOUND + c for c in (0, 1, 2)), REACTION]


def test_every_edge_has_its_reverse_and_joins_a_reaction_and_a_compound(universe, drafts):
    neighbourhoods = Neighbourhoods(universe, drafts, CONFIG)
    for n, r in pairs_of_drafts(drafts):
        graph = neighbourhoods.around(drafts[n]).graph(r, True)
        kind, size = graph.edges["kind"], graph.edges["features"][:, 0]
        assert ((kind >= 0) & (kind < EDGE_KINDS)).all()
        there = sorted(zip(graph.senders, graph.receivers, kind ^ 1, size, strict=True))
        assert there == sorted(zip(graph.receivers, graph.senders, kind, size, strict=True))
        is_reaction = graph.nodes["kind"] == REACTION
        assert (is_reaction[graph.senders] != is_reaction[graph.receivers]).all()
        # Towards the compound, the kind is even.
        np.testing.assert_array_equal(is_reaction[graph.senders], kind % 2 == 0)
        assert set(graph.senders.tolist()) == set(range(len(is_reaction)))


def test_edges_tell_what_is_made_and_what_turns():
    both = universe_of([[(0, -1), (1, 1)], [(0, 1), (2, -3)]], "abc")
    turning = dataclasses.replace(
        both, reactions=tuple(msgspec.structs.replace(r, reversible=True) for r in both.reactions)
    )
    draft = np.asarray([False, True])
    for universe, turns in ((both, 0), (turning, 4)):
        graph = Neighbourhoods(universe, np.tile(draft, (NUM_NETWORKS, 1)), CONFIG).around(draft).graph(0, True)
        edges = zip(graph.senders.tolist(), graph.receivers.tolist(), graph.edges["kind"].tolist(), strict=True)
        # Nodes: the candidate, a, b, c, the reaction of the draft.
        assert {edge for edge in edges if edge[0] in (0, 4)} == {(0, 1, 0), (0, 2, 2), (4, 1, 2 + turns), (4, 3, turns)}


def test_the_candidate_says_what_its_analogues_say_and_what_other_drafts_hold(universe, drafts):
    around, analogues = Neighbourhoods(universe, drafts, CONFIG), Analogues(universe, drafts)
    size = NUM_ANALOGUE_FEATURES + 4
    takes_part = participation(universe)
    for network in (0, 3):
        view = around.around(drafts[network])
        for r in HELD_OUT[::5].tolist():
            features = view.graph(r, False).nodes["features"].astype(np.float64)
            np.testing.assert_allclose(
                features[0, -NUM_ANALOGUE_FEATURES:], 3 * analogues.features(drafts[network], r), rtol=2e-3, atol=1e-3
            )
            members = sorted(compounds_of(universe, r))
            held = (drafts.astype(np.int32) @ takes_part.T)[:, members] > 0
            np.testing.assert_allclose(features[0, -size], 3 * held.all(axis=1).mean(), rtol=2e-3)
            # Only reactions have other features there.
            assert not features[1:, 1 - size :].any()


def test_without_any_neighbour_a_candidate_is_alone_with_its_compounds(universe, drafts):
    nothing = np.zeros(NUM_REACTIONS, bool)
    for known in (drafts, np.zeros_like(drafts)):
        view = Neighbourhoods(universe, known, CONFIG).around(nothing)
        for r in HELD_OUT.tolist():
            graph, size = view.graph(r, False), len(compounds_of(universe, r))
            assert graph.nodes["features"].shape == (1 + size, NODE_FEATURES)
            assert np.isfinite(graph.nodes["features"]).all()
            assert len(graph.senders) == 2 * size
