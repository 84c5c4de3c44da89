"""Noise planes from what calibrated files say about their errors (DESIGN section 4).

A pixel's variance is ``k model + var_read + flat_variance model^2``.  The functions here find k, ``var_read`` and
``flat_variance`` as smooth, robust planes, so that the scatter of faint pixels does not come back as scatter of
weights. All arrays are ``[y, x]``; variances are in (flux unit)^2, k in the flux unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "block_median",
    "ramp_read_factor",
    "ramp_shot_factor",
    "round_mantissa",
    "saturation_level",
    "smooth_plane",
    "split_error",
    "variance_ratio",
]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Side of a block (pixels): amplifiers, shading and flats vary over hundreds of pixels, and the median of 4,096 values is good to
# 2 % of their scatter.
BLOCK = 64
# Fewest pixels for a median: its error is then 0.28 of their scatter.
MIN_PIXELS = 20
# Sigma; above it the noise of the light skews a ratio by less than 1/25.
BRIGHT_SIGMA = 5.0
# Sigma above the median within which a pixel shows the variance without light: stars beyond it add more than they tell.
FAINT_SIGMA = 3.0
# Pixels that tell the growth of the variance with light: the brightest hundredth where they are at least three times the median
# light, the brightest tenth where fewer than five are.
BRIGHT_QUANTILE = 0.99
BRIGHT_RATIO = 3.0
FEW_BRIGHT = 5
WIDER_QUANTILE = 0.9
# Pixels of the middle: their light is within this part of the median light.
MIDDLE = 0.5
# Rounds between the level of the middle and the slope of the bright ones, and the relative change that ends them.
SLOPE_ROUNDS = 50
SLOPE_CONVERGED = 1e-6
# Quantile of the saturated pixels' values that is the level.  Full wells differ over a chip (WFC3/UVIS: 63,465 to 72,356 e-, WFC3
# ISR 2025-06; ACS/WFC: 84,700 e- and a tenth of variation, ACS Instrument Handbook, table 4.1), so it is that of the shallow ones;
# the lowest value of all may be a pixel that a reference file flags.
SATURATED_QUANTILE = 0.02
# Quantile of their unflagged neighbours' values where the values themselves are lost.
NEIGHBOR_QUANTILE = 0.9


def _cells(array: NDArray, block: int, fill: float | bool) -> NDArray:
    """Array cut into square blocks: shape (rows of blocks, columns of blocks, block * block), short edges filled."""
    ny, nx = array.shape
    rows, columns = -(-ny // block), -(-nx // block)
    padded = np.full((rows * block, columns * block), fill, dtype=array.dtype)
    padded[:ny, :nx] = array
    return padded.reshape(rows, block, columns, block).swapaxes(1, 2).reshape(rows, columns, block * block)


def block_median(
    values: NDArray, good: Mask, block: int = BLOCK, min_pixels: int = MIN_PIXELS
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Median of the good pixels of each square block.

    Parameters
    ----------
    values : ndarray (ny, nx)
        Pixel values.
    good : ndarray of bool (ny, nx)
        Pixels to use.
    block : int
        Side of a block, pixels.
    min_pixels : int
        Blocks with fewer good pixels get NaN.

    Returns
    -------
    medians : ndarray (rows, columns), float64
        One value a block.
    counts : ndarray (rows, columns), int64
        Good pixels in each block.
    """
    cells = _cells(np.where(good, values, np.nan).astype(np.float32), block, np.nan)
    cells.sort(axis=2)
    counts = np.isfinite(cells).sum(axis=2)
    middle = np.maximum(counts - 1, 0)
    low = np.take_along_axis(cells, (middle // 2)[..., None], axis=2)[..., 0]
    high = np.take_along_axis(cells, (counts // 2).clip(max=cells.shape[2] - 1)[..., None], axis=2)[..., 0]
    high = np.where(counts % 2 == 1, low, high)
    medians = 0.5 * (low.astype(np.float64) + high)
    medians[counts < max(min_pixels, 1)] = np.nan
    return medians, counts


def smooth_plane(grid: NDArray[np.float64], shape: tuple[int, int], block: int = BLOCK) -> Array:
    """Block values spread bilinearly over the pixels; blocks without a value take the median of the others.

    Parameters
    ----------
    grid : ndarray (rows, columns)
        Values at the blocks' centres, NaN where unknown.
    shape : tuple of int
        (ny, nx) of the result.
    block : int
        Side of a block, pixels.

    Returns
    -------
    ndarray (ny, nx), float32
        NaN everywhere if no block has a value.
    """
    known = np.isfinite(grid)
    if not known.any():
        return np.full(shape, np.nan, dtype=np.float32)
    filled = np.where(known, grid, np.median(grid[known]))
    return (_bilinear(shape[0], filled.shape[0], block) @ filled.astype(np.float32)) @ _bilinear(
        shape[1], filled.shape[1], block
    ).T


def _bilinear(length: int, nodes: int, block: int) -> Array:
    """Matrix (length, nodes) that interpolates linearly between block centres and holds the edge values."""
    ends = np.minimum((np.arange(nodes) + 1) * block, length)
    centres = 0.5 * (np.arange(nodes) * block + ends - 1)
    position = np.interp(np.arange(length), centres, np.arange(nodes))
    left = np.floor(position).astype(int).clip(max=max(nodes - 2, 0))
    weight = (position - left).astype(np.float32)
    matrix = np.zeros((length, nodes), dtype=np.float32)
    rows = np.arange(length)
    matrix[rows, left] = 1.0 - weight
    matrix[rows, np.minimum(left + 1, nodes - 1)] += weight
    return matrix


def variance_ratio(variance: Array, light: Array, sigma: Array, good: Mask, power: int = 1) -> Array:
    """Robust local ``variance / light**power``: k for power 1, the flat's relative variance for power 2.

    Only pixels more than 5 sigma above zero enter the local medians: below, the ratio's own noise is skewed.  Blocks
    with too few of them take the median of the rest; an image with hardly any uses the ratio of sums, which noise
    does not bias.

    Parameters
    ----------
    variance, light, sigma : ndarray (ny, nx)
        Variance due to the light, the light, and a pixel's total sigma.
    good : ndarray of bool (ny, nx)
        Pixels to use.
    power : int
        1 or 2.

    Returns
    -------
    ndarray (ny, nx), float32
        NaN everywhere if there is no light at all.
    """
    usable = good & np.isfinite(variance) & (variance > 0) & (light > 0)
    bright = usable & (light > BRIGHT_SIGMA * sigma)
    if np.count_nonzero(bright) < MIN_PIXELS:
        below = np.sum(light[usable].astype(np.float64) ** power)
        value = float(np.sum(variance[usable].astype(np.float64)) / below) if below > 0 else np.nan
        return np.full(variance.shape, value, dtype=np.float32)
    safe = np.where(bright, light, 1.0)
    ratio = variance / safe**power
    medians, _ = block_median(ratio, bright)
    if not np.isfinite(medians).any():
        return np.full(variance.shape, np.median(ratio[bright]), dtype=np.float32)
    return smooth_plane(medians, variance.shape)


def split_error(variance: Array, light: Array, good: Mask, k: float | None = None) -> tuple[float, Array, Array]:
    """Split a total variance plane into k and the variance without light.

    Pipelines compute ERR with the light before bias, dark, flash and sky were subtracted, cut at zero: below zero
    ERR^2 no longer follows the light, so only pixels above zero say what the variance without light is.

    Parameters
    ----------
    variance, light : ndarray (ny, nx)
        ERR^2 and the image.
    good : ndarray of bool (ny, nx)
        Pixels to use.
    k : float, optional
        Variance per unit of light where it is known (1 / gain); found from the bright pixels otherwise.

    Returns
    -------
    k : float
        Variance per unit of light; NaN where it cannot be found.
    local : ndarray (ny, nx), float32
        Smooth variance without light; NaN everywhere where no pixel says.
    own : ndarray (ny, nx), float32
        Each pixel's own ``variance - k light`` (not below zero), for pixels noisier than those around them.
    """
    usable = good & np.isfinite(variance) & (variance > 0) & (light > 0)
    if np.count_nonzero(usable) < MIN_PIXELS:
        empty = np.full(variance.shape, np.nan, dtype=np.float32)
        return (np.nan if k is None else k), empty, empty
    if k is None:
        k = _bright_slope(variance[usable].astype(np.float64), light[usable].astype(np.float64))
    own = np.maximum(variance - np.float32(k) * np.maximum(light, 0.0), 0.0).astype(np.float32)
    faint = usable & (light <= np.median(light[usable]) + FAINT_SIGMA * np.sqrt(np.median(variance[usable])))
    medians, _ = block_median(own, faint)
    if not np.isfinite(medians).any():
        return k, np.full(variance.shape, np.median(own[faint]), dtype=np.float32), own
    return k, smooth_plane(medians, variance.shape), own


def _bright_slope(variance: NDArray[np.float64], light: NDArray[np.float64]) -> float:
    """Slope of variance against light: bright pixels over the level of the middle ones, until both agree."""
    middle = np.abs(light - np.median(light)) <= MIDDLE * np.median(light)
    if not middle.any():
        middle = np.ones(light.size, dtype=bool)
    bright = light >= max(float(np.quantile(light, BRIGHT_QUANTILE)), BRIGHT_RATIO * float(np.median(light)))
    if np.count_nonzero(bright) < FEW_BRIGHT:
        bright = light >= np.quantile(light, WIDER_QUANTILE)
    slope = 0.0
    for _ in range(SLOPE_ROUNDS):
        level = float(np.median(variance[middle] - slope * light[middle]))
        new = max(float(np.median((variance[bright] - level) / light[bright])), 0.0)
        if abs(new - slope) <= SLOPE_CONVERGED * new:
            return new
        slope = new
    return slope


def ramp_shot_factor(reads: NDArray) -> NDArray[np.float64]:
    """Shot noise of a straight-line fit to n reads over that of the total counts: 6 (n^2 + 1) / (5 n (n + 1)).

    Rauscher et al. 2007, PASP 119, 768, equation 1, for groups of one read: 1 for two reads, 1.2 for many.
    """
    n = np.maximum(np.asarray(reads, dtype=np.float64), 2.0)
    return 6.0 * (n * n + 1.0) / (5.0 * n * (n + 1.0))


def ramp_read_factor(reads: NDArray) -> NDArray[np.float64]:
    """Read noise variance of a straight-line fit to n reads over one read's: 12 (n - 1) / (n (n + 1)) (same source)."""
    n = np.maximum(np.asarray(reads, dtype=np.float64), 2.0)
    return 12.0 * (n - 1.0) / (n * (n + 1.0))


def saturation_level(light: Array, saturated: Mask, good: Mask) -> float:
    """Where pixels saturate, from the image itself.

    Parameters
    ----------
    light : ndarray (ny, nx)
        The image, NaN where a value is lost.
    saturated, good : ndarray of bool (ny, nx)
        Pixels flagged as saturated, and unflagged ones.

    Returns
    -------
    float
        A low quantile of the saturated pixels' values above their unflagged neighbours' median; where those are lost, a high
        quantile of the neighbours', a level that is surely below; NaN where nothing is saturated.
    """
    if not saturated.any():
        return float("nan")
    near = np.zeros_like(saturated)
    near[1:] |= saturated[:-1]
    near[:-1] |= saturated[1:]
    near[:, 1:] |= saturated[:, :-1]
    near[:, :-1] |= saturated[:, 1:]
    around = light[near & good & np.isfinite(light)]
    values = light[saturated & np.isfinite(light)]
    floor = float(np.median(around)) if around.size else 0.0
    values = values[values > max(floor, 0.0)]
    if values.size:
        return float(np.quantile(values, SATURATED_QUANTILE))
    return float(np.quantile(around, NEIGHBOR_QUANTILE)) if around.size else float("nan")


def round_mantissa(values: NDArray[np.float32], bits: int) -> Array:
    """Round float32 values to a shorter mantissa, so that smooth planes compress; the relative error is below
    2^-(bits + 1).

    Parameters
    ----------
    values : ndarray, float32
        Any shape; NaN and infinities are kept.
    bits : int
        Mantissa bits to keep, 1 to 22.
    """
    drop = 23 - bits
    integers = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half = np.uint32(1 << (drop - 1))
    mask = np.uint32(0xFFFFFFFF & ~((1 << drop) - 1))
    rounded = ((integers + half) & mask).view(np.float32)
    return np.where(np.isfinite(values), rounded, values).astype(np.float32)
