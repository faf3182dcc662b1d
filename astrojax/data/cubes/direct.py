"""From NetCDF files straight to memory, without a store in between."""

import concurrent.futures
import functools
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np

from astrojax.data.cubes.plan import Plan
from astrojax.data.cubes.source import Reader, SourceFile, open_epochs
from astrojax.data.cubes.store import GROUPS, Layout
from astrojax.data.cubes.transfer import Transfer
from astrojax.data.cubes.variables import Group, Variable


def read_cubes(
    plan: Plan, *, out: dict[Group, np.ndarray] | None = None, num_threads: int | None = None
) -> dict[str, np.ndarray]:
    """The plan's cubes without a store: what ``CubeStore.read`` returns for all its planets.

    Takes little more memory than the result.

    Args:
        plan: see :func:`plan_conversion`.
        out: what an earlier call returned for a plan of the same shapes, to be written over: getting memory anew from
            the system can take longer than filling it.
        num_threads: how many slabs are in work; all cores unless given.

    Raises:
        RequestError: a file is damaged, or lacks a variable.
        ValueError: ``out`` has other shapes.
    """
    layout = plan.layout
    shapes = {
        group: (len(plan.planets), len(layout.variables[group]), *layout.shape(group))
        for group in GROUPS
        if layout.variables[group]
    }
    result = out or {group: np.empty(shape, np.float32) for group, shape in shapes.items()}
    if {group: array.shape for group, array in result.items()} != shapes:
        raise ValueError(f"out should have the shapes {shapes}")
    num_threads = num_threads or len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for p, planet in enumerate(plan.planets):
            cube = {group: array[p] for group, array in result.items()}
            for array in cube.values():
                array[:, :, [file is None for file in planet.files]] = np.nan
            with open_epochs(planet.files) as sources:
                work = _Shared(_slabs(sources, layout, cube))
                for future in [pool.submit(work.do) for _ in range(num_threads)]:
                    future.result()
    return result


def _slabs(
    sources: dict[int, SourceFile], layout: Layout, cube: dict[Group, np.ndarray]
) -> Iterator[Callable[[], None]]:
    """Reading and regridding of each portion of a planet's files."""
    transfers = {epoch: Transfer(source, layout.grid, layout.levels) for epoch, source in sources.items()}

    def transfer(epoch: int, variable: Variable, reader: Reader, times: slice, out: np.ndarray) -> None:
        transfers[epoch](variable, reader.read(times), out)

    for group, out in cube.items():
        for v, variable in enumerate(layout.variables[group]):
            for epoch, source in sources.items():
                reader = source.reader(variable)
                for times in reader.portions:
                    yield functools.partial(transfer, epoch, variable, reader, times, out[v, times, epoch])


class _Shared:
    """Work that several threads do, each taking the next piece when it is free."""

    def __init__(self, pieces: Iterator[Callable[[], None]]):
        self._pieces, self._lock, self._failed = pieces, threading.Lock(), False

    def do(self) -> None:
        try:
            while piece := self._next():
                piece()
        except BaseException:
            self._failed = True
            raise

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            return None if self._failed else next(self._pieces, None)
