"""Cuts in quality at each magnitude that keep a stated share of well-recovered artificial stars (paper 1, section 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.science.random_errors import bias_and_width, magnitude_resolution, undo_rounding
from dpm.science.selections import Selection
from dpm.science.table_access import artificial_bands, in_magnitudes, measured_values, out_magnitudes, row_mask

__all__ = ["quality_cut", "well_recovered"]

BIN_WIDTH = 0.5  # mag, of the bins behind quality cuts
STARS_OUTSIDE = 5.0  # artificial stars beyond a cut in each bin: fewer do not tell where it lies
REFINEMENTS = 4  # of a cut's line, so that every bin keeps its share although the line bends
WELL_RECOVERED = 3.0  # random errors within which a star counts as well recovered


def well_recovered(table: Any, *bands: str, passed: Any = "recovered") -> NDArray[np.bool_]:
    """Artificial stars measured within three random errors of the bias at their magnitude in each of these bands.

    Parameters
    ----------
    table : table
        Artificial stars.
    *bands : str
        Bands; all of the table by default.
    passed : str or array_like of bool (n,)
        Stars that count.

    Returns
    -------
    ndarray (n,) of bool
    """
    good = row_mask(table, passed).copy()
    resolution = magnitude_resolution(table)
    for band in bands or artificial_bands(table):
        measured = out_magnitudes(table, band)
        difference = undo_rounding(measured - in_magnitudes(table, band), resolution)
        good &= np.isfinite(difference)
        for mine in _bins(measured, good, 100):
            bias, width = bias_and_width(difference[mine])
            good[mine] &= np.abs(difference[mine] - bias) <= WELL_RECOVERED * width
    return good


def quality_cut(
    table: Any,
    band: str,
    quantity: str,
    keep: float = 0.99,
    side: str = "below",
    among: Any = None,
    name: str | None = None,
) -> list[Selection]:
    """A cut at each magnitude that keeps a stated share of the well-recovered artificial stars.

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band.
    quantity : str
        ``sky_rms``, ``radxs``, ``qfit``, ``mag_error``, ``mag_rms``, ``neighbor_ratio``, ... : the band's column without its
        prefix.
    keep : float
        Share of the well-recovered artificial stars of every magnitude that pass.
    side : {"below", "above", "both"}
        Where stars pass: below a line, above one, or between two with equal shares cut off (RADXS).
    among : str or array_like of bool (n,), optional
        Stars that the cut rests on; `well_recovered` in the band by default.
    name : str, optional
        Name of the step; the quantity and the filter by default.

    Returns
    -------
    list of Selection
        Lines over measured magnitude, one or two; bins of half a magnitude, wider where stars are few.

    Raises
    ------
    ValueError
        If ``keep`` is not between 0 and 1, the side is unknown, or too few stars have the quantity.
    """
    if not 0.0 < keep < 1.0:
        raise ValueError(f"keep = {keep} has to be a share between 0 and 1")
    shares = {
        "below": {"below": keep},
        "above": {"above": 1.0 - keep},
        "both": {"below": 0.5 + 0.5 * keep, "above": 0.5 - 0.5 * keep},
    }
    if side not in shares:
        raise ValueError(f"side {side!r} is unknown: below, above or both")
    column = f"{band}_{quantity}"
    magnitude, values = measured_values(table, f"{band}_mag"), measured_values(table, column)
    good = well_recovered(table, band) if among is None else row_mask(table, among)
    good = good & np.isfinite(magnitude) & np.isfinite(values)
    cut_off = (1.0 - keep) / len(shares[side])
    bins = _bins(magnitude, good, int(np.ceil(STARS_OUTSIDE / cut_off)))
    if not bins:
        needed = f"{STARS_OUTSIDE / cut_off:.0f} are needed"
        raise ValueError(f"{column}: {int(good.sum())} artificial stars to put the cut at; {needed}")
    places = np.array([magnitude[mine].mean() for mine in bins])
    selections = []
    for kind, share in shares[side].items():
        limits = np.array([np.quantile(values[mine], share) for mine in bins])
        for _ in range(REFINEMENTS):
            rest = values - np.interp(magnitude, places, limits)
            limits = limits + [np.quantile(rest[mine], share) for mine in bins]
        points = tuple((float(x), float(y)) for x, y in zip(places, limits))
        selections.append(Selection(name or f"{quantity} {band}", kind, f"{band}_mag", column, points))
    return selections


def _bins(magnitude: NDArray[np.float64], good: NDArray[np.bool_], minimum: int) -> list[NDArray[np.intp]]:
    """Rows of bins of half a magnitude with at least this many stars each; smaller ones join the next, the last the one before."""
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(magnitude[rows], kind="stable")]
    groups: list[NDArray[np.intp]] = []
    waiting = np.zeros(0, dtype=np.intp)
    for part in np.split(rows, np.flatnonzero(np.diff(np.floor(magnitude[rows] / BIN_WIDTH))) + 1):
        waiting = np.concatenate([waiting, part])
        if waiting.size >= minimum:
            groups.append(waiting)
            waiting = waiting[:0]
    if waiting.size and groups:
        groups[-1] = np.concatenate([groups[-1], waiting])
    return groups
