"""Motions from two catalogues of different epochs, from different cameras if need be (paper 1, section 3.1; paper 2, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.models.transform import fit_linear
from dpm.science.motions.relative import FEWEST_REFERENCE
from dpm.science.motions.vectors import MotionError, as_covariance
from dpm.science.table_access import column_names, column_values

__all__ = ["SkyPositions", "displacements", "match_positions", "motions_between", "sky_positions"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CLIP_SIGMA = 3.5


@dataclass(frozen=True)
class SkyPositions:
    """Positions of one epoch.

    Parameters
    ----------
    ra, dec : ndarray (n,)
        Degrees.
    covariance : ndarray (n, 2, 2)
        mas^2, East and North.
    epoch : ndarray (n,)
        Julian years.
    """

    ra: Floats
    dec: Floats
    covariance: Floats
    epoch: Floats


def sky_positions(table: Any, epoch: float | None = None) -> SkyPositions:
    """Positions of a table with Gaia's column names ``ra, dec, ra_error, dec_error, ref_epoch`` and, if there, ``ra_dec_corr``.

    Parameters
    ----------
    table : table
    epoch : float, optional
        Where the table has no ``ref_epoch``.

    Raises
    ------
    MotionError
        If a column is missing.
    """
    names = column_names(table)
    needed = ["ra", "dec", "ra_error", "dec_error", *([] if epoch is not None else ["ref_epoch"])]
    missing = [name for name in needed if name not in names]
    if missing:
        raise MotionError(f"no column {', '.join(missing)}: both epochs' positions, errors (mas) and times are needed for motions")
    ra, dec = column_values(table, "ra"), column_values(table, "dec")
    error = np.column_stack([column_values(table, "ra_error"), column_values(table, "dec_error")])
    correlation = np.nan_to_num(column_values(table, "ra_dec_corr")) if "ra_dec_corr" in names else 0.0
    when = np.full(len(ra), epoch) if epoch is not None else column_values(table, "ref_epoch")
    return SkyPositions(ra, dec, as_covariance(error, correlation), when)


def match_positions(first: Floats, second: Floats, radius: float, lonely: float = 1.5) -> tuple[Ints, Ints]:
    """Mutually nearest pairs of two lists on one plane that no other star contests.

    Parameters
    ----------
    first, second : ndarray (n, 2), (m, 2)
    radius : float
        Largest distance of a pair: the largest motion times the baseline, where motions are unknown.
    lonely : float
        The next nearest star on either side has to be this many times further.

    Returns
    -------
    i, j : ndarray (k,)
        Rows.
    """
    there = [np.flatnonzero(np.isfinite(points).all(axis=1)) for points in (first, second)]
    a, b = first[there[0]], second[there[1]]
    if min(len(a), len(b)) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near, to_second = cKDTree(b).query(a, 2)
    back, to_first = cKDTree(a).query(b, 2)
    rows = np.arange(len(a))
    partner = to_second[:, 0]
    distance = near[:, 0]
    good = (to_first[partner, 0] == rows) & (distance <= radius)
    good &= (near[:, 1] >= lonely * distance) & (back[partner, 1] >= lonely * distance)
    return there[0][rows[good]], there[1][partner[good]]


def motions_between(
    first: SkyPositions, second: SkyPositions, pairs: tuple[Ints, Ints]
) -> tuple[Floats, Floats, Floats]:
    """Motions of pairs from their positions on the sky, as these are: both lists on one system.

    Parameters
    ----------
    first, second : SkyPositions
    pairs : (ndarray (k,), ndarray (k,))
        Rows of both.

    Returns
    -------
    motion, covariance : ndarray (k, 2), (k, 2, 2)
        mas/yr to the East and the North at the middle of the way; both epochs' errors.
    baseline : ndarray (k,)
        Years, second minus first.

    Raises
    ------
    MotionError
        If the epochs do not differ.
    """
    i, j = pairs
    baseline = second.epoch[j] - first.epoch[i]
    if len(i) == 0 or not (np.abs(baseline) > 0.01).any():
        raise MotionError(f"{len(i)} pairs of stars, none with time between its two positions: there are no motions in one epoch")
    off = np.empty((len(i), 2))
    east = (second.ra[j] - first.ra[i] + 180.0) % 360.0 - 180.0
    middle = np.radians(0.5 * (second.dec[j] + first.dec[i]))
    off[:, 0], off[:, 1] = east * np.cos(middle) * 3.6e6, (second.dec[j] - first.dec[i]) * 3.6e6
    covariance = (first.covariance[i] + second.covariance[j]) / baseline[:, None, None] ** 2
    return off / baseline[:, None], covariance, baseline


def displacements(
    first: NDArray, second: NDArray, covariance: tuple[NDArray, NDArray], reference: NDArray
) -> tuple[Floats, Floats]:
    """Displacements of pairs between two lists of any scale, orientation and camera, in the plane of the first.

    One six-parameter transform of the reference stars; `relative_motions` then takes out local ones, and adds the transform's own
    error.  Divided by the baseline these are motions.

    Parameters
    ----------
    first, second : array_like (n, 2)
        Positions of the same stars, each list on a plane of its own.
    covariance : (array_like (n, 2, 2), array_like (n, 2, 2))
        Of both, each in its own plane's unit.
    reference : array_like (n,), bool
        Stars that move together.

    Returns
    -------
    displacement, covariance : ndarray (n, 2), (n, 2, 2)
        Second minus first.

    Raises
    ------
    MotionError
        If fewer than `FEWEST_REFERENCE` reference stars have both positions.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    here, there = (np.asarray(values, dtype=float) for values in covariance)
    use = np.asarray(reference, dtype=bool) & np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
    if use.sum() < FEWEST_REFERENCE:
        raise MotionError(
            f"{int(use.sum())} reference stars have positions in both lists: six parameters need {FEWEST_REFERENCE} or more"
        )
    fit = fit_linear(two[use, 0], two[use, 1], one[use, 0], one[use, 1], None, 6, CLIP_SIGMA)
    matrix = fit.transform.matrix
    moved = np.column_stack(fit.transform(*two.T))
    return moved - one, here + matrix @ there @ matrix.T
