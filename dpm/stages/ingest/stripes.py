"""Optional removal of 1/f stripes: clipped medians of source-free residuals along the fast readout direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.models.detectors import Detector
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.noise import block_median, smooth_plane
from dpm.models.statistics import MAD_TO_SIGMA, robust_width

__all__ = ["measure_stripes"]

_ROUNDS = 2
_SOURCE_SIGMA = 3.0
_MARGIN = 3
_LEAST_FRACTION = 0.1
_CLIP = 3.0


def measure_stripes(image: ExposureImage, detector: Detector) -> NDArray[np.float32]:
    """The stripes of an exposure, to be subtracted.

    Each line of each amplifier gets the median of its residuals to a smooth sky, sources masked and outliers clipped.
    Sources are found again on the first round's result, where the noise is lower.  Lines with hardly any sky take the
    median of the whole line, or none.

    Parameters
    ----------
    image : ExposureImage
        The exposure.
    detector : Detector
        Says along which axis stripes run, and how many amplifiers lie side by side in a full frame.

    Returns
    -------
    ndarray (ny, nx), float32
        Stripes in the image's flux unit, with zero median.
    """
    turn = detector.stripe_axis == 2
    sci = image.sci.T if turn else image.sci
    usable = ((image.dq & PixelFlag.BAD) == 0) & np.isfinite(image.sci)
    good = usable.T if turn else usable
    full = image.shape == (detector.ny, detector.nx)
    segments = np.array_split(np.arange(sci.shape[1]), detector.amplifiers if full else 1)
    stripes = np.zeros(sci.shape, dtype=np.float32)
    for _ in range(_ROUNDS):
        clean = np.where(good, sci - stripes, 0.0).astype(np.float32)
        residual, sky_pixels = _sky_residual(clean, good)
        whole = _line_medians(residual + stripes, sky_pixels)
        whole = np.where(np.isfinite(whole), whole, 0.0)
        new = np.empty_like(stripes)
        for columns in segments:
            part = slice(columns[0], columns[-1] + 1)
            medians = _line_medians((residual + stripes)[:, part], sky_pixels[:, part])
            new[:, part] = np.where(np.isfinite(medians), medians, whole)[:, None]
        stripes = new - np.float32(np.median(new))
    return np.ascontiguousarray(stripes.T if turn else stripes)


def _sky_residual(clean: NDArray[np.float32], good: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image minus a smooth sky, and the pixels that belong to the sky."""
    grid, _ = block_median(clean, good)
    if not np.isfinite(grid).any():
        return np.zeros_like(clean), np.zeros_like(good)
    sky = smooth_plane(ndimage.median_filter(np.where(np.isfinite(grid), grid, np.nanmedian(grid)), 3), clean.shape)
    residual = np.where(good, clean - sky, 0.0).astype(np.float32)
    weight = ndimage.uniform_filter(good.astype(np.float32), 3)
    smooth = ndimage.uniform_filter(residual, 3) / np.maximum(weight, 0.1)
    sigma = robust_width(smooth[good], 0.0)
    single = robust_width(residual[good], 0.0)
    source = (np.abs(smooth) > _SOURCE_SIGMA * sigma) | (np.abs(residual) > 2.0 * _SOURCE_SIGMA * single)
    source = ndimage.binary_opening(source, iterations=1) | (np.abs(residual) > 2.0 * _SOURCE_SIGMA * single)
    return residual, good & ~ndimage.binary_dilation(source, iterations=_MARGIN)


def _line_medians(values: NDArray[np.float32], use: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Clipped median of each line's chosen pixels; NaN where fewer than a tenth are chosen."""
    lines = np.where(use, values, np.nan).astype(np.float32)
    enough = use.sum(axis=1) >= max(_LEAST_FRACTION * values.shape[1], 10)
    middle = _row_median(lines)
    spread = MAD_TO_SIGMA * _row_median(np.abs(lines - middle[:, None]))
    lines[np.abs(lines - middle[:, None]) > _CLIP * spread[:, None]] = np.nan
    return np.where(enough, _row_median(lines), np.nan).astype(np.float32)


def _row_median(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of each row without its NaNs (zero for empty rows)."""
    ordered = np.sort(lines, axis=1)
    counts = np.isfinite(lines).sum(axis=1)
    rows = np.arange(lines.shape[0])
    low = ordered[rows, np.maximum(counts - 1, 0) // 2]
    high = ordered[rows, np.minimum(counts // 2, lines.shape[1] - 1)]
    median = np.where(counts % 2 == 1, low, 0.5 * (low + high))
    return np.where(counts > 0, median, 0.0).astype(np.float32)
