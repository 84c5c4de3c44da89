"""The master frame: a tangent plane with North up and East left, where x grows to the West (DESIGN section 4).

Pixels are 0-based.  The projection is the gnomonic one (``TAN``), done here for whole arrays without astropy's WCS; the
`MasterFrame.wcs` is the same frame for everybody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

__all__ = ["MasterFrame", "sky_to_tangent", "tangent_to_sky"]

Floats = NDArray[np.float64]
ARCSEC = 3600.0


def sky_to_tangent(ra: ArrayLike, dec: ArrayLike, ra0: float, dec0: float) -> tuple[Floats, Floats]:
    """Gnomonic projection.

    Parameters
    ----------
    ra, dec : array_like
        Degrees.
    ra0, dec0 : float
        Tangent point, degrees.

    Returns
    -------
    xi, eta : ndarray
        Arcseconds on the tangent plane to the East and to the North; NaN on the far half of the sky.
    """
    delta = np.radians(np.asarray(ra, dtype=float) - ra0)
    dec_radians, dec0_radians = np.radians(np.asarray(dec, dtype=float)), np.radians(dec0)
    sin_dec, cos_dec, sin0, cos0 = np.sin(dec_radians), np.cos(dec_radians), np.sin(dec0_radians), np.cos(dec0_radians)
    depth = sin_dec * sin0 + cos_dec * cos0 * np.cos(delta)
    depth = np.where(depth > 1e-6, depth, np.nan)
    xi = cos_dec * np.sin(delta) / depth
    # sin(dec) cos0 - cos(dec) sin0 cos(delta), rewritten so that small offsets keep all their digits
    eta = (np.sin(dec_radians - dec0_radians) + 2 * cos_dec * sin0 * np.sin(0.5 * delta) ** 2) / depth
    return np.degrees(xi) * ARCSEC, np.degrees(eta) * ARCSEC


def tangent_to_sky(xi: ArrayLike, eta: ArrayLike, ra0: float, dec0: float) -> tuple[Floats, Floats]:
    """Inverse of `sky_to_tangent`: ``ra`` in [0, 360) and ``dec``, degrees."""
    x = np.radians(np.asarray(xi, dtype=float) / ARCSEC)
    y = np.radians(np.asarray(eta, dtype=float) / ARCSEC)
    sin0, cos0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    depth = cos0 - y * sin0
    ra = (ra0 + np.degrees(np.arctan2(x, depth))) % 360.0
    dec = np.degrees(np.arctan2(sin0 + y * cos0, np.hypot(x, depth)))
    return ra, dec


@dataclass(frozen=True)
class MasterFrame:
    """A tangent plane with pixels.

    Parameters
    ----------
    ra0, dec0 : float
        Tangent point, degrees (ICRS).
    scale : float
        Arcseconds per pixel.
    x0, y0 : float
        Pixel (0-based) of the tangent point.
    nx, ny : int
        Pixels that hold the field; positions may lie outside.
    """

    ra0: float
    dec0: float
    scale: float
    x0: float = 0.0
    y0: float = 0.0
    nx: int = 1
    ny: int = 1

    @classmethod
    def around(cls, ra: ArrayLike, dec: ArrayLike, scale: float, margin: float = 10.0) -> MasterFrame:
        """The frame that holds these positions.

        Parameters
        ----------
        ra, dec : array_like
            Degrees; the corners of the exposures, say.
        scale : float
            Arcseconds per pixel.
        margin : float
            Empty border, arcseconds.
        """
        ra, dec = np.radians(np.asarray(ra, dtype=float).ravel()), np.radians(np.asarray(dec, dtype=float).ravel())
        vector = np.array([np.mean(np.cos(dec) * np.cos(ra)), np.mean(np.cos(dec) * np.sin(ra)), np.mean(np.sin(dec))])
        # rounded so that the frame does not depend on the order of the sum
        ra0 = round(float(np.degrees(np.arctan2(vector[1], vector[0]))) % 360.0, 7)
        dec0 = round(float(np.degrees(np.arctan2(vector[2], np.hypot(vector[0], vector[1])))), 7)
        xi, eta = sky_to_tangent(np.degrees(ra), np.degrees(dec), ra0, dec0)
        west, east = (np.nanmin(-xi) - margin) / scale, (np.nanmax(-xi) + margin) / scale
        south, north = (np.nanmin(eta) - margin) / scale, (np.nanmax(eta) + margin) / scale
        x0, y0 = float(np.ceil(-west)), float(np.ceil(-south))
        return cls(ra0, dec0, scale, x0, y0, int(np.ceil(east + x0)) + 1, int(np.ceil(north + y0)) + 1)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
        """Pixel positions (0-based) of sky positions in degrees."""
        xi, eta = sky_to_tangent(ra, dec, self.ra0, self.dec0)
        return self.x0 - xi / self.scale, self.y0 + eta / self.scale

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Sky positions in degrees of pixel positions (0-based)."""
        xi = (self.x0 - np.asarray(x, dtype=float)) * self.scale
        return tangent_to_sky(xi, (np.asarray(y, dtype=float) - self.y0) * self.scale, self.ra0, self.dec0)

    def sky_steps(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Milliarcseconds to the East (with cos dec) and to the North for a pixel along x and y: (n, 2, 2), [sky axis, pixel axis].

        North turns across a tangent plane, so that the steps differ from place to place.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        out = np.empty((len(x), 2, 2))
        for axis, (dx, dy) in enumerate(((0.5, 0.0), (0.0, 0.5))):
            (ra1, dec1), (ra0, dec0) = self.pixel_to_sky(x + dx, y + dy), self.pixel_to_sky(x - dx, y - dy)
            out[:, 0, axis] = ((ra1 - ra0 + 180.0) % 360.0 - 180.0) * np.cos(np.radians(0.5 * (dec0 + dec1)))
            out[:, 1, axis] = dec1 - dec0
        return out * (1000 * ARCSEC)

    @property
    def wcs(self) -> WCS:
        """The same frame as an astropy WCS (its ``pixel_to_world`` is 0-based as ours)."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = [self.ra0, self.dec0]
        wcs.wcs.crpix = [self.x0 + 1, self.y0 + 1]
        wcs.wcs.cdelt = [-self.scale / ARCSEC, self.scale / ARCSEC]
        wcs.wcs.radesys = "ICRS"
        wcs.pixel_shape = (self.nx, self.ny)
        return wcs

    def to_meta(self) -> dict[str, float | int]:
        """Plain values for a table's metadata; `from_meta` reads them back."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> MasterFrame:
        """The frame that `to_meta` described."""
        return cls(**{name: meta[name] for name in ("ra0", "dec0", "scale", "x0", "y0", "nx", "ny")})
