"""The catalogue from what every exposure said of every star: the averages, errors and calibration of the frame stage, on joint
fits.

A star's position in each exposure is the joint one plus what that exposure alone would move it by.  Their mean with the fit's
weights is
the joint position again; as single measurements they also show each exposure's own error floor and what stands out (method 1 for
bright stars, DESIGN section 6), and fluxes at the joint position are method 2.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.reference import read_reference
from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import read_arrays
from dpm.io.stdpsf import read_stdpsf
from dpm.io.tables import catalog_columns, read_table, write_table
from dpm.models.columns import MEASUREMENT_COLUMNS
from dpm.models.detectors import band_name
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.models.transform import LinearTransform
from dpm.stages.first_pass.place_flags import leans_on_guess
from dpm.stages.frame.catalog import MEDIANS, build_catalog
from dpm.stages.frame.epoch_link import join_epochs
from dpm.stages.frame.geometry import load_units
from dpm.stages.frame.link import Links
from dpm.stages.frame.photometry import band_names
from dpm.stages.frame.units import Unit
from dpm.stages.second_pass.field import SecondPassField
from dpm.stages.second_pass.waves import equivalent_threshold

__all__ = ["Measured", "assemble", "by_exposure", "keep_stars", "links_by_star", "measured_units", "set_solution"]

log = logging.getLogger(__name__)

Measured = dict[str, NDArray]

MAX_CHI = 6.0  # with a twentieth of the light allowed as ePSF error, more than this is no star
SHARP_LIMIT = -0.15  # RADXS of cosmic rays and hot pixels lies below
NEIGHBOR_MODEL_ERROR = 0.02  # of the neighbours' light in the fit box, that an ePSF's error may leave as a star
SHARP_SIGMA = 4.0  # significance that a lack of light around the core needs


def assemble(folder: RunFolder, options: Options) -> dict[str, Any]:
    """Write ``tables/catalog.parquet`` and ``tables/measurements``.

    Parameters
    ----------
    folder : RunFolder
    options : Options
        ``[input] reference``, ``[find]``, ``[frame]``, ``[photometry]`` and ``[distortion]`` count.
    """
    field = SecondPassField.load(folder)
    exposures = read_table(folder.exposures)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    parts, first, n_found, n_kept = [], [], 0, 0
    for number in range(len(field.groups)):
        kept, found, count = _read_group(field, number, options)
        parts.append(kept)
        first.append(n_kept)
        n_found, n_kept = n_found + found, n_kept + count
    rows = by_exposure(field, parts, first)
    names, units = measured_units(field, exposures, frame, options, rows, folder.measurements)
    # What is written need not stay in memory.
    rows = {k: {"star": part["star"]} for k, part in rows.items()}
    links = _link(field, units, rows, frame.scale)
    reference = read_reference(options.input.reference) if options.input.reference else None
    medians = (*MEDIANS, "neighbor_ratio")
    result = build_catalog(units, links, exposures, frame, options.frame, options.photometry, reference, medians)
    for k, (match, name) in enumerate(zip(result.matches, names, strict=True)):
        if k in rows:
            _write_ids(folder.measurements / name, match)
    bands = sorted(set(band_names(units)))
    write_table(folder.catalog, result.catalog, catalog_columns(bands))
    stale = {path.name for path in folder.measurements.glob("*.parquet")} - set(names)
    for name in stale:
        (folder.measurements / name).unlink()
    files = [folder.catalog, *(folder.measurements / name for name in names)]
    return {
        "stars": len(result.catalog),
        "found": n_found,
        "measurements": sum(len(part["star"]) for part in rows.values()),
        "position_systematic_mas": result.summary["position_systematic_mas"],
        "files": [path.relative_to(folder.root).as_posix() for path in files],
        "warnings": [],
    }


def _read_group(field: SecondPassField, number: int, options: Options) -> tuple[list[Measured], int, int]:
    """Measurements of a group, one list a tile, ``id`` numbering its stars in the order of patches; stars found, stars kept."""
    group = field.groups[number]
    limit = equivalent_threshold(options.find.threshold, len(group.bands))
    fewest = min(options.frame.min_exposures, len(group.exposures))
    parts, n_found, n_kept = [], 0, 0
    for tile in (tile for tile in field.tiles if tile.group == number):
        part = read_arrays(field.stars_file("measured", tile.number))
        order = np.lexsort((part["exposure"], part["star"], part["column"], part["row"]))
        part = {name: values[order] for name, values in part.items()}
        key = np.column_stack([part["row"], part["column"], part["star"]])
        new = np.any(key[1:] != key[:-1], axis=1) if len(key) else np.zeros(0, bool)
        part["id"] = np.concatenate([np.zeros(min(len(key), 1), np.int64), np.cumsum(new)])
        n_found += int(part["id"].max(initial=-1)) + 1
        part = keep_stars(part, limit, fewest)
        count = int(part["id"].max(initial=-1)) + 1
        part["id"] += n_kept
        n_kept += count
        parts.append(part)
    return parts, n_found, n_kept


def keep_stars(measured: Measured, limit: float, min_exposures: int) -> Measured:
    """Measurements of what is a star: significant with its neighbours' covariance, and of the ePSF's shape in all exposures
    together."""
    star = measured["id"]
    n = int(star.max(initial=-1)) + 1
    finite = np.isfinite(measured["chi_robust"])
    count = np.bincount(star[finite], minlength=n)
    chi = np.sqrt(np.bincount(star[finite], measured["chi_robust"][finite].astype(float) ** 2, n) / np.maximum(count, 1))
    scale = np.where(measured["scale"] > 0, measured["scale"], 1.0)
    known = np.isfinite(measured["ring"]) & np.isfinite(measured["flux"])
    flux = np.bincount(star[known], (measured["flux"] / scale)[known], n)
    ring = np.bincount(star[known], (measured["ring"] / scale)[known], n)
    variance = np.bincount(star[known], (measured["ring_error"] / scale)[known].astype(float) ** 2, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        radxs, error = ring / flux, np.sqrt(variance) / flux
    saturated = np.bincount(star, (measured["flags"] & int(StarFlag.SATURATED)) != 0, n) > 0
    significance = np.zeros(n)
    significance[star] = measured["star_significance"]
    # What the ePSF's error may leave of the neighbours' light is the same in all exposures.
    ratio = np.bincount(star[finite], np.nan_to_num(measured["neighbor_ratio"][finite], posinf=0.0), n) / np.maximum(count, 1)
    significance /= np.sqrt(1.0 + (NEIGHBOR_MODEL_ERROR * ratio * significance) ** 2)
    sharp = (radxs < SHARP_LIMIT) & (radxs < -SHARP_SIGMA * error)
    enough = np.bincount(star, minlength=n) >= min_exposures
    good = enough & (significance >= limit) & ((chi < MAX_CHI) | saturated) & ~(sharp & ~saturated)
    keep = good[star]
    out = {name: values[keep] for name, values in measured.items()}
    number = np.cumsum(good) - 1
    out["id"] = number[out["id"]]
    return out


def measured_units(
    field: SecondPassField, exposures: Table, frame: MasterFrame, options: Options, rows: dict[int, Measured], destination: Path
) -> tuple[list[str], list[Unit]]:
    """Write one table of measurements an exposure, and have them as the frame stage's averages take them.

    Parameters
    ----------
    field : SecondPassField
    exposures : Table
        ``tables/exposures.parquet``.
    frame : MasterFrame
    options : Options
    rows : dict
        Measurements by row of the exposure table, as `by_exposure` has them.
    destination : Path
        Folder of the tables; it is made.

    Returns
    -------
    names : list of str
        Of the files.
    units : list of Unit
    """
    folder = field.folder
    _flag_exposures(field, exposures, rows)
    destination.mkdir(parents=True, exist_ok=True)
    names = _write_measurements(folder, exposures, rows, destination)
    # The configuration's zero points go by a band's own name, without the year.
    exposures["band"] = [band_name(str(row["detector"]), str(row["filter"])) for row in exposures]
    units = load_units(folder, exposures, frame, options, destination)
    set_solution(units, exposures)
    return names, units


def by_exposure(field: SecondPassField, parts: list[list[Measured]], first: Sequence[int]) -> dict[int, Measured]:
    """Measurements by row of the exposure table, from lists of each group, which are emptied on the way.

    ``star`` becomes ``id`` counted from the group's ``first``; ``group`` is added.
    """
    out: dict[int, Measured] = {}
    for number, (group, lists) in enumerate(zip(field.groups, parts, strict=True)):
        exposure = np.concatenate([part.pop("exposure") for part in lists])
        order = np.argsort(exposure, kind="stable")
        ends = np.searchsorted(exposure[order], np.arange(len(group.exposures) + 1))
        # Column by column: all of them twice would be most of a worker's memory.
        columns = {"star": np.concatenate([part.pop("id") for part in lists])[order] + first[number]}
        for name in [name for name in lists[0] if name not in ("row", "column", "star")]:
            columns[name] = np.concatenate([part.pop(name) for part in lists])[order]
        columns["group"] = np.full(len(order), number)
        for k, one in enumerate(group.exposures):
            out[one.row] = {name: values[ends[k] : ends[k + 1]] for name, values in columns.items()}
    return out


def _flag_exposures(field: SecondPassField, exposures: Table, rows: dict[int, Measured]) -> None:
    """Flags that come from an exposure's ePSF and from its file."""
    for exposure in (exposure for group in field.groups for exposure in group.exposures if exposure.row in rows):
        part = rows[exposure.row]
        guess = leans_on_guess(read_stdpsf(exposure.library, centre=False), part["x"], part["y"])
        part["flags"][guess] |= np.int32(int(StarFlag.EPSF_EXTRAPOLATED))
        if str(exposures["noise_source"][exposure.row]).startswith("gain"):
            part["flags"] |= np.int32(int(StarFlag.NOISE_FALLBACK))


def _write_measurements(folder: RunFolder, exposures: Table, rows: dict[int, Measured], destination: Path) -> list[str]:
    """One table an exposure; exposures without a solution get an empty one."""
    names = []
    for k, row in enumerate(exposures):
        part = rows.get(k)
        table = Table()
        n = len(part["star"]) if part is not None else 0
        for name, value in (("exposure", row["exposure"]), ("detector", row["detector"]), ("filter", row["filter"])):
            table[name] = np.full(n, str(value))
        for column in MEASUREMENT_COLUMNS:
            if column.name in table.colnames:
                continue
            if column.name == "area":
                table["area"] = _area(part, row) if part is not None else np.zeros(0, np.float32)
            elif part is not None and column.name in part:
                table[column.name] = part[column.name]
            elif n == 0 or column.name == "id":
                table[column.name] = np.zeros(n, column.dtype)
        table.meta["flux_unit"] = str(row["flux_unit"])
        path = destination / folder.measurements_file(str(row["exposure"]), str(row["detector"])).name
        write_table(path, table, MEASUREMENT_COLUMNS)
        names.append(path.name)
    return names


def _write_ids(path: Path, match: Any) -> None:
    """Number of the catalogue's star of each measurement, in a table that is written already."""
    table = read_table(path)
    number = np.zeros(len(table), np.int64)
    number[match["row"]] = match["id"]
    table["id"] = number
    write_table(path, table, MEASUREMENT_COLUMNS)


def _area(part: Measured, row: Any) -> NDArray[np.float64]:
    """Pixel area at each star, from the brightness scale of its exposure."""
    zero_point = float(row["zero_point"])
    return np.asarray(10 ** (0.4 * (zero_point if np.isfinite(zero_point) else 0.0)) / part["scale"])


def set_solution(units: list[Unit], exposures: Table) -> None:
    """The frame stage's transforms and zero points."""
    for unit, row in zip(units, exposures):
        values = [float(row[key]) for key in ("a", "b", "c", "d", "x_shift", "y_shift")]
        unit.transform = LinearTransform(*values) if np.isfinite(values).all() else None
        unit.zero_point, unit.zero_point_error = float(row["zero_point"]), float(row["zero_point_error"])
        unit.residual_rms = float(row["residual_rms"])


def links_by_star(field: SecondPassField, units: list[Unit], rows: dict[int, Measured], n_stars: int) -> Links:
    """Links by the ``star`` that each measurement has.

    Parameters
    ----------
    field : SecondPassField
    units : list of Unit
        From `measured_units`.
    rows : dict
        As `by_exposure` has them.
    n_stars : int
        Stars, all groups.
    """
    star = np.concatenate([rows[k]["star"][unit.row] if k in rows else np.zeros(0, np.int64) for k, unit in enumerate(units)])
    starts = np.concatenate([[0], np.cumsum([len(unit) for unit in units])]).astype(np.int64)
    unit_of = np.repeat(np.arange(len(units), dtype=np.int64), np.diff(starts))
    placed = [unit.position() if unit.transform is not None else (unit.u * np.nan, unit.v * np.nan) for unit in units]
    x, y = (np.concatenate([position[axis] for position in placed]) for axis in (0, 1))
    return Links(starts, unit_of, _group_of(field, len(units))[unit_of], x, y, star, n_stars, len(field.groups))


def _group_of(field: SecondPassField, n_units: int) -> NDArray[np.int64]:
    """Group of each row of the exposure table, -1 for none."""
    out = np.full(n_units, -1, np.int64)
    for number, group in enumerate(field.groups):
        out[[exposure.row for exposure in group.exposures]] = number
    return out


def _link(field: SecondPassField, units: list[Unit], rows: dict[int, Measured], scale: float) -> Links:
    """The stars of every group, and which of different epochs are one."""
    links = links_by_star(field, units, rows, 0)
    joined, n_stars = join_epochs(units, _group_of(field, len(units)), links.unit, links.star, links.x, links.y, scale)
    return replace(links, star=joined, n_stars=n_stars)
