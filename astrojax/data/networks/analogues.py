"""Which known reactions are like a candidate, and whether a draft has those.

A network that lacks a kind of reaction often lacks what is like it: the rest of a pathway, or what else is done to the
same compounds. This is filtering by items (Sarwar et al. 2001, 10.1145/371920.372071), where items are alike by what
they are and not by who has them, because nobody is known to have a reaction that no draft holds.
"""

import numpy as np
import scipy.sparse

from astrojax.data.networks.candidates import participation, same_compounds
from astrojax.data.networks.universe import Universe

NUM_ANALOGUE_FEATURES = 3

# How much more the likest count: by the power of their likeness.
_SHARPNESS = 3


class Analogues:
    """The known reactions that candidates are like: those that any draft has.

    Two reactions are alike by the share of their compounds that they have in common, where a compound weighs
    1 / log(2 + known reactions it is in). Those of the very same compounds are never compared: where a reaction is held
    out they are too, so nothing could be learnt of what they mean.
    """

    def __init__(self, universe: Universe, drafts: np.ndarray):
        """
        Args:
            universe: of the reactions; who has which is not read from it.
            drafts: ``[network, reaction]`` bool, what each is known to have.
        """
        takes_part = participation(universe).astype(np.float64)
        self._known = np.flatnonzero(drafts.any(axis=0))
        self._common = drafts.mean(axis=0)
        self._of_known = takes_part[:, self._known]
        weight = 1 / np.log(2 + self._of_known.sum(axis=1))
        self._weighted = (scipy.sparse.diags_array(weight) @ takes_part).T.tocsr()
        self._size = self._weighted.sum(axis=1)
        self._group = same_compounds(universe, np.arange(len(universe.reactions)))
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, reaction: int) -> tuple[np.ndarray, np.ndarray]:
        """Known reactions that share compounds with a reaction, in no order, and how like it they are, above 0 to 1."""
        if reaction not in self._found:
            shared = (self._weighted[[reaction]] @ self._of_known).tocsr()
            others = self._known[shared.indices]
            likeness = shared.data / (self._size[reaction] + self._size[others] - shared.data)
            apart = self._group[others] != self._group[reaction]
            self._found[reaction] = others[apart], likeness[apart]
        return self._found[reaction]

    def features(self, draft: np.ndarray, reaction: int) -> np.ndarray:
        """What the analogues of a candidate say of it, ``[3]``.

        - how much more of them the draft has than drafts have on average, -1 to 1, the likest counting most.
        - how like it the likest is that the draft has, 0 where it has none.
        - how like it the likest is that any draft has.

        Args:
            draft: ``[reaction]`` bool.
            reaction: the candidate.
        """
        others, likeness = self.of(reaction)
        if not len(others):
            return np.zeros(NUM_ANALOGUE_FEATURES)
        has, weight = draft[others], likeness**_SHARPNESS
        more = np.average(has - self._common[others], weights=weight)
        return np.asarray([more, np.max(likeness * has), np.max(likeness)])
