import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(
    any(any(Path("/dev").glob(pattern)) for pattern in ("nvidiactl", "dxg", "kfd", "accel*", "vfio/[0-9]*")),
    reason="an accelerator is attached",
)
def test_plug_ins_for_absent_accelerators_do_not_disturb_a_run_on_the_cpu():
    """The `aot` extra is installed for the tests: JAX alone would report at length that its plug-ins found nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_"))}
    finished = subprocess.run(
        [sys.executable, "-c", "import astrojax, jax; print(jax.devices()[0].platform)"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (finished.stdout, finished.stderr) == ("cpu\n", "")


@pytest.mark.parametrize("platforms", ["cpu", "tpu,cpu"])
def test_a_choice_in_the_environment_stands(monkeypatch, platforms):
    from astrojax.parallel.host import skip_absent_accelerators

    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    skip_absent_accelerators()
    assert os.environ["JAX_PLATFORMS"] == platforms
