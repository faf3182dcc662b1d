"""Documents as tokens on disk: memory-mapped, so that a corpus may be larger than memory and a restart is immediate."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from astrojax.data.corpus import Document
from astrojax.data.tokenizer import encode_documents
from astrojax.files import whole_folder

_DOCUMENTS_AT_A_TIME = 256


class TokenStore:
    """Tokens of all documents one after the other, with each document's place and size.

    Attributes:
        tokens: ``[num_tokens]``, unsigned, memory-mapped.
        starts: ``[num_documents + 1]``, where each document begins; the last entry is ``num_tokens``.
        num_bytes: ``[num_documents]``, the length of each text in UTF-8.
    """

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, num_bytes: np.ndarray, folder: Path | None = None):
        self.tokens, self.starts, self.num_bytes, self._folder = tokens, starts, num_bytes, folder

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Opens what :func:`write_token_store` wrote."""
        index = np.load(folder / "documents.npz")
        dtype, starts = np.dtype(str(index["dtype"])), index["starts"]
        # An empty file cannot be mapped.
        tokens = np.memmap(folder / "tokens.raw", dtype, mode="r") if starts[-1] else np.zeros(0, dtype)
        return cls(tokens, starts, index["num_bytes"], folder)

    def __reduce__(self):
        # A data worker maps the file again; pickling the map would copy the corpus into every worker.
        if self._folder is None:
            return TokenStore, (self.tokens, self.starts, self.num_bytes)
        return TokenStore.open, (self._folder,)

    def __len__(self) -> int:
        return len(self.num_bytes)

    def __getitem__(self, document: int) -> np.ndarray:
        return self.tokens[self.starts[document] : self.starts[document + 1]]

    @property
    def num_tokens(self) -> int:
        return int(self.starts[-1])


def write_token_store(folder: Path, documents: Iterable[Document], tokenizer: Tokenizer) -> TokenStore:
    """Encodes ``documents`` into ``folder``, which appears only when it is complete."""
    with whole_folder(folder) as partial:
        dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32)
        starts, num_bytes = [0], []
        with (partial / "tokens.raw").open("wb") as raw:
            for batch in itertools.batched(documents, _DOCUMENTS_AT_A_TIME):
                texts = [document.text for document in batch]
                for tokens in encode_documents(tokenizer, texts):
                    raw.write(np.asarray(tokens, dtype).tobytes())
                    starts.append(starts[-1] + len(tokens))
                num_bytes += [len(text.encode()) for text in texts]
        np.savez(
            partial / "documents.npz",
            dtype=dtype.str,
            starts=np.asarray(starts, np.int64),
            num_bytes=np.asarray(num_bytes, np.int64),
        )
    return TokenStore.open(folder)
