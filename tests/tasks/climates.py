"""A climate run of seconds: an ensemble of seven small planets and a CNN-ViT that compiles fast."""

from pathlib import Path

from astrojax.models.cube_vit import CubeViTConfig, Heads, Patch, Window
from astrojax.precision import Precision
from astrojax.tasks.climate import ClimateConfig, CubeConfig, CubeShape
from astrojax.train.optimizers import AdamW
from astrojax.train.task import CheckpointConfig, LoggingConfig, TrainConfig
from tests.data.cubes.runs import write_run


def get_config(path: str = "") -> ClimateConfig:
    return ClimateConfig(
        model=CubeViTConfig(
            patch=Patch(climate_time=2, lev=3, lat=4, lon=4),
            window=Window(lev=1, lat=2, lon=2),
            heads=Heads(local=2, space=2, climate_time=2, geological_time=2),
            num_layers=2,
            d_model=16,
            d_ff=32,
            head_dim=8,
            stem_channels=8,
            decoder_channels=8,
            d_condition=8,
            precision=Precision(compute="float32"),
        ),
        data=CubeConfig(
            path=path,
            shape=CubeShape(climate_time=4, geological_time=2, lev=3, lat=8, lon=16),
            level_variables=("ta", "hus", "ua", "va"),
            surface_variables=("ts", "ps", "rst", "rlut"),
        ),
        observed_months=2,
        optimizer=AdamW(peak_lr=1e-2, warmup_steps=2),
        train=TrainConfig(steps=6, batch_size=4, log_every=1, validate_every=3),
        checkpoint=CheckpointConfig(every_steps=3),
        logging=LoggingConfig(tensorboard=False),
    )


def write_ensemble(folder: Path) -> Path:
    """Seven planets at two epochs, the last three tidally locked, one of them all land."""
    for planet in range(7):
        for epoch in range(2):
            name = folder / f"planet{planet:02d}_epoch{epoch}.nc"
            write_run(name, planet, epoch, locked=planet >= 4, land=float(planet == 6))
    return folder
