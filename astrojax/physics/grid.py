"""The cells of a latitude-longitude grid, their areas, and means over area and mass."""

import dataclasses
import functools

import numpy as np

# Degrees. Files keep coordinates in float32, or rounded to three decimals.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Cells bounded by parallels and meridians that cover the sphere.

    Attributes:
        lat: ``[lat]``, degrees north, ascending.
        lon: ``[lon]``, degrees east, ascending and equally spaced around the circle.
        lat_edges: ``[lat + 1]``, from -90 to 90.
        lon_edges: ``[lon + 1]``, 360 degrees from the first to the last.

    Raises:
        ValueError: the coordinates are not of this kind; the message holds the offending values.
    """

    lat: np.ndarray
    lon: np.ndarray
    lat_edges: np.ndarray
    lon_edges: np.ndarray

    def __post_init__(self):
        for name in ("lat", "lon", "lat_edges", "lon_edges"):
            values = np.array(getattr(self, name), np.float64)
            _require_ascending(name, values)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        _require_circle(self.lon)
        if abs(self.lat_edges[0] + 90) > 1e-9 or abs(self.lat_edges[-1] - 90) > 1e-9:
            raise ValueError(f"lat_edges from {self.lat_edges[0]} to {self.lat_edges[-1]} should span -90 to 90")
        if abs(self.lon_edges[-1] - self.lon_edges[0] - 360) > 1e-9:
            raise ValueError(f"lon_edges from {self.lon_edges[0]} to {self.lon_edges[-1]} should span 360 degrees")
        for name, centres, edges in (("lat", self.lat, self.lat_edges), ("lon", self.lon, self.lon_edges)):
            if len(edges) != len(centres) + 1:
                raise ValueError(f"{name}: {len(centres)} centres need {len(centres) + 1} edges, not {len(edges)}")
            outside = (centres < edges[:-1] - 1e-9) | (centres > edges[1:] + 1e-9)
            if outside.any():
                raise ValueError(f"{name}: {centres[outside][:3]} outside their cells, {edges=}")

    @classmethod
    def of_centres(cls, lat, lon) -> "Grid":
        """The grid that has its centres at ``lat`` and ``lon`` (degrees).

        Gaussian latitudes are recognised and bound cells whose areas are the Gaussian weights; other cells are bounded
        half-way between the centres, and by the poles.
        """
        lat, lon = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
        _require_ascending("lat", lat)
        _require_ascending("lon", lon)
        _require_circle(lon)
        if np.abs(lat).max() > 90 + _TOLERANCE:
            raise ValueError(f"lat from {lat[0]} to {lat[-1]} should lie within -90 and 90")
        lat = np.clip(lat, -90, 90)
        gaussian, gaussian_edges = _gaussian_latitudes(len(lat))
        if np.abs(lat - gaussian).max() < _TOLERANCE:
            lat, lat_edges = gaussian, gaussian_edges
        else:
            lat_edges = np.concatenate([[-90], (lat[1:] + lat[:-1]) / 2, [90]])
        step = 360 / len(lon)
        lon_edges = lon[0] + step * (np.arange(len(lon) + 1) - 0.5)
        return cls(lat, lon[0] + step * np.arange(len(lon)), lat_edges, lon_edges)

    @functools.cached_property
    def lat_weights(self) -> np.ndarray:
        """``[lat]``, the fraction of the sphere between the parallels that bound each row."""
        return np.diff(np.sin(np.deg2rad(self.lat_edges))) / 2

    @functools.cached_property
    def areas(self) -> np.ndarray:
        """``[lat, lon]``, steradians."""
        return 2 * self.lat_weights[:, None] * np.deg2rad(np.diff(self.lon_edges))


def regular(num_lat: int, num_lon: int) -> Grid:
    """Cells of equal angles, the first row half a step from the pole, the first column on the Greenwich meridian."""
    lat = 180 / num_lat * (np.arange(num_lat) + 0.5) - 90
    return Grid.of_centres(lat, 360 / num_lon * np.arange(num_lon))


def gaussian(num_lat: int, num_lon: int) -> Grid:
    """The grid of a spectral model, with the first centre on the Greenwich meridian."""
    return Grid.of_centres(_gaussian_latitudes(num_lat)[0], 360 / num_lon * np.arange(num_lon))


def area_mean(field, grid: Grid):
    """The mean of ``[..., lat, lon]`` over the sphere: ``[...]``, of NumPy or JAX like ``field``."""
    return (field.mean(-1) * grid.lat_weights).sum(-1)


def layer_mass(surface_pressure, sigma_edges, gravity):
    """The mass of air in each layer, ``[..., lev, lat, lon]`` in kg m-2.

    Args:
        surface_pressure: ``[..., lat, lon]``, Pa.
        sigma_edges: ``[lev + 1]``, pressure over surface pressure at the limits of the layers, ascending from 0 to 1.
        gravity: m s-2, one value or an array that broadcasts against ``surface_pressure``.
    """
    return (surface_pressure / gravity)[..., None, :, :] * np.diff(sigma_edges)[:, None, None]


def mass_mean(field, layer_mass, grid: Grid):
    """The mean of ``[..., lev, lat, lon]`` over the atmosphere's mass (``layer_mass``, alike, kg m-2): ``[...]``."""
    return area_mean((field * layer_mass).sum(-3), grid) / area_mean(layer_mass.sum(-3), grid)


def _gaussian_latitudes(num_lat: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and edges in degrees: the area between two edges is the weight of the node in between."""
    nodes, weights = np.polynomial.legendre.leggauss(num_lat)
    sin_edges = np.concatenate([[-1], np.cumsum(weights)[:-1] - 1, [1]])
    return np.rad2deg(np.arcsin(nodes)), np.rad2deg(np.arcsin(sin_edges))


def _require_ascending(name: str, values: np.ndarray) -> None:
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name} should be a list of finite numbers, not of shape {values.shape}: {values}")
    falls = np.flatnonzero(np.diff(values) <= 0)
    if falls.size:
        raise ValueError(f"{name} should ascend: {values[falls[0]]} is followed by {values[falls[0] + 1]}")


def _require_circle(lon: np.ndarray) -> None:
    step = 360 / len(lon)
    off = np.abs(lon - lon[0] - step * np.arange(len(lon)))
    if off.max() > _TOLERANCE:
        raise ValueError(
            f"lon should go around the circle in {len(lon)} steps of {step:g} degrees: {lon[off.argmax()]} is "
            f"{off.max():g} degrees off"
        )
