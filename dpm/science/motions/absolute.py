"""From relative to absolute motions: the zero point from a reference catalogue's motions, or from galaxies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["ZeroPoint", "zero_point_from_galaxies", "zero_point_from_motions"]

Floats = NDArray[np.float64]

CLIP_SIGMA = 3.5
FEWEST = 5
ROUNDS = 20


@dataclass(frozen=True)
class ZeroPoint:
    """What has to be added to relative motions.

    Parameters
    ----------
    motion : ndarray (2,)
    covariance : ndarray (2, 2)
        Grown by chi-square where stars scatter more than their errors.
    chi2, degrees : float, int
        Of the stars used about it.
    used : ndarray (n,), bool
    """

    motion: Floats
    covariance: Floats
    chi2: float
    degrees: int
    used: NDArray[np.bool_]

    @property
    def error(self) -> Floats:
        return np.sqrt(np.diag(self.covariance))

    def apply(self, motion: NDArray, covariance: NDArray) -> tuple[Floats, Floats]:
        """Absolute motions and their covariances; the zero point's own error is common to all stars and in each of them."""
        return np.asarray(motion, dtype=float) + self.motion, np.asarray(covariance, dtype=float) + self.covariance


def zero_point_from_motions(
    motion: NDArray, covariance: NDArray, reference_motion: NDArray, reference_covariance: NDArray, clip: float = CLIP_SIGMA
) -> ZeroPoint:
    """Weighted mean of a reference's motions minus ours, of the same stars.

    Parameters
    ----------
    motion, covariance : array_like (n, 2), (n, 2, 2)
        Relative motions.
    reference_motion, reference_covariance : array_like (n, 2), (n, 2, 2)
        NaN where the reference has none.
    clip : float
        Stars further than this many sigmas on an axis are left out.

    Raises
    ------
    MotionError
        If fewer than five stars have both, or agree.
    """
    motion, covariance, other, other_covariance = (
        np.asarray(values, dtype=float) for values in (motion, covariance, reference_motion, reference_covariance)
    )
    total = covariance + other_covariance
    return _weighted_mean(other - motion, total, known_motions(other, other_covariance) & known_motions(motion, covariance), clip,
                          "stars with motions here and in the reference (has the reference motions at all?)")  # fmt: skip


def zero_point_from_galaxies(motion: NDArray, covariance: NDArray, galaxies: NDArray, clip: float = CLIP_SIGMA) -> ZeroPoint:
    """Minus the weighted mean of the galaxies' relative motions.

    Parameters
    ----------
    motion, covariance : array_like (n, 2), (n, 2, 2)
    galaxies : array_like (n,), bool
    clip : float
        See `zero_point_from_motions`, whose error this raises as well.
    """
    motion, covariance = np.asarray(motion, dtype=float), np.asarray(covariance, dtype=float)
    good = known_motions(motion, covariance) & np.asarray(galaxies, dtype=bool)
    return _weighted_mean(-motion, covariance, good, clip, "galaxies with motions")


def _weighted_mean(difference: Floats, covariance: Floats, good: NDArray[np.bool_], clip: float, what: str) -> ZeroPoint:
    if good.sum() < FEWEST:
        raise MotionError(f"{int(good.sum())} {what}: an absolute zero point needs {FEWEST} or more")
    used = good
    middle = np.median(difference[used], axis=0)
    sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    for _ in range(ROUNDS):
        # Where stated errors are too small for the whole sample, its own scatter is the measure.
        scale = max(1.0, 1.4826 * float(np.median(np.abs((difference[used] - middle) / sigma[used]))))
        with np.errstate(invalid="ignore"):
            keep = good & (np.abs(difference - middle) <= clip * scale * sigma).all(axis=1)
        if keep.sum() < FEWEST:
            raise MotionError(f"of {int(good.sum())} {what}, {int(keep.sum())} agree with each other: no zero point from them")
        weight = np.linalg.inv(covariance[keep])
        spread = np.linalg.inv(weight.sum(axis=0))
        middle = spread @ np.einsum("nij,nj->i", weight, difference[keep])
        if np.array_equal(keep, used):
            break
        used = keep
    off = difference[keep] - middle
    chi2, degrees = float(np.einsum("ni,nij,nj->", off, weight, off)), 2 * int(keep.sum()) - 2
    return ZeroPoint(middle, spread * max(chi2 / degrees, 1.0), chi2, degrees, keep)
