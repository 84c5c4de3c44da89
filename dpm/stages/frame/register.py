"""Putting an aligned group of units onto the sky: by a reference catalogue, by another epoch, or by the headers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import robust_width
from dpm.models.transform import LinearFit, LinearTransform
from dpm.stages.frame.match import fit_pairs, match_lists, mutual_pairs
from dpm.stages.frame.units import Unit

__all__ = ["Points", "apply_transform", "header_transform", "register"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# Stars that vote when lists are matched.
VOTERS = 600


@dataclass(frozen=True)
class Points:
    """Star positions on the master frame.

    Parameters
    ----------
    x, y : ndarray (n,)
        Master pixels.
    error : ndarray (n,)
        One-sigma error per axis, master pixels.
    mag : ndarray (n,)
        Any magnitude that orders them; NaN where unknown.
    """

    x: Floats
    y: Floats
    error: Floats
    mag: Floats

    def __len__(self) -> int:
        return len(self.x)

    def inside(self, x_low: float, x_high: float, y_low: float, y_high: float) -> Points:
        """Those within a box, brightest first."""
        k = np.flatnonzero((self.x > x_low) & (self.x < x_high) & (self.y > y_low) & (self.y < y_high))
        return self.take(k[np.argsort(np.nan_to_num(self.mag[k], nan=np.inf), kind="stable")])

    def take(self, k: NDArray) -> Points:
        """Those of these indices."""
        return Points(self.x[k], self.y[k], self.error[k], self.mag[k])


def apply_transform(units: Sequence[Unit], change: LinearTransform) -> None:
    """Move the solution of all units by a transform of the master frame."""
    for unit in units:
        if unit.transform is not None:
            unit.transform = change.after(unit.transform)
            if unit.fit is not None:
                unit.fit = LinearFit(
                    unit.transform,
                    unit.fit.used,
                    unit.fit.rms * change.scale,
                    unit.fit.n_parameters,
                    unit.fit.covariance * change.scale**2,
                    unit.fit.centre,
                    unit.fit.sign,
                )


def header_transform(units: Sequence[Unit]) -> LinearTransform:
    """From the solution to the headers: rotation and scale from the mean of the units' matrices, shift from the median.

    Pointing errors of single exposures do not turn or stretch the result: only the matrices do, one vote a unit.
    """
    solved = [(unit.start, unit.transform) for unit in units if unit.transform is not None]
    matrices = np.array([start.matrix @ np.linalg.inv(transform.matrix) for start, transform in solved])
    mean = np.median(matrices, axis=0)
    a, c = 0.5 * (mean[0, 0] + mean[1, 1]), 0.5 * (mean[1, 0] - mean[0, 1])
    turn = LinearTransform(float(a), float(-c), float(c), float(a))
    steps = []
    for start, transform in solved:
        x, y = turn(transform.x_shift, transform.y_shift)
        steps.append((start.x_shift - float(x), start.y_shift - float(y)))
    shift = np.median(np.array(steps), axis=0)
    return LinearTransform(turn.a, turn.b, turn.c, turn.d, float(shift[0]), float(shift[1]))


def register(
    stars: Points, target: Points, max_offset: float, cell: float, match_radius: float, clip: float
) -> tuple[LinearFit, int] | None:
    """The transform that takes a star list to a target list.

    Parameters
    ----------
    stars : Points
        The field's stars on the master frame.
    target : Points
        The reference, on the master frame, at the stars' epoch.
    max_offset, cell, match_radius : float
        Master pixels.
    clip : float
        Sigmas.

    Returns
    -------
    (LinearFit, int) or None
        The fit and the number of stars that it rests on; None where the lists do not match.
    """
    if not len(stars) or not len(target):
        return None
    stars = stars.take(np.argsort(np.nan_to_num(stars.mag, nan=np.inf), kind="stable"))
    near = target.inside(
        stars.x.min() - max_offset, stars.x.max() + max_offset, stars.y.min() - max_offset, stars.y.max() + max_offset
    )
    near = near.take(np.flatnonzero(np.isfinite(near.error)))
    if not len(near):
        return None
    voters = stars.take(np.arange(min(len(stars), VOTERS)))
    # Without magnitudes the reference's order says nothing, and all of it has to vote.
    candidates = near.take(np.arange(min(len(near), VOTERS if np.isfinite(near.mag).any() else 4 * VOTERS)))
    found = match_lists(voters.x, voters.y, candidates.x, candidates.y, LinearTransform(), max_offset, cell, match_radius, clip)
    if found is None and len(near) > len(candidates):
        found = match_lists(voters.x, voters.y, near.x, near.y, LinearTransform(), max_offset, cell, match_radius, clip)
    if found is None:
        return None
    fit = found[0]
    extra = 0.0
    for _ in range(5):
        x, y = fit.transform(stars.x, stars.y)
        i, j = mutual_pairs(x, y, near.x, near.y, match_radius)
        sigma = np.sqrt(stars.error[i] ** 2 + near.error[j] ** 2 + extra**2)
        better = fit_pairs(stars.x[i], stars.y[i], near.x[j], near.y[j], fit.transform, sigma, clip)
        if better is None:
            return None
        fit = better
        x, y = fit.transform(stars.x[i], stars.y[i])
        residual = np.concatenate([(x - near.x[j])[fit.used], (y - near.y[j])[fit.used]])
        formal = np.sqrt(stars.error[i] ** 2 + near.error[j] ** 2)[fit.used]
        width = robust_width(residual, 0.0)
        extra = float(np.sqrt(max(width**2 - float(np.median(formal)) ** 2, 0.0)))
    return fit, int(fit.used.sum())
