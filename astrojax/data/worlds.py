"""Planets that no file describes: from a few numbers to what a climate model is told."""

from collections.abc import Mapping

import numpy as np
from jax.typing import ArrayLike

from astrojax.data.boundary import Boundary, boundary_of_planets
from astrojax.data.cubes import PARAMETERS
from astrojax.errors import RequestError
from astrojax.physics.grid import Grid

# What most planets one thinks of have none of.
_UNLESS_GIVEN = dict.fromkeys(("obliquity", "eccentricity", "substellar_longitude", "tidally_locked", "epoch_age"), 0.0)
_RANGES = {parameter.name: parameter.valid for parameter in PARAMETERS}
# Of the range of what a model has learnt from: rounding.
_SLACK = 1e-3


def make_worlds(
    parameters: Mapping[str, ArrayLike],
    grid: Grid,
    month_edges: np.ndarray,
    parameter_names: tuple[str, ...],
    *,
    land_area_fraction: ArrayLike = 0.0,
    surface_altitude: ArrayLike = 0.0,
) -> Boundary:
    """The inputs of planets of which only parameters are known.

    Args:
        parameters: name -> a value for all planets, ``[planet]`` or ``[planet, epoch]``, in the units of
            :data:`astrojax.data.cubes.PARAMETERS`. Obliquity, eccentricity, substellar_longitude, tidally_locked and
            epoch_age are 0 unless given.
        grid: the cells.
        month_edges: ``[climate_time + 1]``, where months begin and end, in orbits.
        parameter_names: which parameters the model reads; ``"land_area_fraction"`` comes from the map.
        land_area_fraction: ``[lat, lon]``, or with ``[planet, 1, epoch]`` before them.
        surface_altitude: the same, m.

    Raises:
        RequestError: a parameter is missing, unknown, out of range or of another number of planets.
    """
    allowed = {*_UNLESS_GIVEN, *parameter_names, "surface_pressure"} - {"land_area_fraction"}
    if unknown := sorted(set(parameters) - allowed):
        raise RequestError(f"no parameter {', '.join(unknown)}; the model knows {', '.join(sorted(allowed))}")
    given = {name: np.asarray(values, np.float64) for name, values in (_UNLESS_GIVEN | dict(parameters)).items()}
    for name, values in given.items():
        low, high = _RANGES.get(name, (-np.inf, np.inf))
        if not ((values >= low) & (values <= high)).all():
            raise RequestError(f"{name}={values.tolist()} should be {low:g} to {high:g}")
    given = {name: values[:, None] if values.ndim == 1 else values for name, values in given.items()}
    try:
        shape = np.broadcast_shapes((1, 1), *(values.shape for values in given.values()))
    except ValueError as error:
        sizes = ", ".join(f"{name} {list(values.shape)}" for name, values in given.items() if values.size > 1)
        raise RequestError(f"parameters of different numbers of planets or epochs: {sizes}") from error
    cells = len(grid.lat), len(grid.lon)
    maps = {"land_area_fraction": land_area_fraction, "surface_altitude": surface_altitude}
    maps = {name: np.asarray(field, np.float64) for name, field in maps.items()}
    whole = (shape[0], len(month_edges) - 1, shape[1], *cells)
    for name, field in maps.items():
        try:
            np.broadcast_to(field, whole)
        except ValueError as error:
            raise RequestError(
                f"{name} {list(field.shape)} does not fit {shape[0]} planets of {cells} cells"
            ) from error
        if not np.isfinite(field).all():
            raise RequestError(f"{name} has missing values")
    return boundary_of_planets(
        {name: np.broadcast_to(values, shape) for name, values in given.items()},
        grid,
        month_edges,
        parameter_names,
        planets=[f"planet {i}" for i in range(shape[0])],
        present=np.ones(shape, bool),
        **maps,
    )


def beyond(worlds: Boundary, known: Boundary, planets: list[int]) -> tuple[str, ...]:
    """Parameters in which worlds lie outside of the range of ``planets`` of ``known``."""
    values = known.parameters[planets][known.present[planets]]
    slack = _SLACK * np.ptp(values, axis=0)
    outside = (worlds.parameters < values.min(0) - slack) | (worlds.parameters > values.max(0) + slack)
    return tuple(name for name, out in zip(worlds.parameter_names, outside.any((0, 1)), strict=True) if out)
