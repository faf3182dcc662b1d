"""What a set of files becomes: which file is which planet and epoch, and what their cubes look like."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astrojax.data.cubes.discover import Naming
from astrojax.data.cubes.levels import Levels
from astrojax.data.cubes.parameters import PARAMETER_NAMES, planet_parameters
from astrojax.data.cubes.source import SourceFile
from astrojax.data.cubes.store import GROUPS, CubeStore, Layout
from astrojax.data.cubes.transfer import same_grid
from astrojax.data.cubes.variables import VARIABLES, Variable
from astrojax.errors import RequestError
from astrojax.physics.grid import Grid, gaussian, regular

# Of the year: months of a leap year end a little earlier or later.
_TIME_TOLERANCE = 5e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a conversion shall do.

    Attributes:
        variables: short or CF standard names, or variables; None takes all known ones that the files have.
        grid: ``"source"``, ``"32x64"`` (equal angles), ``"gaussian:32x64"``, or a grid.
        levels: ``"source"``, ``"sigma:0.1,0.5,0.9"``, ``"pressure:10000,50000,85000"`` (Pa), or levels.
        minimum_completeness: least share of a variable's values that each file must have.
        naming: how a file tells which planet and epoch it is.
        fold: which fifth of the planets is held out, 0 to 4.
    """

    variables: tuple[str | Variable, ...] | None = None
    grid: str | Grid = "source"
    levels: str | Levels = "source"
    minimum_completeness: float = 0.95
    naming: Naming = Naming()
    fold: int = 2

    def __post_init__(self):
        if not 0 <= self.minimum_completeness <= 1:
            raise RequestError(f"--minimum-completeness {self.minimum_completeness} should be between 0 and 1")
        if self.fold not in range(5):
            raise RequestError(f"fold={self.fold} should be 0 to 4")

    @classmethod
    def like(cls, store: CubeStore, **changes) -> "Request":
        """What makes cubes that are alike those of ``store``, of other files."""
        variables = tuple(v for group in GROUPS for v in store.layout.variables[group])
        return cls(grid=store.grid, levels=store.layout.levels or "source", variables=variables, **changes)

    def record(self) -> dict[str, Any]:
        """As provenance has it."""
        grid, levels = self.grid, self.levels
        if isinstance(grid, Grid):
            grid = {"lat": grid.lat.tolist(), "lon": grid.lon.tolist()}
        if isinstance(levels, Levels):
            levels = {"kind": levels.kind, "centres": levels.centres.tolist(), "edges": levels.edges.tolist()}
        return {
            "variables": self.variables and [v if isinstance(v, str) else v.name for v in self.variables],
            "grid": grid,
            "levels": levels,
            "minimum_completeness": self.minimum_completeness,
            "naming": dataclasses.asdict(self.naming),
            "fold": self.fold,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PlanetFiles:
    """A planet and its files.

    Attributes:
        name: unique.
        files: one of each of the layout's epochs; None where there is none.
        parameters: ``[geological_time, parameter]``; NaN where there is no file.
    """

    name: str
    files: tuple[Path | None, ...]
    parameters: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What a set of files becomes: the layout of a cube and the files of each planet, in the order of the store."""

    layout: Layout
    planets: tuple[PlanetFiles, ...]

    def missing(self) -> list[str]:
        """The planet-epochs without a file."""
        epochs = self.layout.epochs
        return [f"{p.name}, epoch {e}" for p in self.planets for e, f in zip(epochs, p.files, strict=True) if f is None]


def plan_conversion(files: Sequence[Path], request: Request) -> Plan:
    """Reads the headers of ``files`` and decides what the cubes look like.

    Raises:
        RequestError: a file cannot be read or does not fit the others, two are of one planet and epoch, or the request
            names what is not there.
    """
    places: dict[tuple[int | str, int | str], Path] = {}
    parameters: dict[Path, np.ndarray] = {}
    names: dict[int | str, str] = {}
    found: dict[str, Variable] = {}
    first: SourceFile | None = None
    naming = request.naming
    for file in files:
        with SourceFile(file) as source:
            if first is None:
                first, naming = source, naming.resolved(source.attributes)
                grid, levels = _target_grid(request, source), _target_levels(request, source)
                chosen = None if request.variables is None else _choose(request.variables, source)
            planet, epoch = naming.identify(source)
            if (planet, epoch) in places:
                raise RequestError(f"{places[planet, epoch]} and {file} are both planet {planet}, epoch {epoch}")
            places[planet, epoch] = file
            name = str(source.attributes.get("planet_name", planet))
            if names.setdefault(planet, name) != name:
                raise RequestError(f"{file}: planet {planet} is called {name} here and {names[planet]} elsewhere")
            parameters[file] = planet_parameters(file, source.attributes)
            _check_alike(first, source, request)
            found |= {v.name: v for v in (source.known_variables() if chosen is None else chosen)}
    if chosen is None:
        chosen = [v for v in VARIABLES.values() if v.required or v.name in found]
    for name in set(names.values()):
        if (same := [p for p, n in names.items() if n == name])[1:]:
            raise RequestError(f"planets {same[0]} and {same[1]} are both called {name}")
    groups = {g: tuple(v for v in chosen if v.group == g) for g in GROUPS}
    if groups["levels"] and levels is None:
        raise RequestError(f"{first.path}: no vertical axis")
    epochs = sorted({epoch for _, epoch in places}, key=_order)
    layout = Layout(grid, levels if groups["levels"] else None, first.climate_time_edges, tuple(epochs), groups)
    planets = []
    for planet in sorted(names, key=_order):
        own = tuple(places.get((planet, epoch)) for epoch in epochs)
        empty = np.full(len(PARAMETER_NAMES), np.nan)
        planets.append(PlanetFiles(names[planet], own, np.stack([parameters.get(f, empty) for f in own])))
    return Plan(layout, tuple(planets))


def _order(value: int | str) -> tuple[bool, int | str]:
    return isinstance(value, str), value


def _choose(wanted: Sequence[str | Variable], source: SourceFile) -> list[Variable]:
    chosen: dict[str, Variable] = {}
    for name in wanted:
        if isinstance(name, Variable):
            chosen[name.name] = name
            continue
        known = [v for v in VARIABLES.values() if name in (v.name, v.standard_name)]
        # Two variables share the name air_temperature: the one that the file has, or the first.
        present = [v for v in known if source.has(v)]
        variable = (present or known or [None])[0] or source.other_variable(name)
        chosen[variable.name] = variable
    if not chosen:
        raise RequestError("--variables names none")
    return list(chosen.values())


def _target_grid(request: Request, source: SourceFile) -> Grid:
    if isinstance(request.grid, Grid):
        return request.grid
    if request.grid == "source":
        return source.grid
    make, _, size = request.grid.rpartition(":")
    try:
        num_lat, num_lon = (int(n) for n in size.split("x"))
        if min(num_lat, num_lon) < 2:
            raise ValueError
        return {"": regular, "gaussian": gaussian}[make](num_lat, num_lon)
    except (ValueError, KeyError) as error:
        raise RequestError(f"--grid {request.grid} should be source, 32x64 or gaussian:32x64") from error


def _target_levels(request: Request, source: SourceFile) -> Levels | None:
    if isinstance(request.levels, Levels):
        return request.levels
    if request.levels == "source":
        if source.levels and source.levels.kind == "hybrid":
            raise RequestError(
                f"{source.path}: hybrid levels; say --levels sigma:... or pressure:... to interpolate them"
            )
        return source.levels
    kind, _, values = request.levels.partition(":")
    try:
        if kind not in ("sigma", "pressure"):
            raise ValueError(f"{kind!r} levels cannot be made")
        return Levels.of_centres(kind, np.asarray([float(v) for v in values.split(",")]))
    except ValueError as error:
        usage = "source, sigma:V,V,... or pressure:V,V,..."
        raise RequestError(f"--levels {request.levels} should be {usage}: {error}") from error


def _check_alike(first: SourceFile, source: SourceFile, request: Request) -> None:
    """Refuses a file that does not fit into one store with the first."""
    if source.num_times != first.num_times or not np.allclose(
        source.climate_time_edges, first.climate_time_edges, atol=_TIME_TOLERANCE
    ):
        raise RequestError(f"{source.path}: {source.num_times} times that divide the year otherwise than {first.path}")
    if request.grid == "source" and not same_grid(source.grid, first.grid):
        raise RequestError(f"{source.path}: another grid than {first.path}; say which to regrid to, as --grid 32x64")
    if request.levels == "source" and (source.levels is None) != (first.levels is None):
        raise RequestError(f"{source.path}: one of it and {first.path} has no vertical axis")
    if request.levels == "source" and source.levels and not source.levels.same_as(first.levels):
        raise RequestError(f"{source.path}: other levels than {first.path}; say which, as --levels sigma:0.1,0.5,0.9")
