"""From ``--cluster`` to an executor: the registry, and the choice that ``auto`` makes."""

from __future__ import annotations

import difflib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dpm.execute.base import ClusterError, Executor, Function, Outcome, Prepare, Snapshot
from dpm.execute.local import SerialExecutor, ThreadsExecutor
from dpm.models.options import ClusterOptions

__all__ = ["AUTO_THRESHOLD", "EXECUTORS", "AutoExecutor", "create_executor"]

log = logging.getLogger(__name__)

# Planned seconds of work (one core) below which starting a cluster is not worth the wait.
AUTO_THRESHOLD = 30.0


def _local(options: ClusterOptions) -> Executor:
    from dpm.execute.cluster import DistributedExecutor

    return DistributedExecutor.start_local(options)


def _queue(system: str, options: ClusterOptions) -> Executor:
    from dpm.execute.cluster import DistributedExecutor
    from dpm.execute.queue import queue_cluster

    return DistributedExecutor.start_queue(queue_cluster(system, options), options)


EXECUTORS: dict[str, Callable[[ClusterOptions], Executor]] = {
    "auto": lambda options: AutoExecutor(options),
    "none": lambda options: SerialExecutor(),
    "threads": lambda options: ThreadsExecutor(options.workers),
    "local": _local,
    "slurm": lambda options: _queue("slurm", options),
    "pbs": lambda options: _queue("pbs", options),
}


class AutoExecutor:
    """Threads while the planned work of a stage is short; a local cluster from the first stage that is long."""

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._current: Executor = ThreadsExecutor(options.workers)
        self._snapshot: Snapshot | None = None
        self._performance: Path | None = None

    @property
    def kind(self) -> str:
        """Kind of the executor in use."""
        return self._current.kind

    @property
    def workers(self) -> int:
        """Workers of the executor in use."""
        return self._current.workers

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
        """See `Executor`."""
        if self._current.kind == "threads" and cost >= AUTO_THRESHOLD and len(tasks) > 1 and self._current.workers > 1:
            log.info("about %.0f s of work: starting a local cluster", cost)
            self._current = EXECUTORS["local"](self._options)
            log.info("running on %s", self._current.describe())
            if self._performance is not None:
                self._current.keep_performance(self._performance)
            if self._snapshot is not None:
                self._current.show(self._snapshot)
        return self._current.map(function, tasks, cost=cost, prepare=prepare, shared=shared, cancel=cancel)

    def describe(self) -> str:
        """One line for the log."""
        return self._current.describe()

    def show(self, snapshot: Snapshot) -> None:
        """See `Executor`."""
        self._snapshot = snapshot
        self._current.show(snapshot)

    def keep_performance(self, path: Path) -> None:
        """See `Executor`; a run too short for a cluster has none."""
        self._performance = path

    def close(self, interrupted: bool = False) -> None:
        """Release the executor in use."""
        self._current.close(interrupted)


def create_executor(cluster: Any = "auto", options: ClusterOptions | None = None) -> Executor:
    """Make an executor.

    Parameters
    ----------
    cluster : str, Path or distributed.Client
        ``auto`` (threads below about 30 s of planned work, a local cluster above), ``none`` (serial), ``threads``,
        ``local``, ``slurm`` and ``pbs`` (workers as jobs of a queue), a scheduler's address (``tcp://host:8786``), a
        scheduler file, or the caller's own client, which
        stays open afterwards.
    options : ClusterOptions, optional
        Number and memory of local workers, and how long to wait for workers.

    Raises
    ------
    ValueError
        If ``cluster`` is none of these.
    ClusterError
        If the scheduler cannot be reached.
    """
    options = options or ClusterOptions()
    if not isinstance(cluster, str | Path):
        from dpm.execute.cluster import DistributedExecutor

        return DistributedExecutor(cluster, options.worker_timeout, options.task_timeout)
    text = str(cluster)
    if text in EXECUTORS:
        return EXECUTORS[text](options)
    if "://" in text:
        from dpm.execute.cluster import DistributedExecutor

        return DistributedExecutor.connect(options, address=text)
    if Path(text).suffix == ".json" or Path(text).is_file():
        if not Path(text).is_file():
            raise ClusterError(f"{text}: no such scheduler file; is the scheduler running with --scheduler-file {text}?")
        from dpm.execute.cluster import DistributedExecutor

        return DistributedExecutor.connect(options, scheduler_file=text)
    close = difflib.get_close_matches(text, EXECUTORS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(
        f"cluster {text!r} is not known{hint}: use {', '.join(EXECUTORS)}, an address such as tcp://host:8786, or a scheduler file"
    )
