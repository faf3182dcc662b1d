"""What surrounds a candidate reaction in a draft network, as a graph of compounds and reactions.

The candidate is the first node; then come its compounds, the reactions of the draft that share the most telling of
them, and what else those turn over. The candidate's node also says how many drafts hold all its compounds, and what
reactions that are like it say of the draft. How many drafts have the candidate itself is not told; nor is whether it is
reversible, which depends on how many networks have it.
"""

import math

import numpy as np

from astrojax.config import Config, Positive
from astrojax.data.graphs import Graph
from astrojax.data.networks.analogues import NUM_ANALOGUE_FEATURES, Analogues
from astrojax.data.networks.candidates import participation, placement
from astrojax.data.networks.network import NOTHING
from astrojax.data.networks.relatives import likeness
from astrojax.data.networks.universe import Universe

# How many of each element a compound has; others are counted together, as are groups that stand for a rest.
_ELEMENTS = ("C", "H", "N", "O", "P", "S", "Fe")

# Coefficients that a decoder tells apart. Class 0 takes no part; after them come what is moved between compartments and
# not changed, and coefficients below and above these.
COEFFICIENTS = (0, -1, 1, -2, 2, -3, 3, -4, 4)
MOVED = len(COEFFICIENTS)
BELOW, ABOVE = MOVED + 1, MOVED + 2
CLASSES = MOVED + 3
# What each class counts for where elements are to balance.
BALANCE = np.asarray([*COEFFICIENTS, 0, -5, 5], np.float32)

# Kinds of nodes: reactions, compounds that the universe does not know, then its compounds.
REACTION, UNKNOWN, FIRST_COMPOUND = 0, 1, 2
EDGE_KINDS = 8

# A node's first features are logarithms of 1 + atoms: of each element, and of the others.
ELEMENT_FEATURES = len(_ELEMENTS) + 1
_STATIC = ELEMENT_FEATURES + 4
# After those of compounds come those of reactions. Of the candidate they end otherwise: where others have how common
# they are, it has how common its compounds are together, and more.
_OF_REACTIONS = _STATIC + 7
_OF_CANDIDATE = _OF_REACTIONS + 4
NODE_FEATURES = _OF_CANDIDATE + 4 + NUM_ANALOGUE_FEATURES

# What is known of the candidate alone is small beside logarithms of counts, and beside the noise that features are seen
# with: as it is, the network hardly hears it (AUPRC on the validation split with seed 0: 0.838, three times as large
# 0.845).
_LOUDNESS = 3.0


class Surroundings(Config):
    """How far around a candidate a graph reaches.

    Attributes:
        max_reactions: of the draft, those first that share compounds which few reactions have.
        max_compounds: with the candidate's own.
        hub: compounds of more reactions are left out unless they are the candidate's: everything is next to water.
    """

    max_reactions: Positive = 12
    max_compounds: Positive = 28
    hub: Positive = 40


class Neighbourhoods:
    """Graphs around candidates, in the drafts of a universe's networks.

    Attributes:
        universe: what compounds and reactions are.
        drafts: ``[network, reaction]`` bool, what networks are known to have: it says how common a compound is.
    """

    def __init__(self, universe: Universe, drafts: np.ndarray, config: Surroundings):
        self.universe, self.drafts, self.config = universe, drafts, config
        self._terms, self._roles = [], []
        for reaction in universe.reactions:
            totals: dict[int, float] = {}
            for term in reaction.terms:
                # What is moved between compartments counts on the side that is larger, or as used where equal.
                totals[term.compound] = totals.get(term.compound, 0.0) + term.coefficient
            compounds = np.asarray(list(totals), np.int64)
            coefficients = np.asarray(
                [c if abs(c) > NOTHING else _moved(reaction, k) for k, c in totals.items()], np.float32
            )
            self._terms.append((compounds, coefficients))
            self._roles.append([coefficient_class(c) for c in totals.values()])
        self._reversible = np.asarray([reaction.reversible for reaction in universe.reactions])
        self._transport = np.asarray([len({t.compartment for t in r.terms}) > 1 for r in universe.reactions])
        self._participation = participation(universe)
        self._held = drafts.astype(np.int32) @ self._participation.T  # [network, compound]
        located = placement(universe)
        self._located, by_reaction = located, located.tocsc()
        self._places_of = np.split(by_reaction.indices, by_reaction.indptr[1:-1])
        self._placed = drafts.astype(np.int32) @ located.T  # [network, place]
        self._common = drafts.mean(0)
        self._static = np.stack([_described(compound) for compound in universe.compounds])
        self._analogues = Analogues(universe, drafts)

    def around(self, draft: np.ndarray) -> "DraftView":
        """A draft, ``[reaction]`` bool, made ready for many candidates."""
        return DraftView(self, draft)


class DraftView:
    """Graphs around candidates in one draft."""

    def __init__(self, neighbourhoods: Neighbourhoods, draft: np.ndarray):
        self._all, self._draft = neighbourhoods, draft
        inside = neighbourhoods._participation.multiply(draft[None].astype(np.int32)).tocsr()
        inside.eliminate_zeros()
        self._reactions_of = np.split(inside.indices, inside.indptr[1:-1])
        self._made, self._used = _made_and_used(neighbourhoods, draft)
        self._placed = neighbourhoods._located @ draft.astype(np.int32)
        self._likeness = likeness(neighbourhoods.drafts, draft)

    def graph(self, reaction: int, label: bool) -> Graph:
        """The candidate's surroundings.

        Args:
            reaction: the candidate's place in the universe.
            label: whether the network has it.
        """
        all_, config = self._all, self._all.config
        compounds, coefficients = all_._terms[reaction]
        scores: dict[int, float] = {}
        for compound in compounds.tolist():
            users = self._reactions_of[compound].tolist()
            for other in users:
                scores[other] = scores.get(other, 0.0) + 1.0 / math.log(2.0 + len(users))
        near = sorted(scores, key=lambda other: (-scores[other], other))[: config.max_reactions]
        place = {int(c): i for i, c in enumerate(compounds)}
        for other in near:
            for compound in all_._terms[other][0].tolist():
                crowded = len(place) >= config.max_compounds or len(self._reactions_of[compound]) > config.hub
                if compound not in place and not crowded:
                    place[compound] = len(place)
        members = np.asarray(list(place), np.int64)
        first = 1  # The candidate is node 0.
        edges = [(0, first + i, c) for i, c in enumerate(coefficients.tolist())]
        for i, other in enumerate(near):
            terms = zip(*(array.tolist() for array in all_._terms[other]), strict=True)
            edges += [(first + len(members) + i, first + place[k], c) for k, c in terms if k in place]
        reactions = [reaction, *near]
        nodes = np.zeros((1 + len(members) + len(near), NODE_FEATURES), np.float32)
        nodes[first : first + len(members), :_STATIC] = all_._static[members]
        nodes[first : first + len(members), _STATIC:_OF_REACTIONS] = self._compound_features(members)
        where = [0, *range(first + len(members), len(nodes))]
        nodes[where, _OF_REACTIONS : _OF_CANDIDATE + 1] = self._reaction_features(reactions)
        nodes[0, _OF_CANDIDATE:] = _LOUDNESS * self._candidate_features(reaction, compounds)
        kinds = np.full(len(nodes), REACTION, np.int32)
        kinds[first : first + len(members)] = FIRST_COMPOUND + members
        role = np.zeros(len(nodes), np.int32)
        role[first : first + len(compounds)] = all_._roles[reaction]
        table = np.asarray(edges, np.float64)
        ends, coefficient = table[:, :2].astype(np.int32), table[:, 2]
        turning = np.asarray([False, *(all_._reversible[r] for r in near)])[
            np.where(ends[:, 0] == 0, 0, ends[:, 0] - first - len(members) + 1)
        ]
        kind = 2 * (coefficient > 0) + 4 * turning
        size = np.log2(1.0 + np.abs(coefficient)).astype(np.float32)[:, None]
        return Graph(
            nodes={"kind": kinds, "features": nodes.astype(np.float16), "role": role},
            edges={
                "kind": np.concatenate([kind, kind + 1]).astype(np.int32),
                "features": np.tile(size, (2, 1)).astype(np.float16),
            },
            senders=np.concatenate([ends[:, 0], ends[:, 1]]),
            receivers=np.concatenate([ends[:, 1], ends[:, 0]]),
            globals={"label": np.float32(label)},
        )

    def _compound_features(self, members: np.ndarray) -> np.ndarray:
        used, made, held = self._used[members], self._made[members], self._all._held[:, members]
        return np.stack(
            [
                np.log1p(used),
                np.log1p(made),
                (used == 0) & (made > 0),
                (made == 0) & (used > 0),
                (used + made) == 0,
                np.log1p(held.sum(0)) / 4,
                (held > 0).mean(0),
            ],
            axis=1,
        )

    def _reaction_features(self, reactions: list[int]) -> np.ndarray:
        """Of the candidate, which comes first, and of those around it; what it has in place of the last is not here."""
        all_ = self._all
        features = np.stack(
            [
                np.ones(len(reactions)),
                all_._reversible[reactions],
                all_._transport[reactions],
                np.log1p([len(all_._terms[r][0]) for r in reactions]),
                all_._common[reactions],
            ],
            axis=1,
        )
        features[0, [1, 4]] = 0.0  # Both tell how many networks have it.
        return features

    def _candidate_features(self, candidate: int, compounds: np.ndarray) -> np.ndarray:
        """Of drafts the share that hold all its compounds, and the same by how like this draft they are; in how many
        of its places the draft lacks a compound, and the share of drafts that lack none there; what its analogues
        say."""
        all_ = self._all
        whole = (all_._held[:, compounds] > 0).all(1)
        places = all_._places_of[candidate]
        found = [
            whole.mean(),
            np.sum(self._likeness * whole) / max(self._likeness.sum(), 1e-9),
            np.sum(self._placed[places] == 0),
            (all_._placed[:, places] > 0).all(1).mean(),
        ]
        return np.concatenate([found, all_._analogues.features(self._draft, candidate)])


def coefficient_class(coefficient: float) -> int:
    """The class that a decoder has for what a reaction makes of a compound, or uses where it is below 0, in all
    compartments together (``COEFFICIENTS``)."""
    if abs(coefficient) <= NOTHING:
        return MOVED
    if coefficient in COEFFICIENTS:
        return COEFFICIENTS.index(coefficient)
    return ABOVE if coefficient > 0 else BELOW


def _moved(reaction, compound: int) -> float:
    """Coefficient at the edge to a compound that a reaction moves and does not change."""
    return -max(abs(term.coefficient) for term in reaction.terms if term.compound == compound)


def _described(compound) -> np.ndarray:
    elements = compound.elements or {}
    counts = [elements.get(symbol, 0.0) for symbol in _ELEMENTS]
    atoms = [*counts, max(sum(elements.values()) - sum(counts), 0.0)]
    known = [compound.elements is not None, compound.charge is not None, compound.proton]
    return np.asarray([*np.log1p(atoms), (compound.charge or 0.0) / 4, *known], np.float32)


def _made_and_used(neighbourhoods: Neighbourhoods, draft: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reactions of a draft that make each compound, and that use it; those that run both ways do both."""
    made, used = (np.zeros(len(neighbourhoods.universe.compounds), np.int32) for _ in range(2))
    for reaction in np.flatnonzero(draft):
        compounds, coefficients = neighbourhoods._terms[reaction]
        both = neighbourhoods._reversible[reaction]
        made[compounds] += (coefficients > 0) | both
        used[compounds] += (coefficients < 0) | both
    return made, used
