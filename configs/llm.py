"""Decoder-only transformers for scientific text.

    python launch.py --config configs/llm.py                  # tiny: learns the shipped textbooks on a CPU
    python launch.py --config configs/llm.py:125m --config.data.path=my_corpus/
    python launch.py --config configs/llm.py:13b_aligned --mode plan --topology rtx-a5000:2     # does it fit?

| preset      | parameters | made for                                               |
| ----------- | ---------- | ------------------------------------------------------ |
| tiny        | 3.20e6     | two CPU cores                                          |
| 125m        | 1.25e8     | one GPU                                                |
| 1b          | 1.03e9     | a GPU node                                             |
| 13b         | 13.147e9   | the shape of the group's first system, head_dim 68     |
| 13b_aligned | 13.147e9   | as many parameters with head_dim 128: the better shape |

Only `tiny` has been trained to its end. `13b_aligned` has been trained for 50 steps on one H200 and evaluated there
(benchmarks/results/train_large.json); otherwise the memory of the two largest is known from compiling their very step
(`--mode plan`, benchmarks/results/plans.json). What the others reach, and how fast they are on a GPU or TPU, is not.
"""

from astrojax.data.text import TextConfig
from astrojax.models.transformer import TransformerConfig
from astrojax.precision import Precision
from astrojax.tasks.language import LanguageConfig
from astrojax.train.optimizers import AdamW, FusedAdafactor
from astrojax.train.task import CheckpointConfig, TrainConfig


def tiny() -> LanguageConfig:
    """3.2M parameters, float32 throughout: about 5 minutes on two CPU cores, 1.57 bits per byte of held-out text.

    With --config.train.steps=4200, 14 minutes: 1.37. Figures and commits: benchmarks/results/llm_tiny*.json.
    """
    return LanguageConfig(
        model=TransformerConfig(
            vocab_size=4096,
            num_layers=4,
            d_model=192,
            d_ff=512,
            num_heads=4,
            num_kv_heads=2,
            head_dim=48,
            remat="none",
            scan_unroll=4,
            precision=Precision(compute="float32"),
        ),
        data=TextConfig(seq_len=256),
        optimizer=AdamW(peak_lr=3e-3, warmup_steps=100),
        train=TrainConfig(steps=1400, batch_size=8, validate_every=350),
        checkpoint=CheckpointConfig(every_steps=350),
    )


def m125() -> LanguageConfig:
    """125M parameters, bfloat16 products on float32 weights: 0.5M tokens per step."""
    return LanguageConfig(
        model=TransformerConfig(
            vocab_size=32_000,
            num_layers=12,
            d_model=768,
            d_ff=2048,
            num_heads=12,
            num_kv_heads=4,
            head_dim=64,
        ),
        data=TextConfig(seq_len=1024, num_workers=2),
        optimizer=AdamW(peak_lr=6e-4, warmup_steps=2000),
        train=TrainConfig(steps=20_000, batch_size=512, microbatch_size=16, validate_every=1000),
        checkpoint=CheckpointConfig(every_steps=1000, every_minutes=30.0),
    )


def b1() -> LanguageConfig:
    """1.03 billion parameters, AdamW in float32."""
    return LanguageConfig(
        model=TransformerConfig(
            vocab_size=32_000,
            num_layers=20,
            d_model=2048,
            d_ff=5632,
            num_heads=16,
            num_kv_heads=4,
            head_dim=128,
            rope_theta=500_000.0,
        ),
        data=TextConfig(seq_len=2048, num_workers=4),
        optimizer=AdamW(peak_lr=3e-4, warmup_steps=2000),
        train=TrainConfig(steps=50_000, batch_size=256, microbatch_size=8, validate_every=1000),
        checkpoint=CheckpointConfig(every_steps=1000, every_minutes=30.0),
        eval_batch_size=8,
    )


def b13() -> LanguageConfig:
    """13.147 billion parameters in the shape of the group's first system. Its head_dim of 68 suits no fused kernel.

    As compiled for two 24 GB cards: 17.6 GiB each at 16,384 tokens per step (8 x 2048 in 4 micro-batches), 21.4 GiB at
    32,768, and 14.0 GiB at 32,768 with --config.optimizer.inputs_on_host=true.
    """
    return _13b(num_layers=56, d_model=4352, d_ff=14336, num_heads=64, num_kv_heads=8, head_dim=68)


def b13_aligned() -> LanguageConfig:
    """13.147 billion parameters with sizes that accelerators like.

    As compiled for two 24 GB cards: 17.1 GiB each at 16,384 tokens per step, 20.1 GiB at 32,768.
    """
    return _13b(num_layers=48, d_model=4096, d_ff=18432, num_heads=32, num_kv_heads=8, head_dim=128)


def _13b(**shape: int) -> LanguageConfig:
    return LanguageConfig(
        model=TransformerConfig(
            vocab_size=32_000, rope_theta=500_000.0, precision=Precision(params="bfloat16"), **shape
        ),
        data=TextConfig(seq_len=2048, num_workers=4),
        optimizer=FusedAdafactor(peak_lr=1e-4, warmup_steps=1000),
        train=TrainConfig(steps=10_000, batch_size=8, microbatch_size=2, validate_every=500),
        checkpoint=CheckpointConfig(every_steps=500, every_minutes=60.0, keep=1, keep_best=False),
        eval_batch_size=2,
    )


PRESETS = {"tiny": tiny, "125m": m125, "1b": b1, "13b": b13, "13b_aligned": b13_aligned}


def get_config(preset: str = "tiny") -> LanguageConfig:
    return PRESETS[preset]()
