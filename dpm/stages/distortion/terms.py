"""What a distortion solution is made of: polynomials about the detector's centre, a table of cells, their priors.

Displacements are in raw pixels and are added to a start map (the header's).  The polynomial has no constant, scale or
rotation at the centre (the gauge of DESIGN section 4): two terms of skew, then every power of order two and more.  The
table follows paper 2, section 4.2: cells next to the border hold the value at the very border, bilinear in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.kernels.distortion import displacement, n_terms

__all__ = [
    "Layout",
    "State",
    "TableFactors",
    "TablePrior",
    "coefficient_orders",
    "correlation_at",
    "evaluate",
    "table_nodes",
    "with_order",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Cells of the table on a side.  Paper 2 (section 4.2) has 32; bilinear between so few leaves a twentieth of a wave of five
# cells, which twice as many take to a hundredth, while the prior, not the cells, decides what is noise.
CELLS = 64
# White part of the table's prior on an axis, relative to its variance: keeps the kernel's inverse accurate.
NUGGET = 1e-3
# Least amplitude (pixels) of a filter's own part.
LEAST_AMPLITUDE = 3e-4


def table_nodes(low: float, high: float, cells: int = CELLS) -> Floats:
    """Raw positions where the table's values hold, between the centres of the first and the last pixel.

    Cells' middles, but for the first and the last, which hold the value at the very edge (half a pixel beyond a centre).
    """
    step = (high - low + 1) / cells
    nodes = low - 0.5 + step * (np.arange(cells) + 0.5)
    nodes[0], nodes[-1] = low - 0.5, high + 0.5
    return nodes


@dataclass(frozen=True)
class Layout:
    """What is solved for.

    Parameters
    ----------
    n_units, n_filters, order : int
        Sizes; order 0 has no polynomial.
    bounds : tuple of float
        Raw x_min, x_max, y_min, y_max of the detector's used part.
    cells : int
        Table cells a side; 0 for no table.
    reach : float
        Half size on the master frame, by which scale and rotation are measured.
    """

    n_units: int
    n_filters: int
    order: int
    bounds: tuple[float, float, float, float]
    cells: int
    reach: float

    @property
    def centre(self) -> Floats:
        x_low, x_high, y_low, y_high = self.bounds
        return np.array([0.5 * (x_low + x_high), 0.5 * (y_low + y_high)])

    @property
    def half(self) -> float:
        x_low, x_high, y_low, y_high = self.bounds
        return 0.5 * max(x_high - x_low, y_high - y_low)

    @property
    def terms(self) -> int:
        return n_terms(self.order)

    @property
    def nodes(self) -> tuple[Floats, Floats]:
        if not self.cells:
            return np.zeros(1), np.zeros(1)
        return table_nodes(*self.bounds[:2], self.cells), table_nodes(*self.bounds[2:], self.cells)

    @property
    def start(self) -> Ints:
        first = 4 * self.n_units
        return np.array([first, first + self.n_filters * self.terms])

    @property
    def size(self) -> int:
        return int(self.start[1]) + 2 * self.n_filters * self.cells**2


@dataclass
class State:
    """Values of everything that is solved for.

    Parameters
    ----------
    coefficients : ndarray (n_filters, terms)
        Pixels at the border.
    table : ndarray (n_filters, 2, cells, cells)
        Pixels; x and y, [y, x].
    matrices : ndarray (n_units, 2, 2)
        Corrected pixels to the master frame: rotation, scale and parity.
    shifts : ndarray (n_units, 2)
        Master position of the detector's centre.
    """

    coefficients: Floats
    table: Floats
    matrices: Floats
    shifts: Floats

    def copy(self) -> State:
        return State(self.coefficients.copy(), self.table.copy(), self.matrices.copy(), self.shifts.copy())


def coefficient_orders(order: int) -> Ints:
    """Order of each coefficient of a filter: 1 for the two of skew."""
    if order < 1:
        return np.zeros(0, dtype=np.int64)
    powers = np.concatenate([np.full(total + 1, total) for total in range(2, order + 1)] or [np.zeros(0, np.int64)])
    return np.concatenate([[1, 1], powers, powers]).astype(np.int64)


def with_order(coefficients: Floats, order: int, new: int) -> Floats:
    """Coefficients of another order: higher terms cut off, or zero."""
    out = np.zeros((len(coefficients), n_terms(new)))
    if order < 1 or new < 1:
        return out
    many, wanted = (n_terms(order) - 2) // 2, (n_terms(new) - 2) // 2
    common = min(many, wanted)
    out[:, :2] = coefficients[:, :2]
    out[:, 2 : 2 + common] = coefficients[:, 2 : 2 + common]
    out[:, 2 + wanted : 2 + wanted + common] = coefficients[:, 2 + many : 2 + many + common]
    return out


def evaluate(layout: Layout, state: State, x: Floats, y: Floats, filt: Ints | int) -> tuple[Floats, Floats]:
    """Displacement at raw positions, in pixels; of the shape of `x`."""
    flat_x, flat_y = np.ravel(np.asarray(x, dtype=float)), np.ravel(np.asarray(y, dtype=float))
    which = np.full(len(flat_x), filt, dtype=np.int64) if np.ndim(filt) == 0 else np.asarray(filt, dtype=np.int64).ravel()
    dx, dy = np.empty_like(flat_x), np.empty_like(flat_y)
    node_x, node_y = layout.nodes
    table = state.table if layout.cells else np.zeros((layout.n_filters, 2, 1, 1))
    displacement(
        flat_x, flat_y, which, layout.centre, layout.half, layout.order, layout.terms, state.coefficients, node_x, node_y,
        table, dx, dy,
    )  # fmt: skip
    return dx.reshape(np.shape(x)), dy.reshape(np.shape(y))


@dataclass(frozen=True)
class TablePrior:
    """A Gaussian field as the table's prior: smooth, of limited amplitude, partly common to the filters.

    Its covariance is a Kronecker product of filters, rows and columns, so that nothing of the table's size is ever
    inverted.

    Parameters
    ----------
    shared, own : float
        Standard deviation (pixels) of what all filters have in common, and of each filter's own part.
    length : float
        Correlation length in cells.
    smooth : bool
        A Gaussian correlation, else Matern 3/2.
    """

    shared: float
    own: float
    length: float
    smooth: bool = True

    def factors(self, layout: Layout) -> TableFactors:
        """Eigenvectors and eigenvalues of the covariance of a layout's table."""
        node_x, node_y = layout.nodes
        filters = np.full((layout.n_filters,) * 2, self.shared**2) + np.eye(layout.n_filters) * max(self.own, LEAST_AMPLITUDE) ** 2
        parts = [np.linalg.eigh(matrix) for matrix in (filters, self._correlation(node_y), self._correlation(node_x))]
        values = parts[0][0][:, None, None, None] * parts[1][0][None, None, :, None] * parts[2][0][None, None, None, :]
        return TableFactors(parts[0][1], parts[1][1], parts[2][1], values)

    def _correlation(self, nodes: Floats) -> Floats:
        """Correlation matrix of an axis' nodes, with a nugget."""
        step = (nodes[-1] - nodes[0]) / len(nodes)
        distance = np.abs(nodes[:, None] - nodes[None, :]) / step
        return correlation_at(distance, self.length, self.smooth) + NUGGET * np.eye(len(nodes))


@dataclass(frozen=True)
class TableFactors:
    """Eigenvectors by filter, row and column, and eigenvalues (n_filters, 1, cells, cells) of a table's covariance."""

    filters: Floats
    rows: Floats
    columns: Floats
    values: Floats

    def to_modes(self, table: Floats) -> Floats:
        """A table (n_filters, 2, cells, cells) as amplitudes of eigenvectors."""
        return np.asarray(np.einsum("fg,faij->gaij", self.filters, self.rows.T @ table @ self.columns, optimize=True))

    def from_modes(self, modes: Floats) -> Floats:
        """The table of amplitudes."""
        return np.asarray(np.einsum("fg,gaij->faij", self.filters, self.rows @ modes @ self.columns.T, optimize=True))


def correlation_at(distance: Floats, length: float, smooth: bool) -> Floats:
    """Correlation at a distance in the unit of `length`: Gaussian where smooth, else Matern 3/2."""
    if smooth:
        return np.asarray(np.exp(-0.5 * (np.asarray(distance) / length) ** 2))
    scaled = np.sqrt(3.0) * np.asarray(distance) / length
    return np.asarray((1 + scaled) * np.exp(-scaled))
