"""Each exposure's own ePSF, as far as its stars show one that differs from the library's (DESIGN section 6; paper 2, section 3.2).

Only with ``[psf] perturb = true``; one part an exposure of a detector. Measures the exposure with the library, averages what its
bright, isolated stars leave over in zones, and keeps the result only where stars that were left out fit better with it. Writes
``calibration/psf/perturbed/STDPSF_<DETECTOR>_<FILTER>_<exposure>.fits`` for these exposures, and the figures of all in
``calibration/psf/perturb.json``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from dpm.io.atomic import replacing
from dpm.io.cubes import read_exposure, read_exposure_table
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_pair_id, read_stdpsf, write_stdpsf
from dpm.models.options import FindOptions, Options
from dpm.stages.base import Task

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "finalise", "plan", "work"]

NAME = "perturbation"
REVISION = 1
PARTITIONED = True
CONFIG = ("psf.perturb",)
UPSTREAM = ("ingest", "psf")

SECONDS_PER_MEGAPIXEL = 0.4  # as the first pass, which it does once more
CORRECTION_SECONDS = 2.0
SIGNAL_TO_NOISE = 40.0  # of the stars that serve
LOWER_SIGNAL_TO_NOISE = 20.0  # where too few reach the one above
FEW_STARS = 40

logger = logging.getLogger(__name__)


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """One task for each exposure of each detector; none unless perturbations are asked for."""
    if not options.psf.perturb:
        return []
    tasks = []
    for row in read_exposure_table(folder):
        exposure, detector, filter_name = str(row["exposure"]), str(row["detector"]), str(row["filter"])
        first = (int(row["x_origin"]), int(row["y_origin"]))
        arguments = {
            "cube": str(folder.cubes / str(row["cube"])),
            "index": int(row["index"]),
            "psf": str(folder.psf_file(detector, filter_name)),
            "output": str(folder.perturbed_psf_file(exposure, detector, filter_name)),
            "root": str(folder.root),
            "bounds": [first[0], first[0] + int(row["nx"]) - 1, first[1], first[1] + int(row["ny"]) - 1],
        }
        cost = CORRECTION_SECONDS + SECONDS_PER_MEGAPIXEL * int(row["nx"]) * int(row["ny"]) / 1e6
        tasks.append(Task(NAME, f"{exposure}_{detector}", arguments, cost))
    return tasks


def work(task: Task) -> dict[str, Any]:
    """Measure one exposure with the library and make its ePSF; the figures, and the file where it helps."""
    from dataclasses import asdict

    from dpm.stages.first_pass.measure import measure_exposure
    from dpm.stages.perturbation.brightness import brightness_slope
    from dpm.stages.perturbation.judge import perturb
    from dpm.stages.psf.candidates import choose_stars, cut_stars, drop_outliers

    arguments = task.arguments
    image = read_exposure(Path(arguments["cube"]), arguments["index"])
    library = Path(arguments["psf"])
    epsf = read_stdpsf(library, centre=False)
    measured = measure_exposure(image, epsf, FindOptions())
    keep = choose_stars(image, measured, SIGNAL_TO_NOISE)
    if keep.size < FEW_STARS:
        keep = choose_stars(image, measured, LOWER_SIGNAL_TO_NOISE)
    if keep.size:
        keep = drop_outliers(measured.rows, keep)
    stars = cut_stars(image, epsf, measured, keep)
    result = perturb(stars, epsf, tuple(arguments["bounds"]))
    slope = brightness_slope(stars, result.epsf or epsf)
    output, files = Path(arguments["output"]), []
    output.unlink(missing_ok=True)
    if result.epsf is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        words = (f"{library.name} perturbed for {output.stem.rpartition('_')[2]}", result.figures["words"])
        write_stdpsf(output, result.epsf, words, pair=read_pair_id(library))
        files.append(str(output.relative_to(arguments["root"])))
    return {
        "name": task.name,
        "cube": Path(arguments["cube"]).stem,
        "figures": result.figures,
        "brightness": None if slope is None else asdict(slope),
        "files": files,
    }


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the figures of all exposures, and say which have an ePSF of their own and why others have none."""
    if not results:
        return {"perturbed": 0, "of": 0}
    from dpm.stages.perturbation.brightness import combine_slopes

    folder.psf.mkdir(parents=True, exist_ok=True)
    slopes: dict[str, list[dict[str, Any]]] = {result["cube"]: [] for result in results}
    for result in results:
        if result["brightness"] is not None:
            slopes[result["cube"]].append(result["brightness"])
    brightness = {cube: combine_slopes(values) for cube, values in sorted(slopes.items())}
    record = folder.psf / "perturb.json"
    with replacing(record) as temporary:
        exposures = {result["name"]: result["figures"] for result in results}
        temporary.write_text(json.dumps({"exposures": exposures, "brightness": brightness}, indent=1), encoding="utf-8")
    for result in results:
        logger.info("perturbation: %s: %s", result["name"], result["figures"]["words"])
    few = [result["name"] for result in results if not any(result["figures"]["zones"])]
    warnings = [f"{name}: too few bright isolated stars for a perturbation, the library's ePSF stays" for name in few]
    for text in warnings:
        logger.warning(text)
    applied = [result["figures"] for result in results if result["figures"]["applied"]]
    summary: dict[str, Any] = {"perturbed": len(applied), "of": len(results), "warnings": warnings}
    if applied:
        for name in ("qfit_before", "qfit_after"):
            summary[name] = round(sum(figures[name] for figures in applied) / len(applied), 5)
    return summary | {"brightness": brightness, "files": [str(record.relative_to(folder.root))]}
