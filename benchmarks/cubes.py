"""The data path of climate cubes beside the xarray way: 1.88 GB batches from NetCDF files and from the store.

python -m benchmarks.cubes        # needs: pip install -e '.[test]' (xarray), 4 GB of disk, 8 GB of memory

Two planets at four epochs, twelve variables of 12 months x 50 levels on 48 x 96 cells, not compressed, are brought to
64 x 128 cells: a batch ``[2, 12, 12, 4, 50, 64, 128]`` float32 of 1.88 GB. The values are made up, since no such
ensemble exists. One process, the same files: the xarray way opens each file, interpolates each variable to the grid
(``interp``), stacks the epochs and copies them into the batch; ours is ``read_cubes``. Both sides are run once untimed
for the files to be in the page cache, then take turns, writing into the same batch: memory got anew from the system
would cost both as much. The store is read by the training feed (Grain), warm after the
first batches, and cold after its files are dropped from the page cache. Peak memory is the process's own peak in a run
of its own, less what it had before the batch, over the size of the batch.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import netCDF4
import numpy as np

from astrojax.data import cubes
from benchmarks.record import save_result

PLANETS, EPOCHS, MONTHS, LEVELS = 2, 4, 12, 50
SOURCE, TARGET = (48, 96), (64, 128)
VARIABLES = ("ta", "hus", "ua", "va", *(f"tracer{i}" for i in range(8)))
ATTRIBUTES = {
    "instellation_W_m2": 1000.0,
    "stellar_temperature_K": 3900.0,
    "rotation_period_days": 1.0,
    "orbital_period_days": 360.0,
    "radius_m": 6.4e6,
    "gravity_m_s2": 9.81,
    "pN2_bar": 1.0,
    "pCO2_bar": 0.001,
    "dry_gas_constant_J_kg_K": 297.0,
    "epoch_age_Ga": 0.0,
}
UNITS = {"ta": "K", "ua": "m s-1", "va": "m s-1"}
STANDARD_NAMES = {
    "ta": "air_temperature",
    "hus": "specific_humidity",
    "ua": "eastward_wind",
    "va": "northward_wind",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of our side")
    parser.add_argument("--xarray-rounds", type=int, default=2, help="of the xarray way, which takes far longer")
    parser.add_argument("--folder", type=Path, help="where files are made (default: a temporary folder)")
    parser.add_argument("--peak", choices=("ours", "xarray"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.peak:
        return print(json.dumps(peak_memory(flags.folder, flags.peak)))
    with tempfile.TemporaryDirectory(dir=flags.folder) as scratch:
        return measure(Path(scratch), flags)


def measure(folder: Path, flags) -> None:
    files = folder / "files"
    files.mkdir()
    write_files(files)
    batch_bytes = PLANETS * len(VARIABLES) * MONTHS * EPOCHS * LEVELS * np.prod(TARGET) * 4
    seconds = {"ours": [], "xarray": []}
    with_ours, with_xarray = from_netcdf(files), by_xarray(files)
    batch = {"levels": np.zeros_like(with_ours)}
    # Beyond the outermost centres xarray has no neighbour and leaves NaN.
    inside = np.isfinite(with_xarray)
    difference = float(np.abs(np.where(inside, with_ours - with_xarray, 0)).max() / np.nanstd(with_xarray[0, 0]))
    del with_ours, with_xarray, inside
    for turn in range(flags.rounds):
        seconds["ours"].append(timed(lambda: from_netcdf(files, batch)))
        if turn < flags.xarray_rounds:
            seconds["xarray"].append(timed(lambda: by_xarray(files, batch)))
    peaks = {side: peak_in_process(files, side) for side in seconds}

    store = cubes.convert([str(files)], folder / "cubes.zarr", request(), workers=1)
    warm, cold = from_store(store)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    figures = {
        "batch_bytes": int(batch_bytes),
        "largest_difference_in_standard_deviations": difference,
        "netcdf_seconds": seconds,
        "netcdf_ratio": medians["xarray"] / medians["ours"],
        "netcdf_peak_over_batch": {side: peak / batch_bytes for side, peak in peaks.items()},
        "store_warm_seconds": warm,
        "store_cold_seconds": cold,
    }
    import xarray
    import zarr

    versions = {"numpy": np.__version__, "xarray": xarray.__version__, "zarr": zarr.__version__}
    path = save_result("cubes", figures, versions)
    print(
        f"from NetCDF: {medians['ours']:.2f} s, xarray {medians['xarray']:.1f} s, ratio {figures['netcdf_ratio']:.1f}"
    )
    print("peak over batch:", {side: round(x, 2) for side, x in figures["netcdf_peak_over_batch"].items()})
    print(f"from the store: warm {statistics.median(warm):.2f} s, cold {cold:.2f} s per {batch_bytes / 1e9:.2f} GB")
    print(f"written to {path}")


def write_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lat, lon = np.meshgrid(np.linspace(-88, 88, SOURCE[0]), np.arange(SOURCE[1]) * 360 / SOURCE[1], indexing="ij")
    pattern = np.cos(np.deg2rad(lat)) * np.cos(np.deg2rad(3 * lon))
    for planet in range(PLANETS):
        for epoch in range(EPOCHS):
            with netCDF4.Dataset(folder / f"planet{planet}_epoch{epoch}.nc", "w") as file:
                file.setncatts(ATTRIBUTES | {"planet_index": planet, "epoch_index": epoch, "planet_name": f"p{planet}"})
                axes = {"time": MONTHS, "lev": LEVELS, "lat": SOURCE[0], "lon": SOURCE[1]}
                for name, size in axes.items():
                    file.createDimension(name, size)
                for name, values, attributes in (
                    ("time", np.arange(MONTHS) * 30 + 15.0, {"units": "days since 0001-01-01", "axis": "T"}),
                    (
                        "lev",
                        (np.arange(LEVELS) + 0.5) / LEVELS,
                        {"standard_name": "atmosphere_sigma_coordinate", "units": "1", "axis": "Z"},
                    ),
                    ("lat", lat[:, 0], {"standard_name": "latitude", "units": "degrees_north"}),
                    ("lon", lon[0], {"standard_name": "longitude", "units": "degrees_east"}),
                ):
                    coordinate = file.createVariable(name, "f8", (name,))
                    coordinate.setncatts(attributes)
                    coordinate[...] = values
                for name in VARIABLES:
                    field = file.createVariable(name, "f4", tuple(axes), contiguous=True)
                    attributes = {"standard_name": STANDARD_NAMES[name]} if name in STANDARD_NAMES else {}
                    field.setncatts(attributes | {"units": UNITS.get(name, "1")})
                    noise = rng.standard_normal((MONTHS, LEVELS, 1, 1), np.float32)
                    field[...] = (0.5 + 0.1 * (pattern + noise)).astype(np.float32)


def request() -> cubes.Request:
    return cubes.Request(variables=VARIABLES, grid=f"{TARGET[0]}x{TARGET[1]}")


def from_netcdf(folder: Path, batch: dict[str, np.ndarray] | None = None) -> np.ndarray:
    plan = cubes.plan_conversion(cubes.find_files([str(folder)]), request())
    return cubes.read_cubes(plan, out=batch)["levels"]


def by_xarray(folder: Path, batch: dict[str, np.ndarray] | None = None) -> np.ndarray:
    import xarray

    lat = 180 / TARGET[0] * (np.arange(TARGET[0]) + 0.5) - 90
    lon = 360 / TARGET[1] * np.arange(TARGET[1])
    shape = (PLANETS, len(VARIABLES), MONTHS, EPOCHS, LEVELS, *TARGET)
    result = batch["levels"] if batch else np.empty(shape, np.float32)
    for planet in range(PLANETS):
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(xarray.open_dataset(folder / f"planet{planet}_epoch{epoch}.nc", decode_times=False))
                for epoch in range(EPOCHS)
            ]
            for v, name in enumerate(VARIABLES):
                result[planet, v] = np.stack([file[name].interp(lat=lat, lon=lon).values for file in files], axis=1)
    return result


def from_store(store: cubes.CubeStore) -> tuple[list[float], float]:
    """Seconds per batch of the feed: when its files are cached, and of a first batch when they are not."""

    def feed():
        return iter(cubes.training_batches(store, store.planets, batch_size=PLANETS, seed=0))

    batches = feed()
    for _ in range(4):
        next(batches)
    warm = [timed(lambda: next(batches)) for _ in range(10)]
    del batches
    time.sleep(5)  # What it still reads ahead must not warm the files again.
    for file in store.path.rglob("*"):
        if file.is_file():
            with file.open("rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return warm, timed(lambda: next(feed()))


def peak_in_process(folder: Path, side: str) -> float:
    command = [sys.executable, "-m", "benchmarks.cubes", "--peak", side, "--folder", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def peak_memory(folder: Path, side: str) -> int:
    if side == "xarray":
        import xarray  # noqa: F401  Not part of the batch's memory.
    before = resident("VmRSS")
    (from_netcdf if side == "ours" else by_xarray)(folder)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of this process in memory: now (``VmRSS``) or at most (``VmHWM``)."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def timed(work) -> float:
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result
    return seconds


if __name__ == "__main__":
    main()
