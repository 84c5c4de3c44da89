"""Artificial stars: put into every exposure, found and measured by the second pass itself (DESIGN section 6; paper 1, section 3.2).

Pixels are gathered; tasks put stars into a tile, some passes each, while one task learns the errors of the real stars; chunks of
stars are averaged and linked, and joined.  Reads the cubes, ``calibration`` and the tables of the second pass; writes
``tables/artificial_stars.parquet``.  Nothing is written back to the pixels.  Does nothing without ``[artificial_stars] n`` or
``table``.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.base import Footprint, Task

__all__ = [
    "CONFIG", "NAME", "PARTITIONED", "REVISION", "SHARED_ROUND", "UPSTREAM", "finalise", "next_round", "places", "plan", "work",
]  # fmt: skip

NAME = "artificial_stars"
REVISION = 4
PARTITIONED = True
CONFIG = ("input.reference", "distortion", "find", "frame", "photometry", "artificial_stars")
UPSTREAM = ("ingest", "psf", "perturbation", "brightness", "first_pass", "distortion", "frame", "second_pass")

ROUNDS = ("gather", "recover", "assemble", "join")
SHARED_ROUND = ROUNDS.index("recover")
TASK_SECONDS = 20.0  # of one task: what a killed worker costs at most
ASSEMBLE_SECONDS = 5e-4  # of a star in a few epochs
LEARN_SECONDS = 5.0
PASS_FACTOR = 2.0  # seconds of a pass over those that the plan of tiles gives for a tile: it is searched and solved twice


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task for each exposure that the frame stage placed: its pixels are gathered."""
    if not (options.artificial_stars.n or options.artificial_stars.table):
        return []
    from dpm.io.tables import read_table
    from dpm.stages.second_pass import gather_tasks
    from dpm.stages.second_pass.field import SecondPassField, files_folder

    shutil.rmtree(files_folder(folder, NAME), ignore_errors=True)
    return gather_tasks(SecondPassField.from_exposures(folder, read_table(folder.exposures), NAME), options)


def next_round(folder: RunFolder, options: Options, rounds: list[list[dict[str, Any]]]) -> list[Task]:
    """Recovery, one task for some passes over one tile; the parts of the table; and the table."""
    if len(rounds) >= len(ROUNDS) or not rounds[0]:
        return []
    common: dict[str, Any] = {"step": ROUNDS[len(rounds)], "root": str(folder.root)}
    tables = {name: asdict(getattr(options, name)) for name in ("input", "find", "frame", "photometry", "distortion")}
    tables["input"] |= {"exposures": ()}
    if common["step"] == "join":
        return [Task(NAME, "join", common | {"ends": [result["ends"] for result in rounds[-1]]})]
    if common["step"] == "assemble":
        from dpm.stages.artificial_stars.files import CHUNK_STARS, read_chunks

        seconds = 1.0 + ASSEMBLE_SECONDS * CHUNK_STARS
        # How many parts there are of a chunk: a list of files that a slow disk gives may miss some.
        firsts = [int(result["name"].rsplit("_", 1)[1]) for result in rounds[-1] if result["step"] == "recover"]
        counts = [sum(begin <= first < end for first in firsts) for begin, end in read_chunks(folder)]
        return [
            Task(NAME, f"assemble_{k}", common | tables | {"chunk": k, "parts": count}, seconds) for k, count in enumerate(counts)
        ]
    from dpm.stages.artificial_stars.prepare import pass_separation, prepare

    field, chunks = prepare(folder, options)
    told = options.artificial_stars
    learn = Task(NAME, "learn", common | tables | {"step": "learn"}, LEARN_SECONDS)
    common |= {"threshold": options.find.threshold, "seed": told.seed, "epsf_error": told.epsf_error}
    common |= {"separation": pass_separation(folder)}
    tasks = []
    for tile in field.tiles:
        seconds = max(PASS_FACTOR * tile.cost, 1e-3)
        step = max(int(TASK_SECONDS / seconds), 1)
        for first, last in ((k, min(k + step, end)) for begin, end in chunks for k in range(begin, end, step)):
            arguments = common | {"tile": tile.number, "first": first, "last": last}
            tasks.append(Task(NAME, f"recover_{tile.number}_{first}", arguments, seconds * (last - first)))
    return [*tasks, learn]


def work(task: Task) -> dict[str, Any]:
    """One exposure, some passes over one tile, what the real stars teach, a part of the table, or the table."""
    arguments = task.arguments
    folder, step = RunFolder(Path(arguments["root"])), arguments["step"]
    out: dict[str, Any] = {"name": task.name, "step": step, "warnings": []}
    if step == "gather":
        from dpm.stages.second_pass.gather import gather_exposure

        exposure, distortion, threshold = (arguments[key] for key in ("exposure", "distortion", "threshold"))
        return out | gather_exposure(folder, exposure, distortion, threshold, NAME)
    if step == "recover":
        from dpm.stages.artificial_stars.recover import recover_tile

        told = (arguments[name] for name in ("tile", "first", "last", "seed", "threshold", "separation", "epsf_error"))
        return out | recover_tile(folder, *told)
    if step == "join":
        from dpm.stages.artificial_stars.assemble import join_chunks

        return out | join_chunks(folder, arguments["ends"])
    from dpm.models.options import DistortionOptions, FindOptions, FrameOptions, InputOptions, PhotometryOptions

    options = Options(
        input=InputOptions(**arguments["input"]), distortion=DistortionOptions(**arguments["distortion"]),
        find=FindOptions(**arguments["find"]), frame=FrameOptions(**arguments["frame"]),
        photometry=PhotometryOptions(**arguments["photometry"]),
    )  # fmt: skip
    if step == "learn":
        from dpm.stages.artificial_stars.real import learn_field

        learn_field(folder, options)
        return out
    from dpm.stages.artificial_stars.assemble import assemble_chunk

    return out | assemble_chunk(folder, arguments["chunk"], arguments["parts"], options)


def places(folder: RunFolder) -> dict[int, Footprint]:
    """Where the tiles lie."""
    from dpm.stages.second_pass.field import footprints

    return footprints(folder, NAME)


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Remove what tasks left for each other, and say what came out."""
    from dpm.stages.artificial_stars.files import remove_files

    made = [result for result in results if result["step"] == "assemble"]
    remove_files(folder)
    return {name: sum(result[name] for result in made) for name in ("stars", "found", "recovered")} | {"warnings": []}
