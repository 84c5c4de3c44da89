"""Distortion solved from a scene's own exposures, against its truth, term by term, and pixel scales.

usage: python benchmarks/bench_distortion.py RUN SCENE [--no-reference]

RUN is a run folder after the first pass (`benchmarks/bench_sim.py --keep` leaves one in FOLDER/run).  The truth is read with
the scorer's library (`benchmarks/scorer`), which shares no code with dpm.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# Before numpy: BLAS threads get in the way on a shared machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "scorer"))

from dpm.io.cubes import read_exposure_table  # noqa: E402
from dpm.io.reference import read_reference  # noqa: E402
from dpm.io.run_folder import RunFolder  # noqa: E402
from dpm.models.options import DistortionOptions, Options  # noqa: E402
from dpm.models.transform import fit_linear  # noqa: E402
from dpm.stages.distortion.solve import solve_distortion  # noqa: E402
from dpm.stages.frame.geometry import load_units, make_frame  # noqa: E402
from dpm.stages.frame.match import mutual_pairs  # noqa: E402


def rms(*values: np.ndarray) -> float:
    """Root mean square of all values together."""
    return float(np.sqrt(np.mean(np.square(values))))


def compare(scene: Path, solution, units: list) -> None:
    """Print each map's error against the truth, uniform over pixels, with 4 and 6 parameters removed."""
    from truthlib import Truth

    truth = Truth(str(scene))
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.linspace(0, truth.n - 1, 200)] * 2))
    heads = "rms 4", "rms 6", "void", "largest", "flagged", "else", "largest"
    print(f"{'detector':10s} {'filter':8s} {'what':10s}", *[f"{head:>8s}" for head in heads])
    for (detector, name), found in solution.maps.items():
        ideal_x, ideal_y, _ = truth.raw2ideal(name, x, y)
        _, _, void = truth.ideal_splines(name)
        near = np.zeros(len(x), dtype=bool)
        if void is not None:
            near = np.hypot((x / truth.n - void[0]) / void[2], (y / truth.n - void[1]) / void[3]) < 1.5
        header = next(unit for unit in units if unit.filter == name and unit.detector == detector)
        for what, (u, v) in (("header", header.forward(x, y)), ("solved", found.forward(x, y))):
            off = {}
            for parameters in (4, 6):
                back = fit_linear(u, v, ideal_x, ideal_y, parameters=parameters, clip=None).transform
                off[parameters] = np.subtract(back(u, v), (ideal_x, ideal_y)) / truth.scale
            largest = float(np.max(np.hypot(*off[4])))
            inside = rms(off[4][:, near]) if near.any() else float("nan")
            line = f"{detector:10s} {name:8s} {what:10s} {rms(off[4]):8.5f} {rms(off[6]):8.5f} {inside:8.5f} {largest:8.4f}"
            if what == "solved":
                held = solution.detectors[detector].errors.is_covered(name, x, y)
                line += f" {np.mean(~held):8.4f} {rms(off[4][:, held]):8.5f} {float(np.max(np.hypot(*off[4][:, held]))):8.4f}"
            print(line)


def compare_scales(scene: Path, solution, units: list) -> None:
    """Print each filter's pixel scales against the truth, and what of the difference is the ePSF's centring over the field."""
    from truthlib import Truth

    truth = Truth(str(scene))
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.linspace(0, truth.n - 1, 200)] * 2))
    for (detector, name), found in solution.maps.items():
        ideal_x, ideal_y, _ = truth.raw2ideal(name, x, y)
        right = fit_linear(*found.forward(x, y), ideal_x, ideal_y, parameters=4, clip=None).transform.scale
        mine = [k for k in solution.units if units[k].filter == name and units[k].detector == detector]
        values = [solution.units[k] for k in mine]
        off = 1e6 * (np.array([value.pixel_scale for value in values]) / right - 1)
        error, relative = (
            1e6 * np.median([getattr(value, key) for value in values]) / right
            for key in ("pixel_scale_error", "pixel_scale_relative_error")
        )
        print(
            f"{detector} {name}: pixel scale {right * (1 + 1e-6 * off.mean()):.7f}, off the truth by {off.mean():.1f} ppm (error "
            f"{error:.1f}), scatter of exposures {np.std(off, ddof=1):.1f} (error {relative:.1f}); the ePSF's centring makes "
            f"{-measured_scale(truth, [units[k] for k in mine]):.1f} of it"
        )


def measured_scale(truth, units: list) -> float:
    """Scale of measured raw positions over true ones, less one, parts per million; bright stars without flags."""
    place, off = [], []
    for unit in units:
        one = next(value for value in truth.exp if value["tag"].startswith(unit.exposure))
        error = np.hypot(unit.x_error, unit.y_error)
        good = np.flatnonzero((error < 0.03) & (unit.flags == 0))
        bright = np.flatnonzero(one["e"] > 500)
        i, j = mutual_pairs(unit.x[good], unit.y[good], one["x"][bright], one["y"][bright], 0.1)
        place.append(np.column_stack([unit.x[good[i]], unit.y[good[i]]]) - (truth.n - 1) / 2)
        off.append(np.column_stack([unit.x[good[i]] - one["x"][bright[j]], unit.y[good[i]] - one["y"][bright[j]]]))
    place, off = np.vstack(place), np.vstack(off)
    place, off = place - place.mean(axis=0), off - np.median(off, axis=0)
    return 1e6 * float(np.sum(place * off) / np.sum(place**2))


def main() -> int:
    """Solve and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--no-reference", action="store_true")
    parser.add_argument("--reference", type=Path, help="the scene's own by default")
    arguments = parser.parse_args()
    folder, options = RunFolder(arguments.run), Options(distortion=DistortionOptions(source="wcs"))
    exposures = read_exposure_table(folder)
    frame = make_frame(folder, exposures, None)
    path = arguments.reference or arguments.scene / "reference.ecsv"
    reference = read_reference(path) if path.exists() and not arguments.no_reference else None
    units = load_units(folder, exposures, frame, options)
    start = time.perf_counter()
    solution = solve_distortion(units, frame, options.frame, reference)
    print(f"{len(units)} exposures, {sum(map(len, units))} detections in {time.perf_counter() - start:.1f} s (compiling included)")
    for text in solution.warnings:
        print("warning:", text)
    for name, one in solution.detectors.items():
        print(f"{name}: expected error of the maps {one.error_rms:.5f} pixel ({one.bent_rms:.5f} without skew), {one.summary}")
        for filter_name, terms in one.residuals.items():
            print(f"  {filter_name} residuals:", ", ".join(f"{term.term} {np.hypot(*term.rms) / 2**0.5:.4f}" for term in terms))
    compare(arguments.scene, solution, units)
    compare_scales(arguments.scene, solution, units)
    return 0


if __name__ == "__main__":
    sys.exit(main())
