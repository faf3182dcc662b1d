"""The language task: a decoder-only transformer on packed text, judged in bits per byte and by questions."""

import functools
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from astrojax.config import Positive
from astrojax.console import say
from astrojax.data import corpus, text, tokenizer
from astrojax.data.questions import read_questions
from astrojax.data.token_store import TokenStore, write_token_store
from astrojax.errors import RequestError
from astrojax.evaluation import language as evaluation
from astrojax.files import write_atomically
from astrojax.models.transformer import Block, Transformer, TransformerConfig, check_mesh
from astrojax.ops.cross_entropy import cross_entropy, token_log_likelihood
from astrojax.parallel.mesh import UNIT_MESH
from astrojax.parallel.sharding import abstract_batch, filling, own_rows, put_batch
from astrojax.train.task import Batch, LayerStack, Params, RunConfig

# Logits exist for about this many tokens at a time; on a CPU smaller chunks stay in cache.
CHUNK_TOKENS = 1024


class LanguageConfig(RunConfig, kw_only=True, tag="language"):
    """A run of the language task.

    Attributes:
        model: the transformer.
        data: the text.
        eval_batch_size: windows scored at a time, rounded up to fill the devices.
    """

    model: TransformerConfig
    data: text.TextConfig = text.TextConfig()
    eval_batch_size: Positive = 16


class LanguageTask:
    """See :class:`astrojax.train.task.Task`.

    Attributes:
        tokenizer: the run's tokenizer, once opened.
        stores: the documents of each split, once opened.
        questions: the multiple-choice questions, once opened.
        graphdef: the module's structure; ``nnx.merge(graphdef, params)`` is the model.
    """

    unit = "tokens"
    resumable_changes = (
        "data.eval_path",
        "data.questions_path",
        "eval_batch_size",
        "model.remat",
        "model.scan_unroll",
        "model.attention",
    )

    def __init__(self, config: LanguageConfig):
        self.config = config
        self.units_per_example = config.data.seq_len
        with jax.sharding.use_abstract_mesh(UNIT_MESH):
            self.graphdef = nnx.graphdef(jax.eval_shape(lambda: self._new_model(jax.random.key(0))))
            block = nnx.graphdef(jax.eval_shape(lambda: Block(config.model, rngs=nnx.Rngs(params=jax.random.key(0)))))
        self.stack = LayerStack(
            layers="blocks",
            embed_params=("embed_vd",),
            head_params=("final_norm_d", "embed_vd" if config.model.tie_embeddings else "head_dv"),
            embed=lambda params, batch, key: self.model(params).embed(batch["tokens"]),
            layer=lambda weights, x_btd, batch: nnx.merge(block, weights)(
                x_btd, batch["segment_ids"], batch["positions"]
            ),
            head=lambda params, x_btd, batch: _loss(self.model(params), x_btd, batch),
        )

    def prepare(self, workdir: Path) -> None:
        data = self.config.data
        say(f"reading {data.path}")
        documents = _by_split(data.path)
        if data.tokenizer_path:
            bpe = tokenizer.load_tokenizer(data.tokenizer_path)
        else:
            bpe = tokenizer.train_tokenizer(documents("train"), self.config.model.vocab_size)
        size = bpe.get_vocab_size()
        if size > self.config.model.vocab_size:
            raise RequestError(f"model.vocab_size={self.config.model.vocab_size} is less than the tokenizer's {size}")
        for split in _SPLITS:
            store = write_token_store(workdir / "data" / split, documents(split, whole=True), bpe)
            say(f"{split}: {len(store)} documents, {store.num_tokens:,} tokens, {store.num_bytes.sum():,} bytes")
            if split == "heldout" and not len(store) and not data.eval_path:
                raise RequestError(
                    f"{data.path}: no document fell into the held-out split; name a text with --config.data.eval_path"
                )
        write_atomically(workdir / "tokenizer.json", bpe.to_str(pretty=True).encode())

    def open(self, workdir: Path) -> None:
        self.tokenizer = tokenizer.load_tokenizer(workdir / "tokenizer.json")
        self.stores = {split: TokenStore.open(workdir / "data" / split) for split in _SPLITS}
        # What the evaluation will read is looked at now, not after hours of training.
        if self.config.data.eval_path:
            next(corpus.read_documents(self.config.data.eval_path))
        self.questions = read_questions(path) if (path := self.config.data.questions_path) else []
        windows = len(text.PackedWindows(self.stores["train"], self.config.data.seq_len))
        if windows < self.config.train.batch_size:
            raise RequestError(
                f"{self.config.data.path}: {windows} training windows of {self.config.data.seq_len} tokens do not "
                f"fill one batch of {self.config.train.batch_size}"
            )

    def init(self, key: jax.Array) -> Params:
        try:
            check_mesh(self.config.model, dict(jax.sharding.get_abstract_mesh().shape))
        except ValueError as error:
            raise RequestError(str(error)) from error
        return nnx.to_pure_dict(nnx.state(self._new_model(key)))

    def model(self, params: Params) -> Transformer:
        """The transformer with ``params`` in place."""
        return nnx.merge(self.graphdef, params)

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key  # No dropout.
        model = self.model(params)
        return _loss(model, model.hidden(batch["tokens"], batch["segment_ids"], batch["positions"]), batch)

    def abstract_batch(self, mesh: jax.sharding.Mesh) -> Batch:
        fields = {name: ((self.config.data.seq_len,), dtype) for name, dtype in text.FIELDS.items()}
        return abstract_batch(fields, self.config.train.batch_size, mesh)

    def training_data(self) -> grain.IterDataset:
        return text.training_windows(
            self.stores["train"],
            seq_len=self.config.data.seq_len,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            num_workers=self.config.data.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def validate(self, params: Params, mesh: jax.sharding.Mesh) -> dict[str, float]:
        """Loss in nats per token and bits per byte, from windows without overlap: half the work of the evaluation,
        and a little worse than it, since tokens at a window's start have no context."""
        store = self.stores["validation"]
        if not len(store):
            return {}
        nats, tokens = self.score_documents(params, mesh, store)
        return {
            "validation_loss": nats / tokens,
            "validation_bits_per_byte": nats / np.log(2) / float(store.num_bytes.sum()),
        }

    def evaluate(self, params: Params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
        return evaluation.evaluate(self, params, mesh, workdir, step)

    def score_documents(
        self, params: Params, mesh: jax.sharding.Mesh, store: TokenStore, *, overlap: int = 0
    ) -> tuple[float, int]:
        """Total negative log-likelihood in nats, and the number of tokens predicted, over every document of a store.

        Args:
            params: the weights.
            mesh: where they live.
            store: the documents.
            overlap: tokens of context that consecutive windows share.
        """
        windows = text.scoring_windows(store, seq_len=self.config.data.seq_len, overlap=overlap)
        nats, tokens = 0.0, 0
        for log_likelihood_bt, batch in self.score_windows(params, mesh, windows):
            nats -= float(np.sum(log_likelihood_bt * batch["loss_mask"], dtype=np.float64))
            tokens += int(batch["loss_mask"].sum())
        return nats, tokens

    def score_windows(self, params: Params, mesh: jax.sharding.Mesh, windows: grain.MapDataset):
        """Yields ``(log-likelihood of every target [b, t], batch)`` for windows as in :mod:`astrojax.data.text`."""
        batch_size = filling(self.config.eval_batch_size, mesh)
        rows = own_rows(batch_size)
        for batch in text.batched(windows, batch_size):
            scores = self._score(params, put_batch({k: v[rows] for k, v in batch.items()}, mesh))
            yield np.asarray(scores), batch

    @functools.cached_property
    def _score(self):
        @jax.jit
        def score(params, batch):
            model = self.model(params)
            hidden_btd = model.normalised(model.hidden(batch["tokens"], batch["segment_ids"], batch["positions"]))
            scores_bt = token_log_likelihood(hidden_btd, model.head(), batch["targets"], chunk_tokens=CHUNK_TOKENS)
            return jax.sharding.reshard(scores_bt, P(None, None))

        return score

    def _new_model(self, key: jax.Array) -> Transformer:
        return Transformer(self.config.model, rngs=nnx.Rngs(params=key))


def _loss(model: Transformer, hidden_btd: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The loss of what the last layer leaves, summed over tokens, and the number of tokens that count."""
    hidden_btd = model.normalised(hidden_btd)
    total = cross_entropy(hidden_btd, model.head(), batch["targets"], batch["loss_mask"], chunk_tokens=CHUNK_TOKENS)
    return total, jnp.sum(batch["loss_mask"])


_SPLITS = ("train", "validation", "heldout")


def _by_split(path: str):
    """Reads a split's documents, or only their texts."""

    def read(split: str, whole: bool = False):
        for document in corpus.read_documents(path):
            if corpus.split_of(document.id) == split:
                yield document if whole else document.text

    return read
