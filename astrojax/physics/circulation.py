"""How a planet's air answers to uneven heating: the linear theory of one layer."""

from typing import NamedTuple

import numpy as np

from astrojax.physics.constants import GAS_CONSTANT_N2, KAPPA_DIATOMIC, SECONDS_PER_DAY
from astrojax.physics.grid import Grid, area_mean


class Response(NamedTuple):
    """Of a layer of fluid, in units of the heating's.

    Attributes:
        eastward, northward: velocity.
        thickness: of the layer, which stands for the temperature of its air.
    """

    eastward: np.ndarray
    northward: np.ndarray
    thickness: np.ndarray


def coriolis_parameter(rotation_period, lat):
    """Radians per day: twice the spin about the vertical. ``rotation_period`` in days, ``lat`` in degrees north."""
    return 4 * np.pi / rotation_period * np.sin(np.deg2rad(lat))


def rotation_number(temperature, rotation_period, radius):
    """The planet's radius over the length at which rotation turns a long wave, ``2 Omega a / c``; its inverse root is
    the equatorial deformation radius over the planet's radius (Haqq-Misra et al. 2018, ApJ 852, 67). The wave is one of
    internal gravity in isothermal nitrogen: its speed is the buoyancy frequency times the scale height.

    Args:
        temperature: K, of the whole planet.
        rotation_period: days of 86 400 s.
        radius: m.
    """
    speed = np.sqrt(KAPPA_DIATOMIC * GAS_CONSTANT_N2 * temperature)
    return 4 * np.pi * radius / (rotation_period * SECONDS_PER_DAY * speed)


def linear_response(heating: np.ndarray, rotation: float, damping: float, grid: Grid) -> Response:
    """The steady linear shallow-water flow that ``heating`` keeps up on a rotating sphere (Matsuno 1966; Gill 1980), as
    used for tidally locked planets by Showman and Polvani (2011, ApJ 738, 71).

    Lengths are in planetary radii, velocities in those of long gravity waves:

        damping u - rotation sin(lat) v = -dh/dx
        damping v + rotation sin(lat) u = -dh/dy
        damping h + div(u, v)           = heating - its mean

    Solved for each zonal wave by finite volumes in latitude, with the northward wind on the edges between rows.

    Args:
        heating: ``[..., lat, lon]``.
        rotation: see :func:`rotation_number`.
        damping: rate of drag and of cooling.
        grid: of ``heating``.
    """
    n, num_lon = heating.shape[-2:]
    anomaly = heating - area_mean(heating, grid)[..., None, None]
    waves = np.fft.rfft(anomaly.reshape(-1, n, num_lon), axis=-1).T  # [wave, lat, field]
    zonal = np.arange(waves.shape[0], dtype=np.float64)
    zonal[-1] *= num_lon % 2  # The shortest wave of an even number of cells has no slope at their centres.
    lat, edges = np.deg2rad(grid.lat), np.deg2rad(grid.lat_edges)
    rows, inner = np.arange(n), np.arange(n - 1)
    # Northward wind of a row's two edges; and of an edge, what its two rows hold.
    to_rows, to_edges = np.zeros((len(zonal), n, n - 1)), np.zeros((n - 1, n))
    to_rows[:, inner, inner] = to_rows[:, inner + 1, inner] = 0.5
    # At a pole there is no wind, but for that of the first wave, which blows across it.
    to_rows[zonal == 1, 0, 0] = to_rows[zonal == 1, -1, -1] = 1
    to_edges[inner, inner] = to_edges[inner, inner + 1] = 0.5
    slope, divergence = np.zeros((n - 1, n)), np.zeros((n, n - 1))
    slope[inner, inner + 1] = 1 / np.diff(lat)
    slope[inner, inner] = -1 / np.diff(lat)
    area = np.diff(np.sin(edges))
    divergence[inner, inner] = np.cos(edges[1:-1]) / area[:-1]
    divergence[inner + 1, inner] = -np.cos(edges[1:-1]) / area[1:]
    u, h, v = slice(0, n), slice(n, 2 * n), slice(2 * n, 3 * n - 1)
    system = np.zeros((len(zonal), 3 * n - 1, 3 * n - 1), np.complex128)
    system[:, np.arange(3 * n - 1), np.arange(3 * n - 1)] = damping
    system[:, u, v] = -rotation * np.sin(lat)[:, None] * to_rows
    system[:, v, u] = rotation * np.sin(edges[1:-1])[:, None] * to_edges
    system[:, rows, n + rows] = system[:, n + rows, rows] = 1j * zonal[:, None] / np.cos(lat)
    system[:, v, h] = slope
    system[:, h, v] = divergence
    forcing = np.zeros((len(zonal), 3 * n - 1, waves.shape[-1]), np.complex128)
    forcing[:, h] = waves
    flow = np.linalg.solve(system, forcing)

    def field(x):
        return np.fft.irfft(x.T, num_lon, axis=-1).reshape(heating.shape)

    return Response(field(flow[:, u]), field(to_rows @ flow[:, v]), field(flow[:, h]))
