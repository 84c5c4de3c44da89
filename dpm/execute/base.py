"""What every executor offers, what becomes of a task, and the small facts about a process that go with it."""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "ClusterError",
    "Executor",
    "Function",
    "Interrupted",
    "Outcome",
    "DISK_FULL",
    "Prepare",
    "Snapshot",
    "no_performance",
    "attempt",
    "bytes_moved",
    "check_interrupt",
    "peak_memory",
    "usable_cpus",
]

Function = Callable[[Any], Any]
Prepare = Callable[[], Hashable]
# What a run says of itself, without the plan whose id is given.
Snapshot = Callable[[str | None], dict[str, Any]]

# Full, over the quota, or over the limit on a file's size.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ClusterError(RuntimeError):
    """The cluster, not a task, is at fault: no workers came, the scheduler went away, or workers cannot do the work."""


class Interrupted(RuntimeError):
    """The caller's cancel event was set; finished tasks are kept."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Parameters
    ----------
    value : object
        What the function returned; None when it failed.
    error : str or None
        Type and text of the exception in one line; None when the function returned.
    traceback : str
        Full traceback of the failure, as text.
    seconds : float
        Wall time of the call.
    worker : str
        Process that ran it.
    disk_full : bool
        The failure came from a full disk or an exhausted quota.
    refused : bool
        The worker may not do such work, and did not try.
    """

    value: Any = None
    error: str | None = None
    traceback: str = ""
    seconds: float = 0.0
    worker: str = ""
    disk_full: bool = False
    refused: bool = False


class Executor(Protocol):
    """Maps a function over tasks.

    ``map`` yields ``(task, Outcome)`` in the order of completion; a task that fails yields its error and the others go
    on. ``cost`` is the planned work in seconds. ``prepare`` runs once on every worker of a cluster and returns None, or
    a name that is common to workers which should wait until one of them has finished a first task (compiling, say).
    ``shared`` is a folder that every worker has to see.  ``cancel`` is looked at between completions; once set,
    `Interrupted` is raised.
    """

    @property
    def kind(self) -> str: ...

    @property
    def workers(self) -> int: ...

    def map(
        self,
        function: Function,
        tasks: Sequence[Any],
        *,
        cost: float = 0.0,
        prepare: Prepare | None = None,
        shared: Path | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[tuple[Any, Outcome]]: ...

    def describe(self) -> str:
        """One line for the log: what this is and how large."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """Show a run where there is a dashboard; ``snapshot`` is asked about once a second."""
        ...

    def keep_performance(self, path: Path) -> None:
        """Write Dask's performance report to this file when closed.

        Raises
        ------
        ValueError
            If this is no Dask cluster.
        """
        ...

    def close(self, interrupted: bool = False) -> None: ...


def attempt(function: Function, task: Any) -> Outcome:
    """Call the function and keep what it returns or raises; this is what runs on a worker."""
    start = time.perf_counter()
    worker = f"{os.uname().nodename}:{os.getpid()}"
    try:
        value = function(task)
    except Exception as error:
        return Outcome(
            error=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
            seconds=time.perf_counter() - start,
            worker=worker,
            disk_full=_is_disk_full(error),
        )
    return Outcome(value=value, seconds=time.perf_counter() - start, worker=worker)


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk stands anywhere in the chain of causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def check_interrupt(cancel: threading.Event | None) -> None:
    """Raise `Interrupted` when the event is set."""
    if cancel is not None and cancel.is_set():
        raise Interrupted("cancelled; finished parts are kept, and running again goes on from there")


def peak_memory() -> int:
    """Largest resident memory that this process ever had, bytes.

    Linux passes getrusage's figure on to the programs that a process starts, so it is the second choice there.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def no_performance(path: Path) -> None:
    """What executors without a cluster answer to `Executor.keep_performance`."""
    raise ValueError("a performance report is made by a Dask cluster: --cluster local, or your own scheduler's address or file")


def bytes_moved() -> tuple[int, int]:
    """Bytes that this process asked the system to read and to write so far; zeros where the system does not count them."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            counts = dict(line.split(": ") for line in file.read().splitlines())
    except OSError:
        return 0, 0
    return int(counts.get("rchar", 0)), int(counts.get("wchar", 0))


def usable_cpus() -> int:
    """Processors that this process may use, by its affinity and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return count
    if quota == "max":
        return count
    return max(1, min(count, int(quota) // int(period)))
