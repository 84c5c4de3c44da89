"""Motions as the slope of all single positions against time (Bellini et al. 2014), and as the difference of two epochs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution
from scipy.stats import norm

from dpm.science.motions.vectors import MotionError

__all__ = ["EPOCH_GAP", "Slopes", "epoch_numbers", "fit_slopes", "two_epoch_difference"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

EPOCH_GAP = 0.1  # yr; positions closer in time are of one epoch
CLIP_ROUNDS = 10
# A star whose scaled normal matrix is worse than this has no answer to one of the unknowns.
SINGULAR = 1e9


@dataclass(frozen=True)
class Slopes:
    """Even motions of stars; NaN where a star has not enough.

    Parameters
    ----------
    value : ndarray (n, p)
        East, North at the reference time, their motions a year and, if asked for, the parallax.
    covariance : ndarray (n, p, p)
        From the stated errors.
    chi2, degrees : ndarray (n,)
        Of the positions used.
    n_used : ndarray (n,), int
    used : ndarray (m,), bool
        Which positions.
    """

    value: Floats
    covariance: Floats
    chi2: Floats
    degrees: Ints
    n_used: Ints
    used: Bools

    @property
    def motion(self) -> Floats:
        return self.value[:, 2:4]

    @property
    def motion_covariance(self) -> Floats:
        return self.covariance[:, 2:4, 2:4]


def epoch_numbers(time: NDArray, gap: float = EPOCH_GAP) -> Ints:
    """Number of the epoch (m,), from 0, of each time: times apart by less than ``gap`` years are together."""
    time = np.asarray(time, dtype=float)
    order = np.argsort(time, kind="stable")
    out = np.zeros(len(time), dtype=np.int64)
    out[order] = np.concatenate([[0], np.cumsum(np.diff(time[order]) >= gap)]) if len(time) else []
    return out


def fit_slopes(
    star: NDArray,
    time: NDArray,
    position: NDArray,
    covariance: NDArray,
    reference_time: float,
    n_stars: int | None = None,
    parallax_factors: NDArray | None = None,
    clip: float = 3.5,
) -> Slopes:
    """Weighted least squares of position, motion and, on request, parallax.

    Parameters
    ----------
    star : array_like (m,), int
        Star of each position, from 0.
    time : array_like (m,)
        Years.
    position, covariance : array_like (m, 2), (m, 2, 2)
        East and North on one plane; motions come out in its unit a year.
    reference_time : float
        Of the positions that come out.
    n_stars : int, optional
        As many as ``star`` names by default.
    parallax_factors : array_like (m, 2), optional
        From `parallax_factors`: solve for the parallax as well.
    clip : float
        A position less likely than this many standard deviations is left out, one a round; a star keeps more than half of its
        positions, and two epochs.

    Raises
    ------
    MotionError
        If no star has positions at two epochs.
    """
    star = np.asarray(star, dtype=np.int64)
    time, position, covariance = (np.asarray(values, dtype=float) for values in (time, position, covariance))
    n = int(star.max(initial=-1)) + 1 if n_stars is None else n_stars
    good = np.isfinite(position).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2)) & np.isfinite(time)
    epoch = epoch_numbers(time)
    if not (_epochs_of(star, epoch, good, n) >= 2).any():
        span = float(np.ptp(time[good])) if good.any() else 0.0
        raise MotionError(
            f"no star has positions at two epochs (all {int(good.sum())} positions lie within {span:.2f} yr of each other, or "
            "stars of different epochs are not linked): give exposures of another epoch, or a catalogue of one"
        )
    weight = np.zeros_like(covariance)
    weight[good] = np.linalg.inv(covariance[good])
    years = time - reference_time
    p = 4 if parallax_factors is None else 5
    design = np.zeros((len(star), 2, p))
    design[:, 0, 0] = design[:, 1, 1] = 1.0
    design[:, 0, 2] = design[:, 1, 3] = years
    if parallax_factors is not None:
        design[:, :, 4] = parallax_factors
    # Offsets from a position of the star's own keep all digits.
    start = np.full((n, 2), np.nan)
    start[star[good][::-1]] = position[good][::-1]
    off = np.where(good[:, None], position - start[star], 0.0)
    used = good
    limit = chi2_distribution.isf(2.0 * norm.sf(clip), 2)
    for turn in range(CLIP_ROUNDS + 1):
        value, spread = _solve(star, design, weight, off, used, n)
        left = off - np.einsum("mip,mp->mi", design, np.nan_to_num(value[star]))
        if turn == CLIP_ROUNDS:
            break
        mine = covariance - np.where(used, 1.0, -1.0)[:, None, None] * (design @ spread[star] @ np.swapaxes(design, 1, 2))
        keep = _clip(star, epoch, good, used, left, mine, limit, n)
        if np.array_equal(keep, used):
            break
        used = keep
    # The dithers of one epoch have some time between them, and tell nothing of motion.
    single = _epochs_of(star, epoch, used, n) < 2
    value[single], spread[single] = np.nan, np.nan
    used = used & ~single[star] & np.isfinite(value[star, 0])
    chi2: Floats = np.bincount(star, np.where(used, np.einsum("mi,mij,mj->m", left, weight, left), 0.0), n).astype(float)
    count = np.bincount(star[used], minlength=n)
    chi2[~np.isfinite(value[:, 0])] = np.nan
    value[:, :2] += start
    return Slopes(value, spread, chi2, np.maximum(2 * count - p, 0), np.asarray(count), used)


def _epochs_of(star: Ints, epoch: Ints, used: Bools, n: int) -> Ints:
    """Epochs at which each star has positions."""
    pairs = np.unique(np.column_stack([star[used], epoch[used]]), axis=0)
    return np.bincount(pairs[:, 0], minlength=n)


def _solve(star: Ints, design: Floats, weight: Floats, off: Floats, used: Bools, n: int) -> tuple[Floats, Floats]:
    """Least squares of every star (n, p), and covariances; NaN where the positions do not suffice."""
    p = design.shape[2]
    back = np.swapaxes(design, 1, 2) @ weight
    back[~used] = 0.0
    normal, right = np.zeros((n, p, p)), np.zeros((n, p))
    every = back @ design
    for a in range(p):
        right[:, a] = np.bincount(star, np.einsum("mi,mi->m", back[:, a], off), n)
        for b in range(a + 1):
            normal[:, a, b] = normal[:, b, a] = np.bincount(star, every[:, a, b], n)
    value, spread = np.full((n, p), np.nan), np.full((n, p, p), np.nan)
    scale = np.sqrt(np.diagonal(normal, axis1=1, axis2=2))
    k = np.flatnonzero((scale > 0).all(axis=1))
    unit = normal[k] / (scale[k, :, None] * scale[k, None, :])
    well = np.linalg.cond(unit) < SINGULAR
    k, unit = k[well], unit[well]
    spread[k] = np.linalg.inv(unit) / (scale[k, :, None] * scale[k, None, :])
    value[k] = np.einsum("nij,nj->ni", spread[k], right[k])
    return value, spread


def _clip(star: Ints, epoch: Ints, good: Bools, used: Bools, left: Floats, spread: Floats, limit: float, n: int) -> Bools:
    """Leave out each star's worst position where it is beyond the limit and the star can spare it."""
    total = np.bincount(star[good], minlength=n)
    chi2 = np.zeros(len(star))
    solid = used & np.isfinite(spread).all(axis=(1, 2)) & (np.linalg.det(np.nan_to_num(spread)) > 0)
    # A position left out of its own fit has a residual larger by its share, and so has its error.
    chi2[solid] = np.einsum("mi,mij,mj->m", left[solid], np.linalg.inv(spread[solid]), left[solid])
    order = np.lexsort((chi2, star))
    last = order[np.flatnonzero(np.diff(np.append(star[order], n)))]
    keep = used.copy()
    count = np.bincount(star[used], minlength=n)
    spare = (count[star[last]] >= 4) & (count[star[last]] - 1 > 0.5 * total[star[last]])
    keep[last[(chi2[last] > limit) & spare]] = False
    short = _epochs_of(star, epoch, keep, n) < np.minimum(_epochs_of(star, epoch, used, n), 2)
    return np.where(short[star], used, keep)


def two_epoch_difference(
    star: NDArray, time: NDArray, position: NDArray, covariance: NDArray, n_stars: int | None = None
) -> tuple[Floats, Floats, Floats]:
    """Difference of the mean positions at a star's last and first epoch over the time between.

    Parameters
    ----------
    star, time, position, covariance, n_stars
        As in `fit_slopes`.

    Returns
    -------
    motion, covariance : ndarray (n, 2), (n, 2, 2)
        Both epochs' errors are in; NaN for stars of one epoch.
    baseline : ndarray (n,)
        Years between.
    """
    star = np.asarray(star, dtype=np.int64)
    time, position, covariance = (np.asarray(values, dtype=float) for values in (time, position, covariance))
    n = int(star.max(initial=-1)) + 1 if n_stars is None else n_stars
    good = np.isfinite(position).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2)) & np.isfinite(time)
    star, time, position, covariance = star[good], time[good], position[good], covariance[good]
    epoch = epoch_numbers(time)
    weight = np.linalg.inv(covariance)
    outer = np.full(n, -1)
    np.maximum.at(outer, star, epoch)
    inner = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(inner, star, epoch)
    start = np.full((n, 2), np.nan)
    start[star] = position
    parts = []
    for which in (outer, inner):
        mine = epoch == which[star]
        total = np.array([[np.bincount(star[mine], weight[mine, a, b], n) for b in (0, 1)] for a in (0, 1)]).transpose(2, 0, 1)
        pulled = np.einsum("mij,mj->mi", weight[mine], (position - start[star])[mine])
        right = np.column_stack([np.bincount(star[mine], pulled[:, a], n) for a in (0, 1)])
        when = np.bincount(star[mine], time[mine], n) / np.maximum(np.bincount(star[mine], minlength=n), 1)
        spread = np.full((n, 2, 2), np.nan)
        there = (outer > inner) & (outer >= 0)
        spread[there] = np.linalg.inv(total[there])
        parts.append((np.einsum("nij,nj->ni", spread, right), spread, when))
    (late, late_spread, end), (early, early_spread, begin) = parts
    years = np.where(outer > inner, end - begin, np.nan)
    return (late - early) / years[:, None], (late_spread + early_spread) / years[:, None, None] ** 2, years
