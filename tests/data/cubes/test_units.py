import pytest

from astrojax.data.cubes.units import conversion


@pytest.mark.parametrize(
    ("units", "canonical", "factor", "offset"),
    [
        ("K", "K", 1, 0),
        ("degC", "K", 1, 273.15),
        ("degrees_Celsius", "K", 1, 273.15),
        ("hPa", "Pa", 100, 0),
        ("millibars", "Pa", 100, 0),
        ("%", "1", 0.01, 0),
        ("g kg-1", "1", 1e-3, 0),
        ("g/kg", "1", 1e-3, 0),
        ("m**2 s**-2", "m2 s-2", 1, 0),
        ("W/m^2", "W m-2", 1, 0),
        ("mm day-1", "m s-1", 1e-3 / 86400, 0),
        (None, "1", 1, 0),
        ("", "1", 1, 0),
    ],
)
def test_converts_what_udunits_knows(units, canonical, factor, offset):
    assert conversion(units, canonical) == pytest.approx((factor, offset), rel=1e-11)


@pytest.mark.parametrize(
    ("units", "canonical", "message"),
    [
        ("degrees of heat", "K", "not known to CF"),
        ("unknown", "K", "not known to CF"),
        ("Pa", "K", "cannot be converted to 'K'"),
        ("mm day-1", "kg m-2 s-1", "cannot be converted"),
        ("mb", "Pa", "cannot be converted"),  # The millibarn is an area.
        (None, "K", "cannot be converted"),
    ],
)
def test_refuses_what_cf_does_not_convert(units, canonical, message):
    with pytest.raises(ValueError, match=message):
        conversion(units, canonical)
