"""Climate cubes: from NetCDF files of a general circulation model to batches on their way to a device.

A cube is one planet, ``[variable, climate_time, geological_time, lev, lat, lon]``: the year and the planet's history
are two axes. A store holds the cubes of many planets in three groups: ``levels`` (with a vertical axis), ``surface``
(one level) and ``static`` (one level, one climate time). Latitudes ascend, longitudes go from 0 to 360 degrees east,
levels from the top of the atmosphere down, units are SI, what is missing is NaN. It is a Zarr v3 directory that
``zarr.open_group`` and ``xarray.open_zarr`` read; a chunk is one variable of one planet, float32 and not compressed, so
that reading is copying. Names, units, the split by planet, statistics of its training part and the sources' checksums
are in the attribute ``astrojax``; ``quality.txt`` says what is good and bad about the data, ``checksums.json`` what the
CRC-32 of each file is. ``python -m astrojax.data.cubes --help`` makes one, ``CubeStore.open`` reads it, and
``training_batches`` feeds a model from it.
"""

from astrojax.data.cubes.conversion import convert
from astrojax.data.cubes.direct import read_cubes
from astrojax.data.cubes.discover import Naming, find_files
from astrojax.data.cubes.feed import evaluation_batches, training_batches
from astrojax.data.cubes.levels import Levels
from astrojax.data.cubes.parameters import PARAMETER_NAMES, PARAMETERS
from astrojax.data.cubes.plan import Plan, Request, plan_conversion
from astrojax.data.cubes.splits import split_planets
from astrojax.data.cubes.store import CubeStore
from astrojax.data.cubes.variables import VARIABLES, Variable

__all__ = [
    "PARAMETERS",
    "PARAMETER_NAMES",
    "VARIABLES",
    "CubeStore",
    "Levels",
    "Naming",
    "Plan",
    "Request",
    "Variable",
    "convert",
    "evaluation_batches",
    "find_files",
    "plan_conversion",
    "read_cubes",
    "split_planets",
    "training_batches",
]
