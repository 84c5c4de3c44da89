"""A run: every stage whose key changed, planned, mapped over its parts and finalised, one after the other."""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dpm.execute.base import DISK_FULL, Executor, Interrupted, Outcome
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.run.errors import DiskFullError, IncompleteError, LockedError, StageFailedError
from dpm.run.files import write_text
from dpm.run.inputs import InputRegistry, check_same_field
from dpm.run.keys import StageKey, stage_keys
from dpm.run.late import until_seen
from dpm.run.lock import Lock, live_owner
from dpm.run.log import WarningList, log_file
from dpm.run.observer import Observer, Observers
from dpm.run.parts import Part, Parts, PartWorker, needs_compiling
from dpm.run.provenance import Provenance
from dpm.run.state import RunState
from dpm.stages import load_stages
from dpm.stages.base import Stage, Task

__all__ = ["Finish", "Observer", "RunResult", "Runner", "at_work", "check_partitions", "run_pipeline", "telling_full_disk"]

log = logging.getLogger(__name__)

# What is made from the run folder once all stages are done: a name, the function, and the files that it leaves.
Finish = tuple[str, Callable[[RunFolder], Any], tuple[str, ...]]


@dataclass
class RunResult:
    """What a run did.

    Parameters
    ----------
    folder : RunFolder
        Where everything lies.
    summaries : dict
        Each stage's summary by its name, also of stages that did not have to run again.
    ran : list of str
        Names of the stages that ran.
    seconds : float
        Wall time.
    warnings : list of str
        What was warned about.
    """

    folder: RunFolder
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


class Runner:
    """Runs stages of one run folder; the caller holds the lock and the log file.

    Parameters
    ----------
    folder : RunFolder
        The run.
    options : Options
        Everything it was told.
    executor : Executor
        Where the parts are done.
    stages : sequence of Stage, optional
        The stages in order; dpm's own when None.
    observer : Observer, optional
        Hears what happens.
    cancel : threading.Event, optional
        Stops the run between parts when set.
    warnings : WarningList, optional
        Takes the warnings that come back from workers.
    """

    def __init__(
        self,
        folder: RunFolder,
        options: Options,
        executor: Executor,
        stages: Sequence[Stage] | None = None,
        observer: Observer | None = None,
        cancel: threading.Event | None = None,
        warnings: WarningList | None = None,
    ) -> None:
        self.folder = folder
        self.options = options
        self.executor = executor
        self.stages = {stage.NAME: stage for stage in (load_stages() if stages is None else stages)}
        self.state = RunState(folder, list(self.stages))
        self.observer = Observers(observer or Observer(), self.state)
        executor.show(self.state.snapshot)
        self.cancel = cancel
        self.warnings = warnings or WarningList()
        self._told = False
        self.inputs = InputRegistry(folder)
        self.keys: dict[str, StageKey] = stage_keys(tuple(self.stages.values()), options, self.inputs)
        self.provenance = Provenance(folder, options)

    def parts(self, name: str) -> Parts:
        """The parts of a stage under its key."""
        return Parts(self.folder, name, self.keys[name].key)

    def require_upstream(self, name: str) -> None:
        """See that the stages that this one reads are complete and up to date.

        Raises
        ------
        IncompleteError
            If one is not.
        """
        for upstream in self.stages[name].UPSTREAM:
            if upstream in self.stages and self.parts(upstream).finished() is None:
                raise IncompleteError(
                    f"stage {name} needs {upstream}, which is not complete for this configuration: "
                    f"run `dpm stage {upstream} {self.folder.root}` (or `dpm run`) first"
                )

    def planned(self, name: str) -> tuple[Parts, list[Task]]:
        """The stage's plan: the kept one, or a new one, which is kept."""
        parts = self.parts(name)
        tasks = parts.plan()
        if tasks is None:
            parts.suspend_others()
            tasks = self.stages[name].plan(self.folder, self.options)
            parts.begin(self.keys[name].content)
            parts.save_plan(tasks)
        return parts, tasks

    def run(self, name: str) -> dict[str, Any]:
        """Run one stage unless its key did not change; returns its summary.

        Raises
        ------
        StageFailedError
            If parts failed; all others are done and kept.
        DiskFullError
            If the disk is full.
        IncompleteError
            If a stage upstream is not complete.
        """
        finished = self.parts(name).finished()
        if finished is not None:
            log.info("%s: up to date (%s)", name, self.keys[name].key)
            self.observer.stage_skipped(name, finished["summary"])
            return finished["summary"]
        self.require_upstream(name)
        start = time.perf_counter()
        self.warnings.begin()
        parts, tasks = self.planned(name)
        rounds, done = [tasks], self.map(name, parts, tasks)
        while more := self.next_round(name, rounds, done):
            done |= self.map(name, parts, more, first=False)
            rounds.append(more)
        every = [task for group in rounds for task in group]
        return self.finalise(name, parts, every, done, time.perf_counter() - start)

    def next_round(self, name: str, rounds: list[list[Task]], done: dict[str, Part]) -> list[Task]:
        """Tasks of the round after ``rounds``, whose parts are ``done``; none when the stage has no more."""
        next_round = getattr(self.stages[name], "next_round", None)
        if next_round is None:
            return []
        results = [[done[task.name].result for task in group] for group in rounds]
        return until_seen(self.folder.root, lambda: next_round(self.folder, self.options, results))

    def map(self, name: str, parts: Parts, tasks: list[Task], first: bool = True) -> dict[str, Part]:
        """Do those of the tasks that are not done yet; returns all parts by name."""
        done = parts.finished_parts(tasks)
        pending = [task for task in tasks if task.name not in done]
        log.log(
            logging.INFO if first else logging.DEBUG,
            "%s: %d parts, %d of them done before (key %s)", name, len(tasks), len(done), self.keys[name].key,
        )  # fmt: skip
        if first:
            self.observer.stage_started(name, len(tasks), len(done), self.executor.describe())
        else:
            self.observer.round_started(name, len(tasks), len(done))
        places = getattr(self.stages[name], "places", None)
        self.observer.parts_planned(name, tasks, done, {} if places is None else places(self.folder))
        module = self.stages[name].__name__
        self._announce_compiling(name, pending)
        worker = PartWorker(module, str(parts.path.resolve()))
        failed: dict[str, Outcome] = {}
        made: list[Part] = []
        outcomes = self.executor.map(
            worker,
            pending,
            cost=sum(task.cost for task in pending),
            prepare=_Prepare(module),
            shared=self.folder.work,
            cancel=self.cancel,
        )
        for n, (task, outcome) in enumerate(outcomes):
            if n == 0 and first:
                log.info("%s: running on %s", name, self.executor.describe())
            self.observer.part_finished(name, task.name, outcome.error)
            self.observer.part_ended(name, task, outcome)
            if outcome.error is None:
                done[task.name] = outcome.value
                made.append(outcome.value)
                self._repeat_warnings(outcome.value)
                continue
            log.error("%s: part %s failed: %s\n%s", name, task.name, outcome.error, outcome.traceback)
            failed[task.name] = outcome
            if outcome.disk_full:
                raise DiskFullError(_disk_full(self.folder))
        if failed:
            raise StageFailedError(_failure(name, failed, len(tasks), self.folder))
        # What comes next may ask whether a file is there, and must not take one that is late as not made.
        unseen = parts.unseen(made)
        if unseen is not None:
            raise IncompleteError(f"stage {name}: {unseen}: is the run folder on one disk for all? Finished parts are kept")
        return done

    def finalise(
        self, name: str, parts: Parts, tasks: list[Task], done: dict[str, Part], seconds: float
    ) -> dict[str, Any]:
        """Close a stage whose parts are all done; ``seconds`` were spent on it before."""
        start = time.perf_counter()
        results = [done[task.name].result for task in tasks]
        summary = self.stages[name].finalise(self.folder, self.options, results) or {}
        self.inputs.add_checksums(summary.pop("inputs", {}))
        self.inputs.save()
        files = summary.pop("files", [])
        seconds += time.perf_counter() - start
        entry = {
            "key": self.keys[name].key,
            "revision": self.stages[name].REVISION,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "seconds": round(seconds, 3),
            "parts_seconds": round(sum(part.seconds for part in done.values()), 3),
            "parts": len(tasks),
            "executor": self.executor.describe(),
            "cpu_seconds": round(sum(part.cpu_seconds for part in done.values()), 3),
            "bytes_read": sum(part.bytes_read for part in done.values()),
            "bytes_written": sum(part.bytes_written for part in done.values()),
            "peak_memory_bytes": max((part.peak_memory for part in done.values()), default=0),
            "warnings": self.warnings.since(),
            "summary": summary,
        }
        parts.finish(entry, [{"files": files}, *results])
        for other, stage in self.stages.items():
            if name in getattr(stage, "AMENDS", ()):
                # Its columns went with the file that was just written, under whatever key.
                self.parts(other).discard()
        self.provenance.add_stage(name, entry)
        log.info("%s: complete in %.1f s: %s", name, seconds, summary)
        self.observer.stage_finished(name, seconds, summary)
        return summary

    def finish(self, step: Finish) -> None:
        """Do a closing step (the report) unless it was done for the same keys."""
        name, function, files = step
        every = "".join(key.key for key in self.keys.values())
        parts = Parts(self.folder, name, hashlib.sha256(every.encode()).hexdigest()[:16])
        if parts.finished() is not None:
            self.observer.stage_skipped(name, {})
            return
        self.observer.stage_started(name, 1, 0, "this process")
        start = time.perf_counter()
        self.warnings.begin()
        function(self.folder)
        seconds = time.perf_counter() - start
        parts.begin({})
        parts.finish({"summary": {}}, [{"files": list(files)}])
        entry = {
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "warnings": self.warnings.since(),
        }
        self.provenance.add_stage(name, entry)
        self.observer.stage_finished(name, seconds, {})

    def _announce_compiling(self, name: str, pending: list[Task]) -> None:
        """Say once a run that the first use of the kernels on this machine takes its time."""
        from dpm.kernels.jit import is_cold

        # The first stage reads files and has no kernels; a cluster's machines are not this one.
        if pending and self.stages[name].UPSTREAM and self.executor.kind != "distributed" and is_cold() and not self._told:
            self._told = True
            log.info("%s: compiling the kernels", name)
            self.observer.compiling()

    def _repeat_warnings(self, part: Part) -> None:
        """Warnings of other processes go into this one's log and list."""
        for text in part.warnings:
            if self.warnings.add(text):
                log.info("%s warns: %s", part.name, text)


@dataclass(frozen=True)
class _Prepare:
    """`needs_compiling` of one stage, as something small to send."""

    module: str

    def __call__(self) -> Any:
        return needs_compiling(self.module)


def run_pipeline(
    folder: RunFolder,
    options: Options,
    executor: Executor,
    *,
    stages: Sequence[Stage] | None = None,
    last: Sequence[Finish] = (),
    restart: bool = False,
    observer: Observer | None = None,
    cancel: threading.Event | None = None,
    config_text: str | None = None,
) -> RunResult:
    """Run all stages of a run folder, resuming whatever an earlier run left.

    Parameters
    ----------
    folder : RunFolder
        Made if it is not there.
    options : Options
        As `dpm.config.load_options` gives them.
    executor : Executor
        Where the parts are done; the caller closes it.
    stages : sequence of Stage, optional
        dpm's own when None.
    last : sequence of Finish
        What is made from the run folder at the end.
    restart : bool
        Remove all finished parts and everything made from them first.
    observer, cancel : optional
        See `Runner`.
    config_text : str, optional
        Text for the folder's ``config.toml``.

    Returns
    -------
    RunResult

    Raises
    ------
    RunError
        With the exit code to end with: the folder is in use, parts failed, the disk is full.
    Interrupted, KeyboardInterrupt
        If it was stopped; finished parts are kept.
    """
    start = time.perf_counter()
    with at_work(folder, executor) as warnings:
        if not restart:
            check_same_field(folder, options)
        if config_text is not None:
            write_text(folder.config, config_text)
        runner = Runner(folder, options, executor, stages, observer, cancel, warnings)
        if restart:
            for name in [*runner.stages, *(step[0] for step in last)]:
                Parts(folder, name, "").discard()
            for products in (folder.cubes, folder.psf.parent, folder.tables, folder.images, folder.report.parent):
                shutil.rmtree(products, ignore_errors=True)
            folder.create()
        log.info("dpm run of %s", folder.root)
        result = RunResult(folder)
        try:
            for name in runner.stages:
                if runner.parts(name).finished() is None:
                    result.ran.append(name)
                result.summaries[name] = runner.run(name)
            for step in last:
                runner.finish(step)
        finally:
            complete = len(result.summaries) == len(runner.stages)
            runner.provenance.save(runner.inputs, finished=complete)
            result.warnings = runner.provenance.warnings()
        result.seconds = time.perf_counter() - start
        log.info("run complete in %.1f s", result.seconds)
    return result


@contextmanager
def at_work(folder: RunFolder, executor: Executor) -> Iterator[WarningList]:
    """Hold the run folder's lock and log file, and turn a full disk into an error that says so; yields the warnings.

    Raises
    ------
    LockedError
        If somebody else works on the folder.
    DiskFullError
        If the disk is full.
    """
    with Lock(folder.lock, f"run folder {folder.root}"):
        check_partitions(folder)
        with telling_full_disk(folder):
            folder.create()
            with log_file(folder) as warnings:
                try:
                    yield warnings
                except (KeyboardInterrupt, Interrupted):
                    log.info("interrupted; finished parts are kept")
                    # Nothing may be at work here any more when the lock is let go.
                    executor.close(interrupted=True)
                    raise
                except Exception:
                    log.exception("the run stopped")
                    raise


@contextmanager
def telling_full_disk(folder: RunFolder) -> Iterator[None]:
    """Turn a full disk into an error that says what to do.

    Raises
    ------
    DiskFullError
        If the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullError(_disk_full(folder)) from error
        raise


def check_partitions(folder: RunFolder, but: str = "") -> None:
    """See that no partition of any stage is at work in the run folder.

    Parameters
    ----------
    folder : RunFolder
        The run.
    but : str
        Leave out locks whose name ends in this (the partitions that may run beside the caller).

    Raises
    ------
    LockedError
        If one is.
    """
    for path in sorted(folder.work.glob("*/*.lock")):
        if but and path.name.endswith(but):
            continue
        owner = live_owner(path)
        if owner is not None:
            raise LockedError(
                f"run folder {folder.root}: stage {path.parent.name} {path.stem} is at work there, "
                f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}; "
                f"wait for it, or remove {path} if it is gone"
            )


def _failure(name: str, failed: dict[str, Outcome], n_parts: int, folder: RunFolder) -> str:
    shown = [f"  {part}: {outcome.error}" for part, outcome in list(failed.items())[:10]]
    if len(failed) > len(shown):
        shown.append(f"  and {len(failed) - len(shown)} more")
    return (
        f"stage {name}: {len(failed)} of {n_parts} parts failed, the others are done and kept\n"
        + "\n".join(shown)
        + f"\nThe full story is in {folder.logs}; mend the cause and run the same command again"
    )


def _disk_full(folder: RunFolder) -> str:
    return (
        f"no space left on the disk of {folder.root} (or a quota or a limit on file sizes is reached); finished parts are kept "
        "and nothing half-written counts as done: free some space and run the same command again"
    )
