"""Finding the files a person names, and writing files that are either whole or not there."""

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from astrojax.errors import RequestError


def find_files(sources: Sequence[str], suffixes: tuple[str, ...], missing: str) -> list[Path]:
    """The files that folders, files and glob patterns name, each once, sorted by path.

    Args:
        sources: a folder stands for its files that end in one of ``suffixes``.
        suffixes: such as ``(".nc",)``.
        missing: what is said of a source that names none.

    Raises:
        RequestError: one of the sources names no file.
    """
    files: dict[Path, Path] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith(suffixes))
        elif path.is_file():
            found = [path]
        else:
            found = [Path(name) for name in sorted(glob.glob(source, recursive=True)) if Path(name).is_file()]
        if not found:
            raise RequestError(f"{source}: {missing}")
        files |= {file.resolve(): file for file in found}
    return sorted(files.values())


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``folder`` when it is complete, and never before."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces ``path`` as a whole, or leaves it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
