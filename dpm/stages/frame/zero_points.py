"""Photometric zero points of the units of one band against its central exposure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from dpm.kernels.matching import grouped_median
from dpm.models.statistics import MEDIAN_TO_MEAN_ERROR, robust_width

__all__ = ["solve_zero_points"]

Floats = NDArray[np.float64]

# Bright stars of a unit that count, fewest stars that tie two units, rounds of the solution.
MOST_STARS = 300
FEWEST_COMMON = 3
ROUNDS = 30
CLIP = 3.0


def solve_zero_points(
    star: NDArray[np.int64],
    unit: NDArray[np.int64],
    mag: Floats,
    mag_error: Floats,
    n_units: int,
    central: int,
    prior: Floats,
) -> tuple[Floats, Floats]:
    """Zero points by clipped medians of the bright stars that units have in common.

    First each unit is tied to the ones before it, the best connected first; then all are solved together, each against
    the median magnitudes of its stars, until nothing moves.

    Parameters
    ----------
    star, unit : ndarray (n,), int
        Star and unit of every well-measured detection of the band.
    mag, mag_error : ndarray (n,)
        Instrumental magnitudes.
    n_units : int
        Number of units.
    central : int
        The unit whose zero point is 0.
    prior : ndarray (n_units,)
        Zero points from headers or configuration; they tie units without common stars.  NaN: unknown.

    Returns
    -------
    zero_point, error : ndarray (n_units,)
        To be added to instrumental magnitudes, 0 with error 0 for the central unit; the error is NaN where a unit
        shares no stars with others and rests on the prior alone.
    """
    keep = np.isfinite(mag) & np.isfinite(mag_error) & (mag_error > 0)
    keep &= _bright(unit, mag, keep, n_units)
    star, unit, mag = star[keep], unit[keep], mag[keep]
    _, star = np.unique(star, return_inverse=True)
    n_stars = int(star.max()) + 1 if len(star) else 0
    zero_point = _chain(star, unit, mag, n_units, n_stars, central, prior)
    order = np.argsort(star, kind="stable")
    star, unit, mag = star[order], unit[order], mag[order]
    edges = np.searchsorted(star, np.arange(n_stars + 1))
    several = np.diff(edges)[star] >= 2
    by_unit = np.argsort(unit[several], kind="stable")
    unit_edges = np.searchsorted(unit[several][by_unit], np.arange(n_units + 1))
    for _ in range(ROUNDS):
        level = mag + zero_point[unit]
        residual = (level - grouped_median(level, edges)[star])[several][by_unit]
        step = np.zeros(n_units)
        for k in range(n_units):
            part = residual[unit_edges[k] : unit_edges[k + 1]]
            if len(part) >= FEWEST_COMMON:
                step[k] = _clipped_median(part)
        step -= step[central]
        zero_point = zero_point - step
        if np.max(np.abs(step)) < 1e-6:
            break
    zero_point = zero_point - zero_point[central]
    error = _errors(star[several], unit[several], (mag + zero_point[unit])[several], n_stars, n_units, central)
    return zero_point, error


def _errors(star: NDArray[np.int64], unit: NDArray[np.int64], level: Floats, n_stars: int, n_units: int, central: int) -> Floats:
    """Errors of zero points against the central unit's: the normal matrix of all common stars, inverted.

    A median has a larger error than a mean.
    """
    members = np.bincount(star, minlength=n_stars)
    mean = np.bincount(star, level, n_stars) / np.maximum(members, 1)
    # Residuals about a mean of m measurements are too small by sqrt(1 - 1/m).
    residual = np.abs(level - mean[star]) / np.sqrt(1 - 1 / np.maximum(members[star], 2))
    sigma = np.full(n_units, np.nan)
    for k in range(n_units):
        mine = residual[unit == k]
        sigma[k] = robust_width(mine, 0.0) if len(mine) else np.nan
    # A few stars may agree by luck.
    typical = float(np.nanmedian(sigma)) if np.isfinite(sigma).any() else 0.01
    sigma = np.maximum(sigma, 0.5 * max(typical, 1e-6))
    weight = np.where(np.isfinite(sigma), 1 / sigma**2, 0.0)
    table = csr_matrix((weight[unit], (star, unit)), shape=(n_stars, n_units))
    total = np.asarray(table.sum(axis=1)).ravel()
    scaled = table.multiply(1 / np.where(total > 0, total, 1.0)[:, None]).tocsr()
    normal = np.diag(np.asarray(table.sum(axis=0)).ravel()) - (table.T @ scaled).toarray()
    _, component = connected_components(csr_matrix(np.abs(normal) > 0), directed=False)
    tied = np.flatnonzero((component == component[central]) & (np.arange(n_units) != central))
    error = np.full(n_units, np.nan)
    error[central] = 0.0
    if len(tied):
        variance = np.diag(np.linalg.pinv(normal[np.ix_(tied, tied)], hermitian=True))
        error[tied] = MEDIAN_TO_MEAN_ERROR * np.sqrt(np.maximum(variance, 0.0))
    return error


def _bright(unit: NDArray[np.int64], mag: Floats, keep: NDArray[np.bool_], n_units: int) -> NDArray[np.bool_]:
    chosen = np.zeros(len(unit), dtype=bool)
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(unit[rows], kind="stable")]
    edges = np.searchsorted(unit[rows], np.arange(n_units + 1))
    for k in range(n_units):
        mine = rows[edges[k] : edges[k + 1]]
        if len(mine) > MOST_STARS:
            mine = mine[np.argpartition(mag[mine], MOST_STARS)[:MOST_STARS]]
        chosen[mine] = True
    return chosen


def _chain(
    star: NDArray[np.int64],
    unit: NDArray[np.int64],
    mag: Floats,
    n_units: int,
    n_stars: int,
    central: int,
    prior: Floats,
) -> Floats:
    """Start values: tie units one after the other to what is tied already."""
    zero_point = np.zeros(n_units)
    done = np.zeros(n_units, dtype=bool)
    total, count = np.zeros(n_stars), np.zeros(n_stars)
    rows = [np.flatnonzero(unit == k) for k in range(n_units)]
    common = np.zeros(n_units, dtype=np.int64)
    k, linked = central, True
    while True:
        part = rows[k]
        known = part[count[star[part]] > 0]
        if k != central and linked:
            zero_point[k] = _clipped_median(total[star[known]] / count[star[known]] - mag[known])
        elif k != central:
            difference = prior[k] - prior[central]
            zero_point[k] = difference if np.isfinite(difference) else 0.0
        done[k] = True
        total[star[part]] += mag[part] + zero_point[k]
        count[star[part]] += 1
        if done.all():
            return zero_point
        common = np.bincount(unit, count[star] > 0, n_units).astype(np.int64)
        common[done] = -1
        k = int(np.argmax(common))
        linked = bool(common[k] >= FEWEST_COMMON)


def _clipped_median(values: Floats) -> float:
    """Median after clipping."""
    for _ in range(10):
        middle = float(np.median(values))
        width = max(robust_width(values, middle), 1e-6)
        inside = np.abs(values - middle) <= CLIP * width
        if inside.all():
            break
        values = values[inside]
    return float(np.median(values))
