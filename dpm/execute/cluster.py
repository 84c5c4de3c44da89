"""The executor on a Dask cluster: a local one of dpm's own, somebody's scheduler, or the caller's client.

Specs of tasks (paths and small numbers) go out in bounded batches and outcomes come back as they complete.  distributed
blames every task on a dying worker, so each of those is tried again, alone on the cluster, before it is called
poison.  A watchdog in the driver tells a dead cluster (no workers for ``worker_timeout`` seconds) from a long queue.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from dask.utils import parse_bytes
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from dpm.execute.base import ClusterError, Function, Outcome, Prepare, Snapshot, check_interrupt, usable_cpus
from dpm.execute.dashboard import task_key
from dpm.execute.door import Door
from dpm.execute.hung import read_hung
from dpm.execute.performance import PerformanceReport
from dpm.execute.publish import Publisher, page_address
from dpm.execute.security import given_security, own_security
from dpm.execute.watchdog import WATCH_INTERVAL, Watchdog
from dpm.models.options import ClusterOptions

__all__ = ["DistributedExecutor", "dashboard_port", "local_size"]

log = logging.getLogger(__name__)

# Tasks under way for each worker: one at work, and one waiting there so that no worker idles between two.
PER_WORKER = 2
# Times that a task whose worker died is tried alone: once tells poison from its neighbours, three times also from bad luck where
# workers are taken away at any time.
ALONE = 3
# One thread for every library in a worker: the parallelism is the workers.
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)

# What a worker's C library keeps for the next array, bytes.  By Dask's own setting (64 KiB) it gives freed memory back at once and
# maps every array above 128 KiB anew: to have the pages cleared again took a sixth to a third of the time of artificial stars.
MALLOC_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": 64 * 2**20, "MALLOC_MMAP_THRESHOLD_": 32 * 2**20}

# While a local cluster of dpm's own lives: the first death of a worker is reported at once (the retry alone is made here),
# and a worker that dies is started again however often it happens (by default Dask gives up one that is away 15 seconds
# after an earlier death).
LOCAL_SETTINGS = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in MALLOC_SETTINGS.items()} | {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.deploy.lost-worker-timeout": "1 day",
    # A worker that is gone does not answer on loopback either: half a minute of trying, as across a network, is too much.
    "distributed.comm.timeouts.connect": "10s",
}


def local_size(options: ClusterOptions) -> tuple[int, int]:
    """Number of workers and bytes of memory for each of a local cluster.

    One worker a usable processor, but never more than nine tenths of the memory holds.

    Raises
    ------
    ValueError
        If ``memory_per_worker`` is not an amount of memory.
    """
    try:
        memory = parse_bytes(options.memory_per_worker)
    except ValueError as error:
        raise ValueError(
            f"[cluster] memory_per_worker = {options.memory_per_worker!r} is not an amount such as '1.5GiB'"
        ) from error
    workers = options.workers or max(1, min(usable_cpus(), int(0.9 * MEMORY_LIMIT / memory)))
    return workers, memory


def dashboard_port() -> int:
    """Dask's usual port when it is free, any other when it is not."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 8787))
        except OSError:
            return 0
    return 8787


def _start_resource_tracker() -> None:
    """Start the process that tidies up after killed workers, without a warning on the screen each time it has to."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _local_cluster(workers: int, memory: int, security: Security | None) -> LocalCluster:
    """Worker processes on this machine."""
    with warnings.catch_warnings():
        # Somebody may take the dashboard's port between the look and the start; Dask then takes another.
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory,
            host="127.0.0.1",
            security=security,
            protocol="tls://" if security else None,
            dashboard_address=f"127.0.0.1:{dashboard_port()}",
            silence_logs=logging.CRITICAL,
            env=dict.fromkeys(THREAD_SETTINGS, "1"),
            preload=["dpm.execute.preload"],
        )


class DistributedExecutor:
    """Maps over the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
        A connected, synchronous client; it is not closed by `close`.
    worker_timeout : float
        Seconds without any worker after which the cluster counts as dead.
    task_timeout : float or None
        Seconds after which a task ends its worker.
    """

    kind = "distributed"

    def __init__(self, client: Client, worker_timeout: float = 300.0, task_timeout: float | None = None) -> None:
        if not isinstance(client, Client):
            raise TypeError(f"a cluster is given as text or as a distributed.Client, not as {type(client).__name__}")
        self.client = client
        self.worker_timeout = worker_timeout
        self.task_timeout = task_timeout
        self.memory_limit = ""
        # Starts workers anew where all are gone and nobody else would.
        self.revive: Callable[[], None] | None = None
        self._owned = ExitStack()
        self._prepared: set[Hashable] = set()
        self._asked: dict[Prepare, set[str]] = {}
        self._door = Door(client)
        self._publisher: Publisher | None = None
        self._performance: PerformanceReport | None = None

    @classmethod
    def start_local(cls, options: ClusterOptions) -> DistributedExecutor:
        """A cluster of worker processes on this machine, one thread and a memory limit each."""
        workers, memory = local_size(options)
        security = own_security(options)
        # A terminal sends Ctrl-C to all processes. It is the driver's alone: processes started while it is blocked
        # never see it. Python's resource tracker would unblock it when it starts, so it has to run before.
        _start_resource_tracker()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        owned = ExitStack()
        try:
            owned.enter_context(dask.config.set(LOCAL_SETTINGS))
            cluster = _local_cluster(workers, memory, security)
            owned.callback(cluster.close, timeout=30)
            client = Client(cluster)
            owned.callback(client.close, timeout=5)
        except (RuntimeError, OSError) as error:
            owned.close()
            raise ClusterError(
                f"the local cluster did not start ({error}): in a script of your own, call dpm below "
                'if __name__ == "__main__"; otherwise use --cluster threads'
            ) from error
        finally:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            except KeyboardInterrupt:
                owned.close()
                raise
        executor = cls._owning(owned, client, options)

        def revive() -> None:
            cluster.scale(0)
            cluster.scale(workers)

        executor.revive = revive
        return executor

    @classmethod
    def start_queue(cls, cluster: Any, options: ClusterOptions) -> DistributedExecutor:
        """Use a cluster whose workers are jobs of a queue; it ends with the executor."""
        owned = ExitStack()
        owned.callback(cluster.close, timeout=30)
        client = Client(cluster, set_as_default=False)
        owned.callback(client.close, timeout=5)
        return cls._owning(owned, client, options)

    @classmethod
    def _owning(cls, owned: ExitStack, client: Client, options: ClusterOptions) -> DistributedExecutor:
        executor = cls(client, options.worker_timeout, options.task_timeout)
        executor.memory_limit = options.memory_per_worker
        executor._owned = owned
        return executor

    @classmethod
    def connect(cls, options: ClusterOptions, **where: str) -> DistributedExecutor:
        """Connect to a running scheduler by ``address`` or ``scheduler_file``."""
        place = next(iter(where.values()))
        security = given_security(options)
        try:
            client = Client(**where, timeout=min(30.0, options.worker_timeout), set_as_default=False, security=security)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            # Dask says what it needs for tls:// as a TypeError or RuntimeError.
            hint = "" if options.tls else "; does it want [cluster] tls = true?"
            raise ClusterError(f"no Dask scheduler answers at {place}: {error}{hint}") from error
        executor = cls(client, options.worker_timeout, options.task_timeout)
        executor._owned.callback(client.close, timeout=5)
        return executor

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now."""
        return sum(self.client.nthreads().values())

    def describe(self) -> str:
        """Size and address of the cluster, and dpm's page in its dashboard."""
        where = self.client.scheduler.address if self.client.scheduler else "?"
        memory = f" of {self.memory_limit}" if self.memory_limit else ""
        return f"{self.workers} workers{memory} at {where}{page_address(self.client)}"

    def show(self, snapshot: Snapshot) -> None:
        """See `Executor`."""
        if self._publisher is not None:
            self._publisher.close()
        self._publisher = Publisher(self.client, snapshot)

    def keep_performance(self, path: Path) -> None:
        """See `Executor`."""
        self._performance = PerformanceReport(self.client, path)

    def close(self, interrupted: bool = False) -> None:
        """Close what this executor started; a caller's own client stays open."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
        if self._performance is not None:
            self._performance.write()
            self._performance = None
        self._door.close()
        try:
            self._owned.close()
        except TimeoutError:
            # What was asked for is done by now; what is left of the cluster ends with this process.
            log.warning("the cluster did not close in time")

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
        """See `Executor`.

        Raises
        ------
        ClusterError
            If no worker comes or stays for ``worker_timeout`` seconds, the scheduler is lost, or a worker cannot do the
            work (`dpm.execute.handshake`). A worker that comes later and cannot is sent away with a warning instead.
        """
        if not tasks:
            return
        self._wait_for_workers(cancel)
        self._door.greet(shared)
        waiting = list(tasks)
        suspects: list[Any] = []
        if prepare is not None:
            yield from self._first_tasks(function, waiting, suspects, prepare, cancel)
        yield from self._run(function, waiting, suspects, None, cancel)
        for task in suspects:
            again = [task]
            for _ in range(ALONE):
                log.warning("%s: its worker died; trying it again, alone", _name(task))
                still: list[Any] = []
                yield from self._run(function, again, still, None, cancel)
                again = still
                if not again:
                    break
            else:
                yield task, self._died(task)

    def _died(self, task: Any) -> Outcome:
        """What to say of a task whose worker died each time."""
        hung = read_hung(self._door.hung_file(_name(task)))
        if hung:
            return Outcome(
                error=f"TimedOut: {_name(task)} took longer than {self.task_timeout:g} s ([cluster] task_timeout), also alone",
                traceback=hung,
            )
        limit = f" (its limit is {self.memory_limit}, [cluster] memory_per_worker)" if self.memory_limit else ""
        return Outcome(
            error=f"WorkerDied: {_name(task)} killed its worker {1 + ALONE} times, {ALONE} of them alone "
            f"on the cluster; most likely the worker ran out of memory{limit} or compiled code crashed"
        )

    def _first_tasks(
        self,
        function: Function,
        waiting: list[Any],
        suspects: list[Any],
        prepare: Prepare,
        cancel: threading.Event | None,
    ) -> Iterator[tuple[Any, Outcome]]:
        """One task on one worker of every kind that asks for it, before all others start.

        A first task that fails leaves its kind unprepared, which costs time but nothing else.
        """
        kinds: dict[Hashable, str] = {}
        for address, kind in self._ask(prepare).items():
            if kind is not None and kind not in self._prepared:
                kinds.setdefault(kind, address)
        first = [(waiting.pop(0), address) for address in kinds.values() if waiting]
        if first:
            log.info("compiling on %d kind(s) of machine before the other tasks start", len(first))
        self._prepared.update(kinds)
        yield from self._run(function, [task for task, _ in first], suspects, [address for _, address in first], cancel)

    def _run(
        self,
        function: Function,
        tasks: list[Any],
        suspects: list[Any],
        addresses: list[str] | None,
        cancel: threading.Event | None,
    ) -> Iterator[tuple[Any, Outcome]]:
        """Keep a bounded number of tasks under way until all are done; tasks whose worker died join ``suspects``."""
        under_way: dict[Future, tuple[int, Any]] = {}
        batch = as_completed(loop=self.client.loop)
        watchdog = Watchdog(self)
        todo = list(enumerate(tasks))[::-1]
        try:
            while todo or under_way:
                watchdog.look()
                window = PER_WORKER * max(watchdog.threads, 1)
                while todo and len(under_way) < window:
                    index, task = todo.pop()
                    # A wish, not an order: a worker that is gone would keep its task waiting for ever.
                    where = {} if addresses is None else {"workers": [addresses[index]], "allow_other_workers": True}
                    key = task_key(_name(task), uuid4().hex)
                    work = self._door.guarded(function, _name(task), self.task_timeout)
                    future = self.client.submit(work, task, key=key, pure=False, **where)
                    under_way[future] = index, task
                    batch.add(future)
                while not batch.has_ready():
                    check_interrupt(cancel)
                    watchdog.look_at(_name(task) for _, task in under_way.values())
                    with batch.thread_condition:
                        if not batch.has_ready():
                            batch.thread_condition.wait(timeout=0.1)
                for future in batch.next_batch():
                    index, task = under_way.pop(future)
                    outcome = self._collect(future, task, watchdog, cancel)
                    watchdog.finished()
                    if outcome is None:
                        suspects.append(task)
                    elif outcome.refused:
                        self._door.send_away(outcome)
                        todo.append((index, task))
                    else:
                        yield task, outcome
        finally:
            if under_way and self.client.status == "running":
                self.client.cancel(list(under_way), force=True)

    def _collect(self, future: Future, task: Any, watchdog: Watchdog, cancel: threading.Event | None) -> Outcome | None:
        """What a completed future holds, or None when its worker died.

        A finished outcome is lost when its worker dies before it was fetched: the task then runs again, and may fail this
        time. (``as_completed(with_results=True)`` waits for ever for such a future.)
        """
        while True:
            try:
                return future.result(timeout=WATCH_INTERVAL)
            except TimeoutError:
                check_interrupt(cancel)
                watchdog.look()
            except KilledWorker:
                return None
            except CancelledError as error:
                raise ClusterError(f"the scheduler lost {_name(task)} (was it shut down?); finished parts are kept") from error
            except Exception as error:
                # The task's own errors come back inside its outcome; this one is about sending it there and back.
                return Outcome(error=f"{type(error).__name__}: {error}")

    def _ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """Run a small function once on every worker; what one that dies meanwhile would have said is left out."""
        asked = self._asked.setdefault(question, set())
        new = [address for address in self.client.nthreads() if address not in asked]
        if not new:
            return {}
        asked.update(new)
        try:
            answers = self.client.run(question, workers=new, on_error="return")
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"the workers do not answer: {error}") from error
        for address, answer in answers.items():
            if isinstance(answer, Exception) and not isinstance(answer, OSError):
                raise ClusterError(f"worker {address} cannot say {question}: {type(answer).__name__}: {answer}") from answer
        return {address: answer for address, answer in answers.items() if not isinstance(answer, Exception)}

    def _wait_for_workers(self, cancel: threading.Event | None) -> None:
        """Wait until one worker is there."""
        watchdog = Watchdog(self, interval=0.1)
        while not watchdog.look():
            check_interrupt(cancel)
            time.sleep(0.1)


def _name(task: Any) -> str:
    return str(getattr(task, "name", task))
