"""The averaged catalogue, the exposure table and the match tables, from solved and linked units."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog
from dpm.kernels.matching import grouped_median
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions, PhotometryOptions
from dpm.models.statistics import MAG_PER_RELATIVE_FLUX
from dpm.models.transform import LinearTransform
from dpm.stages.frame.astrometry import Solution, ZeroPoint
from dpm.stages.frame.epochs import Epochs, solve_epochs
from dpm.stages.frame.field_errors import FieldErrors
from dpm.stages.frame.link import Links
from dpm.stages.frame.photometry import WEIGHTLESS, Band, average_band, band_names
from dpm.stages.frame.positions import Positions, average_positions
from dpm.stages.frame.units import Unit, by_unit, gather

__all__ = ["MEDIANS", "Result", "build_catalog"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEDIANS = ("qfit", "radxs", "chi")
_MEANS = ("sky", "sky_rms")


@dataclass
class Result:
    """What the frame stage writes.

    Parameters
    ----------
    catalog, exposures : Table
        As in the run folder.
    matches : list of Table
        One a unit.
    summary : dict
        Numbers for the log and the provenance.
    field : FieldErrors
        What these stars, or those before them, say of errors.
    """

    catalog: Table
    exposures: Table
    matches: list[Table]
    summary: dict
    field: FieldErrors


def build_catalog(
    units: Sequence[Unit],
    links: Links,
    exposures: Table,
    frame: MasterFrame,
    options: FrameOptions,
    photometry: PhotometryOptions,
    reference: ReferenceCatalog | None = None,
    medians: tuple[str, ...] = MEDIANS,
    field: FieldErrors | None = None,
) -> Result:
    """Average everything.

    Parameters
    ----------
    units : sequence of Unit
        Solved units, in the order of `exposures`.
    links : Links
        Their detections and stars.
    exposures : Table
        Exposure rows of ingest.
    frame : MasterFrame
        Master frame.
    options, photometry
        ``[frame]`` and ``[photometry]``.
    reference : ReferenceCatalog, optional
        If given, positions are compared with it, and what errors do not explain is added to them.
    medians : tuple of str
        Columns of the measurements whose medians over exposures enter the catalogue, band by band.
    field : FieldErrors, optional
        Of other stars of these units, whose zero points then stand as they are; learnt from the stars themselves when None.
    """
    names = band_names(units)
    bands = []
    for name in sorted(set(names)):
        members = [k for k, unit in enumerate(units) if names[k] == name and unit.transform is not None]
        if members:
            floor = field.flux_floors[name] if field is not None else None
            bands.append(average_band(name, members, units, links, photometry, exposures, options.clip_sigma, floor))
    rows = np.flatnonzero(links.star >= 0)
    discrepant = np.zeros(len(links.star), dtype=bool)
    for band in bands:
        discrepant[band.rows] = ~band.values.used
    floors = field.position_floors if field is not None else None
    positions = average_positions(units, links, rows, discrepant[rows], options.clip_sigma, floors)
    epochs = solve_epochs(units, links, rows, positions, bands, frame, reference, options, field)
    coverage = [_coverage(band, units, positions, links) for band in bands]
    often = _often_enough(bands, coverage, links, options.min_fraction) & np.isfinite(positions.x)
    order = np.lexsort((positions.x, np.round(-positions.y, 9)))
    keep = order[often[order]]
    catalog = _star_columns(units, links, rows, positions, discrepant, keep, frame, epochs, options)
    catalog["flags"][epochs.hidden[keep]] |= np.int32(int(StarFlag.HIDDEN_NEIGHBOR))
    catalog["flags"][~epochs.measured[keep]] |= np.int32(int(StarFlag.POSITION_RELATIVE))
    for band, (count, _) in zip(bands, coverage):
        _band_columns(catalog, band, units, links, count, keep, exposures, medians)
    systematic = epochs.systematic * frame.scale * 1000
    catalog.meta.update(
        {
            "master_frame": frame.to_meta(),
            "ref_epoch": epochs.times[-1],
            "epochs": epochs.times,
            "reference": reference.name if reference else "",
            "position_systematic_mas": systematic,
        }
    )
    if links.n_epochs > 1:
        catalog.meta.update(_motion_meta(epochs.zero_point, frame))
    matches = _matches(units, links, rows, positions, bands, keep)
    table = _exposure_columns(units, names, exposures, frame, [len(match) for match in matches])
    matched = sum(len(match) for match in matches)
    summary = {"stars": len(catalog), "matched": matched, "position_systematic_mas": systematic}
    summary["position_errors_relative"] = not epochs.measured[keep].all()
    return Result(catalog, table, matches, summary, epochs.field)


def _star_columns(
    units: Sequence[Unit],
    links: Links,
    rows: Ints,
    positions: Positions,
    discrepant: NDArray[np.bool_],
    keep: Ints,
    frame: MasterFrame,
    epochs: Epochs,
    options: FrameOptions,
) -> Table:
    """Columns that do not belong to a band, sorted from North to South."""
    ra, dec = frame.pixel_to_sky(positions.x[keep], positions.y[keep])
    x_error, y_error = np.sqrt(positions.xx[keep]), np.sqrt(positions.yy[keep])
    steps = frame.sky_steps(positions.x[keep], positions.y[keep])
    on_frame = np.stack([positions.xx, positions.xy, positions.xy, positions.yy], -1)[keep].reshape(-1, 2, 2)
    covariance = steps @ on_frame @ np.swapaxes(steps, 1, 2)
    table = Table()
    table["id"] = np.arange(1, len(keep) + 1, dtype=np.int64)
    table["ra"], table["dec"] = ra, dec
    table["ra_error"], table["dec_error"] = np.sqrt(covariance[:, 0, 0]), np.sqrt(covariance[:, 1, 1])
    table["ra_dec_corr"] = covariance[:, 0, 1] / (table["ra_error"] * table["dec_error"])
    table["ref_epoch"] = np.full(len(keep), epochs.times[-1])
    table["x"], table["y"], table["x_error"], table["y_error"] = positions.x[keep], positions.y[keep], x_error, y_error
    if links.n_epochs > 1:
        _motion_columns(table, epochs.solution, keep, steps)
    table["n_epochs"] = positions.n_epochs[keep]
    when = np.array([unit.epoch for unit in units])[links.unit[rows]]
    first, last = np.full(links.n_stars, np.inf), np.full(links.n_stars, -np.inf)
    star = links.star[rows]
    np.minimum.at(first, star[positions.used], when[positions.used])
    np.maximum.at(last, star[positions.used], when[positions.used])
    table["baseline"] = np.maximum(last - first, 0.0)[keep]
    flags = gather(rows, links.unit, links.starts, units, "flags").astype(np.int32)
    combined = np.zeros(links.n_stars, dtype=np.int32)
    np.bitwise_or.at(combined, star[positions.used], flags[positions.used])
    clipped = ~positions.used & ((flags & WEIGHTLESS) == 0)
    combined[star[clipped | discrepant[rows] & ((flags & WEIGHTLESS) == 0)]] |= int(StarFlag.CLIPPED)
    combined[positions.n_used < options.min_exposures] |= int(StarFlag.FEW_EXPOSURES)
    table["flags"] = combined[keep]
    return table


def _motion_columns(table: Table, solution: Solution, keep: Ints, steps: Floats) -> None:
    """Motions, their errors, and the correlations of all four (Gaia's names)."""
    names = ("ra", "dec", "pmra", "pmdec")
    motion = (steps @ solution.value[keep, 2:, None])[:, :, 0]
    turn = np.zeros((len(keep), 4, 4))
    turn[:, :2, :2] = turn[:, 2:, 2:] = steps
    covariance = turn @ solution.covariance[keep] @ np.swapaxes(turn, 1, 2)
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    table["pmra"], table["pmdec"] = motion.T
    table["pmra_error"], table["pmdec_error"] = error[:, 2], error[:, 3]
    for i, j in ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        table[f"{names[i]}_{names[j]}_corr"] = covariance[:, i, j] / (error[:, i] * error[:, j])


def _motion_meta(zero_point: ZeroPoint, frame: MasterFrame) -> dict[str, object]:
    """What the motions count from, for the catalogue's metadata."""
    if not zero_point.absolute:
        text = "relative: mean motion, rotation and expansion of the stars that tie the epochs are zero"
        return {"pm_zero_point": text}
    mas = 1000 * frame.scale
    return {
        "pm_zero_point": "absolute: every epoch is tied to the reference at its own time",
        "pm_reference_stars": zero_point.n_stars,
        "pm_minus_reference": [-zero_point.offset[0] * mas, zero_point.offset[1] * mas],
        "pm_zero_point_error": [zero_point.error[0] * mas, zero_point.error[1] * mas],
    }


def _band_columns(
    table: Table,
    band: Band,
    units: Sequence[Unit],
    links: Links,
    covered: Ints,
    keep: Ints,
    exposures: Table,
    medians: tuple[str, ...],
) -> None:
    """Add one band's columns."""
    values, name = band.values, band.name
    flux_unit = str(exposures[band.units[0]]["flux_unit"])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(values.mean > 0, values.mean, np.nan)
        mag = -2.5 * np.log10(mean) + band.zero_point
        star = links.star[band.rows]
        single = -2.5 * np.log10(np.where(band.level > 0, band.level, np.nan)) + band.zero_point
        square = np.where(values.used, (single - mag[star]) ** 2, 0.0)
        n = values.n_used
        rms = np.sqrt(np.bincount(star, np.nan_to_num(square), links.n_stars) / (n - 1))
        error = MAG_PER_RELATIVE_FLUX * values.error / mean
    rms[n < 2] = np.nan
    table[f"{name}_mag"], table[f"{name}_mag_error"], table[f"{name}_mag_rms"] = mag[keep], error[keep], rms[keep]
    table[f"{name}_flux"] = values.mean[keep]
    table[f"{name}_flux_error"] = np.where(np.isfinite(values.mean), values.error, np.nan)[keep]
    for column in ("flux", "flux_error"):
        table[f"{name}_{column}"].unit = flux_unit
    for column in ("mag", "mag_error", "mag_rms"):
        table[f"{name}_{column}"].meta = {"system": band.system, "zero_point": band.zero_point}
    used = np.flatnonzero(values.used)
    used = used[np.argsort(star[used], kind="stable")]
    edges = np.searchsorted(star[used], np.arange(links.n_stars + 1))
    parts = by_unit(band.rows, links.unit)
    for column in medians + _MEANS:
        loaded = [units[k].load(column)[part - links.starts[k]] for k, part in parts]
        single = np.concatenate([np.zeros(0), *loaded])
        if column in medians:
            value = grouped_median(single[used], edges)
        else:
            finite = np.isfinite(single[used])
            total = np.bincount(star[used][finite], single[used][finite], links.n_stars)
            with np.errstate(invalid="ignore"):
                value = total / np.bincount(star[used][finite], minlength=links.n_stars)
        table[f"{name}_{column}"] = value[keep]
        if column in _MEANS:
            table[f"{name}_{column}"].unit = flux_unit
    table[f"{name}_n_exposures"] = np.maximum(covered, n)[keep]
    table[f"{name}_n_good"] = n[keep]
    flags = gather(band.rows, links.unit, links.starts, units, "flags").astype(np.int64)
    saturated = np.bincount(star, values.used & ((flags & int(StarFlag.SATURATED)) != 0), links.n_stars)
    table[f"{name}_saturated"] = ((saturated == n) & (n > 0))[keep]


def _coverage(band: Band, units: Sequence[Unit], positions: Positions, links: Links) -> tuple[Ints, Ints]:
    """Exposures of the band whose array holds the star, and how many of these go as deep as those that found it."""
    count = np.zeros(links.n_stars, dtype=np.int64)
    expected = np.zeros(links.n_stars, dtype=np.int64)
    depth = np.array([_depth(unit) for unit in units])
    needed = np.zeros(links.n_stars)
    np.maximum.at(needed, links.star[band.rows], depth[links.unit[band.rows]])
    for k in band.units:
        unit = units[k]
        if unit.transform is None:
            continue
        x, y = positions.x, positions.y
        edge_x, edge_y = unit.outline()
        near = np.flatnonzero((x > edge_x.min() - 2) & (x < edge_x.max() + 2) & (y > edge_y.min() - 2) & (y < edge_y.max() + 2))
        if not len(near):
            continue
        raw_x, raw_y = unit.to_raw(*unit.transform.inverse()(x[near], y[near]))
        x_low, x_high, y_low, y_high = unit.bounds
        inside = (raw_x > x_low - 0.5) & (raw_x < x_high + 0.5) & (raw_y > y_low - 0.5) & (raw_y < y_high + 0.5)
        count[near[inside]] += 1
        expected[near[inside]] += depth[k] <= 1.3 * needed[near[inside]]
    return count, expected


def _depth(unit: Unit) -> float:
    """Flux of the faint end of a unit's detections."""
    positive = unit.flux[unit.flux > 0]
    return float(np.percentile(positive, 10)) if len(positive) else 0.0


def _often_enough(bands: list[Band], coverage: list[tuple[Ints, Ints]], links: Links, fraction: float) -> NDArray[np.bool_]:
    """Stars found in the stated fraction of the exposures that could show them, in one band at least.

    What the ePSF's errors leave around bright stars comes back now and then, real stars in most exposures.
    """
    keep = np.zeros(links.n_stars, dtype=bool)
    for band, (_, expected) in zip(bands, coverage):
        found = np.bincount(links.star[band.rows], minlength=links.n_stars)
        keep |= (found > 0) & (found >= fraction * expected)
    return keep


def _exposure_columns(units: Sequence[Unit], names: list[str], exposures: Table, frame: MasterFrame, matched: list[int]) -> Table:
    """The exposure table with the solution; NaN where a unit was left out."""
    table = exposures.copy()
    table["band"] = names
    table["n_detections"] = [len(unit) for unit in units]
    table["n_matched"] = matched
    table["n_reference"] = [int(unit.fit.used.sum()) if unit.fit is not None else 0 for unit in units]
    nan = LinearTransform(*[float("nan")] * 6)
    for name in ("a", "b", "c", "d", "x_shift", "y_shift"):
        table[name] = [getattr(unit.transform or nan, name) for unit in units]
    table["residual_rms"] = [unit.residual_rms for unit in units]
    table["zero_point"] = [unit.zero_point for unit in units]
    table["zero_point_error"] = [unit.zero_point_error for unit in units]
    table.meta.update({"master_frame": frame.to_meta()})
    return table


def _matches(units: Sequence[Unit], links: Links, rows: Ints, positions: Positions, bands: list[Band], keep: Ints) -> list[Table]:
    """Which detection belongs to which star of the catalogue, with residuals in raw pixels."""
    number = np.full(links.n_stars, -1, dtype=np.int64)
    number[keep] = np.arange(1, len(keep) + 1)
    dmag = np.full(len(links.star), np.nan)
    for band in bands:
        with np.errstate(invalid="ignore", divide="ignore"):
            dmag[band.rows] = -2.5 * np.log10(band.level / band.values.mean[links.star[band.rows]])
    place = np.full(len(links.star), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    tables = []
    for k, unit in enumerate(units):
        mine = np.arange(links.starts[k], links.starts[k + 1])
        mine = mine[links.star[mine] >= 0]
        mine = mine[number[links.star[mine]] > 0]
        local, at = mine - links.starts[k], place[mine]
        table = Table()
        table["id"] = number[links.star[mine]]
        table["row"] = unit.row[local]
        back = (unit.transform or unit.start).inverse()
        du = back.a * positions.residual_x[at] + back.b * positions.residual_y[at]
        dv = back.c * positions.residual_x[at] + back.d * positions.residual_y[at]
        xu, xv, yu, yv = unit.jacobian(unit.u[local], unit.v[local])
        table["dx"], table["dy"] = xu * du + xv * dv, yu * du + yv * dv
        table["dmag"] = dmag[mine]
        table["used"] = positions.used[at]
        tables.append(table)
    return tables
