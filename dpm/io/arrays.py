"""Plain arrays in one file: what the parts of an iteration hand to one another inside ``work/``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpm.io.atomic import replacing

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: Path, **arrays: NDArray) -> None:
    """Write named arrays, uncompressed; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, NDArray]:
    """All arrays of a file by name.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
