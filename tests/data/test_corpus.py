import gzip
import json
import os
from collections import Counter

import pytest
import zstandard

from astrojax.data.corpus import PLAIN_TEXT_DOCUMENT_BYTES, read_documents, split_of
from astrojax.errors import RequestError

RECORDS = [{"id": f"book/{i}", "text": f"Chapter {i}: étoile, 恒星, ⭐.\nEnd."} for i in range(5)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
TEXTS = [record["text"] for record in RECORDS]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.jsonl.zst", zstandard.compress(LINES)),
        ("a.jsonl.zst", zstandard.compress(LINES[:50]) + zstandard.compress(LINES[50:])),
    ],
)
def test_every_container_gives_the_same_documents(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    documents = list(read_documents(str(tmp_path / name)))
    assert [document.text for document in documents] == TEXTS
    assert [document.id for document in documents] == [record["id"] for record in RECORDS]


def test_a_folder_is_read_in_order_of_its_names(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.jsonl").write_bytes(LINES)
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "notes.md").write_text("not a corpus file")
    documents = list(read_documents(str(tmp_path)))
    assert [document.text for document in documents] == ["first", *TEXTS]
    assert documents[0].id == "a.txt#0"


def test_plain_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = [f"Paragraph {i}. " + "star " * 300 for i in range(20)]
    (tmp_path / "long.txt").write_text("\n\n".join(paragraphs))
    documents = list(read_documents(str(tmp_path / "long.txt")))
    assert len(documents) > 2
    assert all(len(document.text.encode()) >= PLAIN_TEXT_DOCUMENT_BYTES - 2 for document in documents[:-1])
    assert "\n\n".join(document.text for document in documents).split() == "\n\n".join(paragraphs).split()


def test_documents_without_id_are_known_by_their_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "same"}\n{"text": "same"}\n{"text": "other"}\n{"text": " "}\n')
    ids = [document.id for document in read_documents(str(tmp_path / "a.jsonl"))]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids) == 3


def test_the_rule_gives_back_the_shipped_split():
    for name in ("train", "heldout"):
        documents = read_documents(f"data/text/documents/{name}.jsonl.gz")
        splits = Counter(split_of(document.id) for document in documents)
        assert (splits.keys() == {"heldout"}) if name == "heldout" else ("heldout" not in splits)


def test_the_rule_splits_in_the_documented_shares():
    splits = Counter(split_of(f"document-{i}") for i in range(20_000))
    assert splits["heldout"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert splits["validation"] / 20_000 == pytest.approx(0.018, abs=0.004)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "the corpus is empty"),
        ("a.txt", b" \n\n ", "the corpus is empty"),
        ("a.txt", "étoile".encode("latin-1"), "not UTF-8: byte 0xe9"),
        ("a.jsonl", b'{"text": "ok"}\n\xff\n', "not UTF-8: byte 0xff"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", b'{"body": "x"}\n', "line 1: no field 'text'"),
        ("a.jsonl", b"[1, 2]\n", "line 1: not a JSON object"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "ends early"),
        ("a.jsonl.gz", LINES, "cannot be read"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:10] + b"\xff" * 40, "cannot be read"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: half a surrogate pair"),
        ("a.jsonl.zst", zstandard.compress(LINES)[:-5], "ends early"),
        ("a.jsonl.zst", LINES, "not Zstandard"),
        ("a.pdf", b"%PDF", "not one of .txt"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, data, message):
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(RequestError, match=message) as error:
        list(read_documents(str(file)))
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_unreadable_paths_are_refused(tmp_path):
    with pytest.raises(RequestError, match="no such file or folder"):
        list(read_documents(str(tmp_path / "missing.txt")))
    with pytest.raises(RequestError, match=r"no \.txt"):
        list(read_documents(str(tmp_path)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_without_permission_are_refused(tmp_path):
    file = tmp_path / "closed.txt"
    file.write_text("text")
    file.chmod(0)
    with pytest.raises(RequestError, match="cannot be read"):
        list(read_documents(str(file)))
