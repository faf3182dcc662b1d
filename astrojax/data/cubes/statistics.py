"""Mean and spread of each variable over the training planets, exact to float64 and in one pass over the planets."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from astrojax.physics.grid import Grid


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Moments of one variable on each level, ``[lev]`` float64.

    Attributes:
        weight: sum of the cells' areas (steradians) over all values that count.
        mean: weighted by area.
        squares: weighted sum of the squared deviations from the mean.
        minimum: least value; infinite where there is none.
        maximum: greatest value; minus infinity where there is none.
        count: number of values.
    """

    weight: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    count: np.ndarray

    def __add__(self, other: "Moments") -> "Moments":
        """Chan, Golub, LeVeque 1983, Am. Stat. 37, eq. 2.1: the sum has no cancellation."""
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        difference = other.mean - self.mean
        return Moments(
            weight,
            self.mean + difference * share,
            self.squares + other.squares + difference**2 * self.weight * share,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.count + other.count,
        )

    def over_levels(self) -> "Moments":
        """One level that holds the values of all."""
        arrays = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return total(Moments(*(array[i : i + 1] for array in arrays)) for i in range(len(self.mean)))

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.divide(self.squares, self.weight, out=np.zeros_like(self.weight), where=self.weight > 0))


def moments(values: np.ndarray, grid: Grid) -> Moments:
    """Of ``[climate_time, geological_time, lev, lat, lon]``; what is not finite does not count."""
    num_levels = values.shape[2]
    parts = []
    for epochs in values.reshape(-1, *values.shape[2:]):  # Slabs, since each is widened to float64.
        x = epochs.astype(np.float64)
        finite = np.isfinite(x)
        areas = np.where(finite, grid.areas, 0.0)
        weight = areas.sum((-2, -1))
        kept = np.where(finite, x, 0.0)
        mean = np.divide((areas * kept).sum((-2, -1)), weight, out=np.zeros(num_levels), where=weight > 0)
        squares = (areas * (kept - mean[:, None, None]) ** 2).sum((-2, -1))
        low = np.where(finite, x, np.inf).min((-2, -1))
        high = np.where(finite, x, -np.inf).max((-2, -1))
        parts.append(Moments(weight, mean, squares, low, high, finite.sum((-2, -1)).astype(np.float64)))
    return total(parts)


def total(parts: Iterable[Moments]) -> Moments:
    """The moments of all values together."""
    parts = iter(parts)
    result = next(parts)
    for part in parts:
        result = result + part
    return result


def to_json(of: Moments) -> dict[str, Any]:
    return {field.name: getattr(of, field.name).tolist() for field in dataclasses.fields(of)}


def from_json(record: dict[str, Any]) -> Moments:
    return Moments(**{name: np.asarray(values, np.float64) for name, values in record.items()})


def summary(of: Moments) -> dict[str, Any]:
    """What a store says of a variable: see ``CubeStore.statistics``."""
    whole = of.over_levels()
    count = int(whole.count.item())
    values = {"mean": whole.mean, "std": whole.std, "min": whole.minimum, "max": whole.maximum}
    return {
        **{name: value.item() if count else None for name, value in values.items()},
        "count": count,
        "level_mean": of.mean.tolist(),
        "level_std": of.std.tolist(),
    }
