"""Saturated stars: where their lost cores are, and how far out their wings are to be fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag

__all__ = ["LOST", "SaturatedSeeds", "saturated_seeds"]

LOST = int(PixelFlag.BAD | PixelFlag.SATURATED)
MIN_LOST = 2  # a single lost pixel is a hot pixel as often as a star ...
MIN_SATURATED = 3  # ... unless pixels about it saturated too, if later in the ramp
WING_PIXELS = 3  # pixels beyond the lost core that the fit of the wings takes in
MAX_FIT_HALF = 11
_TOUCHING = np.ones((3, 3), int)


@dataclass(frozen=True)
class SaturatedSeeds:
    """Saturated cores, brightest first, in array pixels.

    Parameters
    ----------
    y, x : ndarray (n,)
        Centres.
    flux : ndarray (n,)
        Lower limit of the peak pixel's value above the sky.
    half : ndarray (n,), int
        Half-width of the box that the wings are fitted in.
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    flux: NDArray[np.float64]
    half: NDArray[np.int64]


def saturated_seeds(image: ExposureImage, sky_at: Callable[[NDArray, NDArray], NDArray[np.float64]]) -> SaturatedSeeds:
    """Centres of connected groups of lost saturated pixels.

    A bleed column is longer than the core is wide: the centre is where the group is widest.  A single lost pixel counts where the
    saturated pixels that it touches, lost or of a shorter ramp, make a star's core.
    """
    lost = (image.dq & LOST) == LOST
    if not lost.any():
        empty = np.zeros(0)
        return SaturatedSeeds(empty, empty, empty, empty.astype(np.int64))
    labels, count = ndimage.label(lost, structure=_TOUCHING)
    cores, _ = ndimage.label((image.dq & int(PixelFlag.SATURATED)) != 0, structure=_TOUCHING)
    core_size = np.bincount(cores.ravel())
    y, x, flux, half = [], [], [], []
    boxes = ndimage.find_objects(labels)
    for k in range(count):
        rows, cols = boxes[k]
        group = labels[rows, cols] == k + 1
        if group.sum() < MIN_LOST and core_size[cores[rows.start, cols.start]] < MIN_SATURATED:
            continue
        width = group.sum(axis=1).astype(float)
        weight = np.where(width >= 0.7 * width.max(), width, 0.0)
        yc = rows.start + float((weight * np.arange(width.size)).sum() / weight.sum())
        wide = np.flatnonzero(weight)
        columns_in = group[wide].sum(axis=0).astype(float)
        xc = cols.start + float((columns_in * np.arange(columns_in.size)).sum() / columns_in.sum())
        around = image.sci[max(rows.start - 1, 0) : rows.stop + 1, max(cols.start - 1, 0) : cols.stop + 1]
        good = (image.dq[max(rows.start - 1, 0) : rows.stop + 1, max(cols.start - 1, 0) : cols.stop + 1] & int(PixelFlag.BAD)) == 0
        level = float(around[good].max()) if good.any() else image.saturation
        peak = max(level, image.saturation) if np.isfinite(image.saturation) else level
        if not np.isfinite(peak):
            continue
        radius = 0.5 * float(width.max())
        y.append(yc)
        x.append(xc)
        flux.append((peak - float(sky_at(np.array([int(yc)]), np.array([int(xc)]))[0])) * max(1.0, radius) ** 2)
        half.append(int(min(np.ceil(radius) + WING_PIXELS, MAX_FIT_HALF)))
    order = np.argsort(-np.array(flux), kind="stable") if flux else np.zeros(0, int)
    return SaturatedSeeds(
        np.array(y, float)[order], np.array(x, float)[order], np.array(flux, float)[order], np.array(half, np.int64)[order]
    )
