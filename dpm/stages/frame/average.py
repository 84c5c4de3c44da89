"""Mean positions and fluxes of stars from single measurements: weights, clipping, error floors, calibrated errors.

Every unit has an error floor per quantity, added in quadrature to its formal errors: what distortion, the ePSF and
pixel phase leave in bright stars.  It is solved for so that the pulls of bright stars' residuals have width 1.  Errors
of means come from formal errors and floors, and grow where a star's own scatter says so: with chi-square X over f
degrees of freedom the variance is multiplied by (N + X) / (N + f), N standing for the weight of the field's stars that
agree with their errors; never below 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.kernels.matching import grouped_median
from dpm.models.statistics import MAD_TO_SIGMA, MEDIAN_TO_MEAN_ERROR

__all__ = ["MEDIAN_CHI2", "MeanPositions", "MeanValues", "error_growth", "mean_positions", "mean_values"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Bright stars that a unit's floor rests on: most, fewest; rounds; floor where nothing can be measured (pixels, and
# relative to the flux).
MOST_BRIGHT = 200
FEWEST_BRIGHT = 15
ROUNDS = 5
DEFAULT_FLOOR = 0.01
# Weight, in degrees of freedom, of the expectation chi-square = degrees of freedom in a star's own error.
PRIOR_DEGREES = 8.0
# Median of chi-square with one degree of freedom.
MEDIAN_CHI2 = 0.4549364


@dataclass(frozen=True)
class MeanPositions:
    """Means per star (NaN where a star has no measurement).

    Parameters
    ----------
    x, y : ndarray (n_stars,)
        Weighted means.
    xx, xy, yy : ndarray (n_stars,)
        Covariance of the means.
    n_used : ndarray (n_stars,)
        Measurements used.
    used : ndarray (n,), bool
        Which measurements.
    floor : ndarray (n_units,)
        Error floor per axis of each unit, in units of x and y.
    rms : ndarray (n_units,)
        Per-axis scatter of bright stars about their means, corrected for the star's share in the mean.
    n_bright : ndarray (n_units,)
        Stars that floor and rms rest on; 0 where they are taken over from the other units.
    """

    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats
    n_used: Ints
    used: Bools
    floor: Floats
    rms: Floats
    n_bright: Ints


@dataclass(frozen=True)
class MeanValues:
    """The same for one value a star: mean, its error, scatter of single values, number and choice of measurements."""

    mean: Floats
    error: Floats
    rms: Floats
    n_used: Ints
    used: Bools
    floor: Floats


class _Groups:
    """Measurements in the order of their stars."""

    def __init__(self, star: Ints, n_stars: int) -> None:
        self.order = np.argsort(star, kind="stable")
        self.edges = np.searchsorted(star[self.order], np.arange(n_stars + 1))
        self.star, self.n_stars = star, n_stars

    def median(self, values: Floats) -> Floats:
        return grouped_median(np.asarray(values, dtype=float)[self.order], self.edges)

    def sum(self, values: NDArray) -> Floats:
        return np.asarray(np.bincount(self.star, values, self.n_stars), dtype=float)


def mean_positions(
    star: Ints,
    unit: Ints,
    x: Floats,
    y: Floats,
    covariance: tuple[Floats, Floats, Floats],
    weightless: Bools,
    bright: Bools,
    n_stars: int,
    n_units: int,
    pool: Ints,
    clip: float,
    default_floor: float = DEFAULT_FLOOR,
    floor: Floats | None = None,
) -> MeanPositions:
    """Mean positions of stars with full covariances, error floors and clipping.

    Parameters
    ----------
    star, unit : ndarray (n,), int
        Star and unit of each measurement.
    x, y : ndarray (n,)
        Positions.
    covariance : tuple of ndarray (n,)
        Formal xx, xy, yy.
    weightless : ndarray (n,), bool
        Measurements to leave out from the start (where a star has nothing else, they are used).
    bright : ndarray (n,), bool
        Measurements good enough to judge the floor by.
    n_stars, n_units : int
        Sizes.
    pool : ndarray (n_units,), int
        Units of equal number lend each other their bright stars where one has too few.
    clip : float
        Sigmas.
    default_floor : float
        Floor where no star has two measurements.
    floor : ndarray (n_units,), optional
        Known floors; they are solved for when None.

    Returns
    -------
    MeanPositions
    """
    groups = _Groups(star, n_stars)
    xx, xy, yy = covariance
    usable = _usable(groups, weightless, np.isfinite(x) & np.isfinite(y) & np.isfinite(xx + yy))
    formal = 0.5 * (xx + yy)
    floor2 = np.full(n_units, default_floor**2) if floor is None else floor**2
    used = usable.copy()
    n_bright, rms = np.zeros(n_units, dtype=np.int64), np.full(n_units, np.nan)
    nan = np.full(len(x), np.nan)
    middle = [groups.median(np.where(usable, axis, nan)) for axis in (x, y)]
    for turn in range(ROUNDS):
        wxx, wxy, wyy = _inverse(xx + floor2[unit], xy, yy + floor2[unit], used)
        centre, cov = _mean(groups, x, y, wxx, wxy, wyy, middle)
        v = formal + floor2[unit]
        v_mean = 0.5 * (cov[0] + cov[2])
        rx, ry = x - centre[0][star], y - centre[1][star]
        share = np.clip(1 - v_mean[star] / v, 0.05, None)
        sample = bright & used & (groups.sum(used)[star] >= 2)
        if floor is None:
            squares = (rx**2, ry**2)
            floor2, rms, n_bright = _floors(unit, squares, formal, share, sample, n_units, pool, default_floor, leading=turn < 2)
        if turn < ROUNDS - 1:
            used = _clip(groups, usable, used, (rx, ry), formal + floor2[unit], middle, (x, y), clip)
    wxx, wxy, wyy = _inverse(xx + floor2[unit], xy, yy + floor2[unit], used)
    centre, cov = _mean(groups, x, y, wxx, wxy, wyy, middle)
    rx, ry = x - centre[0][star], y - centre[1][star]
    chi2 = groups.sum(np.where(used, wxx * rx**2 + 2 * wxy * rx * ry + wyy * ry**2, 0.0))
    n_used = groups.sum(used).astype(np.int64)
    grow = error_growth(chi2, 2 * np.maximum(n_used - 1, 0))
    return MeanPositions(
        centre[0], centre[1], cov[0] * grow, cov[1] * grow, cov[2] * grow, n_used, used, np.sqrt(floor2), rms, n_bright
    )


def mean_values(
    star: Ints,
    unit: Ints,
    value: Floats,
    variance: Floats,
    scale: Floats,
    poisson: Floats,
    weightless: Bools,
    bright: Bools,
    n_stars: int,
    n_units: int,
    pool: Ints,
    clip: float,
    default_floor: float = DEFAULT_FLOOR,
    floor: Floats | None = None,
) -> MeanValues:
    """Mean fluxes of stars with floors relative to the flux, and clipping.

    Variances are brought from a measurement's own flux to the star's mean, since upward fluctuations otherwise carry
    less weight and the mean comes out low.

    Parameters
    ----------
    star, unit, weightless, bright, n_stars, n_units, pool, clip, default_floor, floor
        As in `mean_positions`; floors are relative to the flux.
    value, variance : ndarray (n,)
        Fluxes on the common scale and their formal variances.
    scale : ndarray (n_units,)
        Unused units have any value; factor by which fluxes were brought to the common scale.
    poisson : ndarray (n_units,)
        Growth of the variance with flux, on the units' own scale.

    Returns
    -------
    MeanValues
    """
    groups = _Groups(star, n_stars)
    usable = _usable(groups, weightless, np.isfinite(value) & np.isfinite(variance) & (variance > 0))
    floor2 = np.full(n_units, default_floor**2) if floor is None else floor**2
    used = usable.copy()
    nan = np.full(len(value), np.nan)
    middle = groups.median(np.where(usable, value, nan))
    mean = middle
    slope = (poisson * scale)[unit]
    for turn in range(ROUNDS):
        level = np.abs(mean[star])
        formal = np.clip(variance + slope * (mean[star] - value), 0.5 * variance, None)
        v = formal + floor2[unit] * level**2
        weight = np.where(used, 1 / v, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = groups.sum(weight)
            mean = middle + groups.sum(np.where(used, weight * (value - middle[star]), 0.0)) / total
            v_mean = 1 / total
            relative = (value - mean[star]) / level
            share = np.clip(1 - v_mean[star] / v, 0.05, None)
            formal_relative = formal / level**2
        sample = bright & used & (groups.sum(used)[star] >= 2) & np.isfinite(relative)
        if floor is None:
            squares = (relative**2,)
            floor2, _, _ = _floors(unit, squares, formal_relative, share, sample, n_units, pool, default_floor, leading=turn < 2)
        if turn < ROUNDS - 1:
            v = formal + floor2[unit] * level**2
            used = _clip(groups, usable, used, (value - mean[star],), v, [middle], (value,), clip)
    v = formal + floor2[unit] * np.abs(mean[star]) ** 2
    weight = np.where(used, 1 / v, 0.0)
    n_used = groups.sum(used).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = groups.sum(weight)
        mean = middle + groups.sum(np.where(used, weight * (value - middle[star]), 0.0)) / total
        residual2 = np.where(used, (value - mean[star]) ** 2, 0.0)
        grow = error_growth(groups.sum(np.where(used, weight * residual2, 0.0)), np.maximum(n_used - 1, 0))
        rms = np.sqrt(groups.sum(residual2) / (n_used - 1))
        rms[n_used < 2] = np.nan
        error = np.sqrt(grow / total)
    return MeanValues(mean, error, rms, n_used, used, np.sqrt(floor2))


def _usable(groups: _Groups, weightless: Bools, finite: Bools) -> Bools:
    """Measurements with weight; a star of nothing but weightless ones keeps them."""
    usable = finite & ~weightless
    return usable | (finite & (groups.sum(usable) == 0)[groups.star])


def _inverse(xx: Floats, xy: Floats, yy: Floats, used: Bools) -> tuple[Floats, Floats, Floats]:
    determinant = xx * yy - xy**2
    return tuple(np.where(used, part / determinant, 0.0) for part in (yy, -xy, xx))  # type: ignore[return-value]


def _mean(
    groups: _Groups, x: Floats, y: Floats, wxx: Floats, wxy: Floats, wyy: Floats, middle: list[Floats]
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats, Floats]]:
    """Weighted mean of vectors about a first guess, and its covariance."""
    dx = np.where(wxx > 0, x - middle[0][groups.star], 0.0)
    dy = np.where(wxx > 0, y - middle[1][groups.star], 0.0)
    a, b, c = groups.sum(wxx), groups.sum(wxy), groups.sum(wyy)
    s, t = groups.sum(wxx * dx + wxy * dy), groups.sum(wxy * dx + wyy * dy)
    with np.errstate(invalid="ignore", divide="ignore"):
        determinant = a * c - b**2
        xx, xy, yy = c / determinant, -b / determinant, a / determinant
        return (middle[0] + xx * s + xy * t, middle[1] + xy * s + yy * t), (xx, xy, yy)


def _clip(
    groups: _Groups,
    usable: Bools,
    used: Bools,
    residuals: tuple[Floats, ...],
    variance: Floats,
    middle: list[Floats],
    values: tuple[Floats, ...],
    clip: float,
) -> Bools:
    """Which measurements stay: those near the median of their star, or as near to the mean as their errors allow.

    A star needs three measurements before one can be called discrepant, keeps more than half of them, and is not
    clipped below its own robust scatter (a variable star is not a row of accidents).
    """
    star = groups.star
    n = groups.sum(usable)
    bad = np.zeros(len(star), dtype=bool)
    for value, centre in zip(values, middle):
        off = np.abs(value - centre[star])
        typical = MAD_TO_SIGMA * groups.median(np.where(usable, off, np.nan))
        own = np.where(n >= 5, typical, 0.0)[star]
        # The middle is a median of n values, with the larger error of one.
        limit = clip * np.sqrt(variance * (1 + MEDIAN_TO_MEAN_ERROR**2 / np.maximum(n[star], 1)))
        bad |= off > np.maximum(limit, clip * own)
    for residual in residuals:
        bad |= ~used & (np.abs(residual) > clip * np.sqrt(variance))
    keep = usable & ~bad
    enough = (n >= 3) & (groups.sum(keep) > 0.5 * n)
    return np.where(enough[star], keep, usable)


def _floors(
    unit: Ints,
    squares: tuple[Floats, ...],
    formal: Floats,
    share: Floats,
    sample: Bools,
    n_units: int,
    pool: Ints,
    default_floor: float,
    leading: bool,
) -> tuple[Floats, Floats, Ints]:
    """Squared error floor, bright-star scatter and number of bright stars of every unit."""
    rows = np.flatnonzero(sample)
    rows = rows[np.argsort(unit[rows], kind="stable")]
    edges = np.searchsorted(unit[rows], np.arange(n_units + 1))
    floor2, rms = np.full(n_units, np.nan), np.full(n_units, np.nan)
    number: Ints = np.zeros(n_units, dtype=np.int64)
    best: list[Ints] = []
    for k in range(n_units):
        mine = rows[edges[k] : edges[k + 1]]
        most = min(MOST_BRIGHT, max(len(mine) // 2, FEWEST_BRIGHT))
        if len(mine) > most:
            mine = mine[np.argpartition(formal[mine], most)[:most]]
        best.append(mine)
        if len(mine) >= FEWEST_BRIGHT:
            floor2[k], rms[k] = _floor(mine, squares, formal, share)
            number[k] = len(mine)
    lacking = np.flatnonzero(np.isnan(floor2))
    for lone in lacking:
        for others in (np.flatnonzero(pool == pool[lone]), np.arange(n_units)):
            together = np.concatenate([best[n] for n in others])
            if len(together) >= min(FEWEST_BRIGHT, 6):
                floor2[lone], rms[lone] = _floor(together, squares, formal, share)
                break
    if leading:
        # Before the clipping has settled, a floor must not collapse on a lucky unit.
        floor2 = np.maximum(floor2, (0.1 * default_floor) ** 2)
    floor2[np.isnan(floor2)] = default_floor**2
    return floor2, rms, number


def _floor(rows: Ints, squares: tuple[Floats, ...], formal: Floats, share: Floats) -> tuple[float, float]:
    """The floor that gives these residuals a median chi-square of one degree of freedom, and their robust scatter."""
    residual2 = np.concatenate([square[rows] / share[rows] for square in squares])
    variance = np.tile(formal[rows], len(squares))
    low, high = 0.0, float(np.max(residual2)) / MEDIAN_CHI2 + 1e-30
    if np.median(residual2 / variance) > MEDIAN_CHI2:
        for _ in range(50):
            middle = 0.5 * (low + high)
            if np.median(residual2 / (variance + middle)) > MEDIAN_CHI2:
                low = middle
            else:
                high = middle
        low = 0.5 * (low + high)
    return low, float(np.sqrt(np.median(residual2) / MEDIAN_CHI2))


def error_growth(chi2: Floats, degrees: NDArray) -> Floats:
    """Factor of variances where a star scatters by chi-square over these degrees of freedom; never below 1."""
    return np.maximum((PRIOR_DEGREES + chi2) / (PRIOR_DEGREES + degrees), 1.0)
