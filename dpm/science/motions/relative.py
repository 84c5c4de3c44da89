"""Motions against reference stars through six-parameter transforms, global or local, the star itself left out.

A displacement through a six-parameter transform between two epochs is the motion minus a field linear in position; it is fitted
to the motions of the reference stars.  Such transforms take out what the reference stars do together: bulk motion, rotation,
expansion and shear (local ones also on smaller scales).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.science.motions.dispersion import intrinsic_dispersion
from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["FEWEST_REFERENCE", "RelativeMotions", "relative_motions"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEWEST_REFERENCE = 6  # twice what three parameters an axis need
CLIP_SIGMA = 3.5
ROUNDS = 10
# Neighbours whose normal matrix is worse than this lie on a line: their mean stands for the transform.
SINGULAR = 1e-8


@dataclass(frozen=True)
class RelativeMotions:
    """Motions against the reference stars.

    Parameters
    ----------
    motion : ndarray (n, 2)
        mas/yr, as the input's axes.
    covariance : ndarray (n, 2, 2)
        Of the star's own motion and of the transform.
    field : ndarray (n, 2)
        What was subtracted.
    reference : ndarray (n,), bool
        Stars that the transforms rest on, after clipping.
    dispersion : float
        Scatter of the reference stars beyond their errors, mas/yr, one axis.
    zero_variance : float
        Of the reference stars' mean, one axis: what all stars' errors have in common.
    """

    motion: Floats
    covariance: Floats
    field: Floats
    reference: Bools
    dispersion: float
    zero_variance: float


def relative_motions(
    position: NDArray, motion: NDArray, covariance: NDArray, reference: NDArray, neighbors: int = 0, clip: float = CLIP_SIGMA
) -> RelativeMotions:
    """Subtract the linear field of the reference stars' motions.

    Parameters
    ----------
    position : array_like (n, 2)
        On a plane, any unit.
    motion, covariance : array_like (n, 2), (n, 2, 2)
        mas/yr; NaN for stars without.
    reference : array_like (n,), bool
        Reference stars.
    neighbors : int
        Nearest reference stars of a local transform; 0: all of them, one transform.
    clip : float
        Reference stars further than this many sigmas (errors and dispersion) from the field are left out.

    Raises
    ------
    MotionError
        If fewer than `FEWEST_REFERENCE` reference stars have motions, or are left by the clipping.
    """
    position, motion, covariance = (np.asarray(values, dtype=float) for values in (position, motion, covariance))
    usable = known_motions(motion, covariance) & np.isfinite(position).all(axis=1)
    given = np.asarray(reference, dtype=bool)
    use = given & usable
    _enough(use, f"{int(given.sum())} reference stars are given")
    if 0 < neighbors < FEWEST_REFERENCE:
        raise MotionError(f"neighbors = {neighbors}: a local transform needs {FEWEST_REFERENCE} or more (0: a global one)")
    center, scale = np.mean(position[use], axis=0), max(float(np.std(position[use])), 1e-12)
    plane = (position - center) / scale
    design = np.column_stack([np.ones(len(plane)), plane])
    variance = 0.5 * np.trace(covariance, axis1=1, axis2=2)
    dispersion = 0.0
    for _ in range(ROUNDS):
        weight = np.where(use, 1.0 / (variance + dispersion**2), 0.0)
        field, spread = _global(design, motion, weight)
        left = motion - field
        dispersion = intrinsic_dispersion(left[use], covariance[use]).sigma
        sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2) + dispersion**2)
        with np.errstate(invalid="ignore"):
            keep = given & usable & (np.abs(left) <= clip * sigma).all(axis=1)
        if np.array_equal(keep, use):
            break
        before = int((given & usable).sum())
        _enough(keep, f"clipping at {clip} sigma left {int(keep.sum())} of {before} reference stars with motions")
        use = keep
    weight = np.where(use, 1.0 / (variance + dispersion**2), 0.0)
    if neighbors:
        field, spread = _local(plane, motion, weight, use, usable, neighbors)
    else:
        field, spread = _global(design, motion, weight)
    field[~usable] = np.nan
    total = covariance + np.where(usable, spread, np.nan)[:, None, None] * np.eye(2)
    return RelativeMotions(motion - field, total, field, use, dispersion, float(1.0 / weight.sum()))


def _enough(use: Bools, story: str) -> None:
    if use.sum() < FEWEST_REFERENCE:
        raise MotionError(
            f"{story}, and {int(use.sum())} can carry the transform: it needs {FEWEST_REFERENCE} or more. "
            "Give a wider choice of reference stars, or the right one (their motions have to agree)"
        )


def _global(design: Floats, motion: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """One linear field, each reference star left out of its own, and the field's variance."""
    use = weight > 0
    rows, w = design[use], weight[use]
    inverse = np.linalg.inv((rows.T * w) @ rows)
    values = inverse @ (rows.T * w) @ motion[use]
    spread = np.einsum("ni,ij,nj->n", design, inverse, design)
    field = design @ values
    leverage = np.clip(spread * weight, 0.0, 1.0 - 1e-6)
    # Leaving a star out moves its prediction away from it by leverage / (1 - leverage) of its residual.
    known = np.nan_to_num(motion - field)
    field = field - known * (leverage / (1.0 - leverage))[:, None]
    return field, spread / (1.0 - leverage)


def _local(plane: Floats, motion: Floats, weight: Floats, use: Bools, usable: Bools, neighbors: int) -> tuple[Floats, Floats]:
    """Linear field of each star's nearest reference stars at its place, and its variance."""
    rows = np.flatnonzero(use)
    stars = np.flatnonzero(usable)
    n = min(neighbors, len(rows) - 1)
    near = rows[cKDTree(plane[rows]).query(plane[stars], n + 1)[1]]
    own = near == stars[:, None]
    own[~own.any(axis=1), -1] = True
    near = near[~own].reshape(len(stars), n)
    offset = plane[near] - plane[stars, None, :]
    reach = np.sqrt(np.mean(offset**2, axis=(1, 2)))
    reach[reach == 0] = 1.0
    design = np.concatenate([np.ones((len(stars), n, 1)), offset / reach[:, None, None]], axis=2)
    w = weight[near]
    normal = np.einsum("sni,sn,snj->sij", design, w, design)
    flat = np.linalg.cond(normal) > 1 / SINGULAR
    normal[flat] = normal[flat][:, :1, :1] * np.diag([1.0, 1e12, 1e12])
    inverse = np.linalg.inv(normal)
    right = np.einsum("sni,sn,sna->sia", design, w, motion[near])
    field, spread = np.full_like(motion, np.nan), np.full(len(motion), np.nan)
    field[stars] = np.einsum("si,sia->sa", inverse[:, 0, :], right)
    spread[stars] = inverse[:, 0, 0]
    return field, spread
