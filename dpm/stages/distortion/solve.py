"""Solving the geometric distortion of all detectors of a set of exposures (DESIGN section 6; paper 2, section 4).

The paper's terms (two fifth-order polynomials, a 32 x 32 table, a per-pixel term) are kept.  Instead of half-steps
against averages, which crawl where dithers say little, polynomials, table and the four-parameter transforms are solved
jointly with the star positions eliminated, and the reference's positions enter with their own errors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions
from dpm.models.transform import fit_linear
from dpm.stages.distortion.fine import FineTerm, fine_term
from dpm.stages.distortion.joint import Fit, near_measurements, residual_width, solve_joint
from dpm.stages.distortion.prior import find_table_prior
from dpm.stages.distortion.products import finish_detector
from dpm.stages.distortion.sample import Sample
from dpm.stages.distortion.select import Chosen, StartMap, choose, link
from dpm.stages.distortion.solution import DistortionSolution
from dpm.stages.distortion.terms import CELLS, Layout, State, with_order
from dpm.stages.frame.field import solve_field
from dpm.stages.frame.units import Unit, match_radius

__all__ = ["solve_distortion"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# Order of the polynomials (paper 2, section 4.1), and how many measurements beyond one a star each coefficient needs.
ORDER = 5
# Polynomials of a lower order are no better than the header.
LEAST_ORDER = 2
PER_COEFFICIENT = 5
# Measurements below which a table says nothing.
FEWEST_FOR_TABLE = 500
# Rounds of linking; they end when the number of measurements grows by less than this part.
LINK_ROUNDS = 6
GROWTH = 0.01
# Maps whose expected error (pixels, RMS, skew apart) is larger are not believed: lower orders are tried, then the header.
MOST_ERROR = 0.05
# A unit is bad when its residuals scatter by this many times the others' or fewer than this part of them survive.
BAD_SCATTER = 3.0
BAD_PART = 0.5
# Reference errors found this many times too small are worth a word.
BAD_REFERENCE = 2.0
# Fewest measurements of a unit.
FEWEST_STARS = 10


@dataclass
class _Work:
    """One detector while it is solved."""

    detector: str
    units: list[Unit]
    index: list[int]
    filters: list[str]
    maps: dict[str, StartMap]
    bounds: tuple[float, float, float, float]
    warnings: list[str]


def solve_distortion(
    units: Sequence[Unit],
    frame: MasterFrame,
    options: FrameOptions,
    reference: ReferenceCatalog | None = None,
    order: int = ORDER,
) -> DistortionSolution:
    """Distortion maps of every detector and filter from dithered detections.

    Parameters
    ----------
    units : sequence of Unit
        With raw positions and `forward`.  Those without a transform make `solve_field` run on all of them first.
    frame : MasterFrame
        Master frame.
    options : FrameOptions
        ``[frame]``; `match_radius` counts.
    reference : ReferenceCatalog, optional
        Positions at any epoch, with motions.
    order : int
        Highest order of the polynomials.

    Returns
    -------
    DistortionSolution
        Detectors without a sound solution are missing from its maps, and a warning says why.
    """
    if any(unit.transform is None for unit in units):
        solve_field(units, frame, options, reference)
    solution = DistortionSolution()
    for detector in sorted({unit.detector for unit in units}):
        index = [k for k, unit in enumerate(units) if unit.detector == detector and unit.transform is not None]
        if index:
            _solve_detector(detector, units, index, frame, options, reference, order, solution)
    for text in solution.warnings:
        log.warning(text)
    return solution


def _solve_detector(
    detector: str,
    units: Sequence[Unit],
    index: list[int],
    frame: MasterFrame,
    options: FrameOptions,
    reference: ReferenceCatalog | None,
    order: int,
    solution: DistortionSolution,
) -> None:
    radius = match_radius([units[k] for k in index], options.match_radius, frame.scale)
    work = _prepare(detector, units, index)
    while True:
        solved = _iterate(work, frame, radius, reference, order)
        if solved is None:
            solution.warnings += work.warnings
            return
        bad = _bad_units(work, solved)
        if not bad:
            break
        for k in bad:
            work.warnings.append(
                f"{work.units[k].name}: left out of the distortion solution: too few of its stars agree with the other exposures'"
            )
        work = _without(work, bad)
    steps, sample, rows, chosen, fine = solved
    result = finish_detector(detector, work.units, work.index, work.filters, work.maps, steps, sample, rows, chosen, fine, frame)
    error = result.detector.bent_rms
    _judge_reference(work, steps[-1], reference)
    reached = result.detector.order
    if error > MOST_ERROR and reached > LEAST_ORDER:
        log.info("%s: order %d leaves an expected error of %.3f pixel; a lower one is tried", detector, reached, error)
        _solve_detector(detector, units, index, frame, options, reference, reached - 1, solution)
        return
    if error > MOST_ERROR:
        solution.warnings += [
            *work.warnings,
            f"{detector}: the distortion cannot be solved from these exposures (expected error {error:.2f} pixel): the dithers are "
            "too small or the stars too few to tell distortion from star positions. The headers' WCS is used; give "
            "[input] reference, or a distortion file",
        ]
        return
    _explain_skew(work, steps[-1], reference)
    if reached < ORDER:
        shortfall = f"{detector}: few stars or small dithers: the distortion's polynomial has order {reached}, not {ORDER}"
        work.warnings.append(shortfall)
    solution.warnings += work.warnings + result.warnings
    solution.detectors[detector] = result.detector
    solution.maps |= {(detector, name): value for name, value in result.maps.items()}
    solution.units |= result.units


def _prepare(detector: str, units: Sequence[Unit], index: list[int]) -> _Work:
    mine = [units[k] for k in index]
    bounds = np.array([unit.bounds for unit in mine])
    whole = (float(bounds[:, 0].min()), float(bounds[:, 1].max()), float(bounds[:, 2].min()), float(bounds[:, 3].max()))
    filters = sorted({unit.filter for unit in mine})
    maps = {}
    for name in filters:
        # The exposure of the largest part of the detector knows the most of it.
        maps[name] = StartMap(max((unit for unit in mine if unit.filter == name), key=_size), whole)
    return _Work(detector, mine, index, filters, maps, whole, [])


def _size(unit: Unit) -> float:
    return (unit.bounds[1] - unit.bounds[0]) * (unit.bounds[3] - unit.bounds[2])


def _without(work: _Work, bad: list[int]) -> _Work:
    keep = [k for k in range(len(work.units)) if k not in bad]
    units = [work.units[k] for k in keep]
    filters = sorted({unit.filter for unit in units})
    return replace(work, units=units, index=[work.index[k] for k in keep], filters=filters)


def _start(work: _Work, reach_scale: float) -> tuple[Layout, State]:
    """Transforms as the frame has them, without their skew, for corrected positions about the detector's centre."""
    x_low, x_high, y_low, y_high = work.bounds
    half = 0.5 * max(x_high - x_low, y_high - y_low)
    layout = Layout(len(work.units), len(work.filters), 0, work.bounds, 0, half * reach_scale)
    grid = (axis.ravel() for axis in np.meshgrid(np.linspace(x_low, x_high, 9), np.linspace(y_low, y_high, 9)))
    x, y = grid
    matrices, shifts = np.empty((len(work.units), 2, 2)), np.empty((len(work.units), 2))
    for k, unit in enumerate(work.units):
        assert unit.transform is not None and unit.forward is not None
        transform = fit_linear(
            *work.maps[unit.filter](x, y), *unit.transform(*unit.forward(x, y)), parameters=4, clip=None
        ).transform
        matrices[k] = transform.matrix
        shifts[k] = transform.x_shift, transform.y_shift
    n = len(work.filters)
    state = State(np.zeros((n, 0)), np.zeros((n, 2, 0, 0)), np.zeros((n, 2, 0)), matrices, shifts)
    return layout, state


Solved = tuple[list[Fit], Sample, NDArray[np.int64], Chosen, FineTerm | None]


def _iterate(
    work: _Work, frame: MasterFrame, radius: float, reference: ReferenceCatalog | None, order: int
) -> Solved | None:
    """Link and solve in turn: transforms, polynomials, table, per-pixel term.  None where stars are too few."""
    scale = float(np.median([unit.transform.scale for unit in work.units if unit.transform is not None]))
    layout, state = _start(work, scale)
    chosen = choose(work.units, work.filters, work.maps)
    count = 0
    sample, rows = link(work.units, chosen, layout, state, 2 * radius, frame, reference)
    for turn in range(LINK_ROUNDS):
        allowed = _allowed_order(sample, order)
        if allowed < LEAST_ORDER:
            work.warnings.append(_too_few(work, sample))
            return None
        wanted = min(allowed, 3) if turn == 0 else allowed
        state = replace_order(state, layout, wanted)
        layout = replace(layout, order=wanted)
        fit = solve_joint(sample, layout, state)
        state = fit.state
        sample, rows = link(work.units, chosen, layout, state, radius, frame, reference)
        grown, count = len(sample) - count, len(sample)
        if turn >= 1 and grown <= GROWTH * count:
            break
    allowed = _allowed_order(sample, order)
    state, layout = replace_order(state, layout, allowed), replace(layout, order=allowed)
    plain = replace(layout, order=0)
    before = solve_joint(sample, plain, replace_order(state, layout, 0))
    steps = [before, solve_joint(sample, layout, state)]
    table = _with_table(steps[-1], sample)
    fine = None
    if table is not None:
        steps.append(table)
        used, _ = near_measurements(table, sample)
        fine = fine_term(sample.x[used], sample.y[used], table.residual_x[used], table.residual_y[used], work.bounds)
    log.info(
        "%s: distortion of order %d from %d measurements of %d stars, scatter %s pixel", work.detector, allowed,
        int(steps[-1].used.sum()), sample.n_stars, " -> ".join(f"{residual_width(step):.4f}" for step in steps),
    )  # fmt: skip
    return steps, sample, rows, chosen, fine


def _with_table(fit: Fit, sample: Sample) -> Fit | None:
    """The solution with a table, where the residuals of the polynomials show that there is something for it to do."""
    used, sigma = near_measurements(fit, sample)
    if len(used) < FEWEST_FOR_TABLE:
        return None
    layout = replace(fit.layout, cells=CELLS)
    prior = find_table_prior(
        layout, sample.x[used], sample.y[used], sample.filt[used], sample.star[used], fit.residual_x[used],
        fit.residual_y[used], sigma,
    )  # fmt: skip
    if prior is None:
        return None
    state = fit.state.copy()
    state.table = np.zeros((layout.n_filters, 2, CELLS, CELLS))
    return solve_joint(sample, layout, state, fit.polynomial_prior, prior)


def replace_order(state: State, layout: Layout, order: int) -> State:
    """The state with polynomials of another order."""
    out = state.copy()
    out.coefficients = with_order(state.coefficients, layout.order, order)
    if layout.order == 0:
        out.coefficients = np.zeros((layout.n_filters, Layout(1, 1, order, layout.bounds, 0, 1.0).terms))
    return out


def _allowed_order(sample: Sample, order: int) -> int:
    """The highest order that the measurements of the poorest filter can carry (filters share what they cannot)."""
    spare = len(sample) - sample.n_stars + int(np.isfinite(sample.reference_variance).sum())
    while order > 0 and spare < PER_COEFFICIENT * ((order + 1) * (order + 2) // 2 - 1):
        order -= 1
    return order


def _too_few(work: _Work, sample: Sample) -> str:
    return (
        f"{work.detector}: too few stars for a distortion solution ({len(sample)} good measurements of {sample.n_stars} stars "
        "seen twice or in the reference): the headers' WCS is used. Bright, isolated, unsaturated stars with a QFIT below 0.1 count"
    )


def _bad_units(work: _Work, solved: Solved) -> list[int]:
    """Units that do not fit the others, or hold too few stars."""
    fit, sample = solved[0][-1], solved[1]
    if len(work.units) < 2:
        return []
    linked = np.bincount(sample.unit, minlength=len(work.units))
    used = np.bincount(sample.unit, fit.used, minlength=len(work.units))
    part = used / np.maximum(linked, 1)
    width = np.full(len(work.units), np.nan)
    expected = np.sqrt(sample.variance + fit.floor[sample.filt] ** 2)
    pull = np.hypot(fit.residual_x, fit.residual_y) / expected
    for k in range(len(work.units)):
        mine = sample.unit == k
        width[k] = float(np.median(pull[mine])) if mine.any() else np.nan
    typical = float(np.nanmedian(width))
    bad = (used < FEWEST_STARS) | ((part < BAD_PART) & (part < 0.7 * np.median(part))) | (width > BAD_SCATTER * typical)
    # Where all are poor, none stands out.
    return [int(k) for k in np.flatnonzero(bad)] if bad.sum() < 0.5 * len(bad) else []


def _judge_reference(work: _Work, fit: Fit, reference: ReferenceCatalog | None) -> None:
    if reference is not None and fit.reference_factor > BAD_REFERENCE:
        work.warnings.append(
            f"{work.detector}: positions of {reference.name} scatter {fit.reference_factor:.1f} times as much about the dithered "
            "ones as its errors say (another epoch without motions?); they count with larger errors"
        )


def _explain_skew(work: _Work, fit: Fit, reference: ReferenceCatalog | None) -> None:
    """Without a reference, skew comes from rolls or from the header: say which."""
    if reference is not None and fit.reference_used.sum() >= FEWEST_STARS:
        return
    angles = np.unwrap(np.arctan2(fit.state.matrices[:, 1, 0], fit.state.matrices[:, 0, 0]), period=np.pi)
    rolled = float(np.ptp(angles)) > np.radians(5.0)
    if rolled:
        log.info("%s: self-calibrated: scale and orientation from the headers, skew from the rolls", work.detector)
        return
    work.warnings.append(
        f"{work.detector}: the distortion is self-calibrated from exposures of nearly one roll, without a reference: its skew, "
        "and the catalogue's scale, orientation and skew, are the headers'; position errors leave these out"
    )


