"""How many bonds an atom can have."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from astrojax.errors import RequestError

# Atomic number -> with more electrons than this it keeps valences of its own: P, S, As, Se.
_HYPERVALENT = {15: 16, 16: 16, 33: 34, 34: 34}


class AtomType(NamedTuple):
    """An element and its formal charge; hydrogens are implied by what valence is left."""

    symbol: str
    charge: int = 0

    def __str__(self) -> str:
        sign = "+" if self.charge > 0 else "-"
        return self.symbol + (f"{sign}{abs(self.charge)}" if self.charge else "")


def max_bond_orders(types: Sequence[AtomType]) -> np.ndarray:
    """The largest sum of bond orders of each type, ``[len(types)]`` int32.

    A charged atom has the valences of the neutral one with as many electrons, as in RDKit: N+ four like C, O- one like
    F. P, S, As and Se that would be halogens or noble gases by that keep their own, less their charge: S- five.

    Raises:
        RequestError: an element is none, or one whose valence has no limit, such as a metal; or RDKit is missing.
    """
    table = rdkit_chem().GetPeriodicTable()
    limits = []
    for kind in types:
        try:
            number = table.GetAtomicNumber(kind.symbol)
            electrons = number - kind.charge
            hypervalent = electrons > _HYPERVALENT.get(number, electrons)
            valences = table.GetValenceList(number if hypervalent else electrons)
        except (RuntimeError, OverflowError) as error:
            raise RequestError(f"{kind} is no atom") from error
        if -1 in valences:
            raise RequestError(f"{kind} has no valence to check bonds against")
        limits.append(max(valences) + (kind.charge if hypervalent else 0))
    return np.asarray(limits, np.int32)


def rdkit_chem():
    """RDKit's ``Chem``, which says nothing of what it cannot read: whoever asked it does.

    Raises:
        RequestError: it is missing; names the extra.
    """
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise RequestError("molecules need RDKit: pip install -e '.[graphs]'") from error
    RDLogger.DisableLog("rdApp.*")
    return Chem
