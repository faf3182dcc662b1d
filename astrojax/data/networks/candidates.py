"""Which reactions a draft network might be missing: pairs of a network and a reaction, and how they are split.

Strains and relatives share reactions, so a network held out would be known from others: reactions are held out instead,
from all networks at once. What is left of a network is its draft. A candidate for a draft is a reaction that it lacks
and all of whose compounds and compartments it has: others would be told apart by that alone.

What is learnt from is made the same way: a tenth of the remaining reactions at a time is taken out of all drafts. To
take out each reaction alone would not do: its compounds would then be used once less often in just those networks that
have it, and a model can learn how often each network uses a compound.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse

from astrojax.data.networks.universe import Term, UniversalReaction, Universe

Split = Literal["train", "validation", "heldout"]

_PARTS = 10


class Pairs(NamedTuple):
    """Networks and reactions they may have.

    Attributes:
        network: ``[p]`` int32.
        reaction: ``[p]`` int32.
        label: ``[p]`` bool, whether the network has it.
    """

    network: np.ndarray
    reaction: np.ndarray
    label: np.ndarray


def split_of(universe: Universe, reaction: UniversalReaction) -> Split:
    """By a hash of what a reaction turns into what: 8 of 10 are learnt from, one each is for validation and held out.

    Reactions that differ in direction, compartments, coefficients or protons alone fall together.
    """
    tenth = int(hashlib.sha256(_compounds(universe, reaction).encode()).hexdigest()[:8], 16) % 10
    return "heldout" if tenth == 0 else "validation" if tenth == 1 else "train"


def splits(universe: Universe) -> np.ndarray:
    """The split of each reaction, ``[reaction]`` str."""
    return np.asarray([split_of(universe, reaction) for reaction in universe.reactions])


def participation(universe: Universe) -> scipy.sparse.csr_array:
    """``[compound, reaction]`` bool: what takes part in what."""
    return _incidence(universe, lambda term: term.compound, range(len(universe.compounds)))


def placement(universe: Universe) -> scipy.sparse.csr_array:
    """``[place, reaction]`` like :func:`participation`, where a compound in another compartment is another one."""
    return _incidence(universe, lambda term: (term.compound, term.compartment))


def compartments(universe: Universe) -> scipy.sparse.csr_array:
    """``[compartment, reaction]`` bool: where what takes place."""
    return _incidence(universe, lambda term: term.compartment)


def candidates(universe: Universe, drafts: np.ndarray, reactions: np.ndarray) -> Pairs:
    """All pairs of a draft and one of ``reactions`` all of whose compounds, and compartments, the draft has.

    Args:
        universe: of the reactions.
        drafts: ``[network, reaction]`` bool, which each draft still has; none of ``reactions``.
        reactions: places of reactions.
    """
    lacking = sum(
        (drafts.astype(np.int32) @ takes.T == 0).astype(np.int32) @ takes[:, reactions]
        for takes in (participation(universe), compartments(universe))
    )
    network, place = np.nonzero(lacking == 0)
    reaction = reactions[place]
    return Pairs(network.astype(np.int32), reaction.astype(np.int32), universe.present[network, reaction])


def same_compounds(universe: Universe, reactions: np.ndarray) -> np.ndarray:
    """``[reaction]``: numbers of ``reactions``, alike where they are of the same compounds, protons aside."""
    return np.unique([_compounds(universe, universe.reactions[r]) for r in reactions], return_inverse=True)[1]


def foldings(universe: Universe, reactions: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Tenths of ``reactions``, which together are all of them; those of :func:`same_compounds` fall together."""
    groups = same_compounds(universe, reactions)
    tenth = np.random.default_rng(seed).integers(_PARTS, size=groups.max() + 1)[groups]
    yield from (reactions[tenth == part] for part in range(_PARTS))


def without(drafts: np.ndarray, reactions: np.ndarray) -> np.ndarray:
    """Drafts that lack ``reactions``."""
    left = drafts.copy()
    left[:, reactions] = False
    return left


def training_candidates(universe: Universe, drafts: np.ndarray, seed: int) -> Pairs:
    """Candidates among the reactions that drafts have, each for drafts without its tenth (:func:`foldings`)."""
    parts = foldings(universe, np.flatnonzero(drafts.any(0)), seed)
    pairs = [candidates(universe, without(drafts, part), part) for part in parts]
    return Pairs(*(np.concatenate(values) for values in zip(*pairs, strict=True)))


def _incidence(
    universe: Universe, of: Callable[[Term], Hashable], all_: Iterable[Hashable] = ()
) -> scipy.sparse.csr_array:
    """``[of the terms, reaction]``: which reaction has which; rows are as in ``all_``, or as they are met."""
    found = [(of(term), r) for r, reaction in enumerate(universe.reactions) for term in reaction.terms]
    number = {one: i for i, one in enumerate(dict.fromkeys([*all_, *(one for one, _ in found)]))}
    places = np.asarray([(number[one], r) for one, r in found], np.int64)
    row, column = np.unique(places.reshape(-1, 2), axis=0).T
    shape = len(number), len(universe.reactions)
    return scipy.sparse.csr_array((np.ones(len(row), np.int32), (row, column)), shape)


def _compounds(universe: Universe, reaction: UniversalReaction) -> str:
    compounds = (universe.compounds[term.compound] for term in reaction.terms)
    return "\n".join(sorted({compound.name for compound in compounds if not compound.proton}))
