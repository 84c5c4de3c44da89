"""Tells a dead cluster from a long queue, and says so when nothing comes back for long."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dpm.execute.base import ClusterError

if TYPE_CHECKING:
    from dpm.execute.cluster import DistributedExecutor

__all__ = ["WATCH_INTERVAL", "Watchdog"]

log = logging.getLogger(__name__)

# Seconds between looks at whether the cluster is still alive.
WATCH_INTERVAL = 5.0
# Seconds without any finished task after which the tasks under way are named in the log: far above the longest task, which
# is planned to take seconds to a few minutes.
SILENCE = 600.0
# Seconds without a worker after which a local cluster gets new ones: under many kills none came back by itself for minutes.
REVIVE = 45.0


class Watchdog:
    """Raises `ClusterError` once the scheduler is gone or no worker has been there for the executor's time-out."""

    def __init__(self, executor: DistributedExecutor, interval: float = WATCH_INTERVAL) -> None:
        self.executor = executor
        self.interval = interval
        self.last_look = -float("inf")
        self.last_seen = time.monotonic()
        self.last_finished = self.last_revived = self.last_seen
        self.told = False
        self.threads = 0

    def finished(self) -> None:
        """A task came back."""
        self.last_finished = time.monotonic()

    def look_at(self, tasks: Iterable[str]) -> None:
        """As `look`, and name the tasks under way when none came back for `SILENCE` seconds."""
        self.look()
        if time.monotonic() - self.last_finished > SILENCE:
            self.last_finished = time.monotonic()
            names = ", ".join(sorted(tasks)[:5])
            text = "no task came back for %.0f minutes; still under way: %s; [cluster] task_timeout ends what hangs"
            log.warning(text, SILENCE / 60.0, names)

    def look(self) -> bool:
        """Whether there was a worker at the last look; looks at most every ``interval`` seconds."""
        now = time.monotonic()
        if now - self.last_look < self.interval:
            return self.last_seen >= self.last_look
        self.last_look = now
        client = self.executor.client
        if client.status not in ("running", "connecting"):
            raise ClusterError(f"the connection to the Dask scheduler is {client.status}; finished parts are kept")
        try:
            self.threads = sum(client.nthreads().values())
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"the Dask scheduler does not answer: {error}; finished parts are kept") from error
        if self.threads:
            self.last_seen = time.monotonic()
        elif now - self.last_seen > self.executor.worker_timeout:
            raise ClusterError(
                f"the Dask cluster has had no workers for {self.executor.worker_timeout:.0f} s "
                "([cluster] worker_timeout); are its jobs still waiting in a queue, or did its workers die? "
                "Finished parts are kept"
            )
        elif self.executor.revive is not None and now - max(self.last_seen, self.last_revived) > REVIVE:
            log.warning("all workers are gone, and none came back for %.0f s: starting new ones", REVIVE)
            self.last_revived = now
            self.executor.revive()
        elif not self.told:
            log.info("waiting for workers of %s", client.scheduler.address if client.scheduler else "the cluster")
            self.told = True
        return self.threads > 0
