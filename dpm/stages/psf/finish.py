"""The end of an ePSF build: files in their place, one pair id, and words about what the stars could not tell."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpm.io.atomic import replacing
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf, write_stdpsf
from dpm.models.options import Options
from dpm.stages.psf.build import FEWEST_ALONE, FEWEST_IMAGES, POOR_SHARE, build_summary

__all__ = ["finish_build"]

FEW_NODE_STARS = 12.0  # star images, by bilinear weight, below which a node is its neighbours' guess
UNSETTLED = 1e-3  # of the peak; a build that still changes by more after its last round says so
SMALL_PHASE_SPREAD = 0.15  # the dithers move stars by nearly whole pixels (1: evenly over phases)

Entry = dict[str, Any]


def finish_build(folder: RunFolder, options: Options, results: list[Entry]) -> tuple[Entry, list[str]]:
    """Write ``calibration/psf`` from the last round.

    Returns
    -------
    summary : dict
        For the log, with the files written.
    warnings : list of str
    """
    cubes = build_summary(folder, options, results)
    fields = [result for result in results if result["step"] == "field"]
    spread = fields[-1]["phase_spread"] if fields else 0.0
    warnings: list[str] = []
    folder.psf.mkdir(parents=True, exist_ok=True)
    pair = _pair_id([entry["epsf"] for entry in cubes.values()])
    files, history = [], {}
    for cube, entry in cubes.items():
        detector, _, filter_name = cube.partition("_")
        output = folder.psf_file(detector, filter_name)
        epsf = read_stdpsf(entry["epsf"], centre=False)
        if entry["updates"]:
            last = entry["updates"][-1]
            weak = tuple(int(k) for k in np.flatnonzero(np.ravel(last["node_stars"]) < FEW_NODE_STARS))
            warnings += _judge(cube, entry, weak, options.psf.grid, spread)
            words = (
                f"built from {last['stars']} star images, noise {last['noise']:.1e} of the peak, last change {last['change']:.1e}"
            )
            write_stdpsf(output, replace(epsf, weak_nodes=weak), (words,), pair=pair)
        else:
            warnings.append(
                f"{cube}: {entry['images']} star images are too few for an ePSF build (it needs {FEWEST_IMAGES} that lie in three "
                f"dithered exposures, or {FEWEST_ALONE}); the quick ePSF stands, and detections are flagged EPSF_EXTRAPOLATED"
            )
            write_stdpsf(output, epsf, (entry["quick"]["words"],), pair=pair)
        files.append(str(Path("calibration") / "psf" / output.name))
        history[cube] = {key: entry[key] for key in ("updates", "averages", "images", "quick")} | {"phase_spread": spread}
    record = folder.psf / "build.json"
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(history), encoding="utf-8")
    files.append(str(Path("calibration") / "psf" / record.name))
    _clean(folder, [Path(entry["epsf"]) for entry in cubes.values()])
    built = [entry["updates"][-1] for entry in cubes.values() if entry["updates"]]
    summary: Entry = {"epsfs": len(cubes), "star_images": sum(update["stars"] for update in built)}
    if built:
        summary |= {
            "rounds": max(len(entry["updates"]) for entry in cubes.values()),
            "last_change": max(update["change"] for update in built),
            "model_error": max(update["model_error"] for update in built),
        }
    return summary | {"pair": pair, "files": files}, warnings


def _clean(folder: RunFolder, keep: list[Path]) -> None:
    """Remove what only the rounds needed; the last ePSFs stay, so that a run stopped just here can finish."""
    build = folder.work / "psf_build"
    for name in ("stars", "sums", "targets", "fits", "detections"):
        shutil.rmtree(build / name, ignore_errors=True)
    for path in (build / "epsf").glob("*.fits"):
        if path not in keep:
            path.unlink()


def _judge(cube: str, entry: Entry, weak: tuple[int, ...], grid: int, spread: float) -> list[str]:
    """What the user has to know of a built ePSF."""
    last, words = entry["updates"][-1], []
    nodes = last["nodes"][0]
    if nodes < grid:
        words.append(f"{cube}: {entry['images']} star images carry {nodes} x {nodes} ePSFs instead of {grid} x {grid}")
    if last["change"] > UNSETTLED:
        words.append(
            f"{cube}: the ePSF build did not settle in {len(entry['updates'])} rounds: its last change, "
            f"{100 * last['change']:.2f} % of the peak, is in its model error"
        )
    if weak:
        words.append(
            f"{cube}: {len(weak)} of the {nodes * nodes} ePSFs have too few stars near by and lean on the others; "
            "stars there are flagged EPSF_EXTRAPOLATED"
        )
    if last["averaged"] < POOR_SHARE * last["stars"]:
        words.append(
            f"{cube}: {last['stars'] - last['averaged']} of {last['stars']} star images have no average over three exposures: "
            "positions follow the ePSF's own errors with pixel phase, which these exposures cannot break"
        )
    elif spread < SMALL_PHASE_SPREAD:
        words.append(
            f"{cube}: the dithers move stars by nearly whole pixels, so that each star keeps its pixel phase: positions follow "
            "the ePSF's own errors with pixel phase, which these exposures cannot break"
        )
    return words


def _pair_id(paths: list[Path]) -> str:
    """Twelve hexadecimal digits from the ePSFs' contents: what is solved with them carries the same."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
