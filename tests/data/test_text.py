import itertools
import json

import numpy as np
import pytest

from astrojax.data.corpus import Document
from astrojax.data.questions import choice_windows, read_questions
from astrojax.data.text import FIELDS, PackedWindows, batched, scoring_windows, training_windows
from astrojax.data.token_store import TokenStore, write_token_store
from astrojax.data.tokenizer import END_OF_TEXT, encode_documents, load_tokenizer, train_tokenizer
from astrojax.errors import RequestError


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the star and the planet orbit the star"] * 20, 300)


def store_of(lengths) -> TokenStore:
    """Documents whose tokens count up from 1000 times their number."""
    starts = np.cumsum([0, *lengths])
    tokens = np.concatenate([1000 * (d + 1) + np.arange(n) for d, n in enumerate(lengths)]).astype(np.uint16)
    return TokenStore(tokens, starts, np.asarray(lengths))


def test_windows_tile_the_documents_in_order():
    store = store_of([7, 3, 12, 2, 9])
    windows = PackedWindows(store, 5)
    assert len(windows) == 6
    inputs = np.concatenate([windows[i]["tokens"] for i in range(len(windows))])
    np.testing.assert_array_equal(inputs, store.tokens[:30])
    for i in range(len(windows)):
        np.testing.assert_array_equal(windows[i]["targets"], store.tokens[5 * i + 1 : 5 * i + 6])


def test_segments_positions_and_masks_mark_the_documents():
    window = PackedWindows(store_of([4, 3, 6]), 9)[0]
    np.testing.assert_array_equal(window["segment_ids"], [1, 1, 1, 1, 2, 2, 2, 3, 3])
    np.testing.assert_array_equal(window["positions"], [0, 1, 2, 3, 0, 1, 2, 0, 1])
    # The last token of a document would have to guess the next document.
    np.testing.assert_array_equal(window["loss_mask"], [1, 1, 1, 0, 1, 1, 0, 1, 1])


def test_a_window_has_the_fields_it_is_said_to_have():
    window = PackedWindows(store_of([4, 3, 6]), 9)[0]
    assert {name: value.dtype for name, value in window.items()} == FIELDS
    assert {value.shape for value in window.values()} == {(9,)}


def test_an_epoch_visits_every_window_once_and_the_next_in_another_order():
    store = store_of([200, 120])
    batches = training_windows(store, seq_len=10, batch_size=4, seed=0)
    firsts = [[int(row[0]) for row in b["tokens"]] for b in itertools.islice(iter(batches), 15)]
    seen = list(itertools.chain.from_iterable(firsts))
    epoch = 31  # windows; batches run on across epochs
    assert sorted(seen[:epoch]) == sorted(int(store.tokens[10 * i]) for i in range(epoch))
    assert seen[:29] != seen[epoch:]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_restored_iterator_gives_the_next_batch(num_workers):
    store = store_of([500])
    options = {"seq_len": 10, "batch_size": 4, "seed": 3}
    plain = [b["tokens"] for b in itertools.islice(iter(training_windows(store, **options)), 8)]
    iterator = iter(training_windows(store, **options, num_workers=num_workers))
    for expected in plain[:5]:
        np.testing.assert_array_equal(next(iterator)["tokens"], expected)
    state = json.loads(json.dumps(iterator.get_state()))  # Checkpoints keep it as JSON.
    resumed = iter(training_windows(store, **options, num_workers=num_workers))
    resumed.set_state(state)
    for expected in plain[5:]:
        np.testing.assert_array_equal(next(resumed)["tokens"], expected)


def test_processes_share_each_batch():
    store = store_of([500])
    options = {"seq_len": 10, "batch_size": 4, "seed": 3}
    whole = itertools.islice(iter(training_windows(store, **options)), 6)
    shares = [
        itertools.islice(iter(training_windows(store, **options, process_index=p, process_count=2)), 6) for p in (0, 1)
    ]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first["tokens"]) == len(second["tokens"]) == 2
        joined = np.concatenate([first["tokens"], second["tokens"]])
        assert {tuple(row) for row in joined} == {tuple(row) for row in batch["tokens"]}


@pytest.mark.parametrize("overlap", [0, 4, 7])
@pytest.mark.parametrize("length", [2, 8, 9, 10, 30])
def test_scoring_counts_every_token_once(length, overlap):
    store = store_of([length, 5])
    scored = []
    for window in scoring_windows(store, seq_len=8, overlap=overlap):
        count = window["loss_mask"].astype(bool)
        scored += window["targets"][count].tolist()
        context = np.arange(8)[count]
        assert window["positions"][0] == 0
        assert window["tokens"][0] % 1000 == 0 or context.min() >= overlap
    assert sorted(scored) == sorted(t for t in store.tokens.tolist() if t % 1000)


def test_the_last_batch_is_filled_up_with_nothing():
    batches = list(batched(scoring_windows(store_of([30]), seq_len=8), 3))
    assert [len(b["tokens"]) for b in batches] == [3, 3]
    assert sum(b["loss_mask"].sum() for b in batches) == 29


def test_tokens_decode_to_the_text(tokenizer):
    texts = [f"spelled out: {END_OF_TEXT}.", "the star\n\n  orbits — 恒星 ⭐ \x00 é", "", "   "]
    end = tokenizer.token_to_id(END_OF_TEXT)
    for text, tokens in zip(texts, encode_documents(tokenizer, texts), strict=True):
        assert tokens[0] == tokens[-1] == end
        assert tokenizer.decode(tokens[1:-1]) == text


def test_store_keeps_tokens_and_sizes(tmp_path, tokenizer):
    texts = [f"star {i} é" for i in range(600)]
    written = write_token_store(tmp_path / "s", (Document(str(i), t) for i, t in enumerate(texts)), tokenizer)
    opened = TokenStore.open(tmp_path / "s")
    assert len(opened) == len(written) == 600
    assert [tokenizer.decode(opened[i][1:-1].tolist()) for i in (0, 257, 599)] == [texts[i] for i in (0, 257, 599)]
    assert opened.num_bytes.sum() == sum(len(t.encode()) for t in texts)
    assert opened.tokens.dtype == np.uint16


def test_an_empty_store_can_be_written(tmp_path, tokenizer):
    assert write_token_store(tmp_path / "s", iter(()), tokenizer).num_tokens == 0


def test_unusable_tokenizers_are_refused(tmp_path):
    with pytest.raises(RequestError, match="at least 257, got 200"):
        train_tokenizer(["text"], 200)
    with pytest.raises(RequestError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(RequestError, match="not a tokenizer"):
        load_tokenizer(tmp_path / "broken.json")


def test_questions_are_read_and_packed(tokenizer):
    questions = read_questions("data/text/questions.jsonl")
    assert len(questions) == 1338
    assert sum(q.strict for q in questions) > 100
    some = questions[:12]
    answers, segments = {}, set()
    for window in choice_windows(some, tokenizer, seq_len=200):
        for segment in set(window["segment_ids"].tolist()) - {0}:
            inside = window["segment_ids"] == segment
            np.testing.assert_array_equal(window["positions"][inside], np.arange(inside.sum()))
            scored = inside & (window["loss_mask"] > 0)
            (choice,) = set(window["choice_ids"][scored].tolist())
            answers[choice] = tokenizer.decode(window["targets"][scored].tolist())
            segments.add(choice)
    choices = [choice for q in some for choice in q.choices]
    assert [answers[i] for i in range(len(choices))] == [f" {choice}" for choice in choices]


def test_long_questions_lose_their_beginning(tokenizer):
    (question,) = read_questions("data/text/questions.jsonl")[:1]
    for window in choice_windows([question._replace(text="why " * 500)], tokenizer, seq_len=40):
        assert (window["segment_ids"] > 0).all()
        assert window["loss_mask"].sum() > 0


@pytest.mark.parametrize(
    "line",
    [
        '{"question": "q", "choices": ["a", "b"], "answer_index": 2}',
        '{"question": "q", "choices": ["a"], "answer_index": 0}',
        '{"question": "q", "choices": ["a", ""], "answer_index": 0}',
        '{"choices": ["a", "b"], "answer_index": 0}',
    ],
)
def test_bad_questions_are_refused_by_line(tmp_path, line):
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "q", "choices": ["a", "b"], "answer_index": 1}\n' + line)
    with pytest.raises(RequestError, match="line 2: not a question"):
        read_questions(str(file))
    file.write_text("")
    with pytest.raises(RequestError, match="no questions"):
        read_questions(str(file))
    with pytest.raises(RequestError, match="no such question file"):
        read_questions(str(tmp_path / "missing"))
