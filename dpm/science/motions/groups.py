"""Whether a kinematic group is also a group on the sky (paper 2, figure 24)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom

from dpm.science.motions.vectors import MotionError

__all__ = ["Overdensity", "find_overdensity"]

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Overdensity:
    """The place where a group stands out most against the others.

    Parameters
    ----------
    center : ndarray (2,)
    radius : float
    n_group, n_all : int
        Stars inside.
    expected : float
        Of the group inside, were it spread like all.
    significance : float
        Standard deviations of that one place.
    false_alarm : float
        Share of shuffled groups with a place at least as odd: the chance that a group spread like all others shows this.
    """

    center: NDArray[np.float64]
    radius: float
    n_group: int
    n_all: int
    expected: float
    significance: float
    false_alarm: float


def find_overdensity(position: NDArray, group: NDArray, radius: float, shuffles: int = 500, seed: int = 1) -> Overdensity:
    """Circle about a star of the group that holds more of the group than chance gives; coverage and crowding cancel.

    Parameters
    ----------
    position : array_like (n, 2)
        All stars that the group was chosen from.
    group : array_like (n,), bool
    radius : float
        Of the circle, in the positions' unit.
    shuffles : int
        Groups of the same number drawn from all stars.
    seed : int
        Of these.

    Raises
    ------
    MotionError
        If the group, or the rest, has fewer than five stars.
    """
    position, group = np.asarray(position, dtype=float), np.asarray(group, dtype=bool)
    known = np.isfinite(position).all(axis=1)
    position, group = position[known], group[known]
    if min(group.sum(), (~group).sum()) < 5:
        raise MotionError(f"{int(group.sum())} stars in the group, {int((~group).sum())} others: five of each are the least")
    near = cKDTree(position).sparse_distance_matrix(cKDTree(position), radius, output_type="coo_matrix").tocsr()
    near.data[:] = 1.0
    near.setdiag(1.0)
    total = np.asarray(near.sum(axis=1)).ravel()
    share = group.mean()
    rng = np.random.default_rng(seed)

    def oddest(members: Bools) -> tuple[int, float]:
        inside = near @ members.astype(float)
        # The star itself is in the circle because it is of the group.
        odds = binom.logsf(inside - 2, total - 1, share)
        odds[~members | (inside < 2)] = 0.0
        best = int(np.argmin(odds))
        return best, float(odds[best])

    best, odds = oddest(group)
    worse = sum(oddest(rng.permutation(group))[1] <= odds for _ in range(shuffles))
    inside, expected = int((near @ group.astype(float))[best]), float(share * total[best])
    middle = np.mean(position[(near[best].toarray().ravel() > 0) & group], axis=0)
    significance = (inside - expected) / np.sqrt(max(expected * (1 - share), 1e-12))
    return Overdensity(middle, radius, inside, int(total[best]), expected, float(significance), (worse + 1) / (shuffles + 1))
