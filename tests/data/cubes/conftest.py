"""An ensemble of small runs, its conversion, and single files to change."""

from pathlib import Path

import pytest

from astrojax.data.cubes import CubeStore, convert
from tests.data.cubes.runs import write_run

NUM_PLANETS, NUM_EPOCHS = 6, 2


@pytest.fixture
def run(tmp_path) -> Path:
    """One file."""
    return write_run(tmp_path / "planet00_epoch0.nc")


@pytest.fixture(scope="package")
def ensemble(tmp_path_factory) -> Path:
    """Six planets at two epochs; the last two are tidally locked, one of them all land."""
    folder = tmp_path_factory.mktemp("ensemble")
    for planet in range(NUM_PLANETS):
        for epoch in range(NUM_EPOCHS):
            file = folder / f"planet{planet:02d}_epoch{epoch}.nc"
            write_run(file, planet, epoch, locked=planet >= 4, land=float(planet == 5))
    return folder


@pytest.fixture(scope="package")
def store(ensemble, tmp_path_factory) -> CubeStore:
    return convert([str(ensemble)], tmp_path_factory.mktemp("store") / "cubes", workers=1)
