from collections import Counter

from astrojax.data.cubes.splits import Planet, split_planets

# The planets of the ExoPlaSim ensemble, by (tidally locked, land fraction).
ENSEMBLE = {
    (False, 0.0): "aqua_reference super_earth_dense slow_high_obliquity fast_rotator small_thin_aqua sample02 sample04 "
    "sample08",
    (False, 0.29): "earth_geography",
    (False, 1.0): "land_moist sample00",
    (True, 0.0): "tl_aqua_m3 tl_trappist1e_like tl_proxima_b_like tl_warm_slow tl_thin_small sample01",
    (True, 0.29): "tl_earth_geography sample05 sample09",
    (True, 1.0): "tl_land_moist",
}


def planets(num: int) -> list[Planet]:
    return [Planet(f"world{i}", i % 3 == 0, (0.0, 0.4, 1.0)[i % 4 % 3]) for i in range(num)]


def test_split_of_the_exoplasim_ensemble():
    """What every published figure on held-out planets refers to."""
    ensemble = [Planet(name, *kind) for kind, names in ENSEMBLE.items() for name in names.split()]
    parts = split_planets(ensemble)
    assert parts["heldout"] == ("sample08", "sample02", "tl_thin_small", "sample09")
    assert parts["validation"] == ("sample04", "tl_warm_slow")
    assert len(parts["train"]) == 15


def test_every_planet_is_in_one_part():
    parts = split_planets(planets(43))
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(p.name for p in planets(43))
    assert len(set(names)) == 43


def test_a_fifth_is_held_out_and_a_tenth_for_validation():
    parts = split_planets(planets(200))
    assert {name: len(part) for name, part in parts.items()} == {"train": 140, "validation": 20, "heldout": 40}


def test_five_folds_hold_out_every_planet_once():
    folds = [split_planets(planets(43), fold) for fold in range(5)]
    assert sorted(name for parts in folds for name in parts["heldout"]) == sorted(p.name for p in planets(43))
    assert all(len(parts["validation"]) in (4, 5) for parts in folds)


def test_order_of_the_planets_does_not_matter():
    assert split_planets(planets(30)) == split_planets(planets(30)[::-1])


def test_each_kind_of_planet_is_held_out_in_its_share():
    kinds = {p.name: (p.tidally_locked, p.surface) for p in planets(240)}
    sizes, held_out = Counter(kinds.values()), Counter(kinds[n] for n in split_planets(planets(240))["heldout"])
    for kind, size in sizes.items():
        assert abs(held_out[kind] - size / 5) <= 1


def test_surface_is_mixed_where_there_is_no_land_mask():
    assert [Planet("", False, f).surface for f in (0.0, 0.009, 0.5, 0.995, float("nan"))] == [
        "aqua",
        "aqua",
        "mixed",
        "land",
        "mixed",
    ]


def test_one_planet_is_for_training():
    assert split_planets(planets(1))["train"] == ("world0",)
