"""A small ThousandWorlds: ten simulations in the layout of the published folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

# Number, planet and model. Planet 300 is tested on, and what ExoPlaSim makes of it left out; two models computed 302,
# the fifth of the planets that are trained on in the order of SHA-256.
SIMULATIONS = {
    10: ("300", "exocam"),
    11: ("300", "um"),
    12: ("301", "um"),
    13: ("304", "um"),
    14: ("302", "exoplasim"),
    15: ("302", "lfric"),
    16: ("305", "exocam-pre2022"),
    17: ("306", "um"),
    18: ("307", "um"),
    19: ("300", "exoplasim"),
}
TRAIN = {"single-complete": [13, 12], "multi-complete": [12, 13, 14, 15, 16], "multi-partial": [12, 13, 14, 15, 16, 17]}
TEST = {"single-complete": [18], "multi-complete": [18, 10, 11], "multi-partial": [18, 10, 11]}
SHARED = [10, 11]
# Whole fields that the archive with ten levels lacks.
MISSING = {(14, "u_0"), (10, "temperature_9"), (18, "cloud_fraction_9"), (18, "cloud_fraction_0")}


def names(num_levels: int) -> list[str]:
    """The field axis, in full."""
    levels = range(num_levels)
    return [
        "surface_temperature",
        *(f"temperature_{k}" for k in levels),
        *(f"specific_humidity_{k}" for k in levels),
        "asr_cloudy",
        "olr_cloudy",
        *(f"cloud_fraction_{k}" for k in levels),
        *(f"u_{k}" for k in levels),
        *(f"v_{k}" for k in levels),
    ]


def random_field(number: int, name: str) -> np.ndarray:
    """Anything, and always the same."""
    return np.random.default_rng([number, *name.encode()]).uniform(1, 2, (32, 64)).astype(np.float32)


def inputs(number: int) -> dict[str, object]:
    """A row of ``inputs.csv``."""
    planet, gcm = SIMULATIONS[number]
    return {
        "simulation_id": number,
        "radius": 6371000.0,
        "gravity": 9.8,
        "rotation_period": 10.0 + number,
        "surface_pressure": 200000.0,
        "co2": 0.25,
        "ch4": 0.0005,
        "stellar_flux": 900.0 + number,
        "stellar_temperature": 3000.0,
        "gcm_label": gcm,
        "is_target_gcm": gcm in ("exocam", "um"),
        "in_target_physical_domain": True,
        "planet_id": planet,
        "source": "this work",
    }


def write_table(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(map(str, values)) for values in (rows[0].keys(), *(row.values() for row in rows))]
    file.write_text("\n".join(lines) + "\n")


def write_archive(
    file: Path, num_levels: int, field: Callable[[int, str], np.ndarray] = random_field, **arrays
) -> None:
    """An archive, rows not in order; ``arrays`` replace what it holds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers, axis = sorted(SIMULATIONS, key=lambda n: n * 7 % 10), names(num_levels)
    fields = np.stack([[field(number, name) for name in axis] for number in numbers])
    if num_levels == 10:
        for number, name in MISSING:
            fields[numbers.index(number), axis.index(name)] = np.nan
    content = {"simulation_id": np.asarray(numbers), "field_names": np.asarray(axis), "fields": fields}
    np.savez(file, **content | arrays)


def write_benchmark(folder: Path, field: Callable[[int, str], np.ndarray] = random_field) -> Path:
    """The folder ``dataset`` as it is published."""
    write_table(folder / "inputs.csv", [inputs(number) for number in SIMULATIONS])
    write_archive(folder / "fields/all-obs.npz", 10, field)
    write_archive(folder / "fields/complete-obs-only.npz", 9, field)
    for subset in TRAIN:
        lists = {"train": TRAIN[subset], "test": TEST[subset]}
        if subset != "single-complete":
            lists |= {"test_shared_planets_only": SHARED, "held_out_aux": [19]}
        for name, numbers in lists.items():
            write_table(folder / f"subsets/{subset}/{name}.csv", [{"simulation_id": n} for n in numbers])
    return folder
