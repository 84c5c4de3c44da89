"""How the ePSF's centre depends on brightness (brighter-fatter; Plazas et al. as cited in paper 2, section 3.1).

Light that is due in a full pixel is recorded beside it, in proportion to the difference of charge. So the centre of a star's image,
relative to the fitted ePSF, falls linearly with the light in its brightest pixel; the slope is what is measured here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.epsf_samples import sample_stamps
from dpm.models.epsf import GriddedEPSF
from dpm.models.statistics import robust_width
from dpm.stages.psf.candidates import STAMP_HALF, StarStamps
from dpm.stages.psf.samples import fit_candidates

__all__ = ["BrightnessSlope", "brightness_slope", "combine_slopes"]

FEWEST_STARS = 30
CLIP = 4.0  # sigma
ROUNDS = 3
MODEL_ERROR = 0.005  # of psi; the stars' pixel phases and zones leave as much
CENTRE = 0.75  # pixels; residuals within are the star's centre

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BrightnessSlope:
    """Change of the centre's light with brightness.

    Parameters
    ----------
    slope, error : float
        Relative change of the centre per unit of light in the brightest pixel, and its error from the stars' scatter.
    peak : float
        The most light in one pixel of the stars used, in the exposure's flux unit.
    stars : int
    """

    slope: float
    error: float
    peak: float
    stars: int


def brightness_slope(stars: StarStamps, epsf: GriddedEPSF) -> BrightnessSlope | None:
    """Slope of the centre's relative residual over the light in the brightest pixel; None with too few stars.

    Parameters
    ----------
    stars : StarStamps
        Bright, isolated, unsaturated stars of one exposure.
    epsf : GriddedEPSF
        What they are fitted with.
    """
    if len(stars) < FEWEST_STARS:
        return None
    fits = fit_candidates(stars, epsf)
    shape = stars.stamps.values.shape
    fitted, chi = np.empty(len(stars)), np.empty(len(stars))
    residuals, weights = np.empty(shape, np.float32), np.empty(shape, np.float32)
    position = fits.raw - stars.first
    sky = np.ascontiguousarray(stars.start[:, columns.SKY])
    free = np.full(len(stars), np.nan)
    sample_stamps(stars.stamps, epsf.library(), position, sky, free, MODEL_ERROR, fitted, chi, residuals, weights)
    middle = np.s_[STAMP_HALF - 2 : STAMP_HALF + 3]
    pixel = np.arange(STAMP_HALF - 2, STAMP_HALF + 3)
    safe = np.where(np.isfinite(position), position, 0.0)
    distance = np.hypot(pixel[None, None, :] - safe[:, 0, None, None], pixel[None, :, None] - safe[:, 1, None, None])
    value = np.asarray(stars.stamps.values, float)[:, middle, middle] - sky[:, None, None]
    residual, weight = residuals[:, middle, middle].astype(float), weights[:, middle, middle].astype(float)
    psi = np.where(weight > 0, value / np.where(chi > 0, fitted, 1.0)[:, None, None] - residual, 0.0)
    weight = np.where(distance < CENTRE, weight, 0.0)
    bottom = (weight * psi**2).sum(axis=(1, 2))
    good = np.isfinite(chi) & (bottom > 0)
    excess = np.where(good, (weight * psi * residual).sum(axis=(1, 2)) / np.where(good, bottom, 1.0), 0.0)
    peak = value.max(axis=(1, 2))
    return _line(peak[good], excess[good], 1.0 / bottom[good])


def _line(peak: Floats, excess: Floats, variance: Floats) -> BrightnessSlope | None:
    """Clipped straight line."""
    used = np.isfinite(excess) & np.isfinite(peak)
    slope, error = 0.0, np.inf
    for _ in range(ROUNDS):
        if used.sum() < FEWEST_STARS:
            return None
        weight = 1.0 / variance[used]
        centre = np.average(peak[used], weights=weight)
        offset = peak[used] - centre
        spread = float((weight * offset**2).sum())
        level = np.average(excess[used], weights=weight)
        slope = float((weight * offset * excess[used]).sum()) / spread
        deviation = (excess - level - slope * (peak - centre)) / np.sqrt(variance)
        width = max(robust_width(deviation[used], 0.0), 1.0)
        error = width / np.sqrt(spread)
        used &= np.abs(deviation) < CLIP * width
    return BrightnessSlope(slope, float(error), float(peak[used].max()), int(used.sum()))


def combine_slopes(slopes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean of the exposures' slopes by their errors, as the relative change of the centre from no light to the brightest star.

    Returns
    -------
    dict or None
        ``change`` and ``error`` (relative), ``peak`` (flux unit; the brightest pixel of any star used) and ``stars``.
    """
    if not slopes:
        return None
    parts = [BrightnessSlope(**slope) for slope in slopes]
    weight = np.array([1.0 / part.error**2 for part in parts])
    mean = float(np.average([part.slope for part in parts], weights=weight))
    peak = max(part.peak for part in parts)
    combined = BrightnessSlope(mean * peak, peak / float(np.sqrt(weight.sum())), peak, sum(part.stars for part in parts))
    out = asdict(combined)
    return {"change": out.pop("slope")} | out
