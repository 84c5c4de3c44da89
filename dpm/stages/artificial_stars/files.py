"""What the parts of the stage leave for each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import read_arrays
from dpm.stages.second_pass.field import files_folder

__all__ = [
    "STAGE", "chunk_file", "field_file", "is_planned", "measurements_folder", "plan_file", "read_chunks", "read_plan",
    "check_recovered", "read_recovered", "recovered_file", "remove_files", "write_plan",
]  # fmt: skip

STAGE = "artificial_stars"  # whose files these are
CHUNK_STARS = 20_000  # of a chunk of whole passes, whose rows one task averages in some hundred MiB


def plan_file(folder: RunFolder) -> Path:
    """The stars to put in, a record batch a pass."""
    return files_folder(folder, STAGE) / "stars.arrow"


def field_file(folder: RunFolder) -> Path:
    """What the real stars say of errors and links."""
    return files_folder(folder, STAGE) / "field.npz"


def recovered_file(folder: RunFolder, step: str, tile: int, first: int) -> Path:
    """What a task made of a tile and the passes from ``first`` on."""
    return files_folder(folder, STAGE) / step / f"{tile}_{first}.arrow"


def measurements_folder(folder: RunFolder, chunk: int) -> Path:
    """A chunk's measurements, one table an exposure."""
    return files_folder(folder, STAGE) / "measurements" / str(chunk)


def chunk_file(folder: RunFolder, chunk: int) -> Path:
    """A chunk's part of the table."""
    return files_folder(folder, STAGE) / "table" / f"{chunk}.parquet"


def write_plan(folder: RunFolder, plan: Mapping[str, NDArray]) -> None:
    """Write the stars to put in, sorted by pass, so that a task reads those of its passes alone.

    Parameters
    ----------
    folder : RunFolder
    plan : mapping of ndarray (n,)
        ``id``, ``pass`` (from 0, without a gap), ``x_0, y_0`` (master pixels at the first group's epoch) ..., ``{band}_flux`` ...
    """
    order = np.lexsort((plan["id"], plan["pass"]))
    table = pa.table({name: pa.array(np.ascontiguousarray(values[order])) for name, values in plan.items()})
    counts = np.bincount(plan["pass"])
    ends = np.cumsum(counts)
    path = plan_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for end, count in zip(ends, counts):
            writer.write_batch(table.slice(end - count, count).combine_chunks().to_batches()[0])
    with replacing(_chunks_file(folder)) as temporary:
        temporary.write_text(json.dumps(_chunks(counts)))


def read_plan(folder: RunFolder, first: int, last: int) -> dict[str, NDArray]:
    """The stars of the passes ``first`` to ``last``, the last excluded; may be read-only."""
    with pa.OSFile(str(plan_file(folder)), "rb") as source, pa.ipc.open_file(source) as reader:
        batches = [reader.get_batch(number) for number in range(first, last)]
        table = pa.Table.from_batches(batches, reader.schema)
        return {name: table[name].to_numpy() for name in table.column_names}


def read_chunks(folder: RunFolder) -> list[tuple[int, int]]:
    """First and last pass (excluded) of every chunk."""
    return [(first, last) for first, last in json.loads(_chunks_file(folder).read_text())]


def is_planned(folder: RunFolder) -> bool:
    """Whether `write_plan` was done."""
    return _chunks_file(folder).exists()


def remove_files(folder: RunFolder) -> None:
    """Remove all but the small files that say what tasks there were: a run killed before the stage is closed asks again."""
    for path in files_folder(folder, STAGE).glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".json":
            path.unlink(missing_ok=True)


def _chunks_file(folder: RunFolder) -> Path:
    return files_folder(folder, STAGE) / "chunks.json"


def _chunks(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Consecutive passes with CHUNK_STARS stars or a pass more."""
    out, first, n = [], 0, 0
    for number, count in enumerate(counts):
        n += int(count)
        if n >= CHUNK_STARS or number == len(counts) - 1:
            out.append((first, number + 1))
            first, n = number + 1, 0
    return out


def check_recovered(folder: RunFolder, first: int, last: int, parts: int) -> None:
    """See that the lists of all tasks with these passes are there: one that is late is not a tile without stars.

    Raises
    ------
    FileNotFoundError
        If fewer than ``parts`` are.
    """
    for step in ("found", "measured"):
        place = recovered_file(folder, step, 0, 0).parent
        there = sum(first <= number < last for _, number, _ in _recovered(place))
        if there < parts:
            raise FileNotFoundError(f"{place}: {parts - there} of {parts} lists of recovered stars are missing")


def read_recovered(folder: RunFolder, step: str, tiles: set[int], first: int, last: int) -> dict[str, NDArray]:
    """What all tasks made of these tiles and the passes ``first`` to ``last``, which no task crosses."""
    lists = [
        read_arrays(path)
        for tile, number, path in _recovered(recovered_file(folder, step, 0, 0).parent)
        if tile in tiles and first <= number < last
    ]
    return {name: np.concatenate([part[name] for part in lists]) for name in lists[0]}


def _recovered(place: Path) -> list[tuple[int, int, Path]]:
    """Tile and first pass of every list in a folder, ordered as their names are."""
    out = []
    for path in sorted(place.glob("*_*.arrow")):
        tile, number = (int(part) for part in path.stem.split("_"))
        out.append((tile, number, path))
    return out
