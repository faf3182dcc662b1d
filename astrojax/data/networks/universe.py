"""Everything that several organisms are known to do: their compounds, their reactions, and who has which."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from astrojax.chemistry.formula import imbalance
from astrojax.data.networks.identity import PROTON, Compounds, evidence, is_proton, reaction_key, stoichiometry_key
from astrojax.data.networks.network import Network
from astrojax.errors import RequestError
from astrojax.files import write_atomically

# Of reactions; others are of what is known about one in some organism.
_DATABASES = ("metanetx.reaction", "bigg.reaction", "seed.reaction", "kegg.reaction", "biocyc", "rhea", "ec-code")


class Compound(msgspec.Struct, frozen=True):
    """What metabolites of several networks are.

    Attributes:
        name: the one that most networks give it.
        elements: symbol -> number of atoms; None where no network knows.
        charge: electric; None where no network knows.
        accessions: database -> accessions, the commonest first.
        evidence: what its metabolites are known by, as :func:`astrojax.data.networks.identity.evidence` says it:
            kind -> accessions or names.
        proton: whether it is the hydrogen ion.
    """

    name: str
    elements: dict[str, float] | None
    charge: float | None
    accessions: dict[str, list[str]]
    evidence: dict[str, list[str]]
    proton: bool = False


class Term(msgspec.Struct, frozen=True, array_like=True):
    """One reactant of a reaction: ``coefficient`` is below 0 where it is consumed."""

    compound: int
    compartment: str
    coefficient: float


class UniversalReaction(msgspec.Struct, frozen=True):
    """A reaction that one or more networks have.

    Attributes:
        id: the one that most of those networks give it which write it as ``terms`` do.
        name: likewise.
        terms: protons included, as most networks write it.
        reversible: whether half of its networks or more let it run in either direction. Where not, ``terms`` are
            written in the direction that they let it run in.
        accessions: database -> accessions, the commonest first.
    """

    id: str
    name: str
    terms: list[Term]
    reversible: bool
    accessions: dict[str, list[str]] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Universe:
    """The reactions of several networks; exchanges, biomass and leaks of protons alone are left out.

    Attributes:
        networks: their names.
        organisms: what each is of.
        compounds: of all networks.
        reactions: of all networks, each once.
        present: ``[network, reaction]`` bool, who has which.
    """

    networks: tuple[str, ...]
    organisms: tuple[str, ...]
    compounds: tuple[Compound, ...]
    reactions: tuple[UniversalReaction, ...]
    present: np.ndarray

    def imbalance(self, reaction: UniversalReaction) -> dict[str, float] | None:
        """What a reaction makes or loses of each element but hydrogen, whose number follows the charge a compound is
        written at; None where a formula is not known."""
        elements = [(t.coefficient, self.compounds[t.compound].elements) for t in reaction.terms]
        if any(e is None for _, e in elements):
            return None
        return imbalance((c, {symbol: n for symbol, n in e.items() if symbol != "H"}) for c, e in elements)

    def key(self, reaction: UniversalReaction) -> frozenset[tuple[int, str, float]]:
        """What :func:`astrojax.data.networks.identity.reaction_key` gives for it in every network that has it."""
        return stoichiometry_key(
            (PROTON if self.compounds[t.compound].proton else t.compound, t.compartment, t.coefficient)
            for t in reaction.terms
        )

    def save(self, path: Path) -> None:
        """Writes a file that is whole or not there."""
        present = [np.flatnonzero(row).tolist() for row in self.present]
        content = _Content(self.networks, self.organisms, self.compounds, self.reactions, present)
        write_atomically(path, zstandard.compress(msgspec.json.encode(content)))

    @classmethod
    def load(cls, path: Path) -> "Universe":
        """Reads what :meth:`save` wrote.

        Raises:
            RequestError: there is no such file, or it is something else.
        """
        try:
            content = msgspec.json.decode(zstandard.decompress(path.read_bytes()), type=_Content)
        except FileNotFoundError as error:
            raise RequestError(f"{path}: no such file") from error
        except (zstandard.ZstdError, msgspec.DecodeError) as error:
            raise RequestError(f"{path}: not a universe of reactions, or damaged: {error}") from error
        present = np.zeros((len(content.networks), len(content.reactions)), bool)
        for row, places in zip(present, content.present, strict=True):
            row[places] = True
        return cls(content.networks, content.organisms, content.compounds, content.reactions, present)


class _Content(msgspec.Struct):
    """What a file of it holds."""

    networks: tuple[str, ...]
    organisms: tuple[str, ...]
    compounds: tuple[Compound, ...]
    reactions: tuple[UniversalReaction, ...]
    present: list[list[int]]


def make_universe(networks: Sequence[Network], compounds: Compounds) -> Universe:
    """Puts networks together.

    Args:
        networks: two or more make sense, one works.
        compounds: what their metabolites are, by :func:`astrojax.data.networks.identity.identify`.
    """
    found: dict[frozenset, list[tuple[int, int]]] = {}
    for n, network in enumerate(networks):
        for i, reaction in enumerate(network.reactions):
            if network.kind(reaction) not in ("internal", "transport"):
                continue
            if key := reaction_key(network, reaction, compounds.of[n]):
                found.setdefault(key, []).append((n, i))
    reactions, present = [], np.zeros((len(networks), len(found)), bool)
    for place, (key, occurrences) in enumerate(found.items()):
        same = [networks[n].reactions[i] for n, i in occurrences]
        written = [
            frozenset(
                (compounds.of[n][m], networks[n].metabolites[m].compartment, c)
                for m, c in networks[n].reactions[i].stoichiometry.items()
            )
            for n, i in occurrences
        ]
        ways = _directions(key, [n for n, _ in occurrences], written, [r.reversible for r in same])
        terms = _commonest(written)
        usual = [reaction for reaction, as_written in zip(same, written, strict=True) if as_written == terms]
        if _sign(key, terms) not in ways:
            terms = [(compound, where, -c) for compound, where, c in terms]
        reactions.append(
            UniversalReaction(
                id=_commonest([r.id for r in usual]),
                name=_commonest([r.name for r in usual]),
                terms=[Term(*term) for term in sorted(terms)],
                reversible=len(ways) == 2,
                accessions=_grouped(found for r in same for found in r.references if found[0] in _DATABASES),
            )
        )
        present[[n for n, _ in occurrences], place] = True
    return Universe(
        networks=tuple(network.name for network in networks),
        organisms=tuple(network.organism for network in networks),
        compounds=tuple(_compound([networks[n].metabolites[i] for n, i in members]) for members in compounds.members),
        reactions=tuple(reactions),
        present=present,
    )


def _directions(
    key: frozenset, places: Sequence[int], written: Sequence[Iterable[tuple]], both: Sequence[bool]
) -> set[int]:
    """The directions, 1 as the key has it and -1, that half of the networks or more let a reaction run in."""
    ways: dict[int, set[int]] = {}
    for network, terms, reversible in zip(places, written, both, strict=True):
        sign = _sign(key, terms)
        ways.setdefault(network, set()).update({sign, -sign} if reversible else {sign})
    count = Counter(way for of_network in ways.values() for way in of_network)
    return {way for way in count if 2 * count[way] >= len(ways)}


def _sign(key: frozenset, terms: Iterable[tuple[int, str, float]]) -> int:
    """1 where terms are written as their key is, else -1."""
    compound, where, coefficient = min(key)
    return 1 if next(c for k, w, c in terms if (k, w) == (compound, where)) * coefficient > 0 else -1


def _compound(metabolites) -> Compound:
    # A formula and the charge that goes with it, from one network.
    known = Counter(
        (tuple(sorted(m.elements.items())), m.charge) for m in metabolites if m.elements is not None
    ).most_common(1)
    elements, charge = known[0][0] if known else (None, None)
    return Compound(
        name=_commonest([m.name for m in metabolites]),
        elements=None if elements is None else dict(elements),
        charge=charge,
        accessions=_grouped(reference for m in metabolites for reference in m.references),
        evidence=_grouped(key for m in metabolites for key in evidence(m)),
        proton=any(is_proton(m) for m in metabolites),
    )


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The commonest first."""
    found: dict[str, Counter[str]] = {}
    for kind, text in pairs:
        found.setdefault(kind, Counter())[text] += 1
    return {k: sorted(texts, key=lambda text: (-texts[text], text)) for k, texts in sorted(found.items())}


def _commonest[T](values: Sequence[T]) -> T:
    return Counter(values).most_common(1)[0][0]
