"""Membership by a circle in the vector-point diagram whose radius grows with magnitude (paper 1, figure 3; paper 2, figure 25)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["MembershipCircles", "membership_circles"]

Floats = NDArray[np.float64]

FEWEST_STARS = 10  # of a bin


@dataclass(frozen=True)
class MembershipCircles:
    """Radii at magnitudes, straight lines between, level beyond.

    Parameters
    ----------
    center : ndarray (2,)
        mas/yr.
    mag, radius : ndarray (k,)
        ``list(zip(mag, radius))`` is what `dpm.science.motion_radius` takes.
    """

    center: Floats
    mag: Floats
    radius: Floats

    def __call__(self, motion: NDArray, mag: NDArray) -> NDArray[np.bool_]:
        """Stars (n,) inside their circle."""
        off = np.asarray(motion, dtype=float) - self.center
        with np.errstate(invalid="ignore"):
            return np.hypot(off[:, 0], off[:, 1]) <= np.interp(np.asarray(mag, dtype=float), self.mag, self.radius)


def membership_circles(
    motion: NDArray,
    covariance: NDArray,
    mag: NDArray,
    dispersion: float,
    center: NDArray | tuple[float, float] = (0.0, 0.0),
    sigmas: float = 3.0,
    step: float = 0.5,
) -> MembershipCircles:
    """Radii from the errors of each magnitude and the cluster's own dispersion.

    Parameters
    ----------
    motion, covariance : array_like (n, 2), (n, 2, 2)
    mag : array_like (n,)
    dispersion : float
        Intrinsic, one axis (mas/yr).
    center : array_like (2,)
        Motion of the cluster.
    sigmas : float
        Radius over the one-axis width of members: 3.0 keeps 98.9 % of them, 2.45 95 %.
    step : float
        Width of the bins, mag.

    Raises
    ------
    MotionError
        If no bin has `FEWEST_STARS` stars.
    """
    motion, covariance, mag = (np.asarray(values, dtype=float) for values in (motion, covariance, mag))
    known = known_motions(motion, covariance) & np.isfinite(mag)
    variance = 0.5 * np.trace(covariance, axis1=1, axis2=2)
    bins = np.floor(mag / step)
    middle, radius = [], []
    for key in np.unique(bins[known]):
        mine = known & (bins == key)
        if mine.sum() >= FEWEST_STARS:
            middle.append(float(np.median(mag[mine])))
            radius.append(sigmas * float(np.sqrt(np.median(variance[mine]) + dispersion**2)))
    if not middle:
        raise MotionError(f"{int(known.sum())} stars with motions and magnitudes, never {FEWEST_STARS} in {step} mag: no radii")
    return MembershipCircles(np.asarray(center, dtype=float), np.array(middle), np.array(radius))
