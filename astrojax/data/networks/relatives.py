"""Which networks are like a draft, and what they have.

That others have a reaction is no evidence in an evaluation that asks for reactions which nobody is known to have. Who
fills a draft asks for reactions that others have, and may know who.
"""

import numpy as np

# How much more the likest networks count: by the power of their likeness.
_SHARPNESS = 4

# One more network of this likeness, which has nothing, is counted with them, so that few networks, or none that is like
# the draft, do not make a large share.
_NOBODY = 0.3


def likeness(networks: np.ndarray, draft: np.ndarray) -> np.ndarray:
    """Of the reactions that a network or a draft has, the share that both have: ``[network]``, 0 to 1 (Jaccard).

    Args:
        networks: ``[network, reaction]`` bool.
        draft: ``[reaction]`` bool.
    """
    shared = networks[:, draft].sum(axis=1)
    return shared / np.maximum(networks.sum(axis=1) + draft.sum() - shared, 1)


def likeness_to_others(drafts: np.ndarray) -> np.ndarray:
    """:func:`likeness` of each network to each, ``[network, network]``; to itself 0."""
    alike = np.stack([likeness(drafts, draft) for draft in drafts])
    np.fill_diagonal(alike, 0.0)
    return alike


def held_by_relatives(present: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """The share of networks that have each reaction, the likest counting most: ``[..., reaction]``, 0 to below 1.

    Args:
        present: ``[network, reaction]`` bool, who has which.
        alike: ``[..., network]``, their likeness to drafts.
    """
    weight = alike**_SHARPNESS
    return weight @ present / (weight.sum(axis=-1, keepdims=True) + _NOBODY**_SHARPNESS)


def held_by_another(present: np.ndarray, network: np.ndarray, reaction: np.ndarray) -> np.ndarray:
    """Whether of each pair another network has the reaction: bool ``[p]``.

    Args:
        present: ``[network, reaction]`` bool, who has which.
        network: ``[p]``.
        reaction: ``[p]``.
    """
    return present.sum(axis=0)[reaction] > present[network, reaction]
