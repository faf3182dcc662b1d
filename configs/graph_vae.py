from astrojax.data.graphs import Annealing, Budget
from astrojax.models.graph_encoder import GraphVAEConfig
from astrojax.precision import Precision
from astrojax.tasks.graphs import KL
from astrojax.tasks.molecules import MoleculeConfig
from astrojax.tasks.reactions import ReactionConfig
from astrojax.train.optimizers import AdamW
from astrojax.train.task import TrainConfig


def molecules() -> MoleculeConfig:
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
            precision=Precision(compute="float32"),
        ),
        budget=Budget(nodes=28, edges=66, graphs=4),
        kl=KL(annealing=Annealing(weight=0.1, steps=1000), free_bits=0.1),
        optimizer=AdamW(peak_lr=2e-3, warmup_steps=100, final_lr_fraction=0.02),
        train=TrainConfig(steps=1500, batch_size=32, validate_every=500),
    )


def molecules_8m() -> MoleculeConfig:
    return MoleculeConfig(
        model=GraphVAEConfig(
            num_layers=4,
            decoder_layers=5,
            d_model=256,
            d_edge=64,
            d_ff=640,
            num_heads=8,
            head_dim=32,
            d_latent=96,
            num_tokens=4,
        ),
        budget=Budget(nodes=28, edges=78, graphs=4),
        kl=KL(annealing=Annealing(weight=0.05, steps=2000), free_bits=0.2),
        optimizer=AdamW(peak_lr=1e-3, warmup_steps=500, final_lr_fraction=0.01),
        train=TrainConfig(steps=12_000, batch_size=512, validate_every=2000),
        num_workers=4,
        eval_batch_size=512,
    )


def metabolic() -> ReactionConfig:
    return ReactionConfig(
        model=GraphVAEConfig(
            num_layers=2,
            decoder_layers=1,
            d_model=64,
            d_edge=32,
            d_ff=128,
            num_heads=4,
            head_dim=16,
            d_latent=32,
            walk_length=6,
            precision=Precision(compute="float32"),
        ),
        budget=Budget(nodes=44, edges=240, graphs=5),
        kl=KL(annealing=Annealing(weight=0.2, steps=500), free_bits=0.2),
        optimizer=AdamW(peak_lr=2e-3, warmup_steps=50, final_lr_fraction=0.02, weight_decay=0.1),
        train=TrainConfig(steps=2000, batch_size=32, validate_every=250),
    )


PRESETS = {"metabolic": metabolic, "molecules": molecules, "molecules_8m": molecules_8m}


def get_config(preset: str = "metabolic"):
    return PRESETS[preset]()
