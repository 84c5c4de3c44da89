"""The reference's positions and motions as priors of its stars (as BP3M does with Gaia's)."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog
from dpm.science.motions import combine_states

__all__ = ["combined_columns"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEGREE = 3.6e6  # mas
STATE = ("ra", "dec", "pmra", "pmdec")


def combined_columns(catalog: Table, several: bool, reference: ReferenceCatalog, pairs: tuple[Ints, Ints]) -> Table:
    """Motions of the reference's stars from their priors and the catalogue; NaN for others.

    The catalogue's errors hold those of maps and of the tie to the reference; a reference star's small share in that tie is not
    counted.

    Parameters
    ----------
    catalog : Table
    several : bool
        The catalogue's motions come from exposures; else its positions alone count.
    reference : ReferenceCatalog
        With motions.
    pairs : (ndarray, ndarray)
        Rows of the catalogue and of the reference that are one star.
    """
    i, j = pairs
    errors = np.column_stack([np.asarray(catalog[f"{name}_error"], float) if _has(catalog, name, several) else
                              np.full(len(catalog), np.nan) for name in STATE])[i]  # fmt: skip
    covariance = np.einsum("na,nb->nab", errors, errors)
    for a, first in enumerate(STATE):
        for b, second in enumerate(STATE[:a]):
            name = f"{second}_{first}_corr"
            known = name in catalog.colnames and _has(catalog, first, several)
            covariance[:, a, b] *= np.asarray(catalog[name], float)[i] if known else 0.0
            covariance[:, b, a] = covariance[:, a, b]
    state = np.zeros((len(i), 4))
    for axis, name in enumerate(STATE[2:], start=2):
        state[:, axis] = np.asarray(catalog[name], float)[i] if several else np.nan
    ra, dec = np.asarray(catalog["ra"], float)[i], np.asarray(catalog["dec"], float)[i]
    east = ((reference.ra[j] - ra + 180.0) % 360.0 - 180.0) * np.cos(np.radians(0.5 * (dec + reference.dec[j]))) * DEGREE
    prior = np.column_stack([east, (reference.dec[j] - dec) * DEGREE, reference.pmra[j], reference.pmdec[j]])
    sigma = np.column_stack([getattr(reference, f"{name}_error")[j] for name in STATE])
    years = reference.ref_epoch[j] - np.asarray(catalog["ref_epoch"], float)[i]
    value, spread = combine_states(state, covariance, prior, np.einsum("ni,ij->nij", sigma**2, np.eye(4)), years)
    table = Table()
    for axis, name in enumerate(STATE[2:], start=2):
        for end, values in (("", value[:, axis]), ("_error", np.sqrt(spread[:, axis, axis]))):
            column = np.full(len(catalog), np.nan)
            column[i] = values
            table[f"{name}_combined{end}"] = column
    return table


def _has(catalog: Table, name: str, several: bool) -> bool:
    return several or name in ("ra", "dec")
