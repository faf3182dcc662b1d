"""ThousandWorlds: mean climates of 1760 simulated planets by five general circulation models, as a store of cubes.

The benchmark of Stevenson et al. 2026 (arXiv 2606.18338, doi 10.57967/hf/8695). Its archives hold fields
``[simulation, field, 32, 64]``: rows are Gaussian latitudes from south to north, columns are centred from -177.1875 to
177.1875 degrees east, and the star stands above longitude 0. Level 0 is next to the ground. The store has the rows as
they are, turns the columns to 2.8125 to 357.1875, and puts the top level first.

A planet of the store is a simulation, named by its number. Of the planets that are trained on, in order of the SHA-256
of their ``planet_id``, the fifth of every ten is for validation, in all the simulations that there are of it: a planet
that several models computed is never in both parts. What is tested on is held out: ``split["heldout"]``, and of the
subsets with several models ``split["shared_planets"]``, those of it that both target models computed. Simulations of
test planets by other models are in ``held_out_aux.csv`` and stay out of the store.
"""

import csv
import dataclasses
import fcntl
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import astrojax
from astrojax.console import say
from astrojax.data.cubes import statistics
from astrojax.data.cubes.levels import Levels
from astrojax.data.cubes.parameters import PARAMETERS, Parameter
from astrojax.data.cubes.store import (
    CubeStore,
    Layout,
    chunk_name,
    partial_folder,
    write_checksums,
    write_chunk,
    write_metadata,
)
from astrojax.data.cubes.variables import VARIABLES, Group
from astrojax.errors import RequestError
from astrojax.physics.grid import Grid, gaussian

DATASET = "ThousandWorlds"
GCMS = ("exocam", "exocam-pre2022", "exoplasim", "lfric", "um")
# Those that are tested on; a shared planet was computed by both.
TARGET_GCMS = ("exocam", "um")

_NUM_LAT, _NUM_LON = 32, 64
_ARCHIVES = {
    "single-complete": ("complete-obs-only.npz", 9),
    "multi-complete": ("complete-obs-only.npz", 9),
    "multi-partial": ("all-obs.npz", 10),
}
SUBSETS = tuple(_ARCHIVES)

# The variables' names there, in the order of the field axis, and ours.
_NAMES = {
    "surface_temperature": "ts",
    "temperature": "ta",
    "specific_humidity": "hus",
    "asr_cloudy": "rst",
    "olr_cloudy": "rlut",
    "cloud_fraction": "cl",
    "u": "ua",
    "v": "va",
}
_VARIABLES: dict[Group, tuple[str, ...]] = {
    "levels": ("ta", "hus", "ua", "va", "cl"),
    "surface": ("ts", "rst", "rlut"),
    "static": (),
}

_DOWNLOAD = "python -c \"import thousandworlds; thousandworlds.download_dataset('.')\" brings the folder dataset/"
_COLUMNS = (
    "simulation_id",
    "stellar_temperature",
    "stellar_flux",
    "radius",
    "gravity",
    "rotation_period",
    "surface_pressure",
    "co2",
    "ch4",
    "gcm_label",
    "planet_id",
)
_KNOWN = {parameter.name: parameter for parameter in PARAMETERS}
PARAMETER_LIST = (
    _KNOWN["instellation"],
    _KNOWN["stellar_temperature"],
    _KNOWN["rotation_period"],
    _KNOWN["obliquity"],
    _KNOWN["eccentricity"],
    _KNOWN["tidally_locked"],
    _KNOWN["substellar_longitude"],
    _KNOWN["radius"],
    _KNOWN["gravity"],
    Parameter("surface_pressure", "Pa", "surface_pressure", (1.0, 1e9)),
    _KNOWN["pN2"],
    _KNOWN["pCO2"],
    Parameter("pCH4", "Pa", "ch4", (0.0, 1e9)),
    _KNOWN["epoch_age"],
    *(Parameter(f"gcm_{gcm}", "1", "gcm_label", (0.0, 1.0)) for gcm in GCMS),
)


def pressure_levels(surface_pressure: float) -> np.ndarray:
    """Pressures of the ten levels in Pa, ``[lev]`` from the top down, for a nominal surface pressure in Pa.

    The benchmark's levels are equally spaced on a scale that is dense at both ends, between 10 hPa and 92.5 % of the
    surface pressure (``viz.py`` of its code). The complete subsets lack the first.
    """
    x = np.linspace(0, 1, 10)
    height = 0.75 * x + 1.75 * x**3 - 1.5 * x**4
    return 1000.0 + height * (0.925 * surface_pressure - 1000.0)


def grid() -> Grid:
    """The cells of the store."""
    cells = gaussian(_NUM_LAT, _NUM_LON)
    return Grid.of_centres(cells.lat, cells.lon + 180 / _NUM_LON)


def layout(subset: str) -> Layout:
    """What the cubes of ``subset`` look like.

    Pressure over surface pressure depends on a planet's surface pressure, least near the ground: the vertical axis has
    that of 1 bar.
    """
    _, num_levels = _ARCHIVES[subset]
    return Layout(
        grid=grid(),
        levels=Levels.of_centres("sigma", pressure_levels(1e5)[-num_levels:] / 1e5),
        climate_time_edges=np.asarray([0.0, 1.0]),
        epochs=(0,),
        variables={group: tuple(VARIABLES[name] for name in names) for group, names in _VARIABLES.items()},
    )


def field_names(num_levels: int) -> list[str]:
    """The field axis of an archive."""
    return [
        field
        for theirs, ours in _NAMES.items()
        for field in ([theirs] if ours in _VARIABLES["surface"] else [f"{theirs}_{k}" for k in range(num_levels)])
    ]


def convert_thousand_worlds(folder: Path | str, out: Path | str, subset: str) -> CubeStore:
    """Converts a subset of the benchmark into the store ``out``; opens it if that has been done.

    Works in ``OUT.partial``, which becomes ``out`` when it is complete; a conversion that was stopped begins again. The
    archive is held in memory: 0.8 GB.

    Args:
        folder: the benchmark's ``dataset`` folder, with ``inputs.csv``, ``fields`` and ``subsets``.
        out: where the store appears.
        subset: ``"single-complete"``, ``"multi-complete"`` or ``"multi-partial"``.

    Raises:
        RequestError: a file is missing, damaged or not of the published layout; or ``out`` holds other data, or another
            process is converting to it. Names file and value.
    """
    folder, out = Path(folder), Path(out)
    if subset not in _ARCHIVES:
        raise RequestError(f"no ThousandWorlds subset {subset}; there are {', '.join(SUBSETS)}")
    request, sources = {"dataset": DATASET, "subset": subset}, _sources(folder, subset)
    if out.exists():
        store = CubeStore.open(out)
        if store.provenance["request"] != request or store.provenance["sources"] != sources:
            raise RequestError(f"{out} holds cubes of other sources or options; remove it or choose another place")
        say(f"{out}: already converted from {folder}")
        return store
    members = _read_members(folder, subset)
    fields = _read_fields(folder, subset, [simulation.number for simulation in members.simulations])
    partial = partial_folder(out)
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestError(f"{out}: another process is converting to it") from error
        if (partial / "store").exists():
            shutil.rmtree(partial / "store")
        provenance = {"version": astrojax.__version__, "request": request, "sources": sources}
        _write(partial / "store", layout(subset), members, fields, provenance)
        os.sync()
        os.rename(partial / "store", out)
        shutil.rmtree(partial)
    say(f"{out}: {len(members.simulations)} simulations of {folder}, subset {subset}")
    return CubeStore.open(out)


@dataclasses.dataclass(frozen=True)
class _Simulation:
    """One row of ``inputs.csv``: ``parameters`` are those of ``PARAMETER_LIST``."""

    number: int
    planet: str
    gcm: str
    parameters: tuple[float, ...]

    @property
    def name(self) -> str:
        return str(self.number)


@dataclasses.dataclass(frozen=True)
class _Members:
    """The simulations of a subset in order of their numbers, which part each is in, and pairs of the target models."""

    simulations: list[_Simulation]
    split: dict[str, list[str]]
    shared_pairs: list[list[str]]


def _sources(folder: Path, subset: str) -> list[dict[str, Any]]:
    """The files a store is made of, as provenance has them."""
    lists = f"subsets/{subset}"
    names = ["inputs.csv", f"fields/{_ARCHIVES[subset][0]}", f"{lists}/train.csv", f"{lists}/test.csv"]
    if subset != "single-complete":
        names.append(_shared_file(subset))
    sources = []
    for name in names:
        file = folder / name
        if not file.is_file():
            raise RequestError(f"{file}: no such file; {_DOWNLOAD}")
        with file.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        sources.append({"file": name, "bytes": file.stat().st_size, "sha256": digest})
    return sources


def _shared_file(subset: str) -> str:
    return f"subsets/{subset}/test_shared_planets_only.csv"


def _read_members(folder: Path, subset: str) -> _Members:
    inputs = folder / "inputs.csv"
    rows = {_number(inputs, row): row for row in _read_table(inputs, _COLUMNS)}
    train = _read_numbers(folder / f"subsets/{subset}/train.csv", rows)
    test_file = folder / f"subsets/{subset}/test.csv"
    test = _read_numbers(test_file, rows)
    for number in set(test) & set(train):
        raise RequestError(f"{test_file}: simulation {number} is in train.csv as well")
    simulations = {n: _simulation(inputs, n, rows[n]) for n in sorted({*train, *test})}
    for_validation = _validation_planets({simulations[n].planet for n in train})
    split = {
        "train": [str(n) for n in train if simulations[n].planet not in for_validation],
        "validation": [str(n) for n in train if simulations[n].planet in for_validation],
        "heldout": [str(n) for n in test],
    }
    pairs: list[list[str]] = []
    if subset != "single-complete":
        file = folder / _shared_file(subset)
        shared = _read_numbers(file, rows)
        for number in shared:
            if number not in test:
                raise RequestError(f"{file}: simulation {number} is not in test.csv")
        split["shared_planets"] = [str(n) for n in shared]
        pairs = _pairs(file, [simulations[n] for n in shared])
    return _Members(list(simulations.values()), split, pairs)


def _validation_planets(planets: set[str]) -> set[str]:
    """See the module's rule."""
    order = sorted(planets, key=lambda planet: hashlib.sha256(planet.encode()).hexdigest())
    return set(order[4::10])


def _pairs(file: Path, simulations: Sequence[_Simulation]) -> list[list[str]]:
    """For each planet its simulations by the target models, in their order."""
    planets: dict[str, dict[str, str]] = {}
    for simulation in simulations:
        models = planets.setdefault(simulation.planet, {})
        if simulation.gcm not in TARGET_GCMS or simulation.gcm in models:
            why = f"simulation {simulation.number} of planet {simulation.planet} by {simulation.gcm}"
            raise RequestError(f"{file}: {why}, not one by each of {' and '.join(TARGET_GCMS)}")
        models[simulation.gcm] = simulation.name
    for planet, models in planets.items():
        if len(models) < len(TARGET_GCMS):
            raise RequestError(f"{file}: planet {planet} by {', '.join(models)} alone, not {' and '.join(TARGET_GCMS)}")
    return [[models[gcm] for gcm in TARGET_GCMS] for models in planets.values()]


def _simulation(file: Path, number: int, row: dict[str, str]) -> _Simulation:
    gcm = row["gcm_label"]
    if gcm not in GCMS:
        raise RequestError(f"{file}: simulation {number}: gcm_label={gcm} is none of {', '.join(GCMS)}")

    def read(column: str) -> float:
        try:
            return float(row[column])
        except ValueError as error:
            raise RequestError(f"{file}: simulation {number}: {column}={row[column]!r} is not a number") from error

    pressure, co2, ch4 = read("surface_pressure"), read("co2"), read("ch4")
    values = {
        "instellation": read("stellar_flux"),
        "stellar_temperature": read("stellar_temperature"),
        "rotation_period": read("rotation_period"),
        "tidally_locked": 1.0,
        "radius": read("radius"),
        "gravity": read("gravity"),
        "surface_pressure": pressure,
        # What is neither carbon dioxide nor methane, shares of the volume, is nitrogen.
        "pN2": pressure * (1 - co2 - ch4),
        "pCO2": pressure * co2,
        "pCH4": pressure * ch4,
        f"gcm_{gcm}": 1.0,
    }
    for parameter in PARAMETER_LIST:
        low, high = parameter.valid
        value = values.setdefault(parameter.name, 0.0)
        if not low <= value <= high:
            raise RequestError(
                f"{file}: simulation {number}: {parameter.name}={value:g} should lie between {low:g} and {high:g} "
                f"{parameter.units}"
            )
    return _Simulation(number, row["planet_id"], gcm, tuple(values[p.name] for p in PARAMETER_LIST))


def _read_table(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as f:
            table = csv.DictReader(f)
            rows, names = list(table), table.fieldnames or ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{file}: not a table of comma-separated values ({error})") from error
    for column in columns:
        if column not in names:
            raise RequestError(f"{file}: no column {column}; there are {', '.join(names) or 'none'}")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise RequestError(f"{file}: line {line} should have {len(names)} values")
    return rows


def _number(file: Path, row: dict[str, str]) -> int:
    try:
        return int(row["simulation_id"])
    except ValueError as error:
        raise RequestError(f"{file}: simulation_id={row['simulation_id']!r} is not a number") from error


def _read_numbers(file: Path, inputs: dict[int, Any]) -> list[int]:
    """The simulations that a list names, each of which ``inputs.csv`` describes."""
    numbers = [_number(file, row) for row in _read_table(file, ["simulation_id"])]
    if not numbers:
        raise RequestError(f"{file}: no simulation")
    for number in numbers:
        if number not in inputs:
            raise RequestError(f"{file}: simulation {number} is not in inputs.csv")
    for number in set(numbers):
        if numbers.count(number) > 1:
            raise RequestError(f"{file}: simulation {number} is there twice")
    return numbers


def _read_fields(folder: Path, subset: str, numbers: Sequence[int]) -> np.ndarray:
    """``[simulation, field, lat, lon]`` float32 of the simulations ``numbers``."""
    archive, num_levels = _ARCHIVES[subset]
    file, expected = folder / "fields" / archive, field_names(num_levels)
    try:
        with file.open("rb") as f, np.load(f, allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in ("simulation_id", "field_names", "fields")}
    except Exception as error:  # Whatever NumPy and zipfile make of damaged files.
        what = f"{type(error).__name__}: {error}"
        raise RequestError(f"{file}: damaged or not an archive of fields ({what}); {_DOWNLOAD}") from error
    rows, names, fields = arrays["simulation_id"], [str(name) for name in arrays["field_names"]], arrays["fields"]
    wanted = (len(rows), len(expected), _NUM_LAT, _NUM_LON)
    if fields.shape != wanted:
        raise RequestError(f"{file}: fields of shape {fields.shape}, not {wanted}")
    if names != expected:
        wrong = next((a, b) for a, b in zip([*names, None], [*expected, None], strict=False) if a != b)
        raise RequestError(f"{file}: field {wrong[0]} where {wrong[1]} should be")
    places = {int(number): place for place, number in enumerate(rows)}
    lacking = [number for number in numbers if number not in places]
    if lacking:
        raise RequestError(f"{file}: lacks {len(lacking)} simulations of subset {subset}, such as {lacking[0]}")
    fields = fields[[places[number] for number in numbers]].astype(np.float32, copy=False)
    finite = np.isfinite(fields)
    for simulation, field in np.argwhere(finite.any((2, 3)) & ~finite.all((2, 3))):
        raise RequestError(f"{file}: {names[field]} of simulation {numbers[simulation]} has values in some cells only")
    return fields


def _cubes(fields: np.ndarray, num_levels: int) -> dict[str, np.ndarray]:
    """Each variable of a simulation, ``[1, 1, lev, lat, lon]``, from ``[field, lat, lon]``."""
    turned = np.roll(fields, _NUM_LON // 2, axis=-1)
    result, start = {}, 0
    for ours in _NAMES.values():
        count = 1 if ours in _VARIABLES["surface"] else num_levels
        result[ours] = turned[start : start + count][::-1][None, None]
        start += count
    return result


def _write(folder: Path, cubes: Layout, members: _Members, fields: np.ndarray, provenance: dict[str, Any]) -> None:
    """Writes a whole store into ``folder``."""
    simulations, training = members.simulations, set(members.split["train"])
    chunks: dict[str, str] = {}
    moments: dict[str, list[statistics.Moments]] = {name: [] for name in _NAMES.values()}
    missing: dict[str, int] = dict.fromkeys(_NAMES.values(), 0)
    for place, simulation in enumerate(simulations):
        values = _cubes(fields[place], len(cubes.levels))
        for group, names in _VARIABLES.items():
            for v, name in enumerate(names):
                chunk = chunk_name(group, place, v)
                chunks[chunk] = write_chunk(folder, chunk, values[name])
                missing[name] += int(np.isnan(values[name][0, 0, :, 0, 0]).sum())
                if simulation.name in training:
                    moments[name].append(statistics.moments(values[name], cubes.grid))
    write_metadata(
        folder,
        cubes,
        planets=[simulation.name for simulation in simulations],
        parameters=np.asarray([[simulation.parameters] for simulation in simulations]),
        present=np.ones((len(simulations), 1), bool),
        split=members.split,
        statistics={name: statistics.summary(statistics.total(parts)) for name, parts in moments.items()},
        provenance=provenance | {"shared_pairs": members.shared_pairs},
        notes=[f"{name}: {count} fields are missing" for name, count in missing.items() if count],
        parameter_list=PARAMETER_LIST,
    )
    write_checksums(folder, chunks)
