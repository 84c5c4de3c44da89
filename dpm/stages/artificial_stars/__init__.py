"""Artificial stars: put into every exposure, found and measured by the second pass itself (DESIGN section 6; paper 1, section 3.2).

Reads the cubes, ``calibration`` and the tables of the second pass; writes ``tables/artificial_stars.parquet``.  Nothing is
written back to the pixels.  Does nothing without ``[artificial_stars] n`` or ``table``.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "next_round", "plan", "work"]

NAME = "artificial_stars"
REVISION = 1
PARTITIONED = False
CONFIG = ("input.reference", "distortion", "find", "frame", "photometry", "artificial_stars")
UPSTREAM = ("ingest", "psf", "perturbation", "brightness", "first_pass", "distortion", "frame", "second_pass")

ROUNDS = ("gather", "recover", "assemble")
TASK_SECONDS = 20.0  # of one task: what a killed worker costs at most
PASS_FACTOR = 2.0  # seconds of a pass over those that the plan of tiles gives for a tile: it is searched and solved twice

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task for each exposure that the frame stage placed: its pixels are gathered."""
    if not (options.artificial_stars.n or options.artificial_stars.table):
        return []
    from dpm.io.tables import read_table
    from dpm.stages.second_pass import gather_tasks
    from dpm.stages.second_pass.field import SecondPassField, files_folder

    shutil.rmtree(files_folder(folder, NAME), ignore_errors=True)
    return gather_tasks(SecondPassField.from_exposures(folder, read_table(folder.exposures), NAME), options)


def next_round(folder: RunFolder, options: Options, rounds: list[list[dict[str, Any]]]) -> list[Task]:
    """Recovery, one task for some passes over one tile, and the table."""
    if len(rounds) >= len(ROUNDS) or not rounds[0]:
        return []
    common: dict[str, Any] = {"step": ROUNDS[len(rounds)], "root": str(folder.root)}
    if common["step"] == "assemble":
        from dataclasses import asdict

        tables = {name: asdict(getattr(options, name)) for name in ("find", "frame", "photometry", "distortion")}
        cost = 1.0 + 1e-4 * sum(result["stars"] for result in rounds[-1])
        return [Task(NAME, "assemble", common | tables, cost)]
    from dpm.stages.artificial_stars.prepare import prepare

    field, n_passes = prepare(folder, options)
    common |= {"threshold": options.find.threshold, "seed": options.artificial_stars.seed}
    tasks = []
    for tile in field.tiles:
        seconds = max(PASS_FACTOR * tile.cost, 1e-3)
        step = max(int(TASK_SECONDS / seconds), 1)
        for first in range(0, n_passes, step):
            last = min(first + step, n_passes)
            arguments = common | {"tile": tile.number, "first": first, "last": last}
            tasks.append(Task(NAME, f"recover_{tile.number}_{first}", arguments, seconds * (last - first)))
    return tasks


def work(task: Task) -> dict[str, Any]:
    """One exposure, some passes over one tile, or the table."""
    arguments = task.arguments
    folder, step = RunFolder(Path(arguments["root"])), arguments["step"]
    out: dict[str, Any] = {"name": task.name, "step": step, "warnings": []}
    if step == "gather":
        from dpm.stages.second_pass.gather import gather_exposure

        exposure, distortion, threshold = (arguments[key] for key in ("exposure", "distortion", "threshold"))
        return out | gather_exposure(folder, exposure, distortion, threshold, NAME)
    if step == "recover":
        from dpm.stages.artificial_stars.recover import recover_tile

        passes = arguments["first"], arguments["last"]
        return out | recover_tile(folder, arguments["tile"], *passes, arguments["seed"], arguments["threshold"])
    from dpm.models.options import DistortionOptions, FindOptions, FrameOptions, PhotometryOptions
    from dpm.stages.artificial_stars.assemble import assemble

    options = Options(
        distortion=DistortionOptions(**arguments["distortion"]), find=FindOptions(**arguments["find"]),
        frame=FrameOptions(**arguments["frame"]), photometry=PhotometryOptions(**arguments["photometry"]),
    )  # fmt: skip
    return out | assemble(folder, options)


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Remove what tasks left for each other, and say what came out."""
    from dpm.stages.second_pass.field import files_folder

    made = next((result for result in results if result["step"] == "assemble"), None)
    shutil.rmtree(files_folder(folder, NAME), ignore_errors=True)
    if made is None:
        return {"stars": 0, "warnings": []}
    return {name: made[name] for name in ("stars", "found", "recovered", "files", "warnings")}
