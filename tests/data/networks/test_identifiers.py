import pytest

from astrojax.data.networks.identifiers import accession, plain, split_identifier


@pytest.mark.parametrize(
    ("identifier", "compound", "compartment"),
    [
        ("M_atp_c", "atp", "c"),
        ("M_glc__D_e", "glc__D", "e"),
        ("M_glc_DASH_D_c", "glc-D", "c"),
        ("M_10fthf_LPAREN_c_RPAREN_", "10fthf", "c"),
        ("M_4mop_LSQBKTc_RSQBKT", "4mop", "c"),
        ("cpd00001__91__c0__93__", "cpd00001", "c"),
        ("M_cpd10515_e0", "cpd10515", "e"),
        ("CPD0733", "CPD0733", None),
        ("M_h2o", "h2o", None),
    ],
)
def test_identifiers_come_apart(identifier, compound, compartment):
    assert split_identifier(identifier) == (compound, compartment)


@pytest.mark.parametrize(
    ("compound", "meaning"),
    [
        ("cpd00027", ("seed.compound", "cpd00027")),
        ("C00031", ("kegg.compound", "C00031")),
        ("glc__D", ("bigg.metabolite", "glcd")),
        ("glc-D", ("bigg.metabolite", "glcd")),
        ("CPD0733", None),
        ("M_12", None),
        ("S840", None),
        ("mg2", ("bigg.metabolite", "mg2")),
        ("mqn8", ("bigg.metabolite", "mqn8")),
        ("pgp161", ("bigg.metabolite", "pgp161")),
        ("met12", None),
    ],
)
def test_what_an_identifier_refers_to(compound, meaning):
    assert accession(compound) == meaning


def test_names_are_compared_without_what_styles_add():
    assert {plain(n) for n in ("D-Glucose", "d_glucose", "D-Glucose[c]", "M_D_Glucose", "D-Glucose_c0")} == {"dglucose"}
    assert plain("NAD+") != plain("NAD")
