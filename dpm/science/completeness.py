"""Completeness from artificial stars: in bins with Jeffreys intervals, in good regions, after each selection (paper 1, figure A3).

Completeness is the share of inserted stars that pass, against INPUT magnitude.  What passes is any truth value a row:
recovered, recovered and selected, ...  Where only part of the inserted stars counts (a good region, a detector), ``among`` says
which; it has to be known for lost stars as well, else the share is of another thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import Table, vstack
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.science.completeness_curve import ONE_SIGMA, fit_completeness
from dpm.science.table_access import column_names, column_values, in_magnitudes, measured_values, out_magnitudes, row_mask

__all__ = ["bin_edges", "completeness_in_bins", "completeness_table", "in_good_region", "local_sky_rms", "recovered_in"]

MAX_DIFFERENCE = 1.0  # magnitudes between input and output of a recovered star (paper 1, section 3.2)
SKY_NEIGHBORS = 9  # measured stars whose median sky scatter stands for a place: enough for a median, few enough to stay local


def recovered_in(table: Any, *bands: str, max_difference: float = MAX_DIFFERENCE) -> NDArray[np.bool_]:
    """Artificial stars measured within ``max_difference`` magnitudes of their input in every one of these bands.

    Parameters
    ----------
    table : table
        Artificial stars, with ``in_{band}_mag`` and ``out_{band}_mag``.
    *bands : str
        At least one.
    max_difference : float
        Magnitudes.

    Returns
    -------
    ndarray (n,) of bool
    """
    differences = [np.abs(out_magnitudes(table, band) - in_magnitudes(table, band)) for band in bands]
    return np.all([difference < max_difference for difference in differences], axis=0)


def completeness_in_bins(
    table: Any,
    band: str,
    passed: Any = "recovered",
    among: Any = None,
    bins: float | Sequence[float] | NDArray[Any] = 0.5,
    level: float = ONE_SIGMA,
) -> Table:
    """Completeness in bins of input magnitude, with Jeffreys intervals.

    Parameters
    ----------
    table : table
        Artificial stars: astropy Table, DataFrame, mapping of arrays.
    band : str
        Band whose input magnitude, ``in_{band}_mag``, is binned.
    passed : str or array_like of bool (n,)
        What counts as success: a boolean column or one truth value a row.
    among : str or array_like of bool (n,), optional
        Inserted stars that count at all; all by default.
    bins : float or array_like
        Width of the bins (whose edges are multiples of it), or their edges.
    level : float
        Content of the intervals.

    Returns
    -------
    astropy.table.Table
        ``mag_low, mag_high, mag`` (middle), ``n_inserted, n_passed, completeness, completeness_low, completeness_high``; NaN in
        bins without a star, whose interval is 0 to 1.
    """
    counted = row_mask(table, among)
    magnitude = in_magnitudes(table, band)
    counted &= np.isfinite(magnitude)
    passing = row_mask(table, passed) & counted
    edges = bin_edges(magnitude[counted], bins)
    inserted, _ = np.histogram(magnitude[counted], edges)
    found, _ = np.histogram(magnitude[passing], edges)
    low, high = binom_conf_interval(found, np.maximum(inserted, 1), confidence_level=level, interval="jeffreys")
    empty = inserted == 0
    return Table(
        {
            "mag_low": edges[:-1],
            "mag_high": edges[1:],
            "mag": 0.5 * (edges[:-1] + edges[1:]),
            "n_inserted": inserted,
            "n_passed": found,
            "completeness": np.where(empty, np.nan, found / np.maximum(inserted, 1)),
            "completeness_low": np.where(empty, 0.0, low),
            "completeness_high": np.where(empty, 1.0, high),
        },
        meta={"band": band, "level": level, "interval": "jeffreys"},
    )


def completeness_table(
    table: Any,
    samples: Mapping[str, tuple[Any, Any]],
    bands: Sequence[str],
    bins: float = 0.5,
    magnitudes: Mapping[str, tuple[float, float]] | None = None,
) -> Table:
    """All completeness curves of a data set in one table, as ``tables/completeness.parquet`` has them.

    Parameters
    ----------
    table : table
        Artificial stars.
    samples : mapping of str to (passed, among)
        Curves: the empty name for the overall one, ``good``, ``selected``, ...; see `completeness_in_bins` for the pair.
    bands : sequence of str
        Bands.
    bins : float
        Width of the bins, mag.
    magnitudes : mapping of str to (float, float), optional
        Brightest and faintest magnitude that a band's smooth curves are fitted to; see `fit_completeness`.

    Returns
    -------
    astropy.table.Table
        One row a band and bin: ``filter, mag, n_inserted`` and for every sample ``completeness, _low, _high`` (Jeffreys, one sigma)
        and ``_fit, _fit_error`` (the smooth curve in the middle of the bin, NaN outside the fitted magnitudes), the sample's name
        behind ``completeness``.  ``meta["limits"]`` has the 50 % and 25 % magnitudes with errors, their curves' form and
        goodness of fit; or, as ``absent``, why there is no curve.
    """
    parts, limits = [], {}
    for band in bands:
        magnitude = in_magnitudes(table, band)
        edges = bin_edges(magnitude[np.isfinite(magnitude)], bins)
        middle = 0.5 * (edges[:-1] + edges[1:])
        part = Table({"filter": [band] * middle.size, "mag": middle})
        for name, (passed, among) in samples.items():
            binned = completeness_in_bins(table, band, passed, among, edges)
            prefix = "_".join(filter(None, ("completeness", name)))
            part["_".join(filter(None, ("n_inserted", name)))] = binned["n_inserted"]
            for end in ("", "_low", "_high"):
                part[prefix + end] = binned[f"completeness{end}"]
            part[f"{prefix}_fit"] = part[f"{prefix}_fit_error"] = np.full(middle.size, np.nan)
            try:
                curve = fit_completeness(table, band, passed, among, magnitudes=(magnitudes or {}).get(band))
            except ValueError as error:
                limits[f"{band}:{name or 'all'}"] = {"absent": str(error)}
                continue
            part[f"{prefix}_fit"], part[f"{prefix}_fit_error"] = curve(middle), curve.error(middle)
            limits[f"{band}:{name or 'all'}"] = curve.summary()
        parts.append(part)
    out = vstack(parts, metadata_conflicts="silent")
    out.meta["limits"] = limits
    return out


def in_good_region(
    table: Any,
    band: str,
    max_sky_rms: float | NDArray[Any],
    catalog: Any = None,
    position: tuple[str, str] = ("x", "y"),
) -> NDArray[np.bool_]:
    """Artificial stars, lost ones too, that were put where the sky is quiet.

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band whose ``sky_rms`` is looked at.
    max_sky_rms : float or ndarray (n,)
        Largest sky scatter of a good region, or one a star (say, that at which a star of its magnitude stands out).
    catalog, position
        See `local_sky_rms`.

    Returns
    -------
    ndarray (n,) of bool
        For ``among`` of the functions here.
    """
    return local_sky_rms(table, band, catalog, position) < max_sky_rms


def local_sky_rms(table: Any, band: str, catalog: Any = None, position: tuple[str, str] = ("x", "y")) -> NDArray[np.float64]:
    """Sky scatter at the place of every artificial star, lost ones too.

    ``in_{band}_sky_rms`` is taken where the table has it.  Else it is the median of the nine nearest measured stars, since a
    lost star has no measurement of its own: about a star so bright that nothing near it is measured this looks better than it
    is.

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band whose ``{band}_sky_rms`` is looked at.
    catalog : table, optional
        Real stars, whose measurements count as well.
    position : (str, str)
        Coordinates of a catalogue, in one unit and on a plane; ``in_`` and ``out_`` before them in the artificial table.

    Returns
    -------
    ndarray (n,)
        In the unit of the column.

    Raises
    ------
    ValueError
        If no star has a measured sky scatter.
    """
    if f"in_{band}_sky_rms" in column_names(table):
        return column_values(table, f"in_{band}_sky_rms")
    places, values = [], []
    for source in (table,) if catalog is None else (table, catalog):
        places.append(np.column_stack([measured_values(source, name) for name in position]))
        values.append(measured_values(source, f"{band}_sky_rms"))
    place, value = np.concatenate(places), np.concatenate(values)
    known = np.isfinite(value) & np.isfinite(place).all(axis=1)
    if not known.any():
        raise ValueError(f"no star has a measured {band}_sky_rms: give the column in_{band}_sky_rms, or a catalogue that has it")
    inserted = np.column_stack([column_values(table, f"in_{name}") for name in position])
    n_neighbors = min(SKY_NEIGHBORS, int(known.sum()))
    _, nearest = cKDTree(place[known]).query(inserted, k=np.arange(1, n_neighbors + 1))
    return np.median(value[known][nearest], axis=1)


def bin_edges(values: NDArray[np.float64], bins: float | Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    """Edges as given, or multiples of a width that hold all values (which have to be finite)."""
    if not np.isscalar(bins):
        return np.asarray(bins, dtype=float)
    if not values.size:
        raise ValueError("no star has a finite magnitude here")
    width = float(bins)  # type: ignore[arg-type]
    first, last = np.floor(values.min() / width), np.floor(values.max() / width) + 1
    return width * np.arange(first, last + 1)
