"""Ensembles: networks trained side by side from different initial weights, whose answers are averaged.

Networks that begin elsewhere err elsewhere (Lakshminarayanan et al. 2017). All see the same batches. An ensemble's
parameters are those of its members on a leading axis; one network alone has no such axis.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from astrojax.train.task import Params


def init_members(init: Callable[[jax.Array], Params], key: jax.Array, members: int) -> Params:
    """Initial weights, ``init(key)`` of one network and of each of several."""
    return init(key) if members == 1 else jax.vmap(init)(jax.random.split(key, members))


def first_member(params: Params, members: int) -> Params:
    """The parameters of one of ``members`` networks."""
    return params if members == 1 else jax.tree.map(lambda p: p[0], params)


def of_members(function: Callable[[Params], Any], params: Params, members: int) -> Any:
    """``function`` of each member's parameters, stacked on a leading axis, which one network alone has here too."""
    if members == 1:
        return jax.tree.map(lambda x: x[None], function(params))
    return jax.lax.map(function, params)


def loss_of_members(
    loss: Callable[[Params], tuple[jax.Array, jax.Array]], params: Params, members: int
) -> tuple[jax.Array, jax.Array]:
    """A loss and its weight, summed over members.

    Each member's gradient is computed with its loss: what the backward pass needs of one is in memory at a time, and
    need not be kept on a stack until all the losses are known.
    """
    if members == 1:
        return loss(params)

    @jax.custom_vjp
    def summed(params):
        return jax.tree.map(jnp.sum, jax.lax.map(loss, params))

    def forward(params):
        totals, gradients = jax.lax.map(jax.value_and_grad(loss, has_aux=True), params)
        return jax.tree.map(jnp.sum, totals), gradients

    def backward(gradients, cotangents):
        return (jax.tree.map(lambda g: g * cotangents[0].astype(g.dtype), gradients),)

    summed.defvjp(forward, backward)
    return summed(params)
