"""Which detections are one star: linking within each epoch, then from epoch to epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.kernels.matching import assign_units, grouped_median, link_units
from dpm.models.flags import StarFlag
from dpm.stages.frame.epoch_link import join_epochs
from dpm.stages.frame.units import Unit, match_radius, placed_epochs, stack

__all__ = ["Links", "link_field"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Detections that do not count as evidence for a star.
_NO_EVIDENCE = int(StarFlag.SHARP | StarFlag.NOT_CONVERGED)
# Faint stars scatter: detections are linked within this many match radii.
WIDER = 1.5


@dataclass
class Links:
    """Detections of all units end to end, and their stars.

    Parameters
    ----------
    starts : ndarray (n_units + 1,)
        First detection of each unit.
    unit, epoch : ndarray (n,)
        Unit and epoch of each detection; 0 is the oldest, -1 of units that are not on the master frame.
    x, y : ndarray (n,)
        Master frame.
    star : ndarray (n,)
        Star of each detection, -1 for none.
    n_stars, n_epochs : int
        Numbers.
    """

    starts: Ints
    unit: Ints
    epoch: Ints
    x: Floats
    y: Floats
    star: Ints
    n_stars: int
    n_epochs: int


def link_field(units: Sequence[Unit], pixels: float, needed: int, scale: float) -> Links:
    """Link the detections of solved units into stars.

    Parameters
    ----------
    units : sequence of Unit
        Solved units, sorted; those without a transform take no part.
    pixels : float
        Match radius in pixels of the coarsest detector of an epoch.
    needed : int
        Units that a star must be in, over all epochs.
    scale : float
        Master pixel in arcsec.
    """
    placed = [unit.position() if unit.transform is not None else (unit.u * np.nan, unit.v * np.nan) for unit in units]
    x, starts = stack([position[0] for position in placed])
    y, _ = stack([position[1] for position in placed])
    unit_of = np.repeat(np.arange(len(units), dtype=np.int64), np.diff(starts))
    groups = placed_epochs(units)
    epoch_of_unit = np.full(len(units), -1, dtype=np.int64)
    star = np.full(len(x), -1, dtype=np.int64)
    evidence = np.concatenate([(unit.flags & _NO_EVIDENCE) == 0 for unit in units]) if len(x) else np.zeros(0, bool)
    for number, members in enumerate(groups):
        epoch_of_unit[members] = number
        rows = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in members])
        local = np.concatenate([[0], np.cumsum([starts[k + 1] - starts[k] for k in members])]).astype(np.int64)
        floor = needed if len(groups) == 1 else min(needed, 2, len(members))
        radius = match_radius([units[k] for k in members], pixels, scale)
        star[rows] = _link_epoch(x[rows], y[rows], local, evidence[rows], radius, min(floor, len(members)))
    star, n_stars = join_epochs(units, epoch_of_unit, unit_of, star, x, y, scale)
    epoch = epoch_of_unit[unit_of]
    n_stars = _drop_rare(star, evidence, n_stars, min(needed, sum(unit.transform is not None for unit in units)))
    return Links(starts, unit_of, epoch, x, y, star, n_stars, len(groups))


def _link_epoch(
    x: Floats, y: Floats, starts: Ints, evidence: NDArray[np.bool_], radius: float, floor: int
) -> Ints:
    """Stars of one epoch: link, keep those with enough units, then assign all detections to them afresh."""
    if not len(x):
        return np.zeros(0, dtype=np.int64)
    # Two detections that are each within the radius of their star can be further apart than that.
    wide = WIDER * radius
    star, n = link_units(x, y, starts, wide)
    for _ in range(3):
        centre_x, centre_y, star, n = _centres(x, y, star, n, evidence, floor)
        centre_x, centre_y = _merge(centre_x, centre_y, star, starts, radius)
        star = assign_units(x, y, starts, centre_x, centre_y, wide)
        n = len(centre_x)
    return _centres(x, y, star, n, evidence, floor)[2]


def _centres(x: Floats, y: Floats, star: Ints, n: int, evidence: NDArray[np.bool_], floor: int) -> tuple[Floats, Floats, Ints, int]:
    """Median positions of the stars with enough detections, and the detections' new star numbers."""
    keep = _enough(star, evidence, n, floor)
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    star = np.where(star >= 0, number[star], -1)
    n = int(keep.sum())
    order = np.argsort(star, kind="stable")
    edges = np.searchsorted(star[order], np.arange(n + 1))
    return grouped_median(x[order], edges), grouped_median(y[order], edges), star, n


def _enough(star: Ints, evidence: NDArray[np.bool_], n: int, floor: int) -> NDArray[np.bool_]:
    """Stars with enough detections, at least half of which look like a star."""
    linked = star >= 0
    count = np.bincount(star[linked], minlength=n)
    good = np.bincount(star[linked], evidence[linked], minlength=n)
    return (count >= max(floor, 1)) & (2 * good >= count) & (good >= 1)


def _merge(x: Floats, y: Floats, star: Ints, starts: Ints, radius: float) -> tuple[Floats, Floats]:
    """Centres without those that are a part of a neighbour: closer than the radius, and never seen together with it."""
    if len(x) < 2:
        return x, y
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(radius, output_type="ndarray")
    if not len(pairs):
        return x, y
    unit = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    linked = np.flatnonzero(star >= 0)
    order = linked[np.argsort(star[linked], kind="stable")]
    edges = np.searchsorted(star[order], np.arange(len(x) + 1))
    drop = np.zeros(len(x), dtype=bool)
    for i, j in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if drop[i] or drop[j]:
            continue
        first, second = unit[order[edges[i] : edges[i + 1]]], unit[order[edges[j] : edges[j + 1]]]
        together = len(np.intersect1d(first, second))
        if together <= 0.2 * min(len(first), len(second)):
            drop[i if len(first) < len(second) else j] = True
    return x[~drop], y[~drop]


def _drop_rare(star: Ints, evidence: NDArray[np.bool_], n_stars: int, needed: int) -> int:
    """Unlink, in place, stars in fewer units than needed; the new number of stars."""
    keep = _enough(star, evidence, n_stars, needed)
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    linked = star >= 0
    star[linked] = number[star[linked]]
    return int(keep.sum())
