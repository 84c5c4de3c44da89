"""How far one scheduler goes: what a task costs beside its work, and recorded durations replayed as sleeps on many workers.

    python benchmarks/bench_scaling.py RUN                          # durations of a finished run's parts, to 1000 workers
    python benchmarks/bench_scaling.py RUN --stage second_pass --workers 64 256 --hosts 1

Scheduler, driver and all workers are in this one process (inproc), so that a thousand workers fit; what the workers themselves
cost then comes on top, which makes the limits found here lower ones.  With ``--hosts N`` the workers are in N processes of
their own that speak TCP, many in each, and the CPU of scheduler and driver is told apart from theirs: that takes N + 1 free
processors.
Nothing is read or written: contention on a shared disk is not in these figures.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import logging
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster, Worker

from dpm.execute.base import peak_memory
from dpm.execute.cluster import DistributedExecutor

# Many workers in one process: none of them may measure that process for itself, and a second between two looks at it will do.
MANY = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.use-file-locking": False,  # every worker looks at the folders of all others
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.comm.timeouts.connect": "120s",
}
WAIT = 300.0  # seconds until the workers have to be there


@dataclass(frozen=True)
class Sleep:
    """A part that takes as long as one did."""

    name: str
    seconds: float


def sleep(task: Sleep) -> None:
    """Take the time, and nothing else."""
    time.sleep(task.seconds)


def recorded(run: Path, stage: str, step: str) -> np.ndarray:
    """CPU seconds of a stage's finished parts (of one step): what they take on a core of their own."""
    paths = [path for path in run.glob(f"work/{stage}/*/*.json") if not path.name.startswith("_")]
    parts = [json.loads(path.read_text()) for path in sorted(paths)]
    return np.array([part["cpu_seconds"] for part in parts if not step or part["result"].get("step") == step])


def play_workers(address: str, count: int, stop: Any, cpu: Any) -> None:
    """A process that is this many workers of one thread; says what it took so far."""
    logging.disable(logging.CRITICAL)
    dask.config.set(MANY)

    async def play() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(Worker(address, nthreads=1, memory_limit=0, dashboard=False))
            while not stop.is_set():
                cpu.value = time.process_time()
                await asyncio.sleep(0.2)

    asyncio.run(play())


@contextmanager
def cluster_of(workers: int, hosts: int | None) -> Iterator[tuple[Client, list[Any]]]:
    """A scheduler here and its workers: in this process (no hosts) or in others; yields what those have used, in seconds."""
    context = multiprocessing.get_context("spawn")
    stop, used = context.Event(), [context.Value("d", 0.0) for _ in range(hosts or 0)]
    with (
        dask.config.set(MANY),
        LocalCluster(
            n_workers=0 if hosts else workers,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://" if hosts else None,
            host="127.0.0.1" if hosts else None,
            dashboard_address=None,
            memory_limit=0,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        shares = [len(share) for share in np.array_split(np.arange(workers), hosts)] if hosts else []
        for share, cpu in zip(shares, used):
            arguments = (cluster.scheduler_address, share, stop, cpu)
            context.Process(target=play_workers, args=arguments, daemon=True).start()
        client.wait_for_workers(workers, timeout=WAIT)
        yield client, used
        stop.set()


@dataclass(frozen=True)
class Replay:
    """Wall seconds of a map, CPU seconds of this process, and of those with the workers."""

    wall: float
    cpu: float
    elsewhere: float


def replay(workers: int, durations: np.ndarray, hosts: int) -> Replay:
    """Map over these durations."""
    with cluster_of(workers, hosts) as (client, used):
        executor = DistributedExecutor(client)
        list(executor.map(sleep, [Sleep(f"warm_{n}", 0.0) for n in range(workers)]))
        time.sleep(0.5)
        before = sum(cpu.value for cpu in used)
        wall, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in executor.map(sleep, [Sleep(f"part_{n}", float(s)) for n, s in enumerate(durations)]))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        time.sleep(0.5)
        elsewhere = sum(cpu.value for cpu in used) - before
        assert count == len(durations)
        executor.close()
    return Replay(wall, cpu, elsewhere)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", default="first_pass")
    parser.add_argument("--step", default="", help="of the stage's parts those of one step, such as find")
    parser.add_argument("--scale", type=float, default=1.0, help="times the durations: larger exposures")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1000])
    parser.add_argument("--hosts", type=int, default=0, help="processes that are the workers; 0: this one")
    parser.add_argument("--seconds", type=float, default=8.0, help="work for each worker of the weak scaling; 0: none")
    parser.add_argument("--strong", type=int, default=2000, help="tasks of the strong scaling; 0: none")
    options = parser.parse_args()
    seconds = options.scale * recorded(options.run, options.stage, options.step)
    what = f"{options.stage} {options.step}".strip()
    mean, longest = seconds.mean(), seconds.max()
    print(f"{what}: {seconds.size} parts recorded, times {options.scale:g}: mean {mean:.3f} s, longest {longest:.3f} s")
    cpu = replay(2, np.zeros(500), options.hosts).cpu / 500
    who = "driver and scheduler alone" if options.hosts else "driver, scheduler and worker"
    print(f"a task without work, {who}: {1e3 * cpu:.2f} ms of CPU, {100 * cpu / mean:.2f} % of the mean part")
    dice = np.random.default_rng(1)
    print(f"\nweak scaling: {options.seconds:g} s of work for each worker")
    print("workers  tasks  tasks/s   wall s  ideal s  efficiency  CPU ms/task  of workers  workers kept  memory GB")
    for workers in options.workers if options.seconds else ():
        durations = dice.choice(seconds, int(np.ceil(options.seconds * workers / mean)))
        line(workers, durations, options.hosts)
    print(f"\nstrong scaling: the same {options.strong} tasks")
    durations = dice.choice(seconds, options.strong)
    for workers in options.workers if options.strong else ():
        if durations.sum() / workers < 120:
            line(workers, durations, options.hosts)


def schedule(durations: np.ndarray, workers: int) -> float:
    """Wall seconds where each worker takes the next part as soon as it is free, and nothing costs anything."""
    free = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(free, free[0] + float(seconds))
    return max(free)


def line(workers: int, durations: np.ndarray, hosts: int) -> None:
    """Replay and print."""
    made = replay(workers, durations, hosts)
    ideal = schedule(durations, workers)
    kept = durations.sum() / made.cpu  # workers that one core of this process keeps busy
    print(
        f"{workers:7d} {durations.size:6d} {durations.size / made.wall:8.0f} {made.wall:8.2f} {ideal:8.2f} "
        f"{ideal / made.wall:11.3f} {1e3 * made.cpu / durations.size:12.2f} {1e3 * made.elsewhere / durations.size:11.2f} "
        f"{kept:13.0f} {peak_memory() / 1e9:10.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
