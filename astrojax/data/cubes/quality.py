"""What is good and bad about the data that went into a store: ``quality.json`` and the same as a table."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astrojax.data.cubes.levels import Levels
from astrojax.data.cubes.variables import Variable
from astrojax.errors import RequestError
from astrojax.physics.constraints import energy_imbalance
from astrojax.physics.grid import Grid, area_mean
from astrojax.physics.thermodynamics import dry_surface_pressure

# Of the range's width: what float32 and packing may add to a value at the edge of what is plausible.
_ROUNDING = 1e-5
_COUNTS = ("values", "fill", "not_finite", "below_range", "above_range")


class VariableQuality:
    """Counts over the values of one variable of one file, as the file has them."""

    def __init__(self, variable: Variable):
        self._low, self._high = variable.valid
        width = self._high - self._low
        self._slack = _ROUNDING * width if math.isfinite(width) else 0.0
        self.values = self.fill = self.finite = self.below = self.above = 0
        self.minimum, self.maximum = math.inf, -math.inf

    def add(self, values: np.ndarray, num_fill: int) -> None:
        """Counts ``values``, of which ``num_fill`` are marked as missing and NaN."""
        self.values += values.size
        self.fill += num_fill
        low, high = values.min(), values.max()
        finite = values
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = values[np.isfinite(values)]
            if not finite.size:
                return
            low, high = finite.min(), finite.max()
        self.finite += finite.size
        self.minimum, self.maximum = min(self.minimum, float(low)), max(self.maximum, float(high))
        if low < self._low - self._slack:
            self.below += int((finite < self._low - self._slack).sum())
        if high > self._high + self._slack:
            self.above += int((finite > self._high + self._slack).sum())

    def record(self, completeness: float) -> dict[str, Any]:
        """As in ``quality.json``. ``completeness`` is that of the values in the store."""
        return {
            "values": self.values,
            "fill": self.fill,
            "not_finite": self.values - self.finite - self.fill,
            "completeness": completeness,
            "below_range": self.below,
            "above_range": self.above,
            "min": self.minimum if self.finite else None,
            "max": self.maximum if self.finite else None,
        }


def energy_balance(rst: np.ndarray, rlut: np.ndarray, time_weights: np.ndarray, grid: Grid) -> float | None:
    """The year's mean of the global mean of ``rst - rlut`` in W m-2, each ``[climate_time, lev, lat, lon]``.

    None where values are missing.
    """
    return _finite(np.average(np.asarray(energy_imbalance(rst, rlut, grid))[:, 0], weights=time_weights))


def dry_mass_drift(ps: np.ndarray, hus: np.ndarray, levels: Levels, grid: Grid) -> float | None:
    """Dry mass at the last climate time less that at the first, over the mean of the year.

    None where values are missing, or levels are not sigma.
    """
    if levels.kind != "sigma":
        return None
    mass = np.asarray(area_mean(dry_surface_pressure(ps[:, 0], hus, levels.edges), grid), np.float64)
    return _finite((mass[-1] - mass[0]) / mass.mean())


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def check_completeness(path: Path, name: str, completeness: float, minimum: float) -> None:
    """Raises:
    RequestError: too little of a variable is there.
    """
    if completeness < minimum:
        # Rounded down: 94.99 % is not the 95 % that are asked for.
        shown, asked = math.floor(completeness * 1e4) / 1e2, f"{minimum:.2%}"
        raise RequestError(
            f"{path}: {name} is {shown:.2f}% complete, less than {asked}; --minimum-completeness accepts less"
        )


def summarize(files: Sequence[dict[str, Any]], missing: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """The report. ``files`` are records of each file, ``missing`` the planet-epochs without one."""
    names = list(dict.fromkeys(name for file in files for name in file["variables"]))
    variables = {}
    for name in names:
        records = [file["variables"][name] for file in files]
        sums = {key: sum(record[key] for record in records) for key in _COUNTS}
        lows, highs = ([r[key] for r in records if r[key] is not None] for key in ("min", "max"))
        variables[name] = sums | {
            "completeness": math.fsum(r["completeness"] for r in records) / len(records),
            "least_complete_file": min(records, key=lambda r: r["completeness"])["completeness"],
            "min": min(lows, default=None),
            "max": max(highs, default=None),
        }
    return {
        "variables": variables,
        "files": list(files),
        "missing": list(missing),
        "notes": list(notes),
    }


def render(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = ["Variables (over all files, as the files have them)"]
    rows = [["variable", "complete", "fill", "not finite", "below range", "above range", "min", "max"]]
    for name, v in report["variables"].items():
        counts = [f"{v[key]:,}" for key in ("fill", "not_finite", "below_range", "above_range")]
        rows.append([name, f"{v['completeness']:.2%}", *counts, _number(v["min"]), _number(v["max"])])
    lines += _table(rows)
    lines += ["", "Files"]
    rows = [["file", "TOA balance, W m-2", "dry-mass drift", "out of range", "missing values"]]
    for file in report["files"]:
        variables = file["variables"].values()
        outside = sum(v["below_range"] + v["above_range"] for v in variables)
        absent = sum(v["fill"] + v["not_finite"] for v in variables)
        balance, drift = file["toa_balance_W_m2"], file["dry_mass_drift"]
        rows.append(
            [
                file["file"],
                "-" if balance is None else f"{balance:+.2f}",
                "-" if drift is None else f"{drift:+.1e}",
                f"{outside:,}",
                f"{absent:,}",
            ]
        )
    lines += _table(rows)
    if report["missing"]:
        lines += ["", "Missing (filled with NaN)", *(f"  {line}" for line in report["missing"])]
    if report["notes"]:
        lines += ["", "Handled", *(f"  {line}" for line in report["notes"])]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(["  " + row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
