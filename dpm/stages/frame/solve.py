"""Six-parameter transforms of all units of a group to their common mean positions, iterated."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpm.kernels.matching import grouped_median, link_units
from dpm.models.statistics import robust_width
from dpm.models.transform import LinearTransform
from dpm.stages.frame.match import fit_pairs
from dpm.stages.frame.units import Unit, stack

__all__ = ["mean_stars", "solve_group"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# Bright stars of a unit that the transforms rest on, rounds, and the movement (master pixels) that counts as none.
MOST_STARS = 3000
ROUNDS = 12
CONVERGED = 1e-4


def solve_group(units: Sequence[Unit], match_radius: float, clip: float) -> None:
    """Refine ``unit.transform`` of units that are aligned to about a pixel, and set ``unit.fit``.

    Each round links the bright detections into stars, averages them with their errors (and each unit's residual scatter
    in quadrature), and fits every unit to the averages with clipping.

    Parameters
    ----------
    units : sequence of Unit
        Units of one group, all with a transform.
    match_radius : float
        Master pixels.
    clip : float
        Sigmas.
    """
    if len(units) < 2:
        return
    chosen = [unit.bright(MOST_STARS) for unit in units]
    chosen = [np.sort(k) for k in chosen]
    u, starts = stack([unit.u[k] for unit, k in zip(units, chosen)])
    v, _ = stack([unit.v[k] for unit, k in zip(units, chosen)])
    error, _ = stack([np.hypot(unit.x_error[k], unit.y_error[k]) / np.sqrt(2) for unit, k in zip(units, chosen)])
    unit_of = np.repeat(np.arange(len(units)), np.diff(starts))
    scale = np.array([_transform(unit).scale for unit in units])
    sigma = np.where(np.isfinite(error), error, np.nanmedian(error) if np.isfinite(error).any() else 0.1) * scale[unit_of]
    floor = np.full(len(units), 0.1 * match_radius)
    for turn in range(ROUNDS):
        x, y = _positions(units, u, v, starts)
        star_of, n_stars = link_units(x, y, starts, match_radius * (2.0 if turn == 0 else 1.0))
        spread = np.sqrt(sigma**2 + floor[unit_of] ** 2)
        mean_x, mean_y, count = mean_stars(x, y, spread, star_of, n_stars, clip)
        moved = 0.0
        for k, unit in enumerate(units):
            part = np.arange(starts[k], starts[k + 1])
            part = part[count[star_of[part]] >= 2]
            fit = fit_pairs(u[part], v[part], mean_x[star_of[part]], mean_y[star_of[part]], _transform(unit), spread[part], clip)
            if fit is None:
                continue
            before, after = unit.outline(), fit.transform(unit.outline_u, unit.outline_v)
            moved = max(moved, float(np.max(np.hypot(before[0] - after[0], before[1] - after[1]))))
            unit.transform, unit.fit = fit.transform, fit
            floor[k] = _floor(fit.transform(u[part], v[part]), (mean_x[star_of[part]], mean_y[star_of[part]]), sigma[part])
        log.debug("frame round %d: largest movement %.5f pixel", turn + 1, moved)
        if turn >= 2 and moved < CONVERGED:
            break


def mean_stars(
    x: Floats, y: Floats, sigma: Floats, star_of: NDArray[np.int64], n_stars: int, clip: float
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Weighted mean positions, leaving out what lies more than `clip` sigmas from the median.

    Returns
    -------
    x, y : ndarray (n_stars,)
        Means.
    count : ndarray (n_stars,)
        Detections in the mean.
    """
    order = np.argsort(star_of, kind="stable")
    edges = np.searchsorted(star_of[order], np.arange(n_stars + 1))
    middle_x, middle_y = grouped_median(x[order], edges), grouped_median(y[order], edges)
    middle_sigma = grouped_median(sigma[order], edges)
    members = np.diff(edges)
    # The median of few has an error of its own.
    limit = clip * np.sqrt(sigma**2 + middle_sigma[star_of] ** 2 * (1.6 / np.maximum(members[star_of], 1)))
    keep = (members[star_of] < 3) | ((np.abs(x - middle_x[star_of]) < limit) & (np.abs(y - middle_y[star_of]) < limit))
    weight = np.where(keep, 1 / sigma**2, 0.0)
    total = np.bincount(star_of, weight, n_stars)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x = middle_x + np.bincount(star_of, weight * (x - middle_x[star_of]), n_stars) / total
        mean_y = middle_y + np.bincount(star_of, weight * (y - middle_y[star_of]), n_stars) / total
    return mean_x, mean_y, np.bincount(star_of, keep, n_stars).astype(np.int64)


def _transform(unit: Unit) -> LinearTransform:
    return unit.transform or unit.start


def _positions(units: Sequence[Unit], u: Floats, v: Floats, starts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    x, y = np.empty_like(u), np.empty_like(v)
    for k, unit in enumerate(units):
        part = slice(starts[k], starts[k + 1])
        x[part], y[part] = _transform(unit)(u[part], v[part])
    return x, y


def _floor(position: tuple[Floats, Floats], mean: tuple[Floats, Floats], sigma: Floats) -> float:
    """Robust scatter of the best-measured stars beyond their errors; never quite zero, so that no few stars rule."""
    best = np.argsort(sigma, kind="stable")[: max(len(sigma) // 4, min(len(sigma), 20))]
    if len(best) < 5:
        return 0.05
    residual = np.concatenate([position[0][best] - mean[0][best], position[1][best] - mean[1][best]])
    width = robust_width(residual)
    return float(np.sqrt(max(width**2 - float(np.median(sigma[best])) ** 2, 0.002**2)))
