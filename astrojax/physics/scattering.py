"""How much of a star's light a clear atmosphere sends back."""

import numpy as np

# Second radiation constant in micrometres times kelvins. CODATA 2018.
_C2 = 14387.76877
# kg m-2, the column of Earth's standard atmosphere.
_STANDARD_COLUMN = 101_325 / 9.80665
# micrometres. Less than a thousandth of the light of a star of 2000 to 10,000 K lies beyond.
_WAVELENGTHS = np.geomspace(0.1, 60, 400)


def rayleigh_optical_depth(wavelength, column):
    """Of air at ``wavelength`` in micrometres, vertically through ``column`` kg m-2 (Hansen and Travis 1974, Space
    Science Reviews 16, 527, equation 2.30)."""
    squared = np.square(wavelength)
    thickness = 0.008569 / squared**2 * (1 + 0.0113 / squared + 0.00013 / squared**2)
    return thickness * column / _STANDARD_COLUMN


def scattered_share(stellar_temperature, column):
    """The share of a black body's light that air alone would scatter back to space: that of diffuse light over a dark
    ground in Eddington's two streams (Meador and Weaver 1980, J. Atmos. Sci. 37, 630), averaged over the spectrum.

    Args:
        stellar_temperature: K.
        column: kg m-2, surface pressure over gravity.
    """
    temperature, column = np.asarray(stellar_temperature)[..., None], np.asarray(column)[..., None]
    # Planck's law, per unit of the wavelength's logarithm.
    with np.errstate(over="ignore"):  # There is no light where the exponential is beyond numbers.
        light = _WAVELENGTHS**-4 / np.expm1(_C2 / (_WAVELENGTHS * temperature))
    path = 0.75 * rayleigh_optical_depth(_WAVELENGTHS, column)
    return np.sum(light * path / (1 + path), axis=-1) / np.sum(light, axis=-1)
