"""How much of a latent space a model uses."""

import numpy as np

_ACTIVE = 0.01


def active_dimensions(means: np.ndarray) -> int:
    """How many dimensions of the mean latents ``[sample, dimension]`` vary, by more than 0.01 (Burda, Grosse and
    Salakhutdinov 2016, arXiv 1509.00519)."""
    return int(np.sum(np.var(means, axis=0) > _ACTIVE))
