"""Light of bright stars beyond the ePSF library: learnt from the exposure's own stars, subtracted, and what may be left of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.kernels import quality as columns
from dpm.kernels.halo import spline_box, subtract_halos, weighted_median
from dpm.kernels.render import subtract_stars
from dpm.kernels.scene import render_half
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag, StarFlag
from dpm.models.statistics import MAD_TO_SIGMA
from dpm.stages.first_pass.halos import (
    BRIGHT_FACTOR,
    add_halo_template,
    add_saturated_halos,
    halo_template,
    pick_halo_stars,
    structure_of,
)

__all__ = ["Halo", "learn_halo", "without_halos"]

PAD = 2  # entries about a box of a cubic spline that have to be there
HALO_HALF = 80  # pixels; the spikes of saturated stars end about here
INNER, FULL = 9.0, 11.5  # pixels: from here, and fully from there, the halo is subtracted; nearer the library holds the light
WHOLE = 0.99  # of the weight of the pixels about a place: fewer good ones tell nothing
RIM = 8  # pixels within the template's edge, where it is zero
LEFT_OVER = 1.5  # of the halo's structure may be left, after its subtraction, as light that looks like stars
FAINTEST_LIGHT = 0.1  # of the pixel noise: a halo below this is left alone
# A filter's light is one pattern at many scales, those of its wavelengths: far from the star all structure is drawn out along
# radii, and falls with the square of the radius.
SCALES = np.exp(np.linspace(-0.3, 0.3, 13))
SCALE_WEIGHTS = np.exp(-0.5 * np.linspace(-2.0, 2.0, 13) ** 2)
SEAM = (12, 14)  # pixels: the box of the library ends here, wherever in its pixel the star lies
NEARER = 0.85 ** np.arange(1, 8)  # parts of a radius: where the structure at that radius can be seen better
FEWEST_STARS = 4  # whose halo is subtracted: that of fewer holds the neighbours of one; it is a limit only
ANNULUS = 4  # pixels: width of the annuli of one mean and one noise
SIGNIFICANT = 2.0  # times its noise: weaker structure is not subtracted
NEAREST = 3  # pixels: side of the box whose mean power tells structure from noise


class Halo(NamedTuple):
    """Light of a star per unit of its flux, its centre in the middle of the middle pixel, and the error of it; (n, n) both."""

    light: NDArray[np.float64]
    error: NDArray[np.float64]


def without_halos(
    image: ExposureImage, epsf: GriddedEPSF, detections: dict[str, NDArray], threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """An exposure without the halos of its bright stars, its variance, and the flux below which halos explain a detection.

    Parameters
    ----------
    image : ExposureImage
    epsf : GriddedEPSF
    detections : dict of ndarray
        ``x, y`` (raw pixels), ``flux`` and ``flags`` of the first pass.
    threshold : float
        Significance in this exposure of the faintest star that matters.

    Returns
    -------
    sci, variance, limit : ndarray (ny, nx), float32
        The variance is that of the image without light, with the photon noise of the light that was subtracted and the error of
        the halo's template.
    """
    good = (image.dq & int(PixelFlag.BAD)) == 0
    noise = float(np.sqrt(np.median(image.var_read[good]) + np.median(image.poisson_factor[good]) * _sky(image, good)))
    x, y = detections["x"] - image.x_origin, detections["y"] - image.y_origin
    flux = np.asarray(detections["flux"], float)
    known = np.isfinite(x) & np.isfinite(y) & (flux > 0)
    x, y, flux, flags = x[known], y[known], flux[known], detections["flags"][known]
    rows = np.zeros((len(x), columns.RESULT_SIZE))
    rows[:, columns.X], rows[:, columns.Y], rows[:, columns.FLUX] = x, y, flux
    saturated = (flags & int(StarFlag.SATURATED)) != 0
    smallest = threshold * noise / float(epsf.matched_profile[1, 1])
    sci, variance = np.where(good, image.sci, np.float32(0.0)), image.var_read.copy()
    limit = np.zeros(image.shape, np.float32)
    pick = pick_halo_stars(y, x, flux, BRIGHT_FACTOR * smallest)
    if pick.size:
        residual = sci.copy()
        half = np.array([render_half(value, epsf.envelope, noise) for value in flux], np.int64)
        subtract_stars(residual, epsf.library(image.x_origin, image.y_origin), x, y, flux, half)
        if pick.size < FEWEST_STARS:
            add_halo_template(limit, halo_template(residual, good, rows[pick]), rows, epsf, smallest)
        else:
            halo = learn_halo(residual, good, rows[pick])
            _subtract(sci, variance, image.poisson_factor, halo, rows, noise)
            add_halo_template(limit, _drawn_out(structure_of(halo.light)), rows, epsf, smallest, LEFT_OVER)
    add_saturated_halos(limit, image, rows[saturated], epsf)
    return sci, variance, limit


def learn_halo(residual: NDArray[np.float32], good: NDArray[np.bool_], stars: NDArray) -> Halo:
    """The light that bright stars leave about them, from an image without them.

    The median over the stars, each with its flux as its weight: the noise of a star's halo over its flux falls with its flux, and
    no star with neighbours decides alone.  Structure counts as far as it stands above its noise, pixel by pixel or along radii.

    Parameters
    ----------
    residual : ndarray (ny, nx), float32
        Image minus the ePSFs of its stars.
    good : ndarray (ny, nx), bool
    stars : ndarray (n, RESULT_SIZE)
        The bright stars: array positions and fluxes.

    Returns
    -------
    Halo
    """
    side = 2 * HALO_HALF + 1
    rows, cols = np.mgrid[:side, :side] - HALO_HALF
    radius = np.hypot(rows, cols)
    rim = (radius > HALO_HALF - RIM) & (radius <= HALO_HALF)
    pad = HALO_HALF + PAD
    splines = np.pad(ndimage.spline_filter(np.where(good, residual, 0.0)), pad)
    whole_splines = np.pad(good.astype(float), pad)
    cuts, weights = [], []
    whole_share = np.empty((side, side))
    for row in stars:
        place = (row[columns.Y] + pad - HALO_HALF, row[columns.X] + pad - HALO_HALF)
        cut = np.empty((side, side))
        spline_box(splines, *place, cut)
        spline_box(whole_splines, *place, whole_share)
        cut[whole_share < WHOLE] = np.nan
        edge = cut[rim][np.isfinite(cut[rim])]
        if edge.size:
            cuts.append((cut - np.median(edge)) / row[columns.FLUX])
            weights.append(row[columns.FLUX])
    if len(cuts) < FEWEST_STARS:
        return Halo(np.zeros((side, side)), np.zeros((side, side)))
    stack, flux = np.array(cuts), np.array(weights)
    whole = _weighted_median(stack, flux)
    # Half the difference of two halves of the stars has the error of their mean, that from star to star included.
    half = 0.5 * (_weighted_median(stack[::2], flux[::2]) - _weighted_median(stack[1::2], flux[1::2]))
    mean, light, variance, rest = np.zeros_like(whole), np.zeros_like(whole), np.zeros_like(whole), np.ones_like(whole)
    rings = [(radius >= inner) & (radius < inner + ANNULUS) for inner in range(0, int(radius.max()) + 1, ANNULUS)]
    for ring in rings:
        mean[ring] = np.median(whole[ring])
    # What shows pixel by pixel is taken so, and the rest where it shows along radii.
    for structure, difference in ((whole - mean, half), (_along_radii(whole - mean), _along_radii(half))):
        error2 = ndimage.uniform_filter(difference**2, NEAREST)
        for ring in rings:
            error2[ring] = np.maximum(error2[ring], (MAD_TO_SIGMA * np.median(np.abs(difference[ring]))) ** 2)
        power = ndimage.uniform_filter(structure**2, NEAREST)
        share = rest * (1.0 - np.minimum(SIGNIFICANT**2 * error2 / np.maximum(power, np.finfo(float).tiny), 1.0))
        light += share * structure
        variance += share**2 * error2
        rest -= share
    reach = np.clip((radius - INNER) / (FULL - INNER), 0.0, 1.0) * (radius <= HALO_HALF)
    return Halo(reach * (mean + light), reach * np.sqrt(variance))


def _along_radii(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """A profile averaged over SCALES, apart where the library holds the star's light, beyond it, and on the seam of the two."""
    rows, cols = np.indices(profile.shape) - HALO_HALF
    part = np.digitize(np.maximum(np.abs(rows), np.abs(cols)), SEAM)
    total, weights = np.zeros(profile.shape), np.zeros(profile.shape)
    for scale, weight in zip(SCALES, SCALE_WEIGHTS, strict=True):
        place = [HALO_HALF + scale * rows, HALO_HALF + scale * cols]
        same = weight * (ndimage.map_coordinates(part, place, order=0, mode="nearest") == part)
        total += same * scale**2 * ndimage.map_coordinates(profile, place, order=1, mode="nearest")
        weights += same
    return np.asarray(total / weights)


def _drawn_out(structure: NDArray[np.float64]) -> NDArray[np.float64]:
    """Structure, and where it is too faint to be seen, what it is nearer to the star, drawn out with the square of the radius."""
    rows, cols = np.indices(structure.shape) - HALO_HALF
    out = structure.copy()
    for scale in NEARER:
        place = [HALO_HALF + scale * rows, HALO_HALF + scale * cols]
        out = np.maximum(out, scale**2 * ndimage.map_coordinates(structure, place, order=1))
    return np.asarray(out)


def _weighted_median(stack: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted median over the first axis without the NaNs, and 0 where there is nothing else."""
    out = np.empty(stack.shape[1:])
    weighted_median(stack, weights, out)
    return out


def _sky(image: ExposureImage, good: NDArray[np.bool_]) -> float:
    """A first guess of the sky level."""
    return max(float(np.median(image.sci[good])), 0.0) if good.any() else 0.0


def _subtract(
    sci: NDArray[np.float32],
    variance: NDArray[np.float32],
    poisson_factor: NDArray[np.float32],
    halo: Halo,
    stars: NDArray,
    noise: float,
) -> None:
    """Subtract the halo of every star bright enough for it to show, and add the variance of what was subtracted."""
    ny, nx = sci.shape
    rows, cols = np.indices(halo.light.shape) - HALO_HALF
    ring = np.hypot(rows, cols).astype(int)
    brightest = np.zeros(ring.max() + 1)
    np.maximum.at(brightest, ring.ravel(), np.abs(halo.light).ravel())
    outward = np.maximum.accumulate(brightest[::-1])[::-1]  # the brightest light at a radius or beyond
    light, error = (np.pad(ndimage.spline_filter(plane), PAD) for plane in halo)
    flux = stars[:, columns.FLUX].copy()
    # How many radii have light that shows: it falls outward, so that these are the first.
    reach = np.minimum(np.searchsorted(-outward, -FAINTEST_LIGHT * noise / flux), HALO_HALF)
    y, x = (stars[:, column].copy() for column in (columns.Y, columns.X))
    subtract_halos(sci, variance, poisson_factor, light, error, y, x, flux, reach)
