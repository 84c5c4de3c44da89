"""Find and measure the stars of one exposure: arrays in, a table out; no run folder, no cluster.

Rounds of finding and fitting go from bright to faint; each round looks at the residuals of the one before, and ends with sweeps
in which every star is fitted again with all others subtracted; stars closer than two pixels are fitted jointly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.scene import COARSE_LEVEL, FINE_LEVEL, Stars
from dpm.kernels.sky import annulus_spans
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.options import FindOptions
from dpm.stages.first_pass.halos import BRIGHT_FACTOR, add_halo_template, add_saturated_halos, halo_template, pick_halo_stars
from dpm.stages.first_pass.saturated import saturated_seeds
from dpm.stages.first_pass.scene import Scene, block_order

__all__ = ["StarMeasurements", "measure_exposure"]

FIT_HALF = 2  # 5 x 5 pixels at the peak (Anderson & King 2000)
SKY_ANNULUS = (4.5, 8.5)  # pixels; neighbours and the star itself are subtracted there
CANDIDATE_FRACTION = 0.85  # candidates are taken from this fraction of the threshold: the filter does not know the pixel phase
KEEP_FRACTION = 0.7  # and stay until the last round with this fraction: neighbours not subtracted yet disturb them
FINDER_MODEL_ERROR = (0.05, 0.02)  # error of the ePSF that the finder allows for: first rounds, later rounds
MAX_CHI = 6.0  # with a twentieth of the light allowed as ePSF error, more than this is no star
SHARP_LIMIT = -0.15  # RADXS of cosmic rays and hot pixels lies below
SHARP_SIGMA = 4.0  # significance that a lack of light around the core needs
APPROXIMATE_ERROR = (
    0.3  # error in the wings of an ePSF made quickly, relative to their light: its rings and spikes are not all there
)
SATURATED_THRESHOLD = 10.0  # flux over its error, from the wings
NEAR_FRACTION = 0.3  # of a star's flux that a halo's structure may fake before the star is flagged


@dataclass(frozen=True)
class StarMeasurements:
    """What one exposure gave: a row of `dpm.kernels.quality` columns a star, array pixels, bright to faint.

    Parameters
    ----------
    rows : ndarray (n, RESULT_SIZE)
    sky_rms : ndarray (n,)
    sky_pixels : ndarray (n,), int
    status : ndarray (n,), int
        Outcome of the last fit (`dpm.kernels.fit`).
    fit_half : ndarray (n,), int
        Half-width of the fit box; larger than 2 for saturated stars.
    render_half : ndarray (n,), int
        Half-width within which each star is subtracted from the residual image.
    near_saturated : ndarray (n,), bool
    noise_raised : ndarray (n,), bool
        The sky about the star scatters clearly more than the noise planes say, and they were raised to match.
    residual : ndarray (ny, nx), float32
        Image minus all stars, sky kept.
    """

    rows: NDArray[np.float64]
    sky_rms: NDArray[np.float64]
    sky_pixels: NDArray[np.int64]
    status: NDArray[np.int64]
    fit_half: NDArray[np.int64]
    render_half: NDArray[np.int64]
    near_saturated: NDArray[np.bool_]
    noise_raised: NDArray[np.bool_]
    residual: NDArray[np.float32]


def measure_exposure(image: ExposureImage, epsf: GriddedEPSF, options: FindOptions) -> StarMeasurements:
    """Find and measure all stars of one exposure.

    Parameters
    ----------
    image : ExposureImage
        Pixels, noise planes and flags.
    epsf : GriddedEPSF
        The ePSF of this detector and filter.
    options : FindOptions
        Threshold, rounds and limits.

    Returns
    -------
    StarMeasurements
    """
    scene = Scene(image, epsf)
    annulus = annulus_spans(*SKY_ANNULUS)
    halo, candidates = _subtract_bright(scene, image, options, annulus)
    any_halo = bool(halo.any())
    for number in range(options.passes):
        last = number == options.passes - 1
        y, x, flux = candidates if number == 0 else _candidates(scene, options, number)
        if any_halo:
            keep = flux > halo[y, x]
            y, x, flux = y[keep], x[keep], flux[keep]
        magnitude = np.floor(2.5 * np.log10(flux)).astype(np.int16)
        order = block_order(y, x, flux)
        order = order[np.argsort(-magnitude[order], kind="stable")]
        half = np.full(y.size, FIT_HALF, np.int64)
        # Neighbours that are not subtracted yet spoil the fit: who is a star is decided after the sweep.
        scene.fit_new(y[order], x[order], flux[order], half, KEEP_FRACTION * options.threshold)
        if not last:
            scene.update_sky()
            scene.refine(options.fit_sky, annulus, False, False)
            scene.refine_groups(options.fit_sky, KEEP_FRACTION * options.threshold, COARSE_LEVEL)
        else:
            scene.refine(options.fit_sky, annulus, True, True)
            grouped = scene.refine_groups(options.fit_sky, KEEP_FRACTION * options.threshold, FINE_LEVEL)
            scene.refine(options.fit_sky, annulus, True, False, ~grouped)
        stays = _still_stars(scene.rows, scene.fit_half, options, last) & _above_halo(scene, halo)
        scene.keep(stays)
        if last:
            # Blends and saturated stars keep the ePSF of no charge.
            scene.refine_bright(options.fit_sky, annulus, ~grouped[stays] & (scene.fit_half == FIT_HALF))
    order = np.argsort(-scene.rows[:, columns.FLUX], kind="stable")
    y = np.clip(np.rint(scene.rows[order, columns.Y]).astype(int), 0, image.shape[0] - 1)
    x = np.clip(np.rint(scene.rows[order, columns.X]).astype(int), 0, image.shape[1] - 1)
    near = (halo[y, x] > NEAR_FRACTION * scene.rows[order, columns.FLUX]) & (scene.fit_half[order] == FIT_HALF)
    stars = Stars(*(array[: scene.count][order] for array in scene.stars))
    return StarMeasurements(
        stars.rows, stars.sky_rms, stars.sky_pixels, stars.status, stars.fit_half, stars.half, near,
        scene.noise_raised_at(y, x), scene.residual,
    )  # fmt: skip


def _candidates(scene: Scene, options: FindOptions, number: int) -> tuple[NDArray, NDArray, NDArray]:
    """Peaks of the residual image and a first guess of their fluxes."""
    model_error = APPROXIMATE_ERROR if scene.epsf.approximate else FINDER_MODEL_ERROR[min(number, 1)]
    y, x, significance, peak = scene.candidates(CANDIDATE_FRACTION * options.threshold, model_error)
    peak -= scene.sky_at(y, x)
    return y, x, np.maximum(peak, significance * scene.noise) / float(scene.epsf.matched_profile[1, 1])


def _subtract_bright(
    scene: Scene, image: ExposureImage, options: FindOptions, annulus: NDArray
) -> tuple[NDArray[np.float32], tuple[NDArray, NDArray, NDArray]]:
    """Fit and subtract the saturated and the brightest stars.

    Returns
    -------
    halo : ndarray (ny, nx), float32
        Flux below which the halos explain a detection.
    candidates : tuple of ndarray
        Row, column and flux of the other peaks found.
    """
    halo = np.zeros(image.shape, np.float32)
    seeds = saturated_seeds(image, scene.sky_at)
    if seeds.x.size:
        scene.fit_new(seeds.y, seeds.x, seeds.flux / scene.epsf.envelope[0], seeds.half, SATURATED_THRESHOLD)
    n_saturated = scene.count
    add_saturated_halos(halo, image, scene.rows[:n_saturated], scene.epsf)
    smallest = options.threshold * scene.noise / float(scene.epsf.matched_profile[1, 1])
    y, x, flux = _candidates(scene, options, 0)
    clear = flux > halo[y, x]
    y, x, flux = y[clear], x[clear], flux[clear]
    pick = pick_halo_stars(y, x, flux, BRIGHT_FACTOR * smallest)
    scene.fit_new(y[pick], x[pick], flux[pick], np.full(pick.size, FIT_HALF, np.int64), options.threshold)
    scene.refine(options.fit_sky, annulus, True, True)
    template = halo_template(scene.residual, scene.good, scene.rows)
    # Every star found later that is bright enough has the same halo.
    later = np.zeros((y.size, columns.RESULT_SIZE))
    later[:, columns.Y], later[:, columns.X], later[:, columns.FLUX] = y, x, flux
    add_halo_template(halo, template, np.concatenate([scene.rows, later]), scene.epsf, smallest)
    rest = np.ones(y.size, bool)
    rest[pick] = False
    return halo, (y[rest], x[rest], flux[rest])


def _above_halo(scene: Scene, halo: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Stars that the halo, spikes and bleed columns of brighter ones do not explain."""
    rows = scene.rows
    y = np.clip(np.rint(rows[:, columns.Y]).astype(int), 0, halo.shape[0] - 1)
    x = np.clip(np.rint(rows[:, columns.X]).astype(int), 0, halo.shape[1] - 1)
    return np.asarray((rows[:, columns.FLUX] > halo[y, x]) | (scene.fit_half > FIT_HALF))


def _still_stars(rows: NDArray, fit_half: NDArray, options: FindOptions, last: bool) -> NDArray[np.bool_]:
    """Stars that are still significant with their neighbours subtracted, and in the last round have the shape of the ePSF.

    Until then a bad shape may come from a neighbour that the next round finds.
    """
    if not last:
        return np.asarray(rows[:, columns.FLUX] > KEEP_FRACTION * options.threshold * rows[:, columns.FLUX_ERROR])
    significant = rows[:, columns.FLUX] > options.threshold * rows[:, columns.FLUX_ERROR]
    sharp = (rows[:, columns.RADXS] < SHARP_LIMIT) & (rows[:, columns.RADXS] < -SHARP_SIGMA * rows[:, columns.RADXS_ERROR])
    # NaN: the last fit failed, and the values are of one that was not judged.
    fits = ~(rows[:, columns.CHI_ROBUST] >= MAX_CHI) | (fit_half > FIT_HALF)
    if options.max_qfit > 0:
        fits &= ~(rows[:, columns.QFIT] > options.max_qfit)
    return np.asarray(significant & fits & ~sharp)
