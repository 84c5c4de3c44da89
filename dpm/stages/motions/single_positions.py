"""Every single position of the catalogue's stars on the sky, and the slopes, differences and parallaxes that they give."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.detectors import band_name
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.models.statistics import robust_width
from dpm.models.transform import LinearTransform
from dpm.science.motions import fit_slopes, parallax_factors, two_epoch_difference
from dpm.stages.frame.geometry import load_units
from dpm.stages.frame.photometry import WEIGHTLESS
from dpm.stages.frame.units import NOT_CLEAN

__all__ = ["SinglePositions", "single_positions", "slope_columns"]

Floats = NDArray[np.float64]

FLOOR_STARS = 200  # brightest stars that an exposure's error floor rests on
FEWEST_FLOOR = 15
ROUNDS = 2  # slopes, floors from their residuals, slopes


@dataclass(frozen=True)
class SinglePositions:
    """Positions of single exposures.

    Parameters
    ----------
    star : ndarray (m,), int
        Row of the catalogue.
    exposure : ndarray (m,), int
        Row of the exposure table.
    time : ndarray (m,)
        Years.
    offset, covariance : ndarray (m, 2), (m, 2, 2)
        East and North of the catalogue's position, mas; formal errors.
    clean : ndarray (m,), bool
        Good enough to judge errors by.
    space : ndarray (m,), bool
        From L2 (JWST) rather than from the Earth.
    place : ndarray (m, 2)
        On the detector, raw pixels.
    jacobian : ndarray (m, 2, 2)
        Offsets by places, mas a pixel.
    detector : ndarray (m,), str
    """

    star: NDArray[np.int64]
    exposure: NDArray[np.int64]
    time: Floats
    offset: Floats
    covariance: Floats
    clean: NDArray[np.bool_]
    space: NDArray[np.bool_]
    place: Floats
    jacobian: Floats
    detector: NDArray[np.str_]


def single_positions(folder: RunFolder, options: Options, catalog: Table) -> SinglePositions:
    """Read the second pass's measurements and place them by the frame's solution, which one exposure has at least.

    Parameters
    ----------
    folder : RunFolder
    options : Options
        ``[distortion]`` and ``[photometry]`` count.
    catalog : Table
    """
    exposures = read_table(folder.exposures)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    exposures["band"] = [band_name(str(row["detector"]), str(row["filter"])) for row in exposures]
    units = load_units(folder, exposures, frame, options, folder.measurements)
    number = np.asarray(catalog["id"], dtype=np.int64)
    order = np.argsort(number)
    here = np.column_stack([np.asarray(catalog["x"], float), np.asarray(catalog["y"], float)])
    steps = frame.sky_steps(*here.T)
    parts: dict[str, list[NDArray]] = {entry.name: [] for entry in fields(SinglePositions)}
    for k, (unit, row) in enumerate(zip(units, exposures)):
        terms = [float(row[key]) for key in ("a", "b", "c", "d", "x_shift", "y_shift")]
        if not np.isfinite(terms).all() or not len(unit):
            continue
        transform = LinearTransform(*terms)
        own = np.asarray(unit.load("id"), dtype=np.int64)
        use = np.flatnonzero((own > 0) & ((unit.flags & WEIGHTLESS) == 0))
        place = order[np.searchsorted(number, own[use], sorter=order).clip(0, len(order) - 1)]
        use, place = use[number[place] == own[use]], place[number[place] == own[use]]
        x, y = transform(unit.u[use], unit.v[use])
        turn = steps[place]
        variance = np.zeros((len(use), 2, 2))
        variance[:, 0, 0], variance[:, 1, 1] = unit.x_error[use] ** 2, unit.y_error[use] ** 2
        full = turn @ transform.matrix
        parts["star"].append(place)
        parts["exposure"].append(np.full(len(use), k))
        parts["time"].append(np.full(len(use), unit.epoch))
        parts["offset"].append(np.einsum("nij,nj->ni", turn, np.column_stack([x, y]) - here[place]))
        parts["covariance"].append(full @ variance @ np.swapaxes(full, 1, 2))
        parts["clean"].append((unit.flags[use] & NOT_CLEAN) == 0)
        parts["space"].append(np.full(len(use), str(row["telescope"]).upper() == "JWST"))
        parts["place"].append(np.column_stack([unit.x[use], unit.y[use]]))
        parts["jacobian"].append(full)
        parts["detector"].append(np.full(len(use), str(row["detector"])))
    joined: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    return SinglePositions(**joined)


def slope_columns(single: SinglePositions, catalog: Table, least: Floats, parallax: bool) -> Table:
    """Slopes, differences of the first and last epoch and, if asked for, parallaxes of all stars of the catalogue.

    The positions' errors grow by a floor for each exposure, which makes the bright stars' residuals as large as their errors; those
    of maps, reference and hidden neighbours, which all exposures of an epoch share, are in the catalogue's motions, of which no
    slope of the same positions is better.

    Parameters
    ----------
    single : SinglePositions
    catalog : Table
    least : ndarray (n, 2, 2)
        Covariance of the catalogue's motions.
    parallax : bool

    Raises
    ------
    MotionError
        If all positions are of one epoch.
    """
    n, epoch = len(catalog), float(catalog["ref_epoch"][0])
    covariance = single.covariance
    for turn in range(ROUNDS):
        found = fit_slopes(single.star, single.time, single.offset, covariance, epoch, n)
        if turn < ROUNDS - 1:
            floor = _floors(single, found.value, epoch)[single.exposure]
            covariance = single.covariance + floor[:, None, None] ** 2 * np.eye(2)
    used = found.used
    two, _, _ = two_epoch_difference(single.star[used], single.time[used], single.offset[used], covariance[used], n)
    error = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    table = Table({"n_positions": found.n_used, "motion_chi2": found.chi2, "motion_degrees": found.degrees})
    for axis, name in enumerate(("pmra", "pmdec")):
        table[f"{name}_slope"] = found.motion[:, axis]
        table[f"{name}_slope_error"] = np.fmax(error[:, 2 + axis], np.sqrt(least[:, axis, axis]))
        table[f"{name}_two_epoch"] = two[:, axis]
    if parallax:
        ra, dec = (np.asarray(catalog[name], float)[single.star] for name in ("ra", "dec"))
        factors = np.empty_like(single.offset)
        for observer, mine in (("l2", single.space), ("earth", ~single.space)):
            if mine.any():
                factors[mine] = parallax_factors(ra[mine], dec[mine], single.time[mine], observer)
        found = fit_slopes(single.star, single.time, single.offset, covariance, epoch, n, factors)
        error = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
        table["parallax"], table["parallax_error"] = found.value[:, 4], error[:, 4]
        for axis, name in enumerate(("pmra", "pmdec")):
            table[f"parallax_{name}_corr"] = found.covariance[:, 4, 2 + axis] / (error[:, 4] * error[:, 2 + axis])
    return table


def _floors(single: SinglePositions, value: Floats, epoch: float) -> Floats:
    """Error floor of each exposure (mas, one axis), from the scatter of its brightest stars about their even motions."""
    out = np.zeros(int(single.exposure.max(initial=-1)) + 1)
    variance = 0.5 * np.trace(single.covariance, axis1=1, axis2=2)
    predicted = value[single.star, :2] + value[single.star, 2:4] * (single.time - epoch)[:, None]
    for k in range(len(out)):
        mine = np.flatnonzero((single.exposure == k) & single.clean & np.isfinite(predicted).all(axis=1))
        if len(mine) < FEWEST_FLOOR:
            continue
        best = mine[np.argsort(variance[mine], kind="stable")[:FLOOR_STARS]]
        left = single.offset[best] - predicted[best]
        scatter = robust_width((left - np.median(left, axis=0)).ravel(), 0.0)
        out[k] = np.sqrt(max(scatter**2 - float(np.median(variance[best])), 0.0))
    return out
