"""Saturated stars: where they are, how bright their light is far from the core, and what must not become a star there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.kernels import quality as columns
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag

__all__ = ["EPSF_EDGE", "SaturatedSeeds", "measured_wings", "raise_halo", "saturated_seeds", "saturation_halo", "stars_with_halo"]

LOST = int(PixelFlag.BAD | PixelFlag.SATURATED)
MIN_PIXELS = 2  # a single lost pixel is a hot pixel as often as a star; the ordinary finder sees the star
WING_PIXELS = 3  # pixels beyond the lost core that the fit of the wings takes in
MAX_FIT_HALF = 11
HALO_FRACTION = 0.3  # structure (spikes, ghosts) of a saturated star's light relative to its mean profile
SPIKE_CONTRAST = 4.0  # light of a spike's pixels over the azimuthal median beyond the ePSF
HALO_SLOPE = -3.0  # a diffraction PSF's mean profile falls as r^-3
EPSF_EDGE = 11  # pixels; the ePSF's own profile holds to here
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
    if not lost.any():
        empty = np.zeros(0)
        return SaturatedSeeds(empty, empty, empty, empty.astype(np.int64))
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
    return SaturatedSeeds(
        np.array(y, float)[order], np.array(x, float)[order], np.array(flux, float)[order], np.array(half, np.int64)[order]
    )


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
    halo = np.zeros(image.shape, np.float32)
    raise_halo(halo, stars, epsf, 0.0)
    if seeds.x.size:
        lost = (image.dq & LOST) == LOST
        wide = ndimage.binary_dilation(lost, structure=np.ones((3, 3), bool), iterations=COLUMN_HALF)
        halo[wide] = np.inf
    return halo


def raise_halo(
    halo: NDArray[np.float32], stars: NDArray, epsf: GriddedEPSF, inner: float, wings: NDArray[np.float64] | None = None
) -> None:
    """Raise the flux limit about stars, from ``inner`` pixels outwards, to what their structure beyond the ePSF may fake.

    Parameters
    ----------
    halo : ndarray (ny, nx), float32, changed in place
    stars : ndarray (n, RESULT_SIZE)
    epsf : GriddedEPSF
    inner : float
        Pixels; inside, the star is subtracted well enough for the finder's own noise floor.
    wings : ndarray (HALO_RADIUS + 1,), optional
        Light beyond the ePSF as measured (`measured_wings`), where it is more than the ePSF's extension.
    """
    ny, nx = halo.shape
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
        edge = envelope[EPSF_EDGE - 1]
        profile = np.where(
            r < EPSF_EDGE, np.interp(r, radii, envelope), edge * (np.maximum(r, EPSF_EDGE) / EPSF_EDGE) ** HALO_SLOPE
        )
        structure = HALO_FRACTION * profile
        if wings is not None:
            structure = np.maximum(structure, SPIKE_CONTRAST * np.interp(r, np.arange(wings.size), wings, right=0.0))
        # The light of the halo in one pixel, as the flux of the star whose peak it would fake.
        limit = np.where(r >= inner, flux * structure / envelope[0], 0.0)
        halo[y0:y1, x0:x1] = np.maximum(halo[y0:y1, x0:x1], limit)


def measured_wings(residual: NDArray[np.float32], good: NDArray[np.bool_], sky: float, stars: NDArray) -> NDArray[np.float64]:
    """Light beyond the ePSF as a fraction of the star's flux, a pixel, by whole radius up to HALO_RADIUS.

    The median over the brightest stars of the azimuthal median of what is left of them above the frame's sky; real telescopes
    scatter more than the diffraction of their pupil.

    Parameters
    ----------
    residual : ndarray (ny, nx), float32
        Image minus all stars.
    good : ndarray (ny, nx), bool
    sky : float
        Sky level of the frame.
    stars : ndarray (n, RESULT_SIZE)
        The brightest stars.

    Returns
    -------
    ndarray (HALO_RADIUS + 1,)
        Falls with radius; zero inside EPSF_EDGE, where the ePSF holds.
    """
    profiles = np.zeros((len(stars), HALO_RADIUS + 1))
    ny, nx = residual.shape
    for k, row in enumerate(stars):
        yc, xc = int(row[columns.Y]), int(row[columns.X])
        window = (
            slice(max(yc - HALO_RADIUS, 0), min(yc + HALO_RADIUS + 1, ny)),
            slice(max(xc - HALO_RADIUS, 0), min(xc + HALO_RADIUS + 1, nx)),
        )
        yy, xx = np.mgrid[window]
        ring = np.rint(np.hypot(yy - row[columns.Y], xx - row[columns.X])).astype(int)
        use = good[window] & (ring >= EPSF_EDGE) & (ring <= HALO_RADIUS)
        values = (residual[window][use] - sky) / row[columns.FLUX]
        profiles[k, EPSF_EDGE:] = [
            max(np.median(part), 0.0) if part.size else 0.0
            for part in (values[ring[use] == r] for r in range(EPSF_EDGE, HALO_RADIUS + 1))
        ]
    profile = np.median(profiles, axis=0) if len(stars) else np.zeros(HALO_RADIUS + 1)
    # Other stars' light makes bumps; a halo falls outwards.
    profile[EPSF_EDGE:] = np.minimum.accumulate(profile[EPSF_EDGE:])
    return np.asarray(profile)


def stars_with_halo(stars: NDArray, epsf: GriddedEPSF, wings: NDArray[np.float64], smallest: float) -> NDArray:
    """Rows of the stars whose structure just beyond the ePSF may fake a star of flux ``smallest``."""
    structure = max(HALO_FRACTION * float(epsf.envelope[EPSF_EDGE - 1]), SPIKE_CONTRAST * float(wings[EPSF_EDGE]))
    return stars[stars[:, columns.FLUX] * structure / epsf.envelope[0] > smallest]
