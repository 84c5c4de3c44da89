"""Positions that agree among dithered exposures, whatever the true distortion is: all that an ePSF build asks of the frame.

The header's distortion is corrected by a polynomial for each detector and filter and by the mean residual of the nearest
measurements of OTHER stars. A star must not decide on the correction at its own place: the correction would take up the bias that
its position has at its pixel phase, and the ePSF could never be told about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.kernels.distortion import neighbor_means
from dpm.models.statistics import robust_width
from dpm.stages.frame.units import Unit

__all__ = ["Agreement", "agree"]

ORDER = 5  # of the polynomials
PER_COEFFICIENT = 10  # measurements that a coefficient needs
POLYNOMIAL_ROUNDS = 5
LOCAL_ROUNDS = 10
NEIGHBORS = 40  # measurements whose mean residual is the local correction
GAIN = 0.7  # of the way that a local correction goes in one round
SPARE = 12  # more are looked at, since some are the star's own
CHUNK = 50_000  # measurements whose neighbours are looked up at a time, for memory
FEWEST_FOR_LOCAL = 2000  # measurements of a detector and filter; fewer lie too far apart to tell small scales
ERROR_FLOOR = 0.01  # pixels; so that no bright star rules its surroundings alone
MOST_ERROR = 0.08  # pixels; fainter measurements have no say
CLIP = 4.0  # sigma

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Result of `agree`, for each unit in order.

    Parameters
    ----------
    place : list of ndarray (n, 2)
        Place of every detection on the common frame, master pixels.
    jacobian : list of ndarray (2, 2)
        Derivatives of the place by raw position at the unit's centre.
    scatter : float
        Robust scatter of well-measured detections about their stars' means, raw pixels per axis.
    """

    place: list[Floats]
    jacobian: list[Floats]
    scatter: float


def agree(units: list[Unit], star: list[Ints]) -> Agreement:
    """Bring the places of linked detections to agreement.

    Parameters
    ----------
    units : list of Unit
        With transforms, raw positions and `forward`.
    star : list of ndarray (n,)
        Star of each detection, -1 for none.
    """
    place = [np.column_stack(unit.position()) for unit in units]
    state = _State(units, star, place)
    for turn in range(POLYNOMIAL_ROUNDS + LOCAL_ROUNDS):
        state.fit_transforms()
        if turn < POLYNOMIAL_ROUNDS:
            state.fit_polynomials()
        else:
            state.fit_local()
    return Agreement(*state.places(), state.scatter())


class _State:
    """Linked measurements of all units end to end, and the corrections so far."""

    def __init__(self, units: list[Unit], star: list[Ints], place: list[Floats]) -> None:
        self.units = units
        error = [np.sqrt(0.5 * (unit.x_error**2 + unit.y_error**2)) for unit in units]
        self.mine = [np.flatnonzero((number >= 0) & (e < MOST_ERROR)) for number, e in zip(star, error, strict=True)]
        self.unit = np.repeat(np.arange(len(units)), [len(rows) for rows in self.mine])
        names = sorted({(unit.detector, unit.filter) for unit in units})
        self.cube_of = [names.index((unit.detector, unit.filter)) for unit in units]
        self.cube = np.array(self.cube_of, int)[self.unit] if len(self.unit) else np.zeros(0, int)
        self.raw = _stacked([np.column_stack([u.x, u.y])[rows] for u, rows in zip(units, self.mine, strict=True)])
        self.base = _stacked([np.column_stack([u.u, u.v])[rows] for u, rows in zip(units, self.mine, strict=True)])
        self.error = np.concatenate([e[rows] for e, rows in zip(error, self.mine, strict=True)])
        every = np.concatenate([number[rows] for number, rows in zip(star, self.mine, strict=True)])
        self.stars, self.star = np.unique(every, return_inverse=True)
        self.weight = 1.0 / (self.error**2 + ERROR_FLOOR**2)
        self.correction = np.zeros_like(self.raw)
        self.coefficients: list[Floats | None] = [None] * len(names)
        self.local = np.zeros_like(self.raw)
        self.matrices = [(unit.transform or unit.start).matrix for unit in units]
        self.shifts = [np.array([t.x_shift, t.y_shift]) for t in (unit.transform or unit.start for unit in units)]
        self.used = np.ones(len(self.raw), bool)
        self.mean = np.zeros((len(self.stars), 2))
        self.residual = np.zeros_like(self.raw)
        members = [np.flatnonzero(self.cube == k) for k in range(len(names))]
        self.near = [(r, _neighbors(self.raw[r], self.star[r])) for r in members if len(r) >= FEWEST_FOR_LOCAL]
        self._compare()

    def _compare(self) -> None:
        """Places, stars' means and residuals; who agrees."""
        corrected = self.base + self.correction + self.local
        where = np.empty_like(corrected)
        for k in range(len(self.units)):
            rows = self.unit == k
            where[rows] = corrected[rows] @ self.matrices[k].T + self.shifts[k]
        weight = np.where(self.used, self.weight, 0.0)
        total = np.bincount(self.star, weight, len(self.stars))
        good = total > 0
        for axis in (0, 1):
            top = np.bincount(self.star, weight * where[:, axis], len(self.stars))
            self.mean[good, axis] = top[good] / total[good]
        for k in range(len(self.units)):
            rows = self.unit == k
            self.residual[rows] = (self.mean[self.star[rows]] - where[rows]) @ np.linalg.inv(self.matrices[k]).T
        best = self.used & (self.error < np.quantile(self.error, 0.25)) if len(self.error) else self.used
        excess = robust_width(self.residual[best].ravel(), 0.0) if best.any() else 0.0
        limit = CLIP * np.sqrt(self.error**2 + max(excess, ERROR_FLOOR) ** 2)
        count = np.bincount(self.star[self.used], minlength=len(self.stars))
        self.used = (np.abs(self.residual) < limit[:, None]).all(axis=1) & (count[self.star] >= 2)

    def fit_transforms(self) -> None:
        """Six parameters of every unit to the stars' means."""
        corrected = self.base + self.correction + self.local
        for k in range(len(self.units)):
            rows = np.flatnonzero((self.unit == k) & self.used)
            if len(rows) < 6:
                continue
            root = np.sqrt(self.weight[rows])[:, None]
            design = np.column_stack([np.ones(len(rows)), corrected[rows]])
            solved = np.linalg.lstsq(design * root, self.mean[self.star[rows]] * root, rcond=None)[0]
            self.shifts[k], self.matrices[k] = solved[0], solved[1:].T
        self._compare()

    def fit_polynomials(self) -> None:
        """Add the residuals' polynomials to the corrections of every detector and filter."""
        for k in range(len(self.coefficients)):
            every = np.flatnonzero(self.cube == k)
            used = self.used[every]
            rows = every[used]
            order = ORDER
            while order > 1 and len(rows) < PER_COEFFICIENT * (order + 1) * (order + 2) // 2:
                order -= 1
            if order < 2:
                continue
            root = np.sqrt(self.weight[rows])[:, None]
            design = self._powers(self.raw[every], k, order)
            solved = np.asarray(np.linalg.lstsq(design[used] * root, self.residual[rows] * root, rcond=None)[0], float)
            known = self.coefficients[k]
            self.coefficients[k] = solved if known is None or len(known) != len(solved) else known + solved
            self.correction[every] += design @ solved
        self._compare()

    def _powers(self, raw: Floats, cube: int, order: int) -> Floats:
        bounds = np.array([unit.bounds for unit, k in zip(self.units, self.cube_of, strict=True) if k == cube])
        low, high = bounds[:, [0, 2]].min(axis=0), bounds[:, [1, 3]].max(axis=0)
        s, t = ((raw - 0.5 * (low + high)) / (0.5 * np.maximum(high - low, 1.0))).T
        return np.stack([s**i * t**j for i in range(order + 1) for j in range(order + 1 - i)], axis=-1)

    def fit_local(self) -> None:
        """Move the local corrections towards the mean of what the nearest measurements of other stars need.

        The mean is taken of what it leaves over, too (twicing): it would flatten the waves that it is to follow.
        """
        needed = self.residual + self.local
        weight = self.weight * self.used
        for rows, near in self.near:
            mine, mean, again = needed[rows], np.empty((len(rows), 2)), np.empty((len(rows), 2))
            neighbor_means(mine, np.zeros_like(mine), weight[rows], near, mean)
            neighbor_means(mine, mean, weight[rows], near, again)
            self.local[rows] += GAIN * (mean + again - self.local[rows])
        self._compare()

    def places(self) -> tuple[list[Floats], list[Floats]]:
        """Places of ALL detections of every unit, and derivatives at its centre."""
        place, jacobian = [], []
        for k, unit in enumerate(self.units):
            raw = np.column_stack([unit.x, unit.y])
            cube = self.cube_of[k]
            correction = self._polynomial(raw, cube)
            rows = np.flatnonzero(self.cube == cube)
            if len(rows) >= FEWEST_FOR_LOCAL and len(raw):
                _, near = cKDTree(self.raw[rows]).query(raw)
                correction += self.local[rows[near]]
                correction[self.mine[k]] = (self.correction + self.local)[self.unit == k]
            place.append((np.column_stack([unit.u, unit.v]) + correction) @ self.matrices[k].T + self.shifts[k])
            jacobian.append(self.matrices[k] @ self._derivative(unit, cube))
        return place, jacobian

    def _polynomial(self, raw: Floats, cube: int) -> Floats:
        known = self.coefficients[cube]
        if known is None:
            return np.zeros_like(raw)
        order = int(round((np.sqrt(8 * len(known) + 1) - 3) / 2))
        return np.asarray(self._powers(raw, cube, order) @ known)

    def _derivative(self, unit: Unit, cube: int) -> Floats:
        """Derivatives of corrected by raw positions at the middle of the unit."""
        assert unit.forward is not None
        x, y = 0.5 * (unit.bounds[0] + unit.bounds[1]), 0.5 * (unit.bounds[2] + unit.bounds[3])
        raw = np.array([[x + 0.5, y], [x - 0.5, y], [x, y + 0.5], [x, y - 0.5]])
        value = np.column_stack(unit.forward(raw[:, 0], raw[:, 1])) + self._polynomial(raw, cube)
        return np.column_stack([value[0] - value[1], value[2] - value[3]])

    def scatter(self) -> float:
        """Robust scatter of the well-measured."""
        best = self.used & (self.error < 2 * ERROR_FLOOR)
        return robust_width(self.residual[best].ravel(), 0.0) if best.any() else float("nan")


def _stacked(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros((0, 2))


def _neighbors(raw: Floats, star: Ints) -> NDArray[np.int32]:
    """For each measurement the nearest ones of other stars, -1 where there are fewer; (n, NEIGHBORS)."""
    tree = cKDTree(raw)
    out = np.empty((len(raw), NEIGHBORS), np.int32)
    for first in range(0, len(raw), CHUNK):
        part = slice(first, first + CHUNK)
        _, near = tree.query(raw[part], k=NEIGHBORS + SPARE)
        other = star[near] != star[part, None]
        # The first NEIGHBORS others, in order of distance.
        order = np.argsort(~other, axis=1, kind="stable")[:, :NEIGHBORS]
        out[part] = np.where(np.take_along_axis(other, order, axis=1), np.take_along_axis(near, order, axis=1), -1)
    return out
