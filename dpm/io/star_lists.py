"""Small tables that pass between tasks: plain arrays in Arrow files, whole or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather

from dpm.io.atomic import replacing

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray]) -> None:
    """Write one-dimensional arrays of one length, atomically."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(np.ascontiguousarray(values)) for name, values in arrays.items()})
    with replacing(Path(path)) as temporary:
        feather.write_feather(table, str(temporary), compression="uncompressed")


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray]:
    """The arrays of a file of `write_arrays`; may be read-only.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; run the stage that writes it again")
    table = feather.read_table(str(path), memory_map=False)
    return {name: table[name].to_numpy() for name in table.column_names}
