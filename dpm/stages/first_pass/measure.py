"""Find and measure the stars of one exposure: arrays in, a table out; no run folder, no cluster.

Rounds of finding and fitting go from bright to faint; each round looks at the residuals of the one before, and ends with sweeps
in which every star is fitted again with all others subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import fit as columns
from dpm.kernels.find import local_maxima, significance_image
from dpm.kernels.scene import TOUCH_CELL, fit_candidates, refine_stars, remove_stars
from dpm.kernels.sky import annulus_offsets, expand_mesh, fill_empty_cells, mesh_sky
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.options import FindOptions
from dpm.stages.first_pass.saturated import saturated_seeds, saturation_halo

__all__ = ["StarMeasurements", "measure_exposure"]

FIT_HALF = 2  # 5 x 5 pixels at the peak (Anderson & King 2000)
MESH_CELL = 32  # pixels a side of a cell of the sky mesh
LARGE_IMAGE = 1024 * 1024  # pixels; from here the mesh looks at every third pixel on both axes
SKY_ANNULUS = (4.5, 9.0)  # pixels; neighbours and the star itself are subtracted there
CANDIDATE_FRACTION = 0.75  # candidates are taken from this fraction of the threshold: the filter does not know the pixel phase
FINDER_MODEL_ERROR = (0.05, 0.02)  # error of the ePSF that the finder allows for: first rounds, later rounds
MIN_DISTANCE = 0.8  # pixels; closer pairs cannot be told from one star and its residual
MAX_CHI = 6.0  # with a twentieth of the light allowed as ePSF error, more than this is no star
SHARP_LIMIT = -0.15  # RADXS of cosmic rays and hot pixels lies below
SHARP_SIGMA = 4.0  # significance that a lack of light around the core needs
APPROXIMATE_ERROR = 0.3  # error in the wings of an ePSF made quickly, relative to their light: its rings and spikes are not all there
FINAL_SWEEPS = 2


@dataclass(frozen=True)
class StarMeasurements:
    """What one exposure gave: a row of `dpm.kernels.fit` columns a star, array pixels, bright to faint.

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
    residual: NDArray[np.float32]


class _Scene:
    """Working state of one exposure: the residual image and the stars found so far."""

    def __init__(self, image: ExposureImage, epsf: GriddedEPSF) -> None:
        ny, nx = image.shape
        self.good = (image.dq & int(PixelFlag.BAD)) == 0
        self.scene = np.where(self.good, image.sci, np.float32(0.0)).astype(np.float32)
        self.noise_planes = (image.var_read, image.poisson_factor, image.flat_variance)
        self.epsf = epsf
        self.origin = (float(image.x_origin), float(image.y_origin))
        self.psf_arrays = (epsf.coefficients, np.asarray(epsf.node_x, float), np.asarray(epsf.node_y, float))
        shape = (max(1, -(-ny // MESH_CELL)), max(1, -(-nx // MESH_CELL)))
        self.level = np.empty(shape, np.float32)
        self.scatter = np.empty(shape, np.float32)
        self.sky = np.empty((ny, nx), np.float32)
        self.sky_scatter = np.empty((ny, nx), np.float32)
        self.residual = self.scene.copy()
        self.update_sky()
        self.noise = float(np.median(self.scatter))
        self.occupied = np.zeros((ny, nx), np.int32)
        self.count = 0
        self.touched = np.zeros((-(-ny // TOUCH_CELL), -(-nx // TOUCH_CELL)), np.int32)
        self.allocate(max(4096, ny * nx // 128))

    def allocate(self, capacity: int) -> None:
        """Grow the star arrays to a capacity."""
        rows = np.empty((capacity, columns.RESULT_SIZE))
        half = np.zeros(capacity, np.int64)
        fit_half = np.zeros(capacity, np.int64)
        status = np.zeros(capacity, np.int64)
        touch = np.zeros(capacity, np.int64)
        sky_rms = np.full(capacity, np.nan)
        sky_pixels = np.zeros(capacity, np.int64)
        if self.count:
            n = self.count
            rows[:n], half[:n], fit_half[:n], status[:n] = self.rows[:n], self.half[:n], self.fit_half[:n], self.status[:n]
            touch[:n] = self.touch[:n]
            sky_rms[:n], sky_pixels[:n] = self.sky_rms[:n], self.sky_pixels[:n]
        self.rows, self.half, self.fit_half, self.status = rows, half, fit_half, status
        self.sky_rms, self.sky_pixels, self.touch = sky_rms, sky_pixels, touch

    def update_sky(self) -> None:
        """Sky mesh of the residual image, and its value at every pixel."""
        stride = 3 if self.residual.size >= LARGE_IMAGE else 1
        mesh_sky(self.residual, self.good, MESH_CELL, stride, self.level, self.scatter)
        fill_empty_cells(self.level, self.scatter)
        expand_mesh(self.level, MESH_CELL, self.sky)
        expand_mesh(self.scatter, MESH_CELL, self.sky_scatter)

    def candidates(self, threshold: float, model_error: float) -> tuple[NDArray, NDArray, NDArray]:
        """Rows, columns and significances of local maxima, most significant first."""
        significance = np.empty_like(self.residual)
        var_read, poisson_factor, _ = self.noise_planes
        significance_image(
            self.residual, self.scene, self.sky, var_read, poisson_factor, self.good, self.epsf.matched_profile, model_error, significance
        )
        capacity = max(1024, self.residual.size // 16)
        rows, cols, values = np.empty(capacity, np.int64), np.empty(capacity, np.int64), np.empty(capacity)
        found = min(local_maxima(significance, threshold, rows, cols, values), capacity)
        order = np.argsort(-values[:found], kind="stable")
        return rows[:found][order], cols[:found][order], values[:found][order]

    def fit_new(self, y: NDArray, x: NDArray, flux: NDArray, half: NDArray, threshold: float) -> None:
        """Fit candidates in the order given and subtract those that are stars."""
        if self.count + y.size > self.rows.shape[0]:
            self.allocate(self.count + y.size)
        self.count = fit_candidates(
            y.astype(float), x.astype(float), flux.astype(float), half.astype(np.int64), self.residual, self.scene, self.sky, self.good,
            *self.noise_planes, *self.psf_arrays, *self.origin, self.epsf.envelope, self.noise, threshold,
            self.epsf.model_error, MIN_DISTANCE, self.rows, self.half, self.fit_half, self.status, self.touch, self.count,
            self.occupied, self.touched,
        )  # fmt: skip

    def refine(self, fit_sky: bool, annulus: NDArray) -> None:
        """One sweep over all stars in whose surroundings something changed, block by block, bright to faint in each."""
        before, self.touched = self.touched, np.zeros_like(self.touched)
        rows = self.rows[: self.count]
        order = np.lexsort((-rows[:, columns.FLUX], _block(rows[:, columns.Y], rows[:, columns.X])))
        refine_stars(
            order, self.residual, self.scene, self.sky, self.sky_scatter, self.good, *self.noise_planes, *self.psf_arrays, *self.origin,
            self.epsf.envelope, self.noise, fit_sky, self.epsf.model_error, annulus, self.rows, self.half, self.fit_half, self.status, self.touch,
            self.sky_rms, self.sky_pixels, before, self.touched,
        )  # fmt: skip

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Put back the light of the stars outside the mask and forget them."""
        gone = np.flatnonzero(~mask)
        if gone.size:
            remove_stars(gone, self.residual, *self.psf_arrays, *self.origin, self.rows, self.half, self.epsf.envelope, self.noise, self.touched)
            for array in (self.rows, self.half, self.fit_half, self.status, self.touch, self.sky_rms, self.sky_pixels):
                array[: int(mask.sum())] = array[: self.count][mask]
            self.count = int(mask.sum())
        self.mark_occupied()

    def mark_occupied(self) -> None:
        """Note each star's peak pixel."""
        self.occupied[:] = 0
        ny, nx = self.occupied.shape
        y = np.clip(np.floor(self.rows[: self.count, columns.Y] + 0.5).astype(int), 0, ny - 1)
        x = np.clip(np.floor(self.rows[: self.count, columns.X] + 0.5).astype(int), 0, nx - 1)
        self.occupied[y[::-1], x[::-1]] = np.arange(self.count, 0, -1)


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
    scene = _Scene(image, epsf)
    annulus = annulus_offsets(*SKY_ANNULUS)
    halo = None
    seeds = saturated_seeds(image, scene.sky)
    if seeds.x.size:
        scene.fit_new(seeds.y, seeds.x, seeds.flux / epsf.envelope[0], seeds.half, 10.0)
        halo = saturation_halo(image, seeds, scene.rows[: scene.count], epsf)
    for number in range(options.passes):
        last = number == options.passes - 1
        model_error = APPROXIMATE_ERROR if epsf.approximate else FINDER_MODEL_ERROR[min(number, 1)]
        y, x, significance = scene.candidates(CANDIDATE_FRACTION * options.threshold, model_error)
        peak = scene.residual[y, x] - scene.sky[y, x]
        flux = np.maximum(peak, significance * scene.noise) / float(epsf.matched_profile[1, 1])
        if halo is not None:
            keep = flux > halo[y, x]
            y, x, flux = y[keep], x[keep], flux[keep]
        magnitude = np.floor(2.5 * np.log10(flux)).astype(np.int64)
        order = np.lexsort((-flux, _block(y, x), -magnitude))
        half = np.full(y.size, FIT_HALF, np.int64)
        # Neighbours that are not subtracted yet spoil the fit: who is a star is decided after the sweep.
        scene.fit_new(y[order], x[order], flux[order], half, 0.5 * options.threshold)
        scene.update_sky()
        for _ in range(FINAL_SWEEPS if last else 1):
            scene.refine(options.fit_sky, annulus)
        scene.keep(_still_stars(scene.rows[: scene.count], scene.fit_half[: scene.count], options.threshold, last))
    order = np.argsort(-scene.rows[: scene.count, columns.FLUX], kind="stable")
    near = np.zeros(order.size, bool)
    if halo is not None:
        y = np.clip(np.rint(scene.rows[order, columns.Y]).astype(int), 0, image.shape[0] - 1)
        x = np.clip(np.rint(scene.rows[order, columns.X]).astype(int), 0, image.shape[1] - 1)
        near = (halo[y, x] > 0.1 * scene.rows[order, columns.FLUX]) & (scene.fit_half[order] == FIT_HALF)
    return StarMeasurements(
        scene.rows[order], scene.sky_rms[order], scene.sky_pixels[order], scene.status[order], scene.fit_half[order],
        scene.half[order], near, scene.residual,
    )


def _block(y: NDArray, x: NDArray) -> NDArray[np.int64]:
    """Number of the 64 x 64 pixel block of a position: neighbours in turn find their pixels in the processor's cache."""
    return np.asarray((y // 64).astype(np.int64) * 65536 + (x // 64).astype(np.int64))


def _still_stars(rows: NDArray, fit_half: NDArray, threshold: float, last: bool) -> NDArray[np.bool_]:
    """Stars that are still significant with their neighbours subtracted, and in the last round have the shape of the ePSF.

    Until then a bad shape may come from a neighbour that the next round finds.
    """
    significant = np.asarray(rows[:, columns.FLUX] > threshold * rows[:, columns.FLUX_ERROR])
    if not last:
        return significant
    sharp = (rows[:, columns.RADXS] < SHARP_LIMIT) & (rows[:, columns.RADXS] < -SHARP_SIGMA * rows[:, columns.RADXS_ERROR])
    fits = (rows[:, columns.CHI_ROBUST] < MAX_CHI) | (fit_half > FIT_HALF)
    return np.asarray(significant & fits & ~sharp)
