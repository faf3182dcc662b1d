"""A file in any convention gives what it gives in the canonical one, or one clear line."""

import netCDF4
import numpy as np
import pytest

from astrojax.data.cubes.source import SourceFile
from astrojax.data.cubes.variables import VARIABLES
from astrojax.errors import RequestError
from tests.data.cubes.runs import LATITUDE, LONGITUDE, NUM_LON, SIGMA, SIGMA_BOUNDS, add, fields, rewrite

EXPECTED = {name: values[..., ::-1, :] for name, values in fields(0, 0).items()}  # From south to north.


def read(path, name):
    with SourceFile(path) as source:
        values = source.read(VARIABLES[name])
        return values, source.notes


def canonical(name):
    """``[climate_time, lev, lat, lon]``."""
    values = EXPECTED[name]
    return values if values.ndim == 4 else values[:, None] if values.ndim == 3 else values[None, None]


@pytest.mark.parametrize("name", ["ta", "ts", "orog", "tas"])
def test_reads_the_canonical_layout(run, name):
    values, notes = read(run, name)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, canonical(name))
    assert notes == ["lat turned to run from south to north"]


def test_coordinates(run):
    with SourceFile(run) as source:
        np.testing.assert_allclose(source.grid.lat, LATITUDE[::-1], atol=1e-9)
        np.testing.assert_allclose(source.grid.lon, LONGITUDE)
        assert source.levels.kind == "sigma"
        np.testing.assert_allclose(source.levels.centres, SIGMA)
        np.testing.assert_allclose(source.levels.edges, [0, 0.2, 0.7, 1])
        np.testing.assert_allclose(source.climate_time_edges, [0, 0.25, 0.5, 0.75, 1])
        assert source.attributes["planet_name"] == "world0"


def test_latitudes_that_ascend_need_no_turning(run):
    rewrite(run, data={"lat": LATITUDE[::-1], "ts": EXPECTED["ts"]})
    values, notes = read(run, "ts")
    np.testing.assert_array_equal(values, canonical("ts"))
    assert notes == []


def test_any_order_of_dimensions(run):
    rewrite(run, dimensions={"ta": ("lon", "lev", "time", "lat"), "ts": ("lat", "time", "lon")})
    for name in ("ta", "ts"):
        values, notes = read(run, name)
        np.testing.assert_array_equal(values, canonical(name))
        assert any("brought to time, lev, lat, lon" in note for note in notes)


def test_levels_from_the_ground_up(run):
    changed = {"lev": SIGMA[::-1], "lev_bnds": SIGMA_BOUNDS[::-1, ::-1], "ta": fields(0, 0)["ta"][:, ::-1]}
    rewrite(run, data=changed)
    values, notes = read(run, "ta")
    np.testing.assert_array_equal(values, canonical("ta"))
    assert any(note.startswith("lev turned") for note in notes)
    with SourceFile(run) as source:
        np.testing.assert_allclose(source.levels.edges, [0, 0.2, 0.7, 1])


def test_longitudes_from_minus_180(run):
    half = NUM_LON // 2
    rolled = {name: np.roll(fields(0, 0)[name], half, -1) for name in ("ta", "ts")}
    rewrite(run, data={"lon": LONGITUDE - 180, **rolled})
    values, notes = read(run, "ta")
    np.testing.assert_array_equal(values, canonical("ta"))
    assert any("rolled to 0..360" in note for note in notes)


@pytest.mark.parametrize("packed", ["fill_value", "missing_value", "valid_range", "netcdf_default"])
def test_missing_values_are_nan(run, packed):
    values = fields(0, 0)["ts"]
    mark = {
        "fill_value": 1e20,
        "missing_value": -999.0,
        "valid_range": 500.0,
        "netcdf_default": netCDF4.default_fillvals["f4"],
    }
    values[1, 2, 3] = mark[packed]
    attributes = {
        "fill_value": {"_FillValue": np.float32(1e20)},
        "missing_value": {"missing_value": np.float32(-999)},
        "valid_range": {"valid_range": np.float32([100, 400])},
        "netcdf_default": {},
    }
    rewrite(run, data={"ts": values}, attributes={"ts": attributes[packed]})
    expected = fields(0, 0)["ts"]
    expected[1, 2, 3] = np.nan
    with SourceFile(run) as source:
        slabs = list(source.slabs(VARIABLES["ts"]))
    np.testing.assert_array_equal(np.concatenate([s.values for s in slabs])[:, 0], expected[:, ::-1])
    assert sum(s.num_fill for s in slabs) == 1


def test_packed_integers(run):
    scale, offset = 0.01, 200.0
    values = np.round((fields(0, 0)["ts"].astype(np.float64) - offset) / scale).astype(np.int16)
    values[0, 0, 0] = -32767
    rewrite(
        run,
        data={"ts": values},
        attributes={"ts": {"scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(-32767)}},
    )
    read_values, notes = read(run, "ts")
    assert np.isnan(read_values[0, 0, -1, 0])
    expected = canonical("ts").copy()
    expected[0, 0, -1, 0] = np.nan
    np.testing.assert_allclose(read_values, expected, atol=0.51 * scale)
    assert any("unpacked from int16" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "units", "scale", "shift"),
    [("ts", "degC", 1, -273.15), ("ps", "hPa", 0.01, 0), ("clt", "%", 100, 0), ("hus", "g kg-1", 1000, 0)],
)
def test_units_are_converted_and_reported(run, name, units, scale, shift):
    rewrite(
        run, data={name: (fields(0, 0)[name] * scale + shift).astype(np.float32)}, attributes={name: {"units": units}}
    )
    values, notes = read(run, name)
    np.testing.assert_allclose(values, canonical(name), rtol=1e-6)
    assert f"{name} converted from {units} to {VARIABLES[name].units}" in notes


def test_precipitation_as_a_depth_of_water(run):
    """CF has it under another standard name: 1 mm of water is 1 kg m-2."""
    rewrite(
        run,
        data={"pr": fields(0, 0)["pr"] * np.float32(86400)},
        attributes={"pr": {"units": "mm day-1", "standard_name": "lwe_precipitation_rate"}},
    )
    values, _ = read(run, "pr")
    np.testing.assert_allclose(values, canonical("pr"), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("ts", {"units": "hotness"}, "ts: units 'hotness' are not known"),
        ("ts", {"units": "Pa"}, "ts: units 'Pa' cannot be converted to 'K'"),
        ("ts", {"units": None}, "ts has no units"),
        ("pr", {"units": "mm day-1"}, "pr: units 'mm day-1' cannot be converted"),
    ],
)
def test_units_that_cf_does_not_convert_are_refused(run, name, attributes, message):
    rewrite(run, attributes={name: attributes})
    with pytest.raises(RequestError, match=message) as error:
        read(run, name)
    assert str(run) in str(error.value)


def test_variables_are_found_by_standard_name_then_by_short_name(run):
    rewrite(run, rename={"ts": "skin"}, attributes={"rlut": {"standard_name": None}})
    np.testing.assert_array_equal(read(run, "ts")[0], canonical("ts"))
    np.testing.assert_array_equal(read(run, "rlut")[0], canonical("rlut"))


def test_a_missing_variable_is_named(run):
    rewrite(run, drop=["ts"])
    with pytest.raises(RequestError, match=r"planet00_epoch0\.nc: no variable ts \(surface_temperature\)"):
        read(run, "ts")


def test_two_variables_of_one_name_are_refused(run):
    rewrite(run, rename={"ts": "a"})
    with netCDF4.Dataset(run, "a") as file:
        add(file, "b", fields(0, 0)["ts"], ("time", "lat", "lon"), standard_name="surface_temperature", units="K")
    with pytest.raises(RequestError, match="ts: a, b all have its standard name"):
        read(run, "ts")


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "truncated_classic", "absent"])
def test_what_is_no_netcdf_is_refused(run, kind):
    if kind == "truncated_classic":
        with (
            netCDF4.Dataset(run) as source,
            netCDF4.Dataset(run.with_suffix(".classic"), "w", format="NETCDF3_CLASSIC") as file,
        ):
            for name, dimension in source.dimensions.items():
                file.createDimension(name, len(dimension))
            for name in ("time", "lat", "lon", "ts"):
                variable = source.variables[name]
                add(
                    file,
                    name,
                    variable[...],
                    variable.dimensions,
                    units=variable.units,
                    standard_name=variable.standard_name,
                )
        run.with_suffix(".classic").rename(run)
    content = run.read_bytes()
    run.write_bytes({"empty": b"", "text": b"tsurf 280\n" * 100}.get(kind, content[: 2 * len(content) // 3]))
    if kind == "absent":
        run.unlink()
    with pytest.raises(RequestError, match=str(run)):
        read(run, "ts")


def test_damage_inside_a_variable_is_refused(run):
    with netCDF4.Dataset(run, "a") as file:
        packed = file.createVariable("packed", "f4", ("time", "lat", "lon"), zlib=True, fletcher32=True)
        packed.setncatts({"standard_name": "surface_albedo", "units": "1"})
        packed[...] = np.random.default_rng(0).random(packed.shape)
    with netCDF4.Dataset(run) as file:
        damaged = file["packed"][...].data.tobytes()
    content, good = bytearray(run.read_bytes()), len(run.read_bytes())
    content[good - len(damaged) // 2 : good - len(damaged) // 4] = bytes(len(damaged) // 2 - len(damaged) // 4)
    run.write_bytes(content)
    with pytest.raises(RequestError, match=r"packed cannot be read .* truncated or corrupt"):
        read(run, "albs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"lat": np.roll(LATITUDE, 1)}}, "lat is not monotonic"),
        ({"data": {"lon": np.roll(LONGITUDE, 1)}}, "lon is not monotonic"),
        ({"data": {"lev": SIGMA[[0, 2, 1]]}}, "lev is not monotonic: 0.85 is followed by 0.45"),
        ({"data": {"time": np.asarray([1.0, 3, 2, 4])}}, "time does not ascend"),
        ({"data": {"lon": LONGITUDE / 4}}, "lon should go around the circle"),
        ({"data": {"lat": LATITUDE / 4}}, "does not reach the poles"),
        ({"data": {"lat": LATITUDE * np.nan}}, "lat holds values that are not finite"),
        ({"attributes": {"lat": {"standard_name": "grid_latitude", "units": "degrees"}}}, "rotated grid"),
        ({"attributes": {"lev": {"standard_name": "ocean_sigma_coordinate"}}}, "no vertical coordinate that is read"),
        ({"attributes": {"lev": {"units": "parsec"}}}, "lev: units 'parsec' cannot be converted|not known"),
        (
            {"attributes": {"lev": {"bounds": "nothing"}}, "data": {"time_bnds": np.zeros((4, 2))}},
            "time_bnds leaves gaps",
        ),
    ],
)
def test_coordinates_of_no_cube_are_refused(run, changes, message):
    rewrite(run, **changes)
    with pytest.raises(RequestError, match=message) as error:
        SourceFile(run)
    assert str(run) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_variable_of_other_dimensions_is_refused(run):
    with netCDF4.Dataset(run, "a") as file:
        file.createDimension("member", 2)
        add(file, "albs", np.zeros((2, 4, 8, 16), np.float32), ("member", "time", "lat", "lon"), units="1")
    with pytest.raises(RequestError, match="dimension member is not one of a climate cube"):
        read(run, "albs")


def test_layers_of_the_ground_are_no_second_vertical_axis(run):
    with netCDF4.Dataset(run, "a") as file:
        file.createDimension("soil", 2)
        add(file, "soil", np.asarray([0.1, 1.0]), standard_name="depth", units="m", positive="down", axis="Z")
        add(file, "mrsol", np.zeros((4, 2, 8, 16), np.float32), ("time", "soil", "lat", "lon"), units="kg m-2")
    np.testing.assert_array_equal(read(run, "ta")[0], canonical("ta"))


def change_levels(run, values, *, bounds=None, **attributes):
    attributes = {"lev": {"formula_terms": None, "bounds": None} | attributes}
    rewrite(run, data={"lev": np.asarray(values, np.float64)}, attributes=attributes, drop=["lev_bnds"])


def test_pressure_levels_are_known_by_their_units_alone(run):
    change_levels(run, [850.0, 500.0, 100.0], standard_name=None, units="hPa")
    with SourceFile(run) as source:
        assert source.levels.kind == "pressure"
        np.testing.assert_allclose(source.levels.centres, [10_000, 50_000, 85_000])
        np.testing.assert_allclose(source.levels.edges[1:-1], [30_000, 67_500])


def test_height_levels_run_from_the_top_down(run):
    change_levels(run, [0.1, 1.0, 5.0], standard_name="height", units="km", positive="up")
    with SourceFile(run) as source:
        assert source.levels.kind == "height"
        np.testing.assert_allclose(source.levels.centres, [5000, 1000, 100])
        assert (np.diff(source.levels.edges) < 0).all()


def test_hybrid_levels_of_either_form(run):
    change_levels(
        run,
        [0.1, 0.5, 0.9],
        standard_name="atmosphere_hybrid_sigma_pressure_coordinate",
        formula_terms="p0: p0 a: a b: b ps: ps",
    )
    with netCDF4.Dataset(run, "a") as file:
        add(file, "p0", 1000.0, (), units="hPa")
        add(file, "a", np.asarray([0.1, 0.2, 0.0]), ("lev",))
        add(file, "b", np.asarray([0.0, 0.3, 0.9]), ("lev",))
    with SourceFile(run) as source:
        assert source.levels.kind == "hybrid"
        np.testing.assert_allclose(source.levels.a, [10_000, 20_000, 0])
        np.testing.assert_allclose(source.levels.b, [0, 0.3, 0.9])
        np.testing.assert_allclose(source.levels.centres, [10_000, 50_000, 90_000])


def test_sigma_below_a_top_of_some_pressure_is_hybrid(run):
    """CF appendix D: p = ptop + sigma (ps - ptop)."""
    rewrite(run, data={"ptop": np.asarray(1000.0)})
    with SourceFile(run) as source:
        assert source.levels.kind == "hybrid"
        np.testing.assert_allclose(source.levels.a + source.levels.b * 9e4, 1000 + SIGMA * 8.9e4)
