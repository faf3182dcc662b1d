import pytest

from astrojax.chemistry.valence import AtomType, max_bond_orders
from astrojax.errors import RequestError


def test_charged_atoms_bind_like_neutral_ones_of_as_many_electrons():
    types = [
        AtomType(s, c) for s, c in [("C", 0), ("N", 0), ("O", 0), ("F", 0), ("N", 1), ("O", -1), ("C", -1), ("S", 0)]
    ]
    assert max_bond_orders(types).tolist() == [4, 3, 2, 1, 4, 1, 3, 6]


def test_atoms_without_valence_are_refused_by_name():
    with pytest.raises(RequestError, match="Fe has no valence"):
        max_bond_orders([AtomType("C"), AtomType("Fe")])
    with pytest.raises(RequestError, match=r"Qx\+1 is no atom"):
        max_bond_orders([AtomType("Qx", 1)])
