"""From one worker to two, every mapped stage of a finished run, beside what two independent processes reach on the same machine.

    python benchmarks/bench_two_workers.py RUN                                  # all stages
    python benchmarks/bench_two_workers.py RUN --stages first_pass --order 2p1  # another order of the three

Each stage is done again three times in copies of the run folder: by one worker (1), by two (2), and by two processes at once
that know nothing of each other, each all of it (p).  Two workers can be no faster than half of the pair's time: memory and
clock are shared there as well.  Times are those of the rounds with several parts (``mapped``) and of the whole stage, with what
the driver does alone.
Needs two processors that nobody else uses; the first turn of each stage also loads modules and kernels, in all three alike.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dpm.config import open_run
from dpm.execute import create_executor
from dpm.execute.base import Executor
from dpm.models.options import ClusterOptions
from dpm.run.parts import Parts
from dpm.run.single import run_stage

STAGES = ("ingest", "psf", "first_pass", "second_pass", "artificial_stars", "atlas")


@dataclass
class Turn:
    """One stage done once: wall seconds of its mapped rounds and of all of it, and the CPU seconds of all parts."""

    mapped: float
    whole: float
    cpu: float
    parts: int


class Timed:
    """An executor that says how long its rounds of several parts took."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.mapped = executor, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.executor, name)

    def map(self, function: Any, tasks: Any, **options: Any) -> Iterator[Any]:
        """See `Executor`."""
        start = time.perf_counter()
        yield from self.executor.map(function, tasks, **options)
        if len(tasks) > 1:
            self.mapped += time.perf_counter() - start

    def close(self, interrupted: bool = False) -> None:
        """The executor lives longer than a turn."""


def turn(folder: Path, name: str, executor: Executor) -> Turn:
    """Do a stage again whose upstream is complete."""
    run, options = open_run(folder)
    shutil.rmtree(run.work / name)
    if name == "ingest":
        shutil.rmtree(run.cubes)  # it keeps what did not change
    timed = Timed(executor)
    start = time.perf_counter()
    run_stage(run, options, timed, name)
    whole = time.perf_counter() - start
    entries = [Parts(run, name, path.name).finished() for path in (run.work / name).iterdir() if path.is_dir()]
    (entry,) = [entry for entry in entries if entry is not None]
    return Turn(timed.mapped, whole, entry["cpu_seconds"], entry["parts"])


def independent(folder: Path, pipe: Connection) -> None:
    """A process that does the stages it is told, by itself."""
    executor = create_executor("none", ClusterOptions())
    while name := pipe.recv():
        pipe.send(turn(folder, name, executor))


class Pair:
    """Two such processes."""

    def __init__(self, folders: list[Path]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for folder in folders:
            here, there = context.Pipe()
            context.Process(target=independent, args=(folder, there), daemon=True).start()
            self.pipes.append(here)

    def __call__(self, name: str) -> Turn:
        """Both at once: the means of the two."""
        for pipe in self.pipes:
            pipe.send(name)
        turns = [pipe.recv() for pipe in self.pipes]
        sums = [sum(getattr(one, what) for one in turns) / len(turns) for what in ("mapped", "whole", "cpu")]
        return Turn(sums[0], sums[1], sums[2], turns[0].parts)

    def close(self) -> None:
        """End them."""
        for pipe in self.pipes:
            pipe.send("")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--order", nargs="+", default=["12p", "p21"], help="turns of 1 and 2 workers and the pair")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dpm-two-") as scratch:
        folders = [shutil.copytree(options.run, Path(scratch) / name) for name in ("workers", "one", "other")]
        workers = {n: create_executor("local", ClusterOptions(workers=n)) for n in (1, 2)}
        pair = Pair(folders[1:])
        print("                        wall s, mapped rounds     2 beside   whole stage       CPU s, all parts")
        print("stage            parts      1      2   pair  1/2    pair      1      2    1/2      1      2   pair   2/1   2/pair")
        for name in options.stages:
            for order in options.order:
                turns = {}
                for what in order:
                    turns[what] = pair(name) if what == "p" else turn(folders[0], name, workers[int(what)])
                print(line(name, turns["1"], turns["2"], turns["p"]), f" {order}", flush=True)
        pair.close()
        for executor in workers.values():
            executor.close()


def line(name: str, one: Turn, two: Turn, both: Turn) -> str:
    """A row; ``2 beside pair`` is the two workers' speed over that of two independent processes."""
    return (
        f"{name:16s} {one.parts:5d} {one.mapped:6.1f} {two.mapped:6.1f} {both.mapped:6.1f} {one.mapped / two.mapped:4.2f} "
        f"{both.mapped / 2 / two.mapped:7.2f} {one.whole:6.1f} {two.whole:6.1f} {one.whole / two.whole:6.2f} "
        f"{one.cpu:6.1f} {two.cpu:6.1f} {both.cpu:6.1f} {two.cpu / one.cpu:5.2f} {two.cpu / both.cpu:8.2f}"
    )


if __name__ == "__main__":
    main()
