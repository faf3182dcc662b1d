"""What the training loop needs to know of a task, and the configuration every task shares."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import jax

from astrojax.config import Config, Fraction, NonNegative, Positive, PositiveFloat
from astrojax.parallel.mesh import MeshConfig
from astrojax.train.optimizers import AdamW, Optimizer

Params = Any  # A nested dict of arrays.
Batch = dict[str, Any]  # Arrays ``[batch, ...]``, or trees of them such as graphs.


class TrainConfig(Config):
    """How long and in what portions to train.

    Attributes:
        steps: parameter updates.
        batch_size: examples per update, over all devices.
        microbatch_size: examples per accumulation step, more where so few do not split over the devices; None takes the
            batch at once.
        seed: of the initial weights, the data order and everything else that is drawn.
        log_every: steps between two lines of metrics.
        validate_every: steps between two measurements on the validation split; the last step is always measured.
        max_skipped_steps: non-finite steps in a row after which the run stops.
        memory_warning_fraction: share of the device's memory above which a warning is printed.
    """

    steps: Positive
    batch_size: Positive
    microbatch_size: Positive | None = None
    seed: NonNegative = 0
    log_every: Positive = 10
    validate_every: Positive = 250
    max_skipped_steps: Positive = 10
    memory_warning_fraction: Fraction = 0.9

    def __post_init__(self):
        if self.microbatch_size and self.batch_size % self.microbatch_size:
            raise ValueError(f"microbatch_size={self.microbatch_size} does not divide batch_size={self.batch_size}")


class CheckpointConfig(Config):
    """When to save and what to keep.

    Attributes:
        every_steps: save after this many steps; the last step is always saved.
        every_minutes: save after this many minutes as well.
        keep: how many of the newest checkpoints stay.
        keep_best: also keep the checkpoint with the lowest validation loss, of those saved at a validated step.
        directory: where checkpoints go, a path or an object-store URL; None is ``checkpoints/`` in the workdir.
    """

    every_steps: Positive = 250
    every_minutes: PositiveFloat | None = None
    keep: Positive = 2
    keep_best: bool = True
    directory: str | None = None


class LoggingConfig(Config):
    """Where metrics go besides ``metrics.jsonl``. W&B takes its key from the environment; offline mode works."""

    tensorboard: bool = True
    wandb: bool = False
    wandb_project: str = "astrojax"


class RunConfig(Config, tag_field="task"):
    """Base of every task's configuration."""

    train: TrainConfig
    optimizer: Optimizer = AdamW()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()


# What may differ between a run and the command that resumes it. Changing the number of steps bends the rest of the
# learning-rate schedule, which is what someone who asks for more steps expects.
RESUMABLE_CHANGES = (
    "train.steps",
    "train.log_every",
    "train.max_skipped_steps",
    "train.memory_warning_fraction",
    "optimizer.inputs_on_host",
    "mesh",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
    "checkpoint.keep",
    "checkpoint.keep_best",
    "logging",
)


class LayerStack(NamedTuple):
    """How a loss is made of equal layers, which is what a step needs that updates each of them as it goes.

    ``head(params, layer(..., layer(..., embed(params, batch, key), batch), batch), batch)`` is the task's loss.

    Attributes:
        layers: the entry of the parameters that holds the layers' weights, stacked on their first axis.
        embed_params: the entries that ``embed`` reads.
        head_params: the entries that ``head`` reads.
        embed: ``(params, batch, key) -> x``, what the first layer reads: arrays ``[batch, ...]``.
        layer: ``(weights, x, batch) -> x`` for the weights of one layer. Computed twice, so it must not draw.
        head: ``(params, x, batch) -> (summed loss, weight)``, as :meth:`Task.loss`.
    """

    layers: str
    embed_params: tuple[str, ...]
    head_params: tuple[str, ...]
    embed: Callable[[Params, Batch, jax.Array], Any]
    layer: Callable[[Params, Any, Batch], Any]
    head: Callable[[Params, Any, Batch], tuple[jax.Array, jax.Array]]


class Task(Protocol):
    """A model with its data, its loss and its evaluation.

    Attributes:
        config: the run's configuration.
        unit: what throughput counts, such as ``"tokens"``.
        units_per_example: how many of them one example holds.
        resumable_changes: dotted fields of this task that may change between resumptions.
        stack: the loss as layers, for optimizers that update one layer at a time; None where it has none.
    """

    config: RunConfig
    unit: str
    units_per_example: int
    resumable_changes: tuple[str, ...]
    stack: LayerStack | None

    def prepare(self, workdir: Path) -> None:
        """Makes what the run needs on disk (tokenizer, encoded data). Runs in one process of each run."""

    def open(self, workdir: Path) -> None:
        """Opens what :meth:`prepare` made. Runs in every process."""

    def init(self, key: jax.Array) -> Params:
        """Initial parameters, traceable, each with its sharding on the current mesh."""

    def model(self, params: Params) -> Any:
        """The Flax module with ``params`` in place."""

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The summed loss of a batch and the weight to divide it by, so that sums over micro-batches are exact."""

    def abstract_batch(self, mesh: jax.sharding.Mesh) -> Batch:
        """Shapes, dtypes and shardings on ``mesh`` of a batch of :meth:`training_data`, before there is any data."""

    def training_data(self) -> grain.IterDataset:
        """Endless batches of NumPy arrays ``[local_batch, ...]``, with a checkpointable iterator."""

    def validate(self, params: Params, mesh: jax.sharding.Mesh) -> dict[str, float]:
        """Measures on the validation split; ``"validation_loss"`` decides which checkpoint is best."""

    def evaluate(self, params: Params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
        """Measures on held-out data against baselines; writes ``eval/metrics.json`` and plots in the workdir."""
