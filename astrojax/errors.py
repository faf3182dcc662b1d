"""The ways a command can fail, so that ``launch.py`` can turn them into exit codes."""


class RequestError(Exception):
    """The request cannot be served as asked: a wrong flag, field, file or value (exit code 2)."""


class RunError(Exception):
    """The request was sound but the run failed: divergence, a full disk, lost data (exit code 1)."""


class OutOfMemoryError(RunError):
    """A device's memory did not suffice; the message says what filled it."""
