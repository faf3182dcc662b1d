"""The ways a command can fail, and what it then says and returns."""

import sys


class RequestError(Exception):
    """The request cannot be served as asked: a wrong flag, field, file or value (exit code 2)."""


class RunError(Exception):
    """The request was sound but the run failed: divergence, a full disk, lost data (exit code 1)."""


class OutOfMemoryError(RunError):
    """A device's memory did not suffice; the message says what filled it."""


# What a command catches, for :func:`report`.
FAILURES = (RequestError, RunError, OSError, KeyboardInterrupt)


def report(failure: BaseException, *, place: object, interrupted: str) -> int:
    """Says in one line on standard error why a command ended, and returns its exit code.

    Args:
        failure: one of ``FAILURES``.
        place: what the operating system's error is about where it names no file.
        interrupted: what to say to who pressed Ctrl-C.
    """
    match failure:
        case RequestError():
            code, line = 2, f"error: {failure}"
        case KeyboardInterrupt():
            code, line = 130, interrupted
        case OSError():
            code, line = 1, f"failed: {failure.filename or place}: {failure.strerror or failure}"
        case _:
            code, line = 1, f"failed: {failure}"
    print(line, file=sys.stderr)
    return code
