"""One NetCDF file, read into the canonical layout whatever its own conventions are.

NetCDF4-Python's own unpacking and masking copy every array several times, whether or not it is packed or has a hole;
here what needs no change is not copied.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import netCDF4
import numpy as np

from astrojax.data.cubes import units
from astrojax.data.cubes.coordinates import cell_edges, first_turn, is_level_coordinate, read_levels
from astrojax.data.cubes.levels import Levels
from astrojax.data.cubes.variables import EQUIVALENTS, VARIABLES, Variable, other_variable
from astrojax.errors import RequestError
from astrojax.physics.grid import Grid

# The NetCDF library keeps global state, so one thread of a process is in it at a time.
_NETCDF = threading.RLock()
# So much of a variable is read and regridded at once: worth the calls it takes, little next to a cube.
_SLAB_BYTES = 1 << 24

_LATITUDE_UNITS = {"degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"}
_LONGITUDE_UNITS = {"degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese"}
_TIME_NAMES = {"time", "t", "month"}
_LEVEL_NAMES = {"lev", "level", "plev", "pressure", "sigma", "isobaric", "height", "pfull"}


class Slab(NamedTuple):
    """Some times of a variable.

    Attributes:
        times: where they stand on the time axis.
        values: ``[time, lev, lat, lon]`` float32, canonical; what is missing is NaN.
        num_fill: how many values the file marks as missing.
    """

    times: slice
    values: np.ndarray
    num_fill: int


class SourceFile:
    """A NetCDF file of one planet in one epoch.

    Whatever the file's order, latitudes come from south to north, longitudes from 0 to 360 degrees east, levels from
    the top of the atmosphere down, values in the units of the variable that is asked for.

    Attributes:
        path: the file.
        attributes: its global attributes.
        grid: where its values are.
        levels: its vertical axis; None if it has none.
        climate_time_edges: ``[climate_time + 1]``, fractions of the sampled year.
        notes: what had to be converted, turned or assumed.
    """

    def __init__(self, path: Path):
        """Raises:
        RequestError: not a readable NetCDF file, or its coordinates are not those of a climate cube.
        """
        self.path, self.notes = Path(path), []
        with _NETCDF:
            try:
                self._dataset = netCDF4.Dataset(self.path)
                self._dataset.set_auto_maskandscale(False)
            except (OSError, RuntimeError) as error:
                if not self.path.exists():
                    raise self._refuse("no such file") from error
                reason = getattr(error, "strerror", None) or error
                raise self._refuse(f"not a readable NetCDF file ({reason}); truncated or corrupt?") from error
            try:
                self.attributes = _attributes(self._dataset)
                self._axes = self._name_axes()
                self._read_grid()
                self._read_times()
                self._read_levels()
            except BaseException:
                self._dataset.close()
                raise

    def close(self) -> None:
        with _NETCDF:
            if self._dataset.isopen():
                self._dataset.close()

    def __enter__(self) -> "SourceFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def num_times(self) -> int:
        return len(self.climate_time_edges) - 1

    def _refuse(self, message: str) -> RequestError:
        return RequestError(f"{self.path}: {message}")

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    # Coordinates ------------------------------------------------------------------------------------------------

    def _name_axes(self) -> dict[str, str]:
        """Dimension -> ``time``, ``lev``, ``lat`` or ``lon``, for those that are one of these."""
        found = {dimension: self._axis_of(dimension) for dimension in self._dataset.dimensions}
        vertical = [dimension for dimension, axis in found.items() if axis == "lev"]
        if len(vertical) > 1:  # Soil layers, say, beside the levels of the atmosphere.
            known = [d for d in vertical if is_level_coordinate(self._standard_name(d))]
            found |= dict.fromkeys(set(vertical) - set(known))
        axes: dict[str, str] = {}
        for dimension, axis in found.items():
            if axis in axes.values():
                first = next(name for name, known in axes.items() if known == axis)
                raise self._refuse(f"both {first} and {dimension} look like the {axis} axis")
            if axis:
                axes[dimension] = axis
        for axis, what in (("lat", "latitude"), ("lon", "longitude")):
            if axis not in axes.values():
                raise self._refuse(f"no {what} coordinate; only regular latitude-longitude grids are read")
        return axes

    def _standard_name(self, name: str) -> str:
        return str((self.attributes_of(name) or {}).get("standard_name", ""))

    def _axis_of(self, dimension: str) -> str | None:
        attributes = self.attributes_of(dimension) or {}
        name, standard_name = dimension.lower(), attributes.get("standard_name", "")
        unit, axis = str(attributes.get("units", "")), attributes.get("axis")
        if standard_name in ("grid_latitude", "grid_longitude"):
            raise self._refuse(f"{dimension} is on a rotated grid; only regular latitude-longitude grids are read")
        if standard_name == "latitude" or unit.lower() in _LATITUDE_UNITS or name in ("lat", "latitude"):
            return "lat"
        if standard_name == "longitude" or unit.lower() in _LONGITUDE_UNITS or name in ("lon", "longitude"):
            return "lon"
        if standard_name == "time" or axis == "T" or " since " in unit or name in _TIME_NAMES:
            return "time"
        if is_level_coordinate(standard_name) or axis == "Z" or attributes.get("positive") or name in _LEVEL_NAMES:
            return "lev"
        return None

    def _coordinate(self, axis: str) -> tuple[str, np.ndarray, dict[str, Any]] | None:
        """The axis's dimension, values in float64 and attributes; None where the file has no such axis."""
        dimension = next((name for name, known in self._axes.items() if known == axis), None)
        if dimension is None:
            return None
        size = len(self._dataset.dimensions[dimension])
        if not size:
            raise self._refuse(f"{dimension} has no values")
        attributes = self.attributes_of(dimension)
        if attributes is None:
            return dimension, np.arange(size, dtype=np.float64), {}
        values = self.array(dimension)
        if not np.isfinite(values).all():
            raise self._refuse(f"{dimension} holds values that are not finite")
        return dimension, values, attributes

    def attributes_of(self, name: str) -> dict[str, Any] | None:
        """Attributes of a variable; None where the file has none of that name."""
        with _NETCDF:
            variable = self._dataset.variables.get(name)
            return None if variable is None else _attributes(variable)

    def array(self, name: str) -> np.ndarray:
        """A small variable in float64, unpacked.

        Raises:
            RequestError: it is missing or damaged.
        """
        try:
            with _NETCDF:
                variable = self._dataset.variables[name]
                scale, shift = getattr(variable, "scale_factor", 1.0), getattr(variable, "add_offset", 0.0)
                return np.asarray(variable[...], np.float64) * scale + shift
        except KeyError as error:
            raise self._refuse(f"no variable {name}, which its coordinates name") from error
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise self._refuse(f"{name} cannot be read ({error}); truncated or corrupt?") from error

    def _read_grid(self) -> None:
        lat_name, lat, lat_attributes = self._coordinate("lat")
        lon_name, lon, _ = self._coordinate("lon")
        steps = np.diff(lat)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise self._refuse(f"{lat_name} is not monotonic: {first_turn(lat)}")
        # Rounded: what is a hair below 0 degrees belongs there, not at 360.
        around = np.mod(np.round(lon, 6), 360.0)
        self._lat_order, self._lon_order = np.argsort(lat), np.argsort(around, kind="stable")
        turns = np.diff(lon)
        if not ((turns > 0).all() or (turns < 0).all()):
            raise self._refuse(f"{lon_name} is not monotonic: {first_turn(lon)}")
        if len(lat) > 1 and steps[0] < 0:
            self._note(f"{lat_name} turned to run from south to north")
        if not _is_identity(self._lon_order):
            self._note(f"{lon_name} from {lon[0]:g} to {lon[-1]:g} rolled to 0..360")
        gap = 90 - min(-lat.min(), lat.max())
        if gap > 1.5 * np.abs(steps).max(initial=0) + 1e-3 and len(lat) > 1:
            raise self._refuse(f"{lat_name} from {lat[0]:g} to {lat[-1]:g} does not reach the poles")
        try:
            grid = Grid.of_centres(lat[self._lat_order], around[self._lon_order])
            edges = cell_edges(self, lat_attributes.get("bounds"), len(lat))
            if edges is not None:
                edges = np.sort(edges)
                edges[[0, -1]] = np.where(np.abs(np.abs(edges[[0, -1]]) - 90) < 1e-3, [-90.0, 90.0], edges[[0, -1]])
                grid = Grid(grid.lat, grid.lon, edges, grid.lon_edges)
            self.grid = grid
        except ValueError as error:
            raise self._refuse(str(error)) from error

    def _read_times(self) -> None:
        found = self._coordinate("time")
        if found is None or len(found[1]) == 1:
            self.climate_time_edges = np.asarray([0.0, 1.0])
            return
        name, time, attributes = found
        if (np.diff(time) <= 0).any():
            raise self._refuse(f"{name} does not ascend: {first_turn(time)}")
        bounds = attributes.get("bounds")
        if bounds:
            limits = self.array(bounds)
            if limits.shape != (len(time), 2):
                raise self._refuse(f"{bounds} has the shape {limits.shape}, not {(len(time), 2)}")
            if not np.allclose(limits[1:, 0], limits[:-1, 1]) or not (limits[:, 1] > limits[:, 0]).all():
                raise self._refuse(f"{bounds} leaves gaps between the times, or overlaps")
            edges = np.append(limits[:, 0], limits[-1, 1])
        else:
            middle = (time[1:] + time[:-1]) / 2
            edges = np.concatenate([[2 * time[0] - middle[0]], middle, [2 * time[-1] - middle[-1]]])
            self._note(f"{name} has no bounds: limits half-way between the times")
        self.climate_time_edges = (edges - edges[0]) / (edges[-1] - edges[0])

    def _read_levels(self) -> None:
        found = self._coordinate("lev")
        if found is None:
            self.levels, self._lev_order = None, np.zeros(1, np.intp)
            return
        name, values, attributes = found
        if len(values) > 1 and not ((np.diff(values) > 0).all() or (np.diff(values) < 0).all()):
            raise self._refuse(f"{name} is not monotonic: {first_turn(values)}")
        try:
            levels = read_levels(self, values, attributes)
        except ValueError as error:
            raise self._refuse(f"{name}: {error}") from error
        downward = np.sign(levels.centres[-1] - levels.centres[0]) or 1
        upside_down = len(levels) > 1 and (downward > 0) == (levels.kind == "height")
        self._lev_order = np.arange(len(levels))[:: -1 if upside_down else 1]
        if upside_down:
            self._note(f"{name} turned to run from the top of the atmosphere down")
        flip = slice(None, None, -1 if upside_down else 1)
        self.levels = Levels(
            levels.kind,
            levels.centres[flip],
            levels.edges[flip],
            None if levels.a is None else levels.a[flip],
            None if levels.b is None else levels.b[flip],
        )

    # Variables --------------------------------------------------------------------------------------------------

    def known_variables(self) -> list[Variable]:
        """Those of the table that the file has."""
        return [variable for variable in VARIABLES.values() if self.has(variable)]

    def has(self, variable: Variable) -> bool:
        """Whether the file has a variable.

        Raises:
            RequestError: several may be it.
        """
        with _NETCDF:
            return self._find(variable) is not None

    def other_variable(self, name: str) -> Variable:
        """A variable outside the table, by its standard name or its name in the file.

        Raises:
            RequestError: the file has none, or its units are not known.
        """
        for own, variable in self._fields.items():
            attributes = _attributes(variable)
            if name in (own, attributes.get("standard_name")):
                axes = {self._axes[d] for d in variable.dimensions if d in self._axes}
                group = "levels" if "lev" in axes else "surface" if "time" in axes else "static"
                unit = str(attributes.get("units", "")).strip() or "1"
                try:
                    units.parse(unit)
                except ValueError as error:
                    raise self._refuse(f"{own}: {error}") from error
                return other_variable(own, str(attributes.get("standard_name", "")), unit, group)
        raise self._refuse(f"no variable {name}")

    @functools.cached_property
    def _fields(self) -> dict[str, netCDF4.Variable]:
        """What lies on the horizontal grid."""
        needed = {name for name, axis in self._axes.items() if axis in ("lat", "lon")}
        return {
            name: variable
            for name, variable in self._dataset.variables.items()
            if needed <= set(variable.dimensions) and variable.dtype is not str and variable.dtype.kind in "iuf"
        }

    def _find(self, variable: Variable) -> str | None:
        """The variable's name in the file: the one with its standard name, else with its short name."""
        equivalent = EQUIVALENTS.get(variable.standard_name, ("",))[0]
        standard_names = {variable.standard_name, equivalent} - {""}
        candidates = []
        for name, field in self._fields.items():
            has_levels = any(self._axes.get(d) == "lev" for d in field.dimensions)
            if has_levels == (variable.group == "levels"):
                standard_name = getattr(field, "standard_name", None)
                if standard_name in standard_names or (name == variable.name and standard_name is None):
                    candidates.append(name)
        if len(candidates) > 1 and variable.name in candidates:
            return variable.name
        if len(candidates) > 1:
            raise self._refuse(f"{variable.name}: {', '.join(candidates)} all have its standard name")
        return candidates[0] if candidates else None

    def require(self, variable: Variable) -> str:
        """The variable's name in the file.

        Raises:
            RequestError: the file does not have it.
        """
        with _NETCDF:
            name = self._find(variable)
        if name is None:
            raise self._refuse(f"no variable {variable.name} ({variable.standard_name or 'no standard name'})")
        return name

    def slabs(self, variable: Variable) -> Iterator[Slab]:
        """The variable in portions of its times; a static one has one time.

        Raises:
            RequestError: it is missing or damaged, or its units or dimensions are not what it should have.
        """
        reader = self.reader(variable)
        for times in reader.portions:
            yield reader.read(times)

    def reader(self, variable: Variable) -> "Reader":
        """Reads the variable by portions, in any order; see :meth:`slabs`."""
        with _NETCDF:
            return Reader(self, variable)

    def read(self, variable: Variable) -> np.ndarray:
        """All of a variable, ``[climate_time, lev, lat, lon]`` float32; see :meth:`slabs`."""
        return np.concatenate([slab.values for slab in self.slabs(variable)])


class Reader:
    """How one variable of one file becomes canonical. Its portions may be read by several threads.

    Attributes:
        portions: the times that :meth:`read` takes at once: whole chunks of the file, of a slab's size at least.
    """

    def __init__(self, source: SourceFile, variable: Variable):
        self._source, self._variable = source, variable
        self._name = name = source.require(variable)
        self._field = field = source._dataset.variables[name]
        attributes = _attributes(field)
        self._factor, self._offset = self._conversion(attributes)
        self._missing = _missing_values(field, attributes)
        self._limits = _valid_limits(attributes)
        axes = [source._axes.get(d, d) for d in field.dimensions]
        unknown = [a for a, size in zip(axes, field.shape, strict=True) if a not in _ORDER and size > 1]
        if unknown:
            raise source._refuse(f"{name}{field.dimensions}: dimension {unknown[0]} is not one of a climate cube")
        wanted = {"levels": ("time", "lev"), "surface": ("time",), "static": ()}[variable.group]
        lacking = [a for a in wanted if a not in axes and not (a == "time" and source.num_times == 1)]
        if lacking:
            raise source._refuse(f"{name}{field.dimensions}: no {lacking[0]} axis")
        if field.dimensions != tuple(sorted(field.dimensions, key=lambda d: _ORDER.get(source._axes.get(d), -1))):
            source._note(f"{name}{field.dimensions} brought to time, lev, lat, lon")
        self._axes = axes
        self._is_static = variable.group == "static"
        self.portions = self._portions()

    def _conversion(self, attributes: dict[str, Any]) -> tuple[float, float]:
        """Unpacking and units in one: ``(factor, offset)``."""
        source, variable, own = self._source, self._variable, str(attributes.get("units", "")).strip()
        canonical, density = variable.units, 1.0
        equivalent = EQUIVALENTS.get(variable.standard_name)
        if equivalent and attributes.get("standard_name") == equivalent[0]:
            _, canonical, density = equivalent
        if not own and canonical != "1":
            raise source._refuse(f"{self._name} has no units; {canonical} expected")
        try:
            factor, offset = units.conversion(own, canonical)
        except ValueError as error:
            raise source._refuse(f"{self._name}: {error}") from error
        scale, shift = float(attributes.get("scale_factor", 1)), float(attributes.get("add_offset", 0))
        if (factor * density, offset) != (1.0, 0.0):
            source._note(f"{self._name} converted from {own} to {variable.units}")
        if (scale, shift) != (1.0, 0.0):
            source._note(f"{self._name} unpacked from {self._field.dtype}")
        return scale * factor * density, (shift * factor + offset) * density

    def _portions(self) -> list[slice]:
        num_times = self._source.num_times if "time" in self._axes else 1
        if self._is_static and num_times > 1:
            raise self._source._refuse(f"{self._name} varies in time; it should be static")
        if self._axes[0] != "time":
            return [slice(0, num_times)]
        chunking = self._field.chunking()
        chunk = 1 if not isinstance(chunking, list) else chunking[0]
        bytes_per_time = self._field.size // num_times * 4
        step = -(-max(1, _SLAB_BYTES // bytes_per_time) // chunk) * chunk
        return [slice(start, min(start + step, num_times)) for start in range(0, num_times, step)]

    def read(self, times: slice) -> Slab:
        source = self._source
        key = tuple(times if a == "time" else slice(None) if a in _ORDER else 0 for a in self._axes)
        try:
            with _NETCDF:
                raw = self._field[key]
        except (RuntimeError, OSError, ValueError) as error:
            raise source._refuse(f"{self._name} cannot be read ({error}); truncated or corrupt?") from error
        values, num_fill = self._decode(np.asarray(raw))
        axes = [a for a in self._axes if a in _ORDER]
        values = values.transpose(sorted(range(len(axes)), key=lambda i: _ORDER[axes[i]]))
        for position, axis in enumerate(("time", "lev")):
            if axis not in axes:
                values = np.expand_dims(values, position)
        for position, order in ((1, source._lev_order), (2, source._lat_order), (3, source._lon_order)):
            if values.shape[position] == len(order) and not _is_identity(order):
                values = _reorder(values, order, position)
        return Slab(times, np.ascontiguousarray(values), num_fill)

    def _decode(self, raw: np.ndarray) -> tuple[np.ndarray, int]:
        """Physical values in float32 and how many are missing."""
        missing = self._missing_in(raw)
        if (self._factor, self._offset) == (1.0, 0.0):
            values = raw.astype(np.float32, copy=False)
        else:
            # float64 in between: an offset in float32 would round a second time.
            values = (raw * np.float64(self._factor) + self._offset).astype(np.float32)
        if missing is None:
            return values, 0
        if not values.flags.writeable:
            values = values.copy()
        values[missing] = np.nan
        return values, int(missing.sum())

    def _missing_in(self, raw: np.ndarray) -> np.ndarray | None:
        """Which values are marked as missing; None if none is, which two passes tell that do not allocate."""
        low, high = self._limits
        below = max([low, *(np.nextafter(m, np.inf) for m in self._missing if m < 0)])
        above = min([high, *(np.nextafter(m, -np.inf) for m in self._missing if m >= 0)])
        if below <= raw.min() and raw.max() <= above:
            return None
        missing = np.zeros(raw.shape, bool)
        for value in self._missing:
            missing |= raw == value
        if low > -np.inf:
            missing |= raw < low
        if high < np.inf:
            missing |= raw > high
        return missing if missing.any() else None


@contextlib.contextmanager
def open_epochs(files: Sequence[Path | None]) -> Iterator[dict[int, SourceFile]]:
    """A planet's files while they are needed, by epoch; None is an epoch without one."""
    with contextlib.ExitStack() as stack:
        yield {epoch: stack.enter_context(SourceFile(file)) for epoch, file in enumerate(files) if file}


_ORDER = {"time": 0, "lev": 1, "lat": 2, "lon": 3}


def _attributes(item) -> dict[str, Any]:
    return {name: item.getncattr(name) for name in item.ncattrs()}


def _is_identity(order: np.ndarray) -> bool:
    return bool((order == np.arange(len(order))).all())


def _reorder(values: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    if _is_identity(order[::-1]):
        return np.flip(values, axis)
    return np.take(values, order, axis)


def _missing_values(field: netCDF4.Variable, attributes: dict[str, Any]) -> list[float]:
    """Values, as packed in the file, that stand for nothing: of the attributes, or what NetCDF fills with."""
    kind = field.dtype
    named = [attributes[name] for name in ("_FillValue", "missing_value") if name in attributes]
    if "_FillValue" not in attributes and kind.itemsize > 1:
        named.append(netCDF4.default_fillvals[kind.str[1:]])
    values = np.concatenate([np.atleast_1d(value).astype(np.float64) for value in named]) if named else np.empty(0)
    # NaN needs no mark, and what the packed type cannot hold (NaN for integers) marks nothing.
    values = values[np.isfinite(values)]
    return sorted({float(value) for value in values.astype(kind) if value in values or kind.kind == "f"})


def _valid_limits(attributes: dict[str, Any]) -> tuple[float, float]:
    """CF's ``valid_range``, ``valid_min`` and ``valid_max``, as packed in the file."""
    if "valid_range" in attributes:
        low, high = attributes["valid_range"]
        return float(low), float(high)
    return float(attributes.get("valid_min", -np.inf)), float(attributes.get("valid_max", np.inf))
