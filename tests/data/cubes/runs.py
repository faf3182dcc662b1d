"""Small NetCDF files in the conventions of the ExoPlaSim ensemble, and changes to them."""

from pathlib import Path

import netCDF4
import numpy as np

NUM_TIMES, NUM_LEVELS, NUM_LAT, NUM_LON = 4, 3, 8, 16
SIGMA = np.asarray([0.1, 0.45, 0.85])
SIGMA_BOUNDS = np.asarray([[0.0, 0.2], [0.2, 0.7], [0.7, 1.0]])
LATITUDE = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(NUM_LAT)[0]))[::-1]
LONGITUDE = 360 / NUM_LON * np.arange(NUM_LON)

# Name: standard name, units, typical value, spread.
FIELDS = {
    "ta": ("air_temperature", "K", 250.0, 30.0),
    "hus": ("specific_humidity", "1", 0.005, 0.002),
    "ua": ("eastward_wind", "m s-1", 5.0, 10.0),
    "va": ("northward_wind", "m s-1", 0.0, 10.0),
    "ts": ("surface_temperature", "K", 280.0, 20.0),
    "tas": ("air_temperature", "K", 279.0, 20.0),
    "ps": ("surface_air_pressure", "Pa", 1e5, 500.0),
    "pr": ("precipitation_flux", "kg m-2 s-1", 3e-5, 1e-5),
    "clt": ("cloud_area_fraction", "1", 0.5, 0.1),
    "rst": ("toa_net_downward_shortwave_flux", "W m-2", 240.0, 40.0),
    "rlut": ("toa_outgoing_longwave_flux", "W m-2", 235.0, 20.0),
    "sftlf": ("land_area_fraction", "1", 0.0, 0.0),
    "orog": ("surface_altitude", "m", 100.0, 50.0),
}
WITH_LEVELS, STATIC = ("ta", "hus", "ua", "va"), ("sftlf", "orog")


def fields(planet: int, epoch: int, land: float = 0.0) -> dict[str, np.ndarray]:
    """What the file holds, by name, in its own order: from north to south."""
    rng = np.random.default_rng(100 * planet + epoch)
    values = {}
    for name, (_, _, mean, spread) in FIELDS.items():
        shape = (NUM_LAT, NUM_LON)
        if name not in STATIC:
            shape = (NUM_TIMES, *((NUM_LEVELS,) if name in WITH_LEVELS else ()), *shape)
        values[name] = (mean + spread * np.clip(rng.standard_normal(shape), -2, 2)).astype(np.float32)
    values["sftlf"][:] = land
    return values


def write_run(path: Path, planet: int = 0, epoch: int = 0, *, land: float = 0.0, locked: bool = False, values=None):
    """Writes one planet and epoch. ``values`` replaces fields."""
    attributes = {
        "Conventions": "CF-1.8",
        "planet_index": np.int32(planet),
        "planet_name": f"world{planet}",
        "epoch_index": np.int32(epoch),
        "epoch_age_Ga": 3.8 / (1 + epoch),
        "instellation_W_m2": 1000.0 + 10 * planet + epoch,
        "stellar_temperature_K": 3900.0,
        "rotation_period_days": 1.0,
        "orbital_period_days": 60.0,
        "tidally_locked": np.int32(locked),
        "substellar_longitude_deg": 180.0 if locked else -999.0,
        "obliquity_deg": 0.0 if locked else 23.0,
        "eccentricity": 0.0,
        "radius_m": 6.4e6,
        "gravity_m_s2": 9.81,
        "pN2_bar": 1.0,
        "pCO2_bar": 0.1,
        "dry_gas_constant_J_kg_K": 282.0,
        "mixed_layer_depth_m": 3.0,
    }
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(attributes)
        sizes = {"time": NUM_TIMES, "lev": NUM_LEVELS, "lat": NUM_LAT, "lon": NUM_LON, "bnds": 2}
        for name, size in sizes.items():
            file.createDimension(name, size)
        month = 15.0
        times = month * (np.arange(NUM_TIMES) + 0.5)
        add(file, "time", times, standard_name="time", axis="T", units="days since 0001-01-01", bounds="time_bnds")
        add(file, "time_bnds", np.stack([times - month / 2, times + month / 2], 1), ("time", "bnds"))
        add(
            file,
            "lev",
            SIGMA,
            standard_name="atmosphere_sigma_coordinate",
            axis="Z",
            units="1",
            formula_terms="sigma: lev ps: ps ptop: ptop",
            bounds="lev_bnds",
        )
        add(file, "lev_bnds", SIGMA_BOUNDS, ("lev", "bnds"))
        add(file, "ptop", 0.0, (), units="Pa")
        add(file, "lat", LATITUDE, standard_name="latitude", units="degrees_north")
        add(file, "lon", LONGITUDE, standard_name="longitude", units="degrees_east")
        for name, field in (fields(planet, epoch, land) | (values or {})).items():
            standard_name, units, *_ = FIELDS[name]
            lev = ("lev",) if name in WITH_LEVELS else ()
            dimensions = ("lat", "lon") if name in STATIC else ("time", *lev, "lat", "lon")
            add(file, name, field, dimensions, standard_name=standard_name, units=units)
    return path


def add(file: netCDF4.Dataset, name: str, values, dimensions=None, *, dtype=None, fill=None, **attributes) -> None:
    """A variable; one with a dimension of its own name unless ``dimensions`` are given."""
    dtype = dtype or np.asarray(values).dtype
    variable = file.createVariable(name, dtype, (name,) if dimensions is None else dimensions, fill_value=fill)
    variable.set_auto_maskandscale(False)
    variable.setncatts(attributes)
    variable[...] = values


def rewrite(path: Path, *, drop=(), data=None, attributes=None, dimensions=None, rename=None, global_attributes=None):
    """Writes the file anew with changes, all by the variable's name.

    ``data``: values, of their own type; ``attributes``: added, or removed where None; ``dimensions``: another order;
    ``rename``: another name; ``global_attributes``: as ``attributes``.
    """
    data, attributes, dimensions, rename = data or {}, attributes or {}, dimensions or {}, rename or {}
    old = path.with_suffix(".old")
    path.rename(old)
    with netCDF4.Dataset(old) as source, netCDF4.Dataset(path, "w") as file:
        source.set_auto_maskandscale(False)
        kept = {k: source.getncattr(k) for k in source.ncattrs()} | (global_attributes or {})
        file.setncatts({k: v for k, v in kept.items() if v is not None})
        for name, dimension in source.dimensions.items():
            file.createDimension(name, len(dimension))
        for name, variable in source.variables.items():
            if name in drop:
                continue
            own = {k: variable.getncattr(k) for k in variable.ncattrs()} | attributes.get(name, {})
            fill = own.pop("_FillValue", None)
            values = data.get(name, variable[...])
            order = dimensions.get(name, variable.dimensions)
            if order != variable.dimensions:
                values = np.transpose(values, [variable.dimensions.index(d) for d in order])
            own = {k: v for k, v in own.items() if v is not None}
            add(file, rename.get(name, name), values, order, fill=fill, **own)
    old.unlink()
    return path
