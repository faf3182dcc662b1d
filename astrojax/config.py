"""Typed configurations: read from a Python file, changed from the command line, kept as JSON.

A configuration is a tree of frozen ``Config`` structs. Every value is checked against its type and bounds when it
enters, and an unknown field is an error, so a misspelt ``--config.optimiser.peak_lr`` cannot silently do nothing.
"""

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from astrojax.errors import RequestError

Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """Base of every configuration: immutable, hashable, strict about its fields."""


def load_config(spec: str) -> Config:
    """Reads ``FILE[:PRESET]``: the file defines ``get_config(preset)``, with a default where no preset is named, and
    ``PRESETS``, which holds the names it knows.

    Raises:
        RequestError: the file is missing, defines no ``get_config``, or does not know the preset.
    """
    path, _, preset = spec.partition(":")
    if not Path(path).is_file():
        raise RequestError(f"--config: no such file: {path}")
    module_spec = importlib.util.spec_from_file_location(f"astrojax_config_{Path(path).stem}", path)
    if module_spec is None:
        raise RequestError(f"--config: not a Python file: {path}")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise RequestError(f"--config: {path} cannot be read: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise RequestError(f"--config: {path} defines no get_config(preset)")
    presets = getattr(module, "PRESETS", {})
    if preset and preset not in presets:
        raise RequestError(f"--config: {path} has no preset {preset!r}{_suggest(preset, presets)}")
    try:
        config = module.get_config(preset) if preset else module.get_config()
    except Exception as error:
        raise RequestError(f"--config: {spec}: {type(error).__name__}: {error}") from error
    return override(config, {})  # A preset's values pass the same checks as the command line's.


def parse_overrides(arguments: list[str]) -> dict[str, str]:
    """Turns ``["--config.a.b=value", ...]`` into ``{"a.b": "value"}``; a repeated field keeps its last value."""
    overrides = {}
    for argument in arguments:
        match = re.fullmatch(r"--config\.([\w.]+)=(.*)", argument, flags=re.DOTALL)
        if not match:
            raise RequestError(f"unknown argument {argument!r} (a field is set with --config.section.field=value)")
        overrides[match[1]] = match[2]
    return overrides


def override(config: Config, overrides: dict[str, str]) -> Config:
    """Returns ``config`` with dotted fields replaced by values given as text, checked against the fields' types.

    A section with a choice of kinds is switched as a whole by the name of its kind, which brings that kind's
    defaults: ``{"optimizer": "lion", "optimizer.peak_lr": "1e-4"}``.

    Raises:
        RequestError: a field is unknown, or its value has the wrong type or lies out of bounds.
    """
    tree = msgspec.to_builtins(config)
    for field, text in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        *parents, leaf = field.split(".")
        section = tree
        for depth, name in enumerate([*parents, leaf]):
            if not isinstance(section, dict) or name not in section:
                where = ".".join(parents[:depth]) or "the configuration"
                known = section if isinstance(section, dict) else {}
                raise RequestError(f"--config.{field}: {where} has no field {name!r}{_suggest(name, known)}")
            if depth < len(parents):
                section = section[name]
        current = section[leaf]
        if isinstance(current, dict):
            if "kind" not in current:
                raise RequestError(f"--config.{field} is a section; set one of its fields: {', '.join(current)}")
            section[leaf] = {"kind": text}
            # The kind's own defaults must be in the tree before its fields can be overridden.
            tree = msgspec.to_builtins(_convert(tree, type(config)))
        else:
            section[leaf] = text
            if text.lower() in ("none", "null"):
                # Nothing, unless the field has a value of that name, such as remat=none.
                section[leaf] = None
                if not _is_valid(tree, type(config)):
                    section[leaf] = text
    return _convert(tree, type(config))


def to_json(config: Config) -> bytes:
    """The configuration as indented JSON, every field written out."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"


def from_json(data: bytes, kind: type[Config]) -> Config:
    """The configuration of type ``kind`` that :func:`to_json` wrote.

    Raises:
        RequestError: a field is unknown, missing or invalid.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise RequestError(f"not a valid configuration: {error}") from error


def differences(first: Config, second: Config, ignore: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """The dotted fields in which two configurations differ, without the fields and sections named in ``ignore``."""
    left, right = _flatten(msgspec.to_builtins(first)), _flatten(msgspec.to_builtins(second))
    return {
        field: (left.get(field), right.get(field))
        for field in sorted(left.keys() | right.keys())
        if left.get(field) != right.get(field) and not any(f"{field}.".startswith(f"{name}.") for name in ignore)
    }


def _convert(tree: dict[str, Any], kind: type[Config]) -> Config:
    try:
        return msgspec.convert(tree, type=kind, strict=False)
    except msgspec.ValidationError as error:
        message = re.sub(r" - at `\$\.?([^`]*)`", "", str(error))
        field = re.search(r" - at `\$\.?([^`]*)`", str(error))
        value = _lookup(tree, field[1]) if field else None
        got = "" if isinstance(value, dict) else f", got {value!r}"
        raise RequestError(f"--config.{field[1] if field else ''}: {message}{got}") from error


def _is_valid(tree: dict[str, Any], kind: type[Config]) -> bool:
    try:
        _convert(tree, kind)
    except RequestError:
        return False
    return True


def _lookup(tree: Any, field: str) -> Any:
    for name in field.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _suggest(name: str, known) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}" if known else ""
