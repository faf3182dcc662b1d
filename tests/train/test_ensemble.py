"""An ensemble is its members, side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astrojax.train.ensemble import first_member, init_members, loss_of_members, of_members

X = jnp.linspace(-1.0, 1.0, 5)


def init(key):
    return {"slope": jax.random.normal(key, ()), "offset": jax.random.normal(key, (2,))}


def loss(params):
    """And its weight."""
    return jnp.sum(jnp.sin(params["slope"] * X) + jnp.sum(params["offset"] ** 2)), jnp.float32(len(X))


def test_one_network_has_no_axis_of_members():
    key = jax.random.key(0)
    params = init_members(init, key, 1)
    jax.tree.map(np.testing.assert_array_equal, params, init(key))
    assert first_member(params, 1) is params
    assert of_members(lambda p: p["offset"], params, 1).shape == (1, 2)
    assert loss_of_members(loss, params, 1) == loss(params)


@pytest.mark.parametrize("members", [2, 3])
def test_members_are_trained_as_if_alone(members):
    params = init_members(init, jax.random.key(0), members)
    alone = [jax.tree.map(lambda p, i=i: p[i], params) for i in range(members)]
    assert len({float(one["slope"]) for one in alone}) == members
    jax.tree.map(np.testing.assert_array_equal, first_member(params, members), alone[0])
    np.testing.assert_array_equal(of_members(lambda p: loss(p)[0], params, members), [loss(one)[0] for one in alone])

    # Three times the loss has three times the gradient.
    def tripled(params):
        total, weight = loss_of_members(loss, params, members)
        return 3 * total, weight

    (total, weight), gradient = jax.jit(jax.value_and_grad(tripled, has_aux=True))(params)
    assert float(total) == pytest.approx(3 * sum(float(loss(one)[0]) for one in alone), rel=1e-6)
    assert float(weight) == members * len(X)
    for i, one in enumerate(alone):
        own = jax.grad(lambda p: 3 * loss(p)[0])(one)
        jax.tree.map(lambda g, o, i=i: np.testing.assert_allclose(g[i], o, rtol=1e-5), gradient, own)
