"""dpm's page in the Dask dashboard: what a run says of itself, and what the scheduler answers."""

import json
import time
import urllib.request

import pytest
from distributed import Client, LocalCluster
from fake_run import open_fake_run

from dpm.execute.base import Outcome
from dpm.execute.dashboard import task_key, task_name
from dpm.io.run_folder import RunFolder
from dpm.run.parts import Part
from dpm.run.state import SLOWEST, RunState
from dpm.stages.base import Footprint, Task

HOSTILE = "in_1<img src=x onerror=document.title='owned'>"


class Clock:
    """Seconds that only a test moves on."""

    now = 1000.0

    def __call__(self):
        return self.now


def finished(task, seconds=1.0, **result):
    """Outcome of a task that went well."""
    return Outcome(value=Part(task.name, result, seconds, 2**20, [], "here", ""), seconds=seconds)


def tile_tasks(n, parts):
    return [Task("ast", f"recover_{k}_{p}", {"step": "recover", "tile": k}, 2.0) for k in range(n) for p in range(parts)]


def test_state_of_a_round_of_tiles(tmp_path):
    clock = Clock()
    state = RunState(RunFolder(tmp_path), ["ingest", "ast"], clock)
    state.stage_skipped("ingest", {"exposures": 3, "files": ["x"]})
    state.stage_started("ast", 20, 0, "here")
    tasks = tile_tasks(10, 2)
    places = {k: Footprint(k % 2, [(128 * k, 0, 128)]) for k in range(10)}
    done = {tasks[0].name: finished(tasks[0], stars=7).value}
    state.parts_planned("ast", tasks, done, places)
    first = state.snapshot()
    assert first["round"]["states"] == "5" + "0" * 9 and first["round"]["stars"] == 7
    assert "time_left" not in first["round"] and first["plan"]["cells"][3]["squares"] == [(384, 0, 128)]
    assert state.snapshot(first["plan"]["id"])["plan"] is None
    for task in tasks[1:13]:
        clock.now += 4.0
        state.part_ended("ast", task, finished(task, stars=100))
    state.part_ended("ast", tasks[13], Outcome(error="ValueError: " + "x" * 10_000))
    now = state.snapshot()
    assert now["round"]["states"] == "d" * 6 + "f" + "000"
    assert (now["round"]["done"], now["round"]["failed"], now["round"]["stars"]) == (13, 1, 1207)
    # Six parts are left, and one took four seconds of wall time.
    assert now["round"]["time_left"] == pytest.approx(24.0, rel=0.2)
    assert now["round"]["stars_per_second"] == pytest.approx(25.0, rel=0.2)
    assert len(now["failures"]) == 1 and len(now["failures"][0]["error"]) < 1000
    assert now["stages"][0]["summary"] == "exposures 3" and not now["slowest"]
    json.dumps(now, allow_nan=False)


def test_slowest_exposures_over_stages_and_bounded_plans(tmp_path):
    state = RunState(RunFolder(tmp_path), ["a", "b"])
    for name in ("a", "b"):
        tasks = [Task(name, f"{name}{k}", {"cube": "c"}) for k in range(2 * SLOWEST)]
        state.stage_started(name, len(tasks), 0, "here")
        state.parts_planned(name, tasks, {}, {})
        for k, task in enumerate(tasks):
            state.part_ended(name, task, finished(task, k + 0.5 * (name == "b")))
    slowest = state.snapshot()["slowest"]
    assert [entry["name"] for entry in slowest[:4]] == ["b19", "a19", "b18", "a18"] and len(slowest) == SLOWEST
    many = [Task("a", f"x{k}") for k in range(20_001)]
    state.parts_planned("b", many, {}, {})
    now = state.snapshot()
    assert now["plan"] is None and now["round"]["plan"] is None and now["round"]["parts"] == 20_001


def test_task_names_come_back_from_keys():
    for name in ("find_12", HOSTILE, "a-b-c"):
        assert task_name(task_key(name, "0123456789abcdef")) == name


def address_of(cluster):
    """Of the dashboard, which listens on loopback; Dask's own link has another interface for a cluster in one process."""
    return f"http://127.0.0.1:{cluster.scheduler.http_server.port}"


def ask(address, what="/dpm/json"):
    with urllib.request.urlopen(address + what, timeout=10) as answer:
        return answer.headers, answer.read().decode()


def test_page_of_a_cluster_that_is_up(tmp_path, monkeypatch):
    run = open_fake_run(tmp_path, monkeypatch, {"in_0": "1", HOSTILE: "2 wait", "in_2": "3"})
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        address = address_of(cluster)
        run.start(cluster=client)
        deadline = time.monotonic() + 30
        content = {"runs": []}
        while time.monotonic() < deadline and not (content["runs"] and HOSTILE in content["runs"][0]["running_names"]):
            time.sleep(0.2)
            try:
                content = json.loads(ask(address)[1])
            except urllib.error.HTTPError as error:
                assert error.code == 404  # the plugin is on its way
        now = content["runs"][0]
        assert now["run"] == str(run.folder.root) and now["at_work"] == "numbers"
        assert now["running_names"] == [HOSTILE] and now["plan"]["cells"][now["running"][0]]["name"] == HOSTILE
        assert content["workers"][0]["tasks"][0][0] == HOSTILE and content["n_workers"] == 1
        assert json.loads(ask(address, f"/dpm/json?known={now['plan']['id']}")[1])["runs"][0]["plan"] is None
        headers, page = ask(address, "/dpm")
        # The page holds no data at all, and runs no script but its own.
        assert HOSTILE not in page and "script-src 'sha256-" in headers["Content-Security-Policy"]
        (tmp_path / "go").touch()
        run.wait()
        ended = json.loads(ask(address)[1])["runs"][0]
        assert ended["gone"] and {stage["state"] for stage in ended["stages"]} == {"complete"}
        assert ended["stages"][0]["rounds"][0]["done"] == 3


def test_page_of_a_scheduler_that_lists_the_module():
    import dask

    routes = [*dask.config.get("distributed.scheduler.http.routes"), "dpm.execute.dashboard"]
    with (
        dask.config.set({"distributed.scheduler.http.routes": routes}),
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
    ):
        content = json.loads(ask(address_of(cluster))[1])
        assert content["runs"] == [] and content["n_workers"] == 0
