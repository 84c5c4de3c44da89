"""Weights of the measurements of a distortion solution: clipping, error floors, and trust in the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.stages.distortion.sample import Plane, Sample, sums
from dpm.stages.frame.average import MEDIAN_CHI2

__all__ = ["CLIP", "Scatter", "weigh"]

Floats = NDArray[np.float64]

# Measurements further than this from their star's mean are left out; rounds of that in each round of the solution.
CLIP = 3.5
CLIP_ROUNDS = 3


@dataclass
class Scatter:
    """Error floors by filter (raw pixels), the reference's errors over the stated ones, and the reference stars used."""

    floor: Floats
    reference: float
    reference_used: NDArray[np.bool_] | None = None


def weigh(
    sample: Sample, plane: Plane, weight: Floats, scatter: Scatter, settled: bool, opening: float
) -> tuple[Floats, Floats, tuple[Floats, Floats], Scatter, NDArray[np.bool_]]:
    """Weights on the plane after clipping, their sums a star, star means, error scatter, and the reference stars used.

    Once the solution has `settled`, the selection stays as it is: measurements at the edge of the clipping would come
    and go for ever.
    """
    scale2 = plane.scale2[sample.unit]
    used = weight > 0 if weight.any() else np.ones(len(sample), dtype=bool)
    reference_used = scatter.reference_used if scatter.reference_used is not None else np.isfinite(sample.reference_variance)
    floor, factor = scatter.floor, scatter.reference
    star = sample.star
    for _ in range(0 if settled else CLIP_ROUNDS):
        variance, weight, total, mean, own = _means(sample, plane, used, reference_used, floor, factor)
        rx, ry = mean[0][star] - plane.x, mean[1][star] - plane.y
        safe = np.where(total > 0, total, 1.0)[star]
        share = np.where(used, 1 - weight / safe, 1 + 1 / (variance * safe))
        several = (total[star] - weight) > 0
        floor = _floors(sample, rx, ry, share, scale2, used & several)
        variance = (sample.variance + floor[sample.filt] ** 2) * scale2
        limit = opening * CLIP * np.sqrt(variance * np.maximum(share, 0.05))
        used = several & (np.abs(rx) < limit) & (np.abs(ry) < limit) & (total[star] > 0)
        if np.isfinite(sample.reference_variance).any():
            factor, reference_used = _judge_reference(sample, mean, own, total, factor)
        # A star that nothing else holds says nothing.
        used &= ((np.bincount(star, used, sample.n_stars) + reference_used) >= 2)[star]
    _, weight, total, mean, own = _means(sample, plane, used, reference_used, floor, factor)
    return weight, np.where(own > 0, total, 0.0), mean, Scatter(floor, factor, reference_used), reference_used & (own > 0)


def _means(
    sample: Sample, plane: Plane, used: NDArray[np.bool_], reference_used: NDArray[np.bool_], floor: Floats, factor: float
) -> tuple[Floats, Floats, Floats, tuple[Floats, Floats], Floats]:
    """Variances and weights on the plane, sums of weights a star, star means, and sums without the reference."""
    variance = (sample.variance + floor[sample.filt] ** 2) * plane.scale2[sample.unit]
    weight = np.where(used, 1 / variance, 0.0)
    reference = np.where(reference_used, 1 / (sample.reference_variance * factor**2), 0.0)
    own = sums(sample, weight)
    total = own + reference
    safe = np.where(total > 0, total, 1.0)
    x = (sums(sample, weight * plane.x) + reference * np.nan_to_num(sample.reference_x)) / safe
    y = (sums(sample, weight * plane.y) + reference * np.nan_to_num(sample.reference_y)) / safe
    return variance, weight, total, (x, y), own


def _floors(sample: Sample, rx: Floats, ry: Floats, share: Floats, scale2: Floats, good: NDArray[np.bool_]) -> Floats:
    """Floor of every filter that gives the better-measured half of its residuals their expected scatter, raw pixels."""
    floors = np.zeros(int(sample.filt.max()) + 1)
    for f in range(len(floors)):
        mine = np.flatnonzero(good & (sample.filt == f))
        if len(mine) < 10:
            floors[f] = 0.01
            continue
        best = mine[np.argsort(sample.variance[mine], kind="stable")[: max(len(mine) // 2, 10)]]
        square = np.concatenate([rx[best] ** 2, ry[best] ** 2]) / np.tile(share[best] * scale2[best], 2)
        variance = np.tile(sample.variance[best], 2)
        low, high = 0.0, float(np.max(square)) / MEDIAN_CHI2 + 1e-12
        if np.median(square / variance) > MEDIAN_CHI2:
            for _ in range(40):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if np.median(square / (variance + middle)) > MEDIAN_CHI2 else (low, middle)
        floors[f] = np.sqrt(low)
    return floors


def _judge_reference(
    sample: Sample, mean: tuple[Floats, Floats], own: Floats, total: Floats, factor: float
) -> tuple[float, NDArray[np.bool_]]:
    """By how much the reference's errors are too small against the dithered positions, and which of it is used."""
    good = np.flatnonzero(np.isfinite(sample.reference_variance) & (own > 0))
    used = np.zeros(sample.n_stars, dtype=bool)
    if not len(good):
        return factor, used
    # Means hold the reference: without it they would lie further away.
    free = own[good] / total[good]
    dx = (sample.reference_x[good] - mean[0][good]) / free
    dy = (sample.reference_y[good] - mean[1][good]) / free
    variance = sample.reference_variance[good] + 1 / own[good]
    if len(good) >= 10:
        excess = float(np.median(np.concatenate([dx**2, dy**2]) / np.tile(variance, 2))) / MEDIAN_CHI2
        factor = float(np.sqrt(max(excess, 1.0)))
    limit = CLIP * np.sqrt(sample.reference_variance[good] * factor**2 + 1 / own[good])
    used[good] = (np.abs(dx) < limit) & (np.abs(dy) < limit)
    return factor, used
