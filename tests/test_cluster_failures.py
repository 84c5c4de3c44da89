"""What goes wrong on clusters, done for real: each time the run says what happened, and going on gives the same result."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from clusters import own_cluster, until
from small_field import assert_same_products, write_config

from dpm.config import load_options
from dpm.execute import create_executor
from dpm.models.options import ClusterOptions
from dpm.models.patches import SIDES
from dpm.run.pipeline import run_pipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).resolve().parent
N = 8


@pytest.fixture
def numbers(tmp_path):
    """Eight input files for the stages of `fake_run`, and their configuration."""
    for n in range(N):
        (tmp_path / f"in_{n}.dat").write_text(str(n))
    (tmp_path / "field.toml").write_text('[run]\ndirectory = "run"\n[input]\nexposures = ["in_*.dat"]\n')
    return tmp_path


def say(folder, n, words):
    """Change what an input file says, but not its identity."""
    path = folder / f"in_{n}.dat"
    before = path.stat()
    size = before.st_size
    assert len(words) <= size or not (folder / "run").exists()
    path.write_text(words.ljust(size) if (folder / "run").exists() else words)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def start(folder, *arguments, **kwargs):
    """The dpm command with tiny stages, as a process."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.Popen(
        [sys.executable, str(HERE / "fake_run.py"), *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs,
    )  # fmt: skip


def limit(what, amount):
    """What sets a limit in a process that is about to start."""
    return lambda: resource.setrlimit(what, (amount, amount))


def end(process, seconds=120):
    text = process.communicate(timeout=seconds)[1]
    return process.returncode, text


def assert_complete(folder):
    """Every number once, and their sum."""
    lines = sorted(path.read_text() for path in (folder / "run" / "tables" / "numbers").glob("*.txt"))
    assert [line.strip() for line in lines] == [str(n) for n in range(N)]
    assert (folder / "run" / "tables" / "total.txt").read_text() == str(5.0 * sum(range(N)))


def go_on(folder, *arguments):
    code, text = end(start(folder, "run", "field.toml", *(arguments or ("--cluster", "none"))))
    assert code == 0, text
    assert_complete(folder)
    return text


def parts_done(folder):
    return len(list(folder.glob("run/work/numbers/*/in_*.json")))


def test_poison_is_named_and_the_others_are_kept(numbers):
    say(numbers, 2, "2 poison")
    say(numbers, 5, "5 fail")
    code, text = end(start(numbers, "run", "field.toml", "--cluster", "local", "--workers", "2"))
    assert code == 1 and f"2 of {N} parts failed, the others are done and kept" in text
    assert "in_2: WorkerDied: in_2 killed its worker 4 times" in text and "in_5: ValueError" in text
    assert parts_done(numbers) == N - 2
    log = "".join(path.read_text() for path in numbers.glob("run/logs/*.log"))
    assert "Traceback" in log and "fake_stages/numbers.py" in log
    say(numbers, 2, "2")
    say(numbers, 5, "5")
    assert f"{N} parts, {N - 2} done before" in go_on(numbers)


def test_worker_out_of_memory_and_task_without_end(numbers):
    with (numbers / "field.toml").open("a") as file:
        file.write('[cluster]\nmemory_per_worker = "450MiB"\nworkers = 2\ntask_timeout = 5.0\n')
    say(numbers, 3, "3 hungry")
    say(numbers, 6, "6 hang")
    code, text = end(start(numbers, "run", "field.toml", "--cluster", "local"))
    assert code == 1 and f"2 of {N} parts failed" in text
    assert "in_3: WorkerDied" in text and "most likely the worker ran out of memory (its limit is 450MiB" in text
    assert "in_6: TimedOut: in_6 took longer than 5 s ([cluster] task_timeout)" in text
    log = "".join(path.read_text() for path in numbers.glob("run/logs/*.log"))
    assert "numbers.py" in log and "in work" in log
    assert not list(numbers.glob("run/work/hung-*"))
    say(numbers, 3, "3")
    say(numbers, 6, "6")
    go_on(numbers)


def test_memory_limit_of_the_system_fails_one_part(numbers):
    """Where the system refuses memory (ulimit -v), Python says so, and the part fails by itself."""
    say(numbers, 3, "3 hungry")
    code, text = end(start(numbers, "run", "field.toml", "--cluster", "none", preexec_fn=limit(resource.RLIMIT_AS, 3 * 2**30)))
    assert code == 1 and "in_3: MemoryError" in text and parts_done(numbers) == N - 1
    say(numbers, 3, "3")
    go_on(numbers)


def test_stopped_worker_is_given_up(numbers, monkeypatch):
    """A worker that stands still (SIGSTOP, a dead disk) is left by the scheduler after its time-to-live."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "6s")
    for n in range(N):
        say(numbers, n, f"{n} slow")
    first = start(numbers, "run", "field.toml", "--cluster", "local", "--workers", "2")
    until(lambda: parts_done(numbers) >= 1, 60)
    workers = [p for p in psutil.Process(first.pid).children(recursive=True) if "spawn" in " ".join(p.cmdline())]
    workers[0].suspend()
    code, text = end(first)
    assert code == 0, text
    assert_complete(numbers)


def test_nanny_killed_and_scheduler_killed(numbers):
    for n in range(N):
        say(numbers, n, f"{n} slow")
    with own_cluster(numbers) as cluster:
        scheduler = cluster.scheduler()
        victim = cluster.worker()
        cluster.worker()
        first = start(numbers, "run", "field.toml", "--cluster", str(cluster.file))
        until(lambda: parts_done(numbers) >= 1, 90)
        victim.kill()
        until(lambda: parts_done(numbers) >= 3, 60)
        scheduler.kill()
        code, text = end(first)
        assert code == 1 and "scheduler" in text and "finished parts are kept" in text
        assert not (numbers / "run" / ".lock").exists()
    # A worker may still end its part while its scheduler is gone.
    before = parts_done(numbers)
    assert 3 <= before < N
    with own_cluster(numbers) as cluster:
        cluster.scheduler()
        cluster.worker("--lifetime", "4s")
        cluster.worker()
        assert f"{N} parts, {before} done before" in go_on(numbers, "--cluster", str(cluster.file))


def test_workers_that_never_come_and_wrong_ones_that_come_late(numbers):
    with (numbers / "field.toml").open("a") as file:
        file.write("[cluster]\nworker_timeout = 2.0\n")
    for n in range(N):
        say(numbers, n, f"{n} slow")
    (numbers / "older.py").write_text("import dpm\ndpm.__version__ = '0.0.1'\n")
    with own_cluster(numbers) as cluster:
        cluster.scheduler()
        code, text = end(start(numbers, "run", "field.toml", "--cluster", str(cluster.file)))
        assert code == 1 and "has had no workers for 2 s ([cluster] worker_timeout)" in text
        wrong = cluster.worker("--preload", str(numbers / "older.py"), "--name", "wrong")
        code, text = end(start(numbers, "run", "field.toml", "--cluster", str(cluster.file)))
        while "no workers for" in text:  # it is slow to start
            code, text = end(start(numbers, "run", "field.toml", "--cluster", str(cluster.file)))
        assert code == 1 and "is refused: it runs dpm 0.0.1 (the driver has" in text and parts_done(numbers) == 0
        wrong.terminate()
        wrong.wait(60)
        with (numbers / "field.toml").open("a") as file:
            file.write("task_timeout = 60.0\n")
        cluster.worker()
        cluster.wait_for_workers(1)
        # The first part may run alone, since it compiles; the second one keeps the run from ending.
        say(numbers, 1, "1 wait")
        first = start(numbers, "run", "field.toml", "--cluster", str(cluster.file))
        until(lambda: len(list(numbers.glob("run/work/driver-*"))) == 1, 60)
        late = cluster.worker("--preload", str(numbers / "older.py"))
        late.wait(60)  # sent away
        (numbers / "go").touch()
        code, text = end(first)
        assert code == 0 and "is refused: it runs dpm 0.0.1" in text, text
        assert_complete(numbers)


def test_full_disk(numbers):
    """A file system of one megabyte where mounting is allowed, else a limit on the size of files."""
    small = numbers / "run"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "dpm-test", str(small)], capture_output=True).returncode == 0
    try:
        if mounted:
            (small / "filler").write_bytes(bytes(2**20 - 40 * 1024))
            code, text = end(start(numbers, "run", "field.toml", "--cluster", "local", "--workers", "2"))
        else:
            small_files = limit(resource.RLIMIT_FSIZE, 1000)
            code, text = end(start(numbers, "run", "field.toml", "--cluster", "none", preexec_fn=small_files))
        assert code == 1 and "no space left on the disk of" in text and "free some space" in text
        (small / "filler").unlink(missing_ok=True)
        go_on(numbers)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(small)], check=True)


def test_clocks_that_differ_change_nothing(numbers):
    """Times of files are compared for being the same, never for being older: hours between the machines' clocks do not matter."""
    say(numbers, 5, "5 fail")
    assert end(start(numbers, "run", "field.toml", "--cluster", "none"))[0] == 1
    say(numbers, 5, "5")
    for shift, path in enumerate(sorted((numbers / "run").rglob("*"))):
        hours = -7 if shift % 2 else 9
        os.utime(path, (time.time() + 3600 * hours,) * 2)
    assert f"{N} parts, {N - 1} done before" in go_on(numbers)
    for path in (numbers / "run").rglob("*"):
        os.utime(path, (1.0, 1.0))
    assert go_on(numbers).count("up to date") >= 3


@pytest.mark.timeout(1800)
def test_fifty_kills_and_the_same_catalogue(small_reference, tmp_path, monkeypatch):
    """After each part that is done one of the two workers is killed, at random and a random moment later.

    Without new parts there are no more kills: a part that dies four times running is poison, however it came to that.
    """
    from dpm.stages.second_pass import field as second_pass_field

    # Small patches, a tile each: more parts than kills.
    monkeypatch.setattr(second_pass_field, "TILE_SECONDS", 1e-6)
    monkeypatch.setattr(second_pass_field, "patch_side", lambda depth: SIDES[-1])
    field, _ = small_reference
    (tmp_path / "undisturbed").mkdir()
    expected = write_config(field, tmp_path / "undisturbed" / "field.toml")
    run_pipeline(expected, load_options(tmp_path / "undisturbed" / "field.toml"), create_executor("none", ClusterOptions()))
    run = write_config(field, tmp_path / "field.toml")
    dice = random.Random(50)
    killed, over = [], threading.Event()

    def parts_of_all_stages():
        # A folder may go away while it is listed.
        return sum(name[0] != "_" for _, _, names in os.walk(run.work) for name in names if name.endswith(".json"))

    def kill():
        seen = 0
        while len(killed) < 50 and not over.is_set():
            workers = list(executor.client.nthreads())
            done = parts_of_all_stages()
            seen = min(seen, done)
            if done <= seen or not workers:
                time.sleep(0.02)
                continue
            time.sleep(dice.uniform(0.0, 0.1))
            pids = executor.client.run(os.getpid, workers=[dice.choice(workers)], on_error="ignore")
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            seen = parts_of_all_stages()

    killer = threading.Thread(target=kill, daemon=True)
    options = load_options(tmp_path / "field.toml")
    executor = create_executor("local", ClusterOptions(workers=2))
    try:
        killer.start()
        run_pipeline(run, options, executor)
        # A fast machine does several parts a kill: the second pass once more then.
        while len(killed) < 50:
            shutil.rmtree(run.work / "second_pass")
            run_pipeline(run, options, executor)
    finally:
        over.set()
        killer.join(10)
        executor.close()
    assert len(killed) == 50 and len(set(killed)) == 50
    assert_same_products(expected, run)


def test_cache_of_other_kernels_is_not_used(tmp_path):
    """Kernels compiled from other sources lie in another folder, so that an update of dpm never runs old code."""
    copy = tmp_path / "code"
    shutil.copytree(HERE.parent / "dpm" / "kernels", copy / "dpm" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py",):
        (copy / "dpm" / name).write_text((HERE.parent / "dpm" / name).read_text())
    (copy / "dpm" / "kernels" / "inner.py").write_text(
        "from dpm.kernels.jit import kernel\n@kernel\ndef inner(x):\n    return x + 1\n"
    )
    (copy / "dpm" / "kernels" / "outer.py").write_text(
        "from dpm.kernels.jit import kernel\nfrom dpm.kernels.inner import inner\n@kernel\ndef outer(x):\n    return inner(x)\n"
    )

    def value():
        environment = os.environ | {"PYTHONPATH": str(copy), "DPM_CACHE_DIR": str(tmp_path / "cache")}
        code = "from dpm.kernels.outer import outer; print(outer(1))"
        return subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=tmp_path, text=True).strip()

    assert value() == "2"
    inner = copy / "dpm" / "kernels" / "inner.py"
    before = inner.stat()
    inner.write_text(inner.read_text().replace("x + 1", "x + 9"))
    os.utime(inner, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert value() == "10"
    assert len(list((tmp_path / "cache" / "dpm").glob("kernels-*"))) == 2


def test_killed_driver_leaves_no_process(numbers):
    """The workers of a local cluster end with the driver, however it ended, and the next run takes the lock over."""
    for n in range(N):
        say(numbers, n, f"{n} slow")
    first = start(numbers, "run", "field.toml", "--cluster", "local", "--workers", "2")
    until(lambda: parts_done(numbers) >= 2, 60)
    workers = psutil.Process(first.pid).children(recursive=True)
    assert len(workers) >= 2
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers), 60)
    go_on(numbers)
