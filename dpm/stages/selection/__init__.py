"""Selection of well-measured stars: cuts learnt from artificial stars and applied to real ones alike, and what they cost.

Reads ``tables/artificial_stars.parquet`` and ``tables/catalog.parquet``, which stay as they are; writes ``tables/selection`` and
``tables/completeness.parquet``.  A stage of its own, so that other cuts cost seconds and not the artificial stars again.  Does
nothing without ``[artificial_stars]``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options, SelectionOptions
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "selection"
REVISION = 2
PARTITIONED = False
CONFIG = ("selection",)
UPSTREAM = ("second_pass", "motions", "artificial_stars")


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task, or none without artificial stars."""
    told = options.artificial_stars
    if not (told.n or told.table):
        return []
    arguments = {"root": str(folder.root), "selection": asdict(options.selection)}
    return [Task(NAME, "select", arguments, 1.0 + 1e-4 * told.n)]


def work(task: Task) -> dict[str, Any]:
    """Learn, apply, count."""
    from dpm.stages.selection.run import select_stars

    told = task.arguments["selection"]
    told = told | {name: tuple(told[name]) for name in ("quantities", "bands")}
    return select_stars(RunFolder(Path(task.arguments["root"])), SelectionOptions(**told))


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What came out."""
    return results[0] if results else {"selected": 0, "warnings": []}
