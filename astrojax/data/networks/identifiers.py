"""What identifiers and names of metabolites say, as different schools of modelling write them."""

import functools
import re
from typing import NamedTuple

# SBML allows letters, digits and underscores: what else an identifier had, exporters spell out in their own ways.
_SPELT = {
    "LPAREN": "(", "RPAREN": ")", "LSQBKT": "[", "RSQBKT": "]", "LBRACKET": "[", "RBRACKET": "]", "DASH": "-",
    "APOS": "'", "PLUS": "+", "COMMA": ",", "DOT": ".",
}  # fmt: skip
_SPELT_OUT = re.compile(rf"_({'|'.join(_SPELT)})_?")
_CODE = re.compile(r"__(\d{2,3})__")

_COMPARTMENT = re.compile(r"(?:_([a-z]{1,2})\d?|\[([a-z])\d?\]|\(([a-z])\d?\))$", re.IGNORECASE)

# Accessions that say what database they are of. Others of a few letters and a number mean something in one model only.
_ACCESSIONS = {"seed.compound": re.compile(r"cpd\d{5}"), "kegg.compound": re.compile(r"[CG]\d{5}")}
_LOCAL = re.compile(r"[A-Za-z]{0,4}_?\d+")
# These few letters and a number are BiGG's: formulas, ions, coenzymes and lipids by their chains.
_BIGG = re.compile(
    r"o2|co2|h2|n2|nh3|nh4|no2|no3|so2|so3|so4|hco3|ch4|aso3|aso4|cro4|mso3|fe2|fe3|mg2|mn2|zn2|na1|cu2|ca2|ni2|cd2|hg2|"
    r"q8|mqn\d|mql\d|fadh2|fmnh2|cbl1|uppg3|pppg9|ppp9|preq[01]|cph4|dad_[25]|(?:pa|pe|pg|pgp|ps|clpn)1[2-8][01]"
)


class Identifier(NamedTuple):
    """A metabolite's identifier, taken apart.

    Attributes:
        compound: without prefix and compartment.
        compartment: its letter as it is written, in lower case; None where there is none.
    """

    compound: str
    compartment: str | None


@functools.cache  # The same few thousand stand in every model, and in each of its reactions.
def split_identifier(identifier: str) -> Identifier:
    """``"M_glc_DASH_D_c"`` as ``("glc-D", "c")``."""
    text = _CODE.sub(lambda match: chr(int(match[1])), identifier.removeprefix("M_"))
    text = _SPELT_OUT.sub(lambda match: _SPELT[match[1]], text)
    if (match := _COMPARTMENT.search(text)) and match.start():
        return Identifier(text[: match.start()].rstrip("_"), next(filter(None, match.groups())).lower())
    return Identifier(text, None)


def accession(compound: str) -> tuple[str, str] | None:
    """``(database, accession)`` of an identifier without compartment; None where it means something in one model only.

    Identifiers that follow no other scheme are taken for BiGG's, whose lists most models began from.
    """
    for database, pattern in _ACCESSIONS.items():
        if pattern.fullmatch(compound):
            return database, compound
    if _LOCAL.fullmatch(compound) and not _BIGG.fullmatch(compound):
        return None
    return "bigg.metabolite", plain(compound)


def plain(name: str) -> str:
    """Letters and digits alone, in lower case: ``"D-Glucose [c]"`` and ``"D_Glucose"`` are both ``"dglucose"``."""
    name = re.sub(r"\s*(?:\[[A-Za-z]\d?\]|\([A-Z]\))$|_[a-z]0$", "", name.removeprefix("M_"))
    return re.sub(r"[^a-z0-9+]", "", name.lower())
