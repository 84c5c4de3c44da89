"""Motions against the members, who these are, and how the motions compare (DESIGN section 6).

From the catalogue's own motions where it has several epochs, else from its positions and those of a reference catalogue of
another time; where there is neither, the stage does nothing.  Adds its columns to ``tables/catalog.parquet`` and writes
``tables/motions.parquet``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.base import Task

__all__ = ["AMENDS", "CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "motions"
REVISION = 2
PARTITIONED = False
CONFIG = ("motions", "input.reference", "distortion", "frame.match_radius", "photometry")
UPSTREAM = ("ingest", "distortion", "frame", "second_pass")
AMENDS = ("second_pass",)

# Seconds a star of the catalogue takes.
SECONDS_PER_STAR = 1e-3


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task: the field."""
    from dpm.io.tables import read_columns

    tables = {name: asdict(getattr(options, name)) for name in ("motions", "input", "distortion", "frame", "photometry")}
    cost = 0.1 + SECONDS_PER_STAR * len(read_columns(folder.catalog, ["id"])["id"])
    return [Task(NAME, "field", {"root": str(folder.root), "options": tables}, cost)]


def work(task: Task) -> dict[str, Any]:
    """Motions of all stars."""
    from dpm.models.options import DistortionOptions, FrameOptions, InputOptions, MotionsOptions, PhotometryOptions
    from dpm.stages.motions.run import measure_motions

    tables = task.arguments["options"]
    options = Options(
        input=InputOptions(**tables["input"]), distortion=DistortionOptions(**tables["distortion"]),
        frame=FrameOptions(**tables["frame"]), photometry=PhotometryOptions(**tables["photometry"]),
        motions=MotionsOptions(**tables["motions"]),
    )  # fmt: skip
    return measure_motions(RunFolder(Path(task.arguments["root"])), options)


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What came out, in a few numbers."""
    return dict(results[0])
