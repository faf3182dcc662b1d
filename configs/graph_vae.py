"""Graph VAEs: which reactions a metabolic network is missing, and which molecules lie near a given one.

    python launch.py --config configs/graph_vae.py                  # metabolic: 26 shipped networks, on a CPU
    python launch.py --config configs/graph_vae.py:metabolic_ensemble
    python launch.py --config configs/graph_vae.py:molecules        # QM9, on a CPU
    python launch.py --config configs/graph_vae.py:molecules_8m     # QM9, two minutes of a GPU
    python launch.py --config configs/graph_vae.py:molecules --config.data.path=mine.smi --workdir runs/mine
    python launch.py --config configs/graph_vae.py:1b2 --mode plan --topology rtx-a5000:2        # does it fit?
    python -m astrojax.gapfill draft.xml --checkpoint runs/graph_vae --out filled.xml

| preset             | parameters | made for                                                                   |
| ------------------ | ---------- | -------------------------------------------------------------------------- |
| metabolic          | 7.4e5      | two CPU cores: missing reactions of the shipped networks                   |
| metabolic_ensemble | 3.0e6      | two CPU cores, 22 minutes: four of them, trained for longer                |
| molecules          | 1.0e6      | two CPU cores: QM9, an epoch or two                                        |
| molecules_8m       | 7.9e6      | one GPU: QM9, 36 epochs                                                    |
| 1b2                | 1.2e9      | two 24 GB cards: collections of thousands of networks, which nobody shares |

All but `1b2` have been trained; what they reach is in the README. The memory of `1b2` is known from compiling its very
step.
"""

from msgspec.structs import replace

from astrojax.data.graphs import Annealing, Budget
from astrojax.data.networks.neighbourhood import Surroundings
from astrojax.models.graph_encoder import GraphVAEConfig
from astrojax.precision import Precision
from astrojax.tasks.graphs import KL, GraphConfig
from astrojax.tasks.molecules import MoleculeConfig
from astrojax.tasks.reactions import ReactionConfig, ReactionData
from astrojax.train.optimizers import AdamW
from astrojax.train.task import CheckpointConfig, TrainConfig


def metabolic() -> ReactionConfig:
    """0.7M parameters, float32 throughout: 4 minutes on two CPU cores."""
    return ReactionConfig(
        model=GraphVAEConfig(
            num_layers=2,
            decoder_layers=1,
            d_model=64,
            d_edge=32,
            d_ff=128,
            num_heads=4,
            head_dim=16,
            d_latent=64,
            walk_length=6,
            scan_unroll=2,
            precision=Precision(compute="float32"),
        ),
        # Nine surroundings, as they are on average.
        budget=Budget(nodes=300, edges=850, graphs=10, graph_nodes=41),
        kl=KL(annealing=Annealing(weight=0.03, steps=500), free_bits=0.2),
        optimizer=AdamW(peak_lr=2e-3, warmup_steps=50, final_lr_fraction=0.02, weight_decay=0.1),
        train=TrainConfig(steps=1500, batch_size=4, validate_every=250),
    )


def metabolic_ensemble() -> ReactionConfig:
    """Four of ``metabolic``, each trained for four times as long on four times as many drafts: those that learn for
    longer differ more, and their mean is the better for it."""
    one = metabolic()
    data = replace(one.data, repeats=4 * one.data.repeats)
    train = replace(one.train, steps=4 * one.train.steps, validate_every=4 * one.train.validate_every)
    return replace(one, members=4, data=data, train=train)


def molecules() -> MoleculeConfig:
    """1.0M parameters, float32 throughout: 8 minutes on two CPU cores."""
    return MoleculeConfig(
        model=GraphVAEConfig(
            num_layers=2,
            decoder_layers=3,
            d_model=128,
            d_edge=32,
            d_ff=256,
            num_heads=4,
            head_dim=32,
            d_latent=64,
            walk_length=6,
            scan_unroll=2,
            precision=Precision(compute="float32"),
        ),
        # Six molecules of nine atoms; a row's last node is padding.
        budget=Budget(nodes=55, edges=125, graphs=7, graph_nodes=9),
        kl=KL(annealing=Annealing(weight=0.1, steps=1000)),
        optimizer=AdamW(peak_lr=2e-3, warmup_steps=100, final_lr_fraction=0.02),
        train=TrainConfig(steps=1500, batch_size=16, validate_every=500),
    )


def molecules_8m() -> MoleculeConfig:
    """7.9M parameters, bfloat16 products on float32 weights: 2 minutes on an H200."""
    return MoleculeConfig(
        model=GraphVAEConfig(
            num_layers=4,
            decoder_layers=5,
            d_model=256,
            d_edge=64,
            d_ff=640,
            num_heads=8,
            head_dim=32,
            num_tokens=4,
            d_latent=96,
        ),
        budget=Budget(nodes=55, edges=140, graphs=7, graph_nodes=9),
        kl=KL(annealing=Annealing(weight=0.2, steps=2000), free_bits=0),
        valence=60.0,
        temperature=1.5,
        optimizer=AdamW(peak_lr=1e-3, warmup_steps=500, final_lr_fraction=0.01),
        train=TrainConfig(steps=2500, batch_size=256, validate_every=500),
        checkpoint=CheckpointConfig(every_steps=2000),
        num_workers=4,
        eval_batch_size=256,
    )


def b1_2() -> ReactionConfig:
    """1.2 billion parameters, bfloat16 products on float32 weights."""
    return ReactionConfig(
        model=GraphVAEConfig(
            num_layers=17,
            decoder_layers=1,
            d_model=2048,
            d_edge=512,
            d_ff=5120,
            num_heads=16,
            head_dim=128,
            num_tokens=4,
            d_latent=512,
            remat="full",
        ),
        data=ReactionData(max_compounds=16_384, surroundings=Surroundings(max_reactions=32, max_compounds=64)),
        budget=Budget(nodes=512, edges=3072, graphs=8, graph_nodes=97),
        kl=KL(annealing=Annealing(kind="cyclical", weight=0.03, steps=2000), free_bits=0.2),
        optimizer=AdamW(peak_lr=2e-4, warmup_steps=1000, moments="bfloat16"),
        train=TrainConfig(steps=50_000, batch_size=64, microbatch_size=8, validate_every=1000),
        checkpoint=CheckpointConfig(every_steps=1000, every_minutes=60.0, keep=1, keep_best=False),
        num_workers=4,
    )


PRESETS = {
    "metabolic": metabolic,
    "metabolic_ensemble": metabolic_ensemble,
    "molecules": molecules,
    "molecules_8m": molecules_8m,
    "1b2": b1_2,
}


def get_config(preset: str = "metabolic") -> GraphConfig:
    return PRESETS[preset]()
