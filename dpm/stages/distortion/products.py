"""From a joint solution to maps, transforms, errors and diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from dpm.models.distortion import MapDistortion
from dpm.models.distortion_errors import DistortionErrors
from dpm.models.master_frame import MasterFrame
from dpm.models.statistics import robust_width
from dpm.models.transform import LinearTransform, fit_linear
from dpm.stages.distortion.changes import exposure_changes, say_changes
from dpm.stages.distortion.fine import FineTerm
from dpm.stages.distortion.joint import Fit, draw
from dpm.stages.distortion.sample import Sample
from dpm.stages.distortion.select import Chosen, StartMap
from dpm.stages.distortion.solution import DetectorSolution, TermResiduals, UnitSolution
from dpm.stages.distortion.terms import CELLS, Layout, State, evaluate, table_nodes
from dpm.stages.frame.units import Unit

__all__ = ["Finished", "finish_detector", "make_map", "term_residuals"]

Floats = NDArray[np.float64]

# Draws of the errors: the scatter of so many is good to a sixth.
DRAWS = 20
# Cells a side of residual maps, and their clipping (paper 2, section 4.1).
RESIDUAL_CELLS = 20
RESIDUAL_CLIP = 3.0
# Bins of residual histograms, and their reach in robust widths.
BINS = 61
BIN_REACH = 6.0
# A place is covered when a used measurement lies within this part of the detector's side (two cells of the table; voids are
# wider) or this many mean distances, and the map's expected error is below so many times its median over such places, or so
# small (pixels, per axis) that it does not matter beside the 0.003 that bright stars may err by (DESIGN section 7).
COVER_PART = 1 / 32
COVER_SPACINGS = 3.0
COVER_ERRORS = 3.0
COVER_SMALL = 0.002
# Part of the detector that has to be covered before a word is due.
COVERED = 0.98
# Smoothing (cells of the table) of displacements before pixel areas are made of them.
AREA_SMOOTHING = 0.25
# Rows of a map made at a time.
MAP_ROWS = 128


@dataclass
class Finished:
    """Products of one detector."""

    detector: DetectorSolution
    maps: dict[str, MapDistortion]
    units: dict[int, UnitSolution]
    warnings: list[str] = field(default_factory=list)


def finish_detector(
    detector: str,
    units: Sequence[Unit],
    index: Sequence[int],
    filters: Sequence[str],
    start: dict[str, StartMap],
    steps: list[Fit],
    sample: Sample,
    rows: NDArray[np.int64],
    chosen: Chosen,
    fine: FineTerm | None,
    frame: MasterFrame,
) -> Finished:
    """Maps with the gauge at the detector's centre, transforms, error draws and diagnostics.

    Parameters
    ----------
    detector : str
    units, index, filters, start
        Units of the detector, their indices in the whole list, its filters and start maps.
    steps : list of Fit
        Solutions term by term, the last one is taken.
    sample, rows, chosen
        Measurements, as `link` returned them.
    fine : FineTerm, optional
        Per-pixel term.
    frame : MasterFrame

    Returns
    -------
    Finished
    """
    fit = steps[-1]
    state = _fix_gauge(fit.layout, fit.state, np.array([filters.index(unit.filter) for unit in units]))
    maps = {name: make_map(fit.layout, state, start[name], k, fine) for k, name in enumerate(filters)}
    warnings: list[str] = []
    errors, scale_errors = _errors(fit, sample, units, filters)
    for name in filters:
        part = float(np.mean(errors.covered[name]))
        if part < COVERED:
            warnings.append(
                f"{detector} {name}: {100 * (1 - part):.0f} % of the detector is not held by stars; the distortion there is "
                "extrapolated, and detections there have the flag DISTORTION_EXTRAPOLATED"
            )
    centre = float(fit.layout.centre[0]), float(fit.layout.centre[1])
    order = np.argsort(sample.star, kind="stable")
    changes = exposure_changes(fit, sample)
    warnings += [f"{detector}: {text}" for text in say_changes([unit.name for unit in units], changes)]
    solutions = {}
    for k, unit in enumerate(units):
        mine = order[sample.unit[order] == k]
        star = np.full(len(unit), -1, dtype=np.int64)
        star[chosen.row[rows[mine]]] = sample.star[mine]
        used = mine[fit.used[mine]]
        residual = np.concatenate([fit.residual_x[used], fit.residual_y[used]])
        m, shift = state.matrices[k], state.shifts[k]
        scale = float(np.sqrt(abs(np.linalg.det(m)))) * frame.scale / unit.va_scale
        mates = scale_errors[:, [other.filter == unit.filter for other in units]].mean(axis=1)
        solutions[index[k]] = UnitSolution(
            unit.name,
            LinearTransform(m[0, 0], m[0, 1], m[1, 0], m[1, 1], shift[0], shift[1]),
            scale,
            scale * float(np.std(scale_errors[:, k])) if fit.reference_used.any() else float("nan"),
            scale * float(np.std(scale_errors[:, k] - mates)),
            len(used),
            robust_width(residual, 0.0) if len(used) else float("nan"),
            changes[k],
            star,
        )
    found = DetectorSolution(
        detector, list(filters), fit.layout.order, centre, list(index), fit.star_x, fit.star_y, np.sqrt(fit.star_variance),
        term_residuals(steps, sample, fine, filters), _error_rms(errors, filters, True),
        _error_rms(errors, filters, False), errors,
        {name: float(fit.floor[k]) for k, name in enumerate(filters)}, _summary(fit, sample, fine),
    )  # fmt: skip
    return Finished(found, maps, solutions, warnings)


def _summary(fit: Fit, sample: Sample, fine: FineTerm | None) -> dict[str, float]:
    out = {
        "order": fit.layout.order,
        "measurements": int(fit.used.sum()),
        "stars": sample.n_stars,
        "reference_stars": int(fit.reference_used.sum()),
        "reference_factor": fit.reference_factor,
        "rounds": fit.rounds,
        "change": fit.change,
        "fine_significant": fine.significant if fine is not None else 0.0,
    }
    if fit.table_prior is not None:
        prior = fit.table_prior
        out |= {"table_shared": prior.shared, "table_own": prior.own, "table_length": prior.length}
    return {key: float(value) for key, value in out.items()}


def _fix_gauge(layout: Layout, state: State, filt_of_unit: NDArray[np.int64]) -> State:
    """Move what the table has of offset, scale and rotation over the detector into the transforms."""
    state = state.copy()
    if not layout.cells:
        return state
    x, y = np.meshgrid(*layout.nodes)
    x, y = x - layout.centre[0], y - layout.centre[1]
    for f in range(layout.n_filters):
        dx, dy = state.table[f]
        fit = fit_linear(x.ravel(), y.ravel(), (x + dx).ravel(), (y + dy).ravel(), parameters=4, clip=None).transform
        u, v = fit(x, y)
        state.table[f, 0] -= u - x
        state.table[f, 1] -= v - y
        for k in np.flatnonzero(filt_of_unit == f):
            matrix = state.matrices[k].copy()
            state.matrices[k] = matrix @ fit.matrix
            state.shifts[k] += matrix @ np.array([fit.x_shift, fit.y_shift])
    return state


def make_map(layout: Layout, state: State, start: StartMap, filt: int, fine: FineTerm | None) -> MapDistortion:
    """The map of one filter, one value a pixel, from pixel (0, 0) to the last one that an exposure showed.

    Corrected coordinates are raw ones at the detector's centre.  Beyond the part that was exposed the displacement of
    its border goes on.
    """
    x_low, x_high, y_low, y_high = layout.bounds
    full_x, full_y = np.arange(int(x_high) + 1.0), np.arange(int(y_high) + 1.0)
    x, y = np.clip(full_x, x_low, x_high), np.clip(full_y, y_low, y_high)
    inside_x = full_x[full_x >= x_low]
    place_x = np.searchsorted(inside_x, x)
    shape = len(full_y), len(full_x)
    smooth = np.empty(shape), np.empty(shape)
    extra = (np.zeros(shape), np.zeros(shape)) if fine is not None else None
    # A block of rows at a time: whole images of every intermediate quantity would be most of the stage's memory.
    for first in range(0, len(full_y), MAP_ROWS):
        rows = slice(first, first + MAP_ROWS)
        above, place_y = np.unique(y[rows], return_inverse=True)
        u, v = (axis[np.ix_(place_y, place_x)] for axis in start.grid(inside_x, above))
        grid_x, grid_y = np.meshgrid(x, y[rows])
        dx, dy = evaluate(layout, state, grid_x, grid_y, filt)
        smooth[0][rows] = u + dx + (full_x - x + layout.centre[0])
        smooth[1][rows] = v + dy + ((full_y - y)[rows, None] + layout.centre[1])
        if fine is not None and extra is not None:
            extra[0][rows], extra[1][rows] = fine(grid_x, grid_y)
    magnitude = _area_magnitude(*smooth, layout)
    if extra is not None:
        for axis, more in zip(smooth, extra):
            axis += more
    return MapDistortion(*smooth, magnitude)


def _area_magnitude(u: Floats, v: Floats, layout: Layout) -> Floats:
    """Magnitudes to add for pixel areas: -2.5 log10 of the map's Jacobian, 0 at the centre's scale."""
    ny, nx = u.shape
    width = AREA_SMOOTHING * max(ny, nx) / max(layout.cells, CELLS)
    du = gaussian_filter(u - np.arange(nx, dtype=float), width, mode="nearest")
    u_y, u_x = np.gradient(du)
    del du
    dv = gaussian_filter(v - np.arange(ny, dtype=float)[:, None], width, mode="nearest")
    u_x += 1
    v_y, v_x = np.gradient(dv)
    del dv
    v_y += 1
    u_x *= v_y
    u_y *= v_x
    u_x -= u_y
    return np.asarray(-2.5 * np.log10(np.abs(u_x)))


def _errors(
    fit: Fit, sample: Sample, units: Sequence[Unit], filters: Sequence[str]
) -> tuple[DistortionErrors, Floats]:
    """Draws of the errors on the table's nodes, and where the detector is covered; draws of the units' scales."""
    layout = fit.layout
    node_x, node_y = table_nodes(*layout.bounds[:2]), table_nodes(*layout.bounds[2:])
    grid_x, grid_y = np.meshgrid(node_x, node_y)
    draws = draw(fit, DRAWS)
    maps = {name: np.empty((DRAWS, 2, CELLS, CELLS)) for name in filters}
    # What a draw's table has of scale belongs to the units' (`_fix_gauge`).
    of_table = np.zeros((DRAWS, len(filters)))
    away = np.stack([grid_x - layout.centre[0], grid_y - layout.centre[1]])
    for k, values in enumerate(draws):
        one = fit.system.as_state(values)
        for f, name in enumerate(filters):
            maps[name][k] = evaluate(layout, one, grid_x, grid_y, f)
            if layout.cells:
                of_table[k, f] = np.sum(away * one.table[f]) / np.sum(away**2)
    moves = draws[:, : 4 * layout.n_units].reshape(DRAWS, layout.n_units, 4)
    if not fit.reference_used.any():
        moves = _without_common(moves, fit)
    moves = moves / np.array([1.0, 1.0, layout.reach, layout.reach])
    covered = {name: _covered(fit, sample, k, grid_x, grid_y, maps[name]) for k, name in enumerate(filters)}
    found = DistortionErrors(node_x, node_y, maps, {unit.name: moves[:, k] for k, unit in enumerate(units)}, covered)
    return found, moves[:, :, 2] + of_table[:, [filters.index(unit.filter) for unit in units]]


def _without_common(moves: Floats, fit: Fit) -> Floats:
    """Draws of transforms without the shift, scale and rotation of the whole field, which only the headers tell."""
    reach = fit.layout.reach
    centre = fit.state.shifts - fit.state.shifts.mean(axis=0)
    scale, angle = moves[:, :, 2].mean(axis=1), moves[:, :, 3].mean(axis=1)
    out = moves.copy()
    out[:, :, 2] -= scale[:, None]
    out[:, :, 3] -= angle[:, None]
    out[:, :, 0] -= (scale[:, None] * centre[:, 0] - angle[:, None] * centre[:, 1]) / reach
    out[:, :, 1] -= (scale[:, None] * centre[:, 1] + angle[:, None] * centre[:, 0]) / reach
    out[:, :, :2] -= out[:, :, :2].mean(axis=1, keepdims=True)
    return out


def _covered(fit: Fit, sample: Sample, filt: int, grid_x: Floats, grid_y: Floats, draws: Floats) -> NDArray[np.bool_]:
    """Cells with a used measurement of the filter near, where the map is about as good as elsewhere among the stars."""
    mine = fit.used & (sample.filt == filt)
    if mine.sum() < 2:
        return np.zeros(grid_x.shape, dtype=bool)
    x_low, x_high, y_low, y_high = fit.layout.bounds
    spacing = np.sqrt((x_high - x_low) * (y_high - y_low) / mine.sum())
    reach = max(COVER_PART * max(x_high - x_low, y_high - y_low), COVER_SPACINGS * spacing)
    tree = cKDTree(np.column_stack([sample.x[mine], sample.y[mine]]))
    distance, _ = tree.query(np.column_stack([grid_x.ravel(), grid_y.ravel()]))
    near = distance <= reach
    # Offset, scale, rotation and skew are taken out: they are no matter of places.
    design = np.stack([np.ones(grid_x.size), grid_x.ravel() - grid_x.mean(), grid_y.ravel() - grid_y.mean()], -1)
    values = draws.reshape(-1, grid_x.size).T
    rest = values - design @ np.linalg.lstsq(design[near], values[near], rcond=None)[0]
    error = np.sqrt(np.mean(rest**2, axis=1))
    limit = max(COVER_ERRORS * float(np.median(error[near])), COVER_SMALL)
    return np.asarray(near & (error <= limit)).reshape(grid_x.shape)


def _error_rms(errors: DistortionErrors, filters: Sequence[str], with_skew: bool) -> float:
    """RMS error of the maps per axis over covered cells; four parameters removed from every draw, six without skew."""
    x, y = np.meshgrid(errors.node_x - errors.node_x.mean(), errors.node_y - errors.node_y.mean())
    squares = []
    for name in filters:
        keep = errors.covered[name].ravel()
        if keep.sum() < 10:
            continue
        u, v = x.ravel()[keep], y.ravel()[keep]
        one, zero = np.ones_like(u), np.zeros_like(u)
        design = np.concatenate([np.stack([one, zero, u, -v], -1), np.stack([zero, one, v, u], -1)])
        if not with_skew:
            design = np.hstack([design, np.concatenate([np.stack([u, v], -1), np.stack([-v, u], -1)])])
        values = errors.maps[name].reshape(errors.n_draws, 2, -1)[:, :, keep].reshape(errors.n_draws, -1).T
        rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        squares.append(np.mean(rest**2))
    return float(np.sqrt(np.mean(squares))) if squares else float("inf")


def term_residuals(
    steps: list[Fit], sample: Sample, fine: FineTerm | None, filters: Sequence[str]
) -> dict[str, list[TermResiduals]]:
    """Residuals of every filter after each term, in cells and as histograms."""
    out: dict[str, list[TermResiduals]] = {name: [] for name in filters}
    terms = [(name, fit.residual_x, fit.residual_y, fit.used) for name, fit in zip(("start", "polynomial", "table"), steps)]
    if fine is not None:
        dx, dy = fine(sample.x, sample.y)
        terms.append(("fine", steps[-1].residual_x - dx, steps[-1].residual_y - dy, steps[-1].used))
    for term, rx, ry, used in terms:
        # A star of which a step used nothing has no position there, and no residual.
        known = np.bincount(sample.star, used, sample.n_stars)[sample.star] > 0
        for f, name in enumerate(filters):
            mine = steps[-1].used & known & (sample.filt == f)
            out[name].append(_one_term(term, sample.x[mine], sample.y[mine], rx[mine], ry[mine], steps[-1].layout.bounds))
    return out


def _one_term(
    term: str, x: Floats, y: Floats, rx: Floats, ry: Floats, bounds: tuple[float, float, float, float]
) -> TermResiduals:
    x_low, x_high, y_low, y_high = bounds
    n = RESIDUAL_CELLS
    i = np.clip((x - x_low + 0.5) / (x_high - x_low + 1) * n, 0, n - 1).astype(np.int64)
    j = np.clip((y - y_low + 0.5) / (y_high - y_low + 1) * n, 0, n - 1).astype(np.int64)
    cell = j * n + i
    keep = np.ones(len(x), dtype=bool)
    for _ in range(3):
        count = np.bincount(cell, keep, n * n)
        safe = np.maximum(count, 1)
        mean = [np.bincount(cell, np.where(keep, r, 0.0), n * n) / safe for r in (rx, ry)]
        width = [np.sqrt(np.bincount(cell, np.where(keep, (r - m[cell]) ** 2, 0.0), n * n) / safe) for r, m in zip((rx, ry), mean)]
        keep = np.ones(len(x), dtype=bool)
        for r, m, w in zip((rx, ry), mean, width):
            keep &= np.abs(r - m[cell]) <= RESIDUAL_CLIP * np.maximum(w[cell], 1e-9)
    empty = count == 0
    dx, dy = (np.where(empty, np.nan, m).reshape(n, n) for m in mean)
    widths = tuple(robust_width(r, 0.0) if len(r) else float("nan") for r in (rx, ry))
    reach = BIN_REACH * max(np.nanmax(widths), 1e-4) if len(x) else 0.01
    edges = np.linspace(-reach, reach, BINS + 1)
    histogram = np.array([np.histogram(r, edges)[0] for r in (rx, ry)], dtype=float)
    return TermResiduals(term, dx, dy, count.reshape(n, n).astype(float), (widths[0], widths[1]), histogram, edges)
