"""Documents from text files, and the rule that splits them.

A corpus is a ``.txt``, ``.jsonl``, ``.jsonl.gz`` or ``.jsonl.zst`` file, or a folder of them. A line of JSON is a
document ``{"text": ..., "id": ...}`` (the id is optional); a plain text is cut at blank lines into documents of at
least 8 KiB, so that one long file can be split too.
"""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from astrojax.errors import RequestError

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst")
PLAIN_TEXT_DOCUMENT_BYTES = 8192

Split = Literal["train", "validation", "heldout"]


class Document(NamedTuple):
    """One text with the id that decides its split."""

    id: str
    text: str


def split_of(document_id: str) -> Split:
    """The split a document belongs to, by a hash of its id alone: adding documents never moves another one.

    With ``h = sha256(part of the id after the last slash)`` in hexadecimal: held out where the first eight digits are
    a multiple of 10, else validation where the next eight are a multiple of 50, else training; about 10, 2 and 88 %.
    """
    digest = hashlib.sha256(document_id.rpartition("/")[2].encode()).hexdigest()
    if int(digest[:8], 16) % 10 == 0:
        return "heldout"
    return "validation" if int(digest[8:16], 16) % 50 == 0 else "train"


def corpus_files(path: str) -> list[Path]:
    """The files of the corpus at ``path``, sorted by name.

    Raises:
        RequestError: nothing readable is there.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(file for file in root.rglob("*") if file.name.endswith(SUFFIXES))
        if not files:
            raise RequestError(f"no {', '.join(SUFFIXES)} file in {path}")
        return files
    if not root.exists():
        raise RequestError(f"no such file or folder: {path}")
    if not root.name.endswith(SUFFIXES):
        raise RequestError(f"{path}: not one of {', '.join(SUFFIXES)}")
    return [root]


def read_documents(path: str) -> Iterator[Document]:
    """Streams the documents at ``path``; those without text are left out.

    Raises:
        RequestError: a file is missing, unreadable, cut short, not UTF-8 or not JSON, or there is no text at all.
    """
    empty = True
    for file in corpus_files(path):
        name = file.name if Path(path).is_file() else file.relative_to(path).as_posix()
        for document in _plain_documents(file, name) if file.name.endswith(".txt") else _json_documents(file):
            if document.text.strip():
                empty = False
                yield document
    if empty:
        raise RequestError(f"{path}: the corpus is empty")


def read_json_lines(file: Path) -> Iterator[tuple[int, dict]]:
    """The objects of a JSON-lines file, compressed or not, with their line numbers.

    Raises:
        RequestError: the file is unreadable, cut short, not UTF-8 or not JSON.
    """
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise RequestError(f"{file}, line {number}: not JSON: {error.msg}") from error
        except UnicodeEncodeError as error:
            raise RequestError(f"{file}, line {number}: half a surrogate pair, not a character") from error
        if not isinstance(record, dict):
            raise RequestError(f"{file}, line {number}: not a JSON object")
        yield number, record


def _json_documents(file: Path) -> Iterator[Document]:
    for number, record in read_json_lines(file):
        text = record.get("text")
        if not isinstance(text, str):
            raise RequestError(f"{file}, line {number}: no field 'text' that holds a string")
        yield Document(str(record.get("id") or hashlib.sha256(text.encode()).hexdigest()), text)


def _plain_documents(file: Path, name: str) -> Iterator[Document]:
    number, parts, size = 0, [], 0
    for _, line in _lines(file):
        parts.append(line)
        size += len(line.encode())
        if not line.strip() and size >= PLAIN_TEXT_DOCUMENT_BYTES:
            yield Document(f"{name}#{number}", "".join(parts).strip())
            number, parts, size = number + 1, [], 0
    yield Document(f"{name}#{number}", "".join(parts).strip())


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers; whatever stops the reading names the file."""
    number = 0
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RequestError(f"{file}, line {number}: not UTF-8: byte 0x{byte:02x} at column {error.start}") from error
    except EOFError as error:
        raise RequestError(f"{file}: the compressed file ends early, after line {number}") from error
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{file}: cannot be read after line {number}: {reason}") from error


def _open(file: Path) -> io.BufferedIOBase:
    if file.name.endswith(".gz"):
        return gzip.open(file, "rb")
    if file.name.endswith(".zst"):
        return io.BufferedReader(_ZstdReader(file))
    return file.open("rb")


class _ZstdReader(io.RawIOBase):
    """Decompresses Zstandard frames and, unlike the library's own reader, refuses a file that ends inside one."""

    def __init__(self, file: Path):
        import zstandard

        self._error = zstandard.ZstdError
        self._new_frame = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._file = file.open("rb")
        self._frame = self._new_frame()
        self._pending = b""
        self._compressed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._pending:
            self._compressed = self._compressed or self._file.read(1 << 16)
            if self._frame.eof and self._compressed:
                self._frame = self._new_frame()
            if not self._compressed:
                if not self._frame.eof:
                    raise EOFError
                return 0
            try:
                self._pending = self._frame.decompress(self._compressed)
            except self._error as error:
                raise OSError(f"not Zstandard: {error}") from error
            self._compressed = self._frame.unused_data
        count = min(len(buffer), len(self._pending))
        buffer[:count], self._pending = self._pending[:count], self._pending[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
