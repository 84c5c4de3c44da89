"""Frame: detections of all exposures become one master frame and an averaged catalogue (DESIGN section 6).

Reads ``tables/detections``, the cubes' exposure rows and the stored WCS (or STDGDC maps); writes
``tables/frame_catalog.parquet``, ``tables/exposures.parquet`` and ``tables/matches``.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import (
    DistortionOptions,
    FrameOptions,
    InputOptions,
    Options,
    PhotometryOptions,
)
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "frame"
REVISION = 10
PARTITIONED = False
CONFIG = ("input.reference", "distortion", "frame", "photometry")
UPSTREAM = ("ingest", "first_pass", "distortion")

SECONDS_PER_UNIT = 0.3  # measured with 5,000 detections an exposure

log = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task: the whole field."""
    from dpm.io.cubes import read_exposure_table

    arguments = {
        "root": str(folder.root),
        "reference": options.input.reference,
        "distortion": asdict(options.distortion),
        "frame": asdict(options.frame),
        "photometry": asdict(options.photometry),
    }
    return [Task(NAME, "field", arguments, 1.0 + SECONDS_PER_UNIT * len(read_exposure_table(folder)))]


def work(task: Task) -> dict[str, Any]:
    """Solve the field and write its tables.

    Raises
    ------
    InputError
        If no exposure can be placed, or the reference does not match.
    """
    from dpm.stages.frame.run import solve_and_write

    arguments = task.arguments
    options = Options(
        input=InputOptions(reference=arguments["reference"]),
        distortion=DistortionOptions(**arguments["distortion"]),
        frame=FrameOptions(**arguments["frame"]),
        photometry=PhotometryOptions(**arguments["photometry"]),
    )
    return solve_and_write(RunFolder(Path(arguments["root"])), options)


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Pass on the field's numbers; warnings were logged where they arose."""
    return dict(results[0])
