"""What a climate model is told of a planet: maps of its boundary, and its parameters.

Boundary maps are the local causes of climate: starlight, the rotation that a place feels, land and mountains. They are
known before any climate is, on any grid, and are what lets a network treat a new planet as places it has seen.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from astrojax.data.cubes.store import CubeStore
from astrojax.errors import RequestError
from astrojax.physics.circulation import Response, coriolis_parameter, linear_response, rotation_number
from astrojax.physics.constants import STEFAN_BOLTZMANN
from astrojax.physics.grid import Grid, area_mean
from astrojax.physics.insolation import Orbit, insolation
from astrojax.physics.scattering import scattered_share

MAPS = (
    # K. What would radiate as much as clear air lets through: this month here, all year here, all year everywhere.
    "emission_temperature",
    "annual_emission_temperature",
    "global_emission_temperature",
    "insolation",  # W m-2
    "annual_insolation",
    "coriolis_parameter",  # radians per day
    "absolute_coriolis_parameter",
    # How a layer of air would answer to this month's light, by linear theory: its wind, and where it would be warm.
    "linear_eastward_wind",
    "linear_northward_wind",
    "linear_thickness",
    "sine_of_latitude",
    "absolute_sine_of_latitude",
    "land_area_fraction",
    "surface_altitude",  # m
)

# Those that change their sign where hemispheres change places: what tells them apart.
ANTISYMMETRIC = ("coriolis_parameter", "linear_northward_wind", "sine_of_latitude")

# What the maps are computed from, whatever a model reads.
_ALWAYS = {
    *("instellation", "stellar_temperature", "rotation_period", "tidally_locked", "radius", "gravity", "epoch_age")
}

# Parameters that span decades, so that ratios matter and not differences.
_LOGARITHMIC = ("rotation_period", "orbital_period", "surface_pressure", "pN2", "pCO2", "pCH4")
# Of the linear response, in the time that a wave takes for a planet's radius, about half a day: friction and cooling
# within two or three days.
_DAMPING = 0.2
# A planet has seasons where a latitude's months differ by more than this part of its strongest light.
_SEASONS_FROM = 1e-2


@dataclasses.dataclass(frozen=True, eq=False)
class Boundary:
    """Inputs of every planet of a store, in its order.

    Attributes:
        maps: ``[planet, map, climate_time, geological_time, 1, lat, lon]`` float32, those of ``MAPS``.
        insolation: the same without the map axis, W m-2.
        parameters: ``[planet, geological_time, parameter]`` float32, logarithms of those that span decades.
        parameter_names: what its last axis is.
        ages: ``[planet, geological_time]`` float32, Ga before the planet's present.
        pressure: the same, nominal pressure at the surface in Pa.
        rotating: ``[planet]`` bool, whether the star moves over its sky.
        seasons: ``[planet]`` bool.
        present: ``[planet, geological_time]`` bool. What is not there is zero everywhere else, but for its pressure.
    """

    maps: np.ndarray
    insolation: np.ndarray
    parameters: np.ndarray
    parameter_names: tuple[str, ...]
    ages: np.ndarray
    pressure: np.ndarray
    rotating: np.ndarray
    seasons: np.ndarray
    present: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Standard:
    """Mean and standard deviation over training planets, of maps (area-weighted) and parameters."""

    map_mean: np.ndarray
    map_std: np.ndarray
    parameter_mean: np.ndarray
    parameter_std: np.ndarray

    @classmethod
    def of(cls, boundary: Boundary, planets: list[int], grid) -> "Standard":
        """The statistics of the epochs that ``planets`` have."""
        present = boundary.present[planets]
        maps_nmtyx = np.moveaxis(boundary.maps[planets][:, :, :, :, 0], 3, 1)[present].astype(np.float64)
        map_mean = area_mean(maps_nmtyx.mean((0, 2)), grid)
        map_var = area_mean(((maps_nmtyx - map_mean[:, None, None, None]) ** 2).mean((0, 2)), grid)
        parameters = boundary.parameters[planets][present].astype(np.float64)
        return cls(map_mean, _spread(map_var**0.5), parameters.mean(0), _spread(parameters.std(0)))

    def maps(self, maps):
        """Standardised ``[b, map, ...]``."""
        shape = (-1, *[1] * (maps.ndim - 2))
        return (maps - self.map_mean.reshape(shape).astype(np.float32)) / self.map_std.reshape(shape).astype(np.float32)

    def parameters(self, parameters):
        """Standardised ``[..., parameter]``."""
        return (parameters - self.parameter_mean.astype(np.float32)) / self.parameter_std.astype(np.float32)


def _spread(std: np.ndarray) -> np.ndarray:
    """What to divide by: what never changes in training says nothing, also where it does later, and becomes zero."""
    return np.where(std > 1e-9, std, np.inf)


def make_boundary(store: CubeStore, parameter_names: tuple[str, ...]) -> Boundary:
    """Computes the inputs of a store's planets.

    Insolation is that of the files where they hold it (``rsdt``): a general circulation model's own, in which five days
    are not a whole number of turns, so that its longitudes differ. Else it is computed from star and orbit, and the
    year begins at the northern spring equinox.

    Args:
        store: the cubes.
        parameter_names: which parameters a model reads; ``"land_area_fraction"`` is the area mean of that map.

    Raises:
        RequestError: the store lacks a parameter.
    """

    def field(name: str) -> np.ndarray | None:
        if not any(name in names for names in store.variables.values()):
            return None
        return np.nan_to_num(store.read_variable(name)[:, :, :, 0]).astype(np.float64)

    light = None
    if "rsdt" in store.variables.get("surface", ()):
        light = store.read_variable("rsdt")[:, :, :, 0].astype(np.float64)
        gaps = ~np.isfinite(light).all((1, 3, 4)) & store.present
        if gaps.any():
            raise RequestError(f"{store.path}: rsdt of {store.planets[np.argwhere(gaps)[0][0]]} has missing values")
    try:
        return boundary_of_planets(
            {name: store.parameters[..., i] for i, name in enumerate(store.parameter_names)},
            store.grid,
            store.climate_time_edges,
            parameter_names,
            planets=store.planets,
            present=store.present,
            land_area_fraction=field("sftlf"),
            surface_altitude=field("orog"),
            light=light,
        )
    except RequestError as error:
        raise RequestError(f"{store.path}: {error}") from error


def boundary_of_planets(
    parameters: Mapping[str, np.ndarray],
    grid: Grid,
    month_edges: np.ndarray,
    parameter_names: tuple[str, ...],
    *,
    planets: Sequence[str],
    present: np.ndarray,
    land_area_fraction: np.ndarray | None = None,
    surface_altitude: np.ndarray | None = None,
    light: np.ndarray | None = None,
) -> Boundary:
    """Computes the inputs of planets from their parameters and the maps of their surface.

    Args:
        parameters: name -> ``[planet, geological_time]``, in the units of the project's files.
        grid: the cells.
        month_edges: ``[climate_time + 1]``, where months begin and end, in orbits.
        parameter_names: which parameters a model reads; ``"land_area_fraction"`` is the area mean of that map.
        planets: their names, for errors.
        present: ``[planet, geological_time]`` bool, which epochs there are.
        land_area_fraction: ``[planet, climate_time, geological_time, lat, lon]``, or what broadcasts to it; all ocean
            where not given.
        surface_altitude: the same, m; flat where not given.
        light: the same, W m-2, at the top of the atmosphere; computed from star and orbit where not given.

    Raises:
        RequestError: a parameter is missing or describes no orbit.
    """
    parameters = dict(parameters)
    needed = {*_ALWAYS, *parameter_names} - {"land_area_fraction"}
    if "surface_pressure" not in parameters:
        needed |= {"pN2", "pCO2"}
    if light is None:
        needed |= {"obliquity", "eccentricity", "substellar_longitude"}
    if missing := sorted(needed - set(parameters)):
        raise RequestError(f"no parameter {', '.join(missing)}; there are {', '.join(parameters)}")
    shape = (len(planets), len(month_edges) - 1, present.shape[1], len(grid.lat), len(grid.lon))
    present_ptgyx = present[:, None, :, None, None]
    if light is None:
        light = np.zeros(shape)
        for planet, epoch in np.argwhere(present):
            light[planet, :, epoch] = _insolation(planets[planet], parameters, planet, epoch, grid, month_edges)
    light = np.where(present_ptgyx, light, 0.0)
    land, altitude = (
        np.zeros(shape) if field is None else np.broadcast_to(field, shape)
        for field in (land_area_fraction, surface_altitude)
    )
    annual = np.broadcast_to(light.mean(1, keepdims=True), shape)
    everywhere = np.broadcast_to(area_mean(annual, grid)[..., None, None], shape)
    lat = grid.lat[:, None]
    sine, days = np.sin(np.deg2rad(lat)), parameters["rotation_period"][:, None, :, None, None]
    coriolis = np.broadcast_to(coriolis_parameter(days, lat), shape)
    column = _nominal_pressure(parameters) / parameters["gravity"]
    let_through = 1 - scattered_share(parameters["stellar_temperature"], column)[:, None, :, None, None]

    def emission_temperature(light):
        return (light * np.where(present_ptgyx, let_through, 0.0) / STEFAN_BOLTZMANN) ** 0.25

    emission = emission_temperature(everywhere)
    heating = light / np.where(everywhere > 0, everywhere, 1)
    response = _linear_response(heating, emission[:, 0, :, 0, 0], parameters, present, grid)
    maps = {
        "emission_temperature": emission_temperature(light),
        "annual_emission_temperature": emission_temperature(annual),
        "global_emission_temperature": emission,
        "insolation": light,
        "annual_insolation": annual,
        "coriolis_parameter": coriolis,
        "absolute_coriolis_parameter": np.abs(coriolis),
        "linear_eastward_wind": response.eastward,
        "linear_northward_wind": response.northward,
        "linear_thickness": response.thickness,
        "sine_of_latitude": np.broadcast_to(sine, shape),
        "absolute_sine_of_latitude": np.broadcast_to(np.abs(sine), shape),
        "land_area_fraction": land,
        "surface_altitude": altitude,
    }
    parameters["land_area_fraction"] = area_mean(land.mean(1), grid)
    chosen = [_comparable(name, parameters[name]) for name in parameter_names]
    locked = np.nanmax(parameters["tidally_locked"], axis=1) > 0.5
    zonal = light.mean(-1)
    seasons = ~locked & (np.ptp(zonal, axis=1).max((1, 2)) > _SEASONS_FROM * zonal.max((1, 2, 3)))
    return Boundary(
        maps=np.stack([np.where(present_ptgyx, maps[name], 0) for name in MAPS], 1)[..., None, :, :].astype(np.float32),
        insolation=light[:, :, :, None].astype(np.float32),
        parameters=_known(np.stack(chosen, axis=-1), present[..., None]),
        parameter_names=parameter_names,
        ages=_known(parameters["epoch_age"], present),
        # Any pressure will do where there is no epoch, but none would be divided by.
        pressure=np.where(present, _nominal_pressure(parameters), 1e5).astype(np.float32),
        rotating=~locked,
        seasons=seasons,
        present=present,
    )


def _insolation(name: str, parameters, planet: int, epoch: int, grid: Grid, month_edges: np.ndarray) -> np.ndarray:
    star = {parameter: float(values[planet, epoch]) for parameter, values in parameters.items()}
    try:
        orbit = Orbit(
            instellation=star["instellation"],
            obliquity=star["obliquity"],
            eccentricity=star["eccentricity"],
            tidally_locked=star["tidally_locked"] > 0.5,
            substellar_longitude=star["substellar_longitude"],
        )
    except ValueError as error:
        raise RequestError(f"{name}: {error}") from error
    return insolation(grid, orbit, month_edges)


def _linear_response(heating, emission_temperature, parameters, present: np.ndarray, grid: Grid) -> Response:
    response = Response(*(np.zeros(heating.shape) for _ in Response._fields))
    for planet, epoch in np.argwhere(present):
        rotation_period, radius = (parameters[name][planet, epoch] for name in ("rotation_period", "radius"))
        rotation = rotation_number(emission_temperature[planet, epoch], rotation_period, radius)
        here = linear_response(heating[planet, :, epoch], rotation, _DAMPING, grid)
        for whole, part in zip(response, here, strict=True):
            whole[planet, :, epoch] = part
    return response


def _nominal_pressure(parameters: dict[str, np.ndarray]) -> np.ndarray:
    given = parameters.get("surface_pressure")
    return parameters["pN2"] + parameters["pCO2"] if given is None else given


def _comparable(name: str, values: np.ndarray) -> np.ndarray:
    # Pa or days: less than a thousandth of them is as good as none.
    return np.log10(np.maximum(values, 1e-3)) if name in _LOGARITHMIC else values


def _known(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    return np.where(present, values, 0.0).astype(np.float32)
