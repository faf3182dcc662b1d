"""From NetCDF files to a store, one planet after the other in a pool of processes.

A conversion works in ``STORE.partial``, where ``store`` becomes ``STORE`` when everything is there. Each planet that is
done has a record in ``journal`` with the checksums of its chunks: a conversion that was stopped goes on after the last
of them.
"""

import concurrent.futures
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

import astrojax
from astrojax.console import format_bytes, format_seconds, say
from astrojax.data.cubes import quality, statistics
from astrojax.data.cubes.discover import find_files
from astrojax.data.cubes.parameters import PARAMETER_NAMES
from astrojax.data.cubes.plan import Plan, PlanetFiles, Request, plan_conversion
from astrojax.data.cubes.source import SourceFile, open_epochs
from astrojax.data.cubes.splits import Planet, split_planets
from astrojax.data.cubes.store import (
    CHECKSUMS,
    FORMAT,
    GROUPS,
    CubeStore,
    Layout,
    chunk_name,
    file_checksum,
    partial_folder,
    write_checksums,
    write_chunk,
    write_metadata,
)
from astrojax.data.cubes.transfer import Transfer
from astrojax.data.cubes.variables import VARIABLES
from astrojax.data.workers import num_workers, worker_pool
from astrojax.errors import RequestError, RunError
from astrojax.files import write_atomically
from astrojax.physics.grid import area_mean

# So much of a static field's range is the rounding of its derivation, not a change between epochs.
_STATIC_TOLERANCE = 1e-4
# What the balances of a file are computed from.
_BUDGETS = ("rst", "rlut", "ps", "hus")


def convert(
    sources: Sequence[str], out: Path | str, request: Request | None = None, *, workers: int | None = None
) -> CubeStore:
    """Converts NetCDF files into the store ``out``, or goes on with a conversion that was stopped.

    Args:
        sources: folders, files and glob patterns.
        out: where the store appears when it is complete.
        request: what to convert them to; the files' own variables, grid and levels unless given.
        workers: processes; as many as cores unless given.

    Raises:
        RequestError: see :func:`plan_conversion`; or ``out`` holds other data, or another process is converting to it.
        RunError: a process died.
    """
    out, files, request = Path(out), find_files(sources), request or Request()
    if out.exists():
        if not (out / CHECKSUMS).exists():
            raise RequestError(f"{out} is there already and holds no cubes; choose another --out")
        store = CubeStore.open(out)
        if not _same_sources(store, files, request):
            raise RequestError(f"{out} holds cubes of other sources or options; remove it or choose another --out")
        say(f"{out}: already converted from these {len(files)} files")
        return store
    plan = plan_conversion(files, request)
    folder = partial_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestError(f"{out}: another process is converting to it") from error
        records = _convert_planets(plan, folder, files, request, workers)
        _complete(plan, folder / "store", records, request)
        os.rename(folder / "store", out)
        shutil.rmtree(folder)
    for line in plan.missing():
        say(f"missing: {line} (filled with NaN)")
    say(f"{out}: {len(plan.planets)} planets of {len(files)} files; what is good and bad about them: {out}/quality.txt")
    return CubeStore.open(out)


def _convert_planets(
    plan: Plan, folder: Path, files: Sequence[Path], request: Request, workers: int | None
) -> list[dict[str, Any]]:
    """The record of each planet, of the journal or of a conversion made now."""
    names = _relative_names(files)
    tasks = [_Task(i, planet, plan.layout, request, folder, names) for i, planet in enumerate(plan.planets)]
    records = {task.index: record for task in tasks if (record := task.finished())}
    left = [task for task in tasks if task.index not in records]
    if records:
        say(f"going on: {len(records)} of {len(tasks)} planets are done")
    workers = num_workers(workers, len(left))
    progress = _Progress(left, len(records), len(tasks))
    if workers <= 1:
        for task in left:
            records[task.index] = task.run()
            progress.show(task)
    else:
        with worker_pool(workers) as pool:
            futures = {pool.submit(task.run): task for task in left}
            try:
                for future in concurrent.futures.as_completed(futures):
                    records[futures[future].index] = future.result()
                    progress.show(futures[future])
            except BrokenProcessPool as error:
                raise RunError(
                    "a process of the conversion died (out of memory, or called by a script without "
                    "if __name__ == '__main__'?); the same command goes on"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)
    progress.end()
    return [records[i] for i in range(len(tasks))]


def _relative_names(files: Sequence[Path]) -> dict[Path, str]:
    """What reports and provenance call the files: their paths below the folder that has them all."""
    top = os.path.commonpath([file.resolve().parent for file in files])
    return {file: str(file.resolve().relative_to(top)) for file in files}


def _same_sources(store: CubeStore, files: Sequence[Path], request: Request) -> bool:
    provenance, names = store.provenance, _relative_names(files)
    known = {record["file"]: record for record in provenance["sources"]}
    if provenance["request"] != request.record() or known.keys() != set(names.values()):
        return False
    for file, name in names.items():
        status, record = file.stat(), known[name]
        if status.st_size != record["bytes"]:
            return False
        if status.st_mtime_ns != record["modified_ns"] and _sha256(file) != record["sha256"]:
            return False
    return True


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    """One planet's conversion."""

    index: int
    planet: PlanetFiles
    layout: Layout
    request: Request
    folder: Path
    names: dict[Path, str]

    @property
    def files(self) -> list[tuple[int, Path]]:
        return [(epoch, file) for epoch, file in enumerate(self.planet.files) if file]

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for _, file in self.files)

    @property
    def _store(self) -> Path:
        return self.folder / "store"

    @property
    def _journal(self) -> Path:
        return self.folder / "journal" / f"{self.index}.json"

    def _fingerprint(self) -> str:
        """Changes with whatever the planet's chunks depend on."""
        layout, levels = self.layout, self.layout.levels
        depends_on = {
            "format": FORMAT,
            "version": astrojax.__version__,
            "request": self.request.record(),
            "place": [self.index, self.planet.name, list(layout.epochs)],
            "layout": [layout.grid.lat.tolist(), layout.grid.lon.tolist(), layout.climate_time_edges.tolist()],
            "levels": levels and [levels.kind, levels.centres.tolist(), levels.edges.tolist()],
            "variables": [[dataclasses.astuple(v) for v in layout.variables[g]] for g in GROUPS],
            "files": [[e, self.names[f], f.stat().st_size, f.stat().st_mtime_ns] for e, f in self.files],
        }
        return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()

    def finished(self) -> dict[str, Any] | None:
        """The record of the journal, if it is of this task and the chunks are what it says."""
        try:
            record = json.loads(self._journal.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if record["fingerprint"] != self._fingerprint():
            return None
        whole = all(file_checksum(self._store / name) == crc for name, crc in record["chunks"].items())
        return record if whole else None

    def run(self) -> dict[str, Any]:
        """Writes the planet's chunks, then its record."""
        fingerprint = self._fingerprint()
        with open_epochs(self.planet.files) as sources:
            record = self._convert(sources)
        for (_, file), entry in zip(self.files, record["sources"], strict=True):
            entry["sha256"] = _sha256(file)
        record["fingerprint"] = fingerprint
        if fingerprint != self._fingerprint():
            raise RunError(f"the files of planet {self.planet.name} changed while they were read")
        write_atomically(self._journal, json.dumps(record).encode())
        return record

    def _convert(self, sources: dict[int, SourceFile]) -> dict[str, Any]:
        layout = self.layout
        transfers = {epoch: Transfer(source, layout.grid, layout.levels) for epoch, source in sources.items()}
        budgets: dict[int, dict[str, np.ndarray]] = {epoch: {} for epoch in sources}
        qualities: dict[int, dict[str, Any]] = {epoch: {} for epoch in sources}
        record: dict[str, Any] = {"chunks": {}, "moments": {}, "notes": []}
        for group in GROUPS:
            for v, variable in enumerate(layout.variables[group]):
                values = np.full(layout.shape(group), np.nan, np.float32)
                for epoch, source in sources.items():
                    counted, kept = quality.VariableQuality(variable), []
                    for slab in source.slabs(variable):
                        counted.add(slab.values, slab.num_fill)
                        transfers[epoch](variable, slab, values[slab.times, epoch])
                        if variable.name in _BUDGETS:
                            kept.append(slab.values)
                    if kept:
                        budgets[epoch][variable.name] = np.concatenate(kept)
                    completeness = float(np.isfinite(values[:, epoch]).mean())
                    minimum = self.request.minimum_completeness
                    quality.check_completeness(source.path, variable.name, completeness, minimum)
                    qualities[epoch][variable.name] = counted.record(completeness)
                if group == "static" and (width := _width_over_epochs(values)):
                    change = f"{variable.name} differs between epochs by up to {width:.3g} {variable.units}"
                    record["notes"].append(f"{self.planet.name}: {change}")
                name = chunk_name(group, self.index, v)
                record["chunks"][name] = write_chunk(self._store, name, values)
                record["moments"][variable.name] = statistics.to_json(statistics.moments(values, layout.grid))
        record["land_fraction"] = self._land_fraction(next(iter(sources.values())))
        record["files"] = [
            self._file_record(epoch, source, qualities[epoch], budgets[epoch]) for epoch, source in sources.items()
        ]
        record["sources"] = [
            {
                "file": self.names[file],
                "planet": self.planet.name,
                "epoch": layout.epochs[epoch],
                "bytes": file.stat().st_size,
                "modified_ns": file.stat().st_mtime_ns,
            }
            for epoch, file in self.files
        ]
        return record

    def _land_fraction(self, source: SourceFile) -> float | None:
        """For the split: area mean of the land mask, whether or not it is in the store."""
        mask = VARIABLES["sftlf"]
        if not source.has(mask):
            return None
        return float(area_mean(np.nan_to_num(source.read(mask)[0, 0].astype(np.float64)), source.grid))

    def _file_record(
        self, epoch: int, source: SourceFile, variables: dict[str, Any], budgets: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        balance = drift = None
        if {"rst", "rlut"} <= budgets.keys():
            time_weights = np.diff(source.climate_time_edges)
            balance = quality.energy_balance(budgets["rst"], budgets["rlut"], time_weights, source.grid)
        if {"ps", "hus"} <= budgets.keys():
            drift = quality.dry_mass_drift(budgets["ps"], budgets["hus"], source.levels, source.grid)
        return {
            "file": self.names[source.path],
            "planet": self.planet.name,
            "epoch": self.layout.epochs[epoch],
            "toa_balance_W_m2": balance,
            "dry_mass_drift": drift,
            "handled": source.notes,
            "variables": variables,
        }


def _width_over_epochs(values: np.ndarray) -> float:
    """By how much a static field, ``[1, geological_time, 1, lat, lon]``, changes between epochs, at most."""
    present = values[:, np.isfinite(values).any((0, 2, 3, 4))]
    if present.shape[1] < 2:
        return 0.0
    width = float(np.nanmax(present.max(1) - present.min(1)))
    return width if width > _STATIC_TOLERANCE * float(np.nanmax(present) - np.nanmin(present)) else 0.0


def _complete(plan: Plan, folder: Path, records: Sequence[dict[str, Any]], request: Request) -> None:
    """Adds all that a store has beside chunks, and waits until it is on the disk."""
    chunks = {name: crc for record in records for name, crc in record["chunks"].items()}
    # Conversions with other options, and attempts to complete this one, may have left something there.
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        if str(file.relative_to(folder)) not in chunks:
            file.unlink()
    for empty in [item for item in folder.iterdir() if not any(item.iterdir())]:
        empty.rmdir()
    parameters = np.stack([planet.parameters for planet in plan.planets])
    present = np.asarray([[file is not None for file in planet.files] for planet in plan.planets])
    locked = parameters[:, :, PARAMETER_NAMES.index("tidally_locked")]
    split = split_planets(
        [
            Planet(planet.name, bool(np.nanmax(locked[i]) == 1), _or_nan(records[i]["land_fraction"]))
            for i, planet in enumerate(plan.planets)
        ],
        request.fold,
    )
    training = [record for planet, record in zip(plan.planets, records, strict=True) if planet.name in split["train"]]
    summaries = {
        name: statistics.summary(statistics.total(statistics.from_json(r["moments"][name]) for r in training))
        for name in records[0]["moments"]
    }
    files = [file for record in records for file in record["files"]]
    notes = [*_notes(files), *(note for record in records for note in record["notes"])]
    report = quality.summarize(files, plan.missing(), notes)
    write_atomically(folder / "quality.json", json.dumps(report, indent=1).encode())
    write_atomically(folder / "quality.txt", quality.render(report).encode())
    write_metadata(
        folder,
        plan.layout,
        planets=[planet.name for planet in plan.planets],
        parameters=parameters,
        present=present,
        split=split,
        statistics=summaries,
        provenance={
            "version": astrojax.__version__,
            "request": request.record(),
            "sources": sorted((s for record in records for s in record["sources"]), key=lambda s: s["file"]),
        },
        notes=[*(f"missing: {line}" for line in plan.missing()), *notes],
    )
    write_checksums(folder, chunks)

    def flush(file: Path) -> None:
        with file.open("rb") as f:
            os.fsync(f.fileno())

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(flush, (file for file in folder.rglob("*") if file.is_file())))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _notes(files: Sequence[dict[str, Any]]) -> list[str]:
    """What was handled, with the number of files that needed it."""
    counts: dict[str, int] = {}
    for file in files:
        for note in file["handled"]:
            counts[note] = counts.get(note, 0) + 1
    return [f"{note} ({count} of {len(files)} files)" for note, count in counts.items()]


class _Progress:
    """Planets done, pace and time left: one line that rewrites itself on a terminal, a line each elsewhere."""

    def __init__(self, left: Sequence[_Task], done: int, total: int):
        self._began, self._done, self._total = time.monotonic(), done, total
        self._bytes_left, self._bytes = sum(task.num_bytes for task in left), 0

    def show(self, task: _Task) -> None:
        self._done += 1
        self._bytes += task.num_bytes
        self._bytes_left -= task.num_bytes
        rate = self._bytes / max(time.monotonic() - self._began, 1e-9)
        filled = 24 * self._done // self._total
        line = (
            f"[{'#' * filled}{'.' * (24 - filled)}] {self._done}/{self._total} planets  "
            f"{format_bytes(rate)}/s  {format_seconds(self._bytes_left / rate)} left"
        )
        if sys.stdout.isatty():
            print(f"\r{line}\x1b[K", end="", flush=True)
        else:
            say(line)

    def end(self) -> None:
        if sys.stdout.isatty():
            print()
