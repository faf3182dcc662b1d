"""The tasks by name. Each is imported only when a run needs it."""

import importlib

import msgspec

from astrojax import config as configs
from astrojax.errors import RequestError
from astrojax.train.task import RunConfig, Task

_TASKS = {
    "language": ("astrojax.tasks.language", "LanguageTask", "LanguageConfig"),
    "molecules": ("astrojax.tasks.molecules", "MoleculeTask", "MoleculeConfig"),
    "reactions": ("astrojax.tasks.reactions", "ReactionTask", "ReactionConfig"),
    "climate": ("astrojax.tasks.climate", "ClimateTask", "ClimateConfig"),
}


def make_task(config: RunConfig) -> Task:
    """The task that ``config`` describes.

    Raises:
        RequestError: the configuration belongs to no task.
    """
    module, task, _ = _entry(type(config).__struct_config__.tag)
    return getattr(importlib.import_module(module), task)(config)


def read_config(data: bytes) -> RunConfig:
    """The configuration that a run's ``config.json`` holds.

    Raises:
        RequestError: it is not one.
    """
    try:
        name = msgspec.json.decode(data)["task"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise RequestError(f"not a run's configuration: {error}") from error
    module, _, config = _entry(name)
    return configs.from_json(data, getattr(importlib.import_module(module), config))


def _entry(name: str | None) -> tuple[str, str, str]:
    if name not in _TASKS:
        raise RequestError(f"no task named {name!r}; known: {', '.join(_TASKS)}")
    return _TASKS[name]
