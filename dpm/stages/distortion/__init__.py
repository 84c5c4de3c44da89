"""Distortion: maps solved from the detections of all exposures, and the reference where there is one (DESIGN section 6).

Reads ``tables/detections``, the cubes' exposure rows and the stored WCS; writes ``calibration/distortion``.  Only
``[distortion] source = "solve"`` gives it work.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import DistortionOptions, FrameOptions, InputOptions, Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "distortion"
REVISION = 3
PARTITIONED = False
CONFIG = ("input.reference", "distortion", "frame")
UPSTREAM = ("ingest", "first_pass")

SECONDS_PER_UNIT = 1.0  # measured with 1,500 good stars an exposure

log = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task, the whole field, where the distortion is to be solved; none otherwise."""
    if options.distortion.source != "solve":
        return []
    from dpm.io.cubes import read_exposure_table

    arguments = {
        "root": str(folder.root),
        "reference": options.input.reference,
        "distortion": asdict(options.distortion),
        "frame": asdict(options.frame),
    }
    return [Task(NAME, "field", arguments, 2.0 + SECONDS_PER_UNIT * len(read_exposure_table(folder)))]


def work(task: Task) -> dict[str, Any]:
    """Solve the distortion and write its files.

    Raises
    ------
    InputError
        If no exposure can be placed, or the reference does not match.
    """
    from dpm.stages.distortion.run import solve_and_write

    arguments = task.arguments
    options = Options(
        input=InputOptions(reference=arguments["reference"]),
        distortion=DistortionOptions(**arguments["distortion"]),
        frame=FrameOptions(**arguments["frame"]),
    )
    return solve_and_write(RunFolder(Path(arguments["root"])), options)


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Pass on the numbers; warnings were logged where they arose."""
    return dict(results[0]) if results else {"source": options.distortion.source}
