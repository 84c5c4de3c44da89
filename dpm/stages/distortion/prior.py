"""What is known of a distortion without the stars, and how much of it the data themselves tell.

The pixel scale is the same in all exposures of a filter once velocity aberration is taken out; the header's skew is
about right; powers of one order have coefficients of like size; the table is a smooth field.  The sizes are found from
the data, so that what dithers cannot see stays near the header, and its error says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.spatial import cKDTree

from dpm.stages.distortion.terms import Layout, State, TablePrior, coefficient_orders, correlation_at

__all__ = ["PolynomialPrior", "find_table_prior", "learn_spreads", "prior_terms"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Scatter of the pixel scale from exposure to exposure (paper 2, section 4.6: some 5e-6 over twelve hours).
SCALE_SCATTER = 1e-5
# Trust in the header's skew, and in the filters having the same (an assumption: nothing in the data may say).
SKEW_HEADER = 1e-3
SKEW_FILTER = 1e-3
# Prior of coefficients before the data have spoken, and limits of what is found (pixels at the border).
FIRST_SPREAD = 20.0
FIRST_FILTER_SPREAD = 1.0
LEAST_SPREAD = 1e-3
# One round may move shift, scale and rotation by this much (pixels at the border) against the data: ties free gauges.
DAMPING = 10.0
# How firmly (pixels at the border) the mean of all transforms is held without a reference.
ANCHOR = 1e-4
# Pairs of residuals tell the table's prior: bins of their distance (cells), lengths that compete, most residuals, clip.
LAGS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 14.0)
LENGTHS = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 14.0)
MOST_RESIDUALS = 15_000
MOST_NEIGHBORS = 60
# A covariance that stands out of its noise by less than this is none.
SIGNIFICANT = 3.0


@dataclass
class PolynomialPrior:
    """Spread of coefficients by order: of the filters' mean about the start map, and of a filter about the mean."""

    shared: dict[int, float] = field(default_factory=dict)
    by_filter: dict[int, float] = field(default_factory=dict)


def prior_terms(
    layout: Layout, state: State, prior: PolynomialPrior, scale_group: Ints, va_scale: Floats, anchored: bool
) -> tuple[Floats, Floats]:
    """Information matrix of transforms and coefficients without the stars, and its pull at a state.

    Parameters
    ----------
    layout, state
    prior : PolynomialPrior
    scale_group : ndarray (n_units,)
        Units of one number have one pixel scale.
    va_scale : ndarray (n_units,)
        Velocity aberration.
    anchored : bool
        There is a reference.  Without one the mean shift, scale and angle of all units stay as they are, or residuals
        would be made small by shrinking everything.

    Returns
    -------
    precision : ndarray (p, p)
        p: columns before the table.
    pull : ndarray (p,)
        Gradient, towards the prior.
    """
    size = int(layout.start[1])
    precision, pull = np.zeros((size, size)), np.zeros(size)
    n = 4 * layout.n_units
    precision[np.arange(n), np.arange(n)] += 1 / DAMPING**2
    if not anchored:
        for parameter in range(4):
            index = parameter + 4 * np.arange(layout.n_units)
            precision[np.ix_(index, index)] += 1 / (ANCHOR * layout.n_units) ** 2
    scale = np.sqrt(np.abs(np.linalg.det(state.matrices))) / va_scale
    columns = 4 * np.arange(layout.n_units) + 2
    same = scale_group[:, None] == scale_group[None, :]
    matrix = (np.eye(layout.n_units) - same / same.sum(axis=1)[:, None]) / (SCALE_SCATTER * layout.reach) ** 2
    pull[columns] -= matrix @ (np.log(scale / np.median(scale)) * layout.reach)
    precision[np.ix_(columns, columns)] += matrix
    orders, by_order = _coefficient_precision(layout, prior)
    for j in range(layout.terms):
        index = n + np.arange(layout.n_filters) * layout.terms + j
        pull[index] -= by_order[orders[j]] @ state.coefficients[:, j]
        precision[np.ix_(index, index)] += by_order[orders[j]]
    return precision, pull


def _coefficient_precision(layout: Layout, prior: PolynomialPrior) -> tuple[Ints, dict[int, Floats]]:
    """Order of each coefficient, and for each order the information between the filters' values of one coefficient."""
    orders = coefficient_orders(layout.order)
    out = {}
    for order in set(orders.tolist()):
        shared = SKEW_HEADER * layout.half if order == 1 else prior.shared.get(order, FIRST_SPREAD)
        by_filter = SKEW_FILTER * layout.half if order == 1 else prior.by_filter.get(order, FIRST_FILTER_SPREAD)
        if layout.n_filters == 1:
            by_filter = 0.0
        covariance = np.full((layout.n_filters,) * 2, shared**2) + np.eye(layout.n_filters) * by_filter**2
        out[order] = np.asarray(np.linalg.inv(covariance), dtype=float)
    return orders, out


def learn_spreads(layout: Layout, state: State, factor: Floats) -> PolynomialPrior:
    """Spreads of the coefficients from their values and errors, order by order (one step of expectation maximisation).

    Parameters
    ----------
    layout, state
    factor : ndarray (p, p)
        Upper Cholesky factor of the information matrix of transforms and coefficients.
    """
    first = int(layout.start[0])
    size = layout.n_filters * layout.terms
    if not size:
        return PolynomialPrior()
    unit = np.zeros((len(factor), size))
    unit[first + np.arange(size), np.arange(size)] = 1.0
    half = solve_triangular(factor, unit, trans="T", lower=False, check_finite=False)
    covariance = (half.T @ half).reshape(layout.n_filters, layout.terms, layout.n_filters, layout.terms)
    orders = coefficient_orders(layout.order)
    centred = np.eye(layout.n_filters) - 1 / layout.n_filters
    shared, by_filter = {}, {}
    for order in range(2, layout.order + 1):
        mean2, off2 = [], []
        for j in np.flatnonzero(orders == order):
            c, cov = state.coefficients[:, j], covariance[:, j, :, j]
            mean2.append(np.mean(c) ** 2 + np.mean(cov))
            off2.append((np.sum((c - c.mean()) ** 2) + np.trace(centred @ cov)) / max(layout.n_filters - 1, 1))
        shared[order] = float(np.clip(np.sqrt(np.mean(mean2)), LEAST_SPREAD, FIRST_SPREAD))
        by_filter[order] = float(np.clip(np.sqrt(np.mean(off2)), LEAST_SPREAD, FIRST_SPREAD))
    return PolynomialPrior(shared, by_filter)


def find_table_prior(
    layout: Layout, x: Floats, y: Floats, filt: Ints, star: Ints, residual_x: Floats, residual_y: Floats, sigma: Floats
) -> TablePrior | None:
    """Amplitude and correlation length of a smooth field in residuals, from the covariance of pairs of different stars.

    Parameters
    ----------
    layout : Layout
        Of the table.
    x, y, filt, star, residual_x, residual_y : ndarray (n,)
        Residuals and where they were measured.
    sigma : ndarray (n,)
        Errors: weights of the pairs.

    Returns
    -------
    TablePrior or None
        None where there is no covariance beyond noise.
    """
    if len(x) > MOST_RESIDUALS:
        pick = np.random.default_rng(0).choice(len(x), MOST_RESIDUALS, replace=False)
        x, y, filt, star = x[pick], y[pick], filt[pick], star[pick]
        residual_x, residual_y, sigma = residual_x[pick], residual_y[pick], sigma[pick]
    node_x, node_y = layout.nodes
    step_x, step_y = (node_x[-1] - node_x[0]) / len(node_x), (node_y[-1] - node_y[0]) / len(node_y)
    points = np.column_stack([x / step_x, y / step_y])
    i, j = _pairs(points)
    apart = star[i] != star[j]
    i, j = i[apart], j[apart]
    distance = np.hypot(*(points[i] - points[j]).T)
    product = 0.5 * (residual_x[i] * residual_x[j] + residual_y[i] * residual_y[j])
    weight = 1 / (sigma[i] * sigma[j]) ** 2
    own = filt[i] == filt[j]
    within = _covariance(distance[own], product[own], weight[own])
    across = _covariance(distance[~own], product[~own], weight[~own])
    # Middles weighted by area; pairs of negative covariance (a wave has them) are no sign of length.
    middle = np.sqrt(0.5 * (np.array(LAGS[1:]) ** 2 + np.array(LAGS[:-1]) ** 2))
    positive = np.cumprod(within[0] > 0).astype(bool)
    close = within[0][positive], within[1][positive]
    best: tuple[float, float, bool] | None = None
    for smooth in (True, False):
        for length in LENGTHS:
            misfit = _amplitude(correlation_at(middle[positive], length, smooth), *close)[1]
            if best is None or misfit < best[0]:
                best = misfit, length, smooth
    assert best is not None
    _, length, smooth = best
    total, _, error = _amplitude(correlation_at(middle[positive], length, smooth), *close)
    common, _, common_error = _amplitude(correlation_at(middle[positive], length, smooth), across[0][positive], across[1][positive])
    log.debug(
        "table prior: variance %.2e +- %.1e, common to filters %.2e, length %.2f cells, %s", total, error, common, length,
        "Gaussian" if smooth else "Matern 3/2",
    )  # fmt: skip
    if layout.n_filters < 2 or common < SIGNIFICANT * common_error:
        common = 0.0
    if total < SIGNIFICANT * error or total <= 0:
        return None
    common = min(common, total)
    return TablePrior(float(np.sqrt(common)), float(np.sqrt(total - common)), length, smooth)


def _pairs(points: Floats) -> tuple[Ints, Ints]:
    """Pairs of each point with some of its neighbours within the largest lag, near and far alike."""
    rng = np.random.default_rng(1)
    tree = cKDTree(points)
    near = tree.query(points, k=min(MOST_NEIGHBORS, len(points)))[1]
    i = np.repeat(np.arange(len(points)), near.shape[1])
    far_i = np.repeat(np.arange(len(points)), MOST_NEIGHBORS)
    far_j = rng.integers(0, len(points), len(far_i))
    first, second = np.concatenate([i, far_i]), np.concatenate([near.ravel(), far_j])
    keep = (first != second) & (np.hypot(*(points[first] - points[second]).T) < LAGS[-1])
    return first[keep], second[keep]


def _covariance(distance: Floats, product: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted means of products in bins of distance, and the squares of their errors."""
    bins = np.searchsorted(LAGS, distance, side="right") - 1
    n = len(LAGS) - 1
    total = np.bincount(bins, weight, n)[:n]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(bins, weight * product, n)[:n] / total
        scatter = np.bincount(bins, (weight * (product - mean[bins])) ** 2, n)[:n] / total**2
    # A star's many measurements make neighbouring pairs alike: errors are a few times those of independent pairs.
    return np.nan_to_num(mean), np.where(total > 0, 9.0 * scatter + 1e-16, np.inf)


def _amplitude(shape: Floats, mean: Floats, variance: Floats) -> tuple[float, float, float]:
    """Best factor of a shape, the misfit, and the factor's error."""
    information = float(np.sum(shape**2 / variance))
    if information <= 0:
        return 0.0, np.inf, np.inf
    factor = float(np.sum(shape * mean / variance)) / information
    return factor, float(np.sum((mean - factor * shape) ** 2 / variance)), information**-0.5
