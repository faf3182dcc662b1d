"""The store against the published folder, field by field."""

import fcntl
import shutil

import numpy as np
import pytest

from astrojax.data.boundary import make_boundary
from astrojax.data.cubes import CubeStore
from astrojax.data.cubes.feed import evaluation_batches
from astrojax.data.cubes.store import chunk_name
from astrojax.data.thousand_worlds import GCMS, SUBSETS, convert_thousand_worlds, pressure_levels
from astrojax.errors import RequestError
from tests.data import worlds

NAMES = {"ta": "temperature", "hus": "specific_humidity", "ua": "u", "va": "v", "cl": "cloud_fraction"}
SURFACE = {"ts": "surface_temperature", "rst": "asr_cloudy", "rlut": "olr_cloudy"}
# Where the benchmark has its columns.
PUBLISHED_LON = np.linspace(-180 + 180 / 64, 180 - 180 / 64, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return worlds.write_benchmark(tmp_path_factory.mktemp("benchmark") / "dataset")


@pytest.fixture(scope="module")
def stores(dataset, tmp_path_factory) -> dict[str, CubeStore]:
    folder = tmp_path_factory.mktemp("stores")
    return {subset: convert_thousand_worlds(dataset, folder / f"{subset}.zarr", subset) for subset in SUBSETS}


@pytest.fixture
def copy(dataset, tmp_path):
    """A folder to damage."""
    shutil.copytree(dataset, tmp_path / "dataset")
    return tmp_path / "dataset"


def expected(number: int, field: str, store: CubeStore) -> np.ndarray:
    """A published field in the order of the store, by the values of the coordinates."""
    columns = [int(np.abs(PUBLISHED_LON % 360 - lon).argmin()) for lon in store.grid.lon]
    np.testing.assert_allclose(PUBLISHED_LON[columns] % 360, store.grid.lon)
    return worlds.random_field(number, field)[:, columns]


@pytest.mark.parametrize(
    ("subset", "num_levels"), [("single-complete", 9), ("multi-complete", 9), ("multi-partial", 10)]
)
def test_holds_what_the_archive_holds(stores, subset, num_levels):
    store = stores[subset]
    cubes = store.read(range(len(store)))
    assert cubes["levels"].shape == (len(store), 5, 1, 1, num_levels, 32, 64)
    for place, planet in enumerate(store.planets):
        for v, name in enumerate(store.variables["levels"]):
            for level in range(num_levels):
                number, field = int(planet), f"{NAMES[name]}_{level}"
                actual = cubes["levels"][place, v, 0, 0, num_levels - 1 - level]
                if num_levels == 10 and (number, field) in worlds.MISSING:
                    assert np.isnan(actual).all()
                else:
                    np.testing.assert_array_equal(actual, expected(number, field, store), err_msg=f"{number} {field}")
        for v, name in enumerate(store.variables["surface"]):
            actual = cubes["surface"][place, v, 0, 0, 0]
            np.testing.assert_array_equal(actual, expected(int(planet), SURFACE[name], store))


def test_describes_itself(stores):
    store = stores["multi-partial"]
    assert store.planets == tuple(str(number) for number in range(10, 19))
    assert store.variables == {"levels": tuple(NAMES), "surface": tuple(SURFACE)}
    assert store.layout.shape("levels") == (1, 1, 10, 32, 64)
    np.testing.assert_allclose(np.sin(np.deg2rad(store.grid.lat)), np.polynomial.legendre.leggauss(32)[0])
    np.testing.assert_allclose(store.grid.lon[[0, -1]], [2.8125, 357.1875])
    assert store.level_kind == "sigma"
    assert store.lev[[0, -1]] == pytest.approx([0.01, 0.925])
    np.testing.assert_allclose(stores["multi-complete"].lev, store.lev[1:])
    assert store.provenance["request"] == {"dataset": "ThousandWorlds", "subset": "multi-partial"}
    store.verify()


def test_levels_follow_the_surface_pressure():
    # The benchmark's notebook has level 6 near 280 hPa on a planet of 1 bar.
    assert pressure_levels(1e5)[9 - 6] == pytest.approx(28_000, rel=0.01)
    assert pressure_levels(4e5)[[0, -1]] == pytest.approx([1_000, 370_000])
    assert (np.diff(pressure_levels(5e4)) > 0).all()


def test_parameters_are_in_the_store_s_units(stores):
    store = stores["multi-partial"]
    parameters = dict(zip(store.parameter_names, np.moveaxis(store.parameters[:, 0], -1, 0), strict=True))
    np.testing.assert_array_equal(parameters["instellation"], np.arange(910, 919))
    np.testing.assert_array_equal(parameters["rotation_period"], np.arange(20, 29))
    constants = {"surface_pressure": 2e5, "pCO2": 5e4, "pCH4": 100, "pN2": 149_900, "radius": 6.371e6, "gravity": 9.8}
    constants |= {"stellar_temperature": 3000, "tidally_locked": 1, "substellar_longitude": 0, "epoch_age": 0}
    for name, value in constants.items():
        np.testing.assert_allclose(parameters[name], value, err_msg=name)
    models = np.stack([parameters[f"gcm_{gcm}"] for gcm in GCMS], axis=1)
    np.testing.assert_array_equal(models.sum(1), 1)
    assert [GCMS[i] for i in models.argmax(1)] == [worlds.SIMULATIONS[int(name)][1] for name in store.planets]


def test_the_star_stands_above_longitude_0(stores):
    store = stores["single-complete"]
    boundary = make_boundary(store, ("instellation", "pCO2", "gcm_um"))
    light = boundary.insolation[0, 0, 0, 0]
    assert (store.grid.areas * light).sum() == pytest.approx(912 * np.pi, rel=1e-5)
    sunny = np.cos(np.deg2rad(store.grid.lon)) > 0.1
    assert (light[16, sunny] > 0).all()
    assert not light[:, np.cos(np.deg2rad(store.grid.lon)) < -0.1].any()
    assert set(np.flatnonzero(light[16] == light[16].max())) <= {0, 63}
    assert not boundary.rotating.any()


def test_no_planet_is_in_two_parts(stores):
    split = stores["multi-partial"].split
    # Planets by SHA-256: 305, 306, 301, 304, 302; two models computed the fifth.
    assert split == {
        "train": ("12", "13", "16", "17"),
        "validation": ("14", "15"),
        "heldout": ("18", "10", "11"),
        "shared_planets": ("10", "11"),
    }
    assert stores["single-complete"].split == {"train": ("13", "12"), "validation": (), "heldout": ("18",)}
    assert stores["multi-partial"].provenance["shared_pairs"] == [["10", "11"]]
    assert "19" not in stores["multi-partial"].planets


def test_statistics_are_those_of_the_training_simulations(stores):
    store = stores["multi-partial"]
    values = store.read_variable("ua")[store.index(store.split["train"])]
    statistics = store.statistics["ua"]
    weights = np.broadcast_to(store.grid.areas, values.shape)
    assert statistics["count"] == values.size
    assert statistics["mean"] == pytest.approx(np.average(values, weights=weights))
    assert statistics["level_mean"][0] == pytest.approx(np.average(values[:, :, :, 0], weights=weights[:, :, :, 0]))


def test_the_feed_reads_it(stores):
    store = stores["multi-partial"]
    batch = evaluation_batches(store, store.split["heldout"], batch_size=3)[0]
    np.testing.assert_array_equal(batch["surface"][0, 0, 0, 0, 0], expected(18, "surface_temperature", store))


def test_is_converted_once(dataset, stores):
    path = stores["single-complete"].path
    before = (path / "checksums.json").stat().st_mtime_ns
    assert convert_thousand_worlds(dataset, path, "single-complete").planets == ("12", "13", "18")
    assert (path / "checksums.json").stat().st_mtime_ns == before
    with pytest.raises(RequestError, match="other sources or options"):
        convert_thousand_worlds(dataset, path, "multi-complete")


def test_changed_sources_are_noticed(copy, tmp_path):
    out = tmp_path / "store.zarr"
    convert_thousand_worlds(copy, out, "single-complete")
    (copy / "subsets/single-complete/train.csv").write_text("simulation_id\n12\n")
    with pytest.raises(RequestError, match="other sources or options"):
        convert_thousand_worlds(copy, out, "single-complete")


def test_begins_again_after_an_interruption(dataset, stores, tmp_path):
    out, whole, left = tmp_path / "store.zarr", stores["single-complete"].path, tmp_path / "store.zarr.partial/store"
    shutil.copytree(stores["multi-complete"].path, left)
    (left / "checksums.json").unlink()
    (left / chunk_name("levels", 0, 0)).write_bytes(b"half a chunk")
    with pytest.raises(RequestError, match="has not finished"):
        CubeStore.open(out)
    convert_thousand_worlds(dataset, out, "single-complete").verify()
    assert sorted(f.relative_to(out) for f in out.rglob("*")) == sorted(f.relative_to(whole) for f in whole.rglob("*"))
    assert not (tmp_path / "store.zarr.partial").exists()


def test_two_processes_do_not_convert_to_one_place(dataset, tmp_path):
    (tmp_path / "store.zarr.partial").mkdir()
    with (tmp_path / "store.zarr.partial/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another process"):
            convert_thousand_worlds(dataset, tmp_path / "store.zarr", "single-complete")


def partly_missing(number: int, name: str) -> np.ndarray:
    field = worlds.random_field(number, name)
    return np.where(np.arange(64) < 3, np.nan, field) if (number, name) == (15, "v_2") else field


def truncate(file) -> None:
    file.write_bytes(file.read_bytes()[:-5000])


def change(**values):
    """Other values in the first row of ``inputs.csv``, that of simulation 10."""

    def write(file) -> None:
        rows = [worlds.inputs(number) for number in worlds.SIMULATIONS]
        worlds.write_table(file, [rows[0] | values, *rows[1:]])

    return write


def numbers(*values):
    return lambda file: worlds.write_table(file, [{"simulation_id": value} for value in values])


FEW = {
    "simulation_id": np.arange(10, 15),
    "fields": np.zeros((5, 53, 32, 64), np.float32),
}
ALL_OBS, LISTS = "fields/all-obs.npz", "subsets/multi-partial"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (ALL_OBS, lambda file: file.unlink(), "all-obs.npz: no such file; .*download_dataset"),
        (ALL_OBS, truncate, "all-obs.npz: damaged"),
        (ALL_OBS, lambda file: file.write_text("<html>not found</html>"), "all-obs.npz: damaged"),
        (ALL_OBS, lambda file: np.savez(file, fields=np.zeros(3)), "all-obs.npz: damaged.*simulation_id"),
        (ALL_OBS, lambda file: worlds.write_archive(file, 10, **FEW), "lacks 4 simulations .* such as 15"),
        (ALL_OBS, lambda file: worlds.write_archive(file, 9), r"\(10, 48, 32, 64\), not \(10, 53, 32, 64\)"),
        (
            ALL_OBS,
            lambda file: worlds.write_archive(file, 10, field_names=np.asarray(worlds.names(10)[::-1])),
            "field v_9 where surface_temperature",
        ),
        (ALL_OBS, lambda file: worlds.write_archive(file, 10, partly_missing), "v_2 of simulation 15 .* some cells"),
        ("inputs.csv", lambda file: file.unlink(), "inputs.csv: no such file"),
        ("inputs.csv", lambda file: file.write_text("a,b\n1,2\n"), "inputs.csv: no column simulation_id"),
        ("inputs.csv", lambda file: file.write_bytes(b"simulation_id\n\xff\n"), "inputs.csv: not a table"),
        ("inputs.csv", change(gcm_label="rocke-3d"), "simulation 10: gcm_label=rocke-3d"),
        ("inputs.csv", change(gravity="high"), "simulation 10: gravity='high' is not a number"),
        ("inputs.csv", change(stellar_flux=-3.0), "simulation 10: instellation=-3 .* W m-2"),
        ("inputs.csv", change(radius="nan"), "simulation 10: radius=nan"),
        ("inputs.csv", change(co2=1.5), "simulation 10: pN2=-1.* Pa"),
        ("inputs.csv", change(source="x,y"), "inputs.csv: line 2 should have 14 values"),
        ("inputs.csv", change(simulation_id="ten"), "inputs.csv: simulation_id='ten'"),
        (f"{LISTS}/train.csv", numbers(12, 99), "train.csv: simulation 99 is not in inputs.csv"),
        (f"{LISTS}/train.csv", numbers(12, 12), "train.csv: simulation 12 is there twice"),
        (f"{LISTS}/train.csv", lambda file: file.write_text("simulation_id\n"), "train.csv: no simulation"),
        (f"{LISTS}/test.csv", numbers(10, 11, 18, 12), "test.csv: simulation 12 is in train.csv"),
        (f"{LISTS}/test_shared_planets_only.csv", numbers(10), "planet 300 by exocam alone"),
        (f"{LISTS}/test_shared_planets_only.csv", numbers(10, 12), "simulation 12 is not in test.csv"),
    ],
)
def test_refuses_what_is_not_of_the_published_layout(copy, tmp_path, name, damage, message):
    damage(copy / name)
    with pytest.raises(RequestError, match=message) as error:
        convert_thousand_worlds(copy, tmp_path / "store.zarr", "multi-partial")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store.zarr").exists()


def test_refuses_an_unknown_subset(dataset, tmp_path):
    with pytest.raises(RequestError, match="no ThousandWorlds subset single; there are single-complete"):
        convert_thousand_worlds(dataset, tmp_path / "store.zarr", "single")
