"""The platform a program is traced for, which decides what implementation of an op it holds."""

from typing import Literal

import jax

Backend = Literal["cpu", "gpu", "tpu"]

_PLATFORMS = {"cpu": "cpu", "tpu": "tpu", "gpu": "gpu", "cuda": "gpu", "rocm": "gpu"}


def backend() -> Backend:
    """The platform of the current mesh, whose devices need not be attached; without a mesh that of JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return _PLATFORMS[device.platform if device else jax.default_backend()]
