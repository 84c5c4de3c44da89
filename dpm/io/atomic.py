"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "replacing_folder"]


@contextmanager
def replacing(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """A temporary name beside the file to write to: it takes the file's place after the block, and is gone if the block fails.

    Parameters
    ----------
    path : Path
        The file; its folder exists.
    suffix : str
        How the temporary name ends, for writers that go by it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, marker: str) -> Iterator[Path]:
    """A new folder beside ``path`` to fill: it takes the path's place after the block, and is gone if the block fails.

    Parameters
    ----------
    path : Path
        The folder; its parent exists.
    marker : str
        File that every folder of this kind has: a folder without it is someone else's and is left alone.

    Raises
    ------
    FileExistsError
        If the path is taken by something else.
    """
    if path.exists() and not (path / marker).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} holds something else (no {marker} in it): name a new folder")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
