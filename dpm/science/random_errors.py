"""Bias and random errors per bin from recovered minus inserted values (paper 1, section 3.2: half-magnitude bins).

Bias is the median, the random error half of the range that holds the middle 68.27 %, so that blends in the tails do not set it; the
tails are counted beside it.  Values that a file rounds (DOLPHOT: 0.01 mag) are taken as spread evenly over their last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import norm

from dpm.models.statistics import MEDIAN_TO_MEAN_ERROR
from dpm.science.table_access import artificial_bands, column_names, column_values, in_magnitudes, out_magnitudes, row_mask

__all__ = ["bias_and_width", "filter_correlation", "motion_errors", "random_errors", "undo_rounding"]

LOW, HIGH = norm.cdf(-1.0), norm.cdf(1.0)
# Error of half the middle 68 % over the standard deviation / sqrt(n), for normal values: from the density of order statistics.
WIDTH_ERROR = float(np.sqrt(LOW * (1.0 - 2.0 * LOW) / 2.0) / norm.pdf(1.0))
TAIL = 3.0  # random errors from the median; 0.13 % of normal values lie beyond it on either side
MIN_STARS = 10  # of a bin
_PRIMES = 2, 3, 5, 7, 11, 13, 17, 19
ZERO_MOTION = "out_pmra", "out_pmdec"


def random_errors(
    table: Any,
    bands: Sequence[str] | None = None,
    passed: Any = "recovered",
    step: float = 0.5,
    color: tuple[str, str] | None = None,
    color_step: float = 0.5,
) -> Table:
    """Bias, random error and tails of measured minus inserted magnitudes in bins of inserted magnitude.

    Parameters
    ----------
    table : table
        Artificial stars.
    bands : sequence of str, optional
        All bands of the table by default.
    passed : str or array_like of bool (n,)
        Stars that count: recovered, and selected where the catalogue is.
    step : float
        Width of the bins, mag.
    color : (str, str), optional
        Bands whose inserted magnitudes' difference makes bins as well.
    color_step : float
        Width of these bins, mag.

    Returns
    -------
    astropy.table.Table
        One row a band and bin with ten stars or more: ``filter, mag_low, mag_high, mag`` (mean), ``n, bias, bias_error,
        random_error, random_error_error, quantile_02, quantile_98`` (2.3 and 97.7 %, of measured minus inserted), ``tail_bright,
        tail_faint`` (shares beyond three random errors from the bias; 0.0013 of normal values); and ``color_low, color_high``.
    """
    passing = row_mask(table, passed)
    rows = []
    for band in bands or artificial_bands(table):
        inserted = in_magnitudes(table, band)
        difference = out_magnitudes(table, band) - inserted
        good = passing & np.isfinite(difference)
        bins = [np.floor(inserted / step)]
        if color:
            bins.append(np.floor((in_magnitudes(table, color[0]) - in_magnitudes(table, color[1])) / color_step))
            good &= np.isfinite(bins[1])
        keys, place = np.unique(np.column_stack(bins)[good], axis=0, return_inverse=True)
        for number, key in enumerate(keys):
            mine = np.flatnonzero(good)[place.ravel() == number]
            if mine.size < MIN_STARS:
                continue
            row = {"filter": band, "mag_low": key[0] * step, "mag_high": (key[0] + 1) * step, "mag": inserted[mine].mean()}
            if color:
                row |= {"color_low": key[1] * color_step, "color_high": (key[1] + 1) * color_step}
            rows.append(row | _statistics(difference[mine], magnitude_resolution(table)))
    return Table(rows=rows)


def _statistics(difference: NDArray[np.float64], resolution: float) -> dict[str, float]:
    values = undo_rounding(difference, resolution)
    bias, width = bias_and_width(values)
    root = np.sqrt(values.size)
    low, high = np.quantile(values, norm.cdf([-2.0, 2.0]))
    return {
        "n": values.size,
        "bias": bias,
        "bias_error": MEDIAN_TO_MEAN_ERROR * width / root,
        "random_error": width,
        "random_error_error": WIDTH_ERROR * width / root,
        "quantile_02": float(low),
        "quantile_98": float(high),
        "tail_bright": float(np.mean(values < bias - TAIL * width)),
        "tail_faint": float(np.mean(values > bias + TAIL * width)),
    }


def motion_errors(
    table: Any, band: str, passed: Any = "recovered", step: float = 0.5, columns: tuple[str, str] = ZERO_MOTION
) -> Table:
    """Consistency of positions between epochs: the motions of artificial stars, less those that they were inserted with.

    It is a lower limit of the astrometric errors (paper 1, section 3.2), since images and their ePSFs agree by construction.

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band of the bins of inserted magnitude.
    passed, step
        See `random_errors`.
    columns : (str, str)
        Measured motions; the inserted ones are ``in_`` for ``out_``, or zero where the table has none.

    Returns
    -------
    astropy.table.Table
        ``mag_low, mag_high, mag, n`` and, a coordinate (the column's name without ``out_``), ``_bias, _bias_error, _random_error,
        _random_error_error`` in the columns' unit.
    """
    inserted = in_magnitudes(table, band)
    motions = {}
    for name in columns:
        what = name.removeprefix("out_")
        put_in = column_values(table, f"in_{what}") if f"in_{what}" in column_names(table) else 0.0
        motions[what] = column_values(table, name) - put_in
    good = row_mask(table, passed) & np.isfinite(inserted) & np.all([np.isfinite(values) for values in motions.values()], axis=0)
    bins = np.floor(inserted / step)
    rows = []
    for key in np.unique(bins[good]):
        mine = good & (bins == key)
        if mine.sum() < MIN_STARS:
            continue
        row: dict[str, Any] = {
            "mag_low": key * step,
            "mag_high": (key + 1) * step,
            "mag": inserted[mine].mean(),
            "n": int(mine.sum()),
        }
        for name, values in motions.items():
            found = _statistics(values[mine], 0.0)
            row |= {f"{name}_{what}": found[what] for what in ("bias", "bias_error", "random_error", "random_error_error")}
        rows.append(row)
    return Table(rows=rows)


def filter_correlation(table: Any, first: str, second: str, passed: Any = "recovered", step: float = 0.5) -> Table:
    """Correlation of two bands' errors in bins of the first band's inserted magnitude: the same neighbours disturb both.

    Parameters
    ----------
    table : table
        Artificial stars.
    first, second : str
        Bands.
    passed, step
        See `random_errors`.

    Returns
    -------
    astropy.table.Table
        ``mag_low, mag_high, mag, n, correlation, correlation_error``, of the middle of the distributions (from the widths of
        sum and difference of the standardised errors).
    """
    inserted = in_magnitudes(table, first)
    resolution = magnitude_resolution(table)
    differences = [
        undo_rounding(out_magnitudes(table, band) - in_magnitudes(table, band), resolution, number)
        for number, band in enumerate((first, second))
    ]
    good = row_mask(table, passed) & np.isfinite(differences[0]) & np.isfinite(differences[1])
    bins = np.floor(inserted / step)
    rows = []
    for key in np.unique(bins[good]):
        mine = good & (bins == key)
        if mine.sum() < MIN_STARS:
            continue
        value = correlation(differences[0][mine], differences[1][mine])
        # Sum and difference of normal values are independent, each with WIDTH_ERROR.
        error = np.sqrt(2.0) * WIDTH_ERROR * (1.0 - value**2) / np.sqrt(mine.sum())
        middle = inserted[mine].mean()
        rows.append((key * step, (key + 1) * step, middle, int(mine.sum()), value, error))
    return Table(rows=rows or None, names=("mag_low", "mag_high", "mag", "n", "correlation", "correlation_error"))


def bias_and_width(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and half of the range that holds the middle 68.27 %."""
    low, middle, high = np.quantile(values, [LOW, 0.5, HIGH])
    return float(middle), float(0.5 * (high - low))


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Correlation from the widths of the sum and the difference of standardised values; zero where one does not vary."""
    widths = [bias_and_width(values)[1] for values in (first, second)]
    if min(widths) == 0.0:
        return 0.0
    total, difference = (bias_and_width(first / widths[0] + sign * second / widths[1])[1] ** 2 for sign in (1.0, -1.0))
    return float((total - difference) / (total + difference))


def magnitude_resolution(table: Any) -> float:
    """Last digit of a table's rounded magnitudes, ``meta["magnitude_resolution"]``; zero where they are not rounded."""
    return float((getattr(table, "meta", None) or {}).get("magnitude_resolution", 0.0))


def undo_rounding(values: NDArray[np.float64], resolution: float, number: int = 0) -> NDArray[np.float64]:
    """Values (n,) rounded to multiples of ``resolution``, spread evenly over the interval that each stands for.

    The spread is a fixed sequence (Weyl's, of an irrational number), another one for each ``number``, so that results repeat.
    """
    if not resolution:
        return values
    sequence = np.arange(1, values.size + 1) * np.sqrt(_PRIMES[number % len(_PRIMES)])
    return np.round(values / resolution) * resolution + resolution * (sequence % 1.0 - 0.5)
