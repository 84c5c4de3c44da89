"""Parallax factors: the shift of a star at unit parallax, seen from the Earth or from L2."""

from __future__ import annotations

import numpy as np
from astropy.coordinates import get_body_barycentric
from astropy.time import Time
from numpy.typing import NDArray

__all__ = ["parallax_factors"]

Floats = NDArray[np.float64]

# The Sun-Earth L2 point, about which JWST and Gaia move, lies this much further from the Sun; their orbits about it (a few
# thousandths of an astronomical unit) change a parallax by less than half a per cent.
L2 = 1.01


def parallax_factors(ra: NDArray, dec: NDArray, epoch: NDArray, observer: str = "earth") -> Floats:
    """East and North shift (m, 2) for a parallax of one, from the solar system's barycentre.

    Parameters
    ----------
    ra, dec : array_like (m,)
        Degrees.
    epoch : array_like (m,)
        Julian years (TCB).
    observer : {"earth", "l2"}
        HST: ``earth``; JWST, Gaia: ``l2``.
    """
    if observer not in ("earth", "l2"):
        raise ValueError(f"observer {observer!r} is none of earth, l2")
    ra, dec = np.radians(np.asarray(ra, dtype=float)), np.radians(np.asarray(dec, dtype=float))
    times, place = np.unique(np.asarray(epoch, dtype=float), return_inverse=True)
    # The built-in ephemeris is good to 1e-4 of the Earth's distance.
    when = Time(times, format="jyear", scale="tcb")
    earth, sun = (get_body_barycentric(body, when, ephemeris="builtin").xyz.to_value("au") for body in ("earth", "sun"))
    seen = sun + (L2 if observer == "l2" else 1.0) * (earth - sun)
    x, y, z = seen[:, place.ravel()]
    east = x * np.sin(ra) - y * np.cos(ra)
    north = (x * np.cos(ra) + y * np.sin(ra)) * np.sin(dec) - z * np.cos(dec)
    return np.column_stack([east, north])
