"""Conservation laws, each as a loss and as the projection onto the fields that fulfil it.

Default weights are the inverse square of an error that is worth as much as any other: with them losses have no unit.
All functions are differentiable.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp

from astrojax.physics.grid import Grid, area_mean
from astrojax.physics.thermodynamics import column_water, dry_surface_pressure

# Bisection alone takes 2000 W m-2 to 0.03 W m-2 in so many steps, and Newton's method needs about five.
_SHIFT_STEPS = 16


def energy_imbalance(rst, rlut, grid: Grid):
    """Global mean net heating at the top of the atmosphere in W m-2: ``[...]`` of ``[..., lat, lon]``.

    Args:
        rst: net shortwave flux in W m-2, positive down.
        rlut: outgoing longwave flux in W m-2, positive up.
    """
    return area_mean(rst - rlut, grid)


@dataclasses.dataclass(frozen=True)
class EnergyBalance:
    """The global mean of ``rst - rlut`` is the planet's known imbalance.

    Attributes:
        weight: (W m-2)-2. The default counts 10 W m-2 as 1.
    """

    weight: float = 1e-2
    name: ClassVar[str] = "toa_energy_balance"
    unit: ClassVar[str] = "W m-2"
    source: ClassVar[str] = "Trenberth, Fasullo and Kiehl 2009, Bull. Amer. Meteor. Soc. 90, 311"

    def residual(self, rst, rlut, grid: Grid, target=0.0):
        """``[...]`` in W m-2, of ``[..., lat, lon]``; ``target`` in W m-2 broadcasts against it."""
        return energy_imbalance(rst, rlut, grid) - target

    def loss(self, rst, rlut, grid: Grid, target=0.0):
        """The weighted mean square of the residual, a scalar."""
        return self.weight * jnp.mean(self.residual(rst, rlut, grid, target) ** 2)

    def project(self, rst, rlut, grid: Grid, target=0.0, rsdt=None):
        """The nearest fields that have the imbalance ``target`` (area-weighted least squares).

        They are shifted by one number per map in opposite directions, but ``rst`` stays between 0 and the insolation
        ``rsdt`` (``[..., lat, lon]`` in W m-2, where given), and ``rlut`` at 0 or above. A target above the mean of
        ``rsdt`` is approached as far as these bounds let it.

        Returns:
            ``rst`` and ``rlut``, float32.
        """
        rst, rlut, target = (jnp.asarray(x, jnp.float32) for x in (rst, rlut, target))
        ceiling = jnp.inf if rsdt is None else rsdt
        largest = _largest(rst) + _largest(rlut) + jnp.abs(target) + (0.0 if rsdt is None else _largest(rsdt))

        def shifted(rst, rlut, shift):
            shift = shift[..., None, None]
            return jnp.clip(rst + shift, 0, ceiling), jnp.maximum(rlut - shift, 0)

        def newton(rst, rlut, shift):
            """The step to the target as if the set of cells at a bound stayed the same."""
            new_rst, new_rlut = shifted(rst, rlut, shift)
            free = (new_rst > 0) & (new_rst < ceiling)
            slope = area_mean(free.astype(new_rst.dtype) + (new_rlut > 0), grid)
            excess = energy_imbalance(new_rst, new_rlut, grid) - target
            return excess, -excess / jnp.maximum(jax.lax.stop_gradient(slope), 1e-3)

        fixed_rst, fixed_rlut, largest = jax.lax.stop_gradient((rst, rlut, largest))

        def narrow(_, state):
            low, high, shift = state
            excess, step = newton(fixed_rst, fixed_rlut, shift)
            low, high = jnp.where(excess < 0, shift, low), jnp.where(excess < 0, high, shift)
            inside = (shift + step >= low) & (shift + step <= high)
            return low, high, jnp.where(inside, shift + step, (low + high) / 2)

        zero = jnp.zeros_like(largest)
        _, _, shift = jax.lax.fori_loop(0, _SHIFT_STEPS, narrow, (zero - largest, zero + largest, zero))
        # One more step, now with a gradient: that of the implicit function, without one for the search.
        return shifted(rst, rlut, shift + newton(rst, rlut, shift)[1])


@dataclasses.dataclass(frozen=True)
class DryMass:
    """The global mean of surface pressure without water vapour does not change within the year.

    Attributes:
        weight: Pa-2. The default counts 100 Pa as 1.
    """

    weight: float = 1e-4
    name: ClassVar[str] = "dry_mass"
    unit: ClassVar[str] = "Pa"
    source: ClassVar[str] = "ACE2: Watt-Meyer et al. 2024, arXiv 2411.11268"

    def residual(self, ps, hus, sigma_edges, grid: Grid, target=None):
        """``[..., climate_time, geological_time]`` in Pa.

        Args:
            ps: surface pressure, ``[..., climate_time, geological_time, lat, lon]`` in Pa.
            hus: specific humidity, ``[..., climate_time, geological_time, lev, lat, lon]``.
            sigma_edges: ``[lev + 1]``, pressure over surface pressure at the limits of the layers.
            target: Pa, broadcasts against the result; the mean over climate time unless given.
        """
        mean = area_mean(dry_surface_pressure(ps, hus, sigma_edges), grid)
        return mean - (mean.mean(-2, keepdims=True) if target is None else target)

    def loss(self, ps, hus, sigma_edges, grid: Grid, target=None):
        """The weighted mean square of the residual, a scalar."""
        return self.weight * jnp.mean(self.residual(ps, hus, sigma_edges, grid, target) ** 2)

    def project(self, ps, hus, sigma_edges, grid: Grid, target=None):
        """``ps``, each map scaled to the target; specific humidity stays as it is.

        ACE2 adds one number to the map instead. A factor keeps the contrast between high and low ground hydrostatic.
        """
        mean = area_mean(dry_surface_pressure(ps, hus, sigma_edges), grid)
        target = mean.mean(-2, keepdims=True) if target is None else target
        return ps * (target / mean)[..., None, None]


@dataclasses.dataclass(frozen=True)
class WaterNonNegativity:
    """There is no negative water.

    Attributes:
        weight: (kg kg-1)-2. The default counts 1 g kg-1 as 1.
        conserves: what keeps its mass of water in the projection: every ``"column"``, or the ``"globe"``.

    Raises:
        ValueError: ``conserves`` is neither.
    """

    weight: float = 1e6
    conserves: Literal["column", "globe"] = "column"
    name: ClassVar[str] = "water_non_negativity"
    unit: ClassVar[str] = "kg kg-1"
    source: ClassVar[str] = "ACE2: Watt-Meyer et al. 2024, arXiv 2411.11268"

    def __post_init__(self):
        choices = get_args(type(self).__annotations__["conserves"])
        if self.conserves not in choices:
            raise ValueError(f"conserves={self.conserves!r} should be one of {', '.join(choices)}")

    def residual(self, hus):
        """The negative part of specific humidity, of the same shape, 0 or less."""
        return jnp.minimum(hus, 0)

    def loss(self, hus, grid: Grid):
        """The weighted mean square of the residual over levels and area, a scalar."""
        return self.weight * jnp.mean(area_mean(self.residual(hus) ** 2, grid))

    def project(self, hus, layer_mass, grid: Grid):
        """``hus`` without negative values, rescaled to the mass it had where that is positive, and 0 where it is not.

        Args:
            hus: ``[..., lev, lat, lon]``.
            layer_mass: kg m-2, alike.
        """
        clipped = jnp.maximum(hus, 0)
        before, after = column_water(hus, layer_mass), column_water(clipped, layer_mass)
        if self.conserves == "globe":
            before, after = (area_mean(water, grid)[..., None, None] for water in (before, after))
        # A dry column: no division by zero, also not in the gradient.
        factor = jnp.maximum(before, 0) / jnp.where(after > 0, after, 1)
        return clipped * factor[..., None, :, :]


def _largest(field):
    return jnp.max(jnp.abs(field), axis=(-2, -1))
