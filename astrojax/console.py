"""What a person at the terminal sees of a run."""

import sys
import time

import jax


def say(line: str) -> None:
    """Prints a line for the person who watches the run, once for all its processes."""
    if jax.process_index() == 0:
        print(line, flush=True)


class Progress:
    """The line a person watches: on a terminal it rewrites itself, in a file each record is a line."""

    def __init__(self, steps: int, start_step: int, unit: str):
        self._steps, self._start, self._unit = steps, start_step, unit
        self._began: float | None = None

    def show(self, step: int, loss: float, rate: float | None, skipped: int) -> None:
        """Prints step, loss, throughput in units per second and the time left, by the mean pace so far."""
        now = time.monotonic()
        if self._began is None:  # The first record comes after compilation, which says nothing of the pace.
            self._began, self._start = now, step
        done = step - self._start
        left = (now - self._began) / done * (self._steps - step) if done else None
        parts = [f"step {step:>{len(str(self._steps))}}/{self._steps}", f"loss {loss:.4f}"]
        if rate is not None:
            parts.append(f"{rate:,.0f} {self._unit}/s")
        if left is not None:
            parts.append(f"{format_seconds(left)} left")
        if skipped:
            parts.append(f"{skipped} skipped")
        self._print("  ".join(parts))

    def _print(self, line: str) -> None:
        if jax.process_index():
            return
        if sys.stdout.isatty():
            print(f"\r{line}\x1b[K", end="", flush=True)
        else:
            print(line, flush=True)

    def end_line(self) -> None:
        """Leaves the line on the terminal, so that something else can be printed below it."""
        if sys.stdout.isatty() and not jax.process_index():
            print()


def format_seconds(seconds: float) -> str:
    """``75`` as ``1m15s``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def format_bytes(n: float) -> str:
    """``1610612736`` as ``1.50 GiB``."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(n) >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:.0f} B"
