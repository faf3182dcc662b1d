"""Processes that read files beside the one a person started."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import jax


def num_workers(asked: int | None, tasks: int) -> int:
    """As many processes as asked for, or one for each core, and no more than there are tasks."""
    return min(asked or len(os.sched_getaffinity(0)), tasks)


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end with this one, however that ends, and leave Ctrl-C and accelerators to it."""
    # Not forked: neither JAX nor the NetCDF library survives that.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
