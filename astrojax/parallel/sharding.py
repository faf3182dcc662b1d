"""Placing values on the mesh, and counting the bytes that result."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

BATCH = ("data", "fsdp")  # The mesh axes that split the examples of a batch.


def put_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Joins every process's rows ``[local_batch, ...]`` into global arrays that are split over the batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return jax.tree.map(lambda value: jax.make_array_from_process_local_data(sharding, value), batch)


def filling(size: int, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> int:
    """``size`` rounded up so that a batch of so many rows fills the devices that split it."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH)
    return -(-size // shards) * shards


def own_rows(size: int) -> slice:
    """This process's rows of a batch of ``size``."""
    share = size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def abstract_batch(
    fields: dict[str, tuple[tuple[int, ...], np.dtype]], batch_size: int, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """What :func:`put_batch` would return for ``batch_size`` examples with ``fields`` of these shapes and dtypes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in fields.items()
    }


def gathered(weight: jax.Array) -> jax.Array:
    """``weight`` collected over ``fsdp``, just before it is used; its ``tensor`` split stays.

    The gradient with respect to the result stays a partial sum on each device until :func:`scattered` (or the
    transpose of this function) adds it up where the weight lives: a reduce-scatter over ``fsdp``, then a sum over
    ``data`` of what is left.
    """
    spec = jax.typeof(weight).sharding.spec
    if spec.reduced or not any("fsdp" in axes_of(entry) for entry in spec.partitions):
        return weight
    whole = PartitionSpec(*(_without_fsdp(entry) for entry in spec.partitions), reduced=set(BATCH))
    # In two steps, so that the transpose scatters before it sums: XLA makes one all-reduce of both at once.
    return jax.sharding.reshard(jax.sharding.reshard(weight, PartitionSpec(*spec.partitions, reduced={"data"})), whole)


def scattered(gradient: jax.Array, weight: jax.Array) -> jax.Array:
    """The gradient of a :func:`gathered` weight, reduce-scattered to the weight's own sharding; the sum over ``data``
    is left to :func:`summed`."""
    spec = jax.typeof(weight).sharding.spec
    if not jax.typeof(gradient).sharding.spec.unreduced:
        return gradient
    return jax.sharding.reshard(gradient, PartitionSpec(*spec.partitions, unreduced={"data"}))


def summed(gradient: jax.Array) -> jax.Array:
    """``gradient`` added up over ``data``, if it was not yet."""
    spec = jax.typeof(gradient).sharding.spec
    return jax.sharding.reshard(gradient, PartitionSpec(*spec.partitions)) if spec.unreduced else gradient


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes that one entry of a ``PartitionSpec`` splits a dimension over."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def _without_fsdp(entry):
    left = tuple(axis for axis in axes_of(entry) if axis != "fsdp")
    return left[0] if len(left) == 1 else left or None


def abstract_results(function: Callable[[], Any], mesh: jax.sharding.Mesh):
    """Shapes, dtypes, shardings and memory of what ``function`` makes on ``mesh``, which need not be attached: what a
    compiler or a checkpoint needs to know of it."""
    traced = jax.jit(function).trace()

    def on_mesh(aval):
        sharding = NamedSharding(mesh, aval.sharding.spec)
        if aval.memory_space == jax.memory.Space.Host:
            sharding = NamedSharding(mesh, aval.sharding.spec, memory_kind="pinned_host")
            if sharding.memory_kind is None:  # Devices to compile for know of no memory but their own.
                sharding = NamedSharding(mesh.abstract_mesh, aval.sharding.spec, memory_kind="pinned_host")
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)

    return jax.tree.unflatten(jax.tree.structure(traced.out_info), map(on_mesh, traced.jaxpr.out_avals))


def num_elements(tree) -> int:
    """The number of array elements in ``tree``, which may be abstract."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
