"""Settings of the host process that must be made before it, or JAX, starts."""

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

# Where a driver shows its devices: NVIDIA (also under WSL), AMD, TPU.
_DEVICE_FILES = ("nvidiactl", "dxg", "kfd", "accel*", "vfio/[0-9]*")
_GOOGLE = "0x1ae0"  # A TPU's PCI vendor.


def restart_with_huge_pages(**settings: int) -> None:
    """Runs this very command again with glibc asking for huge pages, unless the environment already says how.

    XLA's CPU backend takes its working memory anew for every step, and the kernel hands it out in pages of 4 KiB, each
    after a page fault: with huge pages the default preset trains about 1.4 times faster (`python -m
    benchmarks.step_time`, with and without ``GLIBC_TUNABLES=glibc.malloc.hugetlb=0``). glibc reads the setting only
    when a process starts; it has no effect on systems without transparent huge pages or without glibc.

    Args:
        settings: more of ``glibc.malloc``, such as ``mmap_max=0``.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        settings = {"hugetlb": 1} | settings
        os.environ["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{name}={value}" for name, value in settings.items())
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def skip_absent_accelerators() -> None:
    """Tells JAX to use the CPU where plug-ins for accelerators are installed, as for ``--mode plan``, and none of the
    devices is there: JAX would try each plug-in and report at length that it failed.

    Does nothing where ``JAX_PLATFORMS`` is set, or where a plug-in is installed that this function does not know.
    """
    known = {"xla_cuda12", "xla_cuda13"}
    plugins = {plugin.name for plugin in entry_points(group="jax_plugins")}
    attached = any(any(Path("/dev").glob(pattern)) for pattern in _DEVICE_FILES) or any(
        vendor.read_text().strip() == _GOOGLE for vendor in Path("/sys/bus/pci/devices").glob("*/vendor")
    )
    if sys.platform != "linux" or "JAX_PLATFORMS" in os.environ or attached or not plugins <= known:
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # It has read the environment by now.
        sys.modules["jax"].config.update("jax_platforms", "cpu")
