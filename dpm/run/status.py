"""What state every stage of a run folder is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.run.inputs import InputRegistry
from dpm.run.keys import describe_change, stage_keys
from dpm.run.parts import Parts
from dpm.stages import load_stages
from dpm.stages.base import Stage

__all__ = ["StageState", "stage_states"]


@dataclass(frozen=True)
class StageState:
    """State of one stage.

    Parameters
    ----------
    name : str
        The stage.
    state : str
        ``complete``, ``partial`` (some parts are done), ``stale`` (done for another configuration or input) or
        ``absent``.
    reason : str
        Why it is stale or how far it is, in words.
    parts, done : int
        Parts of its plan, and how many are done; 0 before there is a plan.
    seconds : float
        Wall time it took.
    summary : dict
        What its finalise said.
    """

    name: str
    state: str
    reason: str = ""
    parts: int = 0
    done: int = 0
    seconds: float = 0.0
    summary: dict[str, Any] | None = None


def stage_states(folder: RunFolder, options: Options, stages: Sequence[Stage] | None = None) -> list[StageState]:
    """States of all stages, in order; reads only small files and changes nothing.

    Raises
    ------
    FileNotFoundError
        If an input file is missing and was never read.
    """
    stages = load_stages() if stages is None else stages
    keys = stage_keys(stages, options, InputRegistry(folder))
    states = []
    for stage in stages:
        parts = Parts(folder, stage.NAME, keys[stage.NAME].key)
        finished, tasks = parts.finished(), parts.plan()
        before = parts.previous_content()
        if finished is not None:
            n = finished["parts"]
            states.append(StageState(stage.NAME, "complete", "", n, n, finished["seconds"], finished["summary"]))
        elif tasks is not None:
            done = len(parts.finished_parts(tasks))
            states.append(StageState(stage.NAME, "partial", f"{done} of {len(tasks)} parts done", len(tasks), done))
        elif before is not None:
            states.append(StageState(stage.NAME, "stale", describe_change(before, keys[stage.NAME].content)))
        else:
            states.append(StageState(stage.NAME, "absent", "not run yet"))
    return states
