"""Which stars of different epochs are one: by the motions and the colours that the field's own stars show.

Two stars of different epochs are the same with odds of what motions and brightness make likely against what chance
brings: f(displacement) q(magnitude) / (surface density x share of stars of that magnitude).  f and q are learnt from the
field, first from its bright stars, which chance cannot confuse, then from all pairs that are beyond doubt; members' common
motion is a peak of f wherever the frame is tied, so that they are linked in their own co-moving frame.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.kernels.matching import grouped_median
from dpm.kernels.motions import pair_density
from dpm.models.statistics import MEDIAN_TO_MEAN_ERROR
from dpm.stages.frame.epoch_colours import PairColours, pair_colours
from dpm.stages.frame.match import mutual_pairs, vote_offset
from dpm.stages.frame.units import Unit

__all__ = ["EpochStars", "epoch_stars", "join_epochs", "join_lists"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Largest motion about the common one (mas/yr) that epochs are linked over, how many errors of the displacement come on top, and
# the largest common motion over that: no star cluster moves by more than 25 mas/yr, nor do many stars of a field by 30.
LARGEST_MOTION = 30.0
REACH_SIGMA = 4.0
COMMON = 1.3
# Probability, seen from either star, from which two stars are taken for one, and from which a pair teaches the distributions.
# Above one half no star can have two partners.
LINKED = 0.65
BEYOND_DOUBT = 0.95
# Share of pairs that follow neither distribution: unseen blends, variable stars.
STRAY = 0.05
# Of the first sample: chance partners a star within reach, pairs that are enough to go by.
FIRST_CHANCE = 0.2
FEWEST_PAIRS = 12
# Motions that make the distribution, most; and which nearest neighbour of each sets its kernel.
MOST_MOTIONS = 400
KERNEL_NEIGHBOR = 5
ROUNDS = 4
# Stars about each star that its surface density is counted from, and stars in a bin of magnitudes.
DENSITY_NEIGHBORS = 20
MAGNITUDE_BIN = 30
# Error that no position is believed to be below, master pixels.
SMALLEST_ERROR = 0.02


@dataclass(frozen=True)
class EpochStars:
    """Stars of one epoch.

    Parameters
    ----------
    time : float
        Decimal year.
    x, y, error : ndarray (n,)
        Master frame, and the error per axis.
    mags : dict
        Instrumental magnitudes (n,) by filter, NaN where there is none.
    """

    time: float
    x: Floats
    y: Floats
    error: Floats
    mags: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.x)


@dataclass
class _Known:
    """All stars so far: where and when each was seen last (of the epochs that were looked at), and its motion if it has one."""

    time: Floats
    x: Floats
    y: Floats
    error: Floats
    motion: Floats
    motion_error: Floats
    mags: dict[str, Floats]

    @classmethod
    def of(cls, stars: EpochStars) -> _Known:
        n = len(stars)
        return cls(
            np.full(n, stars.time), stars.x.copy(), stars.y.copy(), stars.error.copy(), np.full((n, 2), np.nan),
            np.full(n, np.nan), dict(stars.mags),
        )  # fmt: skip

    def add(self, stars: EpochStars, number: Ints) -> None:
        """Take an epoch over: ``number`` is each of its stars' place here; places beyond the end are new."""
        old = number < len(self.x)
        k, i = number[old], np.flatnonzero(old)
        years = stars.time - self.time[k]
        self.motion[k] = np.column_stack([stars.x[i] - self.x[k], stars.y[i] - self.y[k]]) / years[:, None]
        self.motion_error[k] = np.hypot(stars.error[i], self.error[k]) / np.abs(years)
        for name in ("x", "y", "error"):
            getattr(self, name)[k] = getattr(stars, name)[i]
        self.time[k] = stars.time
        fresh = _Known.of(stars)
        for name in ("time", "x", "y", "error", "motion", "motion_error"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(fresh, name)[~old]]))
        n = len(self.x)
        for filter_name, mag in stars.mags.items():
            values = np.full(n, np.nan)
            before = self.mags.get(filter_name, np.zeros(0))
            values[: len(before)] = before
            values[number] = np.where(np.isfinite(mag), mag, values[number])
            self.mags[filter_name] = values
        for filter_name, mag in self.mags.items():
            self.mags[filter_name] = np.concatenate([mag, np.full(n - len(mag), np.nan)])


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
        Unit and star of each measurement, -1 for none.
    x, y : ndarray (n,)
        Master frame.
    scale : float
        Master pixel in arcsec.

    Returns
    -------
    star : ndarray (n,)
    n_stars : int
    """
    number = np.full(len(star), -1, dtype=np.int64)
    lists: list[EpochStars] = []
    parts: list[Ints] = []
    for epoch in range(int(group_of.max(initial=-1)) + 1):
        members = np.flatnonzero(group_of == epoch)
        rows = np.flatnonzero(np.isin(unit_of, members) & (star >= 0))
        _, number[rows] = np.unique(star[rows], return_inverse=True)
        lists.append(epoch_stars(units, members, rows, number[rows], unit_of, x, y))
        parts.append(rows)
    places, n_stars = join_lists(lists, scale)
    for epoch, stars in enumerate(lists[:-1]):
        later = 1 + max(int(place.max(initial=-1)) for place in places[epoch + 1 :])
        known = int(np.sum(places[epoch] < later))
        log.info("epoch %.2f: %d of %d stars are among the later epochs' %d", stars.time, known, len(stars), later)
    for rows, place in zip(parts, places):
        number[rows] = place[number[rows]]
    return number, n_stars


def epoch_stars(
    units: Sequence[Unit], members: Ints, rows: Ints, local: Ints, unit_of: Ints, x: Floats, y: Floats
) -> EpochStars:
    """Median positions and magnitudes of one epoch's stars.

    Parameters
    ----------
    units : sequence of Unit
    members : ndarray of int
        The epoch's units.
    rows, local : ndarray (m,)
        Its measurements, as indices into ``unit_of``, ``x`` and ``y``, and their stars, from 0 without a gap.
    unit_of : ndarray (n,)
        Unit of each measurement.
    x, y : ndarray (n,)
        Master frame.
    """
    n = int(local.max(initial=-1)) + 1
    starts = np.concatenate([[0], np.cumsum([len(unit) for unit in units])])
    order = np.argsort(local, kind="stable")
    edges = np.searchsorted(local[order], np.arange(n + 1))
    error2, mag = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    filters = np.empty(len(rows), dtype=object)
    for k in members:
        mine = unit_of[rows] == k
        unit, at = units[k], rows[mine] - starts[k]
        ratio = unit.transform.scale if unit.transform is not None else 1.0
        error2[mine] = 0.5 * (unit.x_error[at] ** 2 + unit.y_error[at] ** 2) * ratio**2
        mag[mine] = unit.instrumental[at] + (unit.zero_point if np.isfinite(unit.zero_point) else 0.0)
        filters[mine] = unit.filter
    good = np.isfinite(error2) & (error2 > 0)
    weight = np.bincount(local[good], 1 / error2[good], n)
    error = MEDIAN_TO_MEAN_ERROR / np.sqrt(np.maximum(weight, 1e-12))
    mags = {
        str(name): grouped_median(np.where(filters == name, mag, np.nan)[order], edges) for name in sorted(set(filters))
    }
    time = float(np.mean([units[k].epoch for k in members]))
    middle_x, middle_y = (grouped_median(axis[rows][order], edges) for axis in (x, y))
    return EpochStars(time, middle_x, middle_y, np.maximum(error, SMALLEST_ERROR), mags)


def join_lists(lists: Sequence[EpochStars], scale: float) -> tuple[list[Ints], int]:
    """Common numbers for the stars of all epochs.

    Parameters
    ----------
    lists : sequence of EpochStars
        Oldest first.
    scale : float
        Master pixel in arcsec.

    Returns
    -------
    list of ndarray
        One an epoch: the number of each of its stars.
    int
        How many stars there are.
    """
    if not lists:
        return [], 0
    known = _Known.of(lists[-1])
    numbers = [np.arange(len(known.x))]
    for stars in reversed(lists[:-1]):
        i, j = _link(stars, known, LARGEST_MOTION / 1000 / scale)
        number = np.full(len(stars), -1, dtype=np.int64)
        number[i] = j
        new = np.flatnonzero(number < 0)
        number[new] = len(known.x) + np.arange(len(new))
        known.add(stars, number)
        numbers.append(number)
    return numbers[::-1], len(known.x)


def _link(stars: EpochStars, known: _Known, fastest: float) -> tuple[Ints, Ints]:
    """Pairs of stars of an epoch and known ones; ``fastest`` is the largest motion in master pixels a year."""
    if not len(stars) or not len(known.x):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    years = stars.time - known.time
    bulk, first = _first_motions(stars, known, fastest)
    i, j = _candidates(stars, known, years, bulk, fastest)
    if not len(i):
        return i, j
    dt = years[j]
    step = np.column_stack([stars.x[i] - known.x[j], stars.y[i] - known.y[j]])
    motion = step / dt[:, None]
    error = np.hypot(stars.error[i], known.error[j]) / np.abs(dt)
    predicted = np.isfinite(known.motion_error[j])
    crowd = _surface_density(stars, known, i)
    sample, sample_error = first
    colours, sample_colour = PairColours.unknown(len(i)), np.full(len(sample), np.nan)
    expected = np.full(len(stars), 0.5)
    probability = np.zeros(len(i))
    for _ in range(ROUNDS):
        likely = _pair_density(sample, sample_error, sample_colour, motion, error, colours, bulk, fastest)
        if predicted.any():
            sigma2 = error[predicted] ** 2 + known.motion_error[j[predicted]] ** 2
            off2 = np.sum((motion[predicted] - known.motion[j[predicted]]) ** 2, axis=1)
            own = np.exp(-0.5 * off2 / sigma2) / (2 * np.pi * sigma2)
            likely[predicted] = (1 - STRAY) * own + STRAY * likely[predicted]
        odds = likely / dt**2 / crowd
        odds *= (expected / (1 - expected))[i]
        here, there = (np.bincount(k, odds, n)[k] for k, n in ((i, len(stars)), (j, len(known.x))))
        probability = np.minimum(odds / (1 + here), odds / (1 + there))
        sure = np.flatnonzero(probability > BEYOND_DOUBT)
        if len(sure) < FEWEST_PAIRS:
            break
        colours = pair_colours(stars.mags, known.mags, i, j, sure, FEWEST_PAIRS)
        # Not of those beyond doubt alone: stars that move unlike most never are.
        drawn = _resample(probability, error)
        sample, sample_error, sample_colour = motion[drawn], error[drawn], colours.offset[drawn]
        expected = _expected(stars, i, odds)
    linked = np.flatnonzero(probability > LINKED)
    return i[linked], j[linked]


def _first_motions(stars: EpochStars, known: _Known, fastest: float) -> tuple[Floats, tuple[Floats, Floats]]:
    """The common motion and single motions of bright stars, as few as chance does not confuse; pixels a year."""
    nothing = np.zeros(2), (np.zeros((0, 2)), np.zeros(0))
    years = float(np.median(stars.time - known.time))
    reach = fastest * abs(years) + REACH_SIGMA * float(np.median(stars.error))
    low = [max(a.min(), b.min()) - reach for a, b in ((stars.x, known.x), (stars.y, known.y))]
    high = [min(a.max(), b.max()) + reach for a, b in ((stars.x, known.x), (stars.y, known.y))]
    area = max(high[0] - low[0], 0.0) * max(high[1] - low[1], 0.0)
    most = int(np.clip(FIRST_CHANCE * area / (np.pi * reach**2), FEWEST_PAIRS, 2 * MOST_MOTIONS))
    chosen = []
    for x, y, mags in ((stars.x, stars.y, stars.mags), (known.x, known.y, known.mags)):
        inside = np.flatnonzero((x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1]))
        chosen.append(inside[np.argsort(_brightness(mags, len(x))[inside], kind="stable")[:most]])
    a, b = chosen
    if min(len(a), len(b)) < FEWEST_PAIRS:
        return nothing
    cell = max(0.07 * reach, 3 * float(np.median(stars.error[a])))
    vote = vote_offset(stars.x[a], stars.y[a], known.x[b], known.y[b], COMMON * reach, cell)
    bulk = np.array([-vote.dx, -vote.dy]) if vote is not None and vote.chance < 1e-3 else np.zeros(2)
    i, j = mutual_pairs(stars.x[a] - bulk[0], stars.y[a] - bulk[1], known.x[b], known.y[b], reach)
    i, j = a[i], b[j]
    dt = stars.time - known.time[j]
    step = np.column_stack([stars.x[i] - known.x[j], stars.y[i] - known.y[j]])
    return bulk / years, (step / dt[:, None], np.hypot(stars.error[i], known.error[j]) / np.abs(dt))


def _brightness(mags: dict[str, Floats], n: int) -> Floats:
    """Magnitudes from each filter's median, the brightest filter's; infinity without any."""
    out = np.full(n, np.inf)
    for mag in mags.values():
        if np.isfinite(mag).any():
            out = np.fmin(out, mag - np.nanmedian(mag))
    return out


def _candidates(stars: EpochStars, known: _Known, years: Floats, bulk: Floats, fastest: float) -> tuple[Ints, Ints]:
    """All pairs within the largest motion, which is counted from the common one."""
    centre = np.column_stack([known.x + bulk[0] * years, known.y + bulk[1] * years])
    worst = float(np.hypot(np.percentile(stars.error, 99), np.percentile(known.error, 99)))
    widest = fastest * np.max(np.abs(years)) + REACH_SIGMA * worst
    near = cKDTree(np.column_stack([stars.x, stars.y])).query_ball_point(centre, widest, return_sorted=True)
    j = np.repeat(np.arange(len(near)), [len(part) for part in near])
    i = np.fromiter((k for part in near for k in part), np.int64, len(j))
    distance = np.hypot(stars.x[i] - centre[j, 0], stars.y[i] - centre[j, 1])
    keep = distance <= fastest * np.abs(years[j]) + REACH_SIGMA * np.hypot(stars.error[i], known.error[j])
    return i[keep], j[keep].astype(np.int64)


def _surface_density(stars: EpochStars, known: _Known, i: Ints) -> Floats:
    """Known stars a square pixel about the stars ``i``."""
    k = min(DENSITY_NEIGHBORS, len(known.x))
    distance = cKDTree(np.column_stack([known.x, known.y])).query(np.column_stack([stars.x, stars.y]), k=[k])[0][:, 0]
    return np.asarray((k / (np.pi * np.maximum(distance, 1.0) ** 2))[i])


def _resample(probability: Floats, error: Floats) -> Ints:
    """Pairs in proportion to their probability, of the best measured ones."""
    best = np.argsort(error, kind="stable")
    total = np.cumsum(probability[best])
    n = int(min(MOST_MOTIONS, total[-1]))
    most = min(float(total[-1]), 4.0 * MOST_MOTIONS)
    return np.asarray(best[np.searchsorted(total, (np.arange(n) + 0.5) * most / n)])



def _pair_density(
    sample: Floats, sample_error: Floats, sample_colour: Floats, motion: Floats, error: Floats, colours: PairColours, bulk: Floats,
    fastest: float,
) -> Floats:  # fmt: skip
    """Density of these motions (a square pixel a year), times how much likelier their colours are than chance's.

    Motions and colours go together: members differ from the field in both.
    """
    out = np.full(len(motion), STRAY / (np.pi * fastest**2))
    if len(sample) < FEWEST_PAIRS:
        sigma2 = (0.25 * fastest) ** 2 + error**2
        off2 = np.sum((motion - bulk) ** 2, axis=1)
        return out + (1 - STRAY) * np.exp(-0.5 * off2 / sigma2) / (2 * np.pi * sigma2)
    neighbor = cKDTree(sample).query(sample, k=[KERNEL_NEIGHBOR + 1])[0][:, 0]
    kernel2 = np.maximum(neighbor**2, sample_error**2)
    density = np.empty(len(motion))
    pair_density(
        sample, kernel2, sample_colour, motion, error**2, colours.offset, colours.kernel, colours.chance, STRAY, density
    )
    return out + (1 - STRAY) * density


def _expected(stars: EpochStars, i: Ints, odds: Floats) -> Floats:
    """Share of stars like each that have a partner, by brightness, of those with a candidate."""
    total = np.bincount(i, odds, len(stars))
    asked = np.unique(i)
    bright = _brightness(stars.mags, len(stars))
    bright = np.where(np.isfinite(bright), bright, 0.0)
    order = asked[np.argsort(bright[asked], kind="stable")]
    parts = np.array_split(order, max(len(order) // MAGNITUDE_BIN, 1))
    centre = np.array([np.median(bright[part]) for part in parts])
    share = np.array([np.mean(total[part] / (1 + total[part])) for part in parts])
    return np.clip(np.interp(bright, centre, share), 0.05, 0.98)
