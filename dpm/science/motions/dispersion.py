"""Bulk motion and intrinsic dispersion of a group of stars, with each star's own errors.

The dispersion maximises the restricted likelihood: the mean is marginalised over, without which the dispersion of few stars comes
out low.  Stars that a limit in motion has cut away bias it low as well; `fit_mixture` does without a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from dpm.models.statistics import MAD_TO_SIGMA, MEDIAN_TO_MEAN_ERROR
from dpm.science.motions.vectors import MotionError

__all__ = ["BulkMotion", "Dispersion", "bulk_motion", "dispersion_profile", "intrinsic_dispersion", "radial_and_tangential"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ROUNDS = 50


@dataclass(frozen=True)
class BulkMotion:
    """Clipped median of motions.

    Parameters
    ----------
    motion, error : ndarray (2,)
        mas/yr.
    used : ndarray (n,), bool
    """

    motion: Floats
    error: Floats
    used: Bools


@dataclass(frozen=True)
class Dispersion:
    """Intrinsic dispersion of one axis.

    Parameters
    ----------
    sigma, error : float
        Of the input's unit; the error is half of the interval.
    interval : (float, float)
        Where twice the log-likelihood is lower by one; begins at zero for an upper limit.
    mean, mean_error : ndarray
        Weighted mean, of one component or two.
    n : int
        Stars.
    """

    sigma: float
    error: float
    interval: tuple[float, float]
    mean: Floats
    mean_error: Floats
    n: int


def bulk_motion(motion: NDArray, clip: float = 3.0) -> BulkMotion:
    """Sigma-clipped median (paper 2, section 5), and its error from the scatter.

    Parameters
    ----------
    motion : array_like (n, 2)
    clip : float
        Standard deviations of the stars left, each axis.

    Raises
    ------
    MotionError
        If fewer than three stars have motions.
    """
    motion = np.asarray(motion, dtype=float)
    known = np.isfinite(motion).all(axis=1)
    if known.sum() < 3:
        raise MotionError(f"{int(known.sum())} stars with motions: a median with an error needs three or more")
    used = known
    middle = np.median(motion[used], axis=0)
    width = MAD_TO_SIGMA * np.median(np.abs(motion[used] - middle), axis=0)
    for _ in range(ROUNDS):
        with np.errstate(invalid="ignore"):
            keep = known & (np.abs(motion - middle) <= clip * width).all(axis=1)
        if keep.sum() < 3 or np.array_equal(keep, used):
            break
        used = keep
        middle, width = np.median(motion[used], axis=0), np.std(motion[used], axis=0, ddof=1)
    return BulkMotion(middle, MEDIAN_TO_MEAN_ERROR * width / np.sqrt(used.sum()), used)


def intrinsic_dispersion(motion: NDArray, covariance: NDArray) -> Dispersion:
    """Dispersion beyond the errors, equal on both axes where there are two.

    Parameters
    ----------
    motion : array_like (n, 2) or (n,)
    covariance : array_like (n, 2, 2) or (n,)
        Variances for one component.

    Raises
    ------
    MotionError
        If fewer than three stars have motions.
    """
    motion, covariance = np.asarray(motion, dtype=float), np.asarray(covariance, dtype=float)
    if motion.ndim == 1:
        motion, covariance = motion[:, None], covariance[:, None, None]
    known = np.isfinite(motion).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    motion, covariance = motion[known], covariance[known]
    n, axes = motion.shape
    if n < 3:
        raise MotionError(f"{n} stars with motions: a dispersion needs three or more")
    # Along each star's principal axes the likelihood needs no inverse: eigenvalues once for all dispersions.
    values, vectors = np.linalg.eigh(covariance)

    def solve(square: float) -> tuple[float, Floats, Floats]:
        inverse = (vectors / (values + square)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        total = inverse.sum(axis=0)
        spread = np.linalg.inv(total)
        mean = spread @ np.einsum("nij,nj->i", inverse, motion)
        off = np.einsum("nij,ni->nj", vectors, motion - mean)
        cost = np.sum(np.log(values + square)) + np.sum(off**2 / (values + square)) + np.linalg.slogdet(total)[1]
        return float(cost), mean, spread

    tiny = 1e-6 * max(float(np.sqrt(np.median(values))), 1e-12)
    top = 3.0 * float(np.sqrt(np.max(np.var(motion, axis=0)))) + 10 * tiny
    grid = np.concatenate([[tiny], np.geomspace(top * 1e-3, top, 40)])
    costs = [solve(sigma**2)[0] for sigma in grid]
    k = int(np.argmin(costs))
    low, high = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
    best = minimize_scalar(lambda sigma: solve(sigma**2)[0], bounds=(low, high), method="bounded", options={"xatol": 1e-5 * high})
    sigma, least = (float(best.x), float(best.fun)) if best.fun < costs[0] else (0.0, costs[0])

    def above(trial: float) -> float:
        return solve(trial**2)[0] - least - 1.0

    lower = brentq(above, tiny, sigma) if sigma > tiny and above(tiny) > 0 else 0.0
    outer = max(2.0 * sigma, top * 1e-2)
    while above(outer) < 0:
        outer *= 2.0
    upper = brentq(above, max(sigma, tiny), outer)
    _, mean, spread = solve(sigma**2)
    return Dispersion(sigma, 0.5 * (upper - lower), (lower, upper), mean, np.sqrt(np.diag(spread)), n)


def radial_and_tangential(position: NDArray, motion: NDArray, covariance: NDArray) -> tuple[Floats, Floats, Floats, Floats]:
    """Components away from the centre, and across (from the first axis to the second).

    Parameters
    ----------
    position : array_like (n, 2)
        From the centre, along the axes of the motions.
    motion, covariance : array_like (n, 2), (n, 2, 2)
        Relative to the centre's.

    Returns
    -------
    radial, radial_variance, tangential, tangential_variance : ndarray (n,)
        NaN at the very centre.
    """
    position, motion, covariance = (np.asarray(values, dtype=float) for values in (position, motion, covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        outward = position / np.hypot(position[:, 0], position[:, 1])[:, None]
    across = np.column_stack([-outward[:, 1], outward[:, 0]])
    parts: list[Floats] = []
    for unit in (outward, across):
        parts += [np.einsum("ni,ni->n", unit, motion), np.einsum("ni,nij,nj->n", unit, covariance, unit)]
    return parts[0], parts[1], parts[2], parts[3]


def dispersion_profile(
    position: NDArray, motion: NDArray, covariance: NDArray, edges: NDArray | None = None, stars_per_bin: int = 100
) -> Table:
    """Dispersion in rings: both axes together, radial, tangential.

    Parameters
    ----------
    position, motion, covariance : array_like (n, 2), (n, 2), (n, 2, 2)
        From the centre, of members.
    edges : array_like, optional
        Radii between rings; rings of ``stars_per_bin`` stars by default.

    Returns
    -------
    astropy.table.Table
        ``r_low, r_high, r`` (median), ``n, sigma, sigma_error, sigma_radial, sigma_radial_error, sigma_tangential,
        sigma_tangential_error, mean_radial, mean_radial_error, mean_tangential, mean_tangential_error``.
    """
    position, motion, covariance = (np.asarray(values, dtype=float) for values in (position, motion, covariance))
    radius = np.hypot(position[:, 0], position[:, 1])
    known = np.isfinite(radius) & (radius > 0) & np.isfinite(motion).all(axis=1)
    if edges is None:
        n_bins = max(int(known.sum()) // stars_per_bin, 1)
        edges = np.quantile(radius[known], np.linspace(0.0, 1.0, n_bins + 1))
        edges[-1] = np.nextafter(edges[-1], np.inf)
    edges = np.asarray(edges, dtype=float)
    radial, radial2, tangential, tangential2 = radial_and_tangential(position, motion, covariance)
    rows = []
    for low, high in zip(edges[:-1], edges[1:]):
        mine = known & (radius >= low) & (radius < high)
        if mine.sum() < 5:
            continue
        both = intrinsic_dispersion(motion[mine], covariance[mine])
        out, turn = intrinsic_dispersion(radial[mine], radial2[mine]), intrinsic_dispersion(tangential[mine], tangential2[mine])
        row = {"r_low": low, "r_high": high, "r": float(np.median(radius[mine])), "n": int(mine.sum())}
        row |= {"sigma": both.sigma, "sigma_error": both.error}
        for name, part in (("radial", out), ("tangential", turn)):
            row |= {f"sigma_{name}": part.sigma, f"sigma_{name}_error": part.error}
            row |= {f"mean_{name}": float(part.mean[0]), f"mean_{name}_error": float(part.mean_error[0])}
        rows.append(row)
    return Table(rows=rows)
