"""How good a language model is: bits per byte beside compressors, and questions beside guessing."""

import hashlib
import itertools
import json
import lzma
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from astrojax.console import say
from astrojax.data import corpus
from astrojax.data.questions import Question, choice_windows
from astrojax.data.token_store import TokenStore, write_token_store
from astrojax.evaluation.plots import plot_learning_curve
from astrojax.files import write_atomically
from astrojax.train.metrics import read_metrics

XZ_DICTIONARY_BYTES = 64 << 20  # xz -9 looks back this far; text before it cannot help.


def evaluate(task, params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
    """Scores the held-out text and the questions; writes ``eval/metrics.json`` and ``eval/learning_curve.png``.

    The text is the corpus's held-out split, or ``data.eval_path``; every document is read in windows that overlap by
    half, so that a token has at least half a window of context where its document has it. Baselines are computed on
    the same bytes: ``xz -9e`` alone and primed with the training text, and a unigram model of the training tokens.
    """
    data = task.config.data
    folder = workdir / "eval"
    with tempfile.TemporaryDirectory() as scratch:
        if data.eval_path:
            store = write_token_store(Path(scratch) / "text", corpus.read_documents(data.eval_path), task.tokenizer)
        else:
            store = task.stores["heldout"]
        metrics = {
            "step": step,
            "text": data.eval_path or "held-out split",
            **score_text(task, params, mesh, store),
        }
        if task.questions:
            metrics |= answer_questions(task, params, mesh, task.questions)
        if jax.process_index() == 0:
            metrics |= _baselines(folder, task.stores["train"], store, task.tokenizer)
    if jax.process_index() == 0:
        write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2).encode() + b"\n")
        train = task.stores["train"]
        bits_per_nat = train.num_tokens / math.log(2) / float(train.num_bytes.sum())
        plot_learning_curve(folder / "learning_curve.png", read_metrics(workdir), metrics, bits_per_nat)
    return metrics


def score_text(task, params, mesh: jax.sharding.Mesh, store: TokenStore) -> dict[str, Any]:
    """Bits per byte and perplexity of a store of documents. The model also pays for each document's end."""
    num_bytes = int(store.num_bytes.sum())
    say(f"scoring {len(store)} documents, {num_bytes:,} bytes")
    nats, tokens = task.score_documents(params, mesh, store, overlap=task.config.data.seq_len // 2)
    return {
        "bytes": num_bytes,
        "tokens": tokens,
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "perplexity": math.exp(nats / tokens),
    }


def answer_questions(task, params, mesh: jax.sharding.Mesh, questions: list[Question]) -> dict[str, Any]:
    """Picks each question's choice with the highest log-likelihood per byte; accuracies with 95 % Wilson intervals."""
    lengths = np.asarray([len(choice.encode()) for q in questions for choice in q.choices])
    scores = np.zeros(len(lengths))
    windows = choice_windows(questions, task.tokenizer, seq_len=task.config.data.seq_len)
    say(f"answering {len(questions)} questions")
    for log_likelihood_bt, batch in task.score_windows(params, mesh, windows):
        scored = batch["loss_mask"] > 0
        np.add.at(scores, batch["choice_ids"][scored], log_likelihood_bt[scored])
    bounds = np.cumsum([0] + [len(q.choices) for q in questions])

    def picks(values):
        return [int(np.argmax(values[a:b])) for a, b in itertools.pairwise(bounds)]

    right = np.asarray([pick == q.answer for pick, q in zip(picks(scores / lengths), questions, strict=True)])
    longest = np.asarray([pick == q.answer for pick, q in zip(picks(lengths), questions, strict=True)])
    strict = np.asarray([q.strict for q in questions])
    metrics = {
        "questions": len(questions),
        "question_accuracy": float(right.mean()),
        "question_accuracy_ci95": wilson_interval(int(right.sum()), len(right)),
        "chance_accuracy": float(np.mean([1 / len(q.choices) for q in questions])),
        "longest_choice_accuracy": float(longest.mean()),
    }
    if strict.any():
        metrics |= {
            "questions_strict": int(strict.sum()),
            "question_accuracy_strict": float(right[strict].mean()),
            "question_accuracy_strict_ci95": wilson_interval(int(right[strict].sum()), int(strict.sum())),
        }
    return metrics


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> list[float]:
    """The score interval of a proportion (Wilson 1927): right in coverage where successes are few."""
    share, z2 = successes / trials, z * z / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    return [centre - half, centre + half]


def xz_bits_per_byte(text: bytes, primed_with: bytes = b"") -> float:
    """Bits ``xz -9e`` spends on a byte of ``text``, beyond what it spends on the text it is primed with."""

    def size(data: bytes) -> int:
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) if data else 0

    return 8 * (size(primed_with + text) - size(primed_with)) / len(text)


def unigram_bits_per_byte(train: TokenStore, test: TokenStore, vocab_size: int) -> float:
    """Bits per byte of drawing every token alone from the training frequencies, each count raised by one."""
    counts = np.ones(vocab_size)
    for start in range(0, train.num_tokens, 1 << 24):  # Counting copies: not the whole corpus at once.
        counts += np.bincount(train.tokens[start : start + (1 << 24)], minlength=vocab_size)
    bits = -np.log2(counts / counts.sum())
    # The first token of a document is given, not predicted: the model does not pay for it either.
    given = bits[test.tokens[test.starts[:-1]]].sum()
    return float((bits[test.tokens].sum() - given) / test.num_bytes.sum())


def _baselines(folder: Path, train: TokenStore, test: TokenStore, tokenizer) -> dict[str, float]:
    """The three baselines; kept in ``eval/baselines.json``, since xz takes longer than the model."""
    text, primer = _text(test, tokenizer), _text(train, tokenizer, limit=XZ_DICTIONARY_BYTES)
    key = [hashlib.sha256(data).hexdigest() for data in (text, primer)]
    file = folder / "baselines.json"
    if file.exists() and (kept := json.loads(file.read_text()))["of"] == key:
        return kept["baselines"]
    say("compressing the same text with xz for comparison")
    baselines = {
        "xz_bits_per_byte": xz_bits_per_byte(text),
        "xz_primed_bits_per_byte": xz_bits_per_byte(text, primed_with=primer),
        "unigram_bits_per_byte": unigram_bits_per_byte(train, test, tokenizer.get_vocab_size()),
    }
    write_atomically(file, json.dumps({"of": key, "baselines": baselines}).encode())
    return baselines


def _text(store: TokenStore, tokenizer, limit: int | None = None) -> bytes:
    """The documents of a store one after the other; the last of them where they are more than ``limit`` bytes."""
    first = 0
    if limit is not None:
        after = np.cumsum(store.num_bytes[::-1])[::-1]  # Bytes from each document to the end.
        first = int(np.argmax(after <= limit)) if (after <= limit).any() else len(store)
    documents = [store[i].tolist() for i in range(first, len(store))]
    return "".join(tokenizer.decode_batch(documents, skip_special_tokens=True)).encode()
