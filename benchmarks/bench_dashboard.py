"""What dpm's page in the Dask dashboard costs: CPU of driver and scheduler a task, without it, with it, and with it looked at.

usage: python benchmarks/bench_dashboard.py [TASKS] [ROUNDS]

Empty tasks on two local workers, so that nothing but scheduling is seen; driver and scheduler share this process, the page is asked
for by another one every two seconds, as a browser does. The three ways take turns, ROUNDS times; medians, and the smallest and
largest ratio to the turn without the page.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dpm.execute import create_executor
from dpm.execute.base import Outcome
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


def main(n: int = 4000, rounds: int = 5) -> None:
    """Take turns and print."""
    tasks = [Task("recover", f"recover_{k % 100}_{k}", {"step": "recover", "tile": k % 100}, 1.0) for k in range(n)]
    places = {k: Footprint(0, [(128.0 * (k % 10), 128.0 * (k // 10), 128.0)]) for k in range(100)}
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
            f"{way:26s} {1e3 * statistics.median(seconds[way]) / n:6.3f} ms CPU a task, {1e3 * statistics.median(wall[way]) / n:6.3f} ms wall;"
            f" ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
