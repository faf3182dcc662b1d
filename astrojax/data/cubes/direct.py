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


def read_cubes(plan: Plan, *, num_threads: int | None = None) -> dict[str, np.ndarray]:
    """The plan's cubes without a store: what ``CubeStore.read`` returns for all its planets.

    Takes little more memory than the result.

    Args:
        plan: see :func:`plan_conversion`.
        num_threads: how many slabs are in work; all cores unless given.

    Raises:
        RequestError: a file is damaged, or lacks a variable.
    """
    layout = plan.layout
    result = {
        group: np.empty((len(plan.planets), len(layout.variables[group]), *layout.shape(group)), np.float32)
        for group in GROUPS
        if layout.variables[group]
    }
    num_threads = num_threads or len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for p, planet in enumerate(plan.planets):
            cube = {group: out[p] for group, out in result.items()}
            for out in cube.values():
                out[:, :, [file is None for file in planet.files]] = np.nan
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
