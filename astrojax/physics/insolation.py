"""Starlight at the top of the atmosphere, cell by cell and month by month."""

import dataclasses

import numpy as np

from astrojax.physics.grid import Grid

# Gauss-Legendre points per month and per band of latitude. The edge of the polar night is a kink in the latter.
_TIMES, _LATITUDES = 6, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orbit:
    """How a planet moves around its star and turns.

    Attributes:
        instellation: W m-2, at the distance of the semi-major axis.
        obliquity: degrees.
        eccentricity: 1.
        periapsis: degrees, solar longitude (0 at the northern spring equinox) at which the star is closest.
        tidally_locked: the star stands above one longitude of the equator.
        substellar_longitude: degrees east, of a tidally locked planet.
        initial_solar_longitude: degrees, solar longitude at time 0.

    Raises:
        ValueError: a value is out of range, or a tidally locked planet has seasons; the message names it.
    """

    instellation: float
    obliquity: float = 0.0
    eccentricity: float = 0.0
    periapsis: float = 0.0
    tidally_locked: bool = False
    substellar_longitude: float = 0.0
    initial_solar_longitude: float = 0.0

    def __post_init__(self):
        if not 0 <= self.instellation < np.inf:
            raise ValueError(f"instellation={self.instellation} should be 0 W m-2 or more")
        if not 0 <= self.eccentricity < 1:
            raise ValueError(f"eccentricity={self.eccentricity} should be at least 0 and less than 1")
        for name in ("obliquity", "periapsis", "substellar_longitude", "initial_solar_longitude"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} should be an angle in degrees")
        if self.tidally_locked and (self.obliquity or self.eccentricity):
            raise ValueError(
                f"tidally locked with obliquity={self.obliquity}, eccentricity={self.eccentricity}: both should be 0"
            )


def insolation(grid: Grid, orbit: Orbit, month_edges) -> np.ndarray:
    """Insolation at the top of the atmosphere, averaged over each cell and each month.

    A planet that is not tidally locked is taken to turn fast, so that every longitude sees the same. Where a month is
    few days long and no whole number of them, a record holds the remaining part of a day as a zonal wave: of the order
    of the insolation times half a day over the month.

    Args:
        month_edges: ``[time + 1]``, where the months begin and end, in years (orbits) since time 0, ascending.

    Returns:
        ``[time, lat, lon]`` in W m-2, float64.
    """
    month_edges = np.asarray(month_edges, np.float64)
    if month_edges.ndim != 1 or len(month_edges) < 2 or not (np.diff(month_edges) > 0).all():
        raise ValueError(f"{month_edges=} should be two or more ascending times in years")
    shape = (len(month_edges) - 1, len(grid.lat), len(grid.lon))
    if orbit.tidally_locked:
        return np.broadcast_to(orbit.instellation * _locked_cos_zenith(grid, orbit.substellar_longitude), shape).copy()
    time, time_weights = _quadrature(month_edges, _TIMES)
    sin_lat, lat_weights = _quadrature(np.sin(np.deg2rad(grid.lat_edges)), _LATITUDES)
    sin_declination, flux = _star(orbit, time)
    cos_zenith = _daily_mean_cos_zenith(sin_lat, sin_declination[:, :, None, None])
    zonal = np.einsum("mt,mtlq,t,q->ml", flux, cos_zenith, time_weights, lat_weights)
    return np.broadcast_to(zonal[..., None], shape).copy()


def fit_initial_solar_longitude(rsdt, grid: Grid, orbit: Orbit, month_edges) -> tuple[float, float]:
    """The season in which a record of insolation begins.

    Args:
        rsdt: ``[time, lat, lon]``, insolation at the top of the atmosphere in W m-2.
        orbit: its ``initial_solar_longitude`` is not used.
        month_edges: as for :func:`insolation`.

    Returns:
        The solar longitude at time 0 in degrees, from 0 to 360, for which :func:`insolation` has the smallest
        area-weighted mean squared error, to 0.01 degrees; and the root of that error in W m-2. Without seasons the
        first is 0.
    """
    shape = (len(month_edges) - 1, len(grid.lat), len(grid.lon))
    if np.shape(rsdt) != shape:
        raise ValueError(f"rsdt of shape {np.shape(rsdt)} should be of {shape}: month_edges, lat, lon")

    def mean_squared_error(longitude: float) -> float:
        error = insolation(grid, dataclasses.replace(orbit, initial_solar_longitude=longitude), month_edges) - rsdt
        return float(np.mean((error**2).mean(-1) @ grid.lat_weights))

    step, best = 10.0, min(range(0, 360, 10), key=mean_squared_error)
    while step > 0.01:
        step /= 5
        # The nearest come first: where the season makes no difference, nothing moves.
        best = min((best + step * k for k in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)), key=mean_squared_error)
    return float(best % 360), mean_squared_error(best) ** 0.5


def _quadrature(edges: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points ``[interval, point]`` between ``edges`` and the weights of a mean ``[point]``."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2, weights / 2


def _star(orbit: Orbit, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sine of the star's declination and its flux in W m-2 at ``time`` in years (Berger 1978, J. Atmos. Sci.)."""
    e, periapsis = orbit.eccentricity, np.deg2rad(orbit.periapsis)
    squeeze = np.sqrt((1 - e) / (1 + e))
    eccentric = 2 * np.arctan(squeeze * np.tan((np.deg2rad(orbit.initial_solar_longitude) - periapsis) / 2))
    mean_anomaly = eccentric - e * np.sin(eccentric) + 2 * np.pi * time
    eccentric = _eccentric_anomaly(mean_anomaly, e)
    true_anomaly = 2 * np.arctan2(np.sin(eccentric / 2), squeeze * np.cos(eccentric / 2))
    sin_declination = np.sin(np.deg2rad(orbit.obliquity)) * np.sin(true_anomaly + periapsis)
    return sin_declination, orbit.instellation / (1 - e * np.cos(eccentric)) ** 2


def _eccentric_anomaly(mean_anomaly: np.ndarray, eccentricity: float) -> np.ndarray:
    """Kepler's equation ``E - e sin E = M``, solved from ``E = pi``, where Newton's method cannot fail."""
    mean_anomaly = mean_anomaly % (2 * np.pi)
    eccentric = np.full_like(mean_anomaly, np.pi)
    for _ in range(50):
        excess = eccentric - eccentricity * np.sin(eccentric) - mean_anomaly
        eccentric -= excess / (1 - eccentricity * np.cos(eccentric))
    return eccentric


def _daily_mean_cos_zenith(sin_lat: np.ndarray, sin_declination: np.ndarray) -> np.ndarray:
    """Hartmann (2016), Global Physical Climatology, eq. 2.17 without the flux."""
    cos_lat, cos_declination = np.sqrt(1 - sin_lat**2), np.sqrt(1 - sin_declination**2)
    along, across = sin_lat * sin_declination, cos_lat * cos_declination
    # A quadrature point is never at a pole, but at obliquity 90 the star may be.
    sunset = np.arccos(np.clip(-along / np.maximum(across, 1e-15), -1, 1))
    return (sunset * along + across * np.sin(sunset)) / np.pi


def _locked_cos_zenith(grid: Grid, substellar_longitude: float) -> np.ndarray:
    """``[lat, lon]``, the exact mean over each cell of ``max(0, cos lat cos(lon - substellar_longitude))``."""
    lat, lon = np.deg2rad(grid.lat_edges), np.deg2rad(grid.lon_edges - substellar_longitude)
    along_lat = np.diff(lat / 2 + np.sin(2 * lat) / 4) / np.diff(np.sin(lat))
    turns = np.round(lon / (2 * np.pi))
    integral = 2 * turns + np.sin(np.clip(lon - 2 * np.pi * turns, -np.pi / 2, np.pi / 2))
    return along_lat[:, None] * np.diff(integral) / np.diff(lon)
