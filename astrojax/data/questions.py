"""Multiple-choice questions: read, checked, and turned into windows that score their choices."""

from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np
from tokenizers import Tokenizer

from astrojax.data.corpus import read_json_lines
from astrojax.data.tokenizer import END_OF_TEXT
from astrojax.errors import RequestError


class Question(NamedTuple):
    """A question with its choices and the index of the right one.

    Attributes:
        strict: from a held-out module and answerable without a figure, where the file says so.
    """

    text: str
    choices: list[str]
    answer: int
    strict: bool


def read_questions(path: str) -> list[Question]:
    """Reads JSON lines ``{"question", "choices", "answer_index"}``; ``split`` and ``needs_figure`` are optional.

    Raises:
        RequestError: the file is missing or empty, or a line is not such a question.
    """
    file = Path(path)
    if not file.is_file():
        raise RequestError(f"no such question file: {path}")
    questions = []
    for number, record in read_json_lines(file):
        text, choices, answer = (record.get(name) for name in ("question", "choices", "answer_index"))
        sound = isinstance(text, str) and isinstance(choices, list) and all(isinstance(c, str) and c for c in choices)
        if not sound or len(choices) < 2 or not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise RequestError(f"{path}, line {number}: not a question with choices and an answer_index")
        strict = record.get("split") == "heldout" and not record.get("needs_figure", False)
        questions.append(Question(text, choices, answer, strict))
    if not questions:
        raise RequestError(f"{path}: no questions")
    return questions


def choice_windows(questions: list[Question], tokenizer: Tokenizer, *, seq_len: int) -> grain.MapDataset:
    """Windows as in :mod:`astrojax.data.text`, many choices packed into each, one segment per choice.

    Every choice follows ``Question: ...\\nAnswer:``; the loss mask marks the choice's own tokens, and
    ``choice_ids`` ``[seq_len]`` says which choice (counted over all questions, -1 for none) a position belongs to.
    A question too long for a window loses its beginning.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    prompts = tokenizer.encode_batch_fast([f"Question: {q.text}\nAnswer:" for q in questions], add_special_tokens=False)
    choices = tokenizer.encode_batch_fast([f" {c}" for q in questions for c in q.choices], add_special_tokens=False)
    sequences, choice_id = [], 0
    for question, prompt in zip(questions, prompts, strict=True):
        for _ in question.choices:
            answer = choices[choice_id].ids[:seq_len]
            context = [end, *prompt.ids][-(seq_len + 1 - len(answer)) :]
            sequences.append((context + answer, len(answer), choice_id))
            choice_id += 1
    windows, room = [], 0
    for sequence in sequences:
        if len(sequence[0]) - 1 > room:
            windows.append([])
            room = seq_len
        windows[-1].append(sequence)
        room -= len(sequence[0]) - 1

    def window(members) -> dict[str, np.ndarray]:
        out = {name: np.zeros(seq_len, np.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
        out |= {"loss_mask": np.zeros(seq_len, np.float32), "choice_ids": np.full(seq_len, -1, np.int32)}
        start = 0
        for segment, (tokens, num_answer, identity) in enumerate(members, start=1):
            stop = start + len(tokens) - 1
            out["tokens"][start:stop], out["targets"][start:stop] = tokens[:-1], tokens[1:]
            out["segment_ids"][start:stop], out["positions"][start:stop] = segment, np.arange(stop - start)
            out["loss_mask"][stop - num_answer : stop] = 1
            out["choice_ids"][stop - num_answer : stop] = identity
            start = stop
        return out

    return grain.MapDataset.source(windows).map(window)
