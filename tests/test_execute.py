"""Executors: every kind gives the same outcomes; failures stay with their task; dead workers and dead clusters."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dpm.execute import EXECUTORS, ClusterError, Interrupted, create_executor
from dpm.execute.base import usable_cpus
from dpm.execute.create import AutoExecutor
from dpm.models.options import ClusterOptions


@dataclass(frozen=True)
class Job:
    name: str
    folder: str = ""


def square(job):
    return int(job.name) ** 2


def sometimes_fail(job):
    if job.name == "3":
        raise KeyError("three")
    return square(job)


def kill_worker(job):
    """Job 2 kills its worker once, job 4 each time."""
    marker = Path(job.folder, f"tried-{job.name}")
    if job.name == "4" or (job.name == "2" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(job)


def note_order(job):
    with open(Path(job.folder, "order"), "a") as file:
        file.write(f"{job.name} {time.monotonic()} begin\n")
    time.sleep(0.2)
    with open(Path(job.folder, "order"), "a") as file:
        file.write(f"{job.name} {time.monotonic()} end\n")


def needs_first():
    return "some cpu"


@pytest.fixture(scope="module")
def cluster():
    """A local cluster of two workers, for all tests of this module."""
    executor = create_executor("local", ClusterOptions(workers=2, memory_per_worker="1GiB", worker_timeout=120))
    yield executor
    executor.close()


@pytest.mark.parametrize("kind", ["none", "threads", "auto"])
def test_outcomes_and_errors(kind):
    executor = create_executor(kind, ClusterOptions(workers=2))
    outcomes = {job.name: outcome for job, outcome in executor.map(sometimes_fail, [Job(str(n)) for n in range(6)])}
    executor.close()
    assert {name: outcome.value for name, outcome in outcomes.items() if outcome.error is None} == {
        "0": 0,
        "1": 1,
        "2": 4,
        "4": 16,
        "5": 25,
    }
    assert outcomes["3"].error == "KeyError: 'three'"
    assert "sometimes_fail" in outcomes["3"].traceback


def test_distributed_outcomes_and_errors(cluster):
    outcomes = {job.name: outcome for job, outcome in cluster.map(sometimes_fail, [Job(str(n)) for n in range(20)])}
    assert len(outcomes) == 20 and outcomes["19"].value == 361
    assert outcomes["3"].error == "KeyError: 'three'" and "sometimes_fail" in outcomes["3"].traceback
    assert len({outcome.worker for outcome in outcomes.values()}) == 2


def test_dead_worker_is_retried_alone_and_poison_is_named(cluster, tmp_path):
    jobs = [Job(str(n), str(tmp_path)) for n in range(8)]
    outcomes = {job.name: outcome for job, outcome in cluster.map(kill_worker, jobs)}
    assert len(outcomes) == 8
    assert outcomes["4"].error.startswith("WorkerDied: 4 killed its worker 4 times") and "1GiB" in outcomes["4"].error
    assert {int(name): outcome.value for name, outcome in outcomes.items() if name != "4"} == {
        n: n**2 for n in range(8) if n != 4
    }


def test_one_task_a_kind_of_machine_goes_first(cluster, tmp_path):
    jobs = [Job(str(n), str(tmp_path)) for n in range(4)]
    list(cluster.map(note_order, jobs, prepare=needs_first))
    lines = [line.split() for line in (tmp_path / "order").read_text().splitlines()]
    lines.sort(key=lambda line: float(line[1]))
    assert [line[2] for line in lines[:2]] == ["begin", "end"] and lines[0][0] == lines[1][0] == "0"


def test_cancel_stops_a_distributed_map(cluster):
    cancel = threading.Event()
    with pytest.raises(Interrupted):
        for _ in cluster.map(square, [Job(str(n)) for n in range(50)], cancel=cancel):
            cancel.set()
    assert [outcome.value for _, outcome in cluster.map(square, [Job("7")])] == [49]


def test_own_client_and_address(cluster):
    own = create_executor(cluster.client)
    assert [outcome.value for _, outcome in own.map(square, [Job("5")])] == [25]
    own.close()
    assert cluster.client.status == "running"
    other = create_executor(cluster.client.scheduler.address)
    assert [outcome.value for _, outcome in other.map(square, [Job("6")])] == [36]
    other.close()


def test_cluster_without_workers_is_an_error():
    executor = create_executor("local", ClusterOptions(workers=1, worker_timeout=0.5))
    executor.client.cluster.scale(0)
    deadline = time.monotonic() + 10
    while executor.client.nthreads() and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(ClusterError, match="no workers for"):
        list(executor.map(square, [Job("1")]))
    executor.close()


def test_unreachable_scheduler_and_unknown_kinds(tmp_path):
    with pytest.raises(ClusterError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        create_executor("tcp://127.0.0.1:9", ClusterOptions(worker_timeout=1.0))
    with pytest.raises(ClusterError, match="no such scheduler file"):
        create_executor(tmp_path / "scheduler.json")
    with pytest.raises(ValueError, match="did you mean 'local'"):
        create_executor("locale")
    with pytest.raises(TypeError, match=r"distributed\.Client"):
        create_executor(3)
    with pytest.raises(ValueError, match="memory_per_worker = 'lots'"):
        create_executor("local", ClusterOptions(memory_per_worker="lots"))


def test_auto_starts_a_cluster_for_long_work_alone(monkeypatch):
    started = []

    class Fake:
        kind, workers = "distributed", 2

        def map(self, function, tasks, **kwargs):
            started.append(len(tasks))
            return iter(())

        def describe(self):
            return "fake"

    monkeypatch.setitem(EXECUTORS, "local", lambda options: Fake())
    executor = AutoExecutor(ClusterOptions(workers=2))
    list(executor.map(square, [Job("1"), Job("2")], cost=5.0))
    list(executor.map(square, [Job("1")], cost=500.0))
    assert executor.kind == "threads" and not started
    list(executor.map(square, [Job("1"), Job("2")], cost=50.0))
    list(executor.map(square, [Job("1"), Job("2")], cost=1.0))
    assert executor.kind == "distributed" and started == [2, 2]


def test_usable_cpus():
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
