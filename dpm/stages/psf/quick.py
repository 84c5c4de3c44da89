"""A single ePSF made quickly from bright isolated stars, for data without a library.

Starts from the diffraction pattern of the telescope with the blur that fits the stars best (where the pixels undersample it, the
iteration stays near its start, so the start matters), fits the stars, averages the normalised residuals on the 4 x grid with
clipping and smoothing that grows outwards, adds them, centres, and repeats on the same stamps (after Anderson & King 2000).
Positions come from the same exposures, so pixel-phase errors are not fully broken: the result is flagged as approximate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.io.cubes import read_exposure
from dpm.kernels import quality as columns
from dpm.kernels.epsf import OVERSAMPLING, SAMPLES
from dpm.kernels.stamps import Stamps, fit_stamps
from dpm.models.detectors import band_name, band_wavelength, find_detector
from dpm.models.epsf import GriddedEPSF, centre_samples
from dpm.models.exposure import ExposureImage
from dpm.models.options import FindOptions
from dpm.models.statistics import robust_width
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.psf.candidates import StarStamps, choose_stars, cut_stars, drop_outliers
from dpm.stages.psf.diffraction import diffraction_epsf
from dpm.stages.psf.grid import normalise, radius_grid

__all__ = ["QuickEPSF", "build_quick_epsf", "load_images"]

BLURS = tuple(np.arange(0.0, 0.81, 0.05))  # pixels, Gaussian sigma beside diffraction
FIRST_BLUR = 0.3  # pixels; good enough to find the stars with
# The stars: chosen from a few rounds of finding only, since those that serve stand far above the threshold.
FIND_THRESHOLD = 15.0  # of the matched filter's noise
FIND_PASSES = 2
MIN_SIGNAL_TO_NOISE = 40.0
LOWER_SIGNAL_TO_NOISE = 20.0  # where too few stars reach the one above
MAX_STARS = 400
FEW_STARS = 20
ROUNDS = 15
CONVERGED = 5e-4  # of the peak
CLIP = 4.0  # sigma, of a residual
CORE_TAPER = (4.5, 6.5)  # pixels; the stars decide inside, diffraction outside
SMOOTHING = ((0.0, 0.6), (1.0, 0.8), (2.5, 1.8), (5.0, 3.5), (8.0, 6.0))  # radius in pixels, sigma in samples
PRIOR_STARS = 1.0  # the diffraction pattern counts as this many stars of median weight
MIN_MODEL_ERROR = 0.002  # relative; no quick ePSF is better
FLOOR_SHARE = 0.1  # of the model so far; the lowest that a round may leave
DIFFRACTION_ERROR = 0.1  # relative error ascribed to a diffraction pattern that no star has confirmed


@dataclass(frozen=True)
class QuickEPSF:
    """Result of `build_quick_epsf`: the ePSF, how many stars made it, its last change (of the peak), and words about it."""

    epsf: GriddedEPSF
    n_stars: int
    last_change: float
    description: str
    warnings: tuple[str, ...]


def load_images(cube: Path, indices: list[int]) -> Iterator[ExposureImage]:
    """The cube's exposures one after the other, so that only one is in memory."""
    for index in indices:
        yield read_exposure(cube, index)


def build_quick_epsf(images: Iterable[ExposureImage], filter_name: str, pixel_scale: float, detector: str) -> QuickEPSF:
    """Make one ePSF for a detector from the exposures' own stars.

    Parameters
    ----------
    images : iterable of ExposureImage
        Exposures of one detector and filter.
    filter_name : str
    pixel_scale : float
        Arcsec.
    detector : str
        Name in the registry `dpm.models.detectors`.

    Returns
    -------
    QuickEPSF
        With no usable star the diffraction pattern itself, and a warning that says so.
    """
    telescope, wavelength = find_detector(detector).telescope, band_wavelength(band_name(detector, filter_name))
    samples = normalise(diffraction_epsf(wavelength, telescope, pixel_scale, FIRST_BLUR))
    node = np.zeros(1)
    first = GriddedEPSF(samples[None, None], node, node, source="diffraction", approximate=True)
    parts = [part for part in (_collect(image, first) for image in images) if part is not None]
    if not parts:
        text = "no bright isolated star to make an ePSF from: the diffraction pattern of the telescope is used as it is"
        return QuickEPSF(_as_epsf(samples, "diffraction", DIFFRACTION_ERROR), 0, 1.0, "diffraction pattern, no stars", (text,))
    stamps = _brightest(parts)
    samples = _best_blur(stamps, wavelength, telescope, pixel_scale)
    change = 1.0
    results = stamps.start
    for _ in range(ROUNDS):
        results, residuals, weights = _fit(stamps, samples)
        correction = _average_residuals(results, residuals, weights)
        new = normalise(centre_samples(np.maximum(samples + correction * _core_share(), _floor(samples)))[0])
        change = float(np.abs(new - samples).max() / new.max())
        samples = new
        stamps.start = np.where(np.isfinite(results[:, columns.CHI : columns.CHI + 1]), results, stamps.start)
        if change < CONVERGED:
            break
    results, residuals, weights = _fit(stamps, samples)
    used = int(np.isfinite(results[:, columns.CHI]).sum())
    error = _model_error(results, residuals, weights, samples)
    warnings = []
    if used < FEW_STARS:
        warnings.append(f"quick ePSF made from {used} stars only: its shape leans on the diffraction pattern")
    text = f"quick ePSF from {used} stars, last change {change:.1e} of the peak, model error {error:.3f}"
    return QuickEPSF(_as_epsf(samples, "quick", error), used, change, text, tuple(warnings))


def _best_blur(stamps: StarStamps, wavelength: float, telescope: str, pixel_scale: float) -> NDArray[np.float64]:
    """The blurred diffraction pattern with the smallest median chi of the stars."""
    trials = [normalise(diffraction_epsf(wavelength, telescope, pixel_scale, blur)) for blur in BLURS]
    chi = [float(np.nanmedian(_fit(stamps, trial)[0][:, columns.CHI])) for trial in trials]
    return trials[int(np.nanargmin(chi))]


def _as_epsf(samples: NDArray[np.float64], source: str, error: float) -> GriddedEPSF:
    node = np.zeros(1)
    return GriddedEPSF(samples[None, None], node, node, source=source, approximate=True, model_error=error)


def _core_share() -> NDArray[np.float64]:
    """1 in the core, 0 in the wings: there neighbours and the sky weigh more than the stars, and diffraction stands."""
    inner, outer = CORE_TAPER
    return np.asarray(np.clip((outer - radius_grid()) / (outer - inner), 0.0, 1.0))


def _floor(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lowest value allowed, so that noise makes no holes."""
    return np.asarray(FLOOR_SHARE * np.maximum(samples, 0.0))


def _collect(image: ExposureImage, epsf: GriddedEPSF) -> StarStamps | None:
    """Stamps of the bright, isolated, unsaturated stars of one exposure."""
    measured = measure_exposure(image, epsf, FindOptions(threshold=FIND_THRESHOLD, passes=FIND_PASSES))
    for minimum in (MIN_SIGNAL_TO_NOISE, LOWER_SIGNAL_TO_NOISE):
        keep = np.sort(choose_stars(image, measured, minimum))
        if keep.size >= FEW_STARS // 4:
            break
    if keep.size == 0:
        return None
    keep = drop_outliers(measured.rows, keep)[:MAX_STARS]
    stars = cut_stars(image, epsf, measured, keep)
    # Diffraction stands for the wings, so the star's own annulus holds nothing that is to be learnt.
    stars.start[:, columns.SKY] = measured.rows[keep, columns.SKY]
    return stars


def _brightest(parts: list[StarStamps]) -> StarStamps:
    start = np.concatenate([part.start for part in parts])
    order = np.argsort(-start[:, columns.FLUX], kind="stable")[:MAX_STARS]
    joined = (np.concatenate(arrays)[order] for arrays in zip(*(part.stamps for part in parts), strict=True))
    return StarStamps(Stamps(*joined), start[order])


def _fit(stamps: StarStamps, samples: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    epsf = _as_epsf(samples, "quick", 0.0)
    shape = stamps.stamps.values.shape
    results = np.full((shape[0], columns.RESULT_SIZE), np.nan)
    residuals, weights = np.zeros(shape), np.zeros(shape)
    fit_stamps(stamps.stamps, epsf.library(), stamps.start, results, residuals, weights)
    return results, residuals, weights


def _average_residuals(results: NDArray, residuals: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Clipped, smoothed mean residual on the ePSF's grid."""
    side = residuals.shape[1]
    pixel = np.arange(side)
    column = np.rint((pixel[None, None, :] - results[:, columns.X][:, None, None]) * OVERSAMPLING) + (SAMPLES - 1) // 2
    row = np.rint((pixel[None, :, None] - results[:, columns.Y][:, None, None]) * OVERSAMPLING) + (SAMPLES - 1) // 2
    column, row = np.broadcast_arrays(column, row)
    good = (weights > 0) & (column >= 0) & (column < SAMPLES) & (row >= 0) & (row < SAMPLES)
    index = (row[good] * SAMPLES + column[good]).astype(int)
    value, weight = residuals[good], weights[good]
    # No star may outweigh the others by more than the model's own errors allow: cap at the median core weight.
    weight = np.minimum(weight, np.quantile(weight, 0.9))
    prior = PRIOR_STARS * float(np.median(weight))
    keep = np.ones(value.size, bool)
    correction = np.zeros((SAMPLES, SAMPLES))
    for _ in range(2):
        top = np.bincount(index[keep], weight[keep] * value[keep], SAMPLES**2).reshape(SAMPLES, SAMPLES)
        bottom = np.bincount(index[keep], weight[keep], SAMPLES**2).reshape(SAMPLES, SAMPLES)
        correction = _smooth(top, bottom, prior)
        deviation = value - correction.ravel()[index]
        spread = _spread(deviation, index)
        keep = np.abs(deviation) < CLIP * np.maximum(spread, 1 / np.sqrt(weight))
    return correction


def _spread(deviation: NDArray, index: NDArray) -> NDArray[np.float64]:
    """Robust scatter of the deviations in rings of one pixel."""
    ring = radius_grid().ravel()[index].astype(int)
    out = np.empty(deviation.size)
    for k in np.unique(ring):
        inside = ring == k
        out[inside] = robust_width(deviation[inside], 0.0)
    return out


def _smooth(top: NDArray, bottom: NDArray, prior: float) -> NDArray[np.float64]:
    """Weighted mean under a Gaussian kernel whose width grows with the radius."""
    radius = radius_grid()
    radii = np.array([entry[0] for entry in SMOOTHING])
    layers = []
    for _, sigma in SMOOTHING:
        # A Gaussian filter is a mean: times its effective number of samples it is the sum under the kernel.
        count = max(4 * np.pi * sigma**2, 1.0)
        layers.append(ndimage.gaussian_filter(top, sigma) * count / (ndimage.gaussian_filter(bottom, sigma) * count + prior))
    position = np.interp(radius, radii, np.arange(radii.size))
    lower = np.minimum(position.astype(int), radii.size - 2)
    share = position - lower
    stack = np.array(layers)
    rows, cols = np.mgrid[:SAMPLES, :SAMPLES]
    return np.asarray((1 - share) * stack[lower, rows, cols] + share * stack[lower + 1, rows, cols])


def _model_error(results: NDArray, residuals: NDArray, weights: NDArray, samples: NDArray) -> float:
    """Scatter of the core's residuals beyond the noise, relative to psi, over the pixels within 1.5 pixels of the stars."""
    side = residuals.shape[1]
    pixel = np.arange(side)
    dx = pixel[None, None, :] - results[:, columns.X][:, None, None]
    dy = pixel[None, :, None] - results[:, columns.Y][:, None, None]
    core = (np.hypot(dx, dy) < 1.5) & (weights > 0)
    half = (SAMPLES - 1) // 2
    row = np.rint(np.broadcast_to(dy, core.shape)[core] * OVERSAMPLING).astype(int) + half
    column = np.rint(np.broadcast_to(dx, core.shape)[core] * OVERSAMPLING).astype(int) + half
    psi2 = samples[row, column] ** 2
    # The median of a squared unit normal is 0.455.
    total = np.median(residuals[core] ** 2 / psi2) / 0.455
    noise = np.median(1.0 / (weights[core] * psi2))
    return float(np.sqrt(max(total - noise, MIN_MODEL_ERROR**2)))
