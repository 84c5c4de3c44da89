"""What a run is doing at this moment, for whoever shows it: stages, rounds, parts, tiles, stars, time left.

`RunState` hears the run; `RunState.snapshot` says all of it in one dictionary that JSON can hold, whose size does not grow with
pixels or stars and, but for its ``plan``, not with parts.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dpm.execute.base import Outcome
from dpm.io.run_folder import RunFolder
from dpm.run.observer import Observer, summary_line
from dpm.stages.base import Footprint, Task

if TYPE_CHECKING:
    from dpm.run.parts import Part

__all__ = ["RunState"]

SLOWEST = 10  # exposures that are named
FAILURES = 50  # failed parts that are named with their error
TEXT = 500  # characters of an error, and of a stage's summary
FEWEST_PARTS = 4  # that a speed is taken from: the first ones compile
MOST_CELLS = 20_000  # of the map: a browser draws no more in reasonable time
MOST_NAMES = 200_000  # parts of a round whose names go to the scheduler, so that it can tell which tile is at work
TENTHS = "0123456789"


class _Round:
    """The parts of one round of a stage, and what came back so far."""

    def __init__(self, tasks: Sequence[Task], done: dict[str, Part], places: dict[int, Footprint], now: float) -> None:
        steps = [str(task.arguments["step"]) for task in tasks if "step" in task.arguments]
        self.label = ", ".join(dict.fromkeys(steps))
        self.parts, self.done, self.failed, self.stars = len(tasks), 0, 0, 0
        self.started = self.ended = now
        self.cost_left = sum(task.cost for task in tasks)
        self.finished: list[tuple[float, float, int]] = []  # when, cost, stars of each part that this process saw
        self._make_cells(tasks, places)
        for task in tasks:
            if task.name in done:
                self.add(task, done[task.name].result, None)

    def _make_cells(self, tasks: Sequence[Task], places: dict[int, Footprint]) -> None:
        """What the map is made of: tiles where the stage says where they lie, else one cell a part."""
        tiles = [task.arguments.get("tile") for task in tasks]
        self.plan: dict[str, Any] | None = {"id": uuid4().hex}
        self.cell_of: dict[str, int] = {}
        if places and any(tile in places for tile in tiles):
            numbers = {tile: k for k, tile in enumerate(dict.fromkeys(tile for tile in tiles if tile in places))}
            cells = [{"name": f"tile {tile}", "panel": places[tile].panel, "squares": places[tile].squares} for tile in numbers]
            self.cell_of = {task.name: numbers[tile] for task, tile in zip(tasks, tiles) if tile in numbers}
        else:
            cells = [{"name": task.name} for task in tasks]
            self.cell_of = {task.name: k for k, task in enumerate(tasks)}
        self.cells = [[0, 0, 0] for _ in cells]  # parts, done, failed
        for cell in self.cell_of.values():
            self.cells[cell][0] += 1
        if len(cells) > MOST_CELLS or len(tasks) > MOST_NAMES:
            self.plan = None
        else:
            self.plan |= {"cells": cells, "names": list(self.cell_of), "cell_of": list(self.cell_of.values())}

    def add(self, task: Task, result: dict[str, Any] | None, now: float | None) -> None:
        """A part is done, or has failed (no result); ``now`` is None when an earlier run did it."""
        cell = self.cells[self.cell_of[task.name]] if task.name in self.cell_of else [0, 0, 0]
        self.cost_left -= task.cost
        stars = 0
        if result is None:
            self.failed += 1
            cell[2] += 1
        else:
            found = result.get("stars", result.get("n_detections"))
            stars = found if isinstance(found, int) else 0
            self.done += 1
            self.stars += stars
            cell[1] += 1
        if now is not None:
            self.ended = now
            self.finished.append((now, task.cost, stars))

    def speed(self) -> tuple[float, float] | None:
        """Cost and stars a second, from the later half of the parts; None while there are too few."""
        n = len(self.finished)
        if n < FEWEST_PARTS:
            return None
        half = n // 2
        seconds = self.finished[-1][0] - self.finished[half - 1][0]
        if seconds <= 0:
            return None
        later = self.finished[half:]
        return sum(cost for _, cost, _ in later) / seconds, sum(stars for _, _, stars in later) / seconds

    def states(self) -> str:
        """One character a cell: tenths of its parts that are done, ``d`` all of them, ``f`` one failed."""
        return "".join(
            "f" if failed else "d" if done == parts else TENTHS[10 * done // parts] for parts, done, failed in self.cells
        )

    def forget(self) -> None:
        """Keep the numbers alone: another round has begun."""
        self.plan, self.cells, self.cell_of, self.finished = None, [], {}, []

    def line(self) -> dict[str, Any]:
        """What a table says of it."""
        counts = {"parts": self.parts, "done": self.done, "failed": self.failed, "stars": self.stars}
        return {"label": self.label, **counts, "seconds": round(self.ended - self.started, 1)}


class RunState(Observer):
    """Keeps what the run tells and says it in one dictionary; an observer beside the one on the screen.

    Parameters
    ----------
    folder : RunFolder
        The run.
    stages : sequence of str
        Names of its stages, in order.
    clock : callable
        Seconds since 1970.
    """

    def __init__(self, folder: RunFolder, stages: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._run = {"run": str(folder.root), "host": os.uname().nodename, "pid": os.getpid()}
        self._stages: dict[str, dict[str, Any]] = {name: {"name": name, "state": "waiting"} for name in stages}
        self._rounds: dict[str, list[_Round]] = {name: [] for name in stages}
        self._now: str | None = None
        self._slowest: list[tuple[float, str, dict[str, Any]]] = []
        self._failures: list[dict[str, str]] = []

    def stage_skipped(self, name: str, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        with self._lock:
            self._entry(name).update(state="up to date", summary=summary_line(summary)[:TEXT])

    def stage_started(self, name: str, n_parts: int, n_done: int, executor: str) -> None:
        """See `Observer`."""
        with self._lock:
            self._now = name
            self._rounds[name] = []
            self._entry(name).update(state="running", began=self._clock())

    def stage_finished(self, name: str, seconds: float, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        with self._lock:
            self._entry(name).update(state="complete", seconds=round(seconds, 1), summary=summary_line(summary)[:TEXT])

    def parts_planned(self, name: str, tasks: Sequence[Task], done: dict[str, Part], places: dict[int, Footprint]) -> None:
        """See `Observer`."""
        made = _Round(tasks, done, places, self._clock())
        with self._lock:
            self._entry(name)
            for before in self._rounds[name]:
                before.forget()
            self._rounds[name].append(made)

    def part_ended(self, name: str, task: Task, outcome: Outcome) -> None:
        """See `Observer`."""
        now = self._clock()
        with self._lock:
            rounds = self._rounds[name]
            if outcome.error is not None:
                rounds[-1].add(task, None, now)
                if len(self._failures) < FAILURES:
                    self._failures.append({"stage": name, "part": task.name, "error": outcome.error[:TEXT]})
                return
            part: Part = outcome.value
            rounds[-1].add(task, part.result, now)
            if _is_exposure(task, rounds[-1].parts):
                made = {"memory": part.peak_memory, "host": part.host, "stage": name, "round": rounds[-1].label}
                entry = (part.seconds, task.name, made)
                if len(self._slowest) < SLOWEST:
                    heapq.heappush(self._slowest, entry)
                elif entry[:2] > self._slowest[0][:2]:
                    heapq.heapreplace(self._slowest, entry)

    def _entry(self, name: str) -> dict[str, Any]:
        """Of a stage, or of a closing step that nobody had announced."""
        self._rounds.setdefault(name, [])
        return self._stages.setdefault(name, {"name": name})

    def snapshot(self, known: str | None = None) -> dict[str, Any]:
        """Everything, as JSON can hold it.

        Parameters
        ----------
        known : str, optional
            Id of the plan that the caller has: it is left out then.
        """
        with self._lock:
            out: dict[str, Any] = {**self._run, "started": self._started, "now": self._clock(), "at_work": self._now}
            out["stages"] = [entry | {"rounds": [r.line() for r in self._rounds[name]]} for name, entry in self._stages.items()]
            out["failures"] = list(self._failures)
            out["slowest"] = [
                {"name": name, "seconds": round(seconds, 2), **made} for seconds, name, made in sorted(self._slowest, key=_longest)
            ]
            rounds = self._rounds.get(self._now or "", [])
            if rounds:
                out["round"] = self._round(rounds[-1], len(rounds))
                plan = rounds[-1].plan
                out["plan"] = plan if plan is not None and plan["id"] != known else None
        return out

    def _round(self, now: _Round, number: int) -> dict[str, Any]:
        """The round at work."""
        out = now.line() | {"stage": self._now, "number": number, "plan": now.plan and now.plan["id"]}
        out["states"] = now.states() if now.plan else ""
        speed = now.speed()
        left = now.parts - now.done - now.failed
        if speed is not None and left:
            out["time_left"] = round(max(now.cost_left, 0.0) / max(speed[0], 1e-9), 1)
            out["stars_per_second"] = round(speed[1], 1)
        return out


def _is_exposure(task: Task, parts: int) -> bool:
    """Whether the part is one exposure's: it names one, or it is one of many of a stage that has no steps."""
    named = task.arguments.get("exposure") or task.arguments.get("unit")
    return bool(named) or (parts > 1 and not {"step", "tile", "exposures"} & set(task.arguments))


def _longest(entry: tuple[float, str, dict[str, Any]]) -> float:
    return -entry[0]
