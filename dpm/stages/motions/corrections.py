"""What members close on a detector or the sky, or alike in magnitude or colour, share beyond their motion: maps and corrections."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog
from dpm.science.motions import (
    ErrorTerm,
    MotionError,
    as_covariance,
    detector_terms,
    error_floor,
    fit_smooth_errors,
    local_correction,
    motion_map,
    place_map,
)
from dpm.science.motions.slopes import epoch_numbers
from dpm.stages.motions.single_positions import SinglePositions

__all__ = ["corrected_motions", "magnitudes", "position_terms"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CORRECTION_STARS = 100


def position_terms(
    single: SinglePositions, n_stars: int, reference: ReferenceCatalog | None, pairs: tuple[NDArray, NDArray] | None
) -> list[ErrorTerm]:
    """Terms of the detectors at each epoch.

    Parameters
    ----------
    single : SinglePositions
    n_stars : int
        Of the catalogue.
    reference, pairs : optional
        The older catalogue that is the first epoch, and its stars; None where exposures have several epochs.
    """
    epoch = epoch_numbers(single.time)
    middle = [float(np.mean(single.time[epoch == number])) for number in range(int(epoch.max(initial=-1)) + 1)]
    group = np.array([f"{detector}_{middle[number]:.2f}" for detector, number in zip(single.detector, epoch)], dtype=object)
    values = [single.star, group, single.time, single.covariance, single.place, single.jacobian]
    if reference is not None and pairs is not None:
        i, j = pairs
        theirs = as_covariance(np.column_stack([reference.ra_error[j], reference.dec_error[j]]))
        ones = np.tile(np.eye(2), (len(i), 1, 1))
        old = [i, np.full(len(i), "", dtype=object), reference.ref_epoch[j], theirs, np.zeros((len(i), 2)), ones]
        values = [np.concatenate(pair) for pair in zip(values, old)]
    star, group, time, covariance, place, jacobian = values
    return detector_terms(star, [str(name) for name in group], time, covariance, place, jacobian, n_stars)


def corrected_motions(
    position: Floats,
    motion: Floats,
    covariance: Floats,
    members: Bools,
    catalog: Table,
    detectors: list[ErrorTerm],
    asked: bool,
    meta: dict[str, Any],
) -> tuple[Floats, Floats, Table | None]:
    """Relative motions, corrected if asked for, and what maps and floor say before and after.

    Errors by place on the detectors, magnitude and colour are solved for together; what neighbours on the sky still share is then
    taken from the nearest members.

    Parameters
    ----------
    position : ndarray (n, 2)
        On the sky, arcsec.
    motion, covariance : ndarray (n, 2), (n, 2, 2)
        Relative motions, mas/yr.
    members : ndarray (n,), bool
        Well-measured ones.
    catalog : Table
    detectors : list of ErrorTerm
        From `position_terms`.
    asked : bool
        Whether the corrected motions are the ones to use.
    meta : dict
        Gets the figures.

    Returns
    -------
    motion, covariance : ndarray
    maps : Table or None
        Cells of the detectors before and after.
    """
    meta["map_before"] = _map_figures(position, motion, covariance, members)
    try:
        floor = error_floor(position, motion, covariance, members)
        meta["error_floor"] = {name: float(getattr(floor, name)) for name in ("common", "common_error", "single", "single_error")}
        smooth = fit_smooth_errors(motion, covariance, members, [*detectors, *_brightness_terms(catalog)])
        after = local_correction(position, smooth.motion, smooth.covariance, members, CORRECTION_STARS)
        meta["map_after"] = _map_figures(position, after.motion, after.covariance, members)
    except MotionError as problem:
        if asked:
            raise
        log.info("no systematic errors of motions: %s", problem)
        return motion, covariance, None
    meta["corrected"], meta["smooth_errors"] = asked, smooth.amplitude
    maps = _detector_maps(detectors, members, (motion, covariance), (smooth.motion, smooth.covariance), meta)
    return (*((after.motion, after.covariance) if asked else (motion, covariance)), maps)


def magnitudes(catalog: Table) -> list[Floats]:
    """Magnitudes of all bands, the one that most stars have first."""
    values = [np.asarray(catalog[name], dtype=float) for name in catalog.colnames if name.endswith("_mag")]
    return sorted(values, key=lambda mag: -int(np.isfinite(mag).sum()))


def _brightness_terms(catalog: Table) -> list[ErrorTerm]:
    """Errors that go with magnitude, and with colour where there is one."""
    mags = magnitudes(catalog)
    places = {"magnitude": mags[0]} if mags else {}
    if len(mags) > 1:
        places["colour"] = mags[0] - mags[1]
    terms = []
    for name, place in places.items():
        star = np.flatnonzero(np.isfinite(place))
        if len(star):
            terms.append(ErrorTerm(name, star, place[star, None], np.tile(np.eye(2), (len(star), 1, 1))))
    return terms


def _map_figures(position: Floats, motion: Floats, covariance: Floats, members: Bools) -> dict[str, float]:
    return {name: float(value) for name, value in motion_map(position, motion, covariance, members).meta.items()}


def _detector_maps(
    detectors: list[ErrorTerm], members: Bools, before: tuple[Floats, Floats], after: tuple[Floats, Floats], meta: dict[str, Any]
) -> Table | None:
    """Cells of each detector and epoch before and after, and their figures in the metadata."""
    parts, figures = [], {}
    for term in detectors:
        one, two = (place_map(term, *values, members) for values in (before, after))
        if not len(one):
            continue
        figures[term.name] = {"before": dict(one.meta), "after": dict(two.meta)}
        cells = Table({"detector_epoch": np.full(len(one), term.name), "x": one["x"], "y": one["y"], "n_stars": one["n"]})
        for name, found in (("before", one), ("after", two)):
            cells[f"pmra_{name}"], cells[f"pmdec_{name}"] = found["pmra"], found["pmdec"]
        cells["error"] = two["error"]
        parts.append(cells)
    meta["detector_maps"] = figures
    return vstack(parts, metadata_conflicts="silent") if parts else None
