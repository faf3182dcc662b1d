"""Vertical coordinates, and interpolation between them in the logarithm of pressure."""

from typing import Literal

import numpy as np


def sigma_to_pressure(sigma, surface_pressure):
    """Pa, ``[..., lev, lat, lon]`` of ``sigma`` ``[lev]`` (1) and ``surface_pressure`` ``[..., lat, lon]``."""
    return hybrid_to_pressure(np.zeros_like(sigma), sigma, surface_pressure)


def hybrid_to_pressure(a, b, surface_pressure):
    """Pa, ``a + b surface_pressure`` with ``a`` ``[lev]`` in Pa and ``b`` ``[lev]`` (Simmons and Burridge 1981)."""
    a, b = (np.asarray(x)[:, None, None] for x in (a, b))
    return a + b * np.asarray(surface_pressure)[..., None, :, :]


def height_to_pressure(height, temperature, surface_pressure, gravity: float, gas_constant: float):
    """Hydrostatic pressure at levels of constant height, ``[..., lev, lat, lon]`` in Pa.

    Temperature is linear in height between the levels, and below the lowest one constant.

    Args:
        height: m above the surface, ``[lev]`` or ``[..., lev, lat, lon]``, descending from the top to 0 or more.
        temperature: ``[..., lev, lat, lon]`` in K, virtual where the air is moist.
        surface_pressure: ``[..., lat, lon]`` in Pa.
        gravity: m s-2.
        gas_constant: J kg-1 K-1, of dry air.

    Raises:
        ValueError: heights do not descend, or lie below the surface.
    """
    height, temperature = _columns(height), np.asarray(temperature)
    if (np.diff(height, axis=-3) >= 0).any() or (height < 0).any():
        raise ValueError(f"heights from {height.max()} to {height.min()} m should descend along lev to 0 or more")
    upper, lower = temperature[..., :-1, :, :], temperature[..., 1:, :, :]
    # The mean of 1/T is atanh(r) / r over the mean of T, a series because r may be 0.
    r2 = ((upper - lower) / (upper + lower)) ** 2
    mean_inverse = 2 / (upper + lower) * (1 + r2 / 3 + r2**2 / 5)
    depth = -np.diff(height, axis=-3) * mean_inverse
    lowest = height[..., -1:, :, :] / temperature[..., -1:, :, :]
    above_surface = np.cumsum(np.concatenate([depth, lowest], axis=-3)[..., ::-1, :, :], axis=-3)[..., ::-1, :, :]
    return np.asarray(surface_pressure)[..., None, :, :] * np.exp(-gravity / gas_constant * above_surface)


def interpolate_levels(field, source_pressure, target_pressure, *, extrapolate: Literal["nearest"] | None = None):
    """Interpolates ``[..., lev, lat, lon]`` linearly in the logarithm of pressure.

    Args:
        field: float32 or float64.
        source_pressure: Pa or any unit shared with the target, ``[lev]`` or ``[..., lev, lat, lon]``, ascending.
        target_pressure: ``[target lev]`` or ``[..., target lev, lat, lon]``, ascending.
        extrapolate: ``"nearest"`` continues the outermost level; otherwise NaN stands beyond it.

    Returns:
        ``[..., target lev, lat, lon]`` of the field's type.

    Raises:
        ValueError: pressures do not ascend from above 0, or shapes do not fit.
    """
    field = np.asarray(field)
    source, target = _log("source", source_pressure), _log("target", target_pressure)
    num_source = source.shape[-3]
    if num_source != field.shape[-3] or num_source < 2:
        raise ValueError(f"{num_source} source pressures for {field.shape[-3]} levels: should be two or more of both")
    above = np.zeros(np.broadcast_shapes(source[..., :1, :, :].shape, target.shape), np.intp)
    for k in range(1, num_source - 1):
        above += source[..., k : k + 1, :, :] <= target
    upper, lower = _level(source, above), _level(source, above + 1)
    fraction = (target - upper) / (lower - upper)
    # A level that both have in common may differ by the rounding of float32.
    outside = (fraction < -1e-4) | (fraction > 1 + 1e-4)
    fraction = np.clip(fraction, 0, 1).astype(field.dtype)
    result = _level(field, above)
    result = result + fraction * (_level(field, above + 1) - result)
    return result if extrapolate == "nearest" else np.where(outside, np.asarray(np.nan, field.dtype), result)


def _level(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The levels ``index`` of each column of ``x``."""
    if index.size == index.shape[-3]:
        return np.take(x, index.ravel(), axis=-3)
    leading = max(x.ndim, index.ndim)
    x, index = (a.reshape((1,) * (leading - a.ndim) + a.shape) for a in (x, index))
    shape = np.broadcast_shapes(x[..., :1, :, :].shape, index[..., :1, :, :].shape)
    x, index = (np.broadcast_to(a, (*shape[:-3], a.shape[-3], *shape[-2:])) for a in (x, index))
    return np.take_along_axis(x, index, axis=-3)


def _columns(x) -> np.ndarray:
    x = np.asarray(x)
    return x[:, None, None] if x.ndim == 1 else x


def _log(name: str, pressure) -> np.ndarray:
    pressure = _columns(pressure)
    if not (pressure > 0).all() or not (np.diff(pressure, axis=-3) > 0).all():
        raise ValueError(f"{name} pressures from {pressure.min()} to {pressure.max()} should ascend along lev, above 0")
    return np.log(pressure)
