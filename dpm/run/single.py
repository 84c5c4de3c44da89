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
from dpm.run.parts import Parts
from dpm.run.pipeline import Observer, Runner, at_work, check_partitions
from dpm.stages.base import Stage, Task

__all__ = ["UsageError", "finalise_stage", "run_partition", "run_stage"]

# Seconds that a partition waits for another one to make the plan.
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

    The first partition that comes makes the plan, and the others wait for it.

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
    folder.create()
    with lock, log_file(folder):
        parts, tasks = _shared_plan(runner, name)
        share = tasks[index::count]
        runner.map(name, parts, share)
        return len(share)


def _shared_plan(runner: Runner, name: str) -> tuple[Parts, list[Task]]:
    """The kept plan, or a new one made by exactly one of the partitions."""
    lock = Lock(runner.folder.work / name / "plan.lock", f"the plan of stage {name}")
    deadline = time.monotonic() + PLAN_WAIT
    while True:
        try:
            with lock:
                return runner.planned(name)
        except LockedError:
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
        tasks = parts.plan()
        if tasks is None:
            raise IncompleteError(f"stage {name}: no partition has run for this configuration yet")
        done = parts.finished_parts(tasks)
        missing = [task.name for task in tasks if task.name not in done]
        if missing:
            more = ", ..." if len(missing) > 5 else ""
            raise IncompleteError(
                f"stage {name}: {len(missing)} of {len(tasks)} parts are not done: {', '.join(missing[:5])}{more}; "
                "run their partitions (again) first"
            )
        return runner.finalise(name, parts, tasks, done, 0.0)
