"""Whether the ePSF changes with a star's brightness (brighter-fatter), and by how much (DESIGN section 6; paper 2, section 3.1).

Only with ``[psf] brightness = true``; one part a detector and filter. Writes ``calibration/psf/BFPSF_<DETECTOR>_<FILTER>.fits``
where stars that were left out fit better with it, which the first pass then uses for bright stars, and the figures of all in
``calibration/psf/brightness.json``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from dpm.io.atomic import replacing
from dpm.io.brightness_file import write_brightness
from dpm.io.cubes import read_exposure, read_exposure_table
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_pair_id, read_stdpsf
from dpm.models.options import FindOptions, Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "brightness"
REVISION = 1
PARTITIONED = True
CONFIG = ("psf.brightness",)
UPSTREAM = ("ingest", "psf", "perturbation")

MOST_EXPOSURES = 24  # evenly over the run; more stars would not make the term better than its model
MOST_IMAGES = 12000  # star images, all exposures together: 130 MB of stamps
SECONDS_PER_MEGAPIXEL = 0.6

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task a cube; none unless the dependence is asked for."""
    if not options.psf.brightness:
        return []
    table = read_exposure_table(folder)
    tasks = []
    for cube in sorted({str(name) for name in table["cube"]}):
        rows = table[table["cube"] == cube]
        rows = rows[:: max(1, -(-len(rows) // MOST_EXPOSURES))]
        detector, filter_name = str(rows["detector"][0]), str(rows["filter"][0])
        library = folder.psf_file(detector, filter_name)
        exposures = []
        for row in rows:
            own = folder.perturbed_psf_file(str(row["exposure"]), detector, filter_name)
            exposures.append({"index": int(row["index"]), "psf": str(own if own.exists() else library)})
        arguments = {
            "cube": str(folder.cubes / cube),
            "exposures": exposures,
            "library": str(library),
            "output": str(folder.brightness_file(detector, filter_name)),
            "root": str(folder.root),
        }
        pixels = float(rows["nx"][0]) * float(rows["ny"][0])
        tasks.append(Task(NAME, Path(cube).stem, arguments, len(rows) * (0.5 + SECONDS_PER_MEGAPIXEL * pixels / 1e6)))
    return tasks


def work(task: Task) -> dict[str, Any]:
    """Measure the exposures of one cube, and solve the change of its ePSF with brightness."""
    from dataclasses import asdict

    from dpm.stages.brightness.slope import brightness_slope, combine_slopes
    from dpm.stages.brightness.term import ExposureStars, brightness_term
    from dpm.stages.first_pass.measure import measure_exposure
    from dpm.stages.perturbation.stars import cut_candidates

    arguments = task.arguments
    parts, slopes = [], []
    most = MOST_IMAGES // len(arguments["exposures"])
    for exposure in arguments["exposures"]:
        image = read_exposure(Path(arguments["cube"]), exposure["index"])
        epsf = read_stdpsf(exposure["psf"], centre=False)
        stars = cut_candidates(image, epsf, measure_exposure(image, epsf, FindOptions()), most)
        parts.append(ExposureStars(stars, epsf, image.charge_per_flux))
        slope = brightness_slope(stars, epsf)
        if slope is not None:
            slopes.append(asdict(slope))
    term, figures = brightness_term(parts)
    output, files = Path(arguments["output"]), []
    output.unlink(missing_ok=True)
    if term is not None:
        write_brightness(output, term, (figures["words"],), read_pair_id(arguments["library"]))
        files.append(str(output.relative_to(arguments["root"])))
    return {"name": task.name, "figures": figures, "slope": combine_slopes(slopes), "files": files}


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the figures of all cubes, and say where the ePSF changes with brightness."""
    if not results:
        return {"applied": 0, "of": 0}
    folder.psf.mkdir(parents=True, exist_ok=True)
    record = folder.psf / "brightness.json"
    with replacing(record) as temporary:
        found = {result["name"]: {"term": result["figures"], "slope": result["slope"]} for result in results}
        temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for result in results:
        logger.info("brightness: %s: %s", result["name"], result["figures"]["words"])
    few = [result for result in results if "brightest" not in result["figures"]]
    warnings = [f"{result['name']}: {result['figures']['words']}" for result in few]
    for text in warnings:
        logger.warning(text)
    applied = [result["name"] for result in results if result["figures"]["applied"]]
    return {"applied": len(applied), "of": len(results), "cubes": applied, "warnings": warnings, "files": [
        str(record.relative_to(folder.root))
    ]}  # fmt: skip
