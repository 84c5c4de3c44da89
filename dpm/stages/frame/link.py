"""Which detections are one star: linking within each epoch, then from epoch to epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.kernels.matching import assign_units, grouped_median, link_units
from dpm.models.flags import StarFlag
from dpm.stages.frame.match import mutual_pairs
from dpm.stages.frame.units import Unit, epoch_groups, match_radius, stack

__all__ = ["Links", "join_epochs", "link_field"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Detections that do not count as evidence for a star.
_NO_EVIDENCE = int(StarFlag.SHARP | StarFlag.NOT_CONVERGED)
# Largest motion (mas/yr) and largest shift (finest pixels) that epochs are linked over.
LARGEST_MOTION = 20.0
LARGEST_SHIFT = 4.0
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
        Unit and epoch (0 is the oldest) of each detection.
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
    groups = epoch_groups(units)
    epoch_of_unit = np.zeros(len(units), dtype=np.int64)
    star = np.full(len(x), -1, dtype=np.int64)
    evidence = np.concatenate([(unit.flags & _NO_EVIDENCE) == 0 for unit in units]) if len(x) else np.zeros(0, bool)
    lists: list[tuple[Floats, Floats]] = []
    parts: list[Ints] = []
    for number, members in enumerate(groups):
        epoch_of_unit[members] = number
        members = [k for k in members if units[k].transform is not None]
        rows = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in members]) if members else np.zeros(0, np.int64)
        local = np.concatenate([[0], np.cumsum([starts[k + 1] - starts[k] for k in members])]).astype(np.int64)
        floor = needed if len(groups) == 1 else min(needed, 2, max(len(members), 1))
        radius = match_radius([units[k] for k in members], pixels, scale) if members else 0.0
        star[rows], position = _link_epoch(x[rows], y[rows], local, evidence[rows], radius, min(floor, len(members)))
        lists.append(position)
        parts.append(rows)
    pixel = min(unit.pixel_scale for unit in units) / scale
    n_stars = _join_epochs(units, groups, lists, parts, star, pixel, scale)
    epoch = epoch_of_unit[unit_of]
    n_stars = _drop_rare(star, evidence, n_stars, min(needed, sum(unit.transform is not None for unit in units)))
    return Links(starts, unit_of, epoch, x, y, star, n_stars, len(groups))


def join_epochs(
    units: Sequence[Unit], group_of: Ints, unit_of: Ints, star: Ints, x: Floats, y: Floats, scale: float
) -> tuple[Ints, int]:
    """Stars that were measured epoch by epoch, with common numbers over all epochs.

    Parameters
    ----------
    units : sequence of Unit
    group_of : ndarray (n_units,)
        Epoch of each unit (0 is the oldest), -1 for a unit without measurements.
    unit_of, star : ndarray (n,)
        Unit and star of each measurement; stars of different epochs have different numbers.
    x, y : ndarray (n,)
        Master frame.
    scale : float
        Master pixel in arcsec.

    Returns
    -------
    star : ndarray (n,)
    n_stars : int
    """
    error = np.concatenate([0.5 * (unit.x_error + unit.y_error) for unit in units]) if len(units) else np.zeros(0)
    weight = np.where(np.isfinite(x) & np.isfinite(y) & (error > 0), 1.0 / np.maximum(error, 1e-6) ** 2, 0.0)
    number = np.full(len(star), -1, dtype=np.int64)
    groups: list[list[int]] = []
    lists: list[tuple[Floats, Floats]] = []
    parts: list[Ints] = []
    for epoch in range(int(group_of.max(initial=-1)) + 1):
        groups.append([int(k) for k in np.flatnonzero(group_of == epoch)])
        rows = np.flatnonzero(np.isin(unit_of, groups[-1]))
        _, local = np.unique(star[rows], return_inverse=True)
        number[rows] = local
        n = int(local.max(initial=-1)) + 1
        total = np.maximum(np.bincount(local, weight[rows], n), 1e-30)
        lists.append(
            tuple(np.bincount(local, weight[rows] * np.nan_to_num(axis[rows]), n) / total for axis in (x, y))  # type: ignore[arg-type]
        )
        parts.append(rows)
    pixel = min(unit.pixel_scale for unit in units) / scale
    return number, _join_epochs(units, groups, lists, parts, number, pixel, scale)


def _link_epoch(
    x: Floats, y: Floats, starts: Ints, evidence: NDArray[np.bool_], radius: float, floor: int
) -> tuple[Ints, tuple[Floats, Floats]]:
    """Stars of one epoch: link, keep those with enough units, then assign all detections to them afresh."""
    if not len(x):
        return np.zeros(0, dtype=np.int64), (np.zeros(0), np.zeros(0))
    # Two detections that are each within the radius of their star can be further apart than that.
    wide = WIDER * radius
    star, n = link_units(x, y, starts, wide)
    for _ in range(3):
        centre_x, centre_y, star, n = _centres(x, y, star, n, evidence, floor)
        centre_x, centre_y = _merge(centre_x, centre_y, star, starts, radius)
        star = assign_units(x, y, starts, centre_x, centre_y, wide)
        n = len(centre_x)
    centre_x, centre_y, star, n = _centres(x, y, star, n, evidence, floor)
    return star, (centre_x, centre_y)


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


def _join_epochs(
    units: Sequence[Unit],
    groups: list[list[int]],
    lists: list[tuple[Floats, Floats]],
    parts: list[Ints],
    star: Ints,
    pixel: float,
    scale: float,
) -> int:
    """Give the stars of all epochs common numbers, in place; latest epoch first.

    A star of an older epoch is a known one where both are each other's nearest within the reach of motions, and no
    second candidate competes.
    """
    times = [float(np.mean([units[k].epoch for k in members])) for members in groups]
    known_x, known_y, known_t = lists[-1][0].copy(), lists[-1][1].copy(), np.full(len(lists[-1][0]), times[-1])
    for number in range(len(groups) - 2, -1, -1):
        x, y = lists[number]
        years = float(np.max(np.abs(known_t - times[number]))) if len(known_t) else 0.0
        reach = pixel * min(0.5 + LARGEST_MOTION * years / 1000 / (scale * pixel), LARGEST_SHIFT)
        i, j = mutual_pairs(x, y, known_x, known_y, reach)
        sure = _unambiguous(x, y, known_x, known_y, i, j, reach)
        i, j = i[sure], j[sure]
        number_of = np.full(len(x), -1, dtype=np.int64)
        number_of[i] = j
        new = np.flatnonzero(number_of < 0)
        number_of[new] = len(known_x) + np.arange(len(new))
        rows = parts[number]
        star[rows] = np.where(star[rows] >= 0, number_of[np.maximum(star[rows], 0)] if len(x) else -1, -1)
        known_x, known_y = np.concatenate([known_x, x[new]]), np.concatenate([known_y, y[new]])
        known_t = np.concatenate([known_t, np.full(len(new), times[number])])
    return len(known_x)


def _unambiguous(x: Floats, y: Floats, known_x: Floats, known_y: Floats, i: Ints, j: Ints, reach: float) -> NDArray[np.bool_]:
    """Pairs whose second-nearest candidates, either way, are beyond reach or at least three times as far."""
    if not len(i):
        return np.zeros(0, dtype=bool)
    first, second = np.column_stack([x, y]), np.column_stack([known_x, known_y])
    distance = np.hypot(x[i] - known_x[j], y[i] - known_y[j])
    limit = np.minimum(np.maximum(3 * distance, 0.25 * reach), reach)

    def next_nearest(points: NDArray, others: NDArray) -> Floats:
        if len(others) < 2:
            return np.full(len(points), np.inf)
        return np.asarray(cKDTree(others).query(points, k=2)[0][:, 1])

    return (next_nearest(first[i], second) >= limit) & (next_nearest(second[j], first) >= limit)


def _drop_rare(star: Ints, evidence: NDArray[np.bool_], n_stars: int, needed: int) -> int:
    """Unlink, in place, stars in fewer units than needed; the new number of stars."""
    keep = _enough(star, evidence, n_stars, needed)
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    linked = star >= 0
    star[linked] = number[star[linked]]
    return int(keep.sum())
