"""Others' artificial-star tables in dpm's columns: DOLPHOT's, and any table by a mapping of its columns.

The columns that the functions of this layer look at: ``in_{f}_mag``, ``out_{f}_mag`` and further ``out_`` + a catalogue's column
(NaN for lost stars), ``in_x, in_y`` or ``in_ra, in_dec`` where positions matter, ``found`` and ``recovered``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Column, Table

from dpm.io.errors import InputError
from dpm.science.completeness import MAX_DIFFERENCE, recovered_in
from dpm.science.table_access import artificial_bands, column_names, column_values, out_magnitudes, row_mask, table_column

__all__ = ["map_columns", "read_dolphot_artificial_stars", "standard_artificial_stars"]

DOLPHOT_LOST = 90.0  # DOLPHOT writes 99.99 or 99.999 for what was not measured
DOLPHOT_RESOLUTION = 0.01  # mag, of files with two decimals


def read_dolphot_artificial_stars(
    path: str | os.PathLike[str], bands: Sequence[str], max_difference: float = MAX_DIFFERENCE
) -> Table:
    """Read a DOLPHOT ``.matchfake`` file: inserted magnitudes of every filter, then measured minus inserted ones; 99.99 where lost.

    Parameters
    ----------
    path : path
        Text file with 2 or more columns, twice as many as filters.
    bands : sequence of str
        Names for the filters in the file's order, such as ``acswfc_f555w``.
    max_difference : float
        Magnitudes between input and output of a recovered star.

    Returns
    -------
    astropy.table.Table
        ``id``, for every band ``in_{f}_mag, out_{f}_mag`` (NaN where lost), ``found`` (measured in a filter), ``recovered`` (in
        all, within ``max_difference``; the file says nothing of positions).  ``meta["magnitude_resolution"]`` is the file's
        last digit.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not such a table for as many bands.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    advice = "Give a .matchfake file: inserted magnitudes of each filter, then measured minus inserted ones"
    try:
        values = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise InputError(Path(path), "columns", str(error), advice) from error
    if values.shape[1] != 2 * len(bands):
        raise InputError(Path(path), "columns", f"{values.shape[1]} columns for {len(bands)} bands ({', '.join(bands)})", advice)
    inserted, difference = values[:, : len(bands)], values[:, len(bands) :]
    if not (np.abs(difference) < DOLPHOT_LOST).any() or (inserted >= DOLPHOT_LOST).any():
        raise InputError(Path(path), "columns", "inserted magnitudes of 99, or nothing recovered", advice)
    measured = np.where(np.abs(difference) < DOLPHOT_LOST, inserted + difference, np.nan)
    table = Table({"id": np.arange(1, len(values) + 1)})
    for number, band in enumerate(bands):
        table[f"in_{band}_mag"], table[f"out_{band}_mag"] = inserted[:, number], measured[:, number]
    if np.allclose(values, np.round(values, 2), atol=1e-6):
        table.meta["magnitude_resolution"] = DOLPHOT_RESOLUTION
    return standard_artificial_stars(table, max_difference=max_difference)


def standard_artificial_stars(
    table: Any,
    columns: Mapping[str, str] | None = None,
    lost: Any = None,
    max_difference: float = MAX_DIFFERENCE,
) -> Table:
    """Any artificial-star table in dpm's columns.

    Parameters
    ----------
    table : table
        Artificial stars; see `column_names`.
    columns : mapping of str to str, optional
        dpm's name to the table's own, such as ``{"in_acswfc_f814w_mag": "I_in", "out_acswfc_f814w_mag": "I_out"}``.
    lost : str or array_like of bool (n,), optional
        Rows that were not found, whatever their output columns hold.  Magnitudes of 90 or more count as lost anyway.
    max_difference : float
        Magnitudes between input and output of a recovered star.

    Returns
    -------
    astropy.table.Table
        The mapped columns; ``out_`` columns are NaN where lost.  ``found`` and ``recovered`` are added where they are absent.

    Raises
    ------
    ValueError
        If no band has both an inserted and a measured magnitude.
    """
    out = map_columns(table, columns)
    bands = artificial_bands(out)
    missing = [band for band in bands if f"out_{band}_mag" not in out.colnames]
    if not bands or missing:
        what = f"bands {', '.join(missing)} have no out_{{band}}_mag" if missing else "no column in_{band}_mag"
        raise ValueError(f"{what}: name the columns, as in columns={{'in_f814w_mag': 'I_in', 'out_f814w_mag': 'I_out'}}")
    gone = np.zeros(len(out), dtype=bool) if lost is None else row_mask(table, lost)
    for band in bands:
        values = out_magnitudes(out, band)
        out[f"out_{band}_mag"] = np.where(gone | ~(values < DOLPHOT_LOST), np.nan, values)
    for name in out.colnames:
        if name.startswith("out_") and out[name].dtype.kind in "fiu":
            out[name] = np.where(gone, np.nan, column_values(out, name))
    if "found" not in out.colnames:
        out["found"] = np.any([np.isfinite(out_magnitudes(out, band)) for band in bands], axis=0)
    if "recovered" not in out.colnames:
        out["recovered"] = row_mask(out, "found") & recovered_in(out, *bands, max_difference=max_difference)
    return out


def map_columns(table: Any, columns: Mapping[str, str] | None = None) -> Table:
    """A table's columns under other names.

    Parameters
    ----------
    table : table
        See `column_names`.
    columns : mapping of str to str, optional
        New name to the table's own; the table's own names stay where None.

    Returns
    -------
    astropy.table.Table
        Plain columns, ``meta`` kept; numbers of 90 or more in ``_mag`` columns are NaN (DOLPHOT's 99.999).
    """
    names = {name: name for name in column_names(table)} if columns is None else dict(columns)
    out = Table(meta=dict(getattr(table, "meta", None) or {}))
    for name, source in names.items():
        column = table_column(table, source)
        values = column_values(table, source) if np.asarray(column).dtype.kind == "f" else np.asarray(column)
        if name.endswith("_mag") and values.dtype.kind == "f":
            values = np.where(values < DOLPHOT_LOST, values, np.nan)
        out[name] = Column(values)
    return out
