"""A JWST exposure's exact GWCS (in its ASDF extension) as a TAN-SIP WCS of fifth degree; needs the ``gwcs`` extra.

The header's own SIP is good to a tenth of a pixel only (its SIPMXERR); the fit here says how well it does.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

from dpm.io.errors import InputError
from dpm.io.fits_files import MOST_BYTES
from dpm.io.quiet import ignored

__all__ = ["fit_gwcs"]

_DEGREE = 5
_NODES = 48
_BLOCK = b"\xd3BLK"


def fit_gwcs(
    path: str | Path, hdulist: fits.HDUList, shape: tuple[int, int], cut: tuple[int, int]
) -> tuple[WCS, float] | None:
    """TAN-SIP approximation of a file's GWCS.

    Parameters
    ----------
    path : str or Path
        The file, for messages.
    hdulist : HDUList
        The open file.
    shape : tuple of int
        (ny, nx) of the array.
    cut : tuple of int
        (x, y) of the array's first pixel in the frame that the GWCS is for; (0, 0) unless the file is a cut-out.

    Returns
    -------
    wcs : astropy.wcs.WCS
        For 0-based pixels of the array.
    error : float
        Largest distance to the GWCS between the fitted nodes, pixels.
        None in place of both if the file has no GWCS.

    Raises
    ------
    InputError
        If the extra is not installed or the extension cannot be read.
    """
    if "ASDF" not in hdulist:
        return None
    content = np.asarray(hdulist["ASDF"].data)[0][0].tobytes()
    _check_blocks(path, content)
    try:
        import asdf
        import gwcs  # noqa: F401
    except ImportError:
        raise InputError(
            path,
            "input.gwcs",
            "the packages gwcs and asdf are not installed",
            "pip install 'dpm-photometry[gwcs]', or set input.gwcs = false",
        ) from None
    with ignored(Warning):
        try:
            with asdf.open(io.BytesIO(content), memmap=False, lazy_load=False) as tree:
                transform = tree["meta"]["wcs"]
                return _fit(transform, shape, cut)
        except (KeyError, TypeError, ValueError, OSError, AttributeError, RuntimeError) as error:
            raise InputError(
                path, "ASDF", f"the GWCS cannot be read ({error})", "Set input.gwcs = false to use the header's WCS"
            ) from error


def _check_blocks(path: str | Path, content: bytes) -> None:
    """See that the binary blocks of ASDF content do not unpack to more than any exposure has (ASDF 1.6, section "Blocks").

    Raises
    ------
    InputError
        If they declare more than `MOST_BYTES`.
    """
    at, declared = content.find(_BLOCK), 0
    while at >= 0 and content.startswith(_BLOCK, at) and at + 50 <= len(content):
        header, allocated, size = *struct.unpack_from(">H", content, at + 4), *struct.unpack_from(">Q8xQ", content, at + 14)
        declared += size
        at += 6 + header + allocated
    if declared > MOST_BYTES:
        raise InputError(path, "ASDF", f"its blocks declare {declared / 1e9:.3g} GB", "Set input.gwcs = false")


def _fit(transform: Any, shape: tuple[int, int], cut: tuple[int, int]) -> tuple[WCS, float]:
    """Least squares of the tangent-plane positions on a grid in powers of the pixel offsets from the centre."""
    ny, nx = shape
    centre = np.array([0.5 * (nx - 1), 0.5 * (ny - 1)])
    half = max(nx, ny) / 2.0
    sky0 = [float(value) for value in transform(centre[0] + cut[0], centre[1] + cut[1], with_bounding_box=False)]

    def planes(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sky = transform(x + cut[0], y + cut[1], with_bounding_box=False)
        return _tangent(np.asarray(sky[0]), np.asarray(sky[1]), sky0[0], sky0[1])

    x, y = _grid(nx, ny, _NODES)
    xi, eta = planes(x, y)
    u, v = (x - centre[0]) / half, (y - centre[1]) / half
    powers = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    design = np.stack([u**i * v**j for i, j in powers], axis=1)
    solution, *_ = np.linalg.lstsq(design, np.stack([xi, eta], axis=1), rcond=None)
    linear = np.array([[solution[powers.index(p), axis] for p in ((1, 0), (0, 1))] for axis in (0, 1)]) / half
    inverse = np.linalg.inv(linear)
    coefficients = np.zeros((2, _DEGREE + 1, _DEGREE + 1))
    for (i, j), value in zip(powers, solution):
        if (i, j) not in ((1, 0), (0, 1)):
            coefficients[:, i, j] = inverse @ value / half ** (i + j)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crpix = centre + 1.0
    wcs.wcs.crval = sky0
    wcs.wcs.cd = linear
    wcs.wcs.radesys = "ICRS"
    wcs.sip = Sip(coefficients[0], coefficients[1], None, None, centre + 1.0)
    wcs.wcs.set()
    x, y = _grid(nx, ny, _NODES + 13)
    ra, dec = wcs.all_pix2world(x, y, 0)
    difference = np.stack(_tangent(np.asarray(ra), np.asarray(dec), *sky0)) - np.stack(planes(x, y))
    return wcs, float(np.hypot(*(inverse @ difference)).max())


def _grid(nx: int, ny: int, nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels of a regular grid from edge to edge."""
    x, y = np.meshgrid(np.linspace(-0.5, nx - 0.5, nodes), np.linspace(-0.5, ny - 0.5, nodes))
    return x.ravel(), y.ravel()


def _tangent(
    ra: NDArray[np.float64], dec: NDArray[np.float64], ra0: float, dec0: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gnomonic projection about (ra0, dec0); all in degrees."""
    delta, d, d0 = np.radians(ra - ra0), np.radians(dec), np.radians(dec0)
    cosine = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(delta)
    xi = np.cos(d) * np.sin(delta) / cosine
    eta = (np.sin(d) * np.cos(d0) - np.cos(d) * np.sin(d0) * np.cos(delta)) / cosine
    return np.degrees(xi), np.degrees(eta)
