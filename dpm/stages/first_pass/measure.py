"""Find and measure the stars of one exposure: arrays in, a table out; no run folder, no cluster.

Rounds of finding and fitting go from bright to faint; each round looks at the residuals of the one before, and ends with sweeps
in which every star is fitted again with all others subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.scene import Stars
from dpm.kernels.sky import annulus_spans
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.options import FindOptions
from dpm.stages.first_pass.saturated import (
    EPSF_EDGE,
    measured_wings,
    raise_halo,
    saturated_seeds,
    saturation_halo,
    stars_with_halo,
)
from dpm.stages.first_pass.scene import Scene, pixel_block

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
WING_STARS = 5  # brightest stars whose light beyond the ePSF is measured
WING_SKY_QUANTILE = 0.1  # of the sky mesh: the frame's sky away from halos
NEAR_FRACTION = 0.3  # of a star's flux that a halo's structure may fake before the star is flagged
FINAL_SWEEPS = 2


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
        The sky about the star scatters more than the noise planes say, and they were raised to match.
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
    halo = np.zeros(image.shape, np.float32)
    seeds = saturated_seeds(image, scene.sky)
    if seeds.x.size:
        scene.fit_new(seeds.y, seeds.x, seeds.flux / epsf.envelope[0], seeds.half, 10.0)
        halo = saturation_halo(image, seeds, scene.rows, epsf)
    for number in range(options.passes):
        last = number == options.passes - 1
        model_error = APPROXIMATE_ERROR if epsf.approximate else FINDER_MODEL_ERROR[min(number, 1)]
        y, x, significance = scene.candidates(CANDIDATE_FRACTION * options.threshold, model_error)
        peak = scene.residual[y, x] - scene.sky[y, x]
        flux = np.maximum(peak, significance * scene.noise) / float(epsf.matched_profile[1, 1])
        if halo.any():
            keep = flux > halo[y, x]
            y, x, flux = y[keep], x[keep], flux[keep]
        magnitude = np.floor(2.5 * np.log10(flux)).astype(np.int64)
        order = np.lexsort((-flux, pixel_block(y, x), -magnitude))
        half = np.full(y.size, FIT_HALF, np.int64)
        # Neighbours that are not subtracted yet spoil the fit: who is a star is decided after the sweep.
        scene.fit_new(y[order], x[order], flux[order], half, KEEP_FRACTION * options.threshold)
        scene.update_sky()
        for _ in range(FINAL_SWEEPS if last else 1):
            scene.refine(options.fit_sky, annulus, last)
        scene.keep(_still_stars(scene.rows, scene.fit_half, options.threshold, last))
        if number == 0:
            _raise_halos(scene, halo, options.threshold)
            scene.keep(_above_halo(scene, halo))
    order = np.argsort(-scene.rows[:, columns.FLUX], kind="stable")
    y = np.clip(np.rint(scene.rows[order, columns.Y]).astype(int), 0, image.shape[0] - 1)
    x = np.clip(np.rint(scene.rows[order, columns.X]).astype(int), 0, image.shape[1] - 1)
    near = (halo[y, x] > NEAR_FRACTION * scene.rows[order, columns.FLUX]) & (scene.fit_half[order] == FIT_HALF)
    stars = Stars(*(array[: scene.count][order] for array in scene.stars))
    return StarMeasurements(
        stars.rows, stars.sky_rms, stars.sky_pixels, stars.status, stars.fit_half, stars.half, near,
        scene.noise_raised_at(y, x), scene.residual,
    )  # fmt: skip


def _raise_halos(scene: Scene, halo: NDArray[np.float32], threshold: float) -> None:
    """Flux limits about the brightest stars, saturated or not, from what they leave beyond the ePSF."""
    rows = scene.rows
    brightest = rows[np.argsort(-rows[:, columns.FLUX], kind="stable")[:WING_STARS]]
    wings = measured_wings(scene.residual, scene.good, float(np.quantile(scene.level, WING_SKY_QUANTILE)), brightest)
    smallest = threshold * scene.noise / float(scene.epsf.matched_profile[1, 1])
    raise_halo(halo, stars_with_halo(rows, scene.epsf, wings, smallest), scene.epsf, float(EPSF_EDGE), wings)


def _above_halo(scene: Scene, halo: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Stars that the halo, spikes and bleed columns of brighter ones do not explain."""
    rows = scene.rows
    y = np.clip(np.rint(rows[:, columns.Y]).astype(int), 0, halo.shape[0] - 1)
    x = np.clip(np.rint(rows[:, columns.X]).astype(int), 0, halo.shape[1] - 1)
    return np.asarray((rows[:, columns.FLUX] > halo[y, x]) | (scene.fit_half > FIT_HALF))


def _still_stars(rows: NDArray, fit_half: NDArray, threshold: float, last: bool) -> NDArray[np.bool_]:
    """Stars that are still significant with their neighbours subtracted, and in the last round have the shape of the ePSF.

    Until then a bad shape may come from a neighbour that the next round finds.
    """
    if not last:
        return np.asarray(rows[:, columns.FLUX] > KEEP_FRACTION * threshold * rows[:, columns.FLUX_ERROR])
    significant = rows[:, columns.FLUX] > threshold * rows[:, columns.FLUX_ERROR]
    sharp = (rows[:, columns.RADXS] < SHARP_LIMIT) & (rows[:, columns.RADXS] < -SHARP_SIGMA * rows[:, columns.RADXS_ERROR])
    fits = (rows[:, columns.CHI_ROBUST] < MAX_CHI) | (fit_half > FIT_HALF)
    return np.asarray(significant & fits & ~sharp)
