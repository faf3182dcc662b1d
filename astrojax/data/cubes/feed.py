"""Batches of cubes, fed by Grain.

Its elements are places of planets, a few bytes each: shuffling, repeating and splitting cost nothing, and a batch is
read as a whole, straight from the store's files into the memory it is handed over in.
"""

import sys
import threading
from collections.abc import Sequence

import grain
import numpy as np

from astrojax.data.cubes.store import CubeStore
from astrojax.data.workers import in_workers

# Batches may be gigabytes: one is in use, these are ready or on their way.
_BUFFERED_BATCHES = 2


def training_batches(
    store: CubeStore,
    planets: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Endless shuffled batches; this process's share of each, every ``process_count``-th planet of it.

    A checkpoint of its iterator holds for any number of processes, since every process is at the same batch.

    Args:
        store: where the cubes are.
        planets: the names of those to train on.
        batch_size: planets in a batch, over all processes.
        seed: of their order.
        num_workers: processes that read; 0 reads in threads of this one.
        process_index: this process's place among those that train together.
        process_count: how many these are.

    Returns:
        Batches ``{"levels": [b, v, ct, gt, lev, lat, lon], "surface", "static": alike, "parameters": [b, gt, n],
        "planet": [b]}``, float32 and for ``planet``, its place in the store, int32.
    """
    places = grain.MapDataset.source(store.index(planets)).seed(seed).shuffle().repeat(None)
    batches = places[process_index::process_count].batch(
        batch_size // process_count, drop_remainder=True, batch_fn=_BatchReader(store)
    )
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BUFFERED_BATCHES))
    return in_workers(batches, num_workers, per_worker_buffer_size=1)


def evaluation_batches(store: CubeStore, planets: Sequence[str], *, batch_size: int) -> grain.MapDataset:
    """Batches like those of :func:`training_batches`, each planet once and in order; the last may be smaller."""
    return grain.MapDataset.source(store.index(planets)).batch(batch_size, batch_fn=_BatchReader(store))


class _BatchReader:
    """Reads the planets of a batch together."""

    def __init__(self, store: CubeStore):
        self._store, self._memory = store, _Memory()

    def __reduce__(self):
        return _BatchReader, (self._store,)

    def __call__(self, places: Sequence[int]) -> dict[str, np.ndarray]:
        places = [int(place) for place in places]
        batch = self._store.read(places, allocate=self._memory.take)
        batch["parameters"] = self._store.parameters[places].astype(np.float32)
        batch["planet"] = np.asarray(places, np.int32)
        return batch


class _Memory:
    """Arrays that nobody holds any more, used again: to get fresh pages takes longer than to copy a cube into them."""

    def __init__(self):
        self._arrays: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A view of an array that is not in use; JAX too refers to the arrays that it still copies from or shares."""
        with self._lock:
            for array in self._arrays:
                # The list, `array` and the argument of getrefcount refer to it, and each view of it would.
                if array.shape == shape and sys.getrefcount(array) == 3:
                    return array.view()
            array = np.empty(shape, np.float32)
            self._arrays.append(array)
            return array.view()
