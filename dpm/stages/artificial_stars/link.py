"""Whether artificial stars that were measured at several epochs would have been linked, by the code that links the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.stages.frame.epoch_link import EpochStars, epoch_stars, join_lists
from dpm.stages.frame.link import Links
from dpm.stages.frame.units import Unit

__all__ = ["epoch_lists", "keep_linked", "linked_epochs"]

Ints = NDArray[np.int64]

# Artificial stars that are linked together with the real ones, per real star: so few that densities and motions stay the field's.
BATCH_SHARE = 0.1
SMALLEST_BATCH = 20
SAME = 0.5  # master pixels within which an artificial star's measurement stands for the real star there as well


def epoch_lists(units: Sequence[Unit], links: Links) -> tuple[list[EpochStars], list[Ints]]:
    """Stars of every epoch and their numbers in ``links.star``."""
    lists, numbers = [], []
    for epoch in range(links.n_epochs):
        rows = np.flatnonzero((links.epoch == epoch) & (links.star >= 0))
        number, local = np.unique(links.star[rows], return_inverse=True)
        members = np.unique(links.unit[links.epoch == epoch])
        lists.append(epoch_stars(units, members, rows, local.reshape(-1), links.unit, links.x, links.y))
        numbers.append(number)
    return lists, numbers


def linked_epochs(real: Sequence[EpochStars], stars: Sequence[EpochStars], numbers: Sequence[Ints], n: int, scale: float) -> Ints:
    """Numbers (n, epochs) of the row that each artificial star's measurement of an epoch becomes part of; -1 without one.

    Parameters
    ----------
    real, stars : sequence of EpochStars
        Real and artificial stars of every epoch, oldest first.
    numbers : sequence of ndarray
        Which artificial star each of ``stars`` is.
    n : int
        Artificial stars.
    scale : float
        Master pixel in arcsec.
    """
    out = np.full((n, len(real)), -1, np.int64)
    step = max(SMALLEST_BATCH, int(BATCH_SHARE * min(len(part) for part in real)))
    # Neighbours in number may lie together; strides of the numbers do not.
    turns = max(-(-n // step), 1)
    for turn in range(turns):
        joined, mine = [], []
        for part, own, number in zip(real, stars, numbers, strict=True):
            rows = np.flatnonzero(number % turns == turn)
            mine.append(rows)
            joined.append(_together(part, own, rows))
        places, _ = join_lists([lists for lists, _ in joined], scale)
        for epoch, (place, (_, n_real), rows) in enumerate(zip(places, joined, mine)):
            out[numbers[epoch][rows], epoch] = place[n_real:]
    return out


def _together(real: EpochStars, stars: EpochStars, rows: Ints) -> tuple[EpochStars, int]:
    """Real stars without those that artificial ones stand for, then these artificial stars; and the number of real ones."""
    keep = np.ones(len(real), bool)
    if rows.size and len(real):
        place = np.column_stack([real.x, real.y])
        near = cKDTree(place).query_ball_point(np.column_stack([stars.x[rows], stars.y[rows]]), SAME)
        keep[[k for part in near for k in part]] = False
    nan = np.full(max(len(real), len(stars)), np.nan)
    mags = {
        name: np.concatenate([real.mags.get(name, nan[: len(real)])[keep], stars.mags.get(name, nan[: len(stars)])[rows]])
        for name in sorted({*real.mags, *stars.mags})
    }
    x, y, error = (np.concatenate([a[keep], b[rows]]) for a, b in ((real.x, stars.x), (real.y, stars.y), (real.error, stars.error)))
    return EpochStars(real.time, x, y, error, mags), int(keep.sum())


def keep_linked(links: Links, row_of: Ints) -> Links:
    """Links in which each artificial star keeps the epochs that became one row with its latest one."""
    latest = np.where(row_of >= 0, np.arange(row_of.shape[1]), -1).max(axis=1, initial=-1)
    same = row_of == np.take_along_axis(row_of, np.maximum(latest, 0)[:, None], axis=1)
    known = links.star >= 0
    star = links.star.copy()
    star[known] = np.where(same[links.star[known], links.epoch[known]], links.star[known], -1)
    return replace(links, star=star)
