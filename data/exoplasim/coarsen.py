"""Makes the files of this folder from the full ensemble: cells merged two by two, and values rounded and packed.

python data/exoplasim/coarsen.py ENSEMBLE_FOLDER data/exoplasim
"""

import argparse
from pathlib import Path

import netCDF4
import numpy as np

from astrojax.physics.grid import Grid
from astrojax.physics.regrid import Regridder

# Steps to which values are rounded, in each variable's unit: far below the weather noise of five-day means.
STEPS = {
    "ta": 0.5,
    "ua": 1.0,
    "va": 1.0,
    "cl": 0.02,
    "ts": 0.2,
    "ps": 20.0,
    "sic": 0.01,
    "albs": 0.01,
    "rsdt": 0.5,
    "rst": 1.0,
    "rlut": 1.0,
    "sftlf": 0.01,
    "orog": 1.0,
}
# Significant bits of what spans orders of magnitude.
BITS = {"hus": 5, "pr": 4}


def merged_pairs(fine: Grid) -> Grid:
    """The grid whose cells are two by two of ``fine``'s; each centre halves its cell's area."""
    lat_edges, lon_edges = fine.lat_edges[::2], fine.lon_edges[::2]
    sines = np.sin(np.deg2rad(lat_edges))
    lat = np.rad2deg(np.arcsin((sines[1:] + sines[:-1]) / 2))
    return Grid(lat, (lon_edges[1:] + lon_edges[:-1]) / 2, lat_edges, lon_edges)


def coarsen(source: Path, target: Path) -> None:
    with netCDF4.Dataset(source) as full, netCDF4.Dataset(target, "w") as small:
        full.set_auto_mask(False)
        fine = Grid.of_centres(full["lat"][::-1], full["lon"][:])
        coarse = merged_pairs(fine)
        merge = Regridder(fine, coarse, "conservative")
        small.setncatts({name: full.getncattr(name) for name in full.ncattrs()})
        small.history += "; area means of 2 x 2 cells, rounded and packed by coarsen.py"
        small.licence = "CC BY 4.0"
        for name, size in (("time", 12), ("lev", 10), ("lat", len(coarse.lat)), ("lon", len(coarse.lon)), ("bnds", 2)):
            small.createDimension(name, size)
        for name in ("time", "time_bnds", "lev", "lev_bnds", "ptop"):
            copy_of(full[name], small, full[name][...])
        for axis in ("lat", "lon"):
            edges = getattr(coarse, f"{axis}_edges")
            copy_of(full[axis], small, getattr(coarse, axis)).bounds = f"{axis}_bnds"
            small.createVariable(f"{axis}_bnds", "f8", (axis, "bnds"))[...] = np.stack([edges[:-1], edges[1:]], axis=1)
        for name in (*STEPS, *BITS):
            values = merge(full[name][..., ::-1, :])
            kept = {"zlib": True, "complevel": 9, "shuffle": True}
            if name in STEPS:
                middle = np.round((values.min() + values.max()) / 2 / STEPS[name]) * STEPS[name]
                variable = small.createVariable(name, "i2", full[name].dimensions, **kept)
                variable.setncatts({"scale_factor": STEPS[name], "add_offset": float(middle)})
            else:
                variable = small.createVariable(
                    name, "f4", full[name].dimensions, least_significant_digit=None, significant_digits=BITS[name],
                    quantize_mode="BitRound", **kept
                )  # fmt: skip
            attributes = {a: full[name].getncattr(a) for a in full[name].ncattrs() if a != "quantization"}
            variable.setncatts(
                attributes | {"cell_methods": f"{attributes.get('cell_methods', '')} area: mean".strip()}
            )
            variable[...] = values


def copy_of(variable, target: netCDF4.Dataset, values) -> netCDF4.Variable:
    new = target.createVariable(variable.name, variable.dtype, variable.dimensions)
    new.setncatts({name: variable.getncattr(name) for name in variable.ncattrs()})
    new[...] = values
    return new


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ensemble", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    for file in sorted(arguments.ensemble.glob("planet*_epoch*.nc")):
        coarsen(file, arguments.out / file.name)
