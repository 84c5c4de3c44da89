"""The linear system of one round of the joint solution: operator, preconditioner, solution, and draws of its errors."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from dpm.kernels.distortion import accumulate, accumulate_gradient, table_weights
from dpm.stages.distortion.prior import PolynomialPrior, prior_terms
from dpm.stages.distortion.sample import Plane, Sample, sums
from dpm.stages.distortion.terms import Layout, State, TableModes, evaluate

__all__ = ["System"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Factor = tuple[NDArray[Any], bool]

# Working memory of one block of stars, bytes.
BLOCK_BYTES = 6.4e7
# Conjugate gradients: most steps, and the part of the first residual (in the preconditioner's norm) that ends them.
MOST_STEPS = 200
DRAW_TOLERANCE = 1e-2


class System:
    """The linear system of one round: information matrix as an operator, its preconditioner, and draws from its inverse.

    Vectors hold transforms and coefficients (as in the layout), then the amplitudes of the table's modes.
    """

    def __init__(
        self,
        sample: Sample,
        layout: Layout,
        state: State,
        plane: Plane,
        weight: Floats,
        star_weight: Floats,
        prior: PolynomialPrior,
        modes: TableModes | None,
        before: System | None,
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
            total = sums(sample, self.weight * moved) + reference * rng.normal(size=sample.n_stars)
            residual.append(moved - (total / self.star_weight)[sample.star])
        right = self.gradient((residual[0], residual[1]))
        right[: self.first] += root_precision @ rng.normal(size=self.first)
        right[self.first :] += rng.normal(size=self.n_amplitudes)
        return self.solve(right, DRAW_TOLERANCE)


def _dense_information(
    sample: Sample, layout: Layout, matrices: Floats, plane: Plane, weight: Floats, star_weight: Floats
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
