"""The two positions of every star: the catalogue's own epochs, or an older catalogue as first epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions
from dpm.science.motions import MotionError, as_covariance, match_positions, motion_vectors, motions_between
from dpm.science.motions.lists import SkyPositions

__all__ = ["Motions", "catalog_motions", "match_reference", "reference_motions"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Years that a reference's positions have to be apart from the catalogue's to serve as an epoch of their own.
SHORTEST = 0.5
ARCSEC_TO_MAS = 1000.0


@dataclass(frozen=True)
class Motions:
    """Motions of the catalogue's stars, NaN where a star has none.

    Parameters
    ----------
    motion, covariance : ndarray (n, 2), (n, 2, 2)
        mas/yr.
    columns : Table, optional
        Columns that the catalogue lacks: motions with an older catalogue as first epoch.
    meta : dict
        What they count from.
    """

    motion: Floats
    covariance: Floats
    columns: Table | None
    meta: dict[str, object]


def catalog_motions(catalog: Table) -> Motions | None:
    """The catalogue's own motions, of several epochs of exposures; None where it has one."""
    if "pmra" not in catalog.colnames or not np.isfinite(np.asarray(catalog["pmra"], dtype=float)).any():
        return None
    return Motions(*motion_vectors(catalog), None, {})


def match_reference(
    catalog: Table, frame: MasterFrame, reference: ReferenceCatalog, pixel: float, options: FrameOptions, max_motion: float
) -> tuple[Ints, Ints]:
    """Rows of the catalogue and of the reference that are one star.

    Parameters
    ----------
    catalog : Table
    frame : MasterFrame
    reference : ReferenceCatalog
    pixel : float
        Scale of the coarsest detector, arcsec.
    options : FrameOptions
        ``match_radius`` counts.
    max_motion : float
        mas/yr, where the reference has no motions.
    """
    epoch = float(catalog["ref_epoch"][0])
    years = abs(epoch - float(np.median(reference.ref_epoch))) if np.isfinite(reference.ref_epoch).any() else 0.0
    x, y = frame.sky_to_pixel(*reference.at(epoch)[:2])
    radius = options.match_radius * pixel / frame.scale
    if not reference.has_motions:
        radius += max_motion * years / (ARCSEC_TO_MAS * frame.scale)
    here = np.column_stack([np.asarray(catalog["x"], float), np.asarray(catalog["y"], float)])
    return match_positions(here, np.column_stack([x, y]), radius)


def reference_motions(catalog: Table, reference: ReferenceCatalog, pairs: tuple[Ints, Ints]) -> Motions:
    """Motions from the reference's positions at its own epoch to the catalogue's.

    Parameters
    ----------
    catalog : Table
        Of one epoch.
    reference : ReferenceCatalog
    pairs : (ndarray, ndarray)
        From `match_reference`.

    Raises
    ------
    MotionError
        If the two are of one time.
    """
    i, j = pairs
    n, epoch = len(catalog), float(catalog["ref_epoch"][0])
    apart = abs(epoch - float(np.median(reference.ref_epoch)))
    if not apart >= SHORTEST:
        raise MotionError(
            f"the reference's positions are of the exposures' own time ({apart:.2f} yr apart): there are no motions in one epoch; "
            "name an older catalogue in [motions] reference, or add exposures of another epoch"
        )
    error = np.column_stack([np.asarray(catalog["ra_error"], float), np.asarray(catalog["dec_error"], float)])
    mine = as_covariance(error, np.nan_to_num(np.asarray(catalog["ra_dec_corr"], float)))
    second = SkyPositions(np.asarray(catalog["ra"], float), np.asarray(catalog["dec"], float), mine, np.full(n, epoch))
    theirs = as_covariance(np.column_stack([reference.ra_error, reference.dec_error]))
    first = SkyPositions(reference.ra, reference.dec, theirs, reference.ref_epoch)
    motion, covariance = np.full((n, 2), np.nan), np.full((n, 2, 2), np.nan)
    # A catalogue of several sources may hold rows of the exposures' own time.
    i, j = i[np.abs(epoch - reference.ref_epoch[j]) >= SHORTEST], j[np.abs(epoch - reference.ref_epoch[j]) >= SHORTEST]
    motion[i], covariance[i], years = motions_between(first, second, (j, i))
    # Of the catalogue's position and the motion: the position's own error is in both.
    shared = np.full((n, 2, 2), np.nan)
    shared[i] = mine[i] / years[:, None, None]
    sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    table = Table({"pmra": motion[:, 0], "pmdec": motion[:, 1], "pmra_error": sigma[:, 0], "pmdec_error": sigma[:, 1]})
    for a, here in enumerate(("ra", "dec")):
        for b, there in enumerate(("pmra", "pmdec")):
            table[f"{here}_{there}_corr"] = shared[:, a, b] / (error[:, a] * sigma[:, b])
    table["pmra_pmdec_corr"] = covariance[:, 0, 1] / (sigma[:, 0] * sigma[:, 1])
    text = "relative: mean motion, rotation and expansion of the reference's stars are zero"
    if reference.has_motions:
        text = "absolute: exposures are tied to the reference moved to their time"
    year = float(np.median(reference.ref_epoch[j]))
    meta = {"pm_zero_point": text, "pm_first_epoch": reference.name, "pm_first_epoch_year": year}
    return Motions(motion, covariance, table, dict(meta))
