"""Saturated stars: where they are, how bright their light is far from the core, and what must not become a star there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.kernels import fit as columns
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag

__all__ = ["SaturatedSeeds", "saturated_seeds", "saturation_halo"]

LOST = int(PixelFlag.BAD | PixelFlag.SATURATED)
MIN_PIXELS = 2  # a single lost pixel is a hot pixel as often as a star; the ordinary finder sees the star
WING_PIXELS = 3  # pixels beyond the lost core that the fit of the wings takes in
MAX_FIT_HALF = 11
HALO_FRACTION = 0.3  # structure (spikes, ghosts) of a saturated star's light relative to its mean profile
HALO_SLOPE = -3.0  # a diffraction PSF's mean profile falls as r^-3
HALO_RADIUS = 80  # pixels
COLUMN_HALF = 2  # pixels either side of a bleed column without stars


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


def saturated_seeds(image: ExposureImage, sky: NDArray[np.float32]) -> SaturatedSeeds:
    """Centres of connected groups of lost saturated pixels.

    A bleed column is longer than the core is wide: the centre is where the group is widest.
    """
    lost = (image.dq & LOST) == LOST
    labels, count = ndimage.label(lost, structure=np.ones((3, 3), int))
    y, x, flux, half = [], [], [], []
    boxes = ndimage.find_objects(labels)
    for k in range(count):
        rows, cols = boxes[k]
        group = labels[rows, cols] == k + 1
        if group.sum() < MIN_PIXELS:
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
        flux.append((peak - float(sky[int(yc), int(xc)])) * max(1.0, radius) ** 2)
        half.append(int(min(np.ceil(radius) + WING_PIXELS, MAX_FIT_HALF)))
    order = np.argsort(-np.array(flux), kind="stable") if flux else np.zeros(0, int)
    return SaturatedSeeds(np.array(y, float)[order], np.array(x, float)[order], np.array(flux, float)[order], np.array(half, np.int64)[order])


def saturation_halo(image: ExposureImage, seeds: SaturatedSeeds, stars: NDArray, epsf: GriddedEPSF) -> NDArray[np.float32]:
    """Flux below which a detection is explained by the halo, a spike or a bleed column of a saturated star.

    Parameters
    ----------
    image : ExposureImage
    seeds : SaturatedSeeds
    stars : ndarray (n, RESULT_SIZE)
        Fits of the saturated stars.
    epsf : GriddedEPSF
        Gives the mean profile out to 12 pixels; beyond, it falls as r^-3.

    Returns
    -------
    ndarray (ny, nx), float32
        Flux limit; infinite on the columns that bled and within the core, zero far from saturated stars.
    """
    ny, nx = image.shape
    halo = np.zeros((ny, nx), np.float32)
    envelope = epsf.envelope
    radii = np.arange(envelope.size, dtype=float)
    for row in stars:
        yc, xc, flux = row[columns.Y], row[columns.X], row[columns.FLUX]
        y0, y1 = max(int(yc) - HALO_RADIUS, 0), min(int(yc) + HALO_RADIUS + 1, ny)
        x0, x1 = max(int(xc) - HALO_RADIUS, 0), min(int(xc) + HALO_RADIUS + 1, nx)
        if y0 >= y1 or x0 >= x1:
            continue
        yy, xx = np.mgrid[y0:y1, x0:x1]
        r = np.hypot(yy - yc, xx - xc)
        profile = np.where(r < 11, np.interp(r, radii, envelope), envelope[11] * (np.maximum(r, 11) / 11) ** HALO_SLOPE)
        # The light of the halo in one pixel, as the flux of the star whose peak it would fake.
        limit = HALO_FRACTION * flux * profile / envelope[0]
        halo[y0:y1, x0:x1] = np.maximum(halo[y0:y1, x0:x1], limit)
    if seeds.x.size:
        lost = (image.dq & LOST) == LOST
        wide = ndimage.binary_dilation(lost, structure=np.ones((3, 3), bool), iterations=COLUMN_HALF)
        halo[wide] = np.inf
    return halo
