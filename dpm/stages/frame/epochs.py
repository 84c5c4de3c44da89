"""From every epoch's mean positions to one position and one motion a star, with what maps and reference add to the errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions
from dpm.stages.frame.astrometry import EpochPositions, Solution, ZeroPoint, motion_zero_point, solve_astrometry
from dpm.stages.frame.field_errors import FieldErrors
from dpm.stages.frame.hidden import hidden_shifts
from dpm.stages.frame.link import Links
from dpm.stages.frame.map_errors import has_map_errors, map_draws
from dpm.stages.frame.photometry import Band
from dpm.stages.frame.positions import Positions, age_positions, motion_spreads, systematic_variance
from dpm.stages.frame.units import EPOCH_GAP, Unit, match_radius, placed_epochs

__all__ = ["Epochs", "solve_epochs"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Pixels of an epoch's coarsest detector within which it may show two stars as one: those closer are fitted together.
HIDING = 2.0


@dataclass(frozen=True)
class Epochs:
    """What all epochs say together.

    Parameters
    ----------
    times : list of float
        Mean of each epoch's exposures, oldest first; the last one is the catalogue's.
    solution : Solution
        Positions and motions of the stars with two epochs or more.
    zero_point : ZeroPoint
        Of the motions.
    systematic : float
        Median error that maps and reference added to a position, master pixels.
    measured : ndarray (n_stars,), bool
        Stars all of whose epochs have in their errors the distortion that is left and what ties them to the sky.
    hidden : ndarray (n_stars,), bool
        Stars with a neighbour that another epoch hides in them, far enough to matter.
    field : FieldErrors
        What the stars say of errors.
    """

    times: list[float]
    solution: Solution
    zero_point: ZeroPoint
    systematic: float
    measured: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
    field: FieldErrors


def solve_epochs(
    units: Sequence[Unit],
    links: Links,
    rows: Ints,
    positions: Positions,
    bands: Sequence[Band],
    frame: MasterFrame,
    reference: ReferenceCatalog | None,
    options: FrameOptions,
    field: FieldErrors | None = None,
) -> Epochs:
    """Complete the errors of ``positions``, in place, and bring stars with several epochs to the latest.

    Parameters
    ----------
    units : sequence of Unit
    links : Links
    rows : ndarray
        Linked detections.
    positions : Positions
        As averaged epoch by epoch.
    bands : sequence of Band
    frame : MasterFrame
    reference : ReferenceCatalog, optional
    options : FrameOptions
    field : FieldErrors, optional
        Of other stars of the field; learnt from these stars when None.
    """
    groups = placed_epochs(units)
    times = [float(np.mean([units[k].epoch for k in members])) for members in groups]
    n = links.n_stars
    extra, measured, hidden = np.zeros(n), np.ones(n, bool), np.zeros(n, bool)
    places = [np.column_stack([mean.x, mean.y]) for mean in positions.by_epoch]
    fluxes = _fluxes(groups, bands, n)
    shifts = _hidden(units, groups, places, fluxes, frame, field)
    parts = []
    extras: list[Floats] = []
    told: list[NDArray[np.bool_]] = []
    radius = 0.0
    for number, members in enumerate(groups):
        mean, here = positions.by_epoch[number], positions.by_epoch[number].n_used > 0
        part = [units[k] for k in members]
        radius = match_radius(part, options.match_radius, frame.scale)
        registered = reference is not None if field is None else field.registered
        moved = map_draws(units, links, rows, positions.used, number, registered)
        solved = np.mean(moved**2, axis=0) if moved is not None else np.zeros((2, n))
        known = has_map_errors(part)
        full = replace(mean, xx=mean.xx + solved[0], yy=mean.yy + solved[1])
        if field is None:
            learned = np.array(systematic_variance(full, frame, reference, times[number], radius, options.clip_sigma, known))
            there = np.full(n, known or bool(learned.any()))
            # What a reference's stars moved in common since it was made is in no residual, and so in no error.
            if reference is not None and abs(reference.years_without_motions(times[number])) > EPOCH_GAP:
                there[:] = False
        else:
            learned, there = field.at(number, mean.x, mean.y)
        extras.append(learned.T)
        told.append(there)
        measured[here] &= there[here]
        covariance = np.stack([mean.xx + learned[0], mean.xy, mean.xy, mean.yy + learned[1]], -1).reshape(n, 2, 2)
        covariance[~here] = np.nan
        hidden[here] |= np.trace(shifts[number][here], axis1=1, axis2=2) > 0.5 * np.trace(covariance[here], axis1=1, axis2=2)
        covariance += shifts[number]
        parts.append(EpochPositions(positions.times[number], np.column_stack([mean.x, mean.y]), covariance, moved))
        last = positions.epoch == number
        positions.xx[last] += (solved[0] + learned[0])[last]
        positions.yy[last] += (solved[1] + learned[1])[last]
        extra[last] = 0.5 * (solved[0] + learned[0] + solved[1] + learned[1])[last]
        for name, i, j in (("xx", 0, 0), ("xy", 0, 1), ("yy", 1, 1)):
            getattr(positions, name)[last] += shifts[number][last, i, j]
    spreads = motion_spreads(positions, links.n_epochs) if field is None else list(field.spreads[:-1])
    age_positions(positions, spreads, times)
    solution = solve_astrometry(parts, times[-1])
    k = solution.solved
    positions.x[k], positions.y[k] = solution.value[k, :2].T
    positions.xx[k], positions.xy[k], positions.yy[k] = (solution.covariance[k, i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
    zero_point = motion_zero_point(solution, frame, reference, times[-1], 2.0 * radius)
    systematic = float(np.sqrt(np.median(extra))) if n else 0.0
    if field is None:
        floors, flux_floors = [mean.floor for mean in positions.by_epoch], {band.name: band.values.floor for band in bands}
        field = FieldErrors(reference is not None, floors, flux_floors, places, fluxes, extras, told, [*spreads, float("nan")])
    return Epochs(times, solution, zero_point, systematic, measured, hidden, field)


def _fluxes(groups: list[list[int]], bands: Sequence[Band], n: int) -> list[Floats]:
    """Fluxes (n, n_bands) in the bands of every epoch."""
    fluxes = []
    for members in groups:
        mine = [band.values.mean for band in bands if set(band.units) & set(members)]
        fluxes.append(np.column_stack(mine) if mine else np.full((n, 1), np.nan))
    return fluxes


def _hidden(
    units: Sequence[Unit], groups: list[list[int]], places: list[Floats], fluxes: list[Floats], frame: MasterFrame,
    field: FieldErrors | None,
) -> list[Floats]:  # fmt: skip
    """What neighbours that an epoch hides may have done to its positions."""
    radii = [HIDING * max(units[k].pixel_scale for k in members) / frame.scale for members in groups]
    if field is None:
        return hidden_shifts(places, fluxes, radii)
    n, n_real = len(places[0]), len(field.places[0])
    real = np.arange(n + n_real) >= n
    places = [np.concatenate(pair) for pair in zip(places, field.places)]
    fluxes = [np.concatenate(pair) for pair in zip(fluxes, field.fluxes)]
    return [shift[:n] for shift in hidden_shifts(places, fluxes, radii, real)]
