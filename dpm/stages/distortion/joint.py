"""Joint weighted least squares of distortion and transforms with the star positions eliminated (DESIGN section 6).

Every measurement says: star = unit's transform of (start map + displacement).  A reference position is one more
measurement of its star, without parameters.  Transforms and polynomials are solved for densely; with a table, whose
many modes would make a matrix of gigabytes, by conjugate gradients preconditioned with that dense solution and with the
modes of each filter by itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import robust_width
from dpm.stages.distortion.prior import PolynomialPrior, learn_spreads
from dpm.stages.distortion.sample import Sample, project, to_raw
from dpm.stages.distortion.system import System
from dpm.stages.distortion.terms import Layout, State, TableModes, TablePrior, evaluate
from dpm.stages.distortion.weights import CLIP, Scatter, weigh

__all__ = ["Fit", "draw", "near_measurements", "residual_width", "solve_joint"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# Rounds of the solution; the correction of the map (pixels) that counts as none (paper 2, section 4.1).
ROUNDS = 20
CONVERGED = 1e-5
# Rounds in which the priors of coefficients are found, and rounds after which the selection of measurements stays.
LEARNING_ROUNDS = 5
SETTLED_ROUNDS = 3
# A local feature of the detector looks like bad measurements until the table has it: the first rounds of a solution with a
# table clip so many times as far, and so far the residuals are looked through for one.
OPENING = (4.0, 2.0)
WIDE = 4.0
# Part of the first residual that ends the conjugate gradients of a round.
TOLERANCE = 1e-5


@dataclass
class Fit:
    """A joint solution.

    Parameters
    ----------
    layout, state
        What was solved for, and the values.
    residual_x, residual_y : ndarray (n,)
        Star's mean less the measurement, turned to raw axes, pixels.
    star_x, star_y, star_variance : ndarray (n_stars,)
        Means on the master frame.
    used : ndarray (n,), bool
        Measurements that were not clipped.
    reference_used : ndarray (n_stars,), bool
        Reference positions that were not clipped.
    floor : ndarray (n_filters,)
        Error beyond the formal ones, pixels.
    reference_factor : float
        Reference errors over the stated ones.
    system : object
        The last round's linear system, which errors are drawn from.
    polynomial_prior, table_prior
        As found.
    rounds, change
        Until it converged, and the last correction of the map in pixels.
    """

    layout: Layout
    state: State
    residual_x: Floats
    residual_y: Floats
    star_x: Floats
    star_y: Floats
    star_variance: Floats
    used: NDArray[np.bool_]
    reference_used: NDArray[np.bool_]
    floor: Floats
    reference_factor: float
    system: System
    polynomial_prior: PolynomialPrior
    table_prior: TablePrior | None
    rounds: int
    change: float


def solve_joint(
    sample: Sample,
    layout: Layout,
    state: State,
    polynomial_prior: PolynomialPrior | None = None,
    table_prior: TablePrior | None = None,
) -> Fit:
    """Solve for `layout` from a start.

    Parameters
    ----------
    sample : Sample
    layout : Layout
    state : State
        Start values, of the layout's shapes; not changed.
    polynomial_prior : PolynomialPrior, optional
        Held fixed; found from the data when None.
    table_prior : TablePrior, optional
        Needed for a layout with a table.

    Returns
    -------
    Fit
    """
    state = state.copy()
    prior = polynomial_prior or PolynomialPrior()
    learn = polynomial_prior is None
    grid = _check_grid(layout)
    before = _on_grid(layout, state, grid)
    scatter = Scatter(np.full(layout.n_filters, 0.1), 1.0)
    change, turn, settled = np.inf, 0, False
    weight = np.zeros(len(sample))
    system: System | None = None
    if layout.cells and table_prior is None:
        raise ValueError("a table needs a prior")
    modes = TableModes(table_prior, layout) if layout.cells and table_prior is not None else None
    state.amplitudes = np.zeros((layout.n_filters, 2, modes.n_modes if modes is not None else 0))
    for turn in range(1, ROUNDS + 1):
        plane = project(sample, layout, state)
        opening = OPENING[turn - 1] if layout.cells and turn <= len(OPENING) else 1.0
        weight, star_weight, mean, scatter, _ = weigh(sample, plane, weight, scatter, settled, opening)
        residual = mean[0][sample.star] - plane.x, mean[1][sample.star] - plane.y
        before_system = system if modes is not None and turn not in (2, 3) else None
        system = System(sample, layout, state, plane, weight, star_weight, prior, modes, before_system)
        step = system.solve(system.gradient(residual) + system.pull(state), TOLERANCE)
        _move(layout, state, step, modes)
        if learn and turn <= LEARNING_ROUNDS:
            prior = learn_spreads(layout, state, system.factor[0])
        after = _on_grid(layout, state, grid)
        change = float(np.max(np.abs(after - before)))
        before = after
        log.debug("distortion round %d: the map changed by %.6f pixel, floor %s", turn, change, scatter.floor)
        if settled and change < CONVERGED:
            break
        settled = turn >= (LEARNING_ROUNDS if learn else SETTLED_ROUNDS + bool(layout.cells))
    plane = project(sample, layout, state)
    weight, star_weight, mean, scatter, reference_used = weigh(sample, plane, weight, scatter, True, 1.0)
    raw = to_raw(sample, state, mean[0][sample.star] - plane.x, mean[1][sample.star] - plane.y)
    with np.errstate(divide="ignore"):
        star_variance = 1 / star_weight
    assert system is not None
    return Fit(
        layout, state, *raw, *mean, star_variance, weight > 0, reference_used, scatter.floor, scatter.reference, system,
        prior, table_prior, turn, change,
    )  # fmt: skip


def draw(fit: Fit, n: int, seed: int = 0) -> Floats:
    """Draws of the solution's errors, (n, size): transforms and coefficients as in the layout, then amplitudes of modes."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(fit.system.precision + 1e-12 * np.eye(len(fit.system.precision)))
    return np.array([fit.system.draw(rng, root) for _ in range(n)])


def _check_grid(layout: Layout) -> tuple[Floats, Floats]:
    x_low, x_high, y_low, y_high = layout.bounds
    x, y = np.meshgrid(np.linspace(x_low, x_high, 20), np.linspace(y_low, y_high, 20))
    return x.ravel(), y.ravel()


def _on_grid(layout: Layout, state: State, grid: tuple[Floats, Floats]) -> Floats:
    return np.array([evaluate(layout, state, *grid, f) for f in range(layout.n_filters)])


def _move(layout: Layout, state: State, step: Floats, modes: TableModes | None) -> None:
    """Add a step to the state, in place."""
    units = step[: 4 * layout.n_units].reshape(-1, 4)
    change = np.zeros_like(state.matrices)
    change[:, 0, 0] = change[:, 1, 1] = 1 + units[:, 2] / layout.reach
    change[:, 1, 0] = units[:, 3] / layout.reach
    change[:, 0, 1] = -change[:, 1, 0]
    state.matrices[:] = change @ state.matrices
    state.shifts += units[:, :2]
    start = layout.start
    state.coefficients += step[start[0] : start[1]].reshape(layout.n_filters, layout.terms)
    if modes is not None:
        state.amplitudes += step[start[1] :].reshape(state.amplitudes.shape)
        state.table = modes.table(state.amplitudes)


def near_measurements(fit: Fit, sample: Sample) -> tuple[NDArray[np.int64], Floats]:
    """Measurements that are used or may belong to a local feature of the detector, and their errors (raw pixels)."""
    sigma = np.sqrt(sample.variance + fit.floor[sample.filt] ** 2)
    several = np.bincount(sample.star, fit.used, sample.n_stars)[sample.star] > fit.used
    near = np.maximum(np.abs(fit.residual_x), np.abs(fit.residual_y)) < WIDE * CLIP * sigma
    rows = np.flatnonzero(fit.used | (several & near))
    return rows, sigma[rows]


def residual_width(fit: Fit) -> float:
    """Robust scatter of the used residuals, per axis, raw pixels."""
    used = fit.used
    return robust_width(np.concatenate([fit.residual_x[used], fit.residual_y[used]]), 0.0) if used.any() else float("nan")
