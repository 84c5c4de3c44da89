"""The frame stage's one task: read the run folder, solve, write the tables."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from dpm.io.cubes import read_exposure_table
from dpm.io.errors import InputError
from dpm.io.reference import read_reference
from dpm.io.run_folder import RunFolder
from dpm.io.tables import catalog_columns, write_table
from dpm.models.columns import EXPOSURE_COLUMNS, MATCH_COLUMNS
from dpm.models.options import Options
from dpm.stages.frame.catalog import Result, build_catalog
from dpm.stages.frame.field import solve_field
from dpm.stages.frame.geometry import load_units, make_frame
from dpm.stages.frame.link import link_field
from dpm.stages.frame.photometry import band_names

__all__ = ["solve_and_write"]

log = logging.getLogger(__name__)


def solve_and_write(folder: RunFolder, options: Options) -> dict[str, Any]:
    """Solve the field of a run folder and write catalogue, exposures and matches.

    Returns
    -------
    dict
        Numbers for the log, warnings, and the files written.
    """
    exposures = read_exposure_table(folder)
    if not len(exposures):
        raise InputError(folder.cubes, "input.exposures", "there are no exposures", "Run the ingest stage first")
    exposures = exposures[np.lexsort((exposures["detector"], exposures["exposure"], exposures["epoch"]))]
    frame = make_frame(folder, exposures, options.frame.scale)
    units = load_units(folder, exposures, frame, options)
    reference = read_reference(options.input.reference) if options.input.reference else None
    registration = solve_field(units, frame, options.frame, reference)
    solved = sum(unit.transform is not None for unit in units)
    needed = min(options.frame.min_exposures, solved)
    links = link_field(units, options.frame.match_radius, needed, frame.scale)
    result = build_catalog(units, links, exposures, frame, options.frame, options.photometry, reference)
    files = _write(folder, result, sorted(set(band_names(units))))
    warnings = [text for unit in units for text in unit.warnings]
    bands = {unit.band for unit in units}
    for option in ("zero_points", "encircled_energy"):
        for key in getattr(options.photometry, option):
            if key.partition(".")[0] not in bands:
                warnings.append(f"[photometry] {option}: there is no band {key!r}; the bands are {', '.join(sorted(bands))}")
                log.warning(warnings[-1])
    if len(result.catalog) and result.summary["position_errors_relative"]:
        warnings.append(
            "no reference catalogue measured the distortion that is left, and it is common to all exposures: ra_error and "
            "dec_error are too small for absolute positions (flag POSITION_RELATIVE); give [input] reference, or a distortion file"
        )
        log.warning(warnings[-1])
    if not len(result.catalog):
        warnings.append(f"no star was found in {needed} exposures; the catalogue is empty")
        log.warning(warnings[-1])
    return {
        **result.summary,
        "exposures": solved,
        "left_out": len(units) - solved,
        "n_reference": int(registration["n_reference"]),
        "warnings": warnings,
        "files": files,
    }


def _write(folder: RunFolder, result: Result, bands: list[str]) -> list[str]:
    """Write the tables; the catalogue comes last, so that it is never newer than what it rests on."""
    folder.matches.mkdir(parents=True, exist_ok=True)
    files = []
    for row, table in zip(result.exposures, result.matches):
        path = folder.matches_file(str(row["exposure"]), str(row["detector"]))
        write_table(path, table, MATCH_COLUMNS)
        files.append(path)
    for stale in set(folder.matches.glob("*.parquet")) - set(files):
        stale.unlink()
    write_table(folder.exposures, result.exposures, EXPOSURE_COLUMNS)
    write_table(folder.frame_catalog, result.catalog, catalog_columns(bands))
    return [path.relative_to(folder.root).as_posix() for path in [folder.exposures, folder.frame_catalog]]
