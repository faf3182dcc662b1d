import pytest

from astrojax.chemistry.formula import format_formula, imbalance, parse_formula


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("C6H12O6", {"C": 6, "H": 12, "O": 6}),
        ("CO2", {"C": 1, "O": 2}),
        ("Co", {"Co": 1}),
        ("C11H21N2O7PRS", {"C": 11, "H": 21, "N": 2, "O": 7, "P": 1, "R": 1, "S": 1}),
        ("CH3CH2OH", {"C": 2, "H": 6, "O": 1}),
        ("C1.5H2", {"C": 1.5, "H": 2}),
        ("C0H1", {"H": 1}),
        ("*2H", {"*": 2, "H": 1}),
    ],
)
def test_formulas(formula, counts):
    assert parse_formula(formula) == counts


@pytest.mark.parametrize("formula", ["", "(C6H10O5)n", "C6H12O6-", "glucose", "C6 H12", "Qq2", "12"])
def test_what_is_no_formula_is_refused_by_name(formula):
    with pytest.raises(ValueError, match="is no elemental formula") as refused:
        parse_formula(formula)
    assert repr(formula) in str(refused.value)


def test_hill_order():
    assert format_formula({"O": 6, "H": 12, "C": 6}) == "C6H12O6"
    assert format_formula({"S": 1, "O": 4, "H": 2}) == "H2O4S"
    assert format_formula(parse_formula("C10H16N5O13P3")) == "C10H16N5O13P3"


def test_combustion_balances_and_charge_is_an_element_like_others():
    glucose, oxygen, dioxide, water = (parse_formula(f) for f in ("C6H12O6", "O2", "CO2", "H2O"))
    assert imbalance([(-1, glucose), (-6, oxygen), (6, dioxide), (6, water)]) == {}
    assert imbalance([(-1, glucose), (-6, oxygen), (6, dioxide), (5, water)]) == {"H": -2, "O": -1}
    assert imbalance([(-1, {"H": 2}), (2, {"H": 1, "charge": 1})]) == {"charge": 2}


def test_rounded_coefficients_balance():
    assert imbalance([(-0.333333, {"C": 3}), (1, {"C": 1})]) == {}
