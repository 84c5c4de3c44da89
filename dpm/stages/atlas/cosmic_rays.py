"""Cosmic rays: pixels of an exposure that the median of all exposures does not explain (as in drizzlepac's driz_cr)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates, spline_filter

__all__ = ["combine_median", "outliers", "predict"]

Images = NDArray[np.float32]
Mask = NDArray[np.bool_]

# First look at every pixel, then, with lower limits, at the neighbours of those found: times the noise, and times the largest
# difference to a neighbouring pixel in the median, which stands for what resampling leaves of the cores of stars that the catalogue
# lacks, and of galaxies.
SIGMA, GRADIENT = (4.0, 3.0), (1.2, 0.7)
MODEL_ERROR = 0.1  # of the light of the catalogue's stars: what their ePSF may err by in a pixel
# Two exposures' common value is the lower one, where such a core may be lower by its pixel phase: more is allowed.
FEW, FEW_GRADIENT = 3, (2.0, 1.2)
# Two of three exposures hit at the same place: the middle one lies above the lowest by more than this part of it and its noise.
MINIMUM_SIGMA, MINIMUM_SHARE = 5.0, 0.7
EDGE = 2  # pixels about places without a median where splines ring


def combine_median(images: Images, noise: NDArray[np.float64]) -> tuple[Images, NDArray[np.int16]]:
    """Median of images on one grid; the lower one of two, and the lowest of three where the middle one must be hit too.

    Parameters
    ----------
    images : ndarray (n, ny, nx), float32
        NaN where an image has no value.
    noise : ndarray (n,)
        Standard deviation of each image's sky.

    Returns
    -------
    median : ndarray (ny, nx), float32
        NaN where no image has a value.
    count : ndarray (ny, nx), int16
        Images with a value.
    """
    count = np.isfinite(images).sum(axis=0).astype(np.int16)
    order = np.sort(images, axis=0)  # NaN last

    def ranked(rank: NDArray) -> Images:
        return np.take_along_axis(order, np.clip(rank, 0, len(images) - 1)[None].astype(np.intp), axis=0)[0]

    lower, upper = ranked((count - 1) // 2), ranked(np.where(count > FEW, count // 2, (count - 1) // 2))
    median = 0.5 * (lower + upper)
    lowest = order[0]
    with np.errstate(invalid="ignore"):
        hit = (count == FEW) & (median - lowest > MINIMUM_SIGMA * np.median(noise) + MINIMUM_SHARE * np.maximum(lowest, 0.0))
    return np.where(hit, lowest, median), count


def predict(median: Images, count: NDArray[np.int16], x: NDArray, y: NDArray) -> tuple[Images, NDArray[np.int16]]:
    """The median at positions on its grid, and how many images it rests on there; NaN and 0 where it cannot tell.

    Parameters
    ----------
    median : ndarray (ny, nx), float32
    count : ndarray (ny, nx), int16
    x, y : ndarray
        Positions, 0-based, the first pixel's centre at 0.
    """
    there = np.isfinite(median)
    inner = ~binary_dilation(~there, iterations=EDGE) if not there.all() else there
    splines = spline_filter(np.where(there, median, np.float32(0.0)), order=3, mode="mirror", output=np.float32)
    place = np.array([y, x])
    value = map_coordinates(splines, place, order=3, mode="mirror", prefilter=False)
    number = map_coordinates(np.where(inner, count, 0), place, order=0, mode="constant", cval=0)
    return np.where(number > 0, value, np.float32(np.nan)), number.astype(np.int16)


def outliers(
    value: Images, good: Mask, expected: Images, count: NDArray[np.int16], variance: Images, stars: Images
) -> Mask:
    """Good pixels that are far from what all exposures say.

    Parameters
    ----------
    value : ndarray (ny, nx), float32
        An exposure without the catalogue's stars.
    good : ndarray (ny, nx), bool
    expected, count : ndarray (ny, nx)
        Of `predict`; where fewer than two exposures tell, nothing is rejected.
    variance : ndarray (ny, nx), float32
        Of ``value``.
    stars : ndarray (ny, nx), float32
        What was subtracted.

    Returns
    -------
    ndarray (ny, nx), bool
    """
    told = good & (count > 1) & np.isfinite(expected)
    known = np.where(np.isfinite(expected), expected, np.float32(0.0))
    steep = np.zeros_like(known)
    for axis in (0, 1):
        step = np.abs(np.diff(known, axis=axis))
        for end in ((1, 0), (0, 1)):
            padding = [(0, 0), (0, 0)]
            padding[axis] = end
            np.maximum(steep, np.pad(step, padding), out=steep)
    # The median of n values errs as well, by sqrt(pi / 2 n) of one's noise.
    sigma = np.sqrt(np.where(told, variance, 0.0) * (1.0 + 0.5 * np.pi / np.maximum(count, 1)))
    off = np.abs(np.where(told, value - known, 0.0))
    few = count <= FEW
    found = told
    for turn in range(2):
        gradient = np.where(few, FEW_GRADIENT[turn], GRADIENT[turn])
        over = told & (off > SIGMA[turn] * sigma + gradient * steep + MODEL_ERROR * np.abs(stars))
        found = over if turn == 0 else found | (over & binary_dilation(found, np.ones((3, 3), bool)))
    return np.asarray(found)
