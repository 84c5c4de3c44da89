"""What the parts of the stage leave for each other."""

from __future__ import annotations

from pathlib import Path

from dpm.io.run_folder import RunFolder
from dpm.stages.second_pass.field import files_folder

__all__ = ["STAGE", "plan_file", "recovered_file"]

STAGE = "artificial_stars"  # whose files these are


def plan_file(folder: RunFolder) -> Path:
    """The stars to put in."""
    return files_folder(folder, STAGE) / "stars.arrow"


def recovered_file(folder: RunFolder, step: str, tile: int, first: int) -> Path:
    """What a task made of a tile and the passes from ``first`` on."""
    return files_folder(folder, STAGE) / step / f"{tile}_{first}.arrow"
