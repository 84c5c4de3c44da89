"""First alignment: matching star lists whose pointing is only known to arcseconds, by voting for the offset.

Every pair of a detection and a star within the largest offset votes for their difference; true pairs agree, the others
spread out.  The peak that chance explains worst wins (Poisson, counted over the offsets not larger than its own, so
that a good header needs little evidence).  Where no peak stands out, small rotations are tried as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import poisson

from dpm.models.transform import LinearFit, LinearTransform, fit_linear
from dpm.stages.frame.units import Unit

__all__ = ["Vote", "align", "fit_pairs", "match_lists", "mutual_pairs", "refine", "vote_offset"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# None of these numbers is fitted to data.  Brightest stars of each list that vote (their 160,000 pairs take milliseconds), the same
# while rotations are tried, and how many times the voters a unit brings to the list of what is aligned.
VOTERS = 400
ROTATION_VOTERS = 150
LISTED = 5
# Largest error of a header's roll (degrees) that is looked for.  At most so many steps on either side; one step moves the
# edge of the field by so many cells, which a window of 2 x 2 cells still holds.
LARGEST_ROTATION = 1.0
MOST_ROTATIONS = 40
ROTATION_STEP = 1.5
# Peaks that chance would make more often than this are not believed.
CHANCE = 1e-3
# Fullest windows that are looked at: a true peak is among the very first, unless chance's peak at a large offset beats it.
WINDOWS = 20
# Fewest pairs for four and for six parameters: twice over-determined and more, so that a wrong pair can be clipped.
FOUR_PARAMETERS = 5
SIX_PARAMETERS = 15
# Side of a voting cell in match radii; not below a pixel, since that much distortion is left by linear headers.
CELL = 3.0
SMALLEST_CELL = 1.0
# A fit has to keep this part of the votes that led to it; with this part of the shorter list matched no rotation is tried.
KEPT_VOTES = 0.5
MATCHED_WELL = 0.4
# A unit with fewer stars does not begin a group.
FEWEST_TO_BEGIN = 5


@dataclass(frozen=True)
class Vote:
    """Winner of `vote_offset`: offset (second list minus first), voters, expected by chance, probability of chance."""

    dx: float
    dy: float
    count: int
    expected: float
    chance: float


def vote_offset(x: Floats, y: Floats, x_to: Floats, y_to: Floats, max_offset: float, cell: float) -> Vote | None:
    """The offset between two lists of positions that most pairs agree on.

    Parameters
    ----------
    x, y : ndarray (n,)
        First list.
    x_to, y_to : ndarray (m,)
        Second list.
    max_offset : float
        Largest offset on an axis.
    cell : float
        Side of the cells that votes are counted in; windows of 2 x 2 cells compete.

    Returns
    -------
    Vote or None
        None where no window has two votes.
    """
    dx = (x_to[None, :] - x[:, None]).ravel()
    dy = (y_to[None, :] - y[:, None]).ravel()
    reach = max_offset + 2 * cell
    near = (np.abs(dx) < reach) & (np.abs(dy) < reach)
    dx, dy = dx[near], dy[near]
    if len(dx) < 2:
        return None
    n_cells = 2 * int(np.ceil(reach / cell))
    low = -0.5 * n_cells * cell
    column = np.floor((dx - low) / cell).astype(np.int64)
    row = np.floor((dy - low) / cell).astype(np.int64)
    votes = np.bincount(row * n_cells + column, minlength=n_cells * n_cells).reshape(n_cells, n_cells)
    windows = votes[:-1, :-1] + votes[1:, :-1] + votes[:-1, 1:] + votes[1:, 1:]
    best = np.argsort(-windows, axis=None, kind="stable")[:WINDOWS]
    # Votes of the peak itself must not count as background.
    expected = max(4.0 * (len(dx) - windows.flat[best[0]]) / n_cells**2, 4.0 / n_cells**2)
    winner: Vote | None = None
    for index in best:
        count = int(windows.flat[index])
        if count < 2:
            continue
        j, i = divmod(int(index), n_cells - 1)
        x0, y0 = low + (i + 1) * cell, low + (j + 1) * cell
        inside = (np.abs(dx - x0) <= cell) & (np.abs(dy - y0) <= cell)
        x0, y0 = float(np.median(dx[inside])), float(np.median(dy[inside]))
        trials = np.pi * (np.hypot(x0, y0) / cell + 1.0) ** 2
        chance = float(min(1.0, trials * poisson.sf(count - 1, expected)))
        if winner is None or (chance, -count) < (winner.chance, -winner.count):
            winner = Vote(x0, y0, count, float(expected), chance)
    return winner


def mutual_pairs(x: Floats, y: Floats, x_to: Floats, y_to: Floats, radius: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of mutual nearest neighbours within a radius: indices into the first and into the second list."""
    if not len(x) or not len(x_to):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    first, second = np.column_stack([x, y]), np.column_stack([x_to, y_to])
    distance, nearest = cKDTree(second).query(first, distance_upper_bound=radius)
    _, back = cKDTree(first).query(second, distance_upper_bound=radius)
    k = np.flatnonzero(np.isfinite(distance))
    k = k[back[nearest[k]] == k]
    return k, nearest[k]


def refine(
    u: Floats, v: Floats, x_to: Floats, y_to: Floats, start: LinearTransform, radii: Sequence[float], clip: float = 3.5
) -> tuple[LinearFit | None, NDArray[np.int64], NDArray[np.int64]]:
    """Improve a transform by matching and fitting within shrinking radii.

    The number of parameters follows the number of pairs: 2 below `FOUR_PARAMETERS`, 4 below `SIX_PARAMETERS`, else 6.

    Returns
    -------
    fit : LinearFit or None
        From (u, v) to the second plane; None where fewer than two pairs matched.
    i, j : ndarray of int
        The last pairs, indices into the lists.
    """
    transform, fit = start, None
    i, j = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for radius in radii:
        for _ in range(2):
            x, y = transform(u, v)
            i, j = mutual_pairs(x, y, x_to, y_to, radius)
            fit = fit_pairs(u[i], v[i], x_to[j], y_to[j], transform, clip=clip)
            if fit is None:
                return None, i, j
            transform = fit.transform
    return fit, i, j


def fit_pairs(
    u: Floats,
    v: Floats,
    x_to: Floats,
    y_to: Floats,
    guess: LinearTransform,
    errors: Floats | None = None,
    clip: float = 3.5,
) -> LinearFit | None:
    """Fit as many parameters as the pairs can carry; what is not fitted stays as in the guess.

    A fit of fewer than six parameters is made between the guess's image and the second plane, then joined to the guess.
    """
    n = len(u)
    if n < 2:
        return None
    parameters = 2 if n < FOUR_PARAMETERS else 4 if n < SIX_PARAMETERS else 6
    if parameters == 6:
        return fit_linear(u, v, x_to, y_to, errors, 6, clip)
    x, y = guess(u, v)
    fit = fit_linear(x, y, x_to, y_to, errors, parameters, clip if n >= FOUR_PARAMETERS else None)
    centre = guess.inverse()(*fit.centre)
    # Re-expressed for (u, v): a shift's covariance is the same, those of scale and rotation grow by the guess's scale.
    stretch = np.ones(parameters)
    stretch[2:] = guess.scale
    covariance = fit.covariance * stretch[:, None] * stretch[None, :]
    return LinearFit(
        fit.transform.after(guess),
        fit.used,
        fit.rms,
        parameters,
        covariance,
        (float(centre[0]), float(centre[1])),
        fit.sign,
    )


def match_lists(
    u: Floats,
    v: Floats,
    x_to: Floats,
    y_to: Floats,
    start: LinearTransform,
    max_offset: float,
    cell: float,
    match_radius: float,
    clip: float = 3.5,
) -> tuple[LinearFit, Vote, int] | None:
    """Match two lists without a good guess of their offset, nor an exact one of their rotation.

    Parameters
    ----------
    u, v : ndarray (n,)
        First list, brightest first (all of it votes).
    x_to, y_to : ndarray (m,)
        Second list, in the plane of `start`'s image.
    start : LinearTransform
        Guess of the transform, good but for an offset of up to `max_offset` (second plane) and a rotation of up to a
        degree.
    max_offset, cell, match_radius : float
        In units of the second plane.

    Returns
    -------
    (LinearFit, Vote, int) or None
        The fit, the vote, the number of matched pairs; None where the lists do not match.
    """
    if len(u) < 1 or len(x_to) < 1:
        return None
    x, y = start(u, v)
    size = float(np.hypot(np.ptp(x), np.ptp(y))) / 2
    step = np.degrees(ROTATION_STEP * cell / max(size, 1.0))
    n_steps = min(int(np.ceil(LARGEST_ROTATION / step)), MOST_ROTATIONS)
    angles = [0.0] + [sign * k * step for k in range(1, n_steps + 1) for sign in (1, -1)]
    centre = (float(np.mean(x)), float(np.mean(y)))
    radii = (2.0 * cell, max(cell, 2 * match_radius), match_radius)
    best: tuple[LinearFit, Vote, int] | None = None
    for angle in angles:
        turned = _rotation(np.radians(angle), centre).after(start)
        n = len(x) if angle == 0 else ROTATION_VOTERS
        vote = vote_offset(*turned(u[:n], v[:n]), x_to[:n] if angle else x_to, y_to[:n] if angle else y_to, max_offset, cell)
        if vote is None or vote.chance > (CHANCE if angle == 0 else CHANCE / len(angles)):
            continue
        guess = LinearTransform(x_shift=vote.dx, y_shift=vote.dy).after(turned)
        fit, i, _ = refine(u, v, x_to, y_to, guess, radii, clip)
        if fit is not None and len(i) >= max(2, KEPT_VOTES * vote.count) and (best is None or len(i) > best[2]):
            best = (fit, vote, len(i))
        if best is not None and angle == 0 and best[2] >= MATCHED_WELL * min(len(u), len(x_to)):
            break
    return best


def _rotation(angle: float, centre: tuple[float, float]) -> LinearTransform:
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    return LinearTransform(
        cosine,
        -sine,
        sine,
        cosine,
        centre[0] - cosine * centre[0] + sine * centre[1],
        centre[1] - sine * centre[0] - cosine * centre[1],
    )


@dataclass
class _StarList:
    """Bright stars of the units aligned so far: master frame, magnitudes on the first unit's scale."""

    x: Floats
    y: Floats
    mag: Floats

    def near(self, x_low: float, x_high: float, y_low: float, y_high: float) -> NDArray[np.int64]:
        """Stars inside a box, brightest first."""
        inside = np.flatnonzero((self.x > x_low) & (self.x < x_high) & (self.y > y_low) & (self.y < y_high))
        return inside[np.argsort(self.mag[inside], kind="stable")]

    def add(self, x: Floats, y: Floats, mag: Floats) -> None:
        self.x, self.y = np.concatenate([self.x, x]), np.concatenate([self.y, y])
        self.mag = np.concatenate([self.mag, mag])


def align(units: Sequence[Unit], max_offset: float, match_radius: float, clip: float = 3.5) -> list[list[int]]:
    """Align units among themselves, starting at the central one and going outwards.

    Sets ``unit.transform`` of all units.  Units that overlap and match are in one group; units of different groups are
    tied by their headers alone.

    Parameters
    ----------
    units : sequence of Unit
        Units of one epoch.
    max_offset, match_radius : float
        Master pixels.

    Returns
    -------
    list of list of int
        Groups of indices into `units`, the largest first.
    """
    centres = np.array([[np.mean(axis) for axis in unit.start(unit.outline_u, unit.outline_v)] for unit in units])
    sizes = np.array([_diagonal(*unit.start(unit.outline_u, unit.outline_v)) for unit in units])
    left = set(range(len(units)))
    groups: list[list[int]] = []
    while left:
        pool = sorted(left)
        middle = np.median(centres[pool], axis=0)
        seed = min(pool, key=lambda k: (len(units[k]) < FEWEST_TO_BEGIN, round(float(np.hypot(*(centres[k] - middle))), 3), k))
        group = _grow(units, seed, pool, centres, sizes, max_offset, match_radius, clip)
        groups.append(sorted(group))
        left -= set(group)
    groups.sort(key=lambda group: (-len(group), -sum(len(units[k]) for k in group), group[0]))
    return groups


def _diagonal(x: Floats, y: Floats) -> float:
    return float(np.hypot(np.ptp(x), np.ptp(y)))


def _grow(
    units: Sequence[Unit],
    seed: int,
    pool: Sequence[int],
    centres: Floats,
    sizes: Floats,
    max_offset: float,
    match_radius: float,
    clip: float,
) -> list[int]:
    """Units of the pool that can be aligned with the seed, one after the other, nearest to what is aligned first."""
    units[seed].transform = units[seed].start
    chosen = units[seed].bright(LISTED * VOTERS)
    stars = _StarList(*units[seed].start(units[seed].u[chosen], units[seed].v[chosen]), units[seed].instrumental[chosen])
    group = [seed]
    waiting = [k for k in pool if k != seed]
    distance = {k: float(np.hypot(*(centres[k] - centres[seed]))) for k in waiting}
    failed_at: dict[int, int] = {}
    while True:
        # Whoever failed gets another chance each time the group has doubled.
        open_units = [k for k in waiting if distance[k] < sizes[k] + max_offset and len(group) >= 2 * failed_at.get(k, 0)]
        if not open_units:
            return group
        k = min(open_units, key=lambda n: (n in failed_at, round(distance[n], 3), n))
        if not _join(units[k], stars, max_offset, match_radius, clip):
            failed_at[k] = len(group)
            continue
        group.append(k)
        waiting.remove(k)
        for n in waiting:
            distance[n] = min(distance[n], float(np.hypot(*(centres[n] - centres[k]))))


def _join(unit: Unit, stars: _StarList, max_offset: float, match_radius: float, clip: float) -> bool:
    """Align one unit with the list and add its new stars to the list."""
    chosen = unit.bright(LISTED * VOTERS)
    u, v, mag = unit.u[chosen], unit.v[chosen], unit.instrumental[chosen]
    x, y = unit.start(unit.outline_u, unit.outline_v)
    near = stars.near(x.min() - max_offset, x.max() + max_offset, y.min() - max_offset, y.max() + max_offset)
    if not len(near) or not len(u):
        return False
    x_near, y_near = stars.x[near], stars.y[near]
    x_here, y_here = unit.start(u, v)
    overlap = (x_here > x_near.min() - max_offset) & (x_here < x_near.max() + max_offset)
    overlap &= (y_here > y_near.min() - max_offset) & (y_here < y_near.max() + max_offset)
    first, second = np.flatnonzero(overlap)[:VOTERS], near[:VOTERS]
    cell = max(CELL * match_radius, SMALLEST_CELL)
    found = match_lists(u[first], v[first], stars.x[second], stars.y[second], unit.start, max_offset, cell, match_radius, clip)
    if found is None:
        return False
    fit, i, j = refine(u, v, x_near, y_near, found[0].transform, (2 * match_radius, match_radius), clip)
    if fit is None or len(i) < 2:
        return False
    unit.transform = fit.transform
    new = np.ones(len(u), dtype=bool)
    new[i] = False
    stars.add(*unit.transform(u[new], v[new]), mag[new] + float(np.median(stars.mag[near[j]] - mag[i])))
    return True
