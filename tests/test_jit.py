"""Where compiled kernels are kept when the usual place cannot be written."""

from __future__ import annotations

import os
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
