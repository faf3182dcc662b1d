import numpy as np
import pytest

from astrojax.data.networks.identity import identify
from astrojax.data.networks.matching import could_take, make_draft, match
from astrojax.data.networks.network import Reaction
from astrojax.data.networks.sbml import read_network
from astrojax.data.networks.universe import Term, make_universe
from tests.data.networks.test_identity import GLUCOSE, metabolite, network, reaction

THERMOTOGAS = ("BIOMD0000001092", "MODEL1507180048")
OTHERS = ("MODEL1507180070", "MODEL1507180007", "BIOMD0000001090")


def universe_of(*networks):
    return make_universe(networks, identify(networks))


@pytest.fixture(scope="module")
def networks():
    return [read_network(f"data/metabolic/{name}.xml.gz") for name in (*THERMOTOGAS, *OTHERS)]


@pytest.mark.parametrize("left_out", range(5))
def test_a_shipped_model_is_matched_as_if_it_had_been_there(networks, left_out):
    rest = [network for i, network in enumerate(networks) if i != left_out]
    together, apart = identify(networks), identify(rest)
    universe = make_universe(rest, apart)
    draft = make_draft(universe, networks[left_out])
    # Of each compound without the model the compounds of all models that its metabolites are.
    joint = [{together.of[n + (n >= left_out)][i] for n, i in members} for members in apart.members]
    within = set().union(*joint)
    same = wrong = 0
    for compound, found in zip(together.of[left_out], draft.matched, strict=True):
        right = compound not in within if found is None else compound in joint[found]
        same += right
        # Where there was no compound to find, the joint identification may have missed one.
        wrong += not right and compound in within
    assert same > 0.95 * len(draft.matched)
    assert wrong < 0.01 * len(draft.matched)
    shared = make_universe(networks, together).present
    expected = (shared[left_out] & np.delete(shared, left_out, 0).any(0)).sum()
    # Fewer, where the model's own annotations tell that two compounds of the others are one.
    assert 0.9 * expected < draft.present.sum() < 1.05 * expected


def test_a_model_that_was_there_has_its_own_reactions(networks):
    universe = universe_of(*networks)
    for own, net in zip(universe.present, networks, strict=True):
        # All but those of metabolites that nothing tells from others, such as an "O2" without annotation.
        found = make_draft(universe, net).present
        assert not (found & ~own).any()
        assert (found & own).sum() > 0.85 * own.sum()


def test_evidence_that_is_refused():
    universe = universe_of(network(metabolite("M_xyz_c", {"C": 3, "O": 1}), metabolite("M_glc__D_c", GLUCOSE)))
    assert match(universe, network(metabolite("M_xyz_c", {"C": 4, "O": 1}))) == (None,)
    assert match(universe, network(metabolite("M_xyz_c", {"C": 3, "H": 2, "O": 1}))) == (0,)
    twins = [metabolite(f"S{i}", name="M glc D", references=[("bigg.metabolite", "glc__D")]) for i in range(2)]
    assert sorted(match(universe, network(*twins)), key=str) == [1, None]
    outside = metabolite("S3", compartment="e", references=[("bigg.metabolite", "glc__D")])
    assert match(universe, network(twins[0], outside)) == (1, 1)
    assert match(universe, network(metabolite("S4", name="D-Glucose"))) == (None,)


def test_evidence_of_another_compartment_counts():
    universe = universe_of(network(metabolite("M_C00031_c")))
    told = metabolite("M_glc_c", references=[("kegg.compound", "C00031")])
    assert match(universe, network(told, metabolite("M_glc_e", compartment="e"))) == (0, 0)


def test_what_the_universe_tells_apart_a_draft_does_not_join():
    universe = universe_of(network(metabolite("M_adglc_c"), metabolite("M_bdglc_c")))
    both = metabolite("M_adglc_c", references=[("bigg.metabolite", "bdglc")])
    assert match(universe, network(both)) == (0,)


def test_protons_are_one_whatever_they_are_called():
    universe = universe_of(network(metabolite("M_h_c", {"H": 1})))
    assert match(universe, network(metabolite("S1", {"H": 1}, name="proton motive"))) == (0,)


def test_reactions_that_a_draft_has_and_could_take():
    def compounds(*names, carbon=6):
        return [metabolite(f"M_{name}_c", {"C": carbon}) for name in names]

    a, b, c, d = compounds("aa", "bb", "cc", "dd")
    (small,) = compounds("ee", carbon=3)
    unknown = metabolite("M_ff_c")
    universe = universe_of(
        network(
            *(a, b, c, d, small, unknown),
            reactions=[
                reaction({0: -1, 1: 1}),  # The draft's, the other way round.
                reaction({1: -1, 2: 1}),
                reaction({2: -1, 3: 1}),  # Of a compound that the draft lacks.
                reaction({0: -1, 4: 1}),  # Half the carbon is lost.
                reaction({0: -1, 5: 1}),  # Nobody knows.
            ],
        )
    )
    stranger = metabolite("S9", {"C": 6})
    net = network(b, a, c, small, unknown, stranger, reactions=[reaction({0: -2, 1: 2}), reaction({0: -1, 5: 1})])
    draft = make_draft(universe, net)
    assert draft.matched == (1, 0, 2, 4, 5, None)
    np.testing.assert_array_equal(draft.present, [True, False, False, False, False])
    np.testing.assert_array_equal(could_take(universe, draft), [False, True, False, False, True])
    assert [draft.missing(r) for r in universe.reactions] == [0, 0, 1, 0, 0]


def test_a_reaction_elsewhere_in_the_cell_is_another():
    a, b = (metabolite(f"M_{name}_p", compartment="p") for name in ("aa", "bb"))
    outside = network(a, b, reactions=[reaction({0: -1, 1: 1})])
    universe = universe_of(outside)
    (within,) = universe.reactions
    inside = [metabolite(f"M_{name}_c") for name in ("aa", "bb")]
    for places, has, could, lacking in (
        (inside, False, False, ["p"]),
        ([*inside, a], False, True, []),
        ([a, b], True, False, []),
    ):
        draft = make_draft(universe, network(*places, reactions=[reaction({0: -1, 1: 1})]))
        assert (draft.present.all(), could_take(universe, draft).all()) == (has, could)
        assert draft.missing_compartments(within) == lacking


def test_a_draft_that_spends_atp_may_lack_what_makes_it():
    """Hydrolysis and synthase turn over the same compounds; of those the synthase alone moves protons."""
    members = [metabolite("M_atp_c"), metabolite("M_adp_c")]
    members += [metabolite(f"M_h_{where}", {"H": 1}, where) for where in "cp"]
    hydrolysis = Reaction(id="R_ATPM", name="R", stoichiometry={0: -1, 1: 1, 2: 1}, reversible=False)
    synthase = Reaction(id="R_ATPS4rpp", name="R", stoichiometry={0: 1, 1: -1, 2: 3, 3: -4}, reversible=True)
    universe = universe_of(network(*members, reactions=[hydrolysis, synthase]))
    assert [(r.id, r.reversible) for r in universe.reactions] == [("R_ATPM", False), ("R_ATPS4rpp", True)]
    draft = make_draft(universe, network(*members, reactions=[hydrolysis]))
    assert draft.present.tolist() == [True, False]
    assert could_take(universe, draft).tolist() == [False, True]


def directed(sign, reversible):
    return Reaction(id="R", name="R", stoichiometry={0: -sign, 1: sign}, reversible=reversible)


@pytest.mark.parametrize(
    ("ways", "reversible", "forward"),
    [
        ([(1, False), (1, False), (1, True)], False, True),
        ([(1, True), (1, True), (1, False)], True, True),
        ([(1, False), (-1, False)], True, True),
        ([(-1, False), (-1, False), (1, True)], False, False),
        # Most write it one way round and let it run both ways, or alone the other way.
        ([(1, True), (1, True), (-1, False), (-1, False), (-1, False)], False, False),
    ],
)
def test_a_reaction_runs_as_half_of_its_networks_let_it(ways, reversible, forward):
    compounds = [metabolite(f"M_{name}_c") for name in ("aa", "bb")]
    (found,) = universe_of(*(network(*compounds, reactions=[directed(*way)]) for way in ways)).reactions
    assert found.reversible == reversible
    if not reversible:
        assert found.terms == [Term(0, "c", -1.0 if forward else 1.0), Term(1, "c", 1.0 if forward else -1.0)]
