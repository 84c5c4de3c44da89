"""How far one scheduler goes: what a task costs beside its work, and recorded durations replayed as sleeps on many workers.

    python benchmarks/bench_scaling.py RUN                  # durations of a finished run's parts
    python benchmarks/bench_scaling.py RUN --workers 1 64 1000

Scheduler, driver and all workers are in this one process (inproc), so that a thousand workers fit; what the workers themselves
cost then comes on top, which makes the limits found here lower ones. Nothing is read or written: contention on a shared disk is not
in these figures.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
from distributed import Client, LocalCluster

from dpm.execute.base import peak_memory
from dpm.execute.cluster import DistributedExecutor


@dataclass(frozen=True)
class Sleep:
    """A part that takes as long as one did."""

    name: str
    seconds: float


def sleep(task: Sleep) -> None:
    """Take the time, and nothing else."""
    time.sleep(task.seconds)


def recorded(run: Path, stage: str) -> np.ndarray:
    """CPU seconds of a stage's finished parts: what they take on a core of their own."""
    paths = [path for path in run.glob(f"work/{stage}/*/*.json") if not path.name.startswith("_")]
    return np.array([json.loads(path.read_text())["cpu_seconds"] for path in sorted(paths)])


def replay(workers: int, durations: np.ndarray, processes: bool = False) -> tuple[float, float]:
    """Wall and this process's CPU seconds of a map over these durations."""
    with (
        dask.config.set({"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=processes, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        executor = DistributedExecutor(client)
        tasks = [Sleep(f"part_{n}", float(seconds)) for n, seconds in enumerate(durations)]
        list(executor.map(sleep, [Sleep(f"warm_{n}", 0.0) for n in range(workers)]))
        wall, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in executor.map(sleep, tasks))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert count == len(durations)
        executor.close()
    return wall, cpu


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", default="first_pass")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1000])
    parser.add_argument("--seconds", type=float, default=8.0, help="work for each worker")
    parser.add_argument("--strong", type=int, default=2000, help="tasks of the strong scaling")
    options = parser.parse_args()
    seconds = recorded(options.run, options.stage)
    print(f"{options.stage}: {seconds.size} parts recorded, {seconds.mean():.3f} s on average, longest {seconds.max():.3f} s")
    for what, processes in (("driver, scheduler and worker", False), ("driver and scheduler alone", True)):
        cpu = replay(1, np.zeros(500), processes)[1] / 500
        print(f"a task without work, {what}: {1e3 * cpu:.2f} ms of CPU, {100 * cpu / seconds.mean():.2f} % of the mean part")
    dice = np.random.default_rng(1)
    print(f"\nweak scaling: {options.seconds:g} s of work for each worker")
    print("workers  tasks  tasks/s   wall s  ideal s  efficiency  CPU ms/task  workers kept  memory GB")
    for workers in options.workers:
        durations = dice.choice(seconds, int(np.ceil(options.seconds * workers / seconds.mean())))
        line(workers, durations)
    print(f"\nstrong scaling: the same {options.strong} tasks")
    durations = dice.choice(seconds, options.strong)
    for workers in options.workers:
        if durations.sum() / workers < 120:
            line(workers, durations)


def line(workers: int, durations: np.ndarray) -> None:
    """Replay and print."""
    wall, cpu = replay(workers, durations)
    ideal = max(durations.sum() / workers, durations.max())
    kept = durations.sum() / cpu  # workers that one core of scheduler and driver keeps busy
    memory = peak_memory() / 1e9
    print(
        f"{workers:7d} {durations.size:6d} {durations.size / wall:8.0f} {wall:8.2f} {ideal:8.2f} {ideal / wall:11.3f} "
        f"{1e3 * cpu / durations.size:12.2f} {kept:13.0f} {memory:10.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
