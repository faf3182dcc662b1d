"""Constraints: losses are zero where they hold, projections reach them by the shortest way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from astrojax.physics.constraints import DryMass, EnergyBalance, WaterNonNegativity, energy_imbalance
from astrojax.physics.grid import area_mean, gaussian, layer_mass
from astrojax.physics.thermodynamics import column_water, dry_surface_pressure

GRID = gaussian(8, 12)
SIGMA_EDGES = np.array([0.0, 0.2, 0.5, 1.0])
ENERGY, MASS = EnergyBalance(), DryMass()
project_energy = jax.jit(ENERGY.project, static_argnums=2)


def fluxes(*leading, seed=0):
    """Half of the planet is dark."""
    rng = np.random.default_rng(seed)
    rsdt = np.broadcast_to(np.where(np.arange(12) < 6, 600.0, 0.0), (*leading, 8, 12))
    return tuple(
        jnp.asarray(x) for x in (rsdt * rng.uniform(0.2, 1, rsdt.shape), rng.uniform(1, 300, rsdt.shape), rsdt)
    )


def air(*leading, seed=0):
    rng = np.random.default_rng(seed)
    ps, hus = rng.uniform(9e4, 1.1e5, (*leading, 8, 12)), rng.uniform(0, 0.02, (*leading, 3, 8, 12))
    return jnp.asarray(ps), jnp.asarray(hus)


def finite(tree):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def test_energy_loss_is_the_squared_imbalance():
    rst, rlut, _ = fluxes(3)
    residual = energy_imbalance(rst, rlut, GRID)
    np.testing.assert_allclose(residual, area_mean(rst, GRID) - area_mean(rlut, GRID), rtol=1e-4)
    np.testing.assert_allclose(ENERGY.loss(rst, rlut, GRID, 2.0), 0.01 * np.mean((residual - 2) ** 2), rtol=1e-5)
    np.testing.assert_allclose(ENERGY.loss(rst, rlut, GRID, residual), 0, atol=1e-8)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("target", [1.5, -80.0, 200.0])
def test_energy_projection_reaches_the_target_within_bounds_and_stays(bounded, target):
    rst, rlut, rsdt = fluxes(2, 3)
    target = target + jnp.arange(3.0)  # One for each epoch.
    bounds = rsdt if bounded else None
    rst, rlut = project_energy(rst, rlut, GRID, target, bounds)
    np.testing.assert_allclose(energy_imbalance(rst, rlut, GRID), jnp.broadcast_to(target, (2, 3)), atol=2e-3)
    assert float(jnp.minimum(rst, rlut).min()) >= 0
    assert float((rst - rsdt).max()) <= 0 or not bounded
    again = project_energy(rst, rlut, GRID, target, bounds)
    np.testing.assert_allclose(jnp.stack(again), jnp.stack([rst, rlut]), atol=2e-3)


def test_energy_projection_without_bounds_in_reach_splits_the_imbalance():
    rst, rlut = jnp.full((8, 12), 300.0), jnp.full((8, 12), 240.0)
    new_rst, new_rlut = project_energy(rst, rlut, GRID)
    np.testing.assert_allclose([new_rst, new_rlut], np.full((2, 8, 12), 270), rtol=1e-5)


def test_energy_projection_is_the_nearest_point():
    """Against a general solver on a grid of four cells."""
    grid = gaussian(2, 2)
    rst, rlut, rsdt = np.array([[90.0, 10], [5, 0]]), np.array([[20.0, 3], [15, 12]]), np.array([[100.0, 100], [30, 0]])
    weights = np.tile(grid.areas.ravel() / grid.areas.sum(), 2)
    signs = weights * np.repeat([1, -1], 4)
    start = np.concatenate([rst.ravel(), rlut.ravel()])
    for target in (-20.0, 45.0):
        nearest = scipy.optimize.minimize(
            lambda x: weights @ (x - start) ** 2,
            start,
            jac=lambda x: 2 * weights * (x - start),
            bounds=[(0, ceiling) for ceiling in rsdt.ravel()] + [(0, None)] * 4,
            constraints={"type": "eq", "fun": lambda x, target=target: signs @ x - target, "jac": lambda x: signs},
            options={"ftol": 1e-12},
        ).x
        projected = project_energy(jnp.asarray(rst), jnp.asarray(rlut), grid, target, jnp.asarray(rsdt))
        np.testing.assert_allclose(jnp.stack(projected).ravel(), nearest, atol=1e-2)


def test_energy_projection_goes_as_far_as_it_can():
    rst, rlut, rsdt = fluxes()
    new_rst, new_rlut = project_energy(rst, rlut, GRID, 1e4, rsdt)
    np.testing.assert_allclose(new_rst, rsdt, rtol=1e-6)
    np.testing.assert_allclose(new_rlut, 0)
    assert finite(jax.grad(lambda x: project_energy(x, rlut, GRID, 1e4, rsdt)[0].sum())(rst))


def test_energy_projection_has_the_gradient_of_a_projection():
    """What the projection takes away has no gradient: a shift of everything changes nothing."""
    rst, rlut, rsdt = fluxes(seed=3)

    @jax.jit
    def loss(rst, rlut):
        return sum(jnp.sum(jnp.sin(x / 50)) for x in ENERGY.project(rst, rlut, GRID, 5.0, rsdt))

    value, pull = jax.jvp(loss, (rst, rlut), (jnp.ones_like(rst), -jnp.ones_like(rlut)))
    assert abs(float(pull)) < 1e-4 * abs(float(value))
    direction = jnp.asarray(np.random.default_rng(1).normal(size=rst.shape), jnp.float32) * (rsdt > 0)
    _, along = jax.jvp(lambda x: loss(x, rlut), (rst,), (direction,))
    difference = (loss(rst + 0.05 * direction, rlut) - loss(rst - 0.05 * direction, rlut)) / 0.1
    np.testing.assert_allclose(along, difference, rtol=2e-2, atol=1e-3)
    assert finite(jax.jit(jax.grad(loss, (0, 1)))(rst, rlut))


@pytest.mark.parametrize("target", [None, 9.7e4])
def test_dry_mass_is_restored(target):
    ps, hus = air(2, 5, 4)
    mean = area_mean(dry_surface_pressure(ps, hus, SIGMA_EDGES), GRID)
    wanted = mean.mean(1, keepdims=True) if target is None else jnp.full_like(mean, target)
    residual = MASS.residual(ps, hus, SIGMA_EDGES, GRID, target)
    assert residual.shape == (2, 5, 4)
    np.testing.assert_allclose(residual, mean - wanted, atol=0.1)
    np.testing.assert_allclose(MASS.loss(ps, hus, SIGMA_EDGES, GRID, target), 1e-4 * np.mean(residual**2), rtol=1e-4)

    project = jax.jit(lambda ps, hus: MASS.project(ps, hus, SIGMA_EDGES, GRID, target))
    fixed = project(ps, hus)
    after = area_mean(dry_surface_pressure(fixed, hus, SIGMA_EDGES), GRID)
    np.testing.assert_allclose(after, jnp.broadcast_to(wanted, mean.shape), rtol=1e-6)
    np.testing.assert_allclose(project(fixed, hus), fixed, rtol=1e-6)
    ratio = fixed / ps
    np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[..., :1, :1], ratio.shape), rtol=1e-6)
    assert finite(jax.jit(jax.grad(lambda *x: project(*x).std(), (0, 1)))(ps, hus))


@pytest.mark.parametrize("conserves", ["column", "globe"])
def test_water_is_made_non_negative_without_a_change_of_mass(conserves):
    constraint = WaterNonNegativity(conserves=conserves)
    ps, hus = air(2)
    mass = layer_mass(ps, SIGMA_EDGES, 9.8)
    hus = (hus - 0.006).at[:, :, 0, 0].set(-1e-3).at[:, :, 1, 1].set(0)  # A column of debt, and one of nothing.
    project = jax.jit(lambda hus: constraint.project(hus, mass, GRID))
    fixed = project(hus)
    assert float(fixed.min()) == 0
    before, after = column_water(hus, mass), column_water(fixed, mass)
    if conserves == "column":
        np.testing.assert_allclose(after, jnp.maximum(before, 0), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(area_mean(after, GRID), area_mean(before, GRID), rtol=1e-5)
    np.testing.assert_allclose(project(fixed), fixed, rtol=1e-5)
    assert finite(jax.jit(jax.grad(lambda x: project(x).std()))(hus))


def test_water_loss_counts_what_is_negative():
    hus = jnp.zeros((2, 3, 8, 12)).at[0, 1].set(-2e-3).at[1].set(0.01)
    np.testing.assert_allclose(WaterNonNegativity().loss(hus, GRID), 4 / 6, rtol=1e-5)
    np.testing.assert_allclose(WaterNonNegativity(weight=0.5e6).loss(hus, GRID), 2 / 6, rtol=1e-5)
    assert float(WaterNonNegativity().loss(jnp.abs(hus), GRID)) == 0
    assert finite(jax.grad(WaterNonNegativity().loss)(hus, GRID))


def test_unknown_conservation_is_refused():
    with pytest.raises(ValueError, match="conserves='layer' should be one of column, globe"):
        WaterNonNegativity(conserves="layer")
