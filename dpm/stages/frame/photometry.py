"""Zero points and mean fluxes, band by band."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.models.flags import StarFlag
from dpm.models.options import PhotometryOptions
from dpm.models.statistics import MAG_PER_RELATIVE_FLUX
from dpm.stages.frame.average import MeanValues, mean_values
from dpm.stages.frame.geometry import configured_zero_point
from dpm.stages.frame.link import Links
from dpm.stages.frame.units import NOT_CLEAN, Unit, epoch_groups, gather
from dpm.stages.frame.zero_points import solve_zero_points

__all__ = ["Band", "average_band", "band_names", "magnitude_system"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Systems that headers may have a zero point for, as keys of the configuration; the first that is known wins.
SYSTEMS = {"ab": "AB", "vega": "Vega"}
# Fluxes from wings or from fits that stopped early count only where a star has nothing better.
WEIGHTLESS = int(StarFlag.SATURATED | StarFlag.NOT_CONVERGED)


@dataclass(frozen=True)
class Band:
    """Photometry of one band.

    Parameters
    ----------
    name : str
        Prefix of the catalogue's columns.
    units : list of int
        Its units.
    rows : ndarray (m,), int
        Its linked detections, as indices into the links.
    values : MeanValues
        Mean fluxes of all stars on the central unit's scale.
    level : ndarray (m,)
        Single fluxes on that scale.
    zero_point : float
        From instrumental magnitudes of the central unit to `system`.
    system : str
        ``Vega``, ``AB``, ``instrumental`` or ``configured``.
    """

    name: str
    units: list[int]
    rows: Ints
    values: MeanValues
    level: Floats
    zero_point: float
    system: str


def band_names(units: Sequence[Unit]) -> list[str]:
    """Catalogue prefix of each unit: its band, with the year where the band comes back at another epoch."""
    seen: dict[str, set[int]] = {}
    year_of: dict[int, int] = {}
    for members in epoch_groups(units):
        year = int(np.floor(np.mean([units[k].epoch for k in members])))
        for k in members:
            year_of[k] = year
            seen.setdefault(units[k].band, set()).add(year)
    return [unit.band if len(seen[unit.band]) == 1 else f"{unit.band}_{year_of[k]}" for k, unit in enumerate(units)]


def average_band(
    name: str,
    members: list[int],
    units: Sequence[Unit],
    links: Links,
    photometry: PhotometryOptions,
    exposures: Table,
    clip: float,
    floor: Floats | None = None,
) -> Band:
    """Solve the zero points of one band's units and average its fluxes.

    Where the units' error ``floor`` is known (n_members,), their zero points stand as they are.

    Sets ``zero_point`` and ``zero_point_error`` of the units.
    """
    rows = np.concatenate([np.arange(links.starts[k], links.starts[k + 1]) for k in members])
    rows = rows[links.star[rows] >= 0]
    local = np.full(len(units), -1, dtype=np.int64)
    local[members] = np.arange(len(members))
    unit, star = local[links.unit[rows]], links.star[rows]
    flux = gather(rows, links.unit, links.starts, units, "flux")
    flux_error = gather(rows, links.unit, links.starts, units, "flux_error")
    flags = gather(rows, links.unit, links.starts, units, "flags")
    clean = ((flags & NOT_CLEAN) == 0) & (flux > 0)
    solved = floor is not None
    given = np.array([units[k].zero_point for k in members])
    central = int(np.argmin(np.abs(np.nan_to_num(given, nan=np.inf)))) if solved else _central(members, units)
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = -2.5 * np.log10(np.where(flux > 0, flux, np.nan))
        mag_error = MAG_PER_RELATIVE_FLUX * flux_error / flux
    prior = np.array([units[k].zero_point_prior for k in members])
    if solved:
        zero_point, error = np.nan_to_num(given), np.array([units[k].zero_point_error for k in members])
    else:
        zero_point, error = solve_zero_points(star[clean], unit[clean], mag[clean], mag_error[clean], len(members), central, prior)
    scale = 10 ** (-0.4 * zero_point)
    values = mean_values(
        star,
        unit,
        flux * scale[unit],
        (flux_error * scale[unit]) ** 2,
        scale,
        np.array([_poisson(units[k]) for k in members]),
        (flags & WEIGHTLESS) != 0,
        clean,
        links.n_stars,
        len(members),
        np.unique([units[k].detector for k in members], return_inverse=True)[1],
        clip,
        floor=floor,
    )
    # An ePSF's own error is the same in every exposure: averaging does not help.
    shared = max(units[k].epsf_error for k in members) * values.mean
    values = replace(values, error=np.hypot(values.error, shared))
    for n, k in enumerate(members):
        units[k].zero_point, units[k].zero_point_error = float(zero_point[n]), float(error[n])
    absolute, system = magnitude_system(units[members[central]], exposures[members], central, photometry)
    absolute += 2.5 * np.log10(photometry.encircled_energy.get(units[members[central]].band, 1.0))
    return Band(name, members, rows, values, flux * scale[unit], absolute, system)


def magnitude_system(unit: Unit, rows: Table, central: int, photometry: PhotometryOptions) -> tuple[float, str]:
    """Zero point of a band and the name of its system: given ones first, then the headers' (DESIGN section 4).

    Parameters
    ----------
    unit : Unit
        The central unit, on whose scale the mean fluxes are.
    rows : Table
        Exposure rows of the band's units.
    central : int
        Row of the central unit.
    photometry : PhotometryOptions
        ``[photometry]``.
    """
    given = configured_zero_point(photometry, unit.band, unit.detector)
    if given is not None:
        return given, SYSTEMS.get(photometry.system, "configured")
    for system, name in SYSTEMS.items():
        values = np.asarray(rows[f"zero_point_{system}"], dtype=float)
        # A field of which a part has no zero point would hide a calibration that went wrong there.
        known = np.isfinite(values[central]) if photometry.system == system else np.isfinite(values).all()
        if known and photometry.system in ("auto", system):
            if unit.band not in photometry.encircled_energy:
                log.warning(
                    "%s: %s magnitudes hold the light within the ePSF's normalisation radius, the header's zero point means all of "
                    "it: they are too faint by the rest; [photometry] encircled_energy says how much that is", unit.band, name
                )  # fmt: skip
            return float(values[central]), name
    if photometry.system in SYSTEMS:
        wanted = SYSTEMS[photometry.system]
        log.warning("%s: the header has no %s zero point; magnitudes stay instrumental", unit.band, wanted)
    elif photometry.system == "auto":
        log.warning("%s: not every header has a zero point; magnitudes stay instrumental", unit.band)
    return 0.0, "instrumental"


def _central(members: list[int], units: Sequence[Unit]) -> int:
    """Place among the members of the unit nearest to the middle of the band's field, of those with enough stars."""
    centres = np.array([[float(np.mean(axis)) for axis in units[k].outline()] for k in members])
    enough = np.array([len(units[k]) for k in members])
    distance = np.round(np.hypot(*(centres - np.mean(centres, axis=0)).T), 3)
    distance[enough < 0.5 * np.median(enough)] += 1e9
    return int(np.argmin(distance))


def _poisson(unit: Unit) -> float:
    """Growth of a unit's flux variance with flux, from its brightest clean stars."""
    chosen = unit.bright(50)
    ratio = unit.flux_error[chosen] ** 2 / unit.flux[chosen]
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else 0.0
