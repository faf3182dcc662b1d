"""Coordinates of a NetCDF file by the CF conventions: limits of cells, and what its vertical axis means."""

from typing import Any, Protocol

import numpy as np

from astrojax.data.cubes import units
from astrojax.data.cubes.levels import Levels


class NamedArrays(Protocol):
    """What a file has, by name."""

    def array(self, name: str) -> np.ndarray:
        """A small array in float64."""

    def attributes_of(self, name: str) -> dict[str, Any] | None:
        """Its attributes; None where there is none of that name."""


def first_turn(values: np.ndarray) -> str:
    """The first place where values do not go on as they began."""
    steps = np.diff(values)
    i = int(np.flatnonzero(np.sign(steps) != (np.sign(steps[0]) or 1))[0])
    return f"{values[i]:g} is followed by {values[i + 1]:g}"


def cell_edges(file: NamedArrays, name: str | None, size: int) -> np.ndarray | None:
    """``[size + 1]`` limits of a coordinate or formula term, from its variable of bounds; None without such.

    Raises:
        ValueError: they are not those of ``size`` cells side by side.
    """
    if not name or file.attributes_of(name) is None:
        return None
    limits = file.array(name)
    if limits.shape != (size, 2):
        raise ValueError(f"{name} has the shape {limits.shape}, not {(size, 2)}")
    if size > 1 and not np.allclose(limits[1:, 0], limits[:-1, 1], rtol=1e-5, atol=1e-12):
        limits = limits[:, ::-1]
        if not np.allclose(limits[1:, 0], limits[:-1, 1], rtol=1e-5, atol=1e-12):
            raise ValueError(f"{name} leaves gaps between the cells, or overlaps")
    return np.append(limits[:, 0], limits[-1, 1])


def is_level_coordinate(standard_name: str) -> bool:
    """Whether :func:`read_levels` knows a coordinate by its standard name."""
    return standard_name in _READERS


def read_levels(file: NamedArrays, values: np.ndarray, attributes: dict[str, Any]) -> Levels:
    """Levels in the file's order.

    Args:
        file: where the variables are that they name.
        values: of the coordinate, ``[lev]``, monotonic.
        attributes: its own.

    Raises:
        ValueError: it is no vertical coordinate that is read, or what it names is missing or does not fit.
    """
    standard_name, unit = str(attributes.get("standard_name", "")), attributes.get("units")
    reader = _READERS.get(standard_name)
    if reader is None and not standard_name:
        # Without a standard name the units tell, as CF allows for pressure.
        reader = next((r for base, r in (("Pa", _pressure), ("m", _height)) if units.convertible(unit, base)), None)
    if reader is None:
        raise ValueError(
            f"{standard_name or 'no standard_name'} and units {unit!r} are of no vertical coordinate that is read: "
            "sigma, hybrid sigma pressure, pressure or height"
        )
    return reader(file, values, attributes)


def _formula_terms(attributes: dict[str, Any]) -> dict[str, str]:
    """``"sigma: lev ps: ps"`` as a dictionary."""
    words = str(attributes.get("formula_terms", "")).split()
    return {term.rstrip(":"): name for term, name in zip(words[::2], words[1::2], strict=False)}


def _levels(kind: str, centres: np.ndarray, edges: np.ndarray | None) -> Levels:
    """In the file's order."""
    found = Levels.of_centres(kind, centres)
    if edges is None:
        edges = found.edges if np.array_equal(found.centres, centres) else found.edges[::-1]
    return Levels(kind, centres, edges)


def _converted(attributes: dict[str, Any], canonical: str, *arrays: np.ndarray | None) -> list[np.ndarray | None]:
    factor, offset = units.conversion(attributes.get("units"), canonical)
    return [None if array is None else array * factor + offset for array in arrays]


def _sigma(file: NamedArrays, values: np.ndarray, attributes: dict[str, Any]) -> Levels:
    edges = cell_edges(file, attributes.get("bounds"), len(values))
    values, edges = _converted(attributes, "1", values, edges)
    terms = _formula_terms(attributes)
    top = 0.0
    if "ptop" in terms:
        of_top = file.attributes_of(terms["ptop"])
        if of_top is not None:
            (top,) = _converted(of_top, "Pa", float(file.array(terms["ptop"])))
    levels = _levels("sigma", values, edges)
    if top == 0:
        return levels
    # p = ptop + sigma (ps - ptop), CF appendix D
    return _hybrid_levels(top * (1 - levels.centres), levels.centres, top * (1 - levels.edges), levels.edges)


def _hybrid(file: NamedArrays, values: np.ndarray, attributes: dict[str, Any]) -> Levels:
    """p = a p0 + b ps, or ap + b ps (CF appendix D)."""
    terms = _formula_terms(attributes)
    if "b" not in terms or not ({"ap"} <= terms.keys() or {"a", "p0"} <= terms.keys()):
        raise ValueError(f"formula_terms {attributes.get('formula_terms')!r} name neither ap and b nor a, b and p0")
    bounds_terms = _formula_terms(file.attributes_of(attributes.get("bounds", "")) or {})

    def term(key: str) -> tuple[np.ndarray, np.ndarray | None]:
        own = file.attributes_of(terms[key]) or {}
        bounds = bounds_terms.get(key) or own.get("bounds") or f"{terms[key]}_bnds"
        return file.array(terms[key]), cell_edges(file, bounds, len(values))

    b, b_edges = term("b")
    if "ap" in terms:
        a, a_edges = term("ap")
        a, a_edges = _converted(file.attributes_of(terms["ap"]), "Pa", a, a_edges)
    else:
        p0 = file.array(terms["p0"])
        (p0,) = _converted(file.attributes_of(terms["p0"]), "Pa", float(p0))
        a, a_edges = term("a")
        a, a_edges = a * p0, None if a_edges is None else a_edges * p0
    if a_edges is None or b_edges is None:
        a_edges, b_edges = (np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]]) for x in (a, b))
    return _hybrid_levels(a, b, a_edges, b_edges)


def _hybrid_levels(a: np.ndarray, b: np.ndarray, a_edges: np.ndarray, b_edges: np.ndarray) -> Levels:
    reference = 1e5  # Pa
    return Levels("hybrid", a + b * reference, a_edges + b_edges * reference, a, b)


def _pressure(file: NamedArrays, values: np.ndarray, attributes: dict[str, Any]) -> Levels:
    edges = cell_edges(file, attributes.get("bounds"), len(values))
    return _levels("pressure", *_converted(attributes, "Pa", values, edges))


def _height(file: NamedArrays, values: np.ndarray, attributes: dict[str, Any]) -> Levels:
    edges = cell_edges(file, attributes.get("bounds"), len(values))
    return _levels("height", *_converted(attributes, "m", values, edges))


_READERS = {
    "atmosphere_sigma_coordinate": _sigma,
    "atmosphere_hybrid_sigma_pressure_coordinate": _hybrid,
    "air_pressure": _pressure,
    "height": _height,
}
