"""Small graph VAEs and real graphs for them."""

import csv
import gzip
from pathlib import Path

from astrojax import config as configs
from astrojax.models.graph_encoder import GraphVAEConfig
from astrojax.precision import Precision

TINY = GraphVAEConfig(
    num_layers=2,
    decoder_layers=2,
    d_model=16,
    d_edge=8,
    d_ff=32,
    num_heads=4,
    head_dim=4,
    d_latent=8,
    walk_length=3,
    precision=Precision(compute="float32"),
)

_SHAPE = {f"model.{name}": str(getattr(TINY, name)) for name in TINY.__struct_fields__ if name != "precision"}
SMALL = _SHAPE | {
    "train.steps": "6",
    "train.batch_size": "8",
    "train.log_every": "1",
    "train.validate_every": "3",
    "checkpoint.every_steps": "3",
    "optimizer.warmup_steps": "2",
    "eval_batch_size": "8",
    "logging.tensorboard": "false",
}


def write_molecules(path: Path, count: int = 240) -> Path:
    """The first clean rows of the shipped QM9, of each split so many that a run works."""
    with gzip.open("data/molecules/qm9_split.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["clean"] == "1"]
    few = [*[r for r in rows if r["split"] == "train"][:count]]
    for split in ("valid", "test"):
        few += [r for r in rows if r["split"] == split][: count // 8]
    path.write_text("smiles,split\n" + "".join(f"{row['smiles']},{row['split']}\n" for row in few))
    return path


def molecule_config(path: Path, **overrides: str):
    small = SMALL | {"data.path": str(path), "num_samples": "24"} | overrides
    return configs.override(configs.load_config("configs/graph_vae.py:molecules"), small)


def reaction_config(**overrides: str):
    few = "data/metabolic/MODEL15071800[45]*.xml.gz"
    small = SMALL | {"data.path": few, "data.repeats": "1"} | overrides
    return configs.override(configs.load_config("configs/graph_vae.py"), small)
