import pytest

from astrojax.data.networks.identity import identify, reaction_key
from astrojax.data.networks.network import Metabolite, Network, Reaction


def metabolite(id, elements=None, compartment="c", name=None, references=()):
    return Metabolite(
        id=id, name=name or id, compartment=compartment, elements=elements, references=frozenset(references)
    )


def network(*metabolites, reactions=()):
    return Network(name="n", organism="o", metabolites=metabolites, reactions=tuple(reactions))


def same(*networks):
    """Whether the first metabolites of networks are one compound."""
    return len({of[0] for of in identify(networks).of}) == 1


GLUCOSE = {"C": 6, "H": 12, "O": 6}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (metabolite("M_glc__D_c"), metabolite("M_glc_DASH_D_e", compartment="e")),
        (metabolite("S1", name="D-Glucose"), metabolite("M_glc__D_c", name="D-glucose [c]")),
        (metabolite("S1", references=[("kegg.compound", "C00031")]), metabolite("M_C00031_c")),
        (metabolite("M_atp_c", {"C": 10, "H": 12}), metabolite("M_atp_c", {"C": 10, "H": 16})),
        (metabolite("M_glc__D_c", GLUCOSE), metabolite("M_glc__D_c")),
    ],
)
def test_one_compound_by_many_names(one, other):
    assert same(network(one), network(other))
    assert same(network(other), network(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (metabolite("M_xyz_c", {"C": 3, "O": 1}), metabolite("M_xyz_c", {"C": 4, "O": 1})),
        (metabolite("S1"), metabolite("S1")),
        (metabolite("M_h_c", {"H": 1}), metabolite("M_h_c", {"H": 2})),
        (metabolite("M_12", name="12"), metabolite("M_12", name="12")),
    ],
)
def test_what_only_looks_alike_stays_apart(one, other):
    assert not same(network(one), network(other))


def test_evidence_reaches_through_a_third_network():
    bridge = metabolite("S7", references=[("kegg.compound", "C00031"), ("seed.compound", "cpd00027")])
    networks = network(metabolite("M_C00031_c")), network(metabolite("cpd00027")), network(bridge)
    assert same(*networks)
    assert not same(*networks[:2])


def test_what_a_network_tells_apart_stays_apart():
    both = [("kegg.compound", "C00031")]
    alpha, beta = (metabolite(f"M_{name}_c", GLUCOSE, references=both) for name in ("adglc", "bdglc"))
    found = identify([network(alpha, beta), network(metabolite("M_C00031_c"))])
    assert found.of[0][0] != found.of[0][1]
    assert found.of[1][0] in found.of[0]
    assert found.refused == 1
    outside = metabolite("M_adglc_e", GLUCOSE, compartment="e", references=both)
    assert len(set(identify([network(alpha, outside)]).of[0])) == 1


def reaction(stoichiometry):
    return Reaction(id="R", name="R", stoichiometry=stoichiometry, reversible=False)


def test_a_reaction_is_the_same_in_both_directions_at_any_scale_and_protonation():
    net = network(
        metabolite("M_a_c"), metabolite("M_b_c"), metabolite("M_h_c", {"H": 1}), metabolite("M_b_e", None, "e")
    )
    of = (0, 1, 2, 1)

    def key(stoichiometry):
        return reaction_key(net, reaction(stoichiometry), of)

    assert (
        key({0: -1, 1: 2})
        == key({1: 2, 0: -1})
        == key({0: 1, 1: -2})
        == key({0: -0.5, 1: 1})
        == key({0: -1, 1: 2, 2: 3})
    )
    assert key({0: -1, 1: 2}) != key({0: -2, 1: 1})
    assert key({0: -1, 1: 1}) != key({0: -1, 3: 1})
    assert key({1: -1, 3: 1}) != key({1: -1, 3: 2})
    assert key({2: 1}) == frozenset()


def test_what_pumps_protons_is_another_reaction_than_the_same_uncoupled():
    proton = {"H": 1}
    net = network(
        metabolite("M_atp_c"), metabolite("M_adp_c"), metabolite("M_h_c", proton), metabolite("M_h_e", proton, "e")
    )

    def key(stoichiometry):
        return reaction_key(net, reaction(stoichiometry), (0, 1, 2, 2))

    hydrolysis, pump = key({0: -1, 1: 1, 2: 1}), key({0: -1, 1: 1, 2: -3, 3: 4})
    assert hydrolysis == key({0: -1, 1: 1})
    assert pump == key({0: 1, 1: -1, 2: 3, 3: -4}) == key({0: -1, 1: 1, 2: -2, 3: 3})
    # Driven by protons that run in, it is none that pumps them out.
    assert len({hydrolysis, pump, key({0: -1, 1: 1, 2: 4, 3: -3})}) == 3
    assert key({2: 1, 3: -1}) == frozenset()
