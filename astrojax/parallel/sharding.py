"""Placing values on the mesh, and counting the bytes that result."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

BATCH = ("data", "fsdp")  # The mesh axes that split the examples of a batch.


def put_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Joins every process's rows ``[local_batch, ...]`` into global arrays split over the batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def abstract_arrays(tree, mesh: jax.sharding.Mesh):
    """Shapes, dtypes and shardings of ``tree`` on ``mesh``: what a checkpoint needs to restore onto it."""

    def on_mesh(leaf):
        spec = leaf.sharding.spec if leaf.sharding is not None else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(on_mesh, tree)


def num_elements(tree) -> int:
    """The number of array elements in ``tree``, which may be abstract."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
