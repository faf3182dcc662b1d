import functools

import jax
import numpy as np
import pytest

from astrojax.chemistry.notation import END, MAX_BOND_ORDER, Notation, kinds_of
from astrojax.chemistry.valence import AtomType, max_bond_orders
from astrojax.data.molecules import Molecule, atom_types, read_smiles, to_molecule, to_smiles

TYPES = tuple(AtomType(*of) for of in [("C",), ("N",), ("O",), ("F",), ("S",), ("P",), ("N", 1), ("O", -1)])
SMALL = Notation(num_types=3, max_atoms=4, max_bonds=4)


def atom(kind) -> int:
    return 1 + kind


def bond(back, order=1) -> int:
    return 1 + SMALL.num_types + MAX_BOND_ORDER * (back - 1) + order - 1


def padded(*tokens) -> np.ndarray:
    return np.pad(np.asarray(tokens, np.int32), (0, SMALL.length - len(tokens)), constant_values=END)


@functools.partial(jax.jit, static_argnums=0)
def _permitted(notation, tokens, valences):
    return notation.permitted(tokens, valences)


def permitted(notation, tokens, types) -> np.ndarray:
    valences = np.pad(max_bond_orders(types), (0, notation.num_types - len(types)))
    return np.asarray(_permitted(notation, tokens, valences))


@pytest.fixture(scope="module")
def real() -> list[Molecule]:
    rows = list(read_smiles("data/molecules/qm9_split.csv.gz"))
    return [to_molecule(row.smiles) for row in rows[:: len(rows) // 300]]


@pytest.fixture(scope="module")
def written(real):
    """Types, a notation that has room for just these molecules but for one type more, and their tokens."""
    types = atom_types(real)
    notation = Notation(len(types) + 1, max(len(m.atoms) for m in real), max(len(m.bonds) for m in real))
    return types, notation, np.stack([notation.write(kinds_of(m.atoms, types), m.bonds, m.orders) for m in real])


def test_acetaldehyde():
    tokens = SMALL.write(np.asarray([0, 0, 2]), np.asarray([[0, 1], [1, 2]]), np.asarray([1, 2]))
    assert tokens.tolist() == padded(atom(0), atom(0), bond(1), atom(2), bond(1, 2), END).tolist()
    assert tokens.dtype == np.int32
    assert SMALL.num_tokens == 1 + bond(SMALL.max_atoms - 1, MAX_BOND_ORDER)


def test_bonds_of_an_atom_come_nearest_first():
    bonds = np.asarray([[0, 1], [0, 2], [1, 2]])
    tokens = SMALL.write(np.asarray([0, 0, 0]), bonds, np.asarray([1, 1, 2]))
    assert tokens.tolist() == padded(atom(0), atom(0), bond(1), atom(0), bond(1, 2), bond(2)).tolist()


def test_real_molecules_are_read_as_they_were_written(real, written):
    types, notation, tokens = written
    assert tokens.shape == (len(real), notation.length)
    for molecule, row in zip(real, tokens, strict=True):
        for found, expected in zip(notation.read(row), (kinds_of(molecule.atoms, types), *molecule[1:]), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_every_token_of_a_real_molecule_is_permitted(written):
    types, notation, tokens = written
    allowed = permitted(notation, tokens, types)
    assert np.take_along_axis(allowed, tokens[..., None], axis=-1).all()


def test_what_is_permitted_depends_on_what_stands_before_alone(written):
    types, notation, tokens = written
    expected = permitted(notation, tokens, types)
    for place in (0, 1, 5, notation.length - 1):
        changed = tokens.copy()
        changed[:, place:] = np.random.default_rng(place).integers(notation.num_tokens, size=changed[:, place:].shape)
        np.testing.assert_array_equal(permitted(notation, changed, types)[:, : place + 1], expected[:, : place + 1])


@pytest.mark.parametrize("lengthy", [False, True])
@pytest.mark.parametrize("limits", [(9, 13), (12, 0), (5, 10), (2, 1), (1, 1)])
def test_any_permitted_tokens_are_a_molecule_that_ends_in_time(limits, lengthy):
    notation = Notation(len(TYPES) + 2, *limits)
    rng, tokens = np.random.default_rng(0), np.zeros((300, notation.length), np.int32)
    for place in range(notation.length):
        allowed = permitted(notation, tokens, TYPES)[:, place]
        assert allowed.any(axis=-1).all()
        # What ends only where it must tests the room most.
        liking = rng.random(allowed.shape) - 2.0 * lengthy * (np.arange(notation.num_tokens) == END)
        tokens[:, place] = np.where(allowed, liking, -np.inf).argmax(axis=-1)
    assert (tokens[:, -1] == END).all()
    for row in tokens:
        kinds, bonds, orders = notation.read(row)
        assert 1 <= len(kinds) <= notation.max_atoms
        assert to_smiles(Molecule(tuple(TYPES[kind] for kind in kinds), bonds, orders)) is not None
        again = Notation(notation.num_types, notation.max_atoms, notation.length).write(kinds, bonds, orders)
        np.testing.assert_array_equal(again[: notation.length], row)


def test_after_its_end_a_molecule_has_only_ends():
    tokens = np.stack([padded(atom(0), END), padded(atom(0), atom(0), bond(1), END)])
    allowed = permitted(SMALL, tokens, TYPES[:3])
    for row, end in zip(allowed, (1, 3), strict=True):
        assert row[end:, END].all()
        assert row[end, END + 1 :].any()
        assert not row[end + 1 :, END + 1 :].any()


def test_valences_and_room_limit_what_is_permitted():
    # An oxygen bound twice to a carbon has nothing left; the carbon has two.
    row = permitted(SMALL, padded(atom(0), atom(2), bond(1, 2), atom(0))[None], TYPES[:3])[0]
    assert np.flatnonzero(row[0]).tolist() == [atom(0), atom(1), atom(2)]
    assert np.flatnonzero(row[1]).tolist() == [END, atom(0), atom(1), atom(2)]
    assert np.flatnonzero(row[2]).tolist() == [bond(1, 1), bond(1, 2)]
    assert np.flatnonzero(row[4]).tolist() == [bond(2, 1), bond(2, 2)]
    full = permitted(SMALL, padded(atom(0), *(atom(0), bond(1)) * 3)[None], TYPES[:3])[0]
    assert not full[7, atom(0) : atom(2) + 1].any()


def test_what_is_too_large_is_refused():
    chain = np.stack([np.arange(4), np.arange(1, 5)], axis=1)
    for atoms, bonds in ((5, chain), (4, np.asarray([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3]]))):
        with pytest.raises(ValueError, match="more than 4 atoms or 4 bonds"):
            SMALL.write(np.zeros(atoms, np.int32), bonds, np.ones(len(bonds), np.int32))


@pytest.mark.parametrize(
    "tokens",
    [
        (),
        (END, atom(0)),
        (bond(1),),
        (atom(0), bond(1)),
        (atom(0), atom(0), bond(2)),
        (atom(0), atom(0), bond(1), bond(1, 2)),
        (atom(0), atom(0)),
        (atom(0), atom(0), atom(0), bond(1)),
    ],
)
def test_nonsense_is_no_molecule(tokens):
    assert SMALL.read(padded(*tokens)) is None


def test_one_atom_is_a_molecule():
    kinds, bonds, orders = SMALL.read(padded(atom(1)))
    assert (kinds.tolist(), bonds.shape, orders.shape) == ([1], (0, 2), (0,))
