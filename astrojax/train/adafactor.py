"""Adafactor's second moments, factored over the two largest axes of each tensor (Shazeer and Stern 2018)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class FactoredRmsState(NamedTuple):
    """Moving averages of squared gradients, float32, each sharded like the axes of its tensor that are left.

    Attributes:
        count: updates made.
        rows: mean over the largest axis, for factored tensors; a scalar for the others.
        columns: mean over the second-largest axis, for factored tensors; a scalar for the others.
        full: the whole average, for tensors that are not factored; a scalar for the others.
    """

    count: jax.Array
    rows: Any
    columns: Any
    full: Any


def scale_by_factored_rms(
    decay_rate: float = 0.8, min_dim_size_to_factor: int = 128, epsilon: float = 1e-30
) -> optax.GradientTransformation:
    """Divides each gradient by the root of its estimated second moment.

    The estimate of a matrix is the outer product of its row and column means over the mean of all (section 3); its
    decay at step ``t`` is ``1 - t^-decay_rate`` (section 7.2), which needs no bias correction. The figures are those
    of optax's transformation of the same name; unlike it, the statistics are made on the mesh, where they belong.

    Args:
        decay_rate: the exponent of the decay.
        min_dim_size_to_factor: tensors whose second-largest axis is smaller keep a full average.
        epsilon: added to every squared gradient.
    """

    def init(params):
        def averages(tensor):
            axes = factored_axes(tensor.shape, min_dim_size_to_factor)
            zeros, none = jnp.zeros_like(tensor, jnp.float32), jnp.zeros((), jnp.float32)
            if axes is None:
                return none, none, zeros
            small, large = axes
            return jnp.mean(zeros, large), jnp.mean(zeros, small), none

        return FactoredRmsState(jnp.zeros((), jnp.int32), *_unzip(jax.tree.map(averages, params)))

    def update(updates, state, params=None):
        del params
        decay = 1 - (state.count + 1.0) ** -decay_rate

        def divide(grad, rows, columns, full):
            def average(old, new):
                return decay * old + (1 - decay) * new

            squares = jnp.square(grad.astype(jnp.float32)) + epsilon
            axes = factored_axes(grad.shape, min_dim_size_to_factor)
            if axes is None:
                full = average(full, squares)
                return grad * jax.lax.rsqrt(full), rows, columns, full
            small, large = axes
            rows, columns = average(rows, jnp.mean(squares, large)), average(columns, jnp.mean(squares, small))
            # With the largest axis gone, the second-largest has moved up by one if it came after it.
            relative = rows / jnp.mean(rows, small - (small > large), keepdims=True)
            by_row, by_column = jax.lax.rsqrt(relative), jax.lax.rsqrt(columns)
            divided = grad * jnp.expand_dims(by_row, large) * jnp.expand_dims(by_column, small)
            return divided, rows, columns, full

        divided, *averages = _unzip(jax.tree.map(divide, updates, state.rows, state.columns, state.full), 4)
        return divided, FactoredRmsState(state.count + 1, *averages)

    return optax.GradientTransformation(init, update)


def factored_axes(shape: tuple[int, ...], min_dim_size: int) -> tuple[int, int] | None:
    """The second-largest and the largest axis, or None for a tensor that is not worth factoring."""
    if len(shape) < 2:
        return None
    small, large = (int(axis) for axis in np.argsort(shape, stable=True)[-2:])
    return (small, large) if shape[small] >= min_dim_size else None


def _unzip(tree, parts: int = 3):
    """A tree of tuples as a tuple of trees."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
    return tuple(treedef.unflatten([leaf[i] for leaf in leaves]) for i in range(parts))
