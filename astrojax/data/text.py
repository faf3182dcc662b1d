"""Windows of packed tokens, fed by Grain.

The documents stand one after the other and are cut into windows of ``seq_len`` predictions; a window that spans two
documents carries segment ids, so that neither attends to the other and no token is predicted from another document.
Windows are random access: the order of an epoch is a function of the seed, and the place in it is one integer.
"""

import functools

import grain
import numpy as np

from astrojax.config import Config, NonNegative, Positive
from astrojax.data.token_store import TokenStore
from astrojax.data.workers import in_workers

# What a window holds, each [seq_len] (see PackedWindows).
FIELDS = {
    "tokens": np.int32,
    "targets": np.int32,
    "segment_ids": np.int32,
    "positions": np.int32,
    "loss_mask": np.float32,
}


class TextConfig(Config):
    """Where the text comes from.

    Attributes:
        path: a ``.txt``, ``.jsonl``, ``.jsonl.gz`` or ``.jsonl.zst`` file or a folder of them.
        eval_path: evaluate on this text instead of the corpus's held-out split.
        questions_path: multiple-choice questions to answer, in JSON lines.
        tokenizer_path: a ``tokenizer.json`` to use instead of training one.
        seq_len: predictions per window.
        num_workers: processes that prepare batches; 0 prepares them in threads of the run.
    """

    path: str = "data/text/documents"
    eval_path: str | None = None
    questions_path: str | None = "data/text/questions.jsonl"
    tokenizer_path: str | None = None
    seq_len: Positive = 256
    num_workers: NonNegative = 0


class PackedWindows(grain.sources.RandomAccessDataSource):
    """Window ``i`` of the concatenated documents, with the token that follows its last one.

    Each element holds ``tokens`` and ``targets`` (the next tokens), ``segment_ids`` (from 1, in order of appearance),
    ``positions`` (from 0, anew in each segment), all ``[seq_len]`` int32, and ``loss_mask`` ``[seq_len]`` float32,
    which is 0 where the target opens another document.
    """

    def __init__(self, store: TokenStore, seq_len: int):
        self._store, self._seq_len = store, seq_len

    def __len__(self) -> int:
        return max(self._store.num_tokens - 1, 0) // self._seq_len

    def __getitem__(self, window: int) -> dict[str, np.ndarray]:
        start = int(window) * self._seq_len
        index = np.arange(start, start + self._seq_len + 1)
        document = np.searchsorted(self._store.starts, index, side="right") - 1
        tokens = np.asarray(self._store.tokens[start : start + self._seq_len + 1], np.int32)
        return {
            "tokens": tokens[:-1],
            "targets": tokens[1:],
            "segment_ids": (document[:-1] - document[0] + 1).astype(np.int32),
            "positions": (index - np.maximum(self._store.starts[document], start))[:-1].astype(np.int32),
            "loss_mask": (document[1:] == document[:-1]).astype(np.float32),
        }


def training_windows(
    store: TokenStore,
    *,
    seq_len: int,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Endless shuffled batches; this process's share of each, every ``process_count``-th window of it.

    A checkpoint of its iterator holds for any number of processes, since every process is at the same batch.
    """
    windows = grain.MapDataset.source(PackedWindows(store, seq_len)).seed(seed).shuffle().repeat(None)
    batches = windows[process_index::process_count].batch(batch_size // process_count, drop_remainder=True)
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    return in_workers(batches, num_workers)


def scoring_windows(store: TokenStore, *, seq_len: int, overlap: int = 0) -> grain.MapDataset:
    """Windows that together score every token of every document once.

    Consecutive windows of a document share ``overlap`` tokens, which the later one reads but does not score: every
    token but the first ``overlap`` of a document is predicted from at least that much context.
    """
    stride = seq_len - overlap
    places = [
        (document, start)
        for document in range(len(store))
        for start in range(0, max(len(store[document]) - 1 - overlap, 1), stride)
    ]

    def window(place: tuple[int, int]) -> dict[str, np.ndarray]:
        document, start = place
        tokens = np.asarray(store[document][start : start + seq_len + 1], np.int32)
        scored = np.arange(len(tokens) - 1) >= (overlap if start else 0)
        return _padded(tokens, scored, seq_len)

    return grain.MapDataset.source(places).map(window)


def batched(windows: grain.MapDataset, batch_size: int) -> grain.MapDataset:
    """Batches of exactly ``batch_size``: the last one is filled up with windows that count for nothing."""

    def stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {
            name: np.concatenate([value, np.zeros((batch_size - len(rows), *value.shape[1:]), value.dtype)])
            for name, value in batch.items()
        }

    return windows.batch(batch_size, batch_fn=stack)


def _padded(tokens: np.ndarray, scored: np.ndarray, seq_len: int) -> dict[str, np.ndarray]:
    """One document's tokens as a window: padding belongs to segment 0."""
    pad = functools.partial(np.pad, pad_width=(0, seq_len - len(tokens) + 1))
    positions = np.arange(len(tokens) - 1, dtype=np.int32)
    return {
        "tokens": pad(tokens[:-1]),
        "targets": pad(tokens[1:]),
        "segment_ids": pad(np.ones_like(positions)),
        "positions": pad(positions),
        "loss_mask": pad(scored.astype(np.float32)),
    }
