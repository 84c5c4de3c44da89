"""Luminosity functions in bins, corrected for completeness (paper 1, section 4.2 and figure 6).

A star measured at magnitude m stands for 1 / c(m) stars.  The Poisson error of a bin is that of its counts, carried through
this factor; completeness adds an error that all stars of a bin, and neighbouring bins, have in common, so that sums over bins
need the covariance.  c is a function of the TRUE magnitude: give magnitudes corrected for migration (`correct_magnitudes`), or
where errors are not small against the shape, use `fit_luminosity_function`, which needs neither bins nor corrections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.stats import poisson_conf_interval
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import expit

from dpm.science.completeness import bin_edges
from dpm.science.completeness_curve import CompletenessCurve
from dpm.science.completeness_fit import model

__all__ = ["LuminosityFunction", "luminosity_function"]

LIMITS = 0.5, 0.25  # completeness below which counts are doubtful, and below which they say nothing (paper 1, figure 6)


@dataclass(frozen=True)
class LuminosityFunction:
    """Stars in bins of magnitude.

    Parameters
    ----------
    edges : ndarray (bins + 1,)
        Magnitudes.
    counts : ndarray (bins,)
        Observed stars.
    corrected : ndarray (bins,)
        Stars after correction for completeness; NaN where the completeness is not known.
    poisson_covariance, completeness_covariance : ndarray (bins, bins)
        Of ``corrected``: from the counts (diagonal) and from the errors of the completeness.
    completeness : ndarray (bins,)
        Observed over corrected stars; in bins without a star, the completeness in the middle.
    limits : dict of float to float
        Magnitude at which completeness falls to 50 % and to 25 %, where it is known.
    n_left_out : int
        Stars inside the bins whose completeness is not known; they are in no bin.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    corrected: NDArray[np.float64]
    poisson_covariance: NDArray[np.float64]
    completeness_covariance: NDArray[np.float64]
    completeness: NDArray[np.float64]
    limits: dict[float, float]
    n_left_out: int

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Of the corrected counts (bins, bins), all errors."""
        return self.poisson_covariance + self.completeness_covariance

    def interval(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One-sigma interval of the corrected counts: Poisson's (Garwood), widened by the error of the completeness.

        Bins without a star have an upper end.
        """
        low, high = poisson_conf_interval(self.counts, interval="frequentist-confidence")
        factor = np.where(self.counts > 0, self.corrected / np.maximum(self.counts, 1), 1.0 / self.completeness)
        error = np.sqrt(np.diag(self.completeness_covariance))
        down = np.hypot(self.corrected - low * factor, error)
        up = np.hypot(high * factor - self.corrected, error)
        return np.maximum(self.corrected - down, 0.0), self.corrected + up

    def to_table(self) -> Table:
        """``mag_low, mag_high, mag, n, completeness, corrected, corrected_error`` and the interval ``_low, _high`` (one sigma)."""
        low, high = self.interval()
        return Table(
            {
                "mag_low": self.edges[:-1],
                "mag_high": self.edges[1:],
                "mag": 0.5 * (self.edges[:-1] + self.edges[1:]),
                "n": self.counts,
                "completeness": self.completeness,
                "corrected": self.corrected,
                "corrected_error": np.sqrt(np.diag(self.covariance)),
                "corrected_low": low,
                "corrected_high": high,
            },
            meta={f"mag_{100 * share:.0f}": mag for share, mag in self.limits.items()} | {"n_left_out": self.n_left_out},
        )


def luminosity_function(
    magnitudes: Any,
    completeness: CompletenessCurve | Any,
    bins: float | Sequence[float] | NDArray[Any] = 0.1,
    completeness_error: Any = None,
) -> LuminosityFunction:
    """Count stars in bins and correct for completeness.

    Parameters
    ----------
    magnitudes : array_like (n,)
        Magnitudes; stars without one are not counted.
    completeness : CompletenessCurve or array_like (n,)
        Curve of the SAME selections as the stars', or each star's own completeness, 0 to 1.
    bins : float or array_like
        Width of the bins (whose edges are multiples of it), mag, or their edges.
    completeness_error : array_like (n,), optional
        One-sigma errors of each star's completeness, taken as common to all stars of a bin.  A curve has its own.

    Returns
    -------
    LuminosityFunction

    Raises
    ------
    ValueError
        If completeness is not between 0 and 1, or not one number a star.
    """
    mag = np.asarray(magnitudes, dtype=float)
    curve = completeness if isinstance(completeness, CompletenessCurve) else None
    share = curve(mag) if curve is not None else np.asarray(completeness, dtype=float)
    if share.shape != mag.shape:
        raise ValueError(f"completeness has shape {share.shape}, magnitudes {mag.shape}: give a curve, or one number a star")
    if np.any(share > 1.0) or np.any(share < 0.0):
        raise ValueError("completeness has to be between 0 and 1; is it in per cent?")
    seen = np.isfinite(mag)
    edges = bin_edges(mag[seen], bins)
    place = np.searchsorted(edges, mag, side="right") - 1
    n_bins = edges.size - 1
    inside = seen & (place >= 0) & (place < n_bins)
    known = inside & (share > 0)
    place, share, mag = place[known], share[known], mag[known]
    counts = np.bincount(place, minlength=n_bins)
    corrected = np.bincount(place, 1.0 / share, n_bins)
    poisson = np.bincount(place, share**-2.0, n_bins)
    middle = 0.5 * (edges[:-1] + edges[1:])
    if curve is not None:
        jacobian = np.zeros((n_bins, curve.parameters.size))
        # d(1/c)/d(parameters): c is the logistic function of the curve's value
        value, gradient = model(curve.form, curve.parameters, curve.knots, mag)
        np.add.at(jacobian, place, -(expit(-value) / expit(value))[:, None] * gradient)
        common = jacobian @ curve.covariance @ jacobian.T
        between = curve(middle)
        limits = {level: curve.limit(level)[0] for level in LIMITS}
    else:
        error = np.zeros(share.size) if completeness_error is None else np.asarray(completeness_error, dtype=float)[known]
        common = np.diag(np.bincount(place, error / share**2, n_bins) ** 2)
        order = np.argsort(mag)
        between = np.interp(middle, mag[order], share[order], np.nan, np.nan) if order.size else np.full(n_bins, np.nan)
        limits = {level: _crossing(mag[order], share[order], level) for level in LIMITS}
    return LuminosityFunction(
        edges=edges,
        counts=counts,
        corrected=np.where((counts == 0) & ~(between > 0), np.nan, corrected),
        poisson_covariance=np.diag(poisson),
        completeness_covariance=common,
        completeness=np.where(counts > 0, counts / np.maximum(corrected, 1e-300), between),
        limits={level: mag for level, mag in limits.items() if np.isfinite(mag)},
        n_left_out=int(inside.sum() - known.sum()),
    )


def _crossing(mag: NDArray[np.float64], share: NDArray[np.float64], level: float) -> float:
    """Magnitude of the first star, of stars in order of magnitude, from which on all are less complete than a level."""
    above = np.flatnonzero(share >= level)
    if above.size == 0 or above[-1] == mag.size - 1:
        return np.nan
    return float(mag[above[-1] + 1])
