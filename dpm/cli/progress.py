"""Shows a run: bars on a terminal, lines everywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from dpm.cli.guard import say
from dpm.run.observer import Observer, summary_line

__all__ = ["show_progress"]


def show_progress() -> LineProgress:
    """Bars when standard error is a terminal, lines when it is a file or a pipe."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


SPEED_PERIOD = 600.0  # seconds that the bar's speed is taken from: parts can take half a minute each
# Lines that a round of parts gets on its way, and seconds before the first: a file is to be read by somebody.
LINES = 10
FIRST_LINE = 30.0
FEWEST_PARTS = 4  # that a speed is taken from


def time_left(seconds: float, finished: int, left: int) -> str:
    """How long ``left`` parts take where ``finished`` took these seconds, in words."""
    minutes = seconds / finished * left / 60
    return f"{minutes / 60:.1f} h" if minutes > 90 else f"{minutes:.0f} min" if minutes >= 2 else f"{60 * minutes:.0f} s"


class LineProgress(Observer):
    """A line when a stage begins, ends, or a part fails, and now and then how much is left."""

    def __init__(self) -> None:
        self._parts = self._done = 0
        self._times: list[float] = []
        self._told = 0.0
        self._page = ""

    def stage_skipped(self, name: str, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        say(f"{name:12s} up to date")

    def stage_started(self, name: str, n_parts: int, n_done: int, executor: str) -> None:
        """See `Observer`."""
        self._tell_page(executor)
        if n_parts > 1:
            before = f", {n_done} done before" if n_done else ""
            say(f"{name:12s} {n_parts} parts{before}")
        self._begin(n_parts, n_done)

    def round_started(self, name: str, n_parts: int, n_done: int) -> None:
        """See `Observer`."""
        self._begin(n_parts, n_done)

    def _tell_page(self, executor: str) -> None:
        """Say where a cluster shows the run, once."""
        page = executor.partition(", page ")[2]
        if page and page != self._page:
            self._page = page
            say(f"page         {page}")

    def _begin(self, n_parts: int, n_done: int) -> None:
        self._parts, self._done, self._times = n_parts, n_done, []
        self._told = time.monotonic()

    def compiling(self) -> None:
        """See `Observer`."""
        say("compiling    once on this machine; takes a minute or so")

    def part_finished(self, name: str, part: str, error: str | None) -> None:
        """See `Observer`."""
        if error is not None:
            say(f"{name:12s} part {part} failed")
        self._advance(name)

    def _advance(self, name: str) -> None:
        """Say how long the rest takes, from the later half of the parts that this process saw finished: the first ones compile."""
        self._done += 1
        now = time.monotonic()
        self._times.append(now)
        n = len(self._times)
        left, half = self._parts - self._done, n // 2
        if left <= 0 or n < FEWEST_PARTS:
            return
        seconds = now - self._times[half - 1]
        if now - self._told > max(FIRST_LINE, seconds / (n - half) * (n + left) / LINES):
            self._told = now
            say(f"{name:12s} {self._done} of {self._parts} parts, about {time_left(seconds, n - half, left)} left")

    def stage_finished(self, name: str, seconds: float, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        say(f"{name:12s} {seconds:7.1f} s  {summary_line(summary)}".rstrip())

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""


class BarProgress(LineProgress):
    """A bar with the time left for the stage at work, above it a line for each stage that is done."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description:12s}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            speed_estimate_period=SPEED_PERIOD,
        )
        self._bar: Any = None

    def stage_started(self, name: str, n_parts: int, n_done: int, executor: str) -> None:
        """See `Observer`."""
        self._tell_page(executor)
        self._remove()
        self._bar = self._progress.add_task(name, total=n_parts, completed=n_done)

    def round_started(self, name: str, n_parts: int, n_done: int) -> None:
        """See `Observer`."""
        self.stage_started(name, n_parts, n_done, "")

    def _advance(self, name: str) -> None:
        self._progress.advance(self._bar)

    def stage_finished(self, name: str, seconds: float, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        self._remove()
        super().stage_finished(name, seconds, summary)

    def _remove(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None

    def __enter__(self) -> LineProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._progress.stop()
