"""Which detections a distortion solution rests on, which of them are one star, and the map that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import median_filter

from dpm.io.reference import ReferenceCatalog
from dpm.kernels.matching import grouped_median, link_units
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.transform import LinearTransform
from dpm.stages.distortion.sample import Sample
from dpm.stages.distortion.terms import Layout, State, evaluate
from dpm.stages.frame.field import reference_points
from dpm.stages.frame.match import mutual_pairs
from dpm.stages.frame.units import NOT_CLEAN, Unit, epoch_groups

__all__ = ["Chosen", "StartMap", "choose", "link", "place"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Largest QFIT of stars that count (paper 2, section 4).  Noise alone gives faint stars more: those with up to this many
# times the median of stars of like flux (so many of them) count too.
MOST_QFIT = 0.1
TIMES_MEDIAN = 1.3
LIKE_FLUX = 101
# Largest position error (pixels): fainter stars carry no weight beside the others.
MOST_ERROR = 0.07
# Flags that keep a star out.  Those cut by the edge of the detector count, with the larger errors that they have: nothing
# else tells of the edge.
_NOT_GOOD = (NOT_CLEAN | int(StarFlag.NEIGHBOR)) & ~int(StarFlag.EDGE)
# Knots of the start map a side, and the error (pixels) that sends it to every pixel instead.
KNOTS = 65
# Half the length (pixels) over which scale and rotation at the centre are measured.
STEP = 8.0
START_ERROR = 1e-4
# Rows of the start map computed at a time, for memory.
ROWS = 128


class StartMap:
    """The header's distortion of a detector and filter as a smooth function, about the detector's centre.

    Scale and rotation at the centre are taken out (the gauge of DESIGN section 4).

    Parameters
    ----------
    unit : Unit
        Whose `forward` is taken.
    bounds : tuple of float
        Raw x_min, x_max, y_min, y_max of the part of the detector in question.
    """

    def __init__(self, unit: Unit, bounds: tuple[float, float, float, float]) -> None:
        if unit.forward is None:
            raise ValueError(f"{unit.name}: the unit has no forward distortion")
        self._centre = np.array([0.5 * (bounds[0] + bounds[1])]), np.array([0.5 * (bounds[2] + bounds[3])])
        self._forward = unit.forward
        self._origin = tuple(float(axis[0]) for axis in unit.forward(*self._centre))
        self._turn = self._similarity()
        rng = np.random.default_rng(0)
        x, y = rng.uniform(bounds[0], bounds[1], 300), rng.uniform(bounds[2], bounds[3], 300)
        self._fit(bounds, KNOTS, KNOTS, 3)
        off = np.hypot(*(a - b for a, b in zip(self._exact(x, y), self(x, y))))
        if np.max(off) > START_ERROR:
            self._fit(bounds, int(bounds[1] - bounds[0]) + 1, int(bounds[3] - bounds[2]) + 1, 1)

    def _similarity(self) -> LinearTransform:
        """What takes scale and rotation at the centre out."""
        x, y = self._centre
        (right, up), (left, down) = self._forward(x + STEP, y), self._forward(x - STEP, y)
        (right_y, up_y), (left_y, down_y) = self._forward(x, y + STEP), self._forward(x, y - STEP)
        a = float(((right - left) + (up_y - down_y))[0]) / (4 * STEP)
        c = float(((up - down) - (right_y - left_y))[0]) / (4 * STEP)
        return LinearTransform(a, -c, c, a).inverse()

    def _exact(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        u, v = self._forward(x, y)
        return self._turn(u - self._origin[0], v - self._origin[1])

    def _fit(self, bounds: tuple[float, float, float, float], nx: int, ny: int, degree: int) -> None:
        x, y = np.linspace(bounds[0], bounds[1], nx), np.linspace(bounds[2], bounds[3], ny)
        plane = np.empty((2, ny, nx))
        for first in range(0, ny, ROWS):
            grid_x, grid_y = np.meshgrid(x, y[first : first + ROWS])
            plane[:, first : first + ROWS] = np.reshape(self._exact(grid_x.ravel(), grid_y.ravel()), (2, -1, nx))
        self._splines = [RectBivariateSpline(y, x, axis, kx=degree, ky=degree) for axis in plane]

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Corrected positions from the detector's centre; outside the bounds those of the nearest place inside."""
        return self._splines[0].ev(y, x), self._splines[1].ev(y, x)

    def grid(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """The same on all combinations of ascending x and y, as [y, x]."""
        return self._splines[0](y, x), self._splines[1](y, x)


@dataclass
class Chosen:
    """Detections of all units that may count, end to end in the order of units.

    Parameters
    ----------
    starts : ndarray (n_units + 1,)
        First of each unit.
    row : ndarray (n,)
        Index into the unit's arrays.
    unit, filt : ndarray (n,)
        Unit and filter number.
    x, y, base_u, base_v, variance : ndarray (n,)
        As in `Sample`.
    """

    starts: Ints
    row: Ints
    unit: Ints
    filt: Ints
    x: Floats
    y: Floats
    base_u: Floats
    base_v: Floats
    variance: Floats


def choose(units: Sequence[Unit], filters: Sequence[str], maps: dict[str, StartMap]) -> Chosen:
    """Bright, isolated, unsaturated and well-fitted detections with a good position."""
    rows = [_good(unit) for unit in units]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    number = {name: k for k, name in enumerate(filters)}

    def stack(values: list[NDArray]) -> Floats:
        return np.concatenate([*values, np.zeros(0)]).astype(float)

    base = [maps[unit.filter](unit.x[row], unit.y[row]) for unit, row in zip(units, rows)]
    return Chosen(
        starts,
        np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int64),
        np.repeat(np.arange(len(units), dtype=np.int64), np.diff(starts)),
        np.repeat(np.array([number[unit.filter] for unit in units], dtype=np.int64), np.diff(starts)),
        stack([unit.x[row] for unit, row in zip(units, rows)]),
        stack([unit.y[row] for unit, row in zip(units, rows)]),
        stack([b[0] for b in base]),
        stack([b[1] for b in base]),
        stack([0.5 * (unit.x_error[row] ** 2 + unit.y_error[row] ** 2) for unit, row in zip(units, rows)]),
    )


def _good(unit: Unit) -> Ints:
    error = np.hypot(unit.x_error, unit.y_error) / np.sqrt(2)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(unit.x) & np.isfinite(unit.y) & (unit.flux > 0) & (error > 0) & (error < MOST_ERROR)
    good &= (unit.flags & _NOT_GOOD) == 0
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(-unit.flux[rows], kind="stable")]
    qfit = np.asarray(unit.load("qfit"), dtype=float)[rows]
    typical = median_filter(qfit, size=min(LIKE_FLUX, max(len(rows), 1)), mode="nearest") if len(rows) else qfit
    return np.sort(rows[qfit < np.maximum(MOST_QFIT, TIMES_MEDIAN * typical)])


def link(
    units: Sequence[Unit],
    chosen: Chosen,
    layout: Layout,
    state: State,
    radius: float,
    frame: MasterFrame,
    reference: ReferenceCatalog | None,
) -> tuple[Sample, Ints]:
    """Link the chosen detections into stars, one set an epoch, and match these with the reference.

    Parameters
    ----------
    units : sequence of Unit
        In the order of `chosen`.
    chosen : Chosen
    layout, state
        Where the detections lie by now.
    radius : float
        Master pixels.
    frame : MasterFrame
    reference : ReferenceCatalog, optional

    Returns
    -------
    sample : Sample
        Stars with two measurements, or one and a reference position.
    index : ndarray (len(sample),)
        Index into `chosen` of each measurement.
    """
    x, y = place(chosen, layout, state)
    star = np.full(len(x), -1, dtype=np.int64)
    n_stars = 0
    scale_group = np.zeros(len(units), dtype=np.int64)
    targets: list[tuple[Floats, Floats, Floats]] = []
    for number, members in enumerate(epoch_groups(units)):
        rows = np.concatenate([np.arange(chosen.starts[k], chosen.starts[k + 1]) for k in members])
        local = np.concatenate([[0], np.cumsum([chosen.starts[k + 1] - chosen.starts[k] for k in members])]).astype(np.int64)
        for k in members:
            scale_group[k] = number * layout.n_filters + _filter_number(chosen, k)
        if not len(rows):
            continue
        linked, n = link_units(x[rows], y[rows], local, radius)
        star[rows] = linked + n_stars
        n_stars += n
        order = np.argsort(linked, kind="stable")
        edges = np.searchsorted(linked[order], np.arange(n + 1))
        middle = grouped_median(x[rows][order], edges), grouped_median(y[rows][order], edges)
        epoch = float(np.mean([units[k].epoch for k in members]))
        targets.append(_reference_of(middle, radius, frame, reference, epoch))
    reference_x, reference_y, variance = (np.concatenate([t[i] for t in targets] or [np.zeros(0)]) for i in range(3))
    count = np.bincount(star, minlength=n_stars)
    keep = (count >= 2) | np.isfinite(variance)
    index = np.flatnonzero(keep[star]) if n_stars else np.zeros(0, dtype=np.int64)
    new = np.cumsum(keep) - 1
    index = index[np.argsort(star[index], kind="stable")]
    sorted_star = new[star[index]]
    n = int(keep.sum())
    va = np.array([unit.va_scale for unit in units])
    sample = Sample(
        np.searchsorted(sorted_star, np.arange(n + 1)).astype(np.int64), sorted_star, chosen.unit[index], chosen.filt[index],
        chosen.x[index], chosen.y[index], chosen.base_u[index], chosen.base_v[index], chosen.variance[index],
        reference_x[keep], reference_y[keep], variance[keep], scale_group, va,
    )  # fmt: skip
    return sample, index


def place(chosen: Chosen, layout: Layout, state: State) -> tuple[Floats, Floats]:
    """Detections on the master frame."""
    dx, dy = evaluate(layout, state, chosen.x, chosen.y, chosen.filt)
    u, v, m = chosen.base_u + dx, chosen.base_v + dy, state.matrices[chosen.unit]
    return (
        m[:, 0, 0] * u + m[:, 0, 1] * v + state.shifts[chosen.unit, 0],
        m[:, 1, 0] * u + m[:, 1, 1] * v + state.shifts[chosen.unit, 1],
    )


def _filter_number(chosen: Chosen, unit: int) -> int:
    first = chosen.starts[unit]
    return int(chosen.filt[first]) if chosen.starts[unit + 1] > first else 0


def _reference_of(
    middle: tuple[Floats, Floats], radius: float, frame: MasterFrame, reference: ReferenceCatalog | None, epoch: float
) -> tuple[Floats, Floats, Floats]:
    """Reference position and variance of every star; infinite variance where there is none."""
    n = len(middle[0])
    x, y, variance = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.inf)
    if reference is None:
        return x, y, variance
    target = reference_points(reference, frame, epoch)
    i, j = mutual_pairs(*middle, target.x, target.y, radius)
    x[i], y[i], variance[i] = target.x[j], target.y[j], np.maximum(target.error[j], 1e-4) ** 2
    return x, y, variance
