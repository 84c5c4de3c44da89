"""First pass: find and measure the stars of every exposure on its own; one part an exposure of a detector.

Reads the cubes and ``calibration/psf`` (the exposure's own ePSF where there is one); writes
``tables/detections/<exposure>_<detector>.parquet``.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpm.io.brightness_file import read_epsf
from dpm.io.cubes import read_exposure, read_exposure_table
from dpm.io.run_folder import RunFolder
from dpm.io.tables import write_table
from dpm.models.columns import DETECTION_COLUMNS
from dpm.models.options import FindOptions, Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "first_pass"
REVISION = 6
PARTITIONED = True
CONFIG = ("find",)
UPSTREAM = ("ingest", "psf", "perturbation", "brightness")

SECONDS_PER_MEGAPIXEL = 0.3  # measured on a crowded 2048 x 2048 frame, reading and writing included

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task for each exposure of each detector.

    Parameters
    ----------
    folder : RunFolder
    options : Options
        ``[find]`` counts.

    Returns
    -------
    list of Task
    """
    tasks = []
    for row in read_exposure_table(folder):
        exposure, detector, filter_name = str(row["exposure"]), str(row["detector"]), str(row["filter"])
        own = folder.perturbed_psf_file(exposure, detector, filter_name)
        arguments = {
            "cube": str(folder.cubes / str(row["cube"])),
            "index": int(row["index"]),
            "psf": str(own if own.exists() else folder.psf_file(detector, filter_name)),
            "brightness": str(term) if (term := folder.brightness_file(detector, filter_name)).exists() else "",
            "output": str(folder.detections_file(exposure, detector)),
            "flux_unit": str(row["flux_unit"]),
            "find": asdict(options.find),
        }
        cost = 0.05 + SECONDS_PER_MEGAPIXEL * int(row["nx"]) * int(row["ny"]) / 1e6
        tasks.append(Task(NAME, f"{exposure}_{detector}", arguments, cost))
    return tasks


def work(task: Task) -> dict[str, Any]:
    """Measure one exposure and write its table.

    Returns
    -------
    dict
        Numbers of stars by kind, and the file written.
    """
    from dpm.stages.first_pass.measure import measure_exposure
    from dpm.stages.first_pass.table import detection_table

    arguments = task.arguments
    image = read_exposure(Path(arguments["cube"]), arguments["index"])
    epsf = read_epsf(arguments["psf"], arguments["brightness"])
    measured = measure_exposure(image, epsf, FindOptions(**arguments["find"]))
    table = detection_table(image, epsf, measured, arguments["flux_unit"])
    output = Path(arguments["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_table(output, table, DETECTION_COLUMNS)
    flags = table["flags"]
    return {
        "name": task.name,
        "n_detections": len(table),
        "n_saturated": int((flags & 1 > 0).sum()) if len(table) else 0,
        "files": [f"{output.parent.parent.name}/{output.parent.name}/{output.name}"],
    }


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Say how much was found; exposures without a star are named."""
    total = sum(result["n_detections"] for result in results)
    warnings = [f"{result['name']}: no star found in this exposure" for result in results if result["n_detections"] == 0]
    for text in warnings:
        logger.warning(text)
    wanted = {folder.detections_file(*_split(folder, result["name"])).name for result in results}
    for stale in folder.detections.glob("*.parquet"):
        if stale.name not in wanted:
            stale.unlink()
    return {
        "exposures": len(results),
        "detections": total,
        "saturated": sum(result["n_saturated"] for result in results),
        "warnings": warnings,
    }


def _split(folder: RunFolder, name: str) -> tuple[str, str]:
    exposure, _, detector = name.rpartition("_")
    return exposure, detector
