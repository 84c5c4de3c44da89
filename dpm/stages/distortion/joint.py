"""Joint weighted least squares of distortion and transforms with the star positions eliminated (DESIGN section 6).

Every measurement says: star = unit's transform of (start map + displacement).  A reference position is one more
measurement of its star, without parameters.  Transforms and polynomials are solved for densely; with a table, whose
many modes would make a matrix of gigabytes, by conjugate gradients preconditioned with that dense solution and with the
modes of each filter by itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from dpm.kernels.distortion import accumulate, accumulate_gradient, table_weights
from dpm.models.statistics import robust_width
from dpm.stages.distortion.prior import PolynomialPrior, learn_spreads, prior_terms
from dpm.stages.distortion.terms import Layout, State, TableModes, TablePrior, evaluate
from dpm.stages.frame.average import MEDIAN_CHI2

__all__ = ["Fit", "Sample", "draw", "near_measurements", "residual_width", "solve_joint"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Factor = tuple[NDArray[Any], bool]

# Rounds of the solution; the correction of the map (pixels) that counts as none (paper 2, section 4.1).
ROUNDS = 20
CONVERGED = 1e-5
# Rounds in which the priors of coefficients are found, and rounds after which the selection of measurements stays.
LEARNING_ROUNDS = 5
SETTLED_ROUNDS = 3
# Measurements further than this from their star's mean are left out; rounds of that in each round of the solution.
CLIP = 3.5
CLIP_ROUNDS = 3
# A local feature of the detector looks like bad measurements until the table has it: the first rounds of a solution with a
# table clip so many times as far, and so far the residuals are looked through for one.
OPENING = (4.0, 2.0)
WIDE = 4.0
# Working memory of one block of stars, bytes.
BLOCK_BYTES = 6.4e7
# Conjugate gradients: most steps, and the part of the first residual (in the preconditioner's norm) that ends them.
MOST_STEPS = 200
TOLERANCE = 1e-5
DRAW_TOLERANCE = 1e-2


@dataclass
class Sample:
    """Measurements sorted by star.

    Parameters
    ----------
    edges : ndarray (n_stars + 1,)
        First measurement of each star.
    star, unit, filt : ndarray (n,)
        Of each measurement.
    x, y : ndarray (n,)
        Raw.
    base_u, base_v : ndarray (n,)
        By the start map, from the detector's centre.
    variance : ndarray (n,)
        Per axis, raw pixels squared.
    reference_x, reference_y, reference_variance : ndarray (n_stars,)
        Master frame; infinite variance where there is none.
    scale_group : ndarray (n_units,)
        Units of one number have one pixel scale, but for `va_scale`.
    va_scale : ndarray (n_units,)
        Velocity aberration.
    """

    edges: Ints
    star: Ints
    unit: Ints
    filt: Ints
    x: Floats
    y: Floats
    base_u: Floats
    base_v: Floats
    variance: Floats
    reference_x: Floats
    reference_y: Floats
    reference_variance: Floats
    scale_group: Ints
    va_scale: Floats

    def __len__(self) -> int:
        return len(self.x)

    @property
    def n_stars(self) -> int:
        return len(self.edges) - 1


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
    system: _System
    polynomial_prior: PolynomialPrior
    table_prior: TablePrior | None
    rounds: int
    change: float


@dataclass
class _Scatter:
    """Error floors by filter (raw pixels), the reference's errors over the stated ones, and the reference stars used."""

    floor: Floats
    reference: float
    reference_used: NDArray[np.bool_] | None = None


@dataclass
class _Plane:
    """Measurements on the master frame under one state."""

    u: Floats
    v: Floats
    x: Floats
    y: Floats
    scale2: Floats


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
    scatter = _Scatter(np.full(layout.n_filters, 0.1), 1.0)
    change, turn, settled = np.inf, 0, False
    weight = np.zeros(len(sample))
    system: _System | None = None
    if layout.cells and table_prior is None:
        raise ValueError("a table needs a prior")
    modes = TableModes(table_prior, layout) if layout.cells and table_prior is not None else None
    state.amplitudes = np.zeros((layout.n_filters, 2, modes.n_modes if modes is not None else 0))
    for turn in range(1, ROUNDS + 1):
        plane = _project(sample, layout, state)
        opening = OPENING[turn - 1] if layout.cells and turn <= len(OPENING) else 1.0
        weight, star_weight, mean, scatter, _ = _weigh(sample, plane, weight, scatter, settled, opening)
        residual = mean[0][sample.star] - plane.x, mean[1][sample.star] - plane.y
        before_system = system if modes is not None and turn not in (2, 3) else None
        system = _System(sample, layout, state, plane, weight, star_weight, prior, modes, before_system)
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
    plane = _project(sample, layout, state)
    weight, star_weight, mean, scatter, reference_used = _weigh(sample, plane, weight, scatter, True, 1.0)
    raw = _to_raw(sample, state, mean[0][sample.star] - plane.x, mean[1][sample.star] - plane.y)
    with np.errstate(divide="ignore"):
        star_variance = 1 / star_weight
    assert system is not None
    return Fit(
        layout, state, *raw, *mean, star_variance, weight > 0, reference_used, scatter.floor, scatter.reference, system,
        prior, table_prior, turn, change,
    )  # fmt: skip


class _System:
    """The linear system of one round: information matrix as an operator, its preconditioner, and draws from its inverse.

    Vectors hold transforms and coefficients (as in the layout), then the amplitudes of the table's modes.
    """

    def __init__(
        self,
        sample: Sample,
        layout: Layout,
        state: State,
        plane: _Plane,
        weight: Floats,
        star_weight: Floats,
        prior: PolynomialPrior,
        modes: TableModes | None,
        before: _System | None,
    ) -> None:
        self.sample, self.layout, self.plane, self.modes = sample, layout, plane, modes
        self.matrices = state.matrices.copy()
        self.weight, self.star_weight = weight, np.where(star_weight > 0, star_weight, 1.0)
        anchored = bool(np.isfinite(sample.reference_variance[star_weight > 0]).any())
        self.precision, self._pull = prior_terms(layout, state, prior, sample.scale_group, sample.va_scale, anchored)
        self.first = int(layout.start[1])
        self.n_amplitudes = 2 * layout.n_filters * modes.n_modes if modes is not None else 0
        # A preconditioner need not be exact: one of an earlier round does as long as the weights are much the same.
        self.factor: Factor = before.factor if before is not None else self._dense_factor()
        self.blocks: list[Factor] = before.blocks if before is not None else self._mode_factors()

    def _dense_factor(self) -> Factor:
        dense = _dense_information(
            self.sample, replace(self.layout, cells=0), self.matrices, self.plane, self.weight, self.star_weight
        )
        return cho_factor(dense + self.precision, lower=False, check_finite=False, overwrite_a=True)

    def _mode_factors(self) -> list[Factor]:
        """Cholesky factors of the amplitudes' information, one for each column of the filters' mixing."""
        if self.modes is None:
            return []
        sample, layout = self.sample, self.layout
        share = 1 - self.weight / self.star_weight[sample.star]
        value = self.weight * self.plane.scale2[sample.unit] * share
        grams, basis = [], self.modes.basis()
        for f in range(layout.n_filters):
            mine = sample.filt == f
            index, weights = table_weights(sample.x[mine], sample.y[mine], *layout.nodes)
            rows = np.repeat(np.arange(len(index)), 4)
            design = csr_matrix((weights.ravel(), (rows, index.ravel())), shape=(len(index), layout.cells**2))
            information = (design.T @ design.multiply(value[mine][:, None])).tocsr()
            grams.append(basis.T @ (information @ basis))
        out = []
        for g in range(layout.n_filters):
            total = np.eye(self.modes.n_modes)
            for f in range(layout.n_filters):
                total += self.modes.mixing[f, g] ** 2 * grams[f]
            out.append(cho_factor(total, lower=False, check_finite=False, overwrite_a=True))
        return out

    def pull(self, state: State) -> Floats:
        """Gradient of the priors."""
        return np.concatenate([self._pull, -state.amplitudes.ravel()])

    def split(self, values: Floats) -> tuple[Floats, Floats]:
        """A vector as transforms and coefficients, and amplitudes (n_filters, 2, n_modes)."""
        return values[: self.first], values[self.first :].reshape(self.layout.n_filters, 2, -1)

    def gradient(self, residual: tuple[Floats, Floats]) -> Floats:
        """Sum over the measurements of weight times derivative times residual."""
        layout, sample = self.layout, self.sample
        out = np.zeros(layout.size)
        accumulate_gradient(
            sample.unit, sample.filt, sample.x, sample.y, self.plane.u, self.plane.v, self.weight, *residual, layout.centre,
            layout.half, layout.order, layout.terms, self.matrices, layout.reach, *layout.nodes, layout.start, out,
        )  # fmt: skip
        if self.modes is None:
            return out
        return np.concatenate([out[: self.first], self.modes.amplitudes_gradient(out[self.first :]).ravel()])

    def displace(self, values: Floats) -> tuple[Floats, Floats]:
        """How far a step moves the measurements on the plane, less their stars' mean."""
        layout, sample = self.layout, self.sample
        dx, dy = evaluate(layout, self.as_state(values), sample.x, sample.y, sample.filt)
        m = self.matrices[sample.unit]
        step = values[: 4 * layout.n_units].reshape(-1, 4)[sample.unit]
        p = (m[:, 0, 0] * self.plane.u + m[:, 0, 1] * self.plane.v) / layout.reach
        q = (m[:, 1, 0] * self.plane.u + m[:, 1, 1] * self.plane.v) / layout.reach
        x = m[:, 0, 0] * dx + m[:, 0, 1] * dy + step[:, 0] + step[:, 2] * p - step[:, 3] * q
        y = m[:, 1, 0] * dx + m[:, 1, 1] * dy + step[:, 1] + step[:, 2] * q + step[:, 3] * p
        return self._off_mean(x), self._off_mean(y)

    def _off_mean(self, values: Floats) -> Floats:
        mean = np.bincount(self.sample.star, self.weight * values, self.sample.n_stars) / self.star_weight
        return np.asarray(values - mean[self.sample.star])

    def as_state(self, values: Floats) -> State:
        """Coefficients and table of a vector, as a state."""
        layout = self.layout
        head, amplitudes = self.split(values)
        table = self.modes.table(amplitudes) if self.modes is not None else np.zeros((layout.n_filters, 2, 0, 0))
        coefficients = np.ascontiguousarray(head[layout.start[0] :]).reshape(layout.n_filters, layout.terms)
        return State(coefficients, table, amplitudes, self.matrices, np.zeros((layout.n_units, 2)))

    def apply(self, values: Floats) -> Floats:
        """The information matrix times a vector."""
        out = self.gradient(self.displace(values))
        out[: self.first] += self.precision @ values[: self.first]
        out[self.first :] += values[self.first :]
        return out

    def precondition(self, values: Floats) -> Floats:
        """An approximate inverse: transforms and coefficients, and the amplitudes of each filter, by themselves."""
        head, amplitudes = self.split(values)
        out = [cho_solve(self.factor, head, check_finite=False)]
        out += [cho_solve(block, amplitudes[g].T, check_finite=False).T.ravel() for g, block in enumerate(self.blocks)]
        return np.concatenate(out)

    def solve(self, right: Floats, tolerance: float) -> Floats:
        """Solution by preconditioned conjugate gradients; directly where there is no table."""
        if self.modes is None:
            return self.precondition(right)
        solution = np.zeros_like(right)
        residual = right.copy()
        direction = better = self.precondition(residual)
        size = first = float(residual @ better)
        steps = 0
        while size > tolerance**2 * first and steps < MOST_STEPS:
            image = self.apply(direction)
            length = size / float(direction @ image)
            solution += length * direction
            residual -= length * image
            better = self.precondition(residual)
            previous, size = size, float(residual @ better)
            direction = better + (size / previous) * direction
            steps += 1
        log.debug("%d steps of conjugate gradients", steps)
        return solution

    def draw(self, rng: np.random.Generator, root_precision: NDArray[Any]) -> Floats:
        """A draw of the solution's errors: the answer to noise in the data and in the priors."""
        sample = self.sample
        root = np.sqrt(np.where(self.weight > 0, self.weight, np.inf))
        # Noise of a star's reference moves its mean as well.
        own = np.bincount(sample.star, self.weight, sample.n_stars)
        reference = np.sqrt(np.maximum(self.star_weight - own, 0.0))
        residual = []
        for _ in range(2):
            moved = rng.normal(size=len(sample)) / root
            total = _sums(sample, self.weight * moved) + reference * rng.normal(size=sample.n_stars)
            residual.append(moved - (total / self.star_weight)[sample.star])
        right = self.gradient((residual[0], residual[1]))
        right[: self.first] += root_precision @ rng.normal(size=self.first)
        right[self.first :] += rng.normal(size=self.n_amplitudes)
        return self.solve(right, DRAW_TOLERANCE)


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


def _project(sample: Sample, layout: Layout, state: State) -> _Plane:
    dx, dy = evaluate(layout, state, sample.x, sample.y, sample.filt)
    u, v = sample.base_u + dx, sample.base_v + dy
    m = state.matrices[sample.unit]
    x = m[:, 0, 0] * u + m[:, 0, 1] * v + state.shifts[sample.unit, 0]
    y = m[:, 1, 0] * u + m[:, 1, 1] * v + state.shifts[sample.unit, 1]
    scale2 = np.abs(np.linalg.det(state.matrices))
    return _Plane(u, v, x, y, scale2)


def _to_raw(sample: Sample, state: State, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    inverse = np.linalg.inv(state.matrices)[sample.unit]
    return inverse[:, 0, 0] * x + inverse[:, 0, 1] * y, inverse[:, 1, 0] * x + inverse[:, 1, 1] * y


def _weigh(
    sample: Sample, plane: _Plane, weight: Floats, scatter: _Scatter, settled: bool, opening: float
) -> tuple[Floats, Floats, tuple[Floats, Floats], _Scatter, NDArray[np.bool_]]:
    """Weights on the plane after clipping, their sums a star, star means, error scatter, and the reference stars used.

    Once the solution has `settled`, the selection stays as it is: measurements at the edge of the clipping would come
    and go for ever.
    """
    scale2 = plane.scale2[sample.unit]
    used = weight > 0 if weight.any() else np.ones(len(sample), dtype=bool)
    reference_used = scatter.reference_used if scatter.reference_used is not None else np.isfinite(sample.reference_variance)
    floor, factor = scatter.floor, scatter.reference
    star = sample.star
    for _ in range(0 if settled else CLIP_ROUNDS):
        variance, weight, total, mean, own = _means(sample, plane, used, reference_used, floor, factor)
        rx, ry = mean[0][star] - plane.x, mean[1][star] - plane.y
        safe = np.where(total > 0, total, 1.0)[star]
        share = np.where(used, 1 - weight / safe, 1 + 1 / (variance * safe))
        several = (total[star] - weight) > 0
        floor = _floors(sample, rx, ry, share, scale2, used & several)
        variance = (sample.variance + floor[sample.filt] ** 2) * scale2
        limit = opening * CLIP * np.sqrt(variance * np.maximum(share, 0.05))
        used = several & (np.abs(rx) < limit) & (np.abs(ry) < limit) & (total[star] > 0)
        if np.isfinite(sample.reference_variance).any():
            factor, reference_used = _judge_reference(sample, mean, own, total, factor)
        # A star that nothing else holds says nothing.
        used &= ((np.bincount(star, used, sample.n_stars) + reference_used) >= 2)[star]
    _, weight, total, mean, own = _means(sample, plane, used, reference_used, floor, factor)
    return weight, np.where(own > 0, total, 0.0), mean, _Scatter(floor, factor, reference_used), reference_used & (own > 0)


def _means(
    sample: Sample, plane: _Plane, used: NDArray[np.bool_], reference_used: NDArray[np.bool_], floor: Floats, factor: float
) -> tuple[Floats, Floats, Floats, tuple[Floats, Floats], Floats]:
    """Variances and weights on the plane, sums of weights a star, star means, and sums without the reference."""
    variance = (sample.variance + floor[sample.filt] ** 2) * plane.scale2[sample.unit]
    weight = np.where(used, 1 / variance, 0.0)
    reference = np.where(reference_used, 1 / (sample.reference_variance * factor**2), 0.0)
    own = _sums(sample, weight)
    total = own + reference
    safe = np.where(total > 0, total, 1.0)
    x = (_sums(sample, weight * plane.x) + reference * np.nan_to_num(sample.reference_x)) / safe
    y = (_sums(sample, weight * plane.y) + reference * np.nan_to_num(sample.reference_y)) / safe
    return variance, weight, total, (x, y), own


def _sums(sample: Sample, values: Floats) -> Floats:
    """Sums over the measurements of each star."""
    return np.asarray(np.bincount(sample.star, values, sample.n_stars), dtype=float)


def _floors(sample: Sample, rx: Floats, ry: Floats, share: Floats, scale2: Floats, good: NDArray[np.bool_]) -> Floats:
    """Floor of every filter that gives the better-measured half of its residuals their expected scatter, raw pixels."""
    floors = np.zeros(int(sample.filt.max()) + 1)
    for f in range(len(floors)):
        mine = np.flatnonzero(good & (sample.filt == f))
        if len(mine) < 10:
            floors[f] = 0.01
            continue
        best = mine[np.argsort(sample.variance[mine], kind="stable")[: max(len(mine) // 2, 10)]]
        square = np.concatenate([rx[best] ** 2, ry[best] ** 2]) / np.tile(share[best] * scale2[best], 2)
        variance = np.tile(sample.variance[best], 2)
        low, high = 0.0, float(np.max(square)) / MEDIAN_CHI2 + 1e-12
        if np.median(square / variance) > MEDIAN_CHI2:
            for _ in range(40):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if np.median(square / (variance + middle)) > MEDIAN_CHI2 else (low, middle)
        floors[f] = np.sqrt(low)
    return floors


def _judge_reference(
    sample: Sample, mean: tuple[Floats, Floats], own: Floats, total: Floats, factor: float
) -> tuple[float, NDArray[np.bool_]]:
    """By how much the reference's errors are too small against the dithered positions, and which of it is used."""
    good = np.flatnonzero(np.isfinite(sample.reference_variance) & (own > 0))
    used = np.zeros(sample.n_stars, dtype=bool)
    if not len(good):
        return factor, used
    # Means hold the reference: without it they would lie further away.
    free = own[good] / total[good]
    dx = (sample.reference_x[good] - mean[0][good]) / free
    dy = (sample.reference_y[good] - mean[1][good]) / free
    variance = sample.reference_variance[good] + 1 / own[good]
    if len(good) >= 10:
        excess = float(np.median(np.concatenate([dx**2, dy**2]) / np.tile(variance, 2))) / MEDIAN_CHI2
        factor = float(np.sqrt(max(excess, 1.0)))
    limit = CLIP * np.sqrt(sample.reference_variance[good] * factor**2 + 1 / own[good])
    used[good] = (np.abs(dx) < limit) & (np.abs(dy) < limit)
    return factor, used


def _dense_information(
    sample: Sample, layout: Layout, matrices: Floats, plane: _Plane, weight: Floats, star_weight: Floats
) -> Floats:
    """Information matrix of transforms and coefficients from the data."""
    size = layout.size
    normal, gradient, none = np.zeros((size, size)), np.zeros(size), np.zeros(len(sample))
    many = max(int(BLOCK_BYTES / (16 * size)), 1)
    for first in range(0, sample.n_stars, many):
        last = min(first + many, sample.n_stars)
        block = np.zeros((2 * (last - first), size))
        accumulate(
            sample.edges, first, last, sample.unit, sample.filt, sample.x, sample.y, plane.u, plane.v, weight, none, none,
            star_weight, layout.centre, layout.half, layout.order, layout.terms, matrices, layout.reach,
            *layout.nodes, layout.start, normal, gradient, block,
        )  # fmt: skip
        normal -= block.T @ block
    upper = np.triu(normal, 1)
    return np.asarray(upper + upper.T + np.diag(np.diag(normal)))


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
