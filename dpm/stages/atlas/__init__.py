"""Atlas: stacks of every band and epoch, pictures in colour, and pages that zoom (docs/atlas.md).

Exposures are gathered, with the light of the catalogue's stars, which tells cosmic rays from stars' cores; tasks drizzle blocks of
a stack; others join blocks into FITS files, and make the pictures.  Reads the cubes, ``calibration`` and the tables of the second
pass; writes ``images/atlas*``.  Does nothing without ``[atlas] make``.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "SHARED_ROUND", "UPSTREAM", "finalise", "next_round", "plan", "work"]

NAME = "atlas"
REVISION = 1
PARTITIONED = True
CONFIG = ("distortion", "find.threshold", "atlas")
UPSTREAM = ("ingest", "psf", "perturbation", "brightness", "first_pass", "distortion", "frame", "second_pass")

ROUNDS = ("gather", "drizzle", "join", "picture")
SHARED_ROUND = ROUNDS.index("drizzle")
# Measured: seconds a megapixel of an exposure, of an exposure's part of a block, and of a file; and pictures over files.
GATHER_SECONDS, DRIZZLE_SECONDS, WRITE_SECONDS, PICTURE = 2.0, 0.5, 0.1, 8.0

log = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task for each exposure that the frame stage placed: its pixels are gathered."""
    if not options.atlas.make:
        return []
    from dpm.stages.atlas.prepare import begin

    made = begin(folder, options.atlas)
    arguments: dict[str, Any] = {"step": "gather", "root": str(folder.root)}
    arguments |= {"source": options.distortion.source, "threshold": options.find.threshold}
    return [
        Task(NAME, f"gather_{name}", arguments | {"exposure": name}, 0.05 + GATHER_SECONDS * shape[0] * shape[1] / 1e6)
        for name, shape in made.exposures
    ]


def next_round(folder: RunFolder, options: Options, rounds: list[list[dict[str, Any]]]) -> list[Task]:
    """Blocks of every stack, the FITS files, the pictures."""
    if len(rounds) >= len(ROUNDS) or not rounds[0]:
        return []
    from dpm.stages.atlas.layout import BLOCK, AtlasPlan
    from dpm.stages.atlas.prepare import choose_pictures, place_sky

    step = ROUNDS[len(rounds)]
    common: dict[str, Any] = {"step": step, "root": str(folder.root)}
    if step == "drizzle":
        plan, touching = place_sky(folder, rounds[0])
        seconds = DRIZZLE_SECONDS * BLOCK**2 / 1e6
        return [
            Task(NAME, f"drizzle_{k}_{j}_{i}", common | {"stack": k, "block": [j, i]}, 0.1 + seconds * touching[k][j, i])
            for k, blocks in enumerate(plan.blocks)
            for j, i in blocks
        ]
    plan = AtlasPlan.load(folder)
    seconds = 0.2 + WRITE_SECONDS * plan.frame.nx * plan.frame.ny / 1e6
    if step == "join":
        results = [{key: part[key] for key in ("stack", "pixels", "rejected", "scatter")} for part in rounds[1]]
        tasks = []
        for k in range(len(plan.stacks)):
            stack = common | {"stack": k, "parts": _of(results, k)}
            for suffix, box in plan.file_boxes():
                tasks.append(Task(NAME, f"join_{k}{suffix}", stack | {"suffix": suffix, "box": list(box)}, seconds))
        return tasks
    pictures = choose_pictures(plan, options.atlas.colour_bands)
    return [
        Task(NAME, f"picture_{name}", common | {"name": name, "stacks": stacks}, PICTURE * seconds)
        for name, stacks in pictures.items()
    ]


def _of(results: list[dict[str, Any]], stack: int) -> dict[str, Any]:
    """Sums over a stack's blocks."""
    mine = [part for part in results if part["stack"] == stack]
    scatters = sorted(part["scatter"] for part in mine if part["scatter"] is not None)
    sums = {key: sum(part[key] for part in mine) for key in ("pixels", "rejected")}
    return sums | {"scatter": scatters[len(scatters) // 2] if scatters else None}


def work(task: Task) -> dict[str, Any]:
    """One exposure, block, file, or picture."""
    from dpm.stages.atlas.layout import AtlasPlan

    told = task.arguments
    plan, step = AtlasPlan.load(RunFolder(Path(told["root"]))), told["step"]
    out: dict[str, Any] = {"step": step}
    if step == "gather":
        from dpm.stages.atlas.exposure import gather_exposure

        return out | {"exposure": told["exposure"]} | gather_exposure(plan, told["exposure"], told["source"], told["threshold"])
    if step == "drizzle":
        from dpm.stages.atlas.drizzle_cells import drizzle_block

        return out | drizzle_block(plan, told["stack"], (told["block"][0], told["block"][1]))
    if step == "join":
        from dpm.stages.atlas.join import write_stack

        y0, y1, x0, x1 = told["box"]
        return out | write_stack(plan, told["stack"], told["suffix"], (y0, y1, x0, x1), told["parts"])
    from dpm.stages.atlas.picture import write_picture

    return out | write_picture(plan, told["name"], told["stacks"])


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the index, remove what tasks left for each other, and say what came out."""
    if not results:
        return {"stacks": 0, "warnings": []}
    from dpm.stages.atlas.join import write_index
    from dpm.stages.atlas.layout import AtlasPlan

    plan = AtlasPlan.load(folder)
    files = [result["file"] for result in results if result["step"] == "join" and result["file"]]
    index = write_index(plan, [result for result in results if result["step"] == "join"])
    for path in plan.files.glob("*"):
        # The plan stays: a run killed before the stage is closed asks again what tasks there were.
        if path.is_dir():
            shutil.rmtree(path)
    warnings = [text for result in results for text in result.get("warnings", [])]
    for text in warnings:
        log.warning(text)
    return {
        "stacks": len(plan.stacks),
        "files": [*files, index.relative_to(folder.root).as_posix()],
        "pictures": [result["name"] for result in results if result["step"] == "picture"],
        "rejected_pixels": sum(result["rejected"] for result in results if result["step"] == "drizzle"),
        "warnings": warnings,
    }
