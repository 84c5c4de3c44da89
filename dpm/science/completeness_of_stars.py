"""Completeness at every star of a catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.science.completeness_map import fit_completeness_map
from dpm.science.completeness_two_magnitudes import completeness_of_two_magnitudes

__all__ = ["star_completeness"]


def star_completeness(
    stars: Table, catalog: Table, bands: Sequence[str], passed: NDArray[np.bool_]
) -> tuple[Table, list[str]]:
    """Completeness at every star of the catalogue: in each band at its place and magnitude, and in the first two together.

    Parameters
    ----------
    stars, catalog : Table
        Artificial and real stars.
    bands : sequence of str
    passed : ndarray of bool
        Artificial stars that were recovered and pass the selection.

    Returns
    -------
    table : Table
        Of `STAR_COMPLETENESS_COLUMNS`.
    missing : list of str
        What too few artificial stars tell, in words.
    """
    out, missing = Table({"id": np.asarray(catalog["id"])}), []
    unknown = np.full(len(catalog), np.nan)
    x, y = (np.asarray(catalog[name], float) for name in "xy")
    out["two_band_completeness"] = unknown
    put_in = [band for band in bands if np.isfinite(stars[f"in_{band}_mag"]).any()]
    if len(put_in) > 1:
        both = completeness_of_two_magnitudes(stars, put_in[0], put_in[1])
        out["two_band_completeness"] = both(catalog[f"{put_in[0]}_mag"], catalog[f"{put_in[1]}_mag"])
        out.meta["two_bands"] = put_in[:2]
    for band in bands:
        columns = [f"{band}_{name}" for name in ("completeness", "completeness_error", "completeness_selected")]
        for name in columns:
            out[name] = unknown
        if band not in put_in:
            continue
        magnitude = np.asarray(catalog[f"{band}_mag"], float)
        try:
            field = fit_completeness_map(stars, band)
            out[columns[0]], out[columns[1]] = field(magnitude, x, y), field.error(magnitude, x, y)
            out[columns[2]] = fit_completeness_map(stars, band, passed)(magnitude, x, y)
        except ValueError as error:
            missing.append(f"no completeness at single stars: {error}")
    return out, missing
