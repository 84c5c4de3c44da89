"""The ePSF of every cube: from a library, or built from the exposures' own stars.

Writes ``calibration/psf/STDPSF_<DETECTOR>_<FILTER>.fits``, centred as DESIGN section 4 asks, one chip a file; and, where it was
built, ``calibration/psf/build.json`` with what every round did.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dpm.io.cubes import read_exposure_table
from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf, write_stdpsf
from dpm.models.detectors import find_detector
from dpm.models.options import Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "next_round", "plan", "work"]

NAME = "psf"
REVISION = 6
PARTITIONED = False
CONFIG = ("psf.source", "psf.grid", "frame.max_offset")
UPSTREAM = ("ingest",)

LIBRARY_SECONDS = 0.5

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task a cube: its library file, or the first step of a build.

    Raises
    ------
    InputError
        If a library is asked for and there is none for a cube's detector and filter.
    """
    if options.psf.source == "build":
        from dpm.stages.psf.build import first_tasks

        return first_tasks(folder, options)
    table = read_exposure_table(folder)
    tasks = []
    for cube in sorted({str(name) for name in table["cube"]}):
        rows = table[table["cube"] == cube]
        detector, filter_name = str(rows["detector"][0]), str(rows["filter"][0])
        arguments: dict[str, Any] = {
            "step": "library",
            "detector": detector,
            "filter": filter_name,
            "output": str(folder.psf_file(detector, filter_name)),
            "library": str(find_library(Path(options.psf.source), detector, filter_name)),
        }
        tasks.append(Task(NAME, Path(cube).stem, arguments, LIBRARY_SECONDS))
    return tasks


def next_round(folder: RunFolder, options: Options, rounds: list[list[dict[str, Any]]]) -> list[Task]:
    """The build's next round; a library needs none."""
    if options.psf.source != "build":
        return []
    from dpm.stages.psf.build import next_tasks

    return next_tasks(folder, options, rounds)


def find_library(source: Path, detector: str, filter_name: str) -> Path:
    """The library file for a detector and filter: the source itself, or the one in the folder that has their names.

    Raises
    ------
    InputError
        If there is none; says which names were looked for.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise InputError(source, "psf.source", "no such file or folder", 'give an STDPSF file, a folder of them, or "build"')
    library = find_detector(detector).library
    stems = [f"{kind}_{name}_{filter_name}" for kind in ("STDPSF", "PSFSTD") for name in (detector, library) if name]
    for stem in stems:
        found = sorted(source.glob(f"{stem}.fits")) or sorted(source.glob(f"{stem}_*.fits"))
        if found:
            return found[0]
    raise InputError(
        source, "psf.source", f"no ePSF library for {detector} {filter_name} (looked for {', '.join(dict.fromkeys(stems))})",
        'add the file, or use source = "build"',
    )  # fmt: skip


def is_named_for(stem: str, detector: str, library: str, filter_name: str) -> bool:
    """Whether the name of a library file fits a detector and filter; names of no usual form do."""
    words = stem.upper().split("_")
    return words[0] not in ("STDPSF", "PSFSTD") or (bool({detector, library} & set(words)) and filter_name in words)


def work(task: Task) -> dict[str, Any]:
    """One step of a build, or one library file read and written."""
    arguments = task.arguments
    if arguments["step"] == "library":
        return {"name": task.name, "step": "library"} | _copy_library(task.name, arguments)
    from dpm.stages.psf.steps import STEPS

    common = {key: arguments[key] for key in ("outer", "inner", "cube") if key in arguments}
    return {"name": task.name, "step": arguments["step"], "warnings": []} | common | STEPS[arguments["step"]](arguments)


def _copy_library(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The part of a library that a detector needs, as a file of its own."""
    output, library = Path(arguments["output"]), Path(arguments["library"])
    output.parent.mkdir(parents=True, exist_ok=True)
    detector = find_detector(arguments["detector"])
    rows = (detector.library_y_offset, detector.library_y_offset + detector.ny)
    epsf = read_stdpsf(library, rows=rows, y_offset=detector.library_y_offset)
    write_stdpsf(output, epsf, (f"from {library.name}, centred",))
    warnings = []
    if not is_named_for(library.stem, detector.name, detector.library, arguments["filter"]):
        warnings = [f"{name}: by its name, {library.name} is the ePSF of another detector or filter"]
    files = [str(Path("calibration") / "psf" / output.name)]
    return {"files": files, "warnings": warnings, "source": str(library), "nodes": list(epsf.samples.shape[:2])}


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the build's last ePSFs in their place, and say what came out."""
    warnings = list(dict.fromkeys(text for result in results for text in result["warnings"]))
    if options.psf.source == "build":
        from dpm.stages.psf.finish import finish_build

        summary, words = finish_build(folder, options, results)
        warnings += words
    else:
        summary = {"epsfs": len(results), "sources": {result["name"]: result["source"] for result in results}}
    for text in warnings:
        logger.warning(text)
    return summary | {"warnings": warnings}
