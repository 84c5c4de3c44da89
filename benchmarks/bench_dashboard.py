"""What dpm's page in the Dask dashboard costs: CPU of driver and scheduler a task, without it, with it, and with it looked at.

usage: python benchmarks/bench_dashboard.py [TASKS] [ROUNDS]

Empty tasks on two local workers, so that nothing but scheduling is seen; driver and scheduler share this process, the page is asked
for by another one every two seconds, as a browser does. The three ways take turns, ROUNDS times; medians, and the smallest and
largest ratio to the turn without the page. First the pieces by themselves: what a part costs the driver, and what its messages
cost, one a second, with 100 and with 10,000 tiles.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dpm.execute import create_executor
from dpm.execute.base import Outcome
from dpm.execute.dashboard import DashboardPlugin, page_content, task_key
from dpm.io.run_folder import RunFolder
from dpm.models.options import ClusterOptions
from dpm.run.parts import Part
from dpm.run.state import RunState
from dpm.stages.base import Footprint, Task

WAYS = ("without the page", "with the page", "with the page, looked at")
LOOK = """
import sys, time, urllib.request
known = ""
while True:
    try:
        text = urllib.request.urlopen(sys.argv[1] + "/json?known=" + known, timeout=10).read().decode()
        print(len(text), flush=True)
    except OSError:
        pass
    time.sleep(2)
"""


def nothing(task: Task) -> Part:
    """What an empty part returns."""
    return Part(task.name, {"stars": 1}, 0.0, 0, [], "here", "")


def pieces(n_tiles: int, parts: int = 5) -> None:
    """CPU of what the driver does for the page, by itself."""
    tasks, places = work(n_tiles, parts * n_tiles)
    state = RunState(RunFolder(Path("/nowhere")), ["recover"])
    state.stage_started("recover", len(tasks), 0, "")
    begin = time.process_time()
    state.parts_planned("recover", tasks, {}, places)
    planned = time.process_time() - begin
    begin = time.process_time()
    for task in tasks:
        state.part_ended("recover", task, Outcome(value=nothing(task)))
    ended = time.process_time() - begin
    first = state.snapshot()
    begin = time.process_time()
    for _ in range(20):
        message = json.dumps(state.snapshot(first["plan"]["id"]))
    each = (time.process_time() - begin) / 20
    sizes = len(message), len(json.dumps(first["plan"]))
    a_part = 1e6 * ended / len(tasks)
    print(
        f"{n_tiles} tiles, {len(tasks)} parts: {a_part:.1f} us a part, {1e3 * each:.2f} ms and {sizes[0]} bytes a message;"
        f" once a round {1e6 * planned / len(tasks):.1f} us a part and {sizes[1]} bytes",
        flush=True,
    )


def answers(n_tiles: int, n_workers: int) -> None:
    """CPU of the scheduler for one answer of the page, with made-up workers that are all at work."""
    tasks, places = work(n_tiles, 5 * n_tiles)
    state = RunState(RunFolder(Path("/nowhere")), ["recover"])
    state.stage_started("recover", len(tasks), 0, "")
    state.parts_planned("recover", tasks, {}, places)
    plugin = DashboardPlugin()
    plugin.receive("client", state.snapshot())
    client, workers = _Hashable(client_key="client"), {}
    for k in range(n_workers):
        task = _Hashable(key=task_key(tasks[k % len(tasks)].name, "0" * 8), who_wants={client})
        metrics = {"memory": 2**30, "cpu": 90.0}
        workers[k] = SimpleNamespace(
            name=k, address=f"tcp://node{k}:1234", nthreads=1, metrics=metrics, memory_limit=2**31, last_seen=0.0,
            executing={task: 3.0}, processing={task: 3.0},
        )  # fmt: skip
    scheduler: Any = SimpleNamespace(plugins={"dpm-dashboard": plugin}, workers=workers, address="")
    known = {str(state.snapshot()["round"]["plan"])}
    json.dumps(page_content(scheduler, set()))
    begin = time.process_time()
    for _ in range(20):
        text = json.dumps(page_content(scheduler, known))
    print(
        f"{n_tiles} tiles, {n_workers} workers: {50 * (time.process_time() - begin):.2f} ms and {len(text)} bytes an answer",
        flush=True,
    )


class _Hashable(SimpleNamespace):
    __hash__ = object.__hash__


def work(n_tiles: int, n: int) -> tuple[list[Task], dict[int, Footprint]]:
    """Tasks of a round, and where the tiles lie."""
    tasks = [Task("recover", f"recover_{k % n_tiles}_{k}", {"step": "recover", "tile": k % n_tiles}, 1.0) for k in range(n)]
    return tasks, {k: Footprint(0, [(128.0 * (k % 100), 128.0 * (k // 100), 128.0)]) for k in range(n_tiles)}


def main(n: int = 4000, rounds: int = 5) -> None:
    """Take turns and print."""
    for n_tiles in (100, 10_000):
        pieces(n_tiles)
    answers(100, 2)
    answers(10_000, 500)
    tasks, places = work(100, n)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    executor = create_executor("local", ClusterOptions(workers=2, memory_per_worker="1GiB"))
    page = executor.client.dashboard_link.removesuffix("/status") + "/dpm"
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        list(executor.map(nothing, tasks[:200]))
        for turn in range(rounds * len(WAYS)):
            way = WAYS[turn % len(WAYS)]
            state = RunState(RunFolder(Path(folder)), ["recover"]) if way != WAYS[0] else None
            look = None
            if state is not None:
                state.stage_started("recover", n, 0, "")
                state.parts_planned("recover", tasks, {}, places)
                executor.show(state.snapshot)
            if way == WAYS[2]:
                look = subprocess.Popen([sys.executable, "-c", LOOK, page], stdout=subprocess.PIPE, text=True)
            begin, cpu = time.perf_counter(), time.process_time()
            for task, outcome in executor.map(nothing, tasks):
                if state is not None:
                    state.part_ended("recover", task, Outcome(value=outcome.value))
            seconds[way].append(time.process_time() - cpu)
            wall[way].append(time.perf_counter() - begin)
            print(f"{way:26s} {seconds[way][-1]:.2f} s CPU, {wall[way][-1]:.2f} s", flush=True)
            if executor._publisher is not None:
                executor._publisher.close()
                executor._publisher = None
            if look is not None:
                look.terminate()
                sizes += [int(line) for line in look.communicate()[0].split()]
    executor.close()
    print(
        json.dumps({"tasks": n, "rounds": rounds, "answers of the page": len(sizes), "their largest, bytes": max(sizes, default=0)})
    )
    for way in WAYS:
        ratios = [a / b for a, b in zip(seconds[way], seconds[WAYS[0]])]
        print(
            f"{way:26s} {1e3 * statistics.median(seconds[way]) / n:6.3f} ms CPU a task;"
            f" ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
