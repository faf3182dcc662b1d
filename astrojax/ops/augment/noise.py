"""Normal variates that depend on a key and a position alone, in operations that every backend has.

The reference and the kernels call these same functions, so one key gives one noise, whatever computes it. They use
32-bit integers without their high products and neither sine nor cosine: XLA's CPU backend calls a scalar ``cosf``
(5 ns a value), Mosaic has no 64-bit integers.

Source: the mixer is ``lowbias32`` (C. Wellons, hash-prospector, public domain); Box and Muller 1958 for the variates.
"""

import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, UInt32

# 2**32 over the golden ratio: half of its bits are set.
_GOLDEN = np.uint32(0x9E3779B9)


def stream_key(words: UInt32[Array, "*n 2"], stream: UInt32[Array, "*n"]) -> UInt32[Array, "*n 2"]:
    """The key of one of the streams of variates of a sample."""
    first = _mix(_mix(words[..., 0] ^ stream) ^ words[..., 1])
    return jnp.stack([first, _mix(_mix(words[..., 1] ^ stream ^ _GOLDEN) ^ first)], axis=-1)


def position(shape: tuple[int, ...], ct, gt, lev, lat, lon) -> UInt32[Array, "*n"]:
    """The number of a pair of cells ``(lat, lon)`` and ``(num_lat - 1 - lat, lon)``, which share two words.

    Args:
        shape: numbers of climate times, geological times, levels, latitudes and longitudes.
        ct: climate time.
        gt: geological time.
        lev: level.
        lat: latitude in the first half, of ``(num_lat + 1) // 2`` rows.
        lon: longitude.
    """
    _, num_gt, num_lev, num_lat, num_lon = shape
    number = (((ct * num_gt + gt) * num_lev + lev) * ((num_lat + 1) // 2) + lat) * num_lon + lon
    return number.astype(jnp.uint32)


def mixed(number: UInt32[Array, "*n"], key: tuple[UInt32[Array, ""], UInt32[Array, ""]]) -> UInt32[Array, "*n"]:
    """What both words of a number are made from: the first keyed round of the mixer, and the key of the second."""
    return _mix(number ^ key[0]) ^ key[1]


def words(mixed: UInt32[Array, "*n"]) -> tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]]:
    """The two words of a number. For one key either is a permutation of the numbers: no word comes twice."""
    return _mix(mixed), _mix(mixed ^ _GOLDEN)


def radius(word: UInt32[Array, "*n"]) -> Float[Array, "*n"]:
    """``sqrt(-log(u))`` for the odd multiple ``u`` of 2**-24 in (0, 1) that the word holds.

    It is at most 4.08: the normal variates reach 5.77 standard deviations.
    """
    odd = ((word >> np.uint32(8)) | np.uint32(1)).astype(jnp.int32)
    return jnp.sqrt(-jnp.log(odd.astype(jnp.float32) * np.float32(2.0**-24)))


def variate(radius: Float[Array, "*n"], word: UInt32[Array, "*n"], which: int) -> Float[Array, "*n"]:
    """The first (``which = 0``) or the second (1) of a pair of normal variates.

    They are ``sqrt(2) r cos(t)`` and ``sqrt(2) r sin(t)``. The upper 24 bits of the word are the angle from the middle
    of the first quadrant, ``a = t - pi / 4`` in [-pi / 4, pi / 4): ``sqrt(2) cos(t) = cos(a) - sin(a)`` and
    ``sqrt(2) sin(t) = cos(a) + sin(a)``. The lowest two bits are the signs.
    """
    a = (word.astype(jnp.int32) >> np.int32(8)).astype(jnp.float32) * np.float32(np.pi / 4 * 2.0**-23)
    square = a * a
    # Taylor series: the first terms left out are below 4e-7 and 3e-8.
    sine = a * (1 + square * (-1 / 6 + square * (1 / 120 - square / 5040)))
    cosine = 1 + square * (-1 / 2 + square * (1 / 24 + square * (-1 / 720 + square / 40320)))
    value = radius * (cosine + sine if which else cosine - sine)
    sign = (word << np.uint32(31 - which)) & np.uint32(0x80000000)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(value, jnp.uint32) ^ sign, jnp.float32)


def _mix(x):
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
