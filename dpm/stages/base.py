"""What a stage is: plan in the driver, work on the workers, finalise in the driver; files in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options

__all__ = ["Footprint", "Stage", "Task"]


@dataclass(frozen=True)
class Task:
    """One part of a stage: a small message, never pixels.

    Parameters
    ----------
    stage : str
        Name of the stage.
    name : str
        Name of the part, unique in its stage; it names the part's checkpoint file.
    arguments : dict
        What JSON can hold: paths as text, numbers, lists.
    cost : float
        Estimated seconds on one core, compiled.
    """

    stage: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    cost: float = 1.0


@dataclass(frozen=True)
class Footprint:
    """Where a tile lies, for a map of the field.

    Parameters
    ----------
    panel : int
        Number of its epoch: tiles of several epochs lie over each other.
    squares : list of tuple of float
        x, y of the lower corner and the side of each of its patches, master pixels.
    """

    panel: int
    squares: list[tuple[float, float, float]]


class Stage(Protocol):
    """A module (or package) of `dpm.stages` with these names at its top level.

    ``REVISION`` grows whenever the same input would give other results; ``CONFIG`` names the tables of `Options` that
    the results depend on, whole (``"find"``) or single keys (``"input.reference"``); ``UPSTREAM`` names the stages
    whose files it reads; ``PARTITIONED`` says whether job-array partitions may run it.

    ``work`` writes its part under a temporary name, renames it when whole, and returns a small dictionary that JSON can hold. A
    ``"files"`` entry there (paths inside the run folder) makes the part count as done only while these files exist.
    ``finalise`` gets the parts' dictionaries in the plan's order and returns a summary; its ``"files"`` entry means the same. A
    stage that iterates also has ``next_round(folder, options, rounds)``: it gets the results of all rounds so far (the first is
    the plan's) and returns the tasks of the next one, or none when it is done; names of tasks are unique over all rounds. A
    resumed run asks it again, so it depends on the results alone, and parts leave the files that a later round reads until that
    round is done. Job-array partitions share its round ``SHARED_ROUND`` (the plan's is 0): one of them does the rounds before,
    and ``--finalise`` those after. ``AMENDS`` names stages upstream whose files it adds to: it is done again whenever one of
    them was, be it under the same key. Files that the stage made under an earlier key and no longer lists are removed. An
    A stage whose tasks name a ``tile`` may say where these lie: ``places(folder)`` gives their `Footprint` by number. An
    ``"inputs"`` entry of the summary (``{path: {"sha256": ...}}``) holds checksums of input files.
    """

    __name__: str
    NAME: str
    REVISION: int
    PARTITIONED: bool
    CONFIG: tuple[str, ...]
    UPSTREAM: tuple[str, ...]

    def plan(self, folder: RunFolder, options: Options) -> list[Task]: ...

    def work(self, task: Task) -> dict[str, Any]: ...

    def finalise(self, folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]: ...
