"""Which files there are and which planet and epoch each of them is."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astrojax import files
from astrojax.data.cubes.source import SourceFile
from astrojax.errors import RequestError

PATTERN = r"planet(?P<planet>\d+)_epoch(?P<epoch>\d+)\.nc"
PLANET_ATTRIBUTE, EPOCH_ATTRIBUTE = "planet_index", "epoch_index"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """How a file tells which planet and epoch it is: by its name, or by two of its global attributes.

    Attributes:
        pattern: regular expression with the groups ``planet`` and ``epoch`` that the file's name matches as a whole.
        planet_attribute, epoch_attribute: global attributes. Where nothing is given, those named ``planet_index`` and
            ``epoch_index`` if the first file has both, else the pattern ``planetNN_epochN.nc``.

    Raises:
        RequestError: both ways are asked for, one attribute is missing, or the pattern is none.
    """

    pattern: str | None = None
    planet_attribute: str | None = None
    epoch_attribute: str | None = None

    def __post_init__(self):
        if (self.planet_attribute is None) != (self.epoch_attribute is None):
            raise RequestError("--planet-attribute and --epoch-attribute go together")
        if self.pattern is None:
            return
        if self.planet_attribute:
            raise RequestError("--pattern and --planet-attribute exclude each other")
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise RequestError(f"--pattern {self.pattern!r} is no regular expression: {error}") from error
        if not {"planet", "epoch"} <= groups.keys():
            raise RequestError(f"--pattern {self.pattern!r} should have the groups (?P<planet>...) and (?P<epoch>...)")

    def resolved(self, attributes: dict[str, Any]) -> "Naming":
        """The way that is used where none was asked for, given a file's global attributes."""
        if self.pattern or self.planet_attribute:
            return self
        if PLANET_ATTRIBUTE in attributes and EPOCH_ATTRIBUTE in attributes:
            return Naming(planet_attribute=PLANET_ATTRIBUTE, epoch_attribute=EPOCH_ATTRIBUTE)
        return Naming(pattern=PATTERN)

    def identify(self, source: SourceFile) -> tuple[int | str, int | str]:
        """Planet and epoch of a file.

        Raises:
            RequestError: its name does not match, or it lacks an attribute.
        """
        if self.pattern:
            match = re.fullmatch(self.pattern, source.path.name)
            if not match:
                raise RequestError(f"{source.path}: its name does not match --pattern {self.pattern!r}")
            return _number(match["planet"]), _number(match["epoch"])
        for name in (self.planet_attribute, self.epoch_attribute):
            if name not in source.attributes:
                raise RequestError(f"{source.path}: no global attribute {name}")
        return _number(source.attributes[self.planet_attribute]), _number(source.attributes[self.epoch_attribute])


def find_files(sources: Sequence[str]) -> list[Path]:
    """The files that folders (their ``*.nc``), files and glob patterns name, each once, sorted by path.

    Raises:
        RequestError: one of them names no file.
    """
    return files.find_files(sources, (".nc",), "no NetCDF file there")


def _number(value: Any) -> int | str:
    """Integers sort as such; anything else stays text."""
    text = str(value.item() if hasattr(value, "item") else value)
    number = re.fullmatch(r"(-?\d+)(\.0)?", text)
    return int(number[1]) if number else text
