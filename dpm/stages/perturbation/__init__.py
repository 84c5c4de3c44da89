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
REVISION = 2
PARTITIONED = True
CONFIG = ("psf.perturb",)
UPSTREAM = ("ingest", "psf")

SECONDS_PER_MEGAPIXEL = 0.4  # as the first pass, which it does once more
CORRECTION_SECONDS = 2.0

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
    from dpm.stages.first_pass.measure import measure_exposure
    from dpm.stages.perturbation.judge import perturb
    from dpm.stages.perturbation.stars import cut_candidates

    arguments = task.arguments
    image = read_exposure(Path(arguments["cube"]), arguments["index"])
    library = Path(arguments["psf"])
    epsf = read_stdpsf(library, centre=False)
    measured = measure_exposure(image, epsf, FindOptions())
    stars = cut_candidates(image, epsf, measured)
    result = perturb(stars, epsf, tuple(arguments["bounds"]))
    output, files = Path(arguments["output"]), []
    output.unlink(missing_ok=True)
    if result.epsf is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        words = (f"{library.name} perturbed for {output.stem.rpartition('_')[2]}", result.figures["words"])
        write_stdpsf(output, result.epsf, words, pair=read_pair_id(library))
        files.append(str(output.relative_to(arguments["root"])))
    return {
        "name": task.name,
        "figures": result.figures,
        "files": files,
    }


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the figures of all exposures, and say which have an ePSF of their own and why others have none."""
    if not results:
        return {"perturbed": 0, "of": 0}
    folder.psf.mkdir(parents=True, exist_ok=True)
    record = folder.psf / "perturb.json"
    with replacing(record) as temporary:
        exposures = {result["name"]: result["figures"] for result in results}
        temporary.write_text(json.dumps({"exposures": exposures}, indent=1), encoding="utf-8")
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
    return summary | {"files": [str(record.relative_to(folder.root))]}
