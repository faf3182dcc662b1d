"""How full the devices are, and what fills them."""

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax

from astrojax.console import format_bytes
from astrojax.errors import OutOfMemoryError
from astrojax.parallel.sharding import axes_of


def device_memory() -> dict[str, float]:
    """Bytes in use, peak and limit of the fullest local device; of this process where the device is the host."""
    statistics = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if statistics:
        fullest = max(statistics, key=lambda s: s.get("peak_bytes_in_use", 0))
        names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}
        return {name: fullest.get(key, 0) for name, key in names.items()}
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "in_use": int(Path("/proc/self/statm").read_text().split()[1]) * page if sys.platform == "linux" else 0,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "limit": os.sysconf("SC_PHYS_PAGES") * page,
    }


def local_bytes(array: Any) -> int:
    """What one device holds of an array, or of an abstract one, that has a ``NamedSharding``."""
    parts = 1
    for entry in array.sharding.spec.partitions:
        for axis in axes_of(entry):
            parts *= array.sharding.mesh.shape[axis]
    return array.size * array.dtype.itemsize // parts


def step_bytes(memory: Any) -> int:
    """What a compiled step needs on each device: arguments and results, which share memory where they may, and
    everything in between.

    Args:
        memory: the compiled program's ``memory_analysis()``.
    """
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


class explain_out_of_memory(contextlib.AbstractContextManager):
    """Turns a backend's failure to allocate into an :class:`OutOfMemoryError` that says what fills a device.

    Args:
        state: the abstract training state, with shardings.

    Attributes:
        step: the compiled step's ``memory_analysis()``, once there is one.
    """

    def __init__(self, state: Any):
        self.step = None
        self._state = state

    def __exit__(self, kind, error, traceback):
        # Where the allocation fails while a computation is dispatched the status is another one.
        exhausted = any(word in str(error).lower() for word in ("resource_exhausted", "out of memory"))
        if isinstance(error, jax.errors.JaxRuntimeError) and exhausted:
            raise OutOfMemoryError("\n".join(self._lines(error))) from error

    def _lines(self, error: Exception):
        yield "out of memory: " + " ".join(str(error).split())[:300]
        leaves = jax.tree_util.tree_leaves_with_path(self._state)
        total = sum(local_bytes(leaf) for _, leaf in leaves)
        yield f"  {format_bytes(total):>11}  weights and optimizer state on each device, the largest of them"
        for path, leaf in sorted(leaves, key=lambda item: -local_bytes(item[1]))[:5]:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            yield f"  {format_bytes(local_bytes(leaf)):>11}    {name} {leaf.dtype}{list(leaf.shape)}"
        if self.step is not None:
            yield f"  {format_bytes(self.step.temp_size_in_bytes):>11}  temporaries of the compiled step"
            yield f"  {format_bytes(step_bytes(self.step)):>11}  peak of the compiled step"
        if limit := device_memory()["limit"]:
            yield f"  {format_bytes(limit):>11}  what the device may use"
