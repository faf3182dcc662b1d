"""Placing values on the mesh, and counting the bytes that result."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

BATCH = ("data", "fsdp")  # The mesh axes that split the examples of a batch.


def put_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Joins every process's rows ``[local_batch, ...]`` into global arrays split over the batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def gathered(weight: jax.Array) -> jax.Array:
    """``weight`` collected over ``fsdp``, just before it is used; its ``tensor`` split stays.

    The gradient with respect to the result stays a partial sum on each device until :func:`scattered` (or the
    transpose of this function) adds it up where the weight lives: a reduce-scatter over ``fsdp``, then a sum over
    ``data`` of what is left.
    """
    spec = jax.typeof(weight).sharding.spec
    if spec.reduced or not any("fsdp" in _axes(entry) for entry in spec.partitions):
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


def _axes(entry) -> tuple[str, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


def _without_fsdp(entry):
    left = tuple(axis for axis in _axes(entry) if axis not in ("fsdp", None))
    return left[0] if len(left) == 1 else left or None


def abstract_arrays(tree, mesh: jax.sharding.Mesh):
    """Shapes, dtypes and shardings of ``tree`` on ``mesh``: what a checkpoint needs to restore onto it."""

    def on_mesh(leaf):
        spec = leaf.sharding.spec if leaf.sharding is not None else PartitionSpec()
        kind = "pinned_host" if leaf.memory_space == jax.memory.Space.Host else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec, memory_kind=kind))

    return jax.tree.map(on_mesh, tree)


def num_elements(tree) -> int:
    """The number of array elements in ``tree``, which may be abstract."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
