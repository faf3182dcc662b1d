"""Arrays stacked over layers, or over layers and micro-batches: reading and writing one of them at a time."""

import jax


def read(tree, *index):
    """``tree[index]``, leaf by leaf."""

    def one(stack):
        start = (*index, *[0] * (stack.ndim - len(index)))
        size = (*[1] * len(index), *stack.shape[len(index) :])
        spec = jax.typeof(stack).sharding.spec.partitions
        return jax.lax.reshape(
            jax.lax.dynamic_slice(stack, start, size), size[len(index) :], out_sharding=jax.P(*spec[len(index) :])
        )

    return jax.tree.map(one, tree)


def write(tree, values, *index):
    """``tree`` with ``values`` at ``index``. Inside a loop that carries ``tree`` the compiler does so in place."""

    def one(stack, value):
        spec = jax.typeof(stack).sharding.spec
        value = jax.lax.reshape(value, (*[1] * len(index), *value.shape), out_sharding=spec)
        return jax.lax.dynamic_update_slice(stack, value, (*index, *[0] * (stack.ndim - len(index))))

    return jax.tree.map(one, tree, values)


def num_layers(stack) -> int:
    """How many layers are stacked in each leaf of ``stack``."""
    return jax.tree.leaves(stack)[0].shape[0]


def stacked_zeros(tree, count: int):
    """Zeros for ``count`` of each leaf, split as it is."""

    def one(leaf):
        spec = jax.typeof(leaf).sharding.spec.partitions
        return jax.numpy.zeros((count, *leaf.shape), leaf.dtype, out_sharding=jax.P(None, *spec))

    return jax.tree.map(one, tree)
