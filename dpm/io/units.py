"""What readers of exposure files hand over: a unit is one detector (one chip) of one exposure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from dpm.io.errors import InputError
from dpm.io.wcs import header_wcs
from dpm.models.detectors import Detector
from dpm.models.exposure import ExposureImage

__all__ = ["ExposureUnit", "UnitPixels", "check_image", "footprint"]


@dataclass(frozen=True)
class ExposureUnit:
    """What the headers say about one detector of one exposure.

    Parameters
    ----------
    row : dict
        Columns of ``EXPOSURE_COLUMNS`` that are known before pixels are read.
    detector : Detector
        Entry of the registry.
    version : int
        ``EXTVER`` of its SCI extension.
    ra, dec : float
        Sky position of the array's centre, degrees.
    radius : float
        Half of the array's diagonal, degrees.
    notes : tuple of str
        What should stand in the log.
    """

    row: dict[str, Any]
    detector: Detector
    version: int
    ra: float
    dec: float
    radius: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitPixels:
    """Pixels of one unit.

    Parameters
    ----------
    image : ExposureImage
        Image, noise planes and flags; ``image.saturation`` is set.
    err : ndarray (ny, nx), float32
        The file's own total error, flux unit; NaN where it has none.
    wcs : astropy.wcs.WCS
        Full WCS of the array.
    wcs_source : str
        What the WCS was made from.
    noise_source : str
        What the noise planes were made from.
    wcs_error : float or None
        How far the WCS may be from the pipeline's exact one, pixels; None where nothing says.
    notes : tuple of str
        What should stand in the log.
    """

    image: ExposureImage
    err: NDArray[np.float32]
    wcs: WCS
    wcs_source: str
    noise_source: str
    wcs_error: float | None = None
    notes: tuple[str, ...] = ()


def footprint(path: str | Path, header: fits.Header, shape: tuple[int, int]) -> tuple[float, float, float]:
    """Centre (ra, dec) and half diagonal of an image on the sky, degrees, without distortion."""
    wcs = header_wcs(path, _linear(header))
    ny, nx = shape
    ra, dec = (float(value) for value in wcs.wcs_pix2world(0.5 * (nx - 1), 0.5 * (ny - 1), 0))
    scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    return ra, dec, 0.5 * scale * float(np.hypot(nx, ny))


def _linear(header: fits.Header) -> fits.Header:
    """The few cards of the linear WCS (parsing hundreds of others would dominate the plan)."""
    keys = (
        "WCSAXES",
        "CTYPE",
        "CUNIT",
        "CRPIX",
        "CRVAL",
        "CDELT",
        "LONPOLE",
        "LATPOLE",
        "CD1_",
        "CD2_",
        "PC1_",
        "PC2_",
        "RADESYS",
    )
    short = fits.Header()
    for key in header:
        if key.startswith(keys) and not key[-1].isalpha() or key in ("LONPOLE", "LATPOLE", "RADESYS", "WCSAXES"):
            value = header[key]
            short[key] = value.replace("-SIP", "") if key.startswith("CTYPE") else value
    return short


def check_image(path: str | Path, sci: NDArray[np.float32], bad: NDArray[np.bool_], key: str) -> None:
    """Refuse an image without a single usable pixel.

    Raises
    ------
    InputError
        If all values are NaN, or all pixels are flagged as unusable.
    """
    if not np.isfinite(sci).any():
        raise InputError(
            path,
            key,
            "all pixels are NaN",
            "The calibration failed: take the file out of input.exposures or calibrate it again",
        )
    if bad.all():
        raise InputError(
            path,
            key.replace("SCI", "DQ"),
            "all pixels are flagged as unusable",
            "Take the file out of input.exposures or calibrate it again",
        )
