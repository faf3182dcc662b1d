"""The device mesh ``data x fsdp x tensor`` and the processes that share it.

Axes: ``data`` replicates the parameters and splits the batch, ``fsdp`` splits parameters and batch, ``tensor`` splits
heads and feed-forward columns. All three are explicit (``jax.sharding.AxisType.Explicit``), so a lost sharding is an
error while tracing, not a slow program. One device is a mesh of ones, not another code path.
"""

import os
from typing import Annotated, Literal

import jax
import msgspec
from jax.sharding import AbstractMesh, AxisType, Mesh

from astrojax.config import Config
from astrojax.errors import RequestError

AXES = ("data", "fsdp", "tensor")

# Enough to trace a model where its shapes matter and its devices do not.
UNIT_MESH = AbstractMesh((1, 1, 1), AXES, axis_types=(AxisType.Explicit,) * len(AXES))

Axis = Annotated[int, msgspec.Meta(ge=-1)]


class MeshConfig(Config):
    """Devices along each axis; at most one axis may be -1, which takes all devices the others leave."""

    data: Axis = 1
    fsdp: Axis = -1
    tensor: Axis = 1


def initialize_distributed() -> None:
    """Joins the other processes of this run, if there are any. Call before anything touches a device.

    The processes find each other through the variables JAX documents (``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES``, ``JAX_PROCESS_ID``), or through ``srun`` or a TPU pod's variables.
    """
    srun = "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if "JAX_COORDINATOR_ADDRESS" not in os.environ and not srun and not pod:
        return
    numbers = {}
    for argument, variable in (("num_processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID")):
        if variable in os.environ:
            try:
                numbers[argument] = int(os.environ[variable])
            except ValueError as error:
                raise RequestError(f"{variable} must be a whole number, got {os.environ[variable]!r}") from error
    try:
        jax.distributed.initialize(**numbers)
    except (ValueError, RuntimeError) as error:
        raise RequestError(f"the processes of this run cannot meet: {' '.join(str(error).split())}") from error


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Arranges ``devices`` (default: all of the run's devices) as ``config`` asks.

    Raises:
        RequestError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = {axis: getattr(config, axis) for axis in AXES}
    free = [axis for axis, size in shape.items() if size == -1]
    fixed = 1
    for axis, size in shape.items():
        if size == 0:
            raise RequestError(f"mesh.{axis}=0: an axis has at least one device (or -1 for all that are left)")
        fixed *= size if size > 0 else 1
    asked = " x ".join(f"mesh.{axis}={size}" for axis, size in shape.items())
    if len(free) > 1:
        raise RequestError(f"{asked}: only one axis may be -1")
    if free and len(devices) % fixed == 0:
        shape[free[0]] = len(devices) // fixed
    elif free or fixed != len(devices):
        raise RequestError(f"{asked} does not fit the {len(devices)} {devices[0].platform} device(s) of this machine")
    return jax.make_mesh(tuple(shape.values()), AXES, axis_types=(AxisType.Explicit,) * len(AXES), devices=devices)


def backend() -> Literal["cpu", "gpu", "tpu"]:
    """What the current mesh consists of, whose devices need not be attached; without a mesh, JAX's default devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = device.platform if device else jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
