"""The ePSF of every cube: from a library, or made quickly from the cube's own bright isolated stars.

Writes ``calibration/psf/STDPSF_<DETECTOR>_<FILTER>.fits``, centred as DESIGN section 4 asks, one chip a file.
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

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "psf"
REVISION = 1
PARTITIONED = False
CONFIG = ("psf",)
UPSTREAM = ("ingest",)

BUILD_SECONDS = 4.0  # a quick ePSF from eight exposures
MAX_EXPOSURES = 8  # exposures that a quick ePSF looks at

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task a cube.

    Raises
    ------
    InputError
        If a library is asked for and there is none for a cube's detector and filter.
    """
    table = read_exposure_table(folder)
    tasks = []
    for cube in sorted({str(name) for name in table["cube"]}):
        rows = table[table["cube"] == cube]
        detector, filter_name = str(rows["detector"][0]), str(rows["filter"][0])
        arguments: dict[str, Any] = {
            "detector": detector,
            "filter": filter_name,
            "cube": str(folder.cubes / cube),
            "indices": [int(k) for k in rows["index"][:: max(1, len(rows) // MAX_EXPOSURES)][:MAX_EXPOSURES]],
            "pixel_scale": float(rows["pixel_scale"][0]),
            "output": str(folder.psf_file(detector, filter_name)),
            "library": "",
        }
        if options.psf.source != "build":
            arguments["library"] = str(find_library(Path(options.psf.source), detector, filter_name))
        tasks.append(Task(NAME, Path(cube).stem, arguments, 0.5 if arguments["library"] else BUILD_SECONDS))
    return tasks


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
    """Read or make one ePSF and write it."""
    arguments = task.arguments
    output = Path(arguments["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"name": task.name, "files": [str(Path("calibration") / "psf" / output.name)], "warnings": []}
    if arguments["library"]:
        detector = find_detector(arguments["detector"])
        rows = (detector.library_y_offset, detector.library_y_offset + detector.ny)
        epsf = read_stdpsf(arguments["library"], rows=rows, y_offset=detector.library_y_offset)
        write_stdpsf(output, epsf, (f"from {Path(arguments['library']).name}, centred",))
        if not is_named_for(Path(arguments["library"]).stem, detector.name, detector.library, arguments["filter"]):
            summary["warnings"] = [
                f"{task.name}: by its name, {Path(arguments['library']).name} is the ePSF of another detector or filter"
            ]
        return summary | {"source": arguments["library"], "nodes": list(epsf.samples.shape[:2])}
    from dpm.stages.psf.quick import build_quick_epsf, load_images

    images = load_images(Path(arguments["cube"]), arguments["indices"])
    result = build_quick_epsf(images, arguments["filter"], arguments["pixel_scale"], arguments["detector"])
    write_stdpsf(output, result.epsf, (result.description,))
    summary["warnings"] = [f"{task.name}: {text}" for text in result.warnings]
    return summary | {"source": "build", "stars": result.n_stars, "change": result.last_change, "nodes": [1, 1]}


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect the warnings of quick ePSFs."""
    warnings = [text for result in results for text in result["warnings"]]
    for text in warnings:
        logger.warning(text)
    return {"epsfs": len(results), "sources": {r["name"]: r["source"] for r in results}, "warnings": warnings}
