"""Positions of stars on the master frame: means of every epoch, the latest one, and what their errors leave out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.reference import ReferenceCatalog
from dpm.models.master_frame import MasterFrame
from dpm.models.transform import LinearTransform
from dpm.stages.frame.average import MEDIAN_CHI2, MeanPositions, mean_positions
from dpm.stages.frame.field import reference_points
from dpm.stages.frame.link import Links
from dpm.stages.frame.match import fit_pairs, mutual_pairs
from dpm.stages.frame.photometry import WEIGHTLESS
from dpm.stages.frame.units import NOT_CLEAN, Unit, by_unit, gather

__all__ = ["Positions", "age_positions", "average_positions", "motion_spreads", "systematic_variance"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Stars around each star that it is compared with the reference by.
NEIGHBORS = 25
# Excess (in its own errors) over the whole field that is believed; error of the median of chi-square with one degree of
# freedom over that median, times the root of the number of values: 1 / (2 f m), f the density there.
SIGNIFICANT = 3.0
MEDIAN_CHI2_ERROR = 2.33
# Spread of motions since an older epoch (finest pixels) where too few stars show it.
UNKNOWN_SHIFT = 0.5


@dataclass
class Positions:
    """Positions of all stars: at their last epoch, and for every detection the mean of its own epoch."""

    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats
    epoch: Ints
    n_used: Ints
    n_epochs: Ints
    used: NDArray[np.bool_]
    residual_x: Floats
    residual_y: Floats
    by_epoch: list[MeanPositions]
    times: list[Floats]


def average_positions(
    units: Sequence[Unit], links: Links, rows: Ints, discrepant: NDArray[np.bool_], clip: float,
    floors: Sequence[Floats] | None = None,
) -> Positions:  # fmt: skip
    """Mean positions of every epoch, the latest one of each star, and the residuals of all detections.

    ``floors`` are the units' error floors at every epoch where they are known; they are solved for when None.
    """
    n, n_units = links.n_stars, len(units)
    flags = gather(rows, links.unit, links.starts, units, "flags").astype(np.int64)
    xx, xy, yy = _covariance(rows, links, units)
    out = Positions(
        x=np.full(n, np.nan),
        y=np.full(n, np.nan),
        xx=np.full(n, np.nan),
        xy=np.full(n, np.nan),
        yy=np.full(n, np.nan),
        epoch=np.full(n, -1, dtype=np.int64),
        n_used=np.zeros(n, dtype=np.int64),
        n_epochs=np.zeros(n, dtype=np.int64),
        used=np.zeros(len(rows), dtype=bool),
        residual_x=np.full(len(rows), np.nan),
        residual_y=np.full(len(rows), np.nan),
        by_epoch=[],
        times=[],
    )
    pool = np.unique([f"{unit.band} {unit.detector}" for unit in units], return_inverse=True)[1]
    default = 0.01 * float(np.min([u.transform.scale for u in units if u.transform is not None]))
    for number in range(links.n_epochs):
        k = np.flatnonzero(links.epoch[rows] == number)
        part, star, unit = rows[k], links.star[rows[k]], links.unit[rows[k]]
        # A measurement clipped for its flux is no better for the position, unless nothing would be left.
        weightless = ((flags[k] & WEIGHTLESS) != 0) | discrepant[k]
        clean = (flags[k] & NOT_CLEAN) == 0
        mean = mean_positions(
            star,
            unit,
            links.x[part],
            links.y[part],
            (xx[k], xy[k], yy[k]),
            weightless,
            clean,
            n,
            n_units,
            pool,
            clip,
            default,
            None if floors is None else floors[number],
        )
        out.by_epoch.append(mean)
        out.times.append(_mean_times(star, np.array([u.epoch for u in units])[unit], mean, unit, 0.5 * (xx[k] + yy[k])))
        here = mean.n_used > 0
        for name in ("x", "y", "xx", "xy", "yy"):
            getattr(out, name)[here] = getattr(mean, name)[here]
        out.epoch[here] = number
        out.n_used += mean.n_used
        out.n_epochs += here
        out.used[k] = mean.used
        out.residual_x[k], out.residual_y[k] = links.x[part] - mean.x[star], links.y[part] - mean.y[star]
        for index in np.unique(unit):
            ratio = units[index].transform.scale if units[index].transform is not None else 1.0
            units[index].residual_rms = float(mean.rms[index]) / ratio
    return out


def _mean_times(star: Ints, time: Floats, mean: MeanPositions, unit: Ints, variance: Floats) -> Floats:
    """Times that the mean positions belong to: weighted as they are."""
    if not len(time):
        return np.full(len(mean.x), np.nan)
    weight = np.where(mean.used, 1 / (variance + mean.floor[unit] ** 2), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        late = np.bincount(star, weight * (time - time[0]), len(mean.x)) / np.bincount(star, weight, len(mean.x))
    return np.asarray(late + time[0])


def _covariance(rows: Ints, links: Links, units: Sequence[Unit]) -> tuple[Floats, Floats, Floats]:
    """Formal covariance of each detection on the master frame: the fit's, and that of the unit's transform."""
    parts: list[tuple[Floats, Floats, Floats]] = []
    for k, part in by_unit(rows, links.unit):
        unit = units[k]
        local = part - links.starts[k]
        t = unit.transform or unit.start
        vx, vy = unit.x_error[local] ** 2, unit.y_error[local] ** 2
        extra = unit.fit.position_variance(unit.u[local], unit.v[local]) if unit.fit is not None else 0.0
        parts.append((t.a**2 * vx + t.b**2 * vy + extra, t.a * t.c * vx + t.b * t.d * vy, t.c**2 * vx + t.d**2 * vy + extra))
    if not parts:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    return tuple(np.concatenate([part[i] for part in parts]) for i in range(3))  # type: ignore[return-value]


def motion_spreads(positions: Positions, n_epochs: int) -> list[float]:
    """RMS motion of the field from each epoch to the latest (master pixels), where enough stars show it."""
    latest = positions.by_epoch[-1]
    out = []
    for older in positions.by_epoch[: n_epochs - 1]:
        both = (older.n_used > 0) & (latest.n_used > 0)
        # Not a robust width: where most stars are members, the few that move have to lie within their errors as well.
        shifts = np.concatenate([(latest.x - older.x)[both], (latest.y - older.y)[both]])
        out.append(float(np.sqrt(np.mean(shifts**2))) if both.sum() >= 10 else UNKNOWN_SHIFT)
    return out


def age_positions(positions: Positions, spreads: Sequence[float], epochs: list[float]) -> None:
    """Stars seen at one older epoch alone keep their position; their errors grow by the field's motions since then."""
    for number, spread in enumerate(spreads):
        alone = (positions.epoch == number) & (positions.n_epochs == 1)
        if not alone.any():
            continue
        positions.xx[alone] += spread**2
        positions.yy[alone] += spread**2
        log.info("%d stars of epoch %.2f are not seen at %.2f", int(alone.sum()), epochs[number], epochs[-1])


def systematic_variance(
    mean: MeanPositions,
    frame: MasterFrame,
    reference: ReferenceCatalog | None,
    epoch: float,
    radius: float,
    clip: float,
    solved: bool = False,
) -> tuple[Floats, Floats]:
    """Variance (x and y, master pixels squared) against the reference that neither side's errors explain, star by star.

    Distortion that is left in the exposures is common to neighbouring stars and does not average out as the scatter
    over exposures suggests.  It is measured from the `NEIGHBORS` nearest stars that are in the reference too; zeros
    where too few are.  Its two axes count as uncorrelated: so few stars show a correlation only to about 0.3, and a
    distortion's sign changes over the field.  Added to the formal covariance it therefore lowers the correlation.

    Where the distortion is `solved` and its errors are in the formal ones already, a few neighbours would mostly show the
    reference's noise: then all stars are taken together, and only what stands out of that noise counts.

    Parameters
    ----------
    mean : MeanPositions
        Of one epoch, with all errors that are known.
    frame : MasterFrame
    reference : ReferenceCatalog, optional
    epoch : float
        Decimal year.
    radius : float
        Of the match, master pixels.
    clip : float
        Sigmas.
    solved : bool
        The errors hold those of the distortion.
    """
    none = np.zeros(len(mean.x)), np.zeros(len(mean.x))
    if reference is None:
        return none
    target = reference_points(reference, frame, epoch)
    variance = 0.5 * (mean.xx + mean.yy)
    chosen = np.flatnonzero((mean.n_used >= 2) & np.isfinite(variance))
    chosen = chosen[variance[chosen] <= 4 * np.median(variance[chosen])] if len(chosen) else chosen
    i, j = mutual_pairs(mean.x[chosen], mean.y[chosen], target.x, target.y, 2.0 * radius)
    i = chosen[i]
    if len(i) < NEIGHBORS:
        return none
    formal = variance[i] + target.error[j] ** 2
    fit = fit_pairs(mean.x[i], mean.y[i], target.x[j], target.y[j], LinearTransform(), np.sqrt(formal), clip)
    if fit is None:
        return none
    x, y = fit.transform(mean.x[i], mean.y[i])
    tree = cKDTree(np.column_stack([mean.x[i], mean.y[i]]))
    good = np.flatnonzero(np.isfinite(mean.x))
    _, near = tree.query(np.column_stack([mean.x[good], mean.y[good]]), k=NEIGHBORS)
    out = none
    for square, extra in zip(((x - target.x[j]) ** 2, (y - target.y[j]) ** 2), out):
        if solved:
            whole = float(np.median(square / formal)) / MEDIAN_CHI2 - 1
            if whole > SIGNIFICANT * MEDIAN_CHI2_ERROR / np.sqrt(len(i)):
                extra[good] = whole * float(np.median(formal))
            continue
        # Robust in units of the errors, so that a wrong pair or a blend among the neighbours does not count.
        excess = np.median((square / formal)[near], axis=1) / MEDIAN_CHI2 - 1
        extra[good] = np.maximum(excess, 0.0) * np.median(formal[near], axis=1)
    return out
