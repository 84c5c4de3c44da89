"""The averaged catalogue, the exposure table and the match tables, from solved and linked units."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.reference import ReferenceCatalog
from dpm.kernels.matching import grouped_median
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions, PhotometryOptions
from dpm.models.transform import LinearTransform
from dpm.stages.frame.average import MEDIAN_CHI2, MeanPositions, mean_positions
from dpm.stages.frame.field import reference_points
from dpm.stages.frame.link import Links
from dpm.stages.frame.match import fit_pairs, mutual_pairs
from dpm.stages.frame.photometry import WEIGHTLESS, Band, average_band, band_names
from dpm.stages.frame.units import NOT_CLEAN, Unit, by_unit, epoch_groups, gather, match_radius

__all__ = ["Result", "build_catalog"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Stars around each star that it is compared with the reference by.
NEIGHBORS = 25
_MEDIANS = ("qfit", "radxs", "chi")
_MEANS = ("sky", "sky_rms")


@dataclass
class _Positions:
    """Positions of all stars: at their last epoch, and for every detection the mean of its own epoch."""

    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats
    epoch: Ints
    n_used: Ints
    n_epochs: Ints
    used: NDArray[np.bool_]
    residual_x: Floats
    residual_y: Floats
    by_epoch: list[MeanPositions]


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
    """

    catalog: Table
    exposures: Table
    matches: list[Table]
    summary: dict


def build_catalog(
    units: Sequence[Unit],
    links: Links,
    exposures: Table,
    frame: MasterFrame,
    options: FrameOptions,
    photometry: PhotometryOptions,
    reference: ReferenceCatalog | None = None,
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
    """
    names = band_names(units)
    bands = []
    for name in sorted(set(names)):
        members = [k for k, unit in enumerate(units) if names[k] == name and unit.transform is not None]
        if members:
            bands.append(average_band(name, members, units, links, photometry, exposures, options.clip_sigma))
    rows = np.flatnonzero(links.star >= 0)
    discrepant = np.zeros(len(links.star), dtype=bool)
    for band in bands:
        discrepant[band.rows] = ~band.values.used
    positions = _positions(units, links, rows, discrepant[rows], options.clip_sigma)
    epochs = [float(np.mean([units[k].epoch for k in members])) for members in epoch_groups(units)]
    _age(positions, links, epochs)
    radius = match_radius([units[k] for k in epoch_groups(units)[-1]], options.match_radius, frame.scale)
    extra = _systematic(positions, links, frame, reference, epochs[-1], radius, options.clip_sigma)
    positions.xx += extra[0]
    positions.yy += extra[1]
    systematic = float(np.sqrt(np.median(0.5 * (extra[0] + extra[1])))) if links.n_stars else 0.0
    coverage = [_coverage(band, units, positions, links) for band in bands]
    often = _often_enough(bands, coverage, links, options.min_fraction) & np.isfinite(positions.x)
    order = np.lexsort((positions.x, np.round(-positions.y, 9)))
    keep = order[often[order]]
    catalog = _star_columns(units, links, rows, positions, discrepant, keep, frame, epochs, options)
    for band, (count, _) in zip(bands, coverage):
        _band_columns(catalog, band, units, links, count, keep, exposures)
    catalog.meta.update(
        {
            "master_frame": frame.to_meta(),
            "ref_epoch": epochs[-1],
            "epochs": epochs,
            "reference": reference.name if reference else "",
            "position_systematic_mas": systematic * frame.scale * 1000,
        }
    )
    matches = _matches(units, links, rows, positions, bands, keep)
    table = _exposure_columns(units, names, exposures, frame, [len(match) for match in matches])
    matched = sum(len(match) for match in matches)
    summary = {"stars": len(catalog), "matched": matched, "position_systematic_mas": systematic * frame.scale * 1000}
    return Result(catalog, table, matches, summary)


def _positions(
    units: Sequence[Unit], links: Links, rows: Ints, discrepant: NDArray[np.bool_], clip: float
) -> _Positions:
    """Mean positions of every epoch, the latest one of each star, and the residuals of all detections."""
    n, n_units = links.n_stars, len(units)
    flags = gather(rows, links.unit, links.starts, units, "flags").astype(np.int64)
    xx, xy, yy = _covariance(rows, links, units)
    out = _Positions(
        *(np.full(n, np.nan) for _ in range(5)),
        epoch=np.full(n, -1, dtype=np.int64),
        n_used=np.zeros(n, dtype=np.int64),
        n_epochs=np.zeros(n, dtype=np.int64),
        used=np.zeros(len(rows), dtype=bool),
        residual_x=np.full(len(rows), np.nan),
        residual_y=np.full(len(rows), np.nan),
        by_epoch=[],
    )
    pool = np.unique([f"{unit.band} {unit.detector}" for unit in units], return_inverse=True)[1]
    default = 0.01 * float(np.min([u.transform.scale for u in units if u.transform is not None]))
    for number in range(links.n_epochs):
        k = np.flatnonzero(links.epoch[rows] == number)
        part, star, unit = rows[k], links.star[rows[k]], links.unit[rows[k]]
        # A measurement clipped for its flux is no better for the position, unless nothing would be left.
        weightless = ((flags[k] & WEIGHTLESS) != 0) | discrepant[k]
        clean = (flags[k] & NOT_CLEAN) == 0
        mean = mean_positions(
            star, unit, links.x[part], links.y[part], (xx[k], xy[k], yy[k]), weightless, clean, n, n_units, pool, clip, default
        )
        out.by_epoch.append(mean)
        here = mean.n_used > 0
        for name in ("x", "y", "xx", "xy", "yy"):
            getattr(out, name)[here] = getattr(mean, name)[here]
        out.epoch[here] = number
        out.n_used += mean.n_used
        out.n_epochs += here
        out.used[k] = mean.used
        out.residual_x[k], out.residual_y[k] = links.x[part] - mean.x[star], links.y[part] - mean.y[star]
        for index in np.unique(unit):
            ratio = units[index].transform.scale if units[index].transform is not None else 1.0
            units[index].position_floor = float(mean.floor[index]) / ratio
            units[index].residual_rms = float(mean.rms[index]) / ratio
    return out


def _covariance(rows: Ints, links: Links, units: Sequence[Unit]) -> tuple[Floats, Floats, Floats]:
    """Formal covariance of each detection on the master frame: the fit's, and that of the unit's transform."""
    parts: list[tuple[Floats, Floats, Floats]] = []
    for k, part in by_unit(rows, links.unit):
        unit = units[k]
        local = part - links.starts[k]
        t = unit.transform or unit.start
        vx, vy = unit.x_error[local] ** 2, unit.y_error[local] ** 2
        extra = unit.fit.position_variance(unit.u[local], unit.v[local]) if unit.fit is not None else 0.0
        parts.append(
            (t.a**2 * vx + t.b**2 * vy + extra, t.a * t.c * vx + t.b * t.d * vy, t.c**2 * vx + t.d**2 * vy + extra)
        )
    if not parts:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    return tuple(np.concatenate([part[i] for part in parts]) for i in range(3))  # type: ignore[return-value]


def _age(positions: _Positions, links: Links, epochs: list[float]) -> None:
    """Stars not seen at the latest epoch keep their position; their errors grow by the field's motions since then."""
    latest = positions.by_epoch[-1]
    for number in range(links.n_epochs - 1):
        older = positions.by_epoch[number]
        both = (older.n_used > 0) & (latest.n_used > 0)
        alone = positions.epoch == number
        if not alone.any():
            continue
        if both.sum() >= 10:
            shifts = np.concatenate([(latest.x - older.x)[both], (latest.y - older.y)[both]])
            spread = 1.4826 * float(np.median(np.abs(shifts)))
        else:
            spread = 0.5
        positions.xx[alone] += spread**2
        positions.yy[alone] += spread**2
        log.info("%d stars of epoch %.2f are not seen at %.2f", int(alone.sum()), epochs[number], epochs[-1])


def _systematic(
    positions: _Positions,
    links: Links,
    frame: MasterFrame,
    reference: ReferenceCatalog | None,
    epoch: float,
    radius: float,
    clip: float,
) -> tuple[Floats, Floats]:
    """Variance (x and y, master pixels squared) against the reference that neither side's errors explain, star by star.

    Distortion that is left in the exposures is common to neighbouring stars and does not average out as the scatter over
    exposures suggests.  It is measured from the `NEIGHBORS` nearest stars that are in the reference too; zeros where
    too few are.
    """
    none = np.zeros(links.n_stars), np.zeros(links.n_stars)
    if reference is None:
        return none
    target = reference_points(reference, frame, epoch)
    variance = 0.5 * (positions.xx + positions.yy)
    chosen = np.flatnonzero((positions.epoch == links.n_epochs - 1) & (positions.n_used >= 2) & np.isfinite(variance))
    chosen = chosen[variance[chosen] <= 4 * np.median(variance[chosen])] if len(chosen) else chosen
    i, j = mutual_pairs(positions.x[chosen], positions.y[chosen], target.x, target.y, 2.0 * radius)
    i = chosen[i]
    if len(i) < NEIGHBORS:
        return none
    formal = variance[i] + target.error[j] ** 2
    fit = fit_pairs(
        positions.x[i], positions.y[i], target.x[j], target.y[j], LinearTransform(), np.sqrt(formal), clip
    )
    if fit is None:
        return none
    x, y = fit.transform(positions.x[i], positions.y[i])
    tree = cKDTree(np.column_stack([positions.x[i], positions.y[i]]))
    good = np.flatnonzero(np.isfinite(positions.x))
    _, near = tree.query(np.column_stack([positions.x[good], positions.y[good]]), k=NEIGHBORS)
    out = none
    for square, extra in zip(((x - target.x[j]) ** 2, (y - target.y[j]) ** 2), out):
        # Robust in units of the errors, so that a wrong pair or a blend among the neighbours does not count.
        excess = np.median((square / formal)[near], axis=1) / MEDIAN_CHI2 - 1
        extra[good] = np.maximum(excess, 0.0) * np.median(formal[near], axis=1)
    return out


def _star_columns(
    units: Sequence[Unit],
    links: Links,
    rows: Ints,
    positions: _Positions,
    discrepant: NDArray[np.bool_],
    keep: Ints,
    frame: MasterFrame,
    epochs: list[float],
    options: FrameOptions,
) -> Table:
    """Columns that do not belong to a band, sorted from North to South."""
    mas = 1000 * frame.scale
    ra, dec = frame.pixel_to_sky(positions.x[keep], positions.y[keep])
    x_error, y_error = np.sqrt(positions.xx[keep]), np.sqrt(positions.yy[keep])
    table = Table()
    table["id"] = np.arange(1, len(keep) + 1, dtype=np.int64)
    table["ra"], table["dec"] = ra, dec
    table["ra_error"], table["dec_error"] = x_error * mas, y_error * mas
    # East is against x.
    table["ra_dec_corr"] = -positions.xy[keep] / (x_error * y_error)
    table["ref_epoch"] = np.full(len(keep), epochs[-1])
    table["x"], table["y"], table["x_error"], table["y_error"] = positions.x[keep], positions.y[keep], x_error, y_error
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


def _band_columns(
    table: Table,
    band: Band,
    units: Sequence[Unit],
    links: Links,
    covered: Ints,
    keep: Ints,
    exposures: Table,
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
        error = 1.0857362 * values.error / mean
    rms[n < 2] = np.nan
    table[f"{name}_mag"], table[f"{name}_mag_error"], table[f"{name}_mag_rms"] = mag[keep], error[keep], rms[keep]
    table[f"{name}_flux"], table[f"{name}_flux_error"] = values.mean[keep], values.error[keep]
    for column in ("flux", "flux_error"):
        table[f"{name}_{column}"].unit = flux_unit
    for column in ("mag", "mag_error", "mag_rms"):
        table[f"{name}_{column}"].meta = {"system": band.system, "zero_point": band.zero_point}
    used = np.flatnonzero(values.used)
    used = used[np.argsort(star[used], kind="stable")]
    edges = np.searchsorted(star[used], np.arange(links.n_stars + 1))
    parts = by_unit(band.rows, links.unit)
    for column in _MEDIANS + _MEANS:
        single = np.concatenate([units[k].load(column)[part - links.starts[k]] for k, part in parts]).astype(float)
        if column in _MEDIANS:
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


def _coverage(band: Band, units: Sequence[Unit], positions: _Positions, links: Links) -> tuple[Ints, Ints]:
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
        near = np.flatnonzero(
            (x > edge_x.min() - 2) & (x < edge_x.max() + 2) & (y > edge_y.min() - 2) & (y < edge_y.max() + 2)
        )
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


def _often_enough(
    bands: list[Band], coverage: list[tuple[Ints, Ints]], links: Links, fraction: float
) -> NDArray[np.bool_]:
    """Stars found in the stated fraction of the exposures that could show them, in one band at least.

    What the ePSF's errors leave around bright stars comes back now and then, real stars in most exposures.
    """
    keep = np.zeros(links.n_stars, dtype=bool)
    for band, (_, expected) in zip(bands, coverage):
        found = np.bincount(links.star[band.rows], minlength=links.n_stars)
        keep |= (found > 0) & (found >= fraction * expected)
    return keep


def _exposure_columns(
    units: Sequence[Unit], names: list[str], exposures: Table, frame: MasterFrame, matched: list[int]
) -> Table:
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


def _matches(
    units: Sequence[Unit], links: Links, rows: Ints, positions: _Positions, bands: list[Band], keep: Ints
) -> list[Table]:
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
