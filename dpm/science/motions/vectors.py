"""Motions and their covariances from a table with Gaia's column names, and small things that all modules here need."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.models.master_frame import sky_to_tangent
from dpm.science.table_access import column_names, column_values

__all__ = ["MotionError", "as_covariance", "known_motions", "motion_vectors", "tangent_positions"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class MotionError(ValueError):
    """What was given cannot give motions; the message says what is missing and what to do."""


def motion_vectors(table: Any, columns: tuple[str, str] = ("pmra", "pmdec")) -> tuple[Floats, Floats]:
    """Motions and covariances of a table.

    Parameters
    ----------
    table : table
        Astropy Table, DataFrame, mapping of arrays.
    columns : (str, str)
        The two components (mas/yr, the first with cos dec); ``{column}_error`` are their errors and, where the table has it,
        ``pmra_pmdec_corr`` (of other names: ``{first}_{second}_corr``) their correlation.

    Returns
    -------
    motion : ndarray (n, 2)
    covariance : ndarray (n, 2, 2)
        NaN where a star has no motion.

    Raises
    ------
    MotionError
        If a column is missing.
    """
    names = column_names(table)
    needed = [*columns, *(f"{column}_error" for column in columns)]
    missing = [name for name in needed if name not in names]
    if missing:
        raise MotionError(
            f"no column {', '.join(missing)}: motions need {', '.join(needed)} (mas/yr); "
            "a catalogue of one epoch has none: add exposures of another epoch, or an older catalogue as first epoch"
        )
    motion = np.column_stack([column_values(table, column) for column in columns])
    error = np.column_stack([column_values(table, f"{column}_error") for column in columns])
    corr = f"{columns[0]}_{columns[1]}_corr"
    correlation = column_values(table, corr) if corr in names else np.zeros(len(motion))
    return motion, as_covariance(error, np.nan_to_num(correlation))


def as_covariance(error: NDArray, correlation: NDArray | float = 0.0) -> Floats:
    """Covariances (n, 2, 2) of errors (n, 2) and their correlation (n,)."""
    error = np.asarray(error, dtype=float)
    out = np.zeros((len(error), 2, 2))
    out[:, 0, 0], out[:, 1, 1] = error[:, 0] ** 2, error[:, 1] ** 2
    out[:, 0, 1] = out[:, 1, 0] = np.asarray(correlation, dtype=float) * error[:, 0] * error[:, 1]
    return out


def known_motions(motion: Floats, covariance: Floats) -> Bools:
    """Stars (n,) with a finite motion and a covariance that is one."""
    trace = covariance[:, 0, 0] + covariance[:, 1, 1]
    determinant = covariance[:, 0, 0] * covariance[:, 1, 1] - covariance[:, 0, 1] * covariance[:, 1, 0]
    with np.errstate(invalid="ignore"):
        return np.isfinite(motion).all(axis=1) & np.isfinite(trace) & (determinant >= 0) & (trace > 0)


def tangent_positions(
    ra: NDArray, dec: NDArray, center: tuple[float, float] | None = None
) -> tuple[Floats, tuple[float, float]]:
    """Arcseconds to the East and to the North of a centre on its tangent plane.

    Parameters
    ----------
    ra, dec : array_like (n,)
        Degrees.
    center : (float, float), optional
        Degrees; the middle of the stars by default.

    Returns
    -------
    position : ndarray (n, 2)
    center : (float, float)
    """
    ra, dec = np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)
    if center is None:
        angle = np.radians(ra)
        middle = np.degrees(np.arctan2(np.nanmean(np.sin(angle)), np.nanmean(np.cos(angle)))) % 360.0
        center = (float(middle), float(np.nanmedian(dec)))
    return np.column_stack(sky_to_tangent(ra, dec, *center)), center
