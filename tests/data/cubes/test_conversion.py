"""Conversions: what they accept, what they refuse, and what is left of one that was stopped."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from astrojax.data.cubes import CubeStore, Naming, Request, convert, find_files, plan_conversion, read_cubes
from astrojax.data.cubes.__main__ import main
from astrojax.errors import RequestError
from astrojax.physics.grid import area_mean, gaussian, regular
from tests.data.cubes.runs import NUM_TIMES, SIGMA, add, fields, rewrite, write_run

SMALL = Request(variables=("ta", "ts"))


@pytest.fixture
def pair(tmp_path) -> Path:
    """A folder with one planet at two epochs and another at one."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for planet, epoch in ((0, 0), (0, 1), (1, 0)):
        write_run(folder / f"planet{planet:02d}_epoch{epoch}.nc", planet, epoch)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def to_store(folder: Path, request: Request = SMALL, out: str = "cubes") -> CubeStore:
    return convert([str(folder)], folder.parent / out, request, workers=1)


# What belongs together ------------------------------------------------------------------------------------------


def test_a_missing_epoch_is_filled_with_nan_and_reported(pair, capsys):
    store = to_store(pair)
    np.testing.assert_array_equal(store.present, [[True, True], [True, False]])
    cubes = store.read([0, 1])
    for group in ("levels", "surface"):
        assert np.isfinite(cubes[group][0]).all()
        assert np.isfinite(cubes[group][1, :, :, 0]).all()
        assert np.isnan(cubes[group][1, :, :, 1]).all()
    assert np.isnan(store.parameters[1, 1]).all()
    assert "missing: world1, epoch 1" in capsys.readouterr().out
    report = json.loads((store.path / "quality.json").read_bytes())
    assert report["missing"] == ["world1, epoch 1"]
    assert report["variables"]["ts"]["completeness"] == 1


def test_two_files_of_one_planet_and_epoch_are_refused(pair):
    shutil.copy(pair / "planet00_epoch1.nc", pair / "again.nc")
    with pytest.raises(RequestError, match=r"again\.nc and .*planet00_epoch1\.nc are both planet 0, epoch 1"):
        to_store(pair)


def test_names_of_files_may_say_what_they_are(tmp_path):
    for planet in ("b", "c"):
        for epoch in (10, 9):
            file = write_run(tmp_path / f"trappist-{planet}_{epoch}.nc", 7, epoch)
            rewrite(file, global_attributes={"planet_index": None, "planet_name": None, "epoch_index": None})
    naming = Naming(pattern=r"(?P<planet>.+)_(?P<epoch>\d+)\.nc")
    plan = plan_conversion(find_files([str(tmp_path / "*.nc")]), Request(variables=("ts",), naming=naming))
    assert [p.name for p in plan.planets] == ["trappist-b", "trappist-c"]
    assert plan.layout.epochs == (9, 10)
    assert plan.planets[0].files[0].name == "trappist-b_9.nc"
    with pytest.raises(RequestError, match=r"trappist-b_10\.nc: its name does not match --pattern 'planet"):
        plan_conversion(find_files([str(tmp_path)]), SMALL)


def test_other_attributes_may_say_what_a_file_is(pair):
    for file in pair.iterdir():
        rewrite(
            file, global_attributes={"model": f"m-{file.name[6:8]}", "planet_name": None, "age": int(file.name[-4])}
        )
    naming = Naming(planet_attribute="model", epoch_attribute="age")
    plan = plan_conversion(find_files([str(pair)]), Request(variables=("ts",), naming=naming))
    assert [p.name for p in plan.planets] == ["m-00", "m-01"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ["ts"]}, r"planet01_epoch0\.nc: no variable ts \(surface_temperature\)"),
        ({"attributes": {"ts": {"units": "Pa"}}}, r"planet01_epoch0\.nc: ts: units 'Pa' cannot be converted"),
        ({"data": {"lev": SIGMA + 0.01}}, r"planet01_epoch0\.nc: other levels than .*planet00_epoch0\.nc"),
        ({"data": {"lon": 22.5 * np.arange(16) + 1}}, r"planet01_epoch0\.nc: another grid than"),
        (
            {"data": {"time_bnds": np.stack([np.r_[0, 9, 30, 45], np.r_[9, 30, 45, 60]], 1)}},
            "divide the year otherwise",
        ),
        ({"global_attributes": {"radius_m": None}}, r"planet01_epoch0\.nc: no global attribute radius_m"),
        ({"global_attributes": {"gravity_m_s2": "strong"}}, "gravity_m_s2=strong should be a number"),
        ({"global_attributes": {"eccentricity": 1.2}}, "eccentricity=1.2 should be"),
        ({"global_attributes": {"planet_name": "world0"}}, "planets 0 and 1 are both called world0"),
    ],
)
def test_a_file_that_does_not_fit_is_named(pair, changes, message):
    rewrite(pair / "planet01_epoch0.nc", **changes)
    with pytest.raises(RequestError, match=message) as error:
        to_store(pair, Request())
    assert "\n" not in str(error.value)
    assert not (pair.parent / "cubes").exists()


def test_damage_met_while_converting_leaves_no_store(pair):
    file = pair / "planet01_epoch0.nc"
    file.write_bytes(file.read_bytes()[:-20_000])
    with pytest.raises(RequestError, match=r"planet01_epoch0\.nc: .*truncated or corrupt"):
        to_store(pair)
    assert not (pair.parent / "cubes").exists()


# Completeness ---------------------------------------------------------------------------------------------------


def with_holes(file: Path, share: float) -> None:
    values = fields(1, 0)["ts"]
    values.reshape(-1)[: int(share * values.size)] = np.nan
    rewrite(file, data={"ts": values})


def test_an_incomplete_variable_is_refused_unless_asked_for(pair):
    with_holes(pair / "planet01_epoch0.nc", 0.125)
    with pytest.raises(RequestError, match=r"planet01_epoch0\.nc: ts is 87\.50% complete, less than 95\.00%"):
        to_store(pair)
    store = to_store(pair, Request(variables=("ta", "ts"), minimum_completeness=0.8))
    report = json.loads((store.path / "quality.json").read_bytes())["variables"]["ts"]
    assert report["not_finite"] == fields(1, 0)["ts"].size // 8
    assert report["least_complete_file"] == 0.875
    assert np.isnan(store.read([1])["surface"][0, 0, :, 0]).sum() == report["not_finite"]


# Variables, grids and levels ------------------------------------------------------------------------------------


def test_variables_outside_the_table_are_taken_by_name(pair):
    for file in pair.iterdir():
        rewrite(file, rename={"clt": "haze"}, attributes={"clt": {"standard_name": "haze_amount", "units": "g m-2"}})
    store = to_store(pair, Request(variables=("surface_temperature", "haze_amount")))
    assert store.variables == {"surface": ("ts", "haze")}
    (variable,) = [v for v in store.layout.variables["surface"] if v.name == "haze"]
    assert (variable.units, variable.method) == ("g m-2", "conservative")
    np.testing.assert_array_equal(store.read([0])["surface"][0, 1, :, 0, 0], fields(0, 0)["clt"][:, ::-1])
    assert store.level_kind is None


def test_variables_that_are_not_asked_for_may_be_ambiguous(pair):
    for file in pair.iterdir():
        rewrite(file, rename={"tas": "tasmin"})
        with netCDF4.Dataset(file, "a") as dataset:
            add(
                dataset,
                "tasmax",
                fields(0, 0)["tas"],
                ("time", "lat", "lon"),
                standard_name="air_temperature",
                units="K",
            )
    assert to_store(pair).variables == {"levels": ("ta",), "surface": ("ts",)}
    with pytest.raises(RequestError, match="tas: tasmin, tasmax all have its standard name"):
        to_store(pair, Request(), "other")


def test_regridding_keeps_area_means_of_fluxes_and_constants_of_all(pair):
    for file in pair.iterdir():
        rewrite(file, data={"ts": np.full((NUM_TIMES, 8, 16), 271.5, np.float32)})
    store = to_store(pair, Request(variables=("rlut", "ts"), grid="6x10"))
    np.testing.assert_allclose(store.grid.lon, 36 * np.arange(10))
    rlut, ts = store.read([0])["surface"][0]
    np.testing.assert_allclose(ts, 271.5, rtol=1e-6)
    own = area_mean(fields(0, 1)["rlut"][:, ::-1].astype(np.float64), gaussian(8, 16))
    np.testing.assert_allclose(area_mean(rlut[:, 1, 0].astype(np.float64), store.grid), own, rtol=1e-6)


def test_levels_are_interpolated_in_the_logarithm_of_pressure(pair):
    surface_pressure = 9e4
    profile = 200 + 10 * np.log(SIGMA * surface_pressure)
    for file in pair.iterdir():
        ta = np.broadcast_to(profile[:, None, None], (NUM_TIMES, 3, 8, 16)).astype(np.float32)
        ps = np.full((NUM_TIMES, 8, 16), surface_pressure, np.float32)
        rewrite(file, data={"ta": ta, "ps": ps})
    request = Request(variables=("ta",), levels="pressure:70000,10000,20000", grid="gaussian:8x16")
    store = to_store(pair, request)
    assert store.level_kind == "pressure"
    np.testing.assert_allclose(store.lev, [1e4, 2e4, 7e4])
    expected = 200 + 10 * np.log(store.lev)
    np.testing.assert_allclose(
        store.read([0])["levels"][0, 0], np.broadcast_to(expected[:, None, None], (4, 2, 3, 8, 16)), rtol=1e-6
    )


def test_levels_below_the_ground_are_missing(pair):
    request = Request(variables=("ta",), levels="pressure:50000,120000", minimum_completeness=0)
    ta = to_store(pair, request).read([0])["levels"][0, 0]
    assert np.isfinite(ta[:, :, 0]).all()
    assert np.isnan(ta[:, :, 1]).all()


@pytest.mark.parametrize("kind", ["pressure", "height", "hybrid"])
def test_files_with_other_levels_reach_sigma(pair, kind):
    """A profile that is linear in log pressure is the same whichever levels carried it."""
    ps = np.full((NUM_TIMES, 8, 16), 1e5, np.float32)
    attributes = {"formula_terms": None, "bounds": None}
    if kind == "pressure":
        lev, pressure = np.asarray([50.0, 400.0, 990.0]), np.asarray([5e3, 4e4, 9.9e4])
        attributes |= {"standard_name": "air_pressure", "units": "hPa"}
    elif kind == "height":  # Of an isothermal atmosphere with the gas constant and gravity of the attributes.
        lev = np.asarray([2e4, 6e3, 100.0])
        pressure = 1e5 * np.exp(-9.81 * lev / (282.0 * 250.0))
        attributes |= {"standard_name": "height", "units": "m", "positive": "up"}
    else:
        lev = np.asarray([1.0, 2.0, 3.0])
        a, b = np.asarray([5e3, 1e4, 0.0]), np.asarray([0.0, 0.4, 0.95])
        pressure = a + b * 1e5
        name = "atmosphere_hybrid_sigma_pressure_coordinate"
        attributes |= {"standard_name": name, "units": "1", "formula_terms": "ap: ap b: b ps: ps"}
    ua = np.broadcast_to((7 + 3 * np.log(pressure))[:, None, None], (NUM_TIMES, 3, 8, 16)).astype(np.float32)
    data = {"lev": lev, "ps": ps, "ua": ua, "ta": np.full_like(ua, 250)}
    for file in pair.iterdir():
        rewrite(file, data=data, attributes={"lev": attributes}, drop=["lev_bnds"])
        if kind == "hybrid":
            with netCDF4.Dataset(file, "a") as dataset:
                add(dataset, "ap", a, ("lev",), units="Pa")
                add(dataset, "b", b, ("lev",))
    store = to_store(pair, Request(variables=("ua",), levels="sigma:0.2,0.5,0.9"))
    expected = 7 + 3 * np.log(1e5 * store.lev)
    np.testing.assert_allclose(store.read([0])["levels"][0, 0, 0, 0, :, 2, 3], expected, rtol=1e-5)
    if kind == "hybrid":
        with pytest.raises(RequestError, match=r"hybrid levels; .*--levels sigma"):
            to_store(pair, Request(variables=("ua",)), "other")


def test_straight_to_memory_is_the_same_as_through_the_store(pair):
    request = Request(variables=("ta", "ts", "orog"), grid="6x10", levels="sigma:0.2,0.5,0.9")
    cubes = read_cubes(plan_conversion(find_files([str(pair)]), request))
    for group, values in to_store(pair, request).read([0, 1]).items():
        np.testing.assert_array_equal(cubes[group], values)


def test_other_files_become_like_a_store(ensemble, pair):
    """What an evaluation on runs of one's own needs: the variables, grid and levels of the training cubes."""
    like = to_store(pair, Request(variables=("ta", "rlut"), grid="6x10", levels="sigma:0.2,0.9"))
    other = convert([str(ensemble / "planet03*.nc")], pair.parent / "other", Request.like(like), workers=1)
    assert other.planets == ("world3",)
    assert other.variables == like.variables
    np.testing.assert_array_equal(other.lev_edges, like.lev_edges)
    np.testing.assert_array_equal(other.grid.lat, like.grid.lat)


# The report -----------------------------------------------------------------------------------------------------


def test_quality_report(pair):
    file = pair / "planet00_epoch1.nc"
    values = fields(0, 1)
    values["ts"][0, 0, 0], values["ts"][1, 1, 1] = 10_000, 1
    values["hus"][:] = 0
    values["ps"] *= (1 + 1e-3 * np.arange(NUM_TIMES))[:, None, None].astype(np.float32)
    rewrite(file, data={k: values[k] for k in ("ts", "hus", "ps")}, attributes={"ts": {"units": "degC"}})
    store = to_store(pair, Request())
    report = json.loads((store.path / "quality.json").read_bytes())
    record = next(f for f in report["files"] if f["file"] == file.name)
    assert record["variables"]["ts"]["above_range"] == 1
    assert record["variables"]["ts"]["max"] == pytest.approx(10_273.15)
    assert record["variables"]["ts"]["below_range"] == 0
    rst, rlut = (values[name][:, ::-1].astype(np.float64) for name in ("rst", "rlut"))
    assert record["toa_balance_W_m2"] == pytest.approx(area_mean(rst - rlut, gaussian(8, 16)).mean(), abs=1e-3)
    mass = area_mean(values["ps"][:, ::-1].astype(np.float64), gaussian(8, 16))
    assert record["dry_mass_drift"] == pytest.approx((mass[-1] - mass[0]) / mass.mean(), rel=1e-3)
    assert "ts converted from degC to K" in record["handled"]
    text = (store.path / "quality.txt").read_text()
    assert "ts converted from degC to K (1 of 3 files)" in text
    assert "world0: orog differs between epochs by up to" in text
    assert file.name in text


# Stopping and going on ------------------------------------------------------------------------------------------


def test_two_conversions_are_the_same_to_the_byte(ensemble, store, tmp_path):
    again = convert([str(ensemble / "*.nc")], tmp_path / "again", workers=2)
    assert contents(again.path) == contents(store.path)


def test_a_finished_conversion_returns_at_once(ensemble, store, capsys, tmp_path):
    before = contents(store.path)
    convert([str(ensemble)], store.path)
    assert "already converted" in capsys.readouterr().out
    assert contents(store.path) == before
    with pytest.raises(RequestError, match="holds cubes of other sources or options"):
        convert([str(ensemble)], store.path, SMALL)
    with pytest.raises(RequestError, match="holds cubes of other sources or options"):
        convert([str(ensemble / "planet00*.nc")], store.path)


def test_a_killed_conversion_goes_on(tmp_path, capsys):
    """kill -9 of the command while its processes write."""
    runs, out, partial = tmp_path / "runs", tmp_path / "cubes", tmp_path / "cubes.partial"
    runs.mkdir()
    first = write_run(runs / "planet00_epoch0.nc")
    rewrite(first, global_attributes={"planet_index": None, "planet_name": None})
    for planet in range(1, 24):  # Enough for the signal to come before the last.
        os.link(first, runs / f"planet{planet:02d}_epoch0.nc")
    command = [sys.executable, "-m", "astrojax.data.cubes", str(runs), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not list(partial.glob("journal/*.json")):
        assert process.poll() is None, "it ended before a planet was done"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    with pytest.raises(RequestError, match="has not finished"):
        CubeStore.open(out)
    convert([str(runs)], out, workers=1)
    assert "going on: " in capsys.readouterr().out
    assert not partial.exists()
    assert contents(out) == contents(convert([str(runs)], tmp_path / "at_once", workers=1).path)


def stop_after_first_planet(folder: Path) -> Path:
    """A conversion that fails at the second planet; returns where it worked."""
    bad = folder / "planet01_epoch0.nc"
    good = bad.read_bytes()
    rewrite(bad, attributes={"ts": {"units": "Pa"}})
    with pytest.raises(RequestError):
        to_store(folder)
    bad.write_bytes(good)
    return folder.parent / "cubes.partial"


@pytest.mark.parametrize("change", ["nothing", "source", "chunk", "options"])
def test_what_is_done_is_kept_unless_it_changed(pair, change):
    partial = stop_after_first_planet(pair)
    chunk = partial / "store/surface/c.0.0.0.0.0.0.0"
    before = chunk.stat().st_mtime_ns
    request = SMALL
    if change == "source":
        rewrite(pair / "planet00_epoch0.nc", data={"ts": fields(9, 9)["ts"]})
    elif change == "chunk":
        chunk.write_bytes(bytes(chunk.stat().st_size))
        before = chunk.stat().st_mtime_ns
    elif change == "options":
        request = Request(variables=("ts",))
    store = to_store(pair, request)
    kept = (store.path / "surface/c.0.0.0.0.0.0.0").stat().st_mtime_ns == before
    assert kept == (change == "nothing")
    fresh = to_store(pair, request, "fresh")
    assert contents(store.path) == contents(fresh.path)


def test_two_conversions_at_once_are_refused(pair):
    partial = pair.parent / "cubes.partial"
    partial.mkdir()
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another process is converting"):
            to_store(pair)


# The command ----------------------------------------------------------------------------------------------------


def test_command_line(pair, capsys):
    out = str(pair.parent / "cubes")
    arguments = [str(pair), "--out", out, "--variables", "ta", "ts", "--grid", "6x10", "--workers", "1"]
    assert main(arguments) == 0
    assert "quality.txt" in capsys.readouterr().out
    store = CubeStore.open(out)
    assert store.read([0])["levels"].shape == (1, 1, 4, 2, 3, 6, 10)
    np.testing.assert_allclose(store.grid.lat, regular(6, 10).lat)
    store.verify()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "big"], "--grid big should be"),
        (["--grid", "1x2"], "--grid 1x2 should be"),
        (["--levels", "theta:300"], "--levels theta:300 should be"),
        (["--levels", "sigma:0.5,1.5"], "should lie between 0 and 1"),
        (["--levels", "sigma:0.5,0.5"], "should be different finite numbers"),
        (["--pattern", "("], "is no regular expression"),
        (["--pattern", r"(?P<planet>\d+)"], "should have the groups"),
        (["--planet-attribute", "x"], "go together"),
        (["--variables", "phlogiston"], "no variable phlogiston"),
        (["--minimum-completeness", "95"], "should be between 0 and 1"),
    ],
)
def test_bad_requests_end_with_2_and_one_line(pair, capsys, arguments, message):
    assert main([str(pair), "--out", str(pair.parent / "cubes"), "--workers", "1", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (pair.parent / "cubes").exists()


def test_what_is_no_store_is_not_overwritten(pair, capsys):
    assert main([str(pair), "--out", str(pair)]) == 2
    assert f"{pair} is there already and holds no cubes" in capsys.readouterr().err
    assert len(list(pair.iterdir())) == 3


def test_no_files_is_a_bad_request(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "cubes")]) == 2
    assert f"{tmp_path}: no NetCDF file there" in capsys.readouterr().err
