"""The run layer on tiny stages: resume, keys, failures, locks and partitions."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_stages import numbers, rounds, scaled, total

from dpm.execute import Interrupted, create_executor
from dpm.execute.local import SerialExecutor, ThreadsExecutor
from dpm.io.run_folder import RunFolder
from dpm.models.options import FindOptions, InputOptions, Options, PhotometryOptions
from dpm.run.errors import DiskFullError, IncompleteError, LockedError, OtherFieldError, StageFailedError
from dpm.run.lock import Lock
from dpm.run.pipeline import Observer, run_pipeline
from dpm.run.single import UsageError, finalise_stage, run_partition, run_stage
from dpm.run.status import stage_states

STAGES = (numbers, scaled, total)


class Recorder(Observer):
    """Remembers which parts were done and which stages skipped."""

    def __init__(self):
        self.parts = []
        self.skipped = []

    def stage_skipped(self, name, summary):
        self.skipped.append(name)

    def part_finished(self, name, part, error):
        self.parts.append((name, part))


@pytest.fixture
def field(tmp_path):
    """Six input files with the numbers 0 to 5, and a run folder."""
    for n in range(6):
        (tmp_path / f"in_{n}.dat").write_text(str(n))
    return tmp_path


def options_of(field, **tables):
    files = tuple(str(path) for path in sorted(field.glob("*.dat")))
    return Options(input=InputOptions(exposures=files), **tables)


def run(field, executor=None, options=None, **kwargs):
    recorder = Recorder()
    folder = RunFolder(field / "run")
    result = run_pipeline(
        folder, options or options_of(field), executor or SerialExecutor(), stages=STAGES, observer=recorder, **kwargs
    )
    return result, recorder


@pytest.mark.parametrize("kind", ["none", "threads"])
def test_complete_run_then_nothing_to_do(field, kind):
    result, recorder = run(field, create_executor(kind))
    assert result.summaries["total"] == {"total": 75.0}
    assert len(recorder.parts) == 13
    again, recorder = run(field)
    assert again.ran == [] and recorder.skipped == ["numbers", "scaled", "total"]
    assert again.summaries == result.summaries
    provenance = json.loads((field / "run" / "provenance.json").read_text())
    assert provenance["stages"]["numbers"]["parts"] == 6
    assert provenance["finished"] and provenance["peak_memory_bytes"]["driver"] > 1e6
    assert not (field / "run" / ".lock").exists()


def test_changed_option_reruns_only_what_depends_on_it(field):
    run(field)
    _, recorder = run(field, options=options_of(field, photometry=PhotometryOptions(system="vega")))
    assert recorder.skipped == ["numbers", "scaled"] and [name for name, _ in recorder.parts] == ["total"]
    result, recorder = run(field, options=options_of(field, find=FindOptions(threshold=2.0)))
    assert recorder.skipped == ["numbers"] and result.summaries["total"]["total"] == 30.0
    # The former parts describe files that were replaced meanwhile: going back runs them again.
    result, recorder = run(field)
    assert recorder.skipped == ["numbers"] and result.summaries["total"]["total"] == 75.0


def test_scheduling_is_not_part_of_the_key(field):
    run(field)
    options = options_of(field)
    again, _ = run(field, options=replace(options, cluster=replace(options.cluster, workers=7, use="none")))
    assert again.ran == []


def test_changed_and_removed_inputs(field):
    run(field)
    (field / "in_3.dat").write_text("30")
    result, _ = run(field)
    assert result.summaries["total"]["total"] == 5 * 42.0
    (field / "in_5.dat").unlink()
    result, _ = run(field)
    assert result.summaries["total"]["total"] == 5 * 37.0
    assert not (field / "run" / "tables" / "numbers" / "in_5.txt").exists()


def test_inputs_removed_after_the_run_leave_it_complete(field):
    options = options_of(field)
    run(field, options=options)
    for path in field.glob("*.dat"):
        path.unlink()
    assert {state.state for state in stage_states(RunFolder(field / "run"), options, STAGES)} == {"complete"}


def test_plan_that_fails_costs_nothing(field, monkeypatch):
    run(field)
    with monkeypatch.context() as patch:
        patch.setattr(scaled, "plan", lambda *a: (_ for _ in ()).throw(ValueError("no")))
        with pytest.raises(ValueError, match="no"):
            run(field, options=options_of(field, find=FindOptions(threshold=2.0)))
    result, recorder = run(field)
    assert recorder.parts == [] and result.summaries["total"]["total"] == 75.0
    assert "numbers" in recorder.skipped and "scaled" not in recorder.skipped


def test_lost_product_is_made_again(field):
    run(field)
    (field / "run" / "tables" / "numbers" / "in_2.txt").unlink()
    _, recorder = run(field)
    assert recorder.parts == [("numbers", "in_2")]
    (field / "run" / "tables" / "total.txt").unlink()
    _, recorder = run(field)
    assert recorder.parts == [("total", "all")]


def test_failed_part_leaves_the_others_done(field):
    (field / "in_2.dat").write_text("fail")
    with pytest.raises(StageFailedError, match=r"1 of 6 parts failed[\s\S]*in_2.dat: not a number"):
        run(field)
    (field / "in_2.dat").write_text("2")
    os.utime(field / "in_2.dat", ns=(1, 1))
    _, recorder = run(field)
    assert ("numbers", "in_2") in recorder.parts


def test_failure_of_the_machine_resumes_with_the_missing_part(field, monkeypatch):
    real = numbers.work

    def broken(task):
        if task.name == "in_4":
            raise RuntimeError("cable")
        return real(task)

    monkeypatch.setattr(numbers, "work", broken)
    with pytest.raises(StageFailedError, match="cable"):
        run(field)
    monkeypatch.setattr(numbers, "work", real)
    result, recorder = run(field)
    assert [part for name, part in recorder.parts if name == "numbers"] == ["in_4"]
    assert result.summaries["total"]["total"] == 75.0


def test_full_disk_says_so(field):
    (field / "in_2.dat").write_text("full")
    with pytest.raises(DiskFullError, match="no space left"):
        run(field)
    assert not list((field / "run" / "work" / "numbers").glob("*/in_2.json"))
    assert len(list((field / "run" / "work" / "numbers").glob("*/in_*.json"))) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_in_the_driver_says_so(field, monkeypatch, number):
    monkeypatch.setattr(scaled, "finalise", lambda *a: (_ for _ in ()).throw(OSError(number, "no more")))
    with pytest.raises(DiskFullError, match="free some space"):
        run(field)


def test_the_run_of_another_field_is_not_replaced_by_mistake(field):
    run(field, config_text='[input]\nexposures = ["/data/a.dat", "/data/b.dat"]\n')
    run(field)
    (field / "run" / "cubes" / "NIRISS_F090W.zarr").mkdir(parents=True)
    with pytest.raises(OtherFieldError, match=r"other exposures \(a.dat, b.dat\): name another folder") as caught:
        run(field)
    assert caught.value.exit_code == 2 and (field / "run" / "tables" / "total.txt").exists()
    run(field, restart=True, config_text='[input]\nexposures = ["in_5.dat"]\n')
    run(field)


def test_compiling_is_announced_once(field, monkeypatch):
    monkeypatch.setattr("dpm.kernels.jit.is_cold", lambda: True)
    told = []
    monkeypatch.setattr(Recorder, "compiling", lambda self: told.append(1), raising=False)
    run(field)
    assert told == [1]


def test_restart_forgets_everything(field):
    run(field)
    _, recorder = run(field, restart=True)
    assert len(recorder.parts) == 13


def test_closing_step_runs_once(field):
    calls = []
    step = ("report", lambda folder: calls.append(folder), ())
    run(field, last=[step])
    run(field, last=[step])
    run(field, last=[step], options=options_of(field, find=FindOptions(threshold=3.0)))
    assert len(calls) == 2


@pytest.mark.parametrize("executor", [SerialExecutor(), ThreadsExecutor(2)])
def test_cancel_between_parts_and_resume(field, executor):
    for n in range(6):
        (field / f"in_{n}.dat").write_text(f"{n} slow")
    cancel = threading.Event()
    threading.Timer(0.6, cancel.set).start()
    with pytest.raises(Interrupted):
        run(field, executor, cancel=cancel)
    executor.close()
    assert not (field / "run" / ".lock").exists()
    result, recorder = run(field)
    assert 0 < len([name for name, _ in recorder.parts if name == "numbers"]) < 6
    assert result.summaries["total"]["total"] == 75.0


def test_second_run_is_refused_and_names_the_first(field):
    with Lock(field / "run" / ".lock", "run folder"), pytest.raises(LockedError, match=f"process {os.getpid()} on"):
        run(field)
    result, _ = run(field)
    assert result.ran


def test_lock_of_a_dead_process_is_taken_over(field):
    (field / "run").mkdir()
    record = {
        "pid": 2**22 + 1,
        "process_started": 1.0,
        "host": os.uname().nodename,
        "since": "then",
        "command": "dpm run",
    }
    (field / "run" / ".lock").write_text(json.dumps(record))
    assert run(field)[0].ran


def test_lock_of_another_host_is_respected(field):
    (field / "run").mkdir()
    (field / "run" / ".lock").write_text(
        json.dumps({"pid": 1, "host": "elsewhere", "since": "then", "command": "dpm run"})
    )
    with pytest.raises(LockedError, match=r"elsewhere[\s\S]*remove .*\.lock"):
        run(field)


def test_states(field):
    folder, options = RunFolder(field / "run"), options_of(field)
    assert {state.state for state in stage_states(folder, options, STAGES)} == {"absent"}
    run(field)
    states = stage_states(folder, options_of(field, find=FindOptions(threshold=4.0)), STAGES)
    assert [state.state for state in states] == ["complete", "stale", "stale"]
    assert states[1].reason == "[find] threshold (5.0 -> 4.0) changed" and states[2].reason == "scaled changed"


def test_partitions_then_finalise(field):
    folder, options = RunFolder(field / "run"), options_of(field)
    arguments = (folder, options, SerialExecutor(), "numbers")
    assert run_partition(*arguments, 1, 4, stages=STAGES) == 2
    with pytest.raises(IncompleteError, match="4 of 6 parts are not done"):
        finalise_stage(*arguments, stages=STAGES)
    for index in (0, 2, 3):
        run_partition(*arguments, index, 4, stages=STAGES)
    assert finalise_stage(*arguments, stages=STAGES) == {"values": 15}
    _, recorder = run(field)
    assert recorder.skipped == ["numbers"]


def test_partitions_lock_stage_and_number(field):
    folder, options = RunFolder(field / "run"), options_of(field)
    with Lock(folder.work / "numbers" / "partition-0-of-2.lock", "partition"):
        run_partition(folder, options, SerialExecutor(), "numbers", 1, 2, stages=STAGES)
        with pytest.raises(LockedError, match="partition"):
            run_partition(folder, options, SerialExecutor(), "numbers", 0, 2, stages=STAGES)
        with pytest.raises(LockedError, match="partition-0-of-2"):
            run_partition(folder, options, SerialExecutor(), "numbers", 1, 3, stages=STAGES)
        with pytest.raises(LockedError, match="partition-0-of-2"):
            run(field)


def test_partition_refusals(field):
    folder, options = RunFolder(field / "run"), options_of(field)
    with Lock(folder.lock, "run"), pytest.raises(LockedError, match=rf"in use by process {os.getpid()} on .*; wait"):
        run_partition(folder, options, SerialExecutor(), "numbers", 0, 2, stages=STAGES)
    with pytest.raises(UsageError, match="--cluster"):
        run_partition(folder, options, SerialExecutor(), "total", 0, 2, stages=STAGES)
    with pytest.raises(UsageError, match="from 0 to 1"):
        run_partition(folder, options, SerialExecutor(), "numbers", 2, 2, stages=STAGES)
    with pytest.raises(UsageError, match="numbers, scaled, total"):
        run_stage(folder, options, SerialExecutor(), "nmbers", stages=STAGES)


def test_stage_alone_needs_its_upstream(field):
    folder, options = RunFolder(field / "run"), options_of(field)
    with pytest.raises(IncompleteError, match="needs numbers"):
        run_stage(folder, options, SerialExecutor(), "scaled", stages=STAGES)
    run_stage(folder, options, SerialExecutor(), "numbers", stages=STAGES)
    assert run_stage(folder, options, SerialExecutor(), "scaled", stages=STAGES) == {"values": 75.0}


def start_command(field, *arguments):
    """The dpm command with the tiny stages, as a process."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    return subprocess.Popen(
        [sys.executable, str(here / "fake_run.py"), *arguments],
        cwd=field,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_resumes_to_the_same_result(field, number):
    (field / "in_2.dat").write_text("2 wait")
    (field / "field.toml").write_text('[run]\ndirectory = "run"\n[input]\nexposures = ["in_*.dat"]\n')
    first = start_command(field, "run", "field.toml", "--cluster", "none")
    deadline = time.monotonic() + 30
    while len(list(field.glob("*.log"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    second = start_command(field, "run", "field.toml")
    assert second.communicate(timeout=60)[1].startswith("dpm: run folder") and second.returncode == 1
    first.send_signal(number)
    text = first.communicate(timeout=60)[1]
    assert first.returncode == 130 and "interrupted" in text
    assert not (field / "run" / ".lock").exists()
    (field / "go").touch()
    third = start_command(field, "run", "field.toml", "--cluster", "none")
    text = third.communicate(timeout=60)[1]
    assert third.returncode == 0, text
    assert "6 parts, 2 done before" in text
    assert (field / "run" / "tables" / "total.txt").read_text() == "75.0"
    assert all(path.read_text() == "done\n" for path in field.glob("*.log"))


def test_killed_command_leaves_no_lock_behind(field):
    (field / "in_2.dat").write_text("2 wait")
    (field / "field.toml").write_text('[input]\nexposures = ["in_*.dat"]\n')
    first = start_command(field, "run", "field.toml", "--cluster", "none")
    deadline = time.monotonic() + 30
    while not list(field.glob("*.log")) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.communicate(timeout=60)
    assert (field / "run" / ".lock").exists()
    (field / "go").touch()
    again = start_command(field, "run", "field.toml", "--cluster", "none")
    text = again.communicate(timeout=60)[1]
    assert again.returncode == 0, text
    shutil.rmtree(field / "run")


def test_a_stage_goes_on_in_rounds(field):
    result, recorder = run_rounds(field)
    assert result.summaries["rounds"] == {"parts": 6, "last": [8, 8]}
    assert [part for _, part in recorder.parts] == ["r0_0", "r0_1", "r1_0", "r1_1", "r2_0", "r2_1"]
    again, _ = run_rounds(field)
    assert again.ran == []


def test_rounds_resume_where_they_stopped(field):
    place = field / "run" / "work"
    place.mkdir(parents=True)
    (place / "stop").touch()
    with pytest.raises(StageFailedError, match="told to stop"):
        run_rounds(field)
    (place / "stop").unlink()
    result, recorder = run_rounds(field)
    assert [part for _, part in recorder.parts] == ["r2_1"]
    assert result.summaries["rounds"]["last"] == [8, 8]
    assert (place / "done.log").read_text().split() == ["r0_0", "r0_1", "r1_0", "r1_1", "r2_0", "r2_1"]


def run_rounds(field):
    recorder = Recorder()
    result = run_pipeline(RunFolder(field / "run"), options_of(field), SerialExecutor(), stages=(rounds,), observer=recorder)
    return result, recorder


def test_partitions_share_one_round_of_a_stage_that_goes_on_in_rounds(field, monkeypatch):
    monkeypatch.setattr(rounds, "PARTITIONED", True)
    monkeypatch.setattr(rounds, "SHARED_ROUND", 1, raising=False)
    arguments = (RunFolder(field / "run"), options_of(field), SerialExecutor(), "rounds")
    log = field / "run" / "work" / "done.log"
    assert run_partition(*arguments, 1, 2, stages=(rounds,)) == 1
    assert log.read_text().split() == ["r0_0", "r0_1", "r1_1"]
    with pytest.raises(IncompleteError, match="1 of 2 parts are not done: r1_0"):
        finalise_stage(*arguments, stages=(rounds,))
    assert run_partition(*arguments, 0, 2, stages=(rounds,)) == 1
    assert finalise_stage(*arguments, stages=(rounds,)) == {"parts": 6, "last": [8, 8]}
    assert log.read_text().split() == ["r0_0", "r0_1", "r1_1", "r1_0", "r2_0", "r2_1"]
