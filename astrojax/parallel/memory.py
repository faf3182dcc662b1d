"""How full the devices are."""

import os
import resource
import sys
from pathlib import Path

import jax


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
