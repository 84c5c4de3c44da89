"""The verbs: each stage is a module or package here with the names of `dpm.stages.base.Stage`, imported when needed."""

from __future__ import annotations

import importlib
from typing import cast

from dpm.stages.base import Stage, Task

__all__ = ["STAGES", "Stage", "Task", "load_stage", "load_stages"]

# In the order of a run.
STAGES: tuple[str, ...] = (
    "ingest", "psf", "perturbation", "brightness", "first_pass", "distortion", "frame", "colour", "second_pass", "motions",
    "artificial_stars", "selection", "atlas",
)  # fmt: skip


def load_stage(name: str) -> Stage:
    """Import one stage by its name, or by the dotted path of its module.

    Raises
    ------
    ModuleNotFoundError
        If there is no such stage.
    """
    return cast(Stage, importlib.import_module(name if "." in name else f"dpm.stages.{name}"))


def load_stages() -> tuple[Stage, ...]:
    """Import all stages of a run, in its order."""
    return tuple(load_stage(name) for name in STAGES)
