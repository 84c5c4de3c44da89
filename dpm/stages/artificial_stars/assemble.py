"""The table of artificial stars: what went in beside what came out, averaged as the real stars are."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import read_arrays
from dpm.io.tables import artificial_columns, read_columns, read_table, write_table
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.science.completeness import MAX_DIFFERENCE
from dpm.stages.artificial_stars.files import STAGE, plan_file, recovered_file
from dpm.stages.artificial_stars.recover import MATCH
from dpm.stages.frame.catalog import MEDIANS, build_catalog
from dpm.stages.second_pass.assemble import Measured, by_exposure, keep_stars, links_by_star, measured_units
from dpm.stages.second_pass.field import SecondPassField, files_folder
from dpm.stages.second_pass.waves import equivalent_threshold

__all__ = ["assemble"]


def assemble(folder: RunFolder, options: Options) -> dict[str, Any]:
    """Write ``tables/artificial_stars.parquet``.

    Parameters
    ----------
    folder : RunFolder
    options : Options
        ``[find]``, ``[frame]``, ``[photometry]`` and ``[distortion]`` count.
    """
    field = SecondPassField.load(folder, STAGE)
    exposures = read_table(folder.exposures)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    plan = read_arrays(plan_file(folder))
    n = len(plan["id"])
    distance, parts = np.full(n, np.inf), []
    for number, group in enumerate(field.groups):
        measured, found = _read_group(folder, field, number)
        np.minimum.at(distance, found["id"] - 1, found["distance"])
        limit = equivalent_threshold(options.find.threshold, len(group.bands))
        kept = keep_stars(measured, limit, min(options.frame.min_exposures, len(group.exposures)))
        parts.append(kept)
    # An artificial star has one number in all groups.
    rows = by_exposure(field, [part | {"id": part["star"] - 1} for part in parts], [0] * len(parts))
    _, units = measured_units(field, exposures, frame, options, rows, files_folder(folder, STAGE) / "tables")
    links = links_by_star(field, units, rows, n)
    medians = (*MEDIANS, "neighbor_ratio")
    # Artificial stars tell nothing of the exposures: the frame's zero points stand.
    result = build_catalog(units, links, exposures, frame, options.frame, options.photometry, None, medians, solved=True)
    out = _input_columns(plan, frame)
    row_of = np.full(n, -1, np.int64)
    for k, match in enumerate(result.matches):
        if k in rows:
            row_of[rows[k]["star"][match["row"]]] = match["id"] - 1
    averaged = row_of >= 0
    bands = sorted({name for group in field.groups for name in group.bands})
    out["found"] = distance < MATCH
    _add_output(out, result.catalog, row_of)
    out["recovered"] = averaged & out["found"] & (np.hypot(out["out_x"] - out["in_x"], out["out_y"] - out["in_y"]) < MATCH)
    for band in bands:
        inserted = np.asarray(out[f"in_{band}_mag"], float)
        with np.errstate(invalid="ignore"):
            out["recovered"] &= (np.abs(out[f"out_{band}_mag"] - inserted) < MAX_DIFFERENCE) | ~np.isfinite(inserted)
    out["recovered"] &= ~_on_a_brighter_star(folder, out, bands)
    write_table(folder.artificial_stars, out, artificial_columns(bands))
    return {
        "stars": n,
        "found": int(out["found"].sum()),
        "recovered": int(out["recovered"].sum()),
        "files": [folder.artificial_stars.relative_to(folder.root).as_posix()],
        "warnings": [],
    }


def _read_group(folder: RunFolder, field: SecondPassField, number: int) -> tuple[Measured, Measured]:
    """Measurements and places found of one group, by star; ``id`` numbers the stars with a measurement."""
    out = []
    for step in ("measured", "found"):
        made = recovered_file(folder, step, 0, 0).parent
        tiles = [tile.number for tile in field.tiles if tile.group == number]
        lists = [read_arrays(path) for tile in tiles for path in sorted(made.glob(f"{tile}_*.arrow"))]
        out.append({name: np.concatenate([part[name] for part in lists]) for name in lists[0]})
    measured, found = out
    order = np.lexsort((measured["exposure"], measured["star"]))
    measured = {name: values[order] for name, values in measured.items()}
    measured["id"] = np.unique(measured["star"], return_inverse=True)[1].reshape(-1)
    return measured, found


def _input_columns(plan: Measured, frame: MasterFrame) -> Table:
    """What went in."""
    out = Table({"id": plan["id"]})
    out["in_ra"], out["in_dec"] = frame.pixel_to_sky(plan["x"], plan["y"])
    out["in_x"], out["in_y"] = plan["x"], plan["y"]
    for name in plan:
        if name.endswith("_mag"):
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
        out[f"out_{name}"].unit = catalog[name].unit


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
