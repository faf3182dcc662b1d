import gzip

import numpy as np
import pytest

from astrojax.chemistry.valence import AtomType, max_bond_orders
from astrojax.data.molecules import atom_types, read_smiles, to_molecule, to_smiles
from astrojax.errors import RequestError

QM9 = "data/molecules/qm9_split.csv.gz"
CARBON, NITROGEN, OXYGEN = AtomType("C"), AtomType("N"), AtomType("O")


def test_ethanol():
    ethanol = to_molecule("OCC")
    assert ethanol.atoms == (CARBON, CARBON, OXYGEN)
    assert ethanol.bonds.tolist() == [[0, 1], [1, 2]]
    assert ethanol.orders.tolist() == [1, 1]
    assert to_smiles(ethanol) == "CCO"


def test_aromatic_rings_alternate():
    benzene = to_molecule("c1ccccc1")
    assert sorted(benzene.orders.tolist()) == [1, 1, 1, 2, 2, 2]
    assert to_smiles(benzene) == "c1ccccc1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C(O)C", "CCO"),
        ("N[C@@H](C)C(=O)O", "CC(N)C(=O)O"),
        ("[13CH4]", "C"),
        ("[2H]O[CH3:7]", "CO"),
        ("C1=CC=CC=C1", "c1ccccc1"),
    ],
)
def test_one_molecule_is_one_graph(one, other):
    first, second = to_molecule(one), to_molecule(other)
    assert first.atoms == second.atoms
    np.testing.assert_array_equal(first.bonds, second.bonds)
    np.testing.assert_array_equal(first.orders, second.orders)


@pytest.mark.parametrize(
    ("smiles", "why"),
    [
        ("C1CC", "RDKit can read"),
        ("", "RDKit can read"),
        ("C(C)(C)(C)(C)C", "RDKit can read"),
        ("[CH2]C", "radicals"),
        ("C.O", "several fragments"),
        ("C*", "no element"),
        ("C~C", "not single, double or triple"),
        ("C$C", "not single, double or triple"),
        ("C[SH2]C", "hydrogens that no valence implies"),
        ("C[Fe]", "Fe has no valence"),
        ("[H+]", "is no atom|no valence"),
    ],
)
def test_what_is_no_molecule(smiles, why):
    with pytest.raises(ValueError, match=why):
        to_molecule(smiles)


def test_too_many_bonds_are_no_molecule():
    carbon = to_molecule("CC(C)(C)C")
    assert to_smiles(carbon._replace(orders=np.asarray([1, 2, 1, 1]))) is None


def test_shipped_molecules_survive_as_graphs_and_obey_valence():
    rows = list(read_smiles(QM9))
    assert len(rows) == 121_100
    assert {row.split for row in rows} == {"train", "valid", "test"}
    rows = rows[::400]
    molecules = [to_molecule(row.smiles) for row in rows]
    assert [to_smiles(molecule) for molecule in molecules] == [row.smiles for row in rows]
    types = atom_types(molecules)
    assert types[:3] == (CARBON, OXYGEN, NITROGEN)
    limit = dict(zip(types, max_bond_orders(types).tolist(), strict=True))
    for molecule in molecules:
        total = np.zeros(len(molecule.atoms), int)
        np.add.at(total, molecule.bonds.T, molecule.orders)
        assert all(t <= limit[kind] for t, kind in zip(total, molecule.atoms, strict=True))
        # Every atom but the first is bound to an earlier one.
        assert set(molecule.bonds[:, 1].tolist()) == set(range(1, len(molecule.atoms)))


def test_limits_of_valence_are_those_of_rdkit():
    """By trying: fluorines are bound to an atom until RDKit refuses."""
    Chem = pytest.importorskip("rdkit.Chem")
    charges = {s: range(-2, 3) for s in ("N", "P", "As", "S", "Se")} | {s: range(-1, 2) for s in ("C", "O", "Si", "Cl")}
    kinds = [AtomType(symbol, charge) for symbol, values in charges.items() for charge in values]
    for kind, limit in zip(kinds, max_bond_orders(kinds).tolist(), strict=True):
        accepted = [0]
        for bonds in range(1, 9):
            written = Chem.RWMol()
            atom = Chem.Atom(kind.symbol)
            atom.SetFormalCharge(kind.charge)
            written.AddAtom(atom)
            for fluorine in range(1, bonds + 1):
                written.AddAtom(Chem.Atom("F"))
                written.AddBond(0, fluorine, Chem.BondType.SINGLE)
            if Chem.SanitizeMol(written, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
                accepted.append(bonds)
        assert limit == max(accepted), kind


def test_files_of_molecules(tmp_path):
    path = tmp_path / "some.smi"
    path.write_text("CCO ethanol\n\nC1CC1\tcyclopropane\n")
    assert [(row.line, row.smiles) for row in read_smiles(path)] == [(1, "CCO"), (3, "C1CC1")]
    table = tmp_path / "some.csv"
    table.write_text("name,smiles,split,clean\nethanol,CCO,test,1\nmethyl,[CH3],train,0\n")
    assert [tuple(row) for row in read_smiles(table)] == [(2, "CCO", "test")]
    (tmp_path / "cut.smi.gz").write_bytes(gzip.compress(b"CCO\n" * 999)[:-20])
    with pytest.raises(RequestError, match=r"cut\.smi\.gz: damaged"):
        list(read_smiles(tmp_path / "cut.smi.gz"))
    (tmp_path / "binary.smi").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match=r"binary\.smi: damaged, or no text"):
        list(read_smiles(tmp_path / "binary.smi"))
    damaged = bytearray(gzip.compress(bytes(range(256)) * 99))
    damaged[40:44] = b"\xff" * 4
    (tmp_path / "bits.smi.gz").write_bytes(damaged)
    with pytest.raises(RequestError, match=r"bits\.smi\.gz: damaged"):
        list(read_smiles(tmp_path / "bits.smi.gz"))
    (tmp_path / "long.csv").write_text("smiles\nC\n" + "C" * 200_000)
    with pytest.raises(RequestError, match=r"long\.csv, line 3: field larger than field limit"):
        list(read_smiles(tmp_path / "long.csv"))
    with pytest.raises(RequestError, match="no such file"):
        list(read_smiles(tmp_path / "nowhere.smi"))


@pytest.mark.parametrize("header", ["smiles,split", "\ufeffsmiles,split", '"SMILES", Split', "SMILES,split\r"])
def test_headers_of_tables_as_programs_write_them(tmp_path, header):
    path = tmp_path / "some.csv"
    path.write_text(f'{header}\nCCO,test\n\n"CC",train\nO\n')
    assert [tuple(row) for row in read_smiles(path)] == [(2, "CCO", "test"), (4, "CC", "train"), (5, "O", "")]
