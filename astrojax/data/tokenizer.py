"""The byte-level BPE tokenizer: trained once on the training split and kept with the run."""

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from astrojax.errors import RequestError

_SAMPLE = "Stars  and\nPLANETS: 恒星, é, \t⭐."
END_OF_TEXT = "<|endoftext|>"  # Opens and closes every document.


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most ``vocab_size`` tokens: any UTF-8 text encodes, and decodes to the same bytes.

    Raises:
        RequestError: ``vocab_size`` cannot hold the 256 bytes and the end-of-text token.
    """
    if vocab_size < 257:
        raise RequestError(f"--config.model.vocab_size: a byte-level vocabulary needs at least 257, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a ``tokenizer.json``; it must know ``<|endoftext|>``.

    Raises:
        RequestError: the file is missing, no tokenizer, or lacks the token.
    """
    if not Path(path).is_file():
        raise RequestError(f"no such tokenizer: {path}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises bare Exception.
        raise RequestError(f"{path}: not a tokenizer: {error}") from error
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise RequestError(f"{path}: the tokenizer has no token {END_OF_TEXT}")
    # A text that spells the end-of-text token must not end there: special tokens in texts are plain characters.
    tokenizer.encode_special_tokens = True
    if tokenizer.decode(tokenizer.encode(_SAMPLE, add_special_tokens=False).ids, skip_special_tokens=True) != _SAMPLE:
        raise RequestError(f"{path}: the tokenizer does not give texts back unchanged; bits per byte would be wrong")
    return tokenizer


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The tokens of each text between two end-of-text tokens, so that the first and last word are predicted too."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    return [[end, *encoding.ids, end] for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
