"""A slow shared disk: what one machine wrote is seen late by another, is waited for, and is never taken as missing."""

import errno
import logging
import os
import time

import pytest
from fake_stages import late as stage

from dpm.execute import create_executor
from dpm.io.run_folder import RunFolder
from dpm.models.options import ClusterOptions, Options
from dpm.run import late
from dpm.run.errors import IncompleteError, StageFailedError
from dpm.run.late import until_seen, wait_for_files
from dpm.run.parts import Parts
from dpm.run.pipeline import run_pipeline


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No process-wide memory of other tests."""
    monkeypatch.setattr(late, "_in_vain", {})


def run(folder, delay, kind="none"):
    root = folder / "run"
    root.mkdir(exist_ok=True)
    (root / "delay").write_text(str(delay))
    executor = create_executor(kind, ClusterOptions(workers=2))
    try:
        return run_pipeline(RunFolder(root), Options(), executor, stages=(stage,))
    finally:
        executor.close()


COMPLETE = {"there": 2, "values": [2, 2]}


def test_files_that_come_late_are_waited_for(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="dpm"):
        assert run(tmp_path, 3.0).summaries["late"] == COMPLETE
    assert "write_1.txt is not there yet: waiting" in caplog.text and "read_0.txt is not there yet: waiting" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_files_that_come_late_to_other_workers(tmp_path):
    assert run(tmp_path, 3.0, "local").summaries["late"] == COMPLETE


def test_a_file_that_never_comes_is_named_and_its_absence_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(late, "LATE", 0.5)
    with pytest.raises(StageFailedError, match=r"2 of 2 parts failed(.|\n)*read_0: FileNotFoundError: .*write_1.txt"):
        run(tmp_path, stage.NEVER)
    for part in (0, 1):
        os.replace(tmp_path / f"run/work/.write_{part}", tmp_path / f"run/work/write_{part}.txt")
    monkeypatch.setattr(late, "_in_vain", {})
    with pytest.raises(IncompleteError, match=r"read_0.txt, which part read_0 wrote on .*, is not seen on"):
        run(tmp_path, stage.NEVER)
    assert Parts(RunFolder(tmp_path / "run"), "late", "").path.parent.is_dir() and not list(tmp_path.glob("run/work/late/*/_fin*"))
    for part in (0, 1):
        os.replace(tmp_path / f"run/work/.read_{part}", tmp_path / f"run/work/read_{part}.txt")
    assert run(tmp_path, stage.NEVER).summaries["late"] == COMPLETE


def test_what_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(late, "LATE", 0.3)
    calls = []

    def attempts(error, times):
        def work():
            calls.append(1)
            if len(calls) <= times:
                raise error
            return len(calls)

        calls.clear()
        return work

    def wrapped(cause):
        error = ValueError("no pixels")
        error.__cause__ = cause
        return error

    here = str(tmp_path / "cubes" / "a.zarr")
    late_ones = (
        FileNotFoundError(errno.ENOENT, "No such file or directory", here),
        FileNotFoundError(f"{here}: no such table; run the stage that writes it first"),
        OSError(errno.ESTALE, "Stale file handle", here),
        wrapped(FileNotFoundError(f"{here}: no such file")),
    )
    for error in late_ones:
        assert until_seen(tmp_path, attempts(error, 1)) == 2
    elsewhere = FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere/library.fits")
    for error in (elsewhere, ValueError(here), PermissionError(errno.EACCES, "Permission denied", here)):
        with pytest.raises(type(error)):
            until_seen(tmp_path, attempts(error, 1))
        assert len(calls) == 1
    # By whatever name the folder goes.
    (tmp_path / "cubes").mkdir()
    link = tmp_path.parent / f"{tmp_path.name}_link"
    link.symlink_to(tmp_path)
    other_name = FileNotFoundError(errno.ENOENT, "No such file or directory", str(link / "cubes" / "a.zarr"))
    assert until_seen(tmp_path, attempts(other_name, 1)) == 2
    monkeypatch.chdir(tmp_path.parent)
    relative = FileNotFoundError(errno.ENOENT, "No such file or directory", f"{tmp_path.name}/cubes/a.zarr")
    assert until_seen(tmp_path, attempts(relative, 1)) == 2
    # Every file has its own time, however long the work before it took.
    files = [FileNotFoundError(errno.ENOENT, "No such file or directory", f"{here}{k}") for k in (1, 2)]

    def slow_work():
        calls.append(1)
        if len(calls) > 1:
            time.sleep(0.4)
        if len(calls) <= 2:
            raise files[len(calls) - 1]
        return "done"

    calls.clear()
    assert until_seen(tmp_path, slow_work) == "done"
    # A process that has waited in vain says the same of other files at once, but not for ever.
    assert wait_for_files(tmp_path, ["a"]) == "a"
    with pytest.raises(FileNotFoundError):
        until_seen(tmp_path, attempts(late_ones[0], 1))
    assert len(calls) == 1
    time.sleep(0.4)
    assert until_seen(tmp_path, attempts(late_ones[0], 1)) == 2
