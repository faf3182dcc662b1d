"""The store: cubes on disk in the layout in which they are trained on.

A directory in Zarr v3 format that any Zarr library reads. Chunks are not compressed and hold one variable of one planet
each, so that a batch is read from the files straight into the memory it is trained from.
"""

import concurrent.futures
import dataclasses
import json
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from astrojax.data.cubes.levels import Levels
from astrojax.data.cubes.parameters import PARAMETERS, Parameter
from astrojax.data.cubes.variables import Group, Variable
from astrojax.errors import RequestError
from astrojax.files import write_atomically
from astrojax.physics.grid import Grid

FORMAT = 1
CHECKSUMS = "checksums.json"
GROUPS: tuple[Group, ...] = ("levels", "surface", "static")

# Zarr's and xarray's names of the axes: those of one size where the groups differ are named apart.
_DIMENSIONS = {
    "levels": ("planet", "level_variable", "climate_time", "geological_time", "lev", "lat", "lon"),
    "surface": ("planet", "surface_variable", "climate_time", "geological_time", "one_level", "lat", "lon"),
    "static": ("planet", "static_variable", "one_time", "geological_time", "one_level", "lat", "lon"),
}
_READ_BYTES = 1 << 23


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, "<f4")


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """What one planet's cube looks like.

    Attributes:
        grid: where its values are.
        levels: its vertical axis; None where no variable has one.
        climate_time_edges: ``[climate_time + 1]``, fractions of the year.
        epochs: the geological times, as the files name them, in ascending order.
        variables: those of each group, in the order of the variable axis.
    """

    grid: Grid
    levels: Levels | None
    climate_time_edges: np.ndarray
    epochs: tuple[int | str, ...]
    variables: dict[Group, tuple[Variable, ...]]

    def shape(self, group: Group) -> tuple[int, ...]:
        """``[climate_time, geological_time, lev, lat, lon]`` of one variable."""
        num_times = 1 if group == "static" else len(self.climate_time_edges) - 1
        num_levels = len(self.levels) if group == "levels" else 1
        return (num_times, len(self.epochs), num_levels, len(self.grid.lat), len(self.grid.lon))


class CubeStore:
    """An open store. Opening reads a few small arrays; :meth:`read` reads cubes.

    Attributes:
        path: its folder.
        layout: what each planet's cube looks like.
        planets: their names, in the order of the planet axis.
        variables: short names of each group's variables, for the groups that have any.
        grid: where the values are.
        level_kind: ``"sigma"``, ``"pressure"`` or ``"height"``; None where no variable has levels.
        lev, lev_edges: ``[lev]``, ``[lev + 1]``, in that kind's unit, from the top down.
        climate_time_edges: ``[climate_time + 1]``, fractions of the year.
        epochs: the geological times, as the sources name them.
        parameter_names: what the last axis of ``parameters`` is.
        parameters: ``[planet, geological_time, parameter]`` float64, in the units of
            ``parameters.PARAMETERS`` where it has them; NaN where the epoch is missing.
        present: ``[planet, geological_time]`` bool.
        split: ``"train"``, ``"validation"`` and ``"heldout"``, the names of each one's planets.
        statistics: for each variable ``mean``, ``std``, ``min``, ``max``, ``count`` over the training planets, weighted
            by area, and ``level_mean`` and ``level_std`` of each level.
        provenance: sources with sizes and SHA-256, options and the version that converted them.
    """

    def __init__(self, path: Path, layout: Layout, attributes: dict[str, Any], arrays: dict[str, np.ndarray]):
        self.path, self.layout = path, layout
        self.planets: tuple[str, ...] = tuple(attributes["planets"])
        self.variables = {g: tuple(v.name for v in layout.variables[g]) for g in GROUPS if layout.variables[g]}
        self.grid, self.climate_time_edges, self.epochs = layout.grid, layout.climate_time_edges, layout.epochs
        self.level_kind = layout.levels and layout.levels.kind
        self.lev, self.lev_edges = (layout.levels.centres, layout.levels.edges) if layout.levels else (None, None)
        self.parameter_names: tuple[str, ...] = tuple(attributes["parameters"])
        self.parameters, self.present = arrays["parameters"], arrays["present"].astype(bool)
        self.split = {name: tuple(planets) for name, planets in attributes["split"].items()}
        self.statistics: dict[str, dict[str, Any]] = attributes["statistics"]
        self.provenance: dict[str, Any] = attributes["provenance"]

    @classmethod
    def open(cls, path: Path | str) -> "CubeStore":
        """Opens what a conversion wrote.

        Raises:
            RequestError: ``path`` is no store, or one that lacks something.
        """
        path = Path(path)
        if not (path / CHECKSUMS).exists():
            partial = partial_folder(path)
            why = "its conversion has not finished: run it again" if partial.exists() else "no converted cubes there"
            raise RequestError(f"{path}: {why}")
        try:
            group = zarr.open_group(path, mode="r", zarr_format=3)
            attributes = group.attrs["astrojax"]
            if attributes["format"] != FORMAT:
                raise RequestError(f"{path}: format {attributes['format']} is not {FORMAT}: convert the sources again")
            arrays = {name: group[name][...] for name in attributes["coordinates"]}
            layout = _read_layout(attributes, arrays)
        except RequestError:
            raise
        except Exception as error:  # Whatever Zarr makes of damaged files.
            what = f"{type(error).__name__}: {error}"
            raise RequestError(f"{path}: damaged ({what}); convert the sources again") from error
        store = cls(path, layout, attributes, arrays)
        store._check_sizes()
        return store

    def __reduce__(self):
        # A data worker opens the store again.
        return CubeStore.open, (self.path,)

    def __len__(self) -> int:
        return len(self.planets)

    def index(self, names: Iterable[str]) -> list[int]:
        """The places of planets, by name.

        Raises:
            RequestError: a name is not in the store.
        """
        places = {name: i for i, name in enumerate(self.planets)}
        for name in names:
            if name not in places:
                raise RequestError(f"{self.path}: no planet {name}; there are {', '.join(self.planets)}")
        return [places[name] for name in names]

    def read(
        self,
        planets: Sequence[int],
        *,
        num_threads: int | None = None,
        allocate: Callable[[tuple[int, ...]], np.ndarray] = _empty,
    ) -> dict[str, np.ndarray]:
        """Cubes of ``planets``, given by their places: ``[b, v, ct, gt, lev, lat, lon]`` float32 for each group.

        Missing values are NaN. Takes no more memory than the result.

        Args:
            planets: which; one may be asked for twice.
            num_threads: files read at once; all cores unless given.
            allocate: makes a contiguous float32 array of a shape.

        Raises:
            IndexError: there is no such planet.
            RequestError: a chunk is missing or cut short.
        """
        result, parts, step = {}, [], _READ_BYTES
        for group, names in self.variables.items():
            out = allocate((len(planets), len(names), *self.layout.shape(group)))
            result[group] = out
            for b, planet in enumerate(planets):
                if not 0 <= planet < len(self):
                    raise IndexError(f"planet {planet} is not one of {len(self)}")
                for v in range(len(names)):
                    chunk = out[b, v].reshape(-1).view(np.uint8)
                    file = self.path / chunk_name(group, planet, v)
                    parts += [(file, start, chunk[start : start + step]) for start in range(0, len(chunk), step)]
        if parts:
            with concurrent.futures.ThreadPoolExecutor(num_threads or len(os.sched_getaffinity(0))) as pool:
                list(pool.map(_read_into, *zip(*parts, strict=True)))
        return result

    def read_variable(self, name: str) -> np.ndarray:
        """One variable of all planets, ``[planet, ct, gt, lev, lat, lon]`` float32.

        Raises:
            RequestError: the store does not have it, or a chunk of it is missing or cut short.
        """
        for group, names in self.variables.items():
            if name in names:
                out = np.empty((len(self), *self.layout.shape(group)), "<f4")
                for planet in range(len(self)):
                    file = self.path / chunk_name(group, planet, names.index(name))
                    _read_into(file, 0, out[planet].reshape(-1).view(np.uint8))
                return out
        raise RequestError(f"{self.path}: no variable {name}")

    def verify(self) -> None:
        """Reads every file and compares it with its checksum.

        Raises:
            RequestError: names the first file that differs.
        """
        for name, expected in self._checksums().items():
            actual = file_checksum(self.path / name)
            if actual != expected:
                raise RequestError(f"{self.path / name}: checksum {actual}, not {expected}: damaged; convert again")

    def _checksums(self) -> dict[str, str]:
        try:
            return json.loads((self.path / CHECKSUMS).read_bytes())
        except ValueError as error:
            raise RequestError(f"{self.path / CHECKSUMS}: damaged; convert the sources again") from error

    def _check_sizes(self) -> None:
        """Every chunk is there as a whole: what a copy that was cut off lacks."""
        for group, names in self.variables.items():
            size = math.prod(self.layout.shape(group)) * 4
            for planet in range(len(self)):
                for v in range(len(names)):
                    file = self.path / chunk_name(group, planet, v)
                    actual = file.stat().st_size if file.exists() else None
                    if actual != size:
                        what = "is missing" if actual is None else f"has {actual} of {size} bytes"
                        raise RequestError(f"{self.path}: chunk {file.relative_to(self.path)} {what}; convert again")


def partial_folder(store: Path) -> Path:
    """Where a conversion works before the store appears."""
    return store.with_name(f"{store.name}.partial")


def chunk_name(group: Group, planet: int, variable: int) -> str:
    """The file of a variable of a planet, relative to the store: Zarr's chunk key."""
    return f"{group}/c.{planet}.{variable}.0.0.0.0.0"


def file_checksum(file: Path) -> str:
    """CRC-32 in hexadecimal; ``"missing"`` if there is no such file."""
    crc = 0
    try:
        with file.open("rb", buffering=0) as f:
            while block := f.read(_READ_BYTES):
                crc = zlib.crc32(block, crc)
    except FileNotFoundError:
        return "missing"
    return f"{crc:08x}"


def write_metadata(
    folder: Path,
    layout: Layout,
    *,
    planets: Sequence[str],
    parameters: np.ndarray,
    present: np.ndarray,
    split: dict[str, Sequence[str]],
    statistics: dict[str, dict[str, Any]],
    provenance: dict[str, Any],
    notes: Sequence[str],
    parameter_list: Sequence[Parameter] = PARAMETERS,
) -> None:
    """Writes all of a store but its chunks and checksums into ``folder``.

    For the arguments see :class:`CubeStore`; ``parameter_list`` says what the last axis of ``parameters`` is.
    """
    coordinates = {
        "lat": (("lat",), layout.grid.lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": (("lon",), layout.grid.lon, {"standard_name": "longitude", "units": "degrees_east"}),
        "lat_edges": (("lat_edge",), layout.grid.lat_edges, {"units": "degrees_north"}),
        "lon_edges": (("lon_edge",), layout.grid.lon_edges, {"units": "degrees_east"}),
        "climate_time_edges": (
            ("climate_time_edge",),
            layout.climate_time_edges,
            {"units": "1", "long_name": "fraction of the year"},
        ),
        "parameters": (
            ("planet", "geological_time", "parameter"),
            parameters,
            {"names": [p.name for p in parameter_list], "units": [p.units for p in parameter_list]},
        ),
        "present": (("planet", "geological_time"), present.astype(np.uint8), {"units": "1"}),
    }
    if layout.levels:
        unit = {"sigma": "1", "pressure": "Pa", "height": "m"}[layout.levels.kind]
        standard_name = {"sigma": "atmosphere_sigma_coordinate", "pressure": "air_pressure", "height": "height"}
        attributes = {"standard_name": standard_name[layout.levels.kind], "units": unit}
        coordinates["lev"] = (("lev",), layout.levels.centres, attributes)
        coordinates["lev_edges"] = (("lev_edge",), layout.levels.edges, {"units": unit})
    group = zarr.create_group(folder, zarr_format=3, overwrite=False)
    for name, (dimensions, values, attributes) in coordinates.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=values.dtype.newbyteorder("<"),
            compressors=None,
            dimension_names=dimensions,
            attributes=attributes,
        )
        array[...] = values
    for name, variables in layout.variables.items():
        if variables:
            shape = layout.shape(name)
            group.create_array(
                name,
                shape=(len(planets), len(variables), *shape),
                chunks=(1, 1, *shape),
                dtype="<f4",
                compressors=None,
                # One folder, not seven for each chunk.
                chunk_key_encoding={"name": "default", "separator": "."},
                fill_value=math.nan,
                dimension_names=_DIMENSIONS[name],
                attributes={"variables": [v.name for v in variables], "units": [v.units for v in variables]},
            )
    group.attrs["astrojax"] = {
        "format": FORMAT,
        "coordinates": sorted(coordinates),
        "planets": list(planets),
        "epochs": list(layout.epochs),
        "level_kind": layout.levels and layout.levels.kind,
        "variables": {g: [_variable_record(v) for v in layout.variables[g]] for g in GROUPS},
        "parameters": [p.name for p in parameter_list],
        "split": {name: list(names) for name, names in split.items()},
        "statistics": statistics,
        "provenance": provenance,
        "notes": list(notes),
    }
    with warnings.catch_warnings():
        # Consolidated metadata are Zarr-Python's and xarray's own; without them they would list every chunk's folder.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component")
        zarr.consolidate_metadata(folder, zarr_format=3)


def write_checksums(folder: Path, chunks: dict[str, str]) -> None:
    """Completes a store: ``chunks`` are known checksums of files; the others are read."""
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and f.name != CHECKSUMS)
    checksums = {name: chunks.get(name) or file_checksum(folder / name) for name in files}
    write_atomically(folder / CHECKSUMS, json.dumps(checksums, indent=0).encode())


def write_chunk(folder: Path, name: str, values: np.ndarray) -> str:
    """Writes a chunk, which is there as a whole or not at all; returns its checksum."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    data = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with partial.open("wb", buffering=0) as f:
        written = 0
        while written < len(data):
            written += f.write(data[written:])
    os.replace(partial, file)
    return f"{zlib.crc32(data):08x}"


def _variable_record(variable: Variable) -> dict[str, Any]:
    low, high = variable.valid
    record = dataclasses.asdict(variable)
    # JSON has no infinity.
    return record | {"valid": [low if math.isfinite(low) else None, high if math.isfinite(high) else None]}


def _read_variable(record: dict[str, Any]) -> Variable:
    low, high = record["valid"]
    valid = (-math.inf if low is None else low, math.inf if high is None else high)
    return Variable(**record | {"valid": valid})


def _read_layout(attributes: dict[str, Any], arrays: dict[str, np.ndarray]) -> Layout:
    kind = attributes["level_kind"]
    return Layout(
        grid=Grid(arrays["lat"], arrays["lon"], arrays["lat_edges"], arrays["lon_edges"]),
        levels=kind and Levels(kind, arrays["lev"], arrays["lev_edges"]),
        climate_time_edges=arrays["climate_time_edges"],
        epochs=tuple(attributes["epochs"]),
        variables={g: tuple(_read_variable(r) for r in attributes["variables"][g]) for g in GROUPS},
    )


def _read_into(file: Path, start: int, out: np.ndarray) -> None:
    try:
        with file.open("rb", buffering=0) as f:
            f.seek(start)
            filled = 0
            while filled < len(out):
                count = f.readinto(out[filled:])
                if not count:
                    raise RequestError(f"{file}: cut short; convert the sources again")
                filled += count
    except FileNotFoundError as error:
        raise RequestError(f"{file}: missing; convert the sources again") from error
