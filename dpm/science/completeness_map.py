"""Completeness over the field, for every star of a catalogue.

Over the field: c(magnitude, place) = A(place) F(magnitude - depth(place)).  `depth` is how much fainter the limit of a cell is
(noise, sky) and A, its plateau, the share that crowding and bright neighbours leave there of stars far above the limit; both
are estimated by maximum likelihood from all the cell's artificial stars.  F, the curve of a typical place but for its plateau,
is fitted to all stars at their distance from their cells' limits; a lost star counts there for the probability that it was not
A that lost it (expectation and maximisation).  How much cells differ is estimated from the cells themselves (empirical Bayes):
a cell with few stars keeps near the typical curve and one with many goes its own way, so that the map is as smooth as the
counts want it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import chi2

from dpm.science.completeness_curve import CompletenessCurve, fit_curve
from dpm.science.table_access import column_values, in_magnitudes, row_mask

__all__ = ["CompletenessMap", "fit_completeness_map"]

MAGNITUDE_STEP = 0.05  # magnitudes that agree to this are one term of a cell's likelihood
FIRST_SPREAD = (0.3, 0.5)  # of depth (mag) and plateau (logit) over the cells, before they are estimated
LEAST_SPREAD = 1e-3
MAX_LOGIT = 9.0  # of a plateau: one lost star in eight thousand
FIRST_PLATEAU = 7.0  # where none is lost at the bright end
CURVE_ROUNDS, SPREAD_ROUNDS, NEWTON_STEPS = 4, 10, 6  # of the curve at a typical place; of the spreads; of each cell
LONGEST_STEP = (0.3, 1.0)  # of one Newton step in depth and plateau
GROUPS_PER_CELL, MIN_EXPECTED = 6, 5.0  # of the goodness of fit, in magnitude; chi-square needs five expected of either kind


@dataclass(frozen=True)
class CompletenessMap:
    """Completeness as a function of magnitude and place.

    Parameters
    ----------
    curve : CompletenessCurve
        F, at a typical place and over the plateau: steeper than the curve of the whole field where depth varies.
    x_edges, y_edges : ndarray (nx + 1,), (ny + 1,)
        Of the cells, in the unit of the positions.
    depth : ndarray (ny, nx)
        Magnitudes by which the limit is fainter than at a typical place; NaN in cells without artificial stars.
    plateau_logit : ndarray (ny, nx)
        Logit of A, the share recovered of stars far above the limit.
    covariance : ndarray (ny, nx, 2, 2)
        Of depth and plateau_logit.
    spread : (float, float)
        Standard deviations of depth (mag) and plateau_logit over the cells; next to nothing where the field is uniform.
    n_inserted : ndarray (ny, nx)
        Artificial stars in each cell.
    chi2, dof, p_value : float, int, float
        Goodness of fit of the map over cells and six groups in magnitude.
    """

    curve: CompletenessCurve
    x_edges: NDArray[np.float64]
    y_edges: NDArray[np.float64]
    depth: NDArray[np.float64]
    plateau_logit: NDArray[np.float64]
    covariance: NDArray[np.float64]
    spread: tuple[float, float]
    n_inserted: NDArray[np.float64]
    chi2: float
    dof: int
    p_value: float

    def __call__(self, magnitude: Any, x: Any, y: Any) -> NDArray[np.float64]:
        """Completeness at these magnitudes and places; NaN where no artificial star tells."""
        return expit(self._logit(magnitude, x, y)[0])

    @property
    def plateau(self) -> NDArray[np.float64]:
        """A (ny, nx): completeness of stars far above the limit."""
        return expit(self.plateau_logit)

    def error(self, magnitude: Any, x: Any, y: Any) -> NDArray[np.float64]:
        """One-sigma error: of the curve and of the cell."""
        value, error = self._logit(magnitude, x, y)
        return expit(value) * expit(-value) * error

    def _logit(self, magnitude: Any, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mag, x, y = np.broadcast_arrays(*(np.asarray(values, dtype=float) for values in (magnitude, x, y)))
        column, inside_x = cell_of(x, self.x_edges)
        row, inside_y = cell_of(y, self.y_edges)
        known = inside_x & inside_y & (mag >= self.curve.brightest) & (mag <= self.curve.faintest)
        known &= self.n_inserted[row, column] > 0
        mag, row, column = mag[known], row[known], column[known]
        shape = _Shape.of(self.curve)
        cells = np.stack([self.depth[row, column], self.plateau_logit[row, column]], axis=-1)
        completeness, gradient = shape.in_cells(mag, cells)
        variance = np.einsum("np,npq,nq->n", gradient, self.covariance[row, column], gradient)
        variance /= (completeness * (1.0 - completeness)) ** 2
        # An error of F's logit is one of c's by (1 - F) / (1 - c).
        typical = expit(shape(mag - cells[:, 0])[0])
        variance += (shape.error(mag - cells[:, 0]) * (1.0 - typical) / (1.0 - completeness)) ** 2
        value, error = np.full(known.shape, np.nan), np.full(known.shape, np.nan)
        value[known], error[known] = logit(completeness), np.sqrt(variance)
        return value, error


def fit_completeness_map(
    table: Any,
    band: str,
    passed: Any = "recovered",
    among: Any = None,
    magnitudes: tuple[float, float] | None = None,
    cells: int = 16,
    position: tuple[str, str] = ("in_x", "in_y"),
) -> CompletenessMap:
    """Fit how completeness varies over the field.

    Parameters
    ----------
    table : table
        Artificial stars.
    band, passed, among, magnitudes
        See `fit_completeness`.
    cells : int
        Cells along the longer side; they are nearly square.
    position : (str, str)
        Columns of the inserted positions, on a plane.

    Returns
    -------
    CompletenessMap

    Raises
    ------
    ValueError
        If too few stars passed or were lost for a curve.
    """
    magnitude = in_magnitudes(table, band)
    x, y = (column_values(table, name) for name in position)
    used = row_mask(table, among) & np.isfinite(magnitude) & np.isfinite(x) & np.isfinite(y)
    if magnitudes is not None:
        used &= (magnitude >= magnitudes[0]) & (magnitude <= magnitudes[1])
    flags = row_mask(table, passed)[used]
    magnitude, x, y = magnitude[used], x[used], y[used]
    x_edges, y_edges = _square_cells(x, y, cells)
    shape = y_edges.size - 1, x_edges.size - 1
    cell = np.ravel_multi_index((cell_of(y, y_edges)[0], cell_of(x, x_edges)[0]), shape)
    steps, level = np.unique(np.round(magnitude / MAGNITUDE_STEP), return_inverse=True)
    levels = steps * MAGNITUDE_STEP
    place = cell * levels.size + level
    size = shape[0] * shape[1] * levels.size
    inserted = np.bincount(place, minlength=size).reshape(-1, levels.size).astype(float)
    found = np.bincount(place, flags.astype(float), size).reshape(-1, levels.size).astype(float)
    ends = magnitude.min(), magnitude.max()
    curve = fit_curve(band, magnitude, flags)
    shape_of = _Shape.of(curve)
    share = expit(shape_of(magnitude)[0])
    bright = float(np.clip(shape_of.value[0], -MAX_LOGIT, FIRST_PLATEAU))
    values = np.tile([0.0, bright], (inserted.shape[0], 1))
    plateau = np.full(magnitude.size, expit(bright))
    spread, depth_error = np.array(FIRST_SPREAD), np.zeros(inserted.shape[0])
    # Stars are put at draws of their cells' depths: at the best values, which follow the stars' own noise, F would be too steep.
    draws = np.random.default_rng(0).standard_normal(magnitude.size)
    for _ in range(CURVE_ROUNDS):
        weights = (plateau - np.minimum(share, plateau)) / (1.0 - share)
        below = magnitude - values[cell, 0] - depth_error[cell] * draws
        curve = fit_curve(band, below, flags, ends, weights=weights)
        shape_of = _Shape.of(curve)
        values, covariance, spread, freedom = _fit_cells(shape_of, levels, inserted, found, values, spread)
        depth_error = np.sqrt(covariance[:, 0, 0])
        share = shape_of.in_cells(magnitude, values[cell])[0]
        # What F itself falls short of 1 at the bright end belongs to the plateau.
        plateau = expit(values[cell, 1]) * expit(shape_of.value[0])
    expected = inserted * shape_of.in_cells(levels, values[:, None, :])[0]
    statistic, dof = _goodness(inserted, found, expected, freedom)
    n_inserted = inserted.sum(axis=1).reshape(shape)
    values[n_inserted.ravel() == 0] = np.nan
    return CompletenessMap(
        curve=curve,
        x_edges=x_edges,
        y_edges=y_edges,
        depth=values[:, 0].reshape(shape),
        plateau_logit=values[:, 1].reshape(shape),
        covariance=covariance.reshape(*shape, 2, 2),
        spread=(float(spread[0]), float(spread[1])),
        n_inserted=n_inserted,
        chi2=statistic,
        dof=dof,
        p_value=float(chi2.sf(statistic, dof)) if dof else np.nan,
    )


@dataclass(frozen=True)
class _Shape:
    """Logit of a curve with its slope and error, tabulated; straight on beyond its ends."""

    magnitude: NDArray[np.float64]
    value: NDArray[np.float64]
    slope: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, curve: CompletenessCurve) -> _Shape:
        grid = np.linspace(curve.brightest, curve.faintest, 500)
        value, spread = curve.logit(grid)
        return cls(grid, value, np.gradient(value, grid), spread)

    def __call__(self, magnitude: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logit and its slope."""
        slope = np.interp(magnitude, self.magnitude, self.slope)
        beyond = magnitude - np.clip(magnitude, self.magnitude[0], self.magnitude[-1])
        return np.interp(magnitude, self.magnitude, self.value) + slope * beyond, slope

    def in_cells(
        self, magnitude: NDArray[np.float64], cells: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Completeness (...) at these magnitudes (...) in cells of this depth and plateau (..., 2), and its derivatives by them."""
        value, slope = self(magnitude - cells[..., 0])
        typical, plateau = expit(value), expit(cells[..., 1])
        completeness = np.clip(plateau * typical, 1e-12, 1.0 - 1e-9)
        by_depth = -completeness * slope * (1.0 - typical)
        return completeness, np.stack([by_depth, completeness * (1.0 - plateau)], axis=-1)

    def error(self, magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(magnitude, self.magnitude, self.spread)


def _fit_cells(
    shape: _Shape,
    levels: NDArray[np.float64],
    inserted: NDArray[np.float64],
    found: NDArray[np.float64],
    values: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Depth and plateau of every cell (cells, 2), their covariances, spreads over the cells, effective number in each."""
    occupied = inserted.sum(axis=1) > 0
    for _ in range(SPREAD_ROUNDS):
        prior = np.diag(spread**-2.0)
        middle = values[occupied].mean(axis=0)
        for _ in range(NEWTON_STEPS):
            share, gradient = shape.in_cells(levels, values[:, None, :])
            variance = share * (1.0 - share)
            score = np.einsum("cl,clp->cp", (found - inserted * share) / variance, gradient) - (values - middle) @ prior
            information = np.einsum("cl,clp,clq->cpq", inserted / variance, gradient, gradient)
            step = np.linalg.solve(information + prior, score[..., None])[..., 0]
            values = values + np.clip(step, -np.array(LONGEST_STEP), LONGEST_STEP)
            values[:, 1] = np.clip(values[:, 1], -MAX_LOGIT, MAX_LOGIT)
        covariance = np.linalg.inv(information + prior)
        scatter = (values - middle)[occupied] ** 2 + np.diagonal(covariance, axis1=1, axis2=2)[occupied]
        spread = np.maximum(np.sqrt(scatter.mean(axis=0)), LEAST_SPREAD)
    freedom = np.trace(covariance @ information, axis1=1, axis2=2)
    return values, covariance, spread, freedom


def _goodness(
    inserted: NDArray[np.float64], found: NDArray[np.float64], expected: NDArray[np.float64], freedom: NDArray[np.float64]
) -> tuple[float, int]:
    """Pearson's chi-square over cells and groups of magnitudes with enough stars, and its degrees of freedom.

    Of each cell's effective parameters ``freedom`` (cells,) the groups take their share of the cell's information.
    """
    edges = np.unique(np.linspace(0, inserted.shape[1], GROUPS_PER_CELL + 1).astype(int)[:-1])
    variance = np.add.reduceat(expected * (1.0 - expected / np.maximum(inserted, 1e-300)), edges, axis=1)
    inserted, found, expected = (np.add.reduceat(counts, edges, axis=1) for counts in (inserted, found, expected))
    enough = np.minimum(expected, inserted - expected) >= MIN_EXPECTED
    share = np.sum(variance * enough, axis=1) / np.maximum(variance.sum(axis=1), 1e-300)
    statistic = float(np.sum((found - expected)[enough] ** 2 / variance[enough]))
    return statistic, max(round(float(enough.sum() - freedom @ share)), 0)


def _square_cells(x: NDArray[np.float64], y: NDArray[np.float64], cells: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of nearly square cells that hold all positions, this many along the longer side."""
    longest = max(np.ptp(x), np.ptp(y)) or 1.0
    numbers = [max(1, round(float(cells * np.ptp(values) / longest))) for values in (x, y)]
    x_edges, y_edges = (np.linspace(values.min(), values.max(), n + 1) for values, n in zip((x, y), numbers))
    return x_edges, y_edges


def cell_of(values: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Cell of each value, the last one closed, and which values lie in one at all."""
    inside = (values >= edges[0]) & (values <= edges[-1])
    place = np.searchsorted(edges, np.where(inside, values, edges[0]), side="right") - 1
    return np.clip(place, 0, edges.size - 2), inside
