"""The evaluation against computations of its figures by another way."""

import json
import lzma
import math
import types

import jax
import numpy as np
import pytest

from astrojax import config as configs
from astrojax.data.corpus import read_documents, split_of
from astrojax.data.questions import read_questions
from astrojax.data.token_store import TokenStore
from astrojax.evaluation.language import unigram_bits_per_byte, wilson_interval, xz_bits_per_byte
from astrojax.evaluation.plots import plot_learning_curve
from astrojax.tasks import make_task
from astrojax.train import loop
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, corpus, questions):
    """A barely trained model with its evaluation, and everything needed to compute it again."""
    workdir = tmp_path_factory.mktemp("evaluated")
    overrides = SMALL | {"data.path": corpus, "data.questions_path": questions, "train.steps": "3"}
    task = make_task(configs.override(configs.load_config("configs/llm.py"), overrides))
    outcome = loop.train(task, workdir, devices=jax.devices()[:1])
    with jax.set_mesh(outcome.mesh):
        metrics = task.evaluate(outcome.params, outcome.mesh, workdir, outcome.step)
    model = task.model(outcome.params)

    def log_softmax(tokens):
        """``[t, v]`` for one document from its beginning, no packing, no windows, no chunks."""
        tokens = np.asarray(tokens, np.int32)[None]
        with jax.set_mesh(outcome.mesh):
            logits = jax.jit(model)(tokens, np.ones_like(tokens), np.arange(tokens.shape[1], dtype=np.int32)[None])
        return np.asarray(jax.nn.log_softmax(logits[0]))

    return types.SimpleNamespace(
        task=task,
        outcome=outcome,
        metrics=metrics,
        log_softmax=log_softmax,
        workdir=workdir,
        corpus=corpus,
        questions=questions,
    )


def test_bits_per_byte_are_those_of_each_token_in_its_window(evaluated):
    seq_len, overlap = 64, 32
    store = evaluated.task.stores["heldout"]
    nats, count = 0.0, 0
    for tokens in (np.asarray(store[i], np.int32) for i in range(len(store))):
        target = 1
        while target < len(tokens):
            start = 0 if target == 1 else target - 1 - overlap
            window = tokens[start : start + seq_len + 1]
            log_p = evaluated.log_softmax(np.pad(window[:-1], (0, seq_len + 1 - len(window))))
            targets = np.arange(target, start + len(window))
            nats -= float(np.sum(log_p[targets - start - 1, tokens[targets]]))
            count += len(targets)
            target = start + len(window)
    held_out = [d.text for d in read_documents(evaluated.corpus) if split_of(d.id) == "heldout"]
    num_bytes = sum(len(text.encode()) for text in held_out)
    assert count == evaluated.metrics["tokens"] == sum(len(store[i]) - 1 for i in range(len(store)))
    assert evaluated.metrics["bytes"] == num_bytes
    assert evaluated.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert evaluated.metrics["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)


def test_packed_choices_score_like_choices_alone(evaluated):
    tokenizer = evaluated.task.tokenizer
    questions = read_questions(evaluated.questions)
    end = tokenizer.token_to_id("<|endoftext|>")
    right = 0
    for question in questions:
        prompt = [end, *tokenizer.encode(f"Question: {question.text}\nAnswer:").ids]
        scores = []
        for choice in question.choices:
            answer = tokenizer.encode(f" {choice}").ids[:64]
            tokens = (prompt[-(65 - len(answer)) :] + answer)[:65]
            log_p = evaluated.log_softmax(np.pad(tokens[:-1], (0, 65 - len(tokens))))
            places = range(len(tokens) - 1 - len(answer), len(tokens) - 1)
            scores.append(sum(log_p[i, tokens[i + 1]] for i in places) / len(choice.encode()))
        right += int(np.argmax(scores)) == question.answer
    assert evaluated.metrics["question_accuracy"] == pytest.approx(right / len(questions))
    assert evaluated.metrics["chance_accuracy"] == pytest.approx(0.25, abs=0.03)


def test_baselines_are_kept_with_the_run(evaluated):
    kept = json.loads((evaluated.workdir / "eval" / "baselines.json").read_text())["baselines"]
    assert kept["xz_bits_per_byte"] == evaluated.metrics["xz_bits_per_byte"]
    text = "".join(d.text for d in read_documents(evaluated.corpus) if split_of(d.id) == "heldout").encode()
    assert kept["xz_bits_per_byte"] == xz_bits_per_byte(text)
    assert xz_bits_per_byte(text, primed_with=text) < 0.1 < xz_bits_per_byte(text)
    assert xz_bits_per_byte(text) == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def test_unigram_pays_for_every_token_but_the_first():
    train = TokenStore(np.asarray([0, 1, 1, 2], np.uint16), np.asarray([0, 4]), np.asarray([9]))
    test = TokenStore(np.asarray([0, 1, 2, 0, 2], np.uint16), np.asarray([0, 3, 5]), np.asarray([4, 6]))
    probability = np.asarray([2, 3, 2, 1]) / 8
    expected = -np.log2(probability[[1, 2, 2]]).sum() / 10
    assert unigram_bits_per_byte(train, test, 4) == pytest.approx(expected)


def test_wilson_interval_by_its_definition():
    """The interval's ends are the proportions from which the observed one is just 1.96 standard errors away."""
    for successes, trials in ((0, 20), (7, 20), (20, 20), (343, 1338)):
        for end in wilson_interval(successes, trials):
            error = math.sqrt(max(end * (1 - end), 0) / trials)
            assert abs(successes / trials - end) == pytest.approx(1.959964 * error, abs=1e-9)


def test_the_learning_curve_is_drawn_without_validation(tmp_path):
    final = {"step": 2, "text": "held-out split", "bits_per_byte": 4.0, "unigram_bits_per_byte": 4.5}
    final |= {"xz_bits_per_byte": 2.0, "xz_primed_bits_per_byte": 1.7}
    plot_learning_curve(tmp_path / "curve.png", [{"step": 1, "loss": None}, {"step": 2, "loss": 6.0}], final, 0.4)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
