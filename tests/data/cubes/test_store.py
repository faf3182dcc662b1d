import json
import pickle
import shutil

import numpy as np
import pytest
import xarray
import zarr

from astrojax.data.cubes import PARAMETER_NAMES, CubeStore
from astrojax.errors import RequestError
from tests.data.cubes.runs import fields


@pytest.fixture
def copy(store, tmp_path):
    """A store to damage."""
    shutil.copytree(store.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_holds_what_the_files_hold(store):
    cubes = store.read(range(6))
    for planet in range(6):
        for epoch in range(2):
            values = fields(planet, epoch, land=float(planet == 5))
            for group, names in store.variables.items():
                for v, name in enumerate(names):
                    field = values[name][..., ::-1, :]
                    np.testing.assert_array_equal(
                        cubes[group][planet, v, :, epoch].squeeze(), field.squeeze(), err_msg=f"{name} {planet} {epoch}"
                    )


def test_describes_itself(store):
    assert store.planets == tuple(f"world{i}" for i in range(6))
    assert store.variables == {
        "levels": ("ta", "hus", "ua", "va"),
        "surface": ("ts", "tas", "ps", "pr", "clt", "rst", "rlut"),
        "static": ("sftlf", "orog"),
    }
    assert store.level_kind == "sigma"
    np.testing.assert_allclose(store.lev, [0.1, 0.45, 0.85])
    np.testing.assert_allclose(store.lev_edges, [0, 0.2, 0.7, 1])
    np.testing.assert_allclose(store.climate_time_edges, [0, 0.25, 0.5, 0.75, 1])
    assert (np.diff(store.grid.lat) > 0).all()
    assert store.epochs == (0, 1)
    assert store.present.all()
    assert store.parameter_names == PARAMETER_NAMES
    parameters = dict(zip(PARAMETER_NAMES, np.moveaxis(store.parameters, -1, 0), strict=True))
    np.testing.assert_allclose(parameters["instellation"], [[1000 + 10 * p + e for e in range(2)] for p in range(6)])
    np.testing.assert_allclose(parameters["pN2"], 1e5)
    np.testing.assert_allclose(parameters["epoch_age"], [[3.8, 1.9]] * 6)
    np.testing.assert_allclose(parameters["substellar_longitude"][:, 0], [0, 0, 0, 0, 180, 180])


def test_statistics_leave_out_other_planets(store):
    assert sorted(name for part in store.split.values() for name in part) == sorted(store.planets)
    training = store.read(store.index(store.split["train"]))["surface"][:, store.variables["surface"].index("ts")]
    statistics = store.statistics["ts"]
    assert statistics["count"] == training.size
    assert statistics["min"] == training.min()
    assert statistics["mean"] == pytest.approx(
        np.average(training, weights=np.broadcast_to(store.grid.areas, training.shape))
    )


def test_any_zarr_library_reads_it(store):
    cubes = store.read([4, 1, 4])
    group = zarr.open_group(store.path, mode="r")
    assert set(cubes) <= {name for name, _ in group.members()}
    np.testing.assert_array_equal(cubes["levels"], group["levels"][:][[4, 1, 4]])
    with xarray.open_zarr(store.path) as dataset:
        assert dataset["surface"].dims[:4] == ("planet", "surface_variable", "climate_time", "geological_time")
        np.testing.assert_array_equal(dataset["surface"].isel(planet=1), cubes["surface"][1])
        np.testing.assert_allclose(dataset["lat"], store.grid.lat)


def test_a_copy_for_another_process_reads_the_same(store):
    other = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(other.read([2])["levels"], store.read([2])["levels"])


def test_planets_are_known_by_name(store):
    assert store.index(["world3", "world0"]) == [3, 0]
    with pytest.raises(RequestError, match="no planet Vulcan; there are world0"):
        store.index(["Vulcan"])
    with pytest.raises(IndexError, match="6 is not one of 6"):
        store.read([6])


def test_verify_names_the_damaged_file(copy):
    CubeStore.open(copy).verify()
    chunk = copy / "levels/c.3.1.0.0.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[1000] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(RequestError, match=r"levels/c.3.1.0.0.0.0.0: checksum .* damaged"):
        CubeStore.open(copy).verify()


def test_every_file_has_a_checksum(store):
    named = set(json.loads((store.path / "checksums.json").read_bytes()))
    files = {str(f.relative_to(store.path)) for f in store.path.rglob("*") if f.is_file()}
    assert named == files - {"checksums.json"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "surface/c.2.0.0.0.0.0.0").unlink(), "chunk surface/c.2.0.0.0.0.0.0 is missing"),
        (lambda path: (path / "static/c.5.1.0.0.0.0.0").write_bytes(b"12"), r"static/c.5.1.* has 2 of 1024 bytes"),
        (lambda path: (path / "checksums.json").unlink(), "no converted cubes there"),
        (lambda path: (path / "zarr.json").write_text("{"), "damaged"),
        (lambda path: shutil.rmtree(path / "lat"), "damaged"),
        (shutil.rmtree, "no converted cubes there"),
    ],
)
def test_an_incomplete_store_is_refused(copy, damage, message):
    damage(copy)
    with pytest.raises(RequestError, match=message) as error:
        CubeStore.open(copy)
    assert str(copy) in str(error.value)
