"""The table of artificial stars: what went in beside what came out, averaged and linked as the real stars are, chunk by chunk."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.atomic import replacing
from dpm.io.run_folder import RunFolder
from dpm.io.tables import artificial_columns, read_columns, read_table, write_table
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.science.completeness import MAX_DIFFERENCE
from dpm.science.table_access import artificial_bands
from dpm.stages.artificial_stars.files import (
    CHUNK_STARS,
    STAGE,
    check_recovered,
    chunk_file,
    field_file,
    measurements_folder,
    read_chunks,
    read_plan,
    read_recovered,
)
from dpm.stages.artificial_stars.link import epoch_lists, keep_linked, linked_epochs
from dpm.stages.artificial_stars.real import real_units
from dpm.stages.artificial_stars.recover import MATCH
from dpm.stages.frame.catalog import MEDIANS, build_catalog
from dpm.stages.frame.field_errors import FieldErrors
from dpm.stages.second_pass.assemble import Measured, by_exposure, keep_stars, links_by_star, measured_units
from dpm.stages.second_pass.field import SecondPassField
from dpm.stages.second_pass.waves import equivalent_threshold

__all__ = ["assemble_chunk", "join_chunks"]


def assemble_chunk(folder: RunFolder, number: int, n_parts: int, options: Options) -> dict[str, Any]:
    """Average the stars of a chunk and write its part of the table.

    Parameters
    ----------
    folder : RunFolder
    number : int
        Of the chunk.
    n_parts : int
        Tasks that recovered its stars.
    options : Options
        ``[find]``, ``[frame]``, ``[photometry]`` and ``[distortion]`` count.
    """
    field = SecondPassField.load(folder, STAGE)
    exposures = read_table(folder.exposures)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    passes = read_chunks(folder)[number]
    check_recovered(folder, *passes, n_parts)
    plan = read_plan(folder, *passes)
    order = np.argsort(plan["id"])
    plan = {name: values[order] for name, values in plan.items()}
    n = len(order)
    out = _input_columns(plan, frame)
    distance, parts = np.full(n, np.inf), []
    for k, group in enumerate(field.groups):
        tiles = {tile.number for tile in field.tiles if tile.group == k}
        found = read_recovered(folder, "found", tiles, *passes)
        mine = np.searchsorted(plan["id"], found["id"])
        np.minimum.at(distance, mine, found["distance"])
        for band in group.bands:
            out[f"in_{band}_sky_rms"] = np.full(n, np.nan)
            out[f"in_{band}_sky_rms"][mine] = found[f"{band}_sky_rms"]
        limit = equivalent_threshold(options.find.threshold, len(group.bands))
        measured = _by_star(read_recovered(folder, "measured", tiles, *passes))
        parts.append(keep_stars(measured, limit, min(options.frame.min_exposures, len(group.exposures))))
    # An artificial star has one number in all groups.
    parts = [part | {"id": np.searchsorted(plan["id"], part["star"])} for part in parts]
    rows = by_exposure(field, [[part] for part in parts], [0] * len(parts))
    place = measurements_folder(folder, number)
    _, units = measured_units(field, exposures, frame, options, rows, place)
    links = links_by_star(field, units, rows, n)
    if links.n_epochs > 1:
        real, _ = epoch_lists(*real_units(folder, field, exposures, frame, options))
        links = keep_linked(links, linked_epochs(real, *epoch_lists(units, links), n, frame.scale))
    # Artificial stars tell nothing of the exposures, nor of errors: what the real ones told stands.
    result = build_catalog(
        units, links, exposures, frame, options.frame, options.photometry, None, (*MEDIANS, "neighbor_ratio"),
        FieldErrors.load(field_file(folder)),
    )  # fmt: skip
    row_of = np.full(n, -1, np.int64)
    for k, match in enumerate(result.matches):
        if k in rows:
            row_of[rows[k]["star"][match["row"]]] = match["id"] - 1
    out["found"] = distance < MATCH
    _add_output(out, result.catalog, row_of)
    out["recovered"] = _recovered(folder, out, plan, links.star, links.epoch, row_of >= 0)
    bands = sorted({name for group in field.groups for name in group.bands})
    write_table(chunk_file(folder, number), out, artificial_columns(bands), result.catalog.meta)
    shutil.rmtree(place, ignore_errors=True)
    ends = int(plan["id"][0]), int(plan["id"][-1])
    return {"stars": n, "found": int(out["found"].sum()), "recovered": int(out["recovered"].sum()), "ends": ends}


def join_chunks(folder: RunFolder, ends: list[tuple[int, int]]) -> dict[str, Any]:
    """Write ``tables/artificial_stars.parquet``, in the order of the stars' numbers, with some thousand rows in memory.

    Parameters
    ----------
    folder : RunFolder
    ends : list of (int, int)
        Smallest and largest number of a star in each chunk.
    """
    paths = [chunk_file(folder, number) for number in range(len(ends))]
    n = max(last for _, last in ends)
    schema = pq.read_schema(paths[0])
    with replacing(folder.artificial_stars) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for low in range(1, n + 1, CHUNK_STARS):
            high = min(low + CHUNK_STARS, n + 1)
            limits = [("id", ">=", low), ("id", "<", high)]
            parts = [pq.read_table(path, filters=limits) for path, (a, b) in zip(paths, ends) if a < high and b >= low]
            writer.write_table(pa.concat_tables(parts).sort_by("id").cast(schema), row_group_size=CHUNK_STARS)
    return {"files": [folder.artificial_stars.relative_to(folder.root).as_posix()]}


def _by_star(measured: Measured) -> Measured:
    """Measurements in the order of stars and exposures; ``id`` numbers the stars with a measurement."""
    order = np.lexsort((measured["exposure"], measured["star"]))
    measured = {name: values[order] for name, values in measured.items()}
    measured["id"] = np.unique(measured["star"], return_inverse=True)[1].reshape(-1)
    return measured


def _input_columns(plan: Measured, frame: MasterFrame) -> Table:
    """What went in."""
    out = Table({"id": plan["id"]})
    out["in_ra"], out["in_dec"] = frame.pixel_to_sky(plan["x"], plan["y"])
    for name in plan:
        if name in ("x", "y", "pmra", "pmdec") or name.endswith("_mag"):
            out[f"in_{name}"] = plan[name]
    return out


def _add_output(out: Table, catalog: Table, row_of: NDArray[np.int64]) -> None:
    """Columns of the averages; NaN, or 0 for whole numbers, where a star has none."""
    known = row_of >= 0
    for name in catalog.colnames:
        if name == "id":
            continue
        values = np.asarray(catalog[name])
        column = np.zeros(len(row_of), values.dtype) if values.dtype.kind in "biu" else np.full(len(row_of), np.nan)
        column[known] = values[row_of[known]]
        out[f"out_{name}"] = column
        out[f"out_{name}"].unit, out[f"out_{name}"].meta = catalog[name].unit, dict(catalog[name].meta)


def _recovered(
    folder: RunFolder, out: Table, plan: Measured, star: NDArray[np.int64], epoch: NDArray[np.int64], averaged: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Stars that came out as they went in, in every band that they went into, and on no star as bright.

    A star that only older epochs show is where it was at the latest of these.
    """
    bands = list(artificial_bands(out))
    latest = np.full(len(out), -1)
    np.maximum.at(latest, star[star >= 0], epoch[star >= 0])
    x, y = np.array(out["in_x"], float), np.array(out["in_y"], float)
    for k in range(latest.max(initial=-1)):
        x[latest == k], y[latest == k] = plan[f"x_{k}"][latest == k], plan[f"y_{k}"][latest == k]
    put_in = np.any([np.isfinite(out[f"in_{band}_mag"]) for band in bands], axis=0)
    good = put_in & averaged & np.asarray(out["found"]) & (np.hypot(out["out_x"] - x, out["out_y"] - y) < MATCH)
    for band in bands:
        inserted = np.asarray(out[f"in_{band}_mag"], float)
        with np.errstate(invalid="ignore"):
            good &= (np.abs(out[f"out_{band}_mag"] - inserted) < MAX_DIFFERENCE) | ~np.isfinite(inserted)
    return np.asarray(good & ~_on_a_brighter_star(folder, out, bands))


def _on_a_brighter_star(folder: RunFolder, out: Table, bands: list[str]) -> NDArray[np.bool_]:
    """Artificial stars within MATCH of a star of the catalogue that is as bright or brighter in a band."""
    real = read_columns(folder.catalog, ["x", "y", *(f"{band}_mag" for band in bands)])
    tree = cKDTree(np.column_stack([real["x"], real["y"]]))
    near = tree.query_ball_point(np.column_stack([out["in_x"], out["in_y"]]), MATCH)
    result = np.zeros(len(out), bool)
    for band in bands:
        magnitude, mine = np.asarray(real[f"{band}_mag"], float), np.asarray(out[f"in_{band}_mag"], float)
        result |= np.array([bool(np.any(magnitude[others] <= mine[k])) for k, others in enumerate(near)], bool)
    return result
