"""Who hears what a run does: the command line, the notebook, the dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpm.execute.base import Outcome
from dpm.stages.base import Footprint, Task

if TYPE_CHECKING:
    from dpm.run.parts import Part

__all__ = ["Observer", "Observers", "summary_line"]


class Observer:
    """Hears what a run does; the command line and the notebook show it.  Every method may be left as it is."""

    def stage_skipped(self, name: str, summary: dict[str, Any]) -> None:
        """Nothing to do: the stage's key did not change."""

    def stage_started(self, name: str, n_parts: int, n_done: int, executor: str) -> None:
        """A stage begins, with some parts perhaps done by an earlier run."""

    def round_started(self, name: str, n_parts: int, n_done: int) -> None:
        """A stage goes on with another round of parts, which were not known when it began."""

    def compiling(self) -> None:
        """The kernels are compiled first, which takes far longer than the stage's own work."""

    def part_finished(self, name: str, part: str, error: str | None) -> None:
        """A part is done or has failed."""

    def parts_planned(self, name: str, tasks: Sequence[Task], done: dict[str, Part], places: dict[int, Footprint]) -> None:
        """The parts of a round, those of them that an earlier run did, and where its tiles lie (empty: it has none)."""

    def part_ended(self, name: str, task: Task, outcome: Outcome) -> None:
        """The same as `part_finished`, with all that came back."""

    def stage_finished(self, name: str, seconds: float, summary: dict[str, Any]) -> None:
        """A stage is complete."""


class Observers(Observer):
    """Several that hear the same run."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def stage_skipped(self, name: str, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.stage_skipped(name, summary)

    def stage_started(self, name: str, n_parts: int, n_done: int, executor: str) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.stage_started(name, n_parts, n_done, executor)

    def round_started(self, name: str, n_parts: int, n_done: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.round_started(name, n_parts, n_done)

    def compiling(self) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.compiling()

    def part_finished(self, name: str, part: str, error: str | None) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.part_finished(name, part, error)

    def parts_planned(self, name: str, tasks: Sequence[Task], done: dict[str, Part], places: dict[int, Footprint]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.parts_planned(name, tasks, done, places)

    def part_ended(self, name: str, task: Task, outcome: Outcome) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.part_ended(name, task, outcome)

    def stage_finished(self, name: str, seconds: float, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.stage_finished(name, seconds, summary)


def summary_line(summary: dict[str, Any]) -> str:
    """The plain values of a stage's summary in one line."""
    shown = []
    for name, value in summary.items():
        if isinstance(value, float):
            shown.append(f"{name.replace('_', ' ')} {value:.4g}")
        elif isinstance(value, int | str) and not isinstance(value, bool) and len(str(value)) <= 40:
            shown.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(shown)
