"""Executors without Dask: one task after the other, or threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from dpm.execute.base import Function, Outcome, Prepare, Snapshot, attempt, check_interrupt, no_performance, usable_cpus

__all__ = ["SerialExecutor", "ThreadsExecutor"]

# Seconds that running threads get to finish their part after an interrupt.
GRACE = 3.0


class SerialExecutor:
    """One task after the other in this thread."""

    kind = "serial"
    workers = 1

    def map(
        self,
        function: Function,
        tasks: Sequence[Any],
        *,
        cost: float = 0.0,
        prepare: Prepare | None = None,
        shared: Path | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[tuple[Any, Outcome]]:
        """See `Executor`; ``cost``, ``prepare`` and ``shared`` do not matter here."""
        for task in tasks:
            check_interrupt(cancel)
            yield task, attempt(function, task)

    def describe(self) -> str:
        """One line for the log."""
        return "serial"

    def show(self, snapshot: Snapshot) -> None:
        """There is no dashboard."""

    keep_performance = staticmethod(no_performance)

    def close(self, interrupted: bool = False) -> None:
        """Nothing to release."""


class ThreadsExecutor:
    """Threads of this process: kernels release the GIL, so that small runs need no cluster.

    Parameters
    ----------
    workers : int or None
        Number of threads; one a usable processor when None.
    """

    kind = "threads"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or usable_cpus()
        self._running: set[Future[Outcome]] = set()

    def map(
        self,
        function: Function,
        tasks: Sequence[Any],
        *,
        cost: float = 0.0,
        prepare: Prepare | None = None,
        shared: Path | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[tuple[Any, Outcome]]:
        """See `Executor`; no more tasks than threads are under way, so that an interrupt loses little."""
        waiting = list(reversed(tasks))
        futures: dict[Future[Outcome], Any] = {}
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="dpm")
        try:
            while waiting or futures:
                check_interrupt(cancel)
                while waiting and len(futures) < self.workers:
                    task = waiting.pop()
                    futures[pool.submit(attempt, function, task)] = task
                done, _ = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    yield futures.pop(future), future.result()
        finally:
            self._running = set(futures)
            pool.shutdown(wait=False, cancel_futures=True)

    def describe(self) -> str:
        """One line for the log."""
        return f"{self.workers} threads in this process"

    def show(self, snapshot: Snapshot) -> None:
        """There is no dashboard."""

    keep_performance = staticmethod(no_performance)

    def close(self, interrupted: bool = False) -> None:
        """Wait for threads that are still at work; after an interrupt only for a few seconds."""
        wait(self._running, timeout=GRACE if interrupted else None)
