"""Which detections and stars the report's plots rest on, and sums over a star's exposures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.models.flags import StarFlag
from dpm.models.statistics import MAG_PER_RELATIVE_FLUX, robust_width
from dpm.report.data import RunData, Sample

__all__ = [
    "StarScatter",
    "clean",
    "finite_width",
    "formal_error",
    "measured_residuals",
    "scatter_of_stars",
    "star_magnitudes",
    "well_measured",
]

_UNCLEAN = int(
    StarFlag.SATURATED
    | StarFlag.EDGE
    | StarFlag.FEW_PIXELS
    | StarFlag.NOT_CONVERGED
    | StarFlag.NEAR_SATURATED
    | StarFlag.EXTENDED
    | StarFlag.SHARP
)


@dataclass(frozen=True)
class StarScatter:
    """Scatter of the single exposures about the catalogue, one entry a star with two or more exposures used.

    ``mag`` is the catalogue's magnitude (instrumental where it has none), ``rms`` the scatter of one axis in raw
    pixels, ``mag_rms`` that of the magnitudes, ``formal`` the root mean square of the single exposures' formal errors
    (one axis, pixels), ``formal_mag`` that of the magnitudes, ``n`` the exposures.
    """

    mag: NDArray[np.float64]
    rms: NDArray[np.float64]
    mag_rms: NDArray[np.float64]
    formal: NDArray[np.float64]
    formal_mag: NDArray[np.float64]
    n: NDArray[np.int64]


def formal_error(sample: Sample) -> NDArray[np.float64]:
    """Formal error of one axis, pixels: the quadratic mean of ``x_error`` and ``y_error``."""
    return np.sqrt(0.5 * (sample["x_error"].astype(float) ** 2 + sample["y_error"].astype(float) ** 2))


def clean(sample: Sample) -> NDArray[np.bool_]:
    """Detections in a star's averages without a flag that spoils position or flux."""
    return np.asarray(sample.matched & sample["used"] & ((sample["flags"] & _UNCLEAN) == 0))


def well_measured(sample: Sample, minimum_snr: float = 100.0) -> NDArray[np.bool_]:
    """Clean detections above a signal-to-noise ratio; the better half of all where those are fewer than 30."""
    good = clean(sample)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(sample["flux_error"] > 0, sample["flux"] / sample["flux_error"], 0.0)
    bright = good & (snr >= minimum_snr)
    if bright.sum() >= 30 or not good.any():
        return bright
    return good & (snr >= np.median(snr[good]))


def measured_residuals(sample: Sample, minimum_snr: float = 100.0) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Well-measured detections whose residuals tell something: those of stars in two or more exposures.

    Parameters
    ----------
    sample : Sample
        Detections of a band.
    minimum_snr : float
        As for `well_measured`.

    Returns
    -------
    chosen : ndarray (n,), bool
        The detections.
    factor : ndarray (n of the chosen,)
        sqrt(n / (n - 1)) of the star's n exposures: the mean that a residual is taken about contains the detection
        itself, which makes the scatter smaller by that factor.
    """
    averaged = clean(sample) & np.isfinite(sample["dx"]) & np.isfinite(sample["dy"])
    _, group, count = np.unique(sample["id"][averaged], return_inverse=True, return_counts=True)
    number = np.zeros(len(sample))
    number[averaged] = count[group]
    chosen = well_measured(sample, minimum_snr) & (number > 1)
    return chosen, np.sqrt(number[chosen] / (number[chosen] - 1))


def star_magnitudes(data: RunData, sample: Sample) -> NDArray[np.float64]:
    """Frame catalogue's magnitude of each detection's star; NaN where it has none."""
    column = data.frame_column(f"{sample.band}_mag")
    magnitudes = np.full(len(sample), np.nan)
    if column is not None:
        known = sample["star"] >= 0
        magnitudes[known] = column[sample["star"][known]]
    return magnitudes


def scatter_of_stars(data: RunData, sample: Sample) -> StarScatter:
    """Scatter over exposures of every star with two or more clean detections that the averages use."""
    good = clean(sample) & np.isfinite(sample["dx"]) & np.isfinite(sample["dy"])
    _, group = np.unique(sample["id"][good], return_inverse=True)
    n = np.bincount(group)
    mag = star_magnitudes(data, sample)[good]
    if not np.isfinite(mag).any():
        mag = sample["mag"][good]

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        finite = np.isfinite(values)
        total = np.bincount(group, np.where(finite, values, 0.0), minlength=n.size)
        count = np.bincount(group, finite, minlength=n.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(total / count)

    dx, dy, dmag = (sample[name][good].astype(float) for name in ("dx", "dy", "dmag"))
    with np.errstate(invalid="ignore", divide="ignore"):
        correction = n / (n - 1.0)
        relative = sample["flux_error"][good] / sample["flux"][good]
        mag_scatter = np.sqrt((mean(dmag**2) - mean(dmag) ** 2).clip(0) * correction)
    rms = np.sqrt(
        0.5
        * ((mean(dx**2) - mean(dx) ** 2).clip(0) + (mean(dy**2) - mean(dy) ** 2).clip(0))
        * np.where(n > 1, correction, 0)
    )
    formal = np.sqrt(mean(formal_error(sample)[good] ** 2))
    formal_mag = MAG_PER_RELATIVE_FLUX * np.sqrt(mean(relative.astype(float) ** 2))
    keep = (n > 1) & np.isfinite(rms)
    return StarScatter(
        mag=mean(mag)[keep],
        rms=rms[keep],
        mag_rms=mag_scatter[keep],
        formal=formal[keep],
        formal_mag=formal_mag[keep],
        n=n[keep],
    )


def finite_width(values: NDArray[Any]) -> float:
    """Robust width of the finite values; NaN for fewer than two."""
    finite = values[np.isfinite(values)]
    return robust_width(finite) if finite.size > 1 else float("nan")
