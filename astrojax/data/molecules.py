"""Molecules as graphs: atoms that are not hydrogen, and bonds between them, from SMILES and back.

Bonds are single, double or triple: aromatic rings are written with alternating ones (Kekulé), so that the orders at an
atom sum to its valence. Atoms come in the order of RDKit's canonical SMILES, which is one order for each molecule, and
in which every atom of a connected molecule but the first is bound to an earlier one.
"""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astrojax.chemistry.valence import AtomType, max_bond_orders, rdkit_chem
from astrojax.data.workers import num_workers, worker_pool
from astrojax.errors import RequestError

_COMPRESSED = b"\x1f\x8b"
_ROWS_AT_A_TIME = 1000


class Molecule(NamedTuple):
    """A molecule's graph.

    Attributes:
        atoms: of ``n`` atoms the type of each.
        bonds: ``[m, 2]`` int32, positions of the two atoms, the smaller first.
        orders: ``[m]`` int32, 1 to 3.
    """

    atoms: tuple[AtomType, ...]
    bonds: np.ndarray
    orders: np.ndarray


class Row(NamedTuple):
    """A line of a file of molecules: where it is, its SMILES, and the split its file puts it in, ``""`` if none."""

    line: int
    smiles: str
    split: str


def read_smiles(path: str | Path) -> Iterator[Row]:
    """The molecules of a file.

    Args:
        path: a CSV file with a column ``smiles`` and perhaps ``split`` and ``clean``, whose rows with ``clean`` 0 are
            left out; or lines that begin with a SMILES. Either may be compressed (gzip).

    Raises:
        RequestError: there is no such file, it is damaged, or not text.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content[:2] == _COMPRESSED:
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RequestError(f"{path}: damaged, or no text: {error}") from error
    lines = csv.reader(io.StringIO(text))
    try:
        header = [name.strip().lower() for name in next(lines, ())]
        if "smiles" in header:
            for values in filter(None, lines):
                row = dict(zip(header, values, strict=False))
                if row.get("clean") != "0":
                    yield Row(lines.line_num, row.get("smiles", ""), row.get("split", ""))
            return
    except csv.Error as error:
        raise RequestError(f"{path}, line {lines.line_num}: {error}") from error
    for line, row in enumerate(text.splitlines(), start=1):
        if row.strip():
            yield Row(line, row.split()[0], "")


def to_molecule(smiles: str) -> Molecule:
    """The graph of a SMILES; see :func:`canonical_molecule`."""
    return canonical_molecule(smiles)[1]


def canonical_molecule(smiles: str) -> tuple[str, Molecule]:
    """The canonical SMILES, as :func:`to_smiles` writes it, and the graph of a SMILES. Stereochemistry, isotopes
    and numbers of atoms are dropped.

    Raises:
        ValueError: RDKit cannot read it, or it has radicals, several fragments, atoms of no element or no known
            valence, bonds other than single, double and triple ones, or more hydrogens than the graph implies.
    """
    Chem = rdkit_chem()
    read = Chem.MolFromSmiles(smiles)
    if read is None or not read.GetNumAtoms():
        raise ValueError("not a molecule that RDKit can read")
    Chem.RemoveStereochemistry(read)
    for atom in read.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
        if not atom.GetAtomicNum():
            raise ValueError("an atom of no element")
        if atom.GetNumRadicalElectrons():
            raise ValueError("radicals")
    # Hydrogens that were kept as atoms for what is dropped.
    text = Chem.MolToSmiles(Chem.RemoveHs(read))
    canonical = Chem.MolFromSmiles(text)
    if len(Chem.GetMolFrags(canonical)) > 1:
        raise ValueError("several fragments")
    Chem.Kekulize(canonical, clearAromaticFlags=True)
    bonds = sorted(
        (*sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())), bond.GetBondTypeAsDouble())
        for bond in canonical.GetBonds()
    )
    if any(order not in (1, 2, 3) for *_, order in bonds):
        raise ValueError("a bond that is not single, double or triple")
    table = np.asarray(bonds, np.int32).reshape(-1, 3)
    atoms = tuple(AtomType(atom.GetSymbol(), atom.GetFormalCharge()) for atom in canonical.GetAtoms())
    try:
        max_bond_orders(sorted(set(atoms)))
    except RequestError as error:
        raise ValueError(str(error)) from error
    molecule = Molecule(atoms, table[:, :2], table[:, 2])
    if to_smiles(molecule) != text:
        raise ValueError("hydrogens that no valence implies")
    return text, molecule


def to_smiles(molecule: Molecule) -> str | None:
    """Canonical SMILES; None where an atom has more bonds than it can, or RDKit objects otherwise."""
    Chem = rdkit_chem()
    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    written = Chem.RWMol()
    for kind in molecule.atoms:
        atom = Chem.Atom(kind.symbol)
        atom.SetFormalCharge(kind.charge)
        written.AddAtom(atom)
    for (i, j), order in zip(molecule.bonds.tolist(), molecule.orders.tolist(), strict=True):
        written.AddBond(i, j, kinds[order])
    if Chem.SanitizeMol(written, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    return Chem.MolToSmiles(written)


def atom_types(molecules: Sequence[Molecule]) -> tuple[AtomType, ...]:
    """The types of atoms in molecules, the most frequent first."""
    counts = Counter(kind for molecule in molecules for kind in molecule.atoms)
    return tuple(sorted(counts, key=lambda kind: (-counts[kind], kind)))


def read_molecules(path: str | Path) -> Iterator[tuple[Row, tuple[str, Molecule] | str]]:
    """The molecules of a file as :func:`read_smiles` finds them, each as :func:`canonical_molecule` has it, or why one
    is none. Read by one process per core.

    Raises:
        RequestError: see :func:`read_smiles`.
    """
    rows = list(read_smiles(path))
    with worker_pool(num_workers(None, len(rows) // _ROWS_AT_A_TIME + 1)) as pool:
        yield from zip(
            rows, pool.map(_molecule_or_reason, [row.smiles for row in rows], chunksize=_ROWS_AT_A_TIME), strict=True
        )


def _molecule_or_reason(smiles: str) -> tuple[str, Molecule] | str:
    try:
        return canonical_molecule(smiles)
    except ValueError as error:
        return str(error)
