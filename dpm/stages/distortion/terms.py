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
    "TableModes",
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
# Modes of a table with less than this part of the largest's variance are left out, and all beyond so many.
LEAST_VARIANCE = 1e-4
MOST_MODES = 1200
# Least amplitude (pixels) of a filter's own part.
LEAST_AMPLITUDE = 3e-4


def table_nodes(low: float, high: float, cells: int = CELLS) -> Floats:
    """Raw positions where the table's values hold, between the centres of the first and the last pixel.

    Cells' middles, but for the first and the last, which hold the value at the very edge (half a pixel beyond a centre).
    """
    step = (high - low + 1) / cells
    nodes = low - 0.5 + step * (np.arange(cells) + 0.5)
    nodes[0], nodes[-1] = low - 0.5, high + 0.5
    return np.asarray(nodes, dtype=float)


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
    amplitudes : ndarray (n_filters, 2, n_modes)
        Of the table's modes; empty without a table.
    matrices : ndarray (n_units, 2, 2)
        Corrected pixels to the master frame: rotation, scale and parity.
    shifts : ndarray (n_units, 2)
        Master position of the detector's centre.
    """

    coefficients: Floats
    table: Floats
    amplitudes: Floats
    matrices: Floats
    shifts: Floats

    def copy(self) -> State:
        return State(self.coefficients.copy(), self.table.copy(), self.amplitudes.copy(), self.matrices.copy(), self.shifts.copy())


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

    def correlation(self, nodes: Floats) -> Floats:
        """Correlation matrix of an axis' nodes."""
        step = (nodes[-1] - nodes[0]) / len(nodes)
        return correlation_at(np.abs(nodes[:, None] - nodes[None, :]) / step, self.length, self.smooth)


class TableModes:
    """A table as a sum of modes with independent amplitudes of unit variance.

    Modes are the eigenvectors of the prior, less what a polynomial of the layout's order can do, so that polynomials and
    table do not compete.  Modes of negligible variance are left out.

    Parameters
    ----------
    prior : TablePrior
    layout : Layout
        With a table.
    """

    def __init__(self, prior: TablePrior, layout: Layout) -> None:
        node_x, node_y = layout.nodes
        x_values, x_vectors = np.linalg.eigh(prior.correlation(node_x))
        y_values, y_vectors = np.linalg.eigh(prior.correlation(node_y))
        variance = np.maximum(y_values, 0.0)[:, None] * np.maximum(x_values, 0.0)[None, :]
        order = np.argsort(-variance, axis=None, kind="stable")[:MOST_MODES]
        self._index = order[variance.flat[order] > LEAST_VARIANCE * variance.max()]
        scale = np.sqrt(variance.flat[self._index])
        self._scale, self._rows, self._columns = scale, y_vectors, x_vectors
        self._polynomial = _polynomial_basis(layout)
        own = max(prior.own, LEAST_AMPLITUDE)
        filters = np.full((layout.n_filters,) * 2, prior.shared**2) + np.eye(layout.n_filters) * own**2
        values, vectors = np.linalg.eigh(filters)
        self.mixing = (vectors * np.sqrt(values)) @ vectors.T
        self._shape = (layout.n_filters, 2, len(node_y), len(node_x))

    @property
    def n_modes(self) -> int:
        return len(self._index)

    def basis(self) -> Floats:
        """All modes on the nodes, (nodes, n_modes)."""
        rows, columns = np.divmod(self._index, self._shape[3])
        out = (self._rows[:, None, rows] * self._columns[None, :, columns]).reshape(-1, self.n_modes)
        out *= self._scale
        out -= self._polynomial @ (self._polynomial.T @ out)
        return np.asarray(out)

    def table(self, amplitudes: Floats) -> Floats:
        """The table (n_filters, 2, cells, cells) of amplitudes (n_filters, 2, n_modes)."""
        mixed = np.einsum("fg,gam->fam", self.mixing, amplitudes)
        whole = np.zeros((*self._shape[:2], self._shape[2] * self._shape[3]))
        whole[:, :, self._index] = mixed * self._scale
        nodes = self._rows @ whole.reshape(self._shape) @ self._columns.T
        flat = nodes.reshape(-1, self._shape[2] * self._shape[3])
        return np.ascontiguousarray((flat - (flat @ self._polynomial) @ self._polynomial.T).reshape(self._shape))

    def amplitudes_gradient(self, gradient: Floats) -> Floats:
        """The gradient by amplitudes of one by the table's nodes."""
        flat = gradient.reshape(-1, self._shape[2] * self._shape[3])
        nodes = (flat - (flat @ self._polynomial) @ self._polynomial.T).reshape(self._shape)
        whole = (self._rows.T @ nodes @ self._columns).reshape(*self._shape[:2], -1)
        return np.asarray(np.einsum("fg,fam->gam", self.mixing, whole[:, :, self._index] * self._scale))


def _polynomial_basis(layout: Layout) -> Floats:
    """Orthonormal polynomials of the layout's order on the table's nodes, (nodes, terms)."""
    x, y = np.meshgrid(*layout.nodes)
    s, t = ((axis.ravel() - axis.mean()) / (0.5 * np.ptp(axis)) for axis in (x, y))
    order = max(layout.order, 1)
    powers = np.stack([s**i * t**j for i in range(order + 1) for j in range(order + 1 - i)], -1)
    return np.asarray(np.linalg.qr(powers)[0])


def correlation_at(distance: Floats, length: float, smooth: bool) -> Floats:
    """Correlation at a distance in the unit of `length`: Gaussian where smooth, else Matern 3/2."""
    if smooth:
        return np.asarray(np.exp(-0.5 * (np.asarray(distance) / length) ** 2))
    scaled = np.sqrt(3.0) * np.asarray(distance) / length
    return np.asarray((1 + scaled) * np.exp(-scaled))
