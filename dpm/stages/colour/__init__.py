"""How RADXS, QFIT and the pixel phase of the fits depend on the stars' colour: a figure of the ePSF, not a correction.

After the frame, from its tables alone: the colours come from stars in common between filters. Writes
``calibration/psf/colour.json``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from dpm.io.atomic import replacing
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "colour"
REVISION = 1
PARTITIONED = False
CONFIG = ()
UPSTREAM = ("first_pass", "frame")

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task: all bands."""
    return [Task(NAME, "field", {"root": str(folder.root)}, 1.0)]


def work(task: Task) -> dict[str, Any]:
    """Slopes of every band."""
    from dpm.stages.colour.dependence import colour_dependence

    return colour_dependence(RunFolder(Path(task.arguments["root"])))


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the figures."""
    found = results[0]
    folder.psf.mkdir(parents=True, exist_ok=True)
    record = folder.psf / "colour.json"
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    logger.info("colour: %s", found["words"])
    return {"words": found["words"], "files": [str(record.relative_to(folder.root))]}
