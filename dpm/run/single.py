"""One stage alone, whole or as the partitions of a job array (``dpm stage``)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dpm.execute.base import Executor
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.run.errors import IncompleteError, LockedError, RunError
from dpm.run.lock import Lock, describe_owner, live_owner
from dpm.run.log import log_file
from dpm.run.parts import Part, Parts
from dpm.run.pipeline import Observer, Runner, at_work, check_partitions, telling_full_disk
from dpm.stages.base import Stage, Task

__all__ = ["UsageError", "finalise_stage", "run_partition", "run_stage"]

# Seconds that a partition waits for another one to make the plan, or to do another part of the rounds before the shared one.
PLAN_WAIT = 600.0


class UsageError(RunError):
    """The command asks for something that does not exist."""

    exit_code = 2


def _check_name(name: str, runner: Runner, partitioned: bool) -> None:
    if name not in runner.stages:
        raise UsageError(f"there is no stage {name!r}; the stages are {', '.join(runner.stages)}")
    if partitioned and not runner.stages[name].PARTITIONED:
        raise UsageError(
            f"stage {name} cannot be run in partitions, since its parts depend on one another: "
            "use `dpm stage` or `dpm run` with --cluster"
        )


def run_stage(
    folder: RunFolder,
    options: Options,
    executor: Executor,
    name: str,
    *,
    stages: Sequence[Stage] | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Run one stage, whole; returns its summary.

    Raises
    ------
    RunError
        As `dpm.run.pipeline.run_pipeline`; `IncompleteError` when a stage upstream is not complete.
    """
    with at_work(folder, executor) as warnings:
        runner = Runner(folder, options, executor, stages, observer, warnings=warnings)
        _check_name(name, runner, partitioned=False)
        return runner.run(name)


def run_partition(
    folder: RunFolder,
    options: Options,
    executor: Executor,
    name: str,
    index: int,
    count: int,
    *,
    stages: Sequence[Stage] | None = None,
    observer: Observer | None = None,
) -> int:
    """Do every ``count``-th part of a stage, from ``index``; returns the number of parts that are done in this
    partition.

    The first partition that comes makes the plan, and does the rounds before the one that is shared; the others wait for it.

    Raises
    ------
    RunError
        As `run_stage`; `UsageError` for a stage that has no partitions or an index outside 0..count-1.
    """
    if not 0 <= index < count:
        raise UsageError(f"--partition {index} --of {count}: partitions count from 0 to {count - 1}")
    owner = live_owner(folder.lock)
    if owner is not None:
        raise LockedError(describe_owner(f"run folder {folder.root}", owner))
    place = folder.work / name
    lock = Lock(
        place / f"partition-{index}-of-{count}.lock", f"partition {index} of {count} of stage {name} in {folder.root}"
    )
    check_partitions(folder, but=f"-of-{count}.lock")
    runner = Runner(folder, options, executor, stages, observer)
    _check_name(name, runner, partitioned=True)
    runner.require_upstream(name)
    if runner.parts(name).finished() is not None:
        return 0
    with telling_full_disk(folder), lock:
        folder.create()
        with log_file(folder):
            share = _shared_round(runner, name)[index::count]
            runner.map(name, runner.parts(name), share)
            return len(share)


def _shared_round(runner: Runner, name: str) -> list[Task]:
    """The round that partitions share; what comes before is done by exactly one of them, or was done before."""
    lock = Lock(runner.folder.work / name / "plan.lock", f"the plan of stage {name}")
    deadline, seen = time.monotonic() + PLAN_WAIT, 0
    while True:
        try:
            with lock:
                parts, tasks = runner.planned(name)
                rounds: list[list[Task]] = [tasks]
                done: dict[str, Part] = {}
                for _ in range(getattr(runner.stages[name], "SHARED_ROUND", 0)):
                    done |= runner.map(name, parts, rounds[-1], first=len(rounds) == 1)
                    rounds.append(runner.next_round(name, rounds, done))
                return rounds[-1]
        except LockedError:
            n = runner.parts(name).count()
            if n > seen:
                deadline, seen = time.monotonic() + PLAN_WAIT, n
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def finalise_stage(
    folder: RunFolder,
    options: Options,
    executor: Executor,
    name: str,
    *,
    stages: Sequence[Stage] | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Close a stage whose partitions are all done; returns its summary.

    Raises
    ------
    IncompleteError
        If parts are missing.
    RunError
        As `run_stage`.
    """
    with at_work(folder, executor) as warnings:
        runner = Runner(folder, options, executor, stages, observer, warnings=warnings)
        _check_name(name, runner, partitioned=True)
        parts = runner.parts(name)
        finished = parts.finished()
        if finished is not None:
            return finished["summary"]
        runner.require_upstream(name)
        start = time.perf_counter()
        tasks = parts.plan()
        if tasks is None:
            raise IncompleteError(f"stage {name}: no partition has run for this configuration yet")
        rounds: list[list[Task]] = []
        done: dict[str, Part] = {}
        while tasks:
            if len(rounds) <= getattr(runner.stages[name], "SHARED_ROUND", 0):
                done |= _all_finished(name, parts, tasks)
            else:
                done |= runner.map(name, parts, tasks)
            rounds.append(tasks)
            tasks = runner.next_round(name, rounds, done)
        every = [task for group in rounds for task in group]
        return runner.finalise(name, parts, every, done, time.perf_counter() - start)


def _all_finished(name: str, parts: Parts, tasks: list[Task]) -> dict[str, Part]:
    """The parts of a round that partitions did.

    Raises
    ------
    IncompleteError
        If one is missing.
    """
    done = parts.finished_parts(tasks)
    missing = [task.name for task in tasks if task.name not in done]
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise IncompleteError(
            f"stage {name}: {len(missing)} of {len(tasks)} parts are not done: {', '.join(missing[:5])}{more}; "
            "run their partitions (again) first"
        )
    return done
