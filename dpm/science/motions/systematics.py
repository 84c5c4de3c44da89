"""Small-scale systematic errors of motions: maps, corrections from the nearest stars, trends, and the floor that is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.science.motions.dispersion import intrinsic_dispersion
from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["ErrorFloor", "LocalCorrection", "error_floor", "local_correction", "motion_map"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLIP_SIGMA = 3.5
FEWEST = 10
PAIR_NEIGHBORS = 5  # nearest stars whose motions are multiplied with a star's own


@dataclass(frozen=True)
class LocalCorrection:
    """Mean motion of the nearest reference stars.

    Parameters
    ----------
    motion, covariance : ndarray (n, 2), (n, 2, 2)
        Corrected, with the correction's own error.
    correction, error : ndarray (n, 2), (n,)
        What was subtracted, and its error on one axis.
    """

    motion: Floats
    covariance: Floats
    correction: Floats
    error: Floats


@dataclass(frozen=True)
class ErrorFloor:
    """Errors that the stated ones do not hold, one axis, mas/yr.

    Parameters
    ----------
    common, common_error : float
        What neighbours share (root of the mean product of neighbours' motions; negative products give a negative value): errors
        that do not average out over a small field.
    single, single_error : float
        Scatter of the stars beyond their errors, intrinsic dispersion included: an upper limit (paper 2, section 5).
    n : int
        Stars.
    """

    common: float
    common_error: float
    single: float
    single_error: float
    n: int


def local_correction(
    place: NDArray, motion: NDArray, covariance: NDArray, reference: NDArray, neighbors: int = 100
) -> LocalCorrection:
    """Subtract the mean relative motion of the nearest reference stars, the star itself left out.

    ``place`` is what the errors go with: positions on the sky or on the detector (n, 2), or magnitude or colour (n, 1).

    Parameters
    ----------
    place : array_like (n, k)
    motion, covariance : array_like (n, 2), (n, 2, 2)
        Relative motions.
    reference : array_like (n,), bool
        Members that the correction is learnt from.
    neighbors : int

    Raises
    ------
    MotionError
        If fewer than `FEWEST` reference stars have motions and places.
    """
    place, motion, covariance = (np.asarray(values, dtype=float) for values in (place, motion, covariance))
    place = place.reshape(len(motion), -1)
    there = np.isfinite(place).all(axis=1)
    known = known_motions(motion, covariance)
    rows = np.flatnonzero(known & there & np.asarray(reference, dtype=bool))
    if len(rows) < FEWEST:
        raise MotionError(f"{len(rows)} reference stars with motions and places: a correction needs {FEWEST} or more")
    dispersion = intrinsic_dispersion(motion[rows], covariance[rows]).sigma
    variance = 0.5 * np.trace(covariance, axis1=1, axis2=2) + dispersion**2
    stars = np.flatnonzero(there)
    n = min(neighbors, len(rows) - 1)
    near = rows[cKDTree(place[rows]).query(place[stars], n + 1)[1]]
    own = near == stars[:, None]
    own[~own.any(axis=1), -1] = True
    near = near[~own].reshape(len(stars), n)
    weight = 1.0 / variance[near]
    middle = np.median(motion[near], axis=1)
    weight[(np.abs(motion[near] - middle[:, None, :]) > CLIP_SIGMA * np.sqrt(variance[near])[:, :, None]).any(axis=2)] = 0.0
    correction, error = np.zeros_like(motion), np.zeros(len(motion))
    total = weight.sum(axis=1)
    correction[stars] = np.einsum("sn,sna->sa", weight, motion[near]) / total[:, None]
    error[stars] = 1.0 / np.sqrt(total)
    return LocalCorrection(motion - correction, covariance + (error**2)[:, None, None] * np.eye(2), correction, error)


def motion_map(place: NDArray, motion: NDArray, covariance: NDArray, members: NDArray, cells: int = 8) -> Table:
    """Weighted mean relative motions of members in square cells; ``meta`` says whether they differ from zero beyond their errors.

    Parameters
    ----------
    place : array_like (n, 2)
        On the sky or on a detector.
    motion, covariance : array_like (n, 2), (n, 2, 2)
    members : array_like (n,), bool
    cells : int
        Along the longer side.

    Returns
    -------
    astropy.table.Table
        ``x, y`` (middle of the cell), ``n, pmra, pmdec, error``; in ``meta``: ``rms`` of the cells beyond their errors (mas/yr, one
        axis, negative where errors explain more than there is), ``chi2`` and ``degrees``.
    """
    place, motion, covariance = (np.asarray(values, dtype=float) for values in (place, motion, covariance))
    use = known_motions(motion, covariance) & np.isfinite(place).all(axis=1) & np.asarray(members, dtype=bool)
    names = ("x", "y", "n", "pmra", "pmdec", "error")
    if use.sum() < FEWEST:
        return Table(names=names, dtype=(float, float, int, float, float, float))
    place, motion, covariance = place[use], motion[use], covariance[use]
    dispersion = intrinsic_dispersion(motion, covariance).sigma
    weight = 1.0 / (0.5 * np.trace(covariance, axis1=1, axis2=2) + dispersion**2)
    low = place.min(axis=0)
    step = float(np.ptp(place, axis=0).max()) / cells * (1 + 1e-9)
    index = np.floor((place - low) / step).astype(int)
    keys, cell = np.unique(index, axis=0, return_inverse=True)
    cell = cell.ravel()
    total = np.bincount(cell, weight)
    mean = np.column_stack([np.bincount(cell, weight * motion[:, a]) for a in (0, 1)]) / total[:, None]
    count, error = np.bincount(cell), 1.0 / np.sqrt(total)
    full = count >= 3
    middle = low + (keys + 0.5) * step
    out = Table([middle[full, 0], middle[full, 1], count[full], mean[full, 0], mean[full, 1], error[full]], names=names)
    chi2 = float(np.sum((mean[full] / error[full, None]) ** 2))
    excess = float(np.mean(mean[full] ** 2 - error[full, None] ** 2)) if full.any() else np.nan
    rms = float(np.sign(excess) * np.sqrt(abs(excess)))
    out.meta.update({"rms": rms, "chi2": chi2, "degrees": 2 * int(full.sum()), "step": step})
    return out


def error_floor(place: NDArray, motion: NDArray, covariance: NDArray, members: NDArray) -> ErrorFloor:
    """What the stated errors of members' motions do not hold.

    Parameters
    ----------
    place : array_like (n, 2)
    motion, covariance : array_like (n, 2), (n, 2, 2)
        Relative motions.
    members : array_like (n,), bool

    Raises
    ------
    MotionError
        If fewer than `FEWEST` members have motions.
    """
    place, motion, covariance = (np.asarray(values, dtype=float) for values in (place, motion, covariance))
    use = known_motions(motion, covariance) & np.isfinite(place).all(axis=1) & np.asarray(members, dtype=bool)
    if use.sum() < FEWEST:
        raise MotionError(f"{int(use.sum())} members with motions: a floor needs {FEWEST} or more")
    place, motion, covariance = place[use], motion[use], covariance[use]
    found = intrinsic_dispersion(motion, covariance)
    variance = 0.5 * np.trace(covariance, axis1=1, axis2=2) + found.sigma**2
    off = motion - found.mean
    off[(np.abs(off) > CLIP_SIGMA * np.sqrt(variance)[:, None]).any(axis=1)] = 0.0
    near: Ints = cKDTree(place).query(place, min(PAIR_NEIGHBORS, len(place) - 1) + 1)[1][:, 1:]
    # Every pair once: neighbours of each other would count twice.
    pairs = np.unique(np.sort(np.column_stack([np.repeat(np.arange(len(place)), near.shape[1]), near.ravel()]), axis=1), axis=0)
    i, j = pairs.T
    weight = 1.0 / (variance[i] * variance[j])
    product = off[i] * off[j]
    mean = float(np.sum(weight[:, None] * product) / (2 * weight.sum()))
    sigma = 1.0 / np.sqrt(2 * weight.sum())
    common = float(np.sign(mean) * np.sqrt(abs(mean)))
    return ErrorFloor(common, float(sigma / (2 * max(abs(common), np.sqrt(sigma)))), found.sigma, found.error, len(place))
