import types

import pytest

from astrojax.errors import RequestError
from astrojax.parallel.topology import ACCELERATORS, devices_of, name_of, parse_topology, torus


def test_a_name_and_a_count_are_read():
    assert parse_topology("rtx-a5000:2") == ("rtx-a5000", 2)
    assert parse_topology("tpu-v5p:256") == ("tpu-v5p", 256)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtx-9999:2", "unknown accelerator 'rtx-9999'; known: rtx-a5000, "),
        ("h200", "'h200' should be NAME:COUNT, such as h200:2"),
        ("h200:0", "should be NAME:COUNT"),
        ("h200:two", "should be NAME:COUNT"),
        ("tpu-v6e:3", "TPUs come in powers of two, not in 3"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(RequestError, match=message):
        parse_topology(text)


@pytest.mark.parametrize(
    ("count", "dimensions", "shape"),
    [(1, 2, "1x1"), (2, 2, "1x2"), (8, 2, "2x4"), (256, 2, "16x16"), (4, 3, "1x2x2"), (256, 3, "4x8x8")],
)
def test_pods_are_as_flat_as_they_can_be(count, dimensions, shape):
    assert torus(count, dimensions) == shape


@pytest.mark.parametrize("name", ACCELERATORS)
@pytest.mark.parametrize("count", [1, 2, 16])
def test_every_accelerator_can_be_compiled_for(name, count):
    devices = devices_of(name, count)
    assert len(devices) == count
    assert name_of(devices[0]) == name or name in ("rtx-a5000", "a100-40", "a100-80")
    assert devices[0].platform == ("tpu" if ACCELERATORS[name].tpu else "gpu")


def test_hosts_are_full():
    with pytest.raises(RequestError, match="comes in hosts of 8: not in 9"):
        devices_of("h200", 9)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA RTX A5000", "rtx-a5000"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("TPU v5 lite", "tpu-v5e"),
        ("TPU v5", "tpu-v5p"),
        ("TPU v6 lite", "tpu-v6e"),
        ("cpu", "cpu"),
        ("NVIDIA Tesla T4", "cpu"),
    ],
)
def test_attached_devices_are_recognised(kind, name):
    assert name_of(types.SimpleNamespace(device_kind=kind)) == name
