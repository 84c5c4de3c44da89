"""Header WCS of one exposure of one detector: stored with its look-up tables in a small FITS file, read back,
evaluated.

Coordinates are raw pixels of the full detector, 0-based, centre of the first pixel at (0, 0); the file's own pixel
origin is in its keywords DPMX0 and DPMY0.  All distortions of the header count: D2IM, SIP and NPOL (CPDIS) tables.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from dpm.io.atomic import replacing
from dpm.io.errors import InputError
from dpm.io.quiet import ignored

__all__ = ["ExposureWcs", "header_wcs", "pixel_area", "read_wcs", "write_wcs"]

_TOLERANCE = 1e-8
_ROUNDS = 60


class ExposureWcs:
    """Sky of one exposure of one detector.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Full WCS of the array in the file.
    x_origin, y_origin : int
        Raw position of that array's first pixel.
    """

    def __init__(self, wcs: WCS, x_origin: int = 0, y_origin: int = 0) -> None:
        self.wcs = wcs
        self.x_origin = int(x_origin)
        self.y_origin = int(y_origin)

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sky positions of raw pixels.

        Parameters
        ----------
        x, y : array_like
            Raw pixels of the full detector, 0-based.

        Returns
        -------
        ra, dec : ndarray
            ICRS degrees, of the inputs' common shape.
        """
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        ra, dec = self.wcs.all_pix2world(x.ravel() - self.x_origin, y.ravel() - self.y_origin, 0)
        return np.asarray(ra).reshape(x.shape), np.asarray(dec).reshape(x.shape)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Raw pixels of sky positions, by iterating on the distortions.

        Parameters
        ----------
        ra, dec : array_like
            ICRS degrees.

        Returns
        -------
        x, y : ndarray
            Raw pixels, 0-based, to 1e-7 pixel; NaN where the iteration does not converge (far outside the detector)
            or the position lies on the other side of the sky.
        """
        ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
        shape = ra.shape
        with np.errstate(invalid="ignore"):
            target_x, target_y = self.wcs.wcs_world2pix(ra.ravel(), dec.ravel(), 0)
        near = self._same_side(ra.ravel(), dec.ravel())
        x, y = np.where(near, target_x, np.nan), np.where(near, target_y, np.nan)
        active = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        previous = np.full(x.shape, np.inf)
        for _ in range(_ROUNDS):
            if not active.size:
                break
            focal_x, focal_y = self.wcs.pix2foc(x[active], y[active], 0)
            step_x, step_y = target_x[active] - focal_x, target_y[active] - focal_y
            size = np.hypot(step_x, step_y)
            good = size < 2.0 * previous[active]
            lost = active[~good]
            x[lost], y[lost] = np.nan, np.nan
            previous[active] = size
            x[active[good]] += step_x[good]
            y[active[good]] += step_y[good]
            active = active[good & (size > _TOLERANCE)]
        x[active], y[active] = np.nan, np.nan
        return x.reshape(shape) + self.x_origin, y.reshape(shape) + self.y_origin

    def _same_side(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether positions lie within 90 degrees of the reference point (a tangent plane also shows the antipodes)."""
        ra0, dec0 = np.radians(self.wcs.wcs.crval[:2])
        ra, dec = np.radians(ra), np.radians(dec)
        return np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0) > 0


def header_wcs(path: str | Path, header: fits.Header, hdulist: fits.HDUList | None = None) -> WCS:
    """WCS of an image header with its look-up tables.

    Parameters
    ----------
    path : str or Path
        File, for messages.
    header : Header
        Header of the SCI extension.
    hdulist : HDUList, optional
        The open file, for the tables; without it they are left out.

    Raises
    ------
    InputError
        If the header has no celestial WCS or names tables that the file lacks.
    """
    header = header.copy()
    if "CD1_1" in header:
        for key in [key for key in header if key.startswith("PC") and "_" in key]:
            del header[key]
    for key in ("CTYPE1", "CTYPE2", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2"):
        if key not in header:
            raise InputError(
                path,
                key,
                "the keyword is missing from the SCI header",
                "A celestial WCS is needed: use a product of the standard pipeline",
            )
    if hdulist is None:
        for key in [key for key in header if key.startswith(("D2IM", "CPDIS", "CPERR", "DP1", "DP2"))]:
            del header[key]
    try:
        with ignored(AstropyWarning):
            wcs = WCS(header, fobj=hdulist, naxis=2)
    except (ValueError, KeyError, TypeError, MemoryError, AssertionError) as error:
        raise InputError(
            path,
            "CTYPE1",
            f"the WCS cannot be read ({error})",
            "Run updatewcs, or use a product of the standard pipeline",
        ) from error
    if not wcs.has_celestial:
        raise InputError(
            path,
            "CTYPE1",
            f"the WCS {header['CTYPE1']!r}, {header['CTYPE2']!r} is not celestial",
            "Use an image with right ascension and declination",
        )
    if abs(np.linalg.det(wcs.pixel_scale_matrix)) == 0:
        raise InputError(path, "CD1_1", "the WCS matrix is singular", "Correct the header")
    return wcs


def write_wcs(path: str | Path, wcs: WCS, x_origin: int, y_origin: int, source: str) -> None:
    """Store a WCS with its tables, atomically.

    Parameters
    ----------
    path : str or Path
        File to write.
    wcs : astropy.wcs.WCS
        Full WCS of the array in the exposure's file.
    x_origin, y_origin : int
        Raw 0-based position of that array's first pixel (keywords DPMX0, DPMY0).
    source : str
        What the WCS was made from (keyword DPMWCS).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ignored(AstropyWarning), replacing(path) as temporary:
        hdulist = wcs.to_fits(relax=True)
        header = hdulist[0].header
        header["DPMX0"] = (int(x_origin), "raw column of the array's first pixel, 0-based")
        header["DPMY0"] = (int(y_origin), "raw row of the array's first pixel, 0-based")
        header["DPMWCS"] = (source, "what the WCS was made from")
        hdulist.writeto(temporary)


def read_wcs(path: str | Path) -> ExposureWcs:
    """Read a WCS stored by `write_wcs`.

    Raises
    ------
    InputError
        If the file is missing or not one of `write_wcs`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "DPMX0", "the stored WCS is missing", "Run the ingest stage again")
    with fits.open(path, memmap=False) as hdulist:
        header = hdulist[0].header
        if "DPMX0" not in header or "DPMY0" not in header:
            raise InputError(path, "DPMX0", "not a WCS stored by dpm", "Run the ingest stage again")
        wcs = header_wcs(path, header, hdulist)
        return ExposureWcs(wcs, header["DPMX0"], header["DPMY0"])


def pixel_area(wcs: WCS, shape: tuple[int, int], pixel_scale: float, step: int = 32) -> NDArray[np.float32]:
    """Sky area of every pixel over the nominal one, from the Jacobian of the WCS on a grid.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Full WCS of the array.
    shape : tuple of int
        (ny, nx).
    pixel_scale : float
        Nominal scale, arcsec.
    step : int
        Grid spacing in pixels; finer structure (single columns of D2IM) is smoothed out on purpose, since it moves
        pixel edges, and flat fields have taken its effect on the light out already.

    Returns
    -------
    ndarray (ny, nx), float32
        1 where a pixel has the nominal area.
    """
    ny, nx = shape
    xs = np.linspace(0, nx - 1, max(2, -(-nx // step) + 1))
    ys = np.linspace(0, ny - 1, max(2, -(-ny // step) + 1))
    gx, gy = (grid.ravel() for grid in np.meshgrid(xs, ys))
    half = 0.25 * step

    def sky(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ra, dec = wcs.all_pix2world(x, y, 0)
        return np.asarray(ra), np.asarray(dec)

    (ra_e, dec_e), (ra_w, dec_w) = sky(gx + half, gy), sky(gx - half, gy)
    (ra_n, dec_n), (ra_s, dec_s) = sky(gx, gy + half), sky(gx, gy - half)
    cos_dec = np.cos(np.radians(0.5 * (dec_e + dec_w)))
    along_x = (_turn(ra_e - ra_w) * cos_dec, dec_e - dec_w)
    along_y = (_turn(ra_n - ra_s) * cos_dec, dec_n - dec_s)
    determinant = np.abs(along_x[0] * along_y[1] - along_x[1] * along_y[0]) / (2.0 * half) ** 2
    grid = (determinant * (3600.0 / pixel_scale) ** 2).reshape(ys.size, xs.size)
    return _interpolation(ny, ys) @ grid.astype(np.float32) @ _interpolation(nx, xs).T


def _turn(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences of right ascension brought to within 180 degrees of zero."""
    return (difference + 180.0) % 360.0 - 180.0


def _interpolation(length: int, nodes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Matrix (length, nodes) of linear interpolation at 0 .. length - 1."""
    position = np.interp(np.arange(length), nodes, np.arange(nodes.size))
    left = np.floor(position).astype(int).clip(max=nodes.size - 2)
    weight = (position - left).astype(np.float32)
    matrix = np.zeros((length, nodes.size), dtype=np.float32)
    matrix[np.arange(length), left] = 1.0 - weight
    matrix[np.arange(length), left + 1] += weight
    return matrix
