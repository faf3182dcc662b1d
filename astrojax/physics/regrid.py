"""Horizontal regridding with one small matrix per axis, written for throughput on the host."""

import concurrent.futures
import dataclasses
import math
import os
from typing import Literal, get_args

import numpy as np

from astrojax.physics.grid import Grid

Method = Literal["bilinear", "conservative"]

# Fields are worked on in slabs whose source, intermediate and result stay in a core's caches.
_SLAB_BYTES = 4 << 20
# The matrices are banded: a block of so many target columns, or rows, is multiplied with the source it needs alone.
# Products this small also stay below the size from which OpenBLAS starts threads of its own.
_BLOCK_COLUMNS, _BLOCK_ROWS = 32, 16
_MAX_THREADS = 8


@dataclasses.dataclass(frozen=True)
class _Product:
    """``result[target] = weights_ts @ field[source]``, or ``+=``, along one axis."""

    target: slice
    source: slice
    weights_ts: np.ndarray
    weights_st: np.ndarray
    adds: bool


class Regridder:
    """Brings fields from one grid to another.

    ``"bilinear"`` is periodic in longitude; its value at a pole is the zonal mean of the last row. It reproduces what
    is constant, and between the source rows what is linear in latitude. ``"conservative"`` is the mean over the
    overlaps of target and source cells (Jones 1999, Mon. Wea. Rev. 127, first order), which keeps area means.

    Attributes:
        lon_weights_ts: ``[target lon, source lon]``, rows sum to 1.
        lat_weights_ts: ``[target lat, source lat]``, rows sum to 1; for ``"bilinear"`` the source has a row more at
            either end, the poles.
    """

    def __init__(self, source: Grid, target: Grid, method: Method = "bilinear", *, num_threads: int | None = None):
        """Args:
        num_threads: how many slabs are worked on at once; one per core unless given, but no more than
            memory can feed.

        Raises:
            ValueError: ``method`` is not one of the two.
        """
        if method not in get_args(Method):
            raise ValueError(f"{method=} should be one of {', '.join(get_args(Method))}")
        self.source, self.target, self.method = source, target, method
        self._num_threads = num_threads or min(os.cpu_count() or 1, _MAX_THREADS)
        self._num_poles = 1 if method == "bilinear" else 0
        if method == "bilinear":
            self.lon_weights_ts = _periodic_linear(source.lon, target.lon)
            self.lat_weights_ts = _pole_to_pole_linear(source.lat, target.lat)
        else:
            self.lon_weights_ts = _overlap_around(source.lon_edges, target.lon_edges)
            self.lat_weights_ts = _overlap(*(np.sin(np.deg2rad(grid.lat_edges)) for grid in (source, target)))
        for weights_ts in (self.lon_weights_ts, self.lat_weights_ts):
            weights_ts /= weights_ts.sum(axis=1, keepdims=True)

    def __call__(self, field: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Regrids ``[..., lat, lon]``.

        A result that a missing value (one that is not finite) contributes to is NaN.

        Args:
            field: float32 stays float32; any other type becomes the one that float32 is promoted to with it.
            out: where to write, ``[..., target lat, target lon]`` of the result's type; its last axis is contiguous.

        Returns:
            ``out``, or a new array.

        Raises:
            ValueError: a shape or type does not fit.
        """
        source_shape, target_shape = ((len(grid.lat), len(grid.lon)) for grid in (self.source, self.target))
        if field.shape[-2:] != source_shape:
            raise ValueError(f"a field of shape {field.shape} should end in {source_shape}, the source's lat and lon")
        dtype, shape = np.result_type(field.dtype, np.float32), field.shape[:-2] + target_shape
        if out is None:
            out = np.empty(shape, dtype)
        elif out.shape != shape or out.dtype != dtype:
            raise ValueError(f"out is {out.dtype}{out.shape}, the result is {dtype}{shape}")
        fields, results = _merge_leading(field, out)
        num_rows = source_shape[0] + 2 * self._num_poles
        slab_elements = math.prod(source_shape) + num_rows * target_shape[1] + math.prod(target_shape)
        slab = max(1, _SLAB_BYTES // (slab_elements * dtype.itemsize))
        starts = range(0, fields.shape[-3], slab)
        places = [(*i, slice(start, start + slab)) for i in np.ndindex(fields.shape[:-3]) for start in starts]
        lon_products = _products(self.lon_weights_ts.astype(dtype), _BLOCK_COLUMNS)
        lat_products = _products(self.lat_weights_ts.astype(dtype), _BLOCK_ROWS)
        shared = iter(places)  # Whoever is free takes the next: another process may hold a core back.

        def work():
            rows = np.empty((min(slab, fields.shape[-3]), num_rows, target_shape[1]), dtype)
            for place in shared:
                x = np.ascontiguousarray(fields[place], dtype)
                self._regrid(x, rows[: len(x)], results[place], lon_products, lat_products)

        num_threads = min(self._num_threads, len(places))
        if num_threads <= 1:
            work()
        else:
            with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
                for future in [pool.submit(work) for _ in range(num_threads)]:
                    future.result()
        return out

    def _regrid(self, x, rows, result, lon_products: list[_Product], lat_products: list[_Product]) -> None:
        """One slab, ``[field, lat, lon]``; ``rows`` is scratch, ``[field, lat and poles, target lon]``."""
        if self._interpolate(x, rows, result, lon_products, lat_products):
            return
        missing = ~np.isfinite(x)
        self._interpolate(np.where(missing, 0, x), rows, result, lon_products, lat_products)
        touched = np.empty(result.shape, x.dtype)
        self._interpolate(missing.astype(x.dtype), rows, touched, lon_products, lat_products)
        result[touched > 0] = np.nan

    def _interpolate(self, x, rows, result, lon_products: list[_Product], lat_products: list[_Product]) -> bool:
        """Whether ``x`` was finite: otherwise weights of zero have spread what is not over whole blocks."""
        inner = rows[:, self._num_poles : rows.shape[1] - self._num_poles]
        with np.errstate(invalid="ignore"):  # Zero times infinity.
            for product in lon_products:
                block, columns = x[..., product.source], inner[..., product.target]
                if product.adds:
                    columns += block @ product.weights_st
                else:
                    np.matmul(block, product.weights_st, out=columns)
            if self._num_poles:
                rows[:, 0], rows[:, -1] = (x[:, i].mean(axis=-1, keepdims=True) for i in (0, -1))
            for product in lat_products:
                np.matmul(product.weights_ts, rows[:, product.source], out=result[:, product.target])
        one_of_each_block = np.ix_(*([p.target.start for p in products] for products in (lat_products, lon_products)))
        return bool(np.isfinite(result[:, *one_of_each_block]).all())


def _merge_leading(field: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views with as many leading axes merged as the memory of both allows: ``[..., field, lat, lon]``."""
    if field.ndim == 2:
        return field[None], out[None]
    leading = field.shape[:-2]
    for kept in range(len(leading) - 1):
        merged = (*leading[:kept], math.prod(leading[kept:]))
        try:
            return tuple(a.reshape(merged + a.shape[-2:], copy=False) for a in (field, out))
        except ValueError:  # The memory of one of the two has gaps here.
            continue
    return field, out


def _products(weights_ts: np.ndarray, block: int) -> list[_Product]:
    """The banded matrix as products of dense blocks; a band that passes the end of the circle takes two."""
    products, num_source = [], weights_ts.shape[1]
    for start in range(0, len(weights_ts), block):
        target = slice(start, min(start + block, len(weights_ts)))
        used = np.flatnonzero(weights_ts[target].any(axis=0))
        gaps = np.diff(used)
        wraps = gaps.size > 0 and gaps.max() > used[0] + num_source - used[-1]
        runs = np.split(used, [gaps.argmax() + 1]) if wraps else [used]
        for adds, run in enumerate(sorted(runs, key=len, reverse=True)):
            source, to = slice(run[0], run[-1] + 1), target
            if adds:
                touched = start + np.flatnonzero(weights_ts[target, source].any(axis=1))
                to = slice(touched[0], touched[-1] + 1)
            block_ts = weights_ts[to, source]
            products.append(_Product(to, source, block_ts.copy(), block_ts.T.copy(), bool(adds)))
    return products


def _periodic_linear(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    n = len(source)
    # Rounded, so that a shared meridian gets one weight of 1 rather than a second one of 1e-16.
    place = np.round((target - source[0]) * n / 360, 9) % n
    left, rows = np.floor(place).astype(int), np.arange(len(target))
    weights_ts = np.zeros((len(target), n))
    weights_ts[rows, left % n] = 1 - (place - left)
    weights_ts[rows, (left + 1) % n] += place - left
    return weights_ts


def _pole_to_pole_linear(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    # A last row at the pole is used as it is: the mean lies beyond it.
    padded = np.concatenate([[min(-90, source[0] - 1e-6)], source, [max(90, source[-1] + 1e-6)]])
    return np.stack([np.interp(target, padded, basis) for basis in np.eye(len(padded))], axis=1)


def _overlap(source_edges: np.ndarray, target_edges: np.ndarray) -> np.ndarray:
    """The fraction of each target interval that lies in each source interval."""
    upper = np.minimum(target_edges[1:, None], source_edges[1:])
    lower = np.maximum(target_edges[:-1, None], source_edges[:-1])
    fraction_ts = (upper - lower) / np.diff(target_edges)[:, None]
    return np.where(fraction_ts > 1e-13, fraction_ts, 0)  # Shared edges differ by rounding.


def _overlap_around(source_edges: np.ndarray, target_edges: np.ndarray) -> np.ndarray:
    nearest = source_edges + 360 * np.round((target_edges[0] - source_edges[0]) / 360)
    return sum(_overlap(nearest + turn, target_edges) for turn in (-360, 0, 360))
