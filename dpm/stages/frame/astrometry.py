"""Position and motion of every star from its positions at several epochs.

An epoch's mean position and covariance hold all that its exposures say about a star that moves evenly, so that weighted
least squares over the epochs is the solution of all exposures at once.  Errors of the maps are common to many stars, and to
the epochs of one detector: they are carried as draws through the same solution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog
from dpm.models.master_frame import MasterFrame
from dpm.stages.frame.average import error_growth
from dpm.stages.frame.match import mutual_pairs

__all__ = ["EpochPositions", "Solution", "ZeroPoint", "motion_zero_point", "positions_at", "solve_astrometry"]

Floats = NDArray[np.float64]

CLIP_SIGMA = 3.5  # of stars whose motions are compared with the reference's
FEWEST_REFERENCE = 5


@dataclass(frozen=True)
class EpochPositions:
    """All stars at one epoch; NaN where a star has no measurement.

    Parameters
    ----------
    time : ndarray (n,)
        Mean time of each star's exposures, decimal years.
    position : ndarray (n, 2)
        Master frame.
    covariance : ndarray (n, 2, 2)
        What is independent of other epochs.
    moved : ndarray (n_draws, 2, n), optional
        Draws of the errors that the maps bring; draws of equal number belong together over all epochs.
    """

    time: Floats
    position: Floats
    covariance: Floats
    moved: Floats | None


@dataclass(frozen=True)
class Solution:
    """Even motions.

    Parameters
    ----------
    solved : ndarray (n,), bool
        Stars with two epochs or more; the others have NaN.
    value : ndarray (n, 4)
        x and y at the reference epoch, and their motions (master pixels, pixels a year).
    covariance : ndarray (n, 4, 4)
    """

    solved: NDArray[np.bool_]
    value: Floats
    covariance: Floats


def solve_astrometry(epochs: Sequence[EpochPositions], reference_epoch: float) -> Solution:
    """Weighted least squares of position and motion.

    Where three epochs or more disagree with an even motion beyond their errors, these grow as those of the means do.

    Parameters
    ----------
    epochs : sequence of EpochPositions
    reference_epoch : float
        Of the positions that come out, decimal years.
    """
    n = len(epochs[0].time)
    used = np.array([np.isfinite(epoch.position).all(axis=1) & np.isfinite(epoch.covariance).all(axis=(1, 2)) for epoch in epochs])
    solved = used.sum(axis=0) >= 2
    k = np.flatnonzero(solved)
    value, covariance = np.full((n, 4), np.nan), np.full((n, 4, 4), np.nan)
    if not k.size:
        return Solution(solved, value, covariance)
    start = np.nanmedian([np.where(used[e, k, None], epoch.position[k], np.nan) for e, epoch in enumerate(epochs)], axis=0)
    normal, right = np.zeros((len(k), 4, 4)), np.zeros((len(k), 4))
    parts: list[tuple[Floats, Floats, Floats]] = []
    for e, epoch in enumerate(epochs):
        here = used[e, k]
        total = epoch.covariance[k].copy()
        if epoch.moved is not None:
            total += _covariance(epoch.moved[:, :, k])
        total[~here] = np.eye(2)
        weight = np.linalg.inv(total) * here[:, None, None]
        years = np.where(here, epoch.time[k] - reference_epoch, 0.0)
        design = np.zeros((len(k), 2, 4))
        design[:, 0, 0] = design[:, 1, 1] = 1.0
        design[:, 0, 2] = design[:, 1, 3] = years
        off = np.where(here[:, None], epoch.position[k] - start, 0.0)
        back = np.swapaxes(design, 1, 2) @ weight
        normal += back @ design
        right += (back @ off[:, :, None])[:, :, 0]
        parts.append((design, weight, off))
    inverse = np.linalg.inv(normal)
    solution = (inverse @ right[:, :, None])[:, :, 0]
    spread, chi2 = np.zeros_like(inverse), np.zeros(len(k))
    drawn: Floats | None = None
    for epoch, (design, weight, off) in zip(epochs, parts):
        gain = inverse @ np.swapaxes(design, 1, 2) @ weight
        spread += gain @ np.nan_to_num(epoch.covariance[k]) @ np.swapaxes(gain, 1, 2)
        if epoch.moved is not None:
            step = np.einsum("nij,djn->din", gain, epoch.moved[:, :, k])
            drawn = step if drawn is None else drawn + step
        left = off - (design @ solution[:, :, None])[:, :, 0]
        chi2 += np.einsum("ni,nij,nj->n", left, weight, left)
    spread *= error_growth(chi2, 2 * (used[:, k].sum(axis=0) - 2))[:, None, None]
    if drawn is not None:
        spread += _covariance(drawn)
    value[k] = solution
    value[k, :2] += start
    covariance[k] = spread
    return Solution(solved, value, covariance)


def _covariance(draws: Floats) -> Floats:
    """Covariance (n, m, m) of draws (n_draws, m, n) about zero."""
    return np.asarray(np.einsum("dan,dbn->nab", draws, draws) / len(draws))


@dataclass(frozen=True)
class ZeroPoint:
    """What motions are counted from.

    Parameters
    ----------
    absolute : bool
        Every epoch was tied to a reference that has motions; else the mean motion of the stars that tie the epochs is zero.
    offset, error : tuple of float
        Weighted mean of catalogue minus reference to the West and to the North, and its error; master pixels a year, NaN where
        no motions can be compared.
    n_stars : int
        Stars that were compared.
    """

    absolute: bool
    offset: tuple[float, float] = (float("nan"), float("nan"))
    error: tuple[float, float] = (float("nan"), float("nan"))
    n_stars: int = 0


def motion_zero_point(
    solution: Solution, frame: MasterFrame, reference: ReferenceCatalog | None, epoch: float, radius: float
) -> ZeroPoint:
    """Compare motions with the reference's own.

    Parameters
    ----------
    solution : Solution
    frame : MasterFrame
    reference : ReferenceCatalog, optional
    epoch : float
        Of the solution's positions.
    radius : float
        Of the match, master pixels.
    """
    if reference is None or not reference.has_motions:
        return ZeroPoint(False)
    here, later = (np.column_stack(frame.sky_to_pixel(*reference.at(year)[:2])) for year in (epoch, epoch + 1.0))
    there, rows = np.flatnonzero(np.isfinite(here).all(axis=1)), np.flatnonzero(solution.solved)
    x, y = solution.value[rows, :2].T
    i, j = mutual_pairs(x, y, here[there, 0], here[there, 1], radius)
    i, j = rows[i], there[j]
    motion = (later - here)[j]
    unknown = np.column_stack([reference.pmra_error, reference.pmdec_error])[j] / (1000 * frame.scale)
    offset, error, n = [], [], 0
    for axis in (0, 1):
        difference = solution.value[i, 2 + axis] - motion[:, axis]
        variance = solution.covariance[i, 2 + axis, 2 + axis] + unknown[:, axis] ** 2
        keep = np.isfinite(difference) & (variance > 0)
        keep[keep] = np.abs(difference[keep]) <= CLIP_SIGMA * np.sqrt(variance[keep])
        n = int(keep.sum())
        if n < FEWEST_REFERENCE:
            return ZeroPoint(True)
        weight = 1 / variance[keep]
        offset.append(float(np.sum(weight * difference[keep]) / weight.sum()))
        error.append(float(1 / np.sqrt(weight.sum())))
    return ZeroPoint(True, (offset[0], offset[1]), (error[0], error[1]), n)


def positions_at(catalog: Mapping[str, NDArray], frame: MasterFrame, years: float) -> tuple[Floats, Floats]:
    """Master positions of a catalogue's stars ``years`` after its reference epoch; stars without motions stay.

    Parameters
    ----------
    catalog : mapping
        ``x, y`` and, where it has several epochs, ``pmra, pmdec``.
    frame : MasterFrame
    years : float
    """
    place = np.column_stack([np.asarray(catalog["x"], float), np.asarray(catalog["y"], float)])
    motion = np.column_stack([np.asarray(catalog["pmra"], float), np.asarray(catalog["pmdec"], float)])
    step = np.linalg.solve(frame.sky_steps(*place.T), motion[:, :, None])[:, :, 0]
    x, y = (place + np.nan_to_num(step) * years).T
    return x, y
