"""Where compiled kernels are kept when the usual place cannot be written, and when they are removed."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dpm.kernels import jit


@pytest.fixture
def blocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that is a file, and a folder of temporary files of the test's own; returns the latter."""
    (tmp_path / "home").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("DPM_CACHE_DIR", str(tmp_path / "home"))
    monkeypatch.setattr(jit.tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_without_a_home_the_cache_is_the_users_own_temporary_folder(blocked: Path) -> None:
    folder = jit.cache_folder.__wrapped__()
    assert folder.parent.parent == blocked and folder.is_dir()
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert jit.cache_folder.__wrapped__() == folder


def test_a_temporary_folder_of_somebody_else_is_not_used(blocked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = jit.cache_folder.__wrapped__()
    monkeypatch.setattr(jit.os, "getuid", lambda owner=os.getuid(): owner + 1)
    other = jit.cache_folder.__wrapped__()
    assert other.is_dir() and folder.parent not in other.parents


def _aged(folder: Path, days: float) -> Path:
    """A cache folder with a compiled kernel that was last used so many days ago."""
    (folder / "fit_1").mkdir(parents=True)
    (folder / "fit_1" / "fit.nbi").write_bytes(b"kernel")
    when = time.time() - 86400 * days
    os.utime(folder, (when, when))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the cache folders of all sources."""
    monkeypatch.setenv("DPM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_user", lambda: "ann.b")
    return tmp_path / "dpm"


def test_cache_folders_that_nobody_used_for_a_month_are_removed(cache: Path) -> None:
    mine = jit.cache_folder.__wrapped__()
    os.utime(mine, (0, 0))
    old = _aged(cache / f"kernels-ann.b-{1:016x}", 31)
    left_over = _aged(cache / f"kernels-ann.b-{2:016x}.removed-77", 31)
    recent = _aged(cache / f"kernels-ann.b-{3:016x}", 29)
    kept = [
        _aged(cache / name, 400)
        for name in (f"kernels-joann-{1:016x}", f"kernels-ann.b-b-{1:016x}", "kernels-ann.b-notes", f"results-ann-{1:016x}")
    ]
    assert jit.cache_folder.__wrapped__() == mine and mine.is_dir()
    assert not old.exists() and not left_over.exists()
    assert all((folder / "fit_1" / "fit.nbi").exists() for folder in (recent, *kept))
    assert time.time() - mine.stat().st_mtime < 3600, "a folder in use has to look used"


def test_a_link_in_the_cache_is_not_followed(cache: Path, tmp_path: Path) -> None:
    precious = _aged(tmp_path / "precious", 400)
    cache.mkdir()
    (cache / f"kernels-ann.b-{1:016x}").symlink_to(precious)
    jit.cache_folder.__wrapped__()
    assert (precious / "fit_1" / "fit.nbi").exists()


def test_a_folder_that_is_opened_while_it_is_removed_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _aged(cache / f"kernels-ann.b-{1:016x}", 31)
    rename = Path.rename

    def opened_meanwhile(self: Path, target: Path) -> Path:
        os.utime(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", opened_meanwhile)
    jit.cache_folder.__wrapped__()
    assert (old / "fit_1" / "fit.nbi").exists()


def test_many_processes_may_remove_the_same_folders(cache: Path) -> None:
    jit.cache_folder.__wrapped__()
    for number in range(200):
        _aged(cache / f"kernels-ann.b-{number:016x}", 31)
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: jit.cache_folder.__wrapped__(), range(32)))
    assert len(folders) == 1 and list(cache.iterdir()) == list(folders)


def test_a_folder_that_somebody_is_removing_is_left_to_them(cache: Path) -> None:
    cache.mkdir()
    theirs = _aged(cache / f"kernels-ann.b-{1:016x}.removed-{time.time_ns()}", 31)
    jit.cache_folder.__wrapped__()
    assert (theirs / "fit_1" / "fit.nbi").exists()
