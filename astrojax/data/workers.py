"""Processes that read, beside the one a person started."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import grain
import jax
from absl import flags


def num_workers(asked: int | None, tasks: int) -> int:
    """As many processes as asked for, or one for each core, and no more than there are tasks."""
    return min(asked or len(os.sched_getaffinity(0)), tasks)


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end with this one, however that ends, and leave Ctrl-C and accelerators to it."""
    # Not forked: neither JAX nor the NetCDF library survives that.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)


def in_workers(batches: grain.IterDataset, num_workers: int, **options: int) -> grain.IterDataset:
    """Batches made in so many processes of Grain, which leave Ctrl-C to this one; in this process where 0.

    Args:
        batches: what to make.
        num_workers: how many processes.
        options: more of :class:`grain.MultiprocessingOptions`.
    """
    if not num_workers:
        return batches
    if not flags.FLAGS.is_parsed():  # Grain's worker pool reads its own absl flags.
        flags.FLAGS.mark_as_parsed()
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers, **options), _ignore_interrupts)


def _ignore_interrupts(worker_index: int, worker_count: int) -> None:
    # Ctrl-C reaches every process of the terminal: the run must save, and needs its workers' state for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
