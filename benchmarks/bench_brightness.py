"""What the ePSF of a filter leaves out, against truth: the change with brightness, colour, and QFIT over its expectation.

usage: python benchmarks/bench_brightness.py brightness [--strength 4e-7] [--seed 371] [--source truth|build] [--keep FOLDER]
       python benchmarks/bench_brightness.py colour [--chromatic 0.06] [--seed 382] [--keep FOLDER]
       python benchmarks/bench_brightness.py score --scene FOLDER --run FOLDER

``brightness``  `dpm simulate` makes 12 exposures (512 x 512, two filters) with brighter-fatter of some strength; `dpm run` without
                and with ``[psf] brightness``; isolated stars of both passes by brightness against truth.
``colour``      the same with an ePSF that widens with colour; the slopes that the run finds.
``score``       the comparison alone, of a run on a simulated scene.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.brightness_file import read_brightness
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf
from dpm.io.tables import read_columns
from dpm.models.flags import StarFlag
from dpm.simulate import SimulationOptions, Visit, simulate_field
from dpm.simulate.options import Effects
from dpm.stages.brightness.term import spreading
from dpm.stages.psf.grid import CORE_RADIUS, MIDDLE, radius_grid

SPOILT = int(
    StarFlag.SATURATED | StarFlag.EDGE | StarFlag.MASKED_PIXELS | StarFlag.NOT_CONVERGED | StarFlag.NEIGHBOR | StarFlag.SHORT_RAMP
)
LIGHT = (3.3, 3.7, 4.0, 4.5, 4.8, 5.05, 5.6)  # edges of the bins, log electrons
FEWEST = 15  # measurements in a bin
ISOLATED = 8.0  # pixels without a star of a hundredth of the light
SAME_STAR = 0.5  # pixels
EXPOSURE_TIME = 128.0  # seconds
COLUMNS = ["x", "y", "x_error", "flux", "qfit", "qfit_expected", "radxs", "chi", "flags"]


def simulate(folder: Path, seed: int, **effects: float) -> None:
    """Twelve exposures in two filters, six dithers each."""
    visit = Visit(n_dithers=6, exptime=EXPOSURE_TIME)
    options = SimulationOptions(visits=(visit,), n_pixels=512, n_stars=5000, seed=seed, effects=Effects(**effects))
    simulate_field(folder, options)


def run(scene: Path, name: str, source: str, brightness: bool) -> RunFolder:
    """`dpm run` on a scene."""
    folder = scene / f"run_{name}"
    config = scene / f"{name}.toml"
    config.write_text(
        f'[run]\nname = "{name}"\ndirectory = "{folder}"\n[input]\nexposures = ["{scene}/*_cal.fits"]\n'
        f'reference = "{scene / "reference.ecsv"}"\n[psf]\nsource = "{source}"\nbrightness = {str(brightness).lower()}\n'
    )
    command = [sys.executable, "-m", "dpm", "run", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return RunFolder(folder)


def isolated(x: NDArray, y: NDArray, light: NDArray) -> NDArray[np.bool_]:
    """Stars that no star of a hundredth of their light is near to."""
    one, two = cKDTree(np.column_stack([x, y])).query_pairs(ISOLATED, output_type="ndarray").T
    out = np.ones(len(x), bool)
    out[one[light[two] > 0.01 * light[one]]] = False
    out[two[light[one] > 0.01 * light[two]]] = False
    return out


def score(scene: Path, folder: RunFolder) -> None:
    """Print figures of isolated stars by brightness, of both passes."""
    about = json.loads((scene / "truth" / "scene.json").read_text())
    for name, path_of in (("first pass", folder.detections_file), ("second pass", folder.measurements_file)):
        rows: dict[str, list[NDArray]] = {}
        for exposure in about["exposures"]:
            stem = Path(exposure["file"]).stem.removesuffix("_cal")
            path = path_of(stem, exposure["detector"])
            if not path.exists():
                continue
            truth = np.load(scene / "truth" / f"{stem}.npz")
            found = read_columns(path, COLUMNS)
            alone = isolated(truth["x"], truth["y"], truth["counts"])
            distance, near = cKDTree(np.column_stack([found["x"], found["y"]])).query(
                np.column_stack([truth["x"], truth["y"]]), distance_upper_bound=SAME_STAR
            )
            star = np.flatnonzero(alone & np.isfinite(distance))
            row = near[star]
            good = (found["flags"][row] & SPOILT) == 0
            star, row = star[good], row[good]
            light = truth["counts"][star]
            relative = found["flux"][row] * EXPOSURE_TIME * about["gain"] / light - 1.0
            off_x, off_y = found["x"][row] - truth["x"][star], found["y"][row] - truth["y"][star]
            ratio = found["qfit"][row] / found["qfit_expected"][row]
            values = light, off_x, off_y, found["x_error"][row], relative, ratio, found["qfit"][row], found["radxs"][row]
            rows.setdefault(exposure["filter"], []).append(np.column_stack([*values, found["chi"][row]]))
        for filter_name, parts in rows.items():
            print_bins(f"{name}, {filter_name}", np.concatenate(parts))


def print_bins(title: str, table: NDArray) -> None:
    """One line a bin of brightness."""
    print(f"{title}\n  log electrons      n  position RMS  over error  flux, %       QFIT   over expected   RADXS     chi")
    light = table[:, 0]
    level = np.median(table[(light > 5e3) & (light < 1.5e4), 4])
    off = table[:, 1:3] - np.median(table[:, 1:3], axis=0)
    for low, high in zip(LIGHT, LIGHT[1:]):
        mine = (light >= 10**low) & (light < 10**high)
        if mine.sum() < FEWEST:
            continue
        of_mean = 1.2533 / np.sqrt(mine.sum())
        width = 1482.6 * np.median(np.abs(off[mine]))
        pull = 1.4826 * np.median(np.abs(off[mine] / table[mine, 3:4]))
        quality, ring, chi = (np.median(table[mine, column]) for column in (6, 7, 8))
        flux, error = 100 * (np.median(table[mine, 4]) - level), 100 * of_mean * np.std(table[mine, 4])
        ratio, of_ratio = np.median(table[mine, 5]), of_mean * np.std(table[mine, 5])
        print(
            f"  {low} to {high:<4}  {mine.sum():6d}  {width:8.2f} mpix  {pull:8.3f}  {flux:6.2f} +- {error:.2f}  {quality:.4f}"
            f"  {ratio:6.3f} +- {of_ratio:.3f}  {ring:+.4f}  {chi:.3f}"
        )


def compare_term(scene: Path, folder: RunFolder, cube: str, strength: float) -> None:
    """The term that was found beside the change that the simulator makes of the true ePSF."""
    detector, filter_name = cube.split("_")
    if strength <= 0 or not folder.brightness_file(detector, filter_name).exists():
        return
    term = read_brightness(folder.brightness_file(detector, filter_name))
    psi = read_stdpsf(scene / "truth" / "stdpsf" / f"STDPSF_{detector}_{filter_name}.fits", centre=False).samples.mean(axis=(0, 1))
    # Charge is a flux over the Poisson factor, which is that of a ramp's correlated reads.
    per_charge = json.loads((scene / "truth" / "scene.json").read_text())["poisson_factor"]
    truth, found = strength * per_charge * term.brightest * spreading(psi), term.samples * term.brightest
    core = radius_grid() <= CORE_RADIUS
    wrong = np.sqrt(np.mean((found - truth)[core] ** 2)) / psi.max()
    print(f"  true change of the centre {100 * truth[MIDDLE, MIDDLE] / psi.max():.2f} %; found minus true", end=" ")
    whole = np.sqrt(np.mean(truth[core] ** 2)) / psi.max()
    print(f"{100 * wrong:.2f} % of the peak (RMS, r < {CORE_RADIUS}), of {100 * whole:.2f} %")


def brightness(scene: Path, strength: float, source: str) -> None:
    """Runs without and with the term."""
    library = str(scene / "truth" / "stdpsf") if source == "truth" else "build"
    for name, wanted in (("without", False), ("with", True)):
        folder = run(scene, name, library, wanted)
        if source == "build":
            library = str(folder.psf)
        print(f"--- {name} the term, strength {strength:g}, library {source}")
        if wanted:
            for cube, figures in json.loads((folder.psf / "brightness.json").read_text()).items():
                term, slope = figures["term"], figures["slope"]
                print(f"{cube}: {'applied' if term['applied'] else 'not applied'}; {term['words']}")
                print(f"  centre changes by {100 * term['core_change']:.2f} % up to {term['brightest']:.3g} electrons", end="")
                print(f" (error {100 * term['error']:.2f} % of the peak), reference {term['reference']:.3g}; slope {slope}")
                compare_term(scene, folder, cube, strength)
        score(scene, folder)


def colour(scene: Path, chromatic: float) -> None:
    """Slopes over colour."""
    found = json.loads((run(scene, "colour", str(scene / "truth" / "stdpsf"), False).psf / "colour.json").read_text())
    print(f"--- chromatic {chromatic:g}, colour {found['colour']}")
    for band, values in found["bands"].items():
        print(f"{band}: {values['stars']} stars, colours {np.round(values['range'], 2)}")
        for name in ("radxs", "qfit_ratio", "phase_x", "phase_y"):
            slope, error = values[name]
            print(f"  {name:10s} {slope:+.5f} +- {error:.5f}  ({slope / error:+.1f})")


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("brightness", "colour", "score"))
    parser.add_argument("--strength", type=float, default=4e-7)
    parser.add_argument("--chromatic", type=float, default=0.06)
    parser.add_argument("--seed", type=int, default=371)
    parser.add_argument("--source", choices=("truth", "build"), default="truth")
    parser.add_argument("--keep", type=Path, help="folder for the scene and its runs; a temporary one otherwise")
    parser.add_argument("--scene", type=Path)
    parser.add_argument("--run", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "score":
        score(arguments.scene, RunFolder(arguments.run))
        return
    with tempfile.TemporaryDirectory() as temporary:
        scene = (arguments.keep or Path(temporary)).resolve()
        if not (scene / "truth" / "scene.json").exists():
            named = {"brightness": {"brighter_fatter": arguments.strength}, "colour": {"chromatic": arguments.chromatic}}
            simulate(scene, arguments.seed, **named[arguments.what])
        if arguments.what == "brightness":
            brightness(scene, arguments.strength, arguments.source)
        else:
            colour(scene, arguments.chromatic)


if __name__ == "__main__":
    main()
