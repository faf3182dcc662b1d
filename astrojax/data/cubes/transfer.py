"""From a file's grid and levels to those of a cube."""

import numpy as np

from astrojax.data.cubes.levels import Levels
from astrojax.data.cubes.parameters import PARAMETER_NAMES, planet_parameters
from astrojax.data.cubes.source import Slab, SourceFile
from astrojax.data.cubes.variables import VARIABLES, Variable
from astrojax.errors import RequestError
from astrojax.physics.grid import Grid
from astrojax.physics.regrid import Regridder
from astrojax.physics.vertical import height_to_pressure, hybrid_to_pressure, interpolate_levels, sigma_to_pressure

# Degrees: files keep coordinates in float32, or rounded to three decimals.
_TOLERANCE = 1e-3


def same_grid(first: Grid, second: Grid) -> bool:
    """Whether the centres of both are the same to the precision that files keep."""
    return all(
        len(a) == len(b) and np.allclose(a, b, rtol=0, atol=_TOLERANCE)
        for a, b in ((first.lat, second.lat), (first.lon, second.lon))
    )


class Transfer:
    """Brings slabs of one file to a grid and levels. What needs no change is not touched."""

    def __init__(self, source: SourceFile, grid: Grid, levels: Levels | None, *, num_threads: int = 1):
        """Args:
            source: the file.
            grid: where to.
            levels: the cube's levels.
            num_threads: of one slab.

        Raises:
            RequestError: the levels need another variable of the file, which it does not have.
        """
        self._source, self._levels = source, levels
        methods = () if same_grid(source.grid, grid) else ("bilinear", "conservative")
        # Bilinear samples between cells that larger ones should be the means of.
        self._coarser = len(grid.lat) < len(source.grid.lat) or len(grid.lon) < len(source.grid.lon)
        self._regridders = {m: Regridder(source.grid, grid, m, num_threads=num_threads) for m in methods}
        self._changes_levels = bool(levels and source.levels and not levels.same_as(source.levels))
        if self._changes_levels:
            if levels.kind == "height":
                raise RequestError(
                    f"{source.path}: other levels than the heights wanted; only sigma or pressure can be made"
                )
            if len(source.levels) < 2:
                raise RequestError(f"{source.path}: a single level cannot be interpolated")
            self._read_pressures()

    def _read_pressures(self) -> None:
        source, kinds = self._source, {self._source.levels.kind, self._levels.kind}
        self._ps = None
        if kinds != {"pressure"}:
            self._ps = source.read(VARIABLES["ps"])[:, 0].astype(np.float64)
        self._ta = source.read(VARIABLES["ta"]) if "height" in kinds else None
        if self._ta is not None:
            parameters = dict(zip(PARAMETER_NAMES, planet_parameters(source.path, source.attributes), strict=True))
            self._gravity, self._gas_constant = parameters["gravity"], parameters["dry_gas_constant"]

    def __call__(self, variable: Variable, slab: Slab, out: np.ndarray) -> None:
        """Writes a slab's values, ``[time, lev, lat, lon]``, into ``out``."""
        values = slab.values
        if self._changes_levels and variable.group == "levels":
            values = self._to_levels(values, slab.times)
        if self._regridders:
            self._regridders["conservative" if self._coarser else variable.method](values, out=out)
        else:
            out[...] = values

    def _to_levels(self, values: np.ndarray, times: slice) -> np.ndarray:
        """Linear in the logarithm of pressure; the outermost levels continue to the limits of their layers."""
        source, target = self._source.levels, self._levels
        ps = None if self._ps is None else self._ps[times]
        pressure, top, bottom = self._pressures(source, ps, times)
        wanted = target.centres[:, None, None] if target.kind == "pressure" else sigma_to_pressure(target.centres, ps)
        result = interpolate_levels(values, pressure, wanted, extrapolate="nearest")
        outside = (wanted < top) | (wanted > bottom)
        return np.where(outside, np.float32(np.nan), result) if outside.any() else result

    def _pressures(self, levels: Levels, ps: np.ndarray | None, times: slice):
        """Pressure of a file's levels and of the limits of the atmosphere they cover, Pa."""
        if levels.kind == "pressure":
            return levels.centres, levels.edges[0], levels.edges[-1]
        surface = ps[..., None, :, :]
        if levels.kind == "sigma":
            return sigma_to_pressure(levels.centres, ps), levels.edges[0] * surface, surface
        if levels.kind == "hybrid":
            return hybrid_to_pressure(levels.a, levels.b, ps), levels.edges[0], surface
        pressure = height_to_pressure(levels.centres, self._ta[times], ps, self._gravity, self._gas_constant)
        return pressure, pressure[..., :1, :, :], surface
