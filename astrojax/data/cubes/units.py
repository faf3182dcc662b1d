"""Unit strings as CF defines them: by UDUNITS."""

import functools

import cf_units


@functools.cache
def conversion(units: str | None, canonical: str) -> tuple[float, float]:
    """``(factor, offset)`` such that ``factor * x + offset`` is in ``canonical`` where ``x`` is in ``units``.

    Args:
        units: an attribute ``units``; None or an empty string is a number without unit, as CF has it.
        canonical: what to convert to.

    Raises:
        ValueError: UDUNITS does not know ``units``, or they measure something else.
    """
    known = parse(units)
    if not known.is_convertible(canonical):
        raise ValueError(f"units {units!r} cannot be converted to {canonical!r}")
    zero, one = (known.convert(x, canonical) for x in (0.0, 1.0))
    # 12 digits: 1 degC less 0 degC, in K, is 1 but for the rounding of 273.15.
    return float(f"{one - zero:.12g}"), float(f"{zero:.12g}")


def convertible(units: str | None, canonical: str) -> bool:
    """Whether :func:`conversion` knows how."""
    try:
        conversion(units, canonical)
    except ValueError:
        return False
    return True


def parse(units: str | None) -> cf_units.Unit:
    """``units`` as UDUNITS reads them.

    Raises:
        ValueError: it does not know them.
    """
    try:
        known = cf_units.Unit((units or "").strip() or "1")
    except ValueError:
        known = None
    if known is None or known.is_unknown() or known.is_no_unit():
        raise ValueError(f"units {units!r} are not known to CF (UDUNITS)")
    return known
