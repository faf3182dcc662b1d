"""Elemental formulas, and what a reaction makes or loses of each element.

A formula may hold groups that stand for an unknown rest (``R``, ``X``, ``*``, as in an acyl carrier protein): they are
counted like elements, so that a reaction that leaves the rest alone balances.
"""

import re
from collections.abc import Iterable, Mapping

_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru
Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At
Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr
"""
# IUPAC's symbols to lawrencium, which is more than any cell will need.
ELEMENTS = frozenset(_SYMBOLS.split())
GROUPS = frozenset(("R", "X", "*"))

_PART = re.compile(r"([A-Z][a-z]?|\*)(\d+(?:\.\d+)?|)")
# Below this a sum of coefficients such as 0.333333 is nothing.
_TOLERANCE = 1e-3


def parse_formula(formula: str) -> dict[str, float]:
    """``"C6H12O6"`` as ``{"C": 6, "H": 12, "O": 6}``.

    Raises:
        ValueError: it is not a formula, or of a size that is not known, such as ``"(C6H10O5)n"``.
    """
    counts: dict[str, float] = {}
    position = 0
    for part in _PART.finditer(formula):
        symbol, number = part.groups()
        if part.start() != position or symbol not in ELEMENTS | GROUPS:
            break
        counts[symbol] = counts.get(symbol, 0) + (float(number) if "." in number else int(number or 1))
        position = part.end()
    if not formula or position != len(formula):
        raise ValueError(f"{formula!r} is no elemental formula")
    return {symbol: number for symbol, number in counts.items() if number}


def format_formula(elements: Mapping[str, float]) -> str:
    """In the order of Hill (1900): carbon, hydrogen, then by the alphabet; all by the alphabet where carbon is none."""
    first = ("C", "H") if "C" in elements else ()
    order = sorted(elements, key=lambda symbol: (first.index(symbol) if symbol in first else len(first), symbol))
    return "".join(f"{symbol}{elements[symbol]:g}" if elements[symbol] != 1 else symbol for symbol in order)


def imbalance(terms: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """What a reaction makes (above 0) or loses of each element; empty where it balances.

    Args:
        terms: of every reactant its coefficient, below 0 where it is consumed, and its elements. Electric charge may
            be one of them: ``{"C": 2, ..., "charge": -1}``.
    """
    totals: dict[str, float] = {}
    scale = 1.0
    for coefficient, elements in terms:
        scale = max(scale, abs(coefficient))
        for symbol, number in elements.items():
            totals[symbol] = totals.get(symbol, 0.0) + coefficient * number
    return {symbol: total for symbol, total in totals.items() if abs(total) > _TOLERANCE * scale}
