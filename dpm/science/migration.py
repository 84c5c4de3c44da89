"""Input/output corrections: the shift ("migration") of the faintest magnitudes (paper 1, section 3.2; Bedin et al. 2009).

A star of a given MEASURED magnitude may have been any of several true ones, the more numerous the likelier: so corrections hold
for stars distributed over magnitudes as the artificial ones were, or as ``weights`` say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.models.statistics import MEDIAN_TO_MEAN_ERROR
from dpm.science.random_errors import HIGH, LOW, magnitude_resolution, undo_rounding
from dpm.science.table_access import column_values, in_magnitudes, out_magnitudes, row_mask

__all__ = ["MigrationMatrix", "correct_magnitudes", "migration_correction", "migration_matrix"]

MIN_STARS = 30  # of a bin of the correction: its median is good to a quarter of the random error


def migration_correction(table: Any, band: str, passed: Any = "recovered", step: float = 0.25, weights: Any = None) -> Table:
    """What is to be added to measured magnitudes to make their median the true one.

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band.
    passed : str or array_like of bool (n,)
        Stars that would be in the catalogue.
    step : float
        Width of the bins of MEASURED magnitude, all within the range of inserted ones (beyond it stars are there from one side
        only); bins of fewer than 30 stars join the next brighter one.
    weights : array_like (n,), optional
        Expected number of real stars over that of artificial ones at each star's inserted magnitudes; 1 by default.

    Returns
    -------
    astropy.table.Table
        ``mag_low, mag_high, mag`` (mean measured), ``n, correction, correction_error``.

    Raises
    ------
    ValueError
        If fewer than 30 stars passed.
    """
    inserted, measured = in_magnitudes(table, band), out_magnitudes(table, band)
    share = np.ones(inserted.size) if weights is None else np.asarray(weights, dtype=float)
    good = row_mask(table, passed) & np.isfinite(measured - inserted) & (share > 0)
    _enough(band, good)
    ends = np.ceil(inserted[good].min() / step), np.floor(inserted[good].max() / step)
    number = np.floor(measured / step)
    good &= (number >= ends[0]) & (number < ends[1])
    _enough(band, good)
    inserted, measured, share, number = inserted[good], measured[good], share[good], number[good]
    bins: list[tuple[float, float, NDArray[np.intp]]] = []
    # From the faint end, where the correction is large: leftovers go to the bright one.
    waiting = np.zeros(0, dtype=np.intp)
    high = 0.0
    for key in np.unique(number)[::-1]:
        high = high if waiting.size else (key + 1) * step
        waiting = np.concatenate([waiting, np.flatnonzero(number == key)])
        if waiting.size >= MIN_STARS:
            bins.append((key * step, high, waiting))
            waiting = np.zeros(0, dtype=np.intp)
    if waiting.size:
        bins[-1] = (float(number.min()) * step, bins[-1][1], np.concatenate([bins[-1][2], waiting]))
    shift = undo_rounding(inserted - measured, magnitude_resolution(table))
    rows = []
    for low, high, mine in reversed(bins):
        low_quantile, middle, high_quantile = _weighted_quantiles(shift[mine], share[mine])
        effective = share[mine].sum() ** 2 / np.sum(share[mine] ** 2)
        error = MEDIAN_TO_MEAN_ERROR * 0.5 * (high_quantile - low_quantile) / np.sqrt(effective)
        rows.append((low, high, np.average(measured[mine], weights=share[mine]), mine.size, middle, error))
    names = ("mag_low", "mag_high", "mag", "n", "correction", "correction_error")
    return Table(rows=rows, names=names, meta={"band": band})


def correct_magnitudes(magnitudes: Any, correction: Any) -> NDArray[np.float64]:
    """Measured magnitudes brought in line with true ones.

    Parameters
    ----------
    magnitudes : array_like (n,)
        Measured magnitudes of a catalogue.
    correction : table
        From `migration_correction`: linear between the bins' magnitudes.

    Returns
    -------
    ndarray (n,)
        NaN for magnitudes outside the bins.
    """
    measured = np.asarray(getattr(magnitudes, "value", magnitudes), dtype=float)
    shift = np.interp(measured, column_values(correction, "mag"), column_values(correction, "correction"))
    known = (measured >= column_values(correction, "mag_low").min()) & (measured <= column_values(correction, "mag_high").max())
    return np.where(known, measured + shift, np.nan)


@dataclass(frozen=True)
class MigrationMatrix:
    """Where stars of each bin of true magnitude end up.

    Parameters
    ----------
    band : str
        Band.
    edges : ndarray (k + 1,)
        Of the bins, of inserted and of measured magnitudes.
    counts : ndarray (k, k)
        Artificial stars inserted in bin i and measured in bin j.
    outside : ndarray (k,)
        Measured, but outside all bins.
    inserted : ndarray (k,)
        Inserted stars.
    """

    band: str
    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    outside: NDArray[np.float64]
    inserted: NDArray[np.float64]

    @property
    def probability(self) -> NDArray[np.float64]:
        """Probability (k, k) that a star of true bin i is measured in bin j; NaN in bins in which none was inserted."""
        with np.errstate(invalid="ignore"):
            return self.counts / np.where(self.inserted > 0, self.inserted, np.nan)[:, None]

    @property
    def lost(self) -> NDArray[np.float64]:
        """Share (k,) of each true bin that is not measured at all."""
        with np.errstate(invalid="ignore"):
            return 1.0 - (self.counts.sum(axis=1) + self.outside) / np.where(self.inserted > 0, self.inserted, np.nan)

    def observe(self, true_counts: Any) -> NDArray[np.float64]:
        """Numbers of stars expected in each bin of measured magnitude, given those in each true bin (k,)."""
        counts = np.asarray(true_counts, dtype=float)
        if counts.shape != self.inserted.shape:
            raise ValueError(f"one number for each of {self.inserted.size} bins is needed, not {counts.shape}")
        if np.any((counts > 0) & (self.inserted == 0)):
            raise ValueError("there are true stars in bins without artificial stars")
        return np.nan_to_num(self.probability).T @ counts


def migration_matrix(table: Any, band: str, edges: Any, passed: Any = "recovered", among: Any = None) -> MigrationMatrix:
    """Count artificial stars by inserted and measured magnitude.

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band.
    edges : array_like (k + 1,)
        Edges of the bins.
    passed, among : str or array_like of bool (n,)
        See `completeness_in_bins`.

    Returns
    -------
    MigrationMatrix
    """
    edges = np.asarray(edges, dtype=float)
    inserted, measured = in_magnitudes(table, band), out_magnitudes(table, band)
    counted = row_mask(table, among) & (inserted >= edges[0]) & (inserted <= edges[-1])
    passing = row_mask(table, passed) & counted & np.isfinite(measured)
    counts = np.histogram2d(inserted[passing], measured[passing], [edges, edges])[0]
    n_passed = np.histogram(inserted[passing], edges)[0]
    return MigrationMatrix(
        band, edges, counts, n_passed - counts.sum(axis=1), np.histogram(inserted[counted], edges)[0].astype(float)
    )


def _enough(band: str, good: NDArray[np.bool_]) -> None:
    if good.sum() < MIN_STARS:
        raise ValueError(f"{band}: {int(good.sum())} artificial stars passed; a correction needs {MIN_STARS}")


def _weighted_quantiles(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 16 %, 50 % and 84 % quantiles."""
    order = np.argsort(values, kind="stable")
    places = np.cumsum(weights[order]) - 0.5 * weights[order]
    return np.interp([LOW, 0.5, HIGH], places / weights.sum(), values[order])
