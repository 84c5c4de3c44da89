"""Completeness over two magnitudes: shares in cells, since what one band loses the other may keep.

Cells of few stars borrow from those next to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.stats import binom_conf_interval
from numpy.typing import NDArray

from dpm.science.completeness_curve import ONE_SIGMA
from dpm.science.completeness_map import cell_of
from dpm.science.table_access import in_magnitudes, row_mask

__all__ = ["TwoMagnitudeCompleteness", "completeness_of_two_magnitudes"]

MIN_STARS = 20  # of a cell: 10 % at 50 %
MAX_GROWTH = 2  # cells on each side that it may borrow from


@dataclass(frozen=True)
class TwoMagnitudeCompleteness:
    """Completeness in cells of two input magnitudes.

    Parameters
    ----------
    bands : (str, str)
        Of the two axes.
    first_edges, second_edges : ndarray
        Edges of the cells.
    completeness, low, high : ndarray (n_first, n_second)
        Share and its Jeffreys interval; NaN where there are too few artificial stars.
    n_inserted : ndarray (n_first, n_second)
        Artificial stars behind it.
    """

    bands: tuple[str, str]
    first_edges: NDArray[np.float64]
    second_edges: NDArray[np.float64]
    completeness: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_inserted: NDArray[np.float64]

    def __call__(self, first: Any, second: Any) -> NDArray[np.float64]:
        """Completeness at these magnitudes, bilinear between the middles of cells; NaN in cells without stars."""
        first, second = np.broadcast_arrays(np.asarray(first, dtype=float), np.asarray(second, dtype=float))
        i, inside_i = cell_of(first, self.first_edges)
        j, inside_j = cell_of(second, self.second_edges)
        known = inside_i & inside_j & np.isfinite(self.completeness[i, j])
        total, weights = np.zeros(first.shape), np.zeros(first.shape)
        for row, share_row in _neighbors(first, self.first_edges):
            for column, share_column in _neighbors(second, self.second_edges):
                value, weight = self.completeness[row, column], share_row * share_column
                good = np.isfinite(value) & np.isfinite(weight)
                total[good] += (weight * value)[good]
                weights[good] += weight[good]
        return np.where(known & (weights > 0), total / np.where(weights > 0, weights, 1.0), np.nan)


def completeness_of_two_magnitudes(
    table: Any,
    first: str,
    second: str,
    passed: Any = "recovered",
    among: Any = None,
    step: float = 0.5,
    level: float = ONE_SIGMA,
) -> TwoMagnitudeCompleteness:
    """Completeness as a function of the input magnitudes in two bands.

    Parameters
    ----------
    table : table
        Artificial stars; where they lie along a fiducial line only cells along it are known.
    first, second : str
        Bands.
    passed, among : str or array_like of bool (n,)
        See `completeness_in_bins`.
    step : float
        Size of the cells, mag.
    level : float
        Content of the intervals.

    Returns
    -------
    TwoMagnitudeCompleteness
    """
    a, b = in_magnitudes(table, first), in_magnitudes(table, second)
    used = row_mask(table, among) & np.isfinite(a) & np.isfinite(b)
    if not used.any():
        raise ValueError(f"no artificial star has input magnitudes in both {first} and {second}")
    flags = row_mask(table, passed)
    edges = [step * np.arange(np.floor(m[used].min() / step), np.floor(m[used].max() / step) + 2) for m in (a, b)]
    inserted = np.histogram2d(a[used], b[used], edges)[0]
    found = np.histogram2d(a[used & flags], b[used & flags], edges)[0]
    growth = _growth(inserted, MIN_STARS)
    # A cell without a star of its own has nothing to grow from.
    enough = (growth <= MAX_GROWTH) & (inserted > 0)
    inserted, found = _grown(inserted, growth), _grown(found, growth)
    low, high = binom_conf_interval(found, np.maximum(inserted, 1), confidence_level=level, interval="jeffreys")
    share, low, high = (np.where(enough, values, np.nan) for values in (found / np.maximum(inserted, 1), low, high))
    return TwoMagnitudeCompleteness((first, second), edges[0], edges[1], share, low, high, inserted)


def _neighbors(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """The two cells whose middles are next to each value, and their shares."""
    last = edges.size - 2
    place = (values - edges[0]) / (edges[1] - edges[0]) - 0.5
    left = np.floor(np.where(np.isfinite(place), place, 0.0)).astype(int)
    share = place - left
    return [(np.clip(left, 0, last), 1.0 - share), (np.clip(left + 1, 0, last), share)]


def _box_sums(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Sums over squares of 2 reach + 1 cells in the first two axes."""
    rest = [(0, 0)] * (values.ndim - 2)
    total = np.pad(values, [(reach + 1, reach), (reach + 1, reach), *rest]).cumsum(axis=0).cumsum(axis=1)
    width = 2 * reach + 1
    return total[width:, width:] - total[:-width, width:] - total[width:, :-width] + total[:-width, :-width]


def _growth(weights: NDArray[np.float64], minimum: float) -> NDArray[np.int64]:
    """Cells on each side that every cell borrows from to have the minimum; above `MAX_GROWTH` where that is not enough."""
    growth = np.full(weights.shape, MAX_GROWTH + 1)
    for reach in range(MAX_GROWTH, -1, -1):
        growth[_box_sums(weights, reach) >= minimum] = reach
    return growth


def _grown(values: NDArray[np.float64], growth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of each cell and those that it borrows from; zero where they are not enough."""
    out = np.zeros(values.shape)
    for reach in range(MAX_GROWTH + 1):
        out[growth == reach] = _box_sums(values, reach)[growth == reach]
    return out
