"""The iterated ePSF build: rounds of measuring, linking, sampling and updating until nothing changes (paper 2, section 3).

Outer rounds measure all exposures with the ePSF so far, solve frame and distortion from these detections, and cut the stamps of
the stars that can carry an ePSF. Inner rounds iterate between positions and ePSF on the stamps alone. What passes from part to
part lies in ``work/psf_build``; pixels never reach the driver.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.base import Task
from dpm.stages.psf.field import sorted_exposures

__all__ = ["FEWEST_ALONE", "FEWEST_IMAGES", "BuildFolder", "POOR_SHARE", "Plan", "build_summary", "first_tasks", "next_tasks"]

MAX_OUTER = 3
INNER = (10, 6, 6)  # most inner rounds of each outer one
FEWEST_INNER = 4
SINGLE_ROUNDS = 2  # inner rounds with one ePSF for the whole detector before the grid begins
CONVERGED = 2e-4  # of the peak, RMS within 1.5 pixels; a fifteenth of the error to reach (DESIGN section 7)
OUTER_CONVERGED = 1e-3  # of the peak; another outer round moves the ePSF by less than a third of the error to reach
MIX_AFTER = 2  # inner rounds of a later outer round before averages and own positions are combined
FEWEST_IMAGES = 30  # star images, all exposures together, that a build needs; below, the quick ePSF stands
FEWEST_ALONE = 300  # the same without averages over dithers: free positions of a few stars do not settle
IMAGES_A_NODE = 60  # star images that a node needs on average
POOR_SHARE = 0.5  # of the star images, at averaged positions; with fewer the ePSF counts as approximate
SECONDS_PER_MEGAPIXEL = 0.4
SAMPLE_SECONDS = 0.3
QUICK_SECONDS = 4.0
MAX_QUICK_EXPOSURES = 8  # exposures that the quick ePSF looks at

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildFolder:
    """Names of the build's files."""

    root: Path

    def epsf(self, cube: str, label: str) -> Path:
        """The ePSF of a cube after a step."""
        return self.root / "epsf" / f"{cube}_{label}.fits"

    def stars(self, unit: str) -> Path:
        """Stamps of a unit's candidates, and their rows in its detections."""
        return self.root / "stars" / f"{unit}.npz"

    @property
    def detections(self) -> Path:
        """Tables of the build's own first passes."""
        return self.root / "detections"

    @property
    def links(self) -> Path:
        """Stars and local maps of all candidates."""
        return self.root / "links.npz"

    def targets(self, unit: str) -> Path:
        """Averaged positions and fluxes of a unit's candidates, from the round before."""
        return self.root / "targets" / f"{unit}.npz"

    def fits(self, unit: str) -> Path:
        """Free fits of a unit's candidates in the last round."""
        return self.root / "fits" / f"{unit}.npz"

    def sums(self, unit: str) -> Path:
        """A unit's sums on the nodes' grids in the last round."""
        return self.root / "sums" / f"{unit}.npz"


@dataclass(frozen=True)
class Plan:
    """What the build knows of the run: its units in order, and the cubes that they belong to."""

    folder: BuildFolder
    root: str
    units: list[dict[str, Any]]
    max_offset: float
    grid: int

    @staticmethod
    def of(folder: RunFolder, options: Options) -> Plan:
        """From the exposure table."""
        units = []
        for row in sorted_exposures(folder):
            bounds = [int(row["x_origin"]), int(row["x_origin"]) + int(row["nx"]) - 1]
            bounds += [int(row["y_origin"]), int(row["y_origin"]) + int(row["ny"]) - 1]
            units.append(
                {
                    "name": f"{row['exposure']}_{row['detector']}",
                    "cube": Path(str(row["cube"])).stem,
                    "path": str(folder.cubes / str(row["cube"])),
                    "index": int(row["index"]),
                    "detector": str(row["detector"]),
                    "filter": str(row["filter"]),
                    "flux_unit": str(row["flux_unit"]),
                    "pixel_scale": float(row["pixel_scale"]),
                    "bounds": bounds,
                }
            )
        return Plan(BuildFolder(folder.work / "psf_build"), str(folder.root), units, options.frame.max_offset, options.psf.grid)

    @property
    def cubes(self) -> dict[str, list[dict[str, Any]]]:
        """Units of each cube."""
        out: dict[str, list[dict[str, Any]]] = {}
        for unit in self.units:
            out.setdefault(unit["cube"], []).append(unit)
        return dict(sorted(out.items()))

    def task(self, step: str, name: str, cost: float, **arguments: Any) -> Task:
        """A task of the stage psf."""
        return Task("psf", name, {"step": step, "build": str(self.folder.root), **arguments}, cost)


def first_tasks(folder: RunFolder, options: Options) -> list[Task]:
    """One quick ePSF a cube to start from; what an earlier build left is removed."""
    plan = Plan.of(folder, options)
    shutil.rmtree(plan.folder.root, ignore_errors=True)
    tasks = []
    for cube, units in plan.cubes.items():
        indices = [unit["index"] for unit in units]
        arguments = {
            "cube": cube,
            "path": units[0]["path"],
            "indices": indices[:: max(1, len(indices) // MAX_QUICK_EXPOSURES)][:MAX_QUICK_EXPOSURES],
            "detector": units[0]["detector"],
            "filter": units[0]["filter"],
            "pixel_scale": units[0]["pixel_scale"],
        }
        tasks.append(plan.task("quick", f"quick_{cube}", QUICK_SECONDS, **arguments))
    return tasks


def next_tasks(folder: RunFolder, options: Options, rounds: list[list[dict[str, Any]]]) -> list[Task]:
    """Tasks of the next round, from the results of those before; none when the build is over."""
    plan = Plan.of(folder, options)
    last = rounds[-1]
    step, outer, inner = last[0]["step"], last[0].get("outer", 0), last[0].get("inner", 0)
    if step == "quick":
        return _measure(plan, rounds, 0)
    if step == "measure":
        return [plan.task("field", f"field_{outer}", 1.0 + SAMPLE_SECONDS * len(plan.units), root=plan.root, outer=outer,
                          max_offset=plan.max_offset, units=[unit["name"] for unit in plan.units],
                          cubes=[unit["cube"] for unit in plan.units])]  # fmt: skip
    if step == "field":
        return _sample(plan, rounds, outer, 0) if _built(plan, rounds) else []
    if step == "sample":
        return _update(plan, rounds, outer, inner)
    updates = [result for result in last if result["step"] == "update"]
    settled = inner + 1 >= FEWEST_INNER and all(result["change"] < CONVERGED for result in updates)
    if inner + 1 < INNER[outer] and not settled:
        return _sample(plan, rounds, outer, inner + 1)
    if outer + 1 < MAX_OUTER and (outer == 0 or any(result["moved"] > OUTER_CONVERGED for result in updates)):
        return _measure(plan, rounds, outer + 1)
    return []


def labels(rounds: list[list[dict[str, Any]]]) -> dict[str, str]:
    """The label of each cube's latest ePSF."""
    return {result["cube"]: result["label"] for results in rounds for result in results if result["step"] in ("quick", "update")}


def _images(rounds: list[list[dict[str, Any]]]) -> dict[str, int]:
    """Star images of each cube in the latest measurement of all exposures."""
    count: dict[str, int] = {}
    for results in reversed(rounds):
        if results[0]["step"] == "measure":
            for result in results:
                count[result["cube"]] = count.get(result["cube"], 0) + result["candidates"]
            break
    return count


def _built(plan: Plan, rounds: list[list[dict[str, Any]]]) -> list[str]:
    """Cubes with stars enough for a build: more of them where no other exposures say where they lie."""
    images = _images(rounds)
    averaged = next(results[0]["averaged"] for results in reversed(rounds) if results[0]["step"] == "field")
    built = []
    for cube, units in plan.cubes.items():
        dithered = sum(averaged[unit["name"]] for unit in units) >= POOR_SHARE * images.get(cube, 0)
        if images.get(cube, 0) >= (FEWEST_IMAGES if dithered else FEWEST_ALONE):
            built.append(cube)
    return built


def nodes_a_side(grid: int, images: int) -> int:
    """Nodes along each side: as many as the configuration asks for and the stars can carry."""
    return max(1, min(grid, int(np.sqrt(images / IMAGES_A_NODE))))


def _measure(plan: Plan, rounds: list[list[dict[str, Any]]], outer: int) -> list[Task]:
    label = labels(rounds)
    tasks = []
    for unit in plan.units:
        area = (unit["bounds"][1] - unit["bounds"][0]) * (unit["bounds"][3] - unit["bounds"][2])
        arguments = {
            "unit": unit,
            "outer": outer,
            "cube": unit["cube"],
            "epsf": str(plan.folder.epsf(unit["cube"], label[unit["cube"]])),
        }
        tasks.append(plan.task("measure", f"measure_{outer}_{unit['name']}", 0.1 + SECONDS_PER_MEGAPIXEL * area / 1e6, **arguments))
    return tasks


def _sample(plan: Plan, rounds: list[list[dict[str, Any]]], outer: int, inner: int) -> list[Task]:
    label, built = labels(rounds), set(_built(plan, rounds))
    return [
        plan.task(
            "sample",
            f"sample_{outer}_{inner}_{unit['name']}",
            SAMPLE_SECONDS,
            unit=unit["name"],
            outer=outer,
            inner=inner,
            number=number,
            epsf=str(plan.folder.epsf(unit["cube"], label[unit["cube"]])),
        )  # fmt: skip
        for number, unit in enumerate(plan.units)
        if unit["cube"] in built
    ]


def _update(plan: Plan, rounds: list[list[dict[str, Any]]], outer: int, inner: int) -> list[Task]:
    label, images = labels(rounds), _images(rounds)
    begin = {result["cube"]: result["epsf"] for results in rounds if results[0]["step"] == "measure" for result in results}
    tasks = []
    for cube in _built(plan, rounds):
        units = plan.cubes[cube]
        bounds = np.array([unit["bounds"] for unit in units])
        single = outer == 0 and inner + 1 < SINGLE_ROUNDS
        arguments = {
            "cube": cube,
            "label": f"{outer}_{inner}",
            "epsf": str(plan.folder.epsf(cube, label[cube])),
            "before": begin[cube],
            "units": [unit["name"] for unit in units],
            "bounds": [int(bounds[:, 0].min()), int(bounds[:, 1].max()), int(bounds[:, 2].min()), int(bounds[:, 3].max())],
            "nodes": 1 if single else nodes_a_side(plan.grid, images[cube]),
            "outer": outer,
            "inner": inner,
        }
        tasks.append(plan.task("update", f"update_{outer}_{inner}_{cube}", SAMPLE_SECONDS, **arguments))
    built = set(_built(plan, rounds))
    average = {
        "units": [unit["name"] for unit in plan.units if unit["cube"] in built],
        "numbers": [number for number, unit in enumerate(plan.units) if unit["cube"] in built],
        "cubes": [unit["cube"] for unit in plan.units if unit["cube"] in built],
        "mix": outer > 0 and inner + 1 >= MIX_AFTER,
        "outer": outer,
        "inner": inner,
    }
    tasks.append(plan.task("average", f"average_{outer}_{inner}", SAMPLE_SECONDS, **average))
    return tasks


def build_summary(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each cube: the file of its last ePSF, and the numbers of every update and average, in order."""
    plan = Plan.of(folder, options)
    out: dict[str, dict[str, Any]] = {}
    for result in results:
        if result["step"] == "quick":
            out[result["cube"]] = {"quick": result, "updates": [], "averages": [], "label": result["label"], "images": 0}
        elif result["step"] == "update":
            out[result["cube"]]["updates"].append(result)
            out[result["cube"]]["label"] = result["label"]
        elif result["step"] == "average":
            for cube, values in result["by_cube"].items():
                out[cube]["averages"].append(values)
        elif result["step"] == "measure":
            entry = out[result["cube"]]
            entry["images"] = result["candidates"] + (entry["images"] if entry.get("outer") == result["outer"] else 0)
            entry["outer"] = result["outer"]
    for cube, entry in out.items():
        entry["epsf"] = plan.folder.epsf(cube, entry["label"])
    return out
