"""A Dask scheduler and workers as processes of their own, which a test may kill."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

HERE = Path(__file__).resolve().parent


class Cluster:
    """Starts ``dask scheduler`` and ``dask worker`` in a folder, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []

    def _start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(HERE), str(HERE.parent)])
        with (self.folder / f"{command[0]}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment,
                stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def scheduler(self, *options: str) -> subprocess.Popen[bytes]:
        """On loopback; returns once its file is there."""
        self.file.unlink(missing_ok=True)
        where = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file))
        process = self._start("scheduler", *where, *options)
        until(lambda: self.file.is_file() and self.file.stat().st_size > 0, 60)
        return process

    def worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """One worker of one thread, below a nanny."""
        where = ("--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))
        return self._start("worker", *where, *options, **environment)

    def wait_for_workers(self, count: int) -> None:
        """Until so many are there."""
        with Client(scheduler_file=str(self.file), set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)


@contextmanager
def own_cluster(folder: Path) -> Iterator[Cluster]:
    """A `Cluster` whose processes are gone afterwards."""
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.terminate()
        for process in cluster.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def until(condition, seconds: float) -> None:
    """Wait until the condition holds.

    Raises
    ------
    AssertionError
        If it does not in this time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
