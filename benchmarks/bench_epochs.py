"""Two epochs in one run, scored against their truth: which stars were linked, and their motions and positions.

usage: python benchmarks/bench_epochs.py [--scenes OLD NEW | FOLDER] [--source truth|build] [--dithers N] [--keep FOLDER]

The scenes are those of `../shared/data`: NIRCam-like exposures at 2006.39 and NIRISS-like ones at 2022.33; one folder may be what
``dpm simulate --epochs`` made.  ``truth`` gives the pipeline the scenes' own ePSFs as a library, ``build`` lets it make them.
``--dithers`` takes only the first exposures of each filter.  Stars are identified in single exposures by their true raw positions
and counts; a row of the catalogue is the star that most of its measurements of an epoch lie on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from astropy.table import Table
from bench_sim import reference_line, write_true_libraries
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.tables import read_table
from dpm.models.flags import StarFlag
from dpm.models.master_frame import sky_to_tangent, tangent_to_sky
from dpm.models.statistics import robust_width

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
NEAR, MAGNITUDE = 0.7, 1.0  # pixels and magnitudes within which a row is a true star
OTHER = -1


def truth_folders(scenes: list[Path]) -> list[Path]:
    """Folders that hold a ``truth``: the scenes, and the visits of ``dpm simulate``."""
    return [path.parent for scene in scenes for path in sorted([*scene.glob("truth"), *scene.glob("visit_*/truth")])]


def configure(folder: Path, scenes: list[Path], source: str, dithers: int) -> Path:
    """Write the configuration and, if asked, the library."""
    library = folder / "library"
    if source == "truth":
        library.mkdir(exist_ok=True)
        for truth in truth_folders(scenes):
            made = list((truth / "truth" / "stdpsf").glob("*.fits"))
            for path in made:
                shutil.copy(path, library)
            if not made:
                write_true_libraries(truth, library)
    files: dict[str, list[str]] = defaultdict(list)
    for scene in scenes:
        for path in sorted(scene.resolve().glob("*_cal.fits")):
            files[path.name.rsplit("_", 3)[0]].append(str(path))
    names = [name for group in files.values() for name in group[: dithers or None]]
    config = folder / "field.toml"
    reference = next((line for line in map(reference_line, scenes) if line), "")
    config.write_text(
        f'[run]\nname = "epochs"\ndirectory = "{folder / "run"}"\n\n[input]\nexposures = {json.dumps(names)}\n{reference}\n'
        f'[psf]\nsource = "{library if source == "truth" else "build"}"\n'
    )
    return config


def identify(run: Path, truths: list[Path]) -> dict[float, dict[int, int]]:
    """The true star (`OTHER`: none) of every catalogue row at every epoch of the run."""
    exposures = read_table(run / "tables" / "exposures.parquet")
    epochs = read_table(run / "tables" / "catalog.parquet").meta["epochs"]
    votes: dict[float, dict[int, list[int]]] = {epoch: defaultdict(list) for epoch in epochs}
    for row in exposures:
        stem = str(row["exposure"]).removesuffix("_cal")
        path = next(folder / "truth" / f"{stem}.npz" for folder in truths if (folder / "truth" / f"{stem}.npz").exists())
        measured = read_table(run / "tables" / "measurements" / f"{row['exposure']}_{row['detector']}.parquet")
        measured = measured[measured["id"] > 0]
        data = np.load(path)
        true = -2.5 * np.log10(np.maximum(data["counts"], 1e-3))
        mag = -2.5 * np.log10(np.maximum(np.array(measured["flux"]), 1e-9))
        place = np.column_stack([measured["x"], measured["y"]])
        tree = cKDTree(np.column_stack([data["x"], data["y"]]))
        distance, nearest = tree.query(place)
        zero = float(np.median((mag - true[nearest])[distance < 0.1]))
        epoch = min(epochs, key=lambda value: abs(value - row["epoch"]))
        for k, near in enumerate(tree.query_ball_point(place, NEAR)):
            alike = [n for n in near if abs(true[n] + zero - mag[k]) < MAGNITUDE]
            best = min(alike, key=lambda n: np.hypot(data["x"][n] - place[k, 0], data["y"][n] - place[k, 1]), default=None)
            votes[epoch][int(measured["id"][k])].append(OTHER if best is None else int(data["id"][best]))
    return {
        epoch: {row: max(sorted(set(stars)), key=stars.count) for row, stars in rows.items()} for epoch, rows in votes.items()
    }


def score_links(found: dict[float, dict[int, int]], stars: Table, mag: NDArray, old: float, new: float) -> None:
    """Stars measured at both epochs: linked right, split into two rows, or linked to another."""
    first, second = found[old], found[new]
    rows_of: list[dict[int, set[int]]] = []
    for rows in (first, second):
        rows_of.append(defaultdict(set))
        for row, star in rows.items():
            rows_of[-1][star].add(row)
    both = np.array(sorted((set(rows_of[0]) & set(rows_of[1])) - {OTHER}))
    right = np.array([bool(rows_of[0][star] & rows_of[1][star]) for star in both])
    pairs = [(first[row], second[row]) for row in first if row in second]
    wrong = [(a, b) for a, b in pairs if a != b]
    mixed = {star for a, b in wrong if OTHER not in (a, b) for star in (a, b)}
    other = np.array([star in mixed for star in both]) & ~right
    member = np.array(stars["member"], bool)[both] if "member" in stars.colnames else np.zeros(len(both), bool)
    print(f"\n{old:.2f} and {new:.2f}: {len(pairs)} rows with both, {len(wrong)} of them of two stars or of what is none")
    print("| mag | stars found at both | linked right | two rows | linked to another | right: members, others |")
    for low in range(int(np.floor(mag[both].min())), int(np.ceil(mag[both].max()))):
        k = (mag[both] >= low) & (mag[both] < low + 1)
        if k.any():
            share = [f"{right[k & part].mean():.3f}" if (k & part).any() else "-" for part in (member, ~member)]
            counts = f"{k.sum()} | {right[k].sum()} | {(k & ~right & ~other).sum()} | {(k & other).sum()}"
            print(f"| {low + 0.5} | {counts} | {', '.join(share)} |")
    print(f"| all | {len(both)} | {right.sum()} | {(~right & ~other).sum()} | {other.sum()} | |")


def score_motions(run: Path, found: dict[float, dict[int, int]], stars: Table, mag: NDArray, reference_epoch: float) -> None:
    """Motions and positions of the rows whose stars are known, against the truth; mas and mas/yr."""
    catalog = read_table(run / "tables" / "catalog.parquet")
    print({name: value for name, value in catalog.meta.items() if name.startswith("pm_")})
    ra0, dec0 = stars.meta["ra0"], stars.meta["dec0"]
    years = float(catalog["ref_epoch"][0]) - reference_epoch
    place = {int(number): k for k, number in enumerate(catalog["id"])}
    seen: dict[int, set[int]] = defaultdict(set)
    for rows in found.values():
        for row, star in rows.items():
            seen[row].add(star)
    single = {row: next(iter(known)) for row, known in seen.items() if len(known) == 1 and OTHER not in known}
    k, star = np.array([place[row] for row in single]), np.array(list(single.values()))
    xi, eta = sky_to_tangent(np.array(catalog["ra"], float)[k], np.array(catalog["dec"], float)[k], ra0, dec0)
    errors = {name: np.array(catalog[name], float)[k] for name in ("ra_error", "dec_error", "pmra_error", "pmdec_error")}
    off = 1000 * np.column_stack([xi - stars["xi"][star], eta - stars["eta"][star]])
    off -= years * np.column_stack([stars["pm_xi"][star], stars["pm_eta"][star]])
    # North turns across the tangent plane: motions on the sky by a step of a thousand years.
    here = tangent_to_sky(stars["xi"][star], stars["eta"][star], ra0, dec0)
    there = tangent_to_sky(stars["xi"][star] + stars["pm_xi"][star], stars["eta"][star] + stars["pm_eta"][star], ra0, dec0)
    east, north = 3600 * (there[0] - here[0]) * np.cos(np.radians(here[1])), 3600 * (there[1] - here[1])
    step = np.column_stack([np.array(catalog["pmra"], float)[k] - east, np.array(catalog["pmdec"], float)[k] - north])
    latest = np.array([row in found[max(found)] for row in single])
    flags = np.array(catalog["flags"])[k]
    saturated = (flags & int(StarFlag.SATURATED)) != 0
    print(f"{np.mean((flags & int(StarFlag.HIDDEN_NEIGHBOR)) != 0):.4f} of the rows have a neighbour that one epoch hides")
    for title, value, sigma, chosen in (
        ("motions", step, np.column_stack([errors["pmra_error"], errors["pmdec_error"]]), np.isfinite(step).all(axis=1)),
        ("positions, seen at the latest epoch", off, np.column_stack([errors["ra_error"], errors["dec_error"]]), latest),
        ("positions, not seen there", off, np.column_stack([errors["ra_error"], errors["dec_error"]]), ~latest),
    ):
        print(f"\n{title}, unsaturated\n| mag | stars | bias East, North | RMS | pull | beyond 4 sigma |")
        for low in [*range(int(np.floor(mag[star].min())), int(np.ceil(mag[star].max()))), -1]:
            use = chosen & ~saturated & ((mag[star] >= low) & (mag[star] < low + 1) if low >= 0 else True)
            if use.sum() < 10:
                continue
            v, pull = value[use], value[use] / sigma[use]
            name = f"{low + 0.5}" if low >= 0 else "all"
            bias = f"{np.median(v[:, 0]):+.4f}, {np.median(v[:, 1]):+.4f}"
            width, relative = robust_width(v.ravel(), 0.0), robust_width(pull.ravel(), 0.0)
            print(f"| {name} | {use.sum()} | {bias} | {width:.4f} | {relative:.2f} | {np.mean(np.abs(pull) > 4):.4f} |")


def main() -> int:
    """Run and score; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, nargs="+", default=[DATA / "sim_epoch1", DATA / "sim"])
    parser.add_argument("--source", choices=("truth", "build"), default="truth")
    parser.add_argument("--dithers", type=int, default=0, help="exposures of each filter; all by default")
    parser.add_argument("--keep", type=Path, help="folder for the run; a temporary one otherwise")
    parser.add_argument("--score", type=Path, help="only score this run folder")
    arguments = parser.parse_args()
    if not all(scene.is_dir() for scene in arguments.scenes):
        print(f"skipped: no scene at {', '.join(map(str, arguments.scenes))}")
        return 0
    truths = truth_folders(arguments.scenes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = arguments.score
        if run is None:
            run = folder / "run"
            config = configure(folder, arguments.scenes, arguments.source, arguments.dithers)
            code = subprocess.run([sys.executable, "-m", "dpm", "run", str(config)], check=False, cwd=ROOT).returncode
            if code:
                return code
        stars = Table.read(truths[-1] / "truth" / "stars.ecsv")
        mag = np.array(stars[next(name for name in stars.colnames if name.startswith("mag_"))])
        found = identify(run, truths)
        epochs = sorted(found)
        for old, new in zip(epochs[:-1], epochs[1:]):
            score_links(found, stars, mag, old, new)
        score_motions(run, found, stars, mag, float(stars.meta["ref_epoch"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
