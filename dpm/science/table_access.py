"""Columns by name from whatever table a user has, and the names of artificial-star columns.

Astropy's Table and QTable, pandas' DataFrame, numpy's structured arrays and plain mappings of arrays all give their columns by
``table[name]``; values come out as plain arrays, masked ones as NaN (booleans as False).  Units are not converted: magnitudes are
magnitudes, positions are in the table's own unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "artificial_bands",
    "column_names",
    "column_values",
    "in_magnitudes",
    "measured_values",
    "out_magnitudes",
    "row_mask",
    "stack_magnitudes",
    "table_column",
]


def column_names(table: Any) -> list[str]:
    """Names of a table's columns.

    Parameters
    ----------
    table : astropy Table, pandas DataFrame, structured array or mapping
        Anything that gives columns by name.

    Raises
    ------
    TypeError
        If it has no columns with names.
    """
    for names in (getattr(table, "colnames", None), getattr(getattr(table, "dtype", None), "names", None)):
        if names is not None:
            return list(names)
    if hasattr(table, "keys"):  # iterating over mappings and data frames gives names
        return [str(name) for name in table]
    raise TypeError(f"a table with columns by name is needed (astropy Table, DataFrame, mapping), not {type(table).__name__}")


def column_values(table: Any, name: str) -> NDArray[np.float64]:
    """One column as plain numbers.

    Parameters
    ----------
    table : table
        See `column_names`.
    name : str
        Column.

    Returns
    -------
    ndarray (n,)
        Masked values are NaN.

    Raises
    ------
    KeyError
        If there is no such column; the message names those that there are.
    """
    values, mask = _values_and_mask(table_column(table, name))
    return np.where(mask, np.nan, np.asarray(values, dtype=float))


def row_mask(table: Any, condition: Any = None) -> NDArray[np.bool_]:
    """Which rows a condition holds for.

    Parameters
    ----------
    table : table
        See `column_names`.
    condition : str, array_like of bool (n,) or None
        A boolean column's name, one truth value a row (such as ``table["out_f_qfit"] < 0.1``), or None for all rows.

    Returns
    -------
    ndarray (n,) of bool
        False where it is masked.

    Raises
    ------
    KeyError, ValueError
        If there is no such column, or the condition is not one truth value a row.
    """
    n_rows = len(table_column(table, column_names(table)[0]))
    if condition is None:
        return np.ones(n_rows, dtype=bool)
    what = f"column {condition!r}" if isinstance(condition, str) else "the condition"
    values, mask = _values_and_mask(table_column(table, condition) if isinstance(condition, str) else condition)
    if values.dtype.kind != "b" or values.shape != (n_rows,):
        raise ValueError(f"{what} has to be one truth value for each of {n_rows} rows, not {values.dtype} of shape {values.shape}")
    return values & ~mask


def artificial_bands(table: Any) -> tuple[str, ...]:
    """Bands of an artificial-star table: the ``f`` of its columns ``in_{f}_mag``."""
    names = column_names(table)
    return tuple(name[3:-4] for name in names if name.startswith("in_") and name.endswith("_mag") and len(name) > 7)


def in_magnitudes(table: Any, band: str) -> NDArray[np.float64]:
    """Inserted magnitudes of one band, column ``in_{band}_mag``."""
    return column_values(table, f"in_{band}_mag")


def out_magnitudes(table: Any, band: str) -> NDArray[np.float64]:
    """Measured magnitudes of one band, column ``out_{band}_mag``; NaN for lost stars."""
    return column_values(table, f"out_{band}_mag")


def measured_values(table: Any, name: str) -> NDArray[np.float64]:
    """A quantity as it was measured: ``name`` of a catalogue, ``out_name`` of an artificial-star table.

    Where an artificial-star table has no ``out_name`` (``ra``, ``dec``), its ``in_name`` stands for it.
    """
    names = column_names(table)
    if artificial_bands(table):
        for prefix in ("out_", "in_"):
            if prefix + name in names:
                return column_values(table, prefix + name)
        name = f"out_{name}"
    return column_values(table, name)


def stack_magnitudes(table: Any, bands: Sequence[str], prefix: str) -> NDArray[np.float64]:
    """Magnitudes of several bands as (n, bands); ``prefix`` is ``in`` or ``out``."""
    return np.column_stack([column_values(table, f"{prefix}_{band}_mag") for band in bands])


def table_column(table: Any, name: str) -> Any:
    """One column as the table has it.

    Raises
    ------
    KeyError
        If there is no such column; the message names those that there are.
    """
    names = column_names(table)
    if name not in names:
        shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        raise KeyError(f"no column {name!r}; the table has {shown}")
    return table[name]


def _values_and_mask(column: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Plain values and where they are masked, of numpy's and astropy's masked arrays, quantities and anything else."""
    mask = np.asarray(getattr(column, "mask", False)) if not callable(getattr(column, "mask", False)) else np.False_
    column = getattr(column, "unmasked", column)
    column = column.data if isinstance(column, np.ma.MaskedArray) else column
    values = np.asarray(getattr(column, "value", column))
    return values, np.broadcast_to(mask, values.shape)
