"""Second pass: all exposures and filters at once (DESIGN section 6).

Finds stars in the residuals of all exposures together and fits each star's one position and its fluxes to every pixel of every
exposure, patch by patch of the master frame.  Reads the cubes, ``calibration``, ``tables/exposures.parquet`` and
``tables/frame_catalog.parquet``; writes ``tables/catalog.parquet`` and ``tables/measurements``.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.base import Footprint, Task

if TYPE_CHECKING:
    from dpm.stages.second_pass.field import SecondPassField

__all__ = [
    "CONFIG",
    "NAME",
    "PARTITIONED",
    "REVISION",
    "UPSTREAM",
    "finalise",
    "gather_tasks",
    "next_round",
    "places",
    "plan",
    "save_tiles",
    "tile_task",
    "work",
]

NAME = "second_pass"
REVISION = 8
PARTITIONED = False
CONFIG = ("input.reference", "distortion", "find", "frame", "photometry")
UPSTREAM = ("ingest", "psf", "perturbation", "brightness", "first_pass", "distortion", "frame")

GATHER_SECONDS_PER_MEGAPIXEL = 0.45
ROUNDS = ("gather", "find", "sweep", "measure", "assemble")

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task for each exposure that the frame stage placed: its pixels are gathered."""
    from dpm.io.tables import read_table
    from dpm.stages.second_pass.field import SecondPassField, files_folder

    shutil.rmtree(files_folder(folder), ignore_errors=True)
    return gather_tasks(SecondPassField.from_exposures(folder, read_table(folder.exposures)), options)


def gather_tasks(field: SecondPassField, options: Options) -> list[Task]:
    """One task for each exposure, of the field's stage."""
    tasks = []
    for exposure in (exposure for group in field.groups for exposure in group.exposures):
        arguments: dict[str, Any] = {"step": "gather", "root": str(field.folder.root), "exposure": exposure.name}
        arguments["distortion"] = options.distortion.source
        arguments["threshold"] = options.find.threshold
        cost = 0.05 + GATHER_SECONDS_PER_MEGAPIXEL * exposure.shape[0] * exposure.shape[1] / 1e6
        tasks.append(Task(field.stage, f"gather_{exposure.name}", arguments, cost))
    return tasks


def next_round(folder: RunFolder, options: Options, rounds: list[list[dict[str, Any]]]) -> list[Task]:
    """Finding, two rounds of joint fits with frozen surroundings (the second measures), and the catalogue."""
    if len(rounds) >= len(ROUNDS) or not rounds[0]:
        return []
    from dpm.stages.second_pass.field import SecondPassField, plan_file

    step = ROUNDS[len(rounds)]
    if step == "assemble":
        from dataclasses import asdict

        common: dict[str, Any] = {"step": step, "root": str(folder.root), "reference": options.input.reference}
        tables = {name: asdict(getattr(options, name)) for name in ("find", "frame", "photometry", "distortion")}
        cost = 1.0 + 1e-5 * sum(result["stars"] for result in rounds[-1])
        return [Task(NAME, "assemble", common | tables, cost)]
    field = SecondPassField.load(folder) if plan_file(folder).exists() else save_tiles(folder)
    return [tile_task(field, options, step, tile.number) for tile in field.tiles]


def save_tiles(folder: RunFolder, stage: str = NAME, **wanted: Any) -> SecondPassField:
    """Plan the tiles of a stage, for which every exposure has to be gathered, and write the plan; ``wanted`` as `plan_tiles`."""
    from dpm.io.tables import read_table
    from dpm.stages.second_pass.field import SecondPassField, plan_tiles

    field = SecondPassField.from_exposures(folder, read_table(folder.exposures), stage)
    field = plan_tiles(field, (field.geometries(k) for k in range(len(field.groups))), **wanted)
    field.save()
    return field


def tile_task(field: SecondPassField, options: Options, step: str, number: int) -> Task:
    """One step of one tile: ``find``, ``sweep`` or ``measure``."""
    arguments = {"step": step, "root": str(field.folder.root), "threshold": options.find.threshold, "tile": number}
    return Task(NAME, f"{step}_{number}", arguments, field.tiles[number].cost)


def work(task: Task) -> dict[str, Any]:
    """One step of one exposure or tile, or the catalogue."""
    arguments = task.arguments
    folder, step = RunFolder(Path(arguments["root"])), arguments["step"]
    out: dict[str, Any] = {"name": task.name, "step": step, "warnings": []}
    if step == "gather":
        from dpm.stages.second_pass.gather import gather_exposure

        return out | gather_exposure(folder, arguments["exposure"], arguments["distortion"], arguments["threshold"])
    if step == "assemble":
        from dpm.stages.second_pass.assemble import assemble

        return out | assemble(folder, _options(arguments))
    from dpm.stages.second_pass.tasks import find_tile, solve_tile

    if step == "find":
        return out | find_tile(folder, arguments["tile"], arguments["threshold"])
    source = "found" if step == "sweep" else "sweep"
    return out | solve_tile(folder, arguments["tile"], step, source, step == "measure")


def _options(arguments: dict[str, Any]) -> Options:
    from dpm.models.options import DistortionOptions, FindOptions, FrameOptions, InputOptions, PhotometryOptions

    return Options(
        input=InputOptions(reference=arguments["reference"]),
        distortion=DistortionOptions(**arguments["distortion"]),
        find=FindOptions(**arguments["find"]),
        frame=FrameOptions(**arguments["frame"]),
        photometry=PhotometryOptions(**arguments["photometry"]),
    )


def places(folder: RunFolder) -> dict[int, Footprint]:
    """Where the tiles lie."""
    from dpm.stages.second_pass.field import footprints

    return footprints(folder)


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Remove what tasks left for each other, and say what came out."""
    from dpm.stages.second_pass.field import files_folder, plan_file

    # The plan stays: a run killed before the stage is closed asks again what tasks there were.
    for path in files_folder(folder).glob("*"):
        if path != plan_file(folder):
            shutil.rmtree(path)
    made = next(result for result in results if result["step"] == "assemble")
    by_step = {step: [result for result in results if result["step"] == step] for step in ROUNDS}
    warnings = [text for result in results for text in result["warnings"]]
    for text in warnings:
        logger.warning(text)
    return {
        "stars": made["stars"],
        "measurements": made["measurements"],
        "masked_pixels": sum(result["masked"] for result in by_step["find"]),
        "last_change": max((result["change"] for result in by_step["measure"]), default=0.0),
        "position_systematic_mas": made["position_systematic_mas"],
        "warnings": warnings,
    }
