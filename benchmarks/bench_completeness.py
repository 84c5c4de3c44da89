"""Artificial stars of a crowded simulated field against its truth: completeness, blends, errors, corrections, selection.

usage: python benchmarks/bench_completeness.py [--seed 41] [--stars 10500] [--size 256] [--dithers 4] [--exptime 40] [--core 0]
       [--number 4000] [--line] [--keep FOLDER] [--score]

A field of `dpm simulate` with stars to beyond the limit, one in some 18 pixels, is run with artificial stars; ``--core`` is the
core radius (arcsec) of a clump that half of the stars are in, 0 for none.  Detections count for the brightest true star that they
can be.  Artificial stars have the true stars' colours, so that only their recovery is judged; with ``--line`` those of the
catalogue's own sequence.  Real stars' densities over the field and within each bin weight them.  ``--score`` uses the run in FOLDER
as it is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree
from scipy.stats import chi2

from dpm.cli.run import run_options
from dpm.config import load_options
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.master_frame import MasterFrame, tangent_to_sky
from dpm.science import correct_magnitudes, fit_error_model, migration_correction
from dpm.science.random_errors import bias_and_width
from dpm.simulate import SimulationOptions, Visit, simulate_field

BANDS = ("niriss_f090w", "niriss_f150w")
BRIGHTEST, FAINTEST = 22.0, 29.0  # of the artificial stars in the first band, where nothing else limits them
MATCH, DIFFERENCE = 0.5, 1.0  # pixels and magnitudes, as for artificial stars
CELLS = 6  # a side, of the field, in which densities are compared
STEP, FINE = 0.5, 0.1  # magnitudes of the bins, and within them
BLEND_RADIUS, BLEND_SHARE = 2.0, 0.1  # a blend has a neighbour within these pixels with this share of its light or more
FEWEST = 30  # true and artificial stars of a bin


def make_run(folder: Path, options: argparse.Namespace) -> None:
    """Simulate and run; what is there is used again."""
    if not (folder / "field").exists():
        visit = Visit(n_dithers=options.dithers, dither=0.05, exptime=options.exptime)
        simulate_field(
            folder / "field",
            SimulationOptions(
                visits=(visit,), n_pixels=options.size, n_stars=options.stars, magnitudes=(16.5, 28.0), cluster_radius=options.core,
                seed=options.seed,
            ),
        )  # fmt: skip
    text = (
        f'[input]\nexposures = ["{folder}/field/*_cal.fits"]\nreference = "{folder}/field/reference.ecsv"\n'
        f'[psf]\nsource = "{folder}/field/truth/stdpsf"\n[run]\ndirectory = "{folder}/run"\n'
    )
    config, run = folder / "field.toml", RunFolder(folder / "run")
    told = f"n = {options.number}\nmagnitudes = {{{BANDS[0]} = [{BRIGHTEST}, {FAINTEST}]}}"
    if not options.line:
        config.write_text(text)
        run_options(run, load_options(config), last=[])
        like_the_field(folder, options.number).write(folder / "stars.ecsv", overwrite=True)
        told = f'table = "{folder}/stars.ecsv"'
    config.write_text(f"{text}[artificial_stars]\n{told}\n")
    run_options(run, load_options(config), last=[])


def true_stars(folder: Path) -> tuple[Table, NDArray, NDArray]:
    """The true stars, where the catalogue has them (master pixels, n x 2), and how many exposures hold them."""
    run = RunFolder(folder / "run")
    exposures = read_table(run.exposures)
    true = Table.read(folder / "field" / "truth" / "stars.ecsv")
    years = (float(read_table(run.catalog, ["ref_epoch"])["ref_epoch"][0]) - true.meta["ref_epoch"]) / 1000
    place = np.asarray(true["xi"] + true["pm_xi"] * years), np.asarray(true["eta"] + true["pm_eta"] * years)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    held = np.zeros(len(true), int)
    for path in sorted((folder / "field" / "truth").glob("jw*.npz")):
        data, last = np.load(path), int(exposures["nx"][0]) - 1
        inside = (data["x"] >= 0) & (data["x"] <= last) & (data["y"] >= 0) & (data["y"] <= last)
        held[data["id"][inside]] += 1
    return true, np.column_stack(frame.sky_to_pixel(*tangent_to_sky(*place, true.meta["ra0"], true.meta["dec0"]))), held


def like_the_field(folder: Path, n: int) -> Table:
    """Stars uniform over the field and in the first band's magnitude, with the colours of true stars as bright."""
    rng = np.random.default_rng(2)
    true, place, held = true_stars(folder)
    field = Delaunay(place[held >= 3])
    position = rng.uniform(field.min_bound, field.max_bound, (10 * n, 2))
    position = position[field.find_simplex(position) >= 0][:n]
    mags = np.column_stack([true[f"mag_{band.split('_')[1].upper()}"] for band in BANDS])
    mags = mags[held >= 3]
    first = rng.uniform(BRIGHTEST, mags[:, 0].max(), n)
    order = np.argsort(mags[:, 0])
    near = np.searchsorted(mags[order, 0], first) + rng.integers(-10, 11, n)
    donor = mags[order][np.clip(near, 0, len(mags) - 1)]
    out = Table({"x": position[:, 0], "y": position[:, 1], f"{BANDS[0]}_mag": first})
    out[f"{BANDS[1]}_mag"] = first + donor[:, 1] - donor[:, 0]
    return out


class Truth:
    """True stars where the catalogue has them, on its magnitudes, and which of them it holds.

    Parameters
    ----------
    folder : Path
        With ``field`` and ``run``.
    """

    def __init__(self, folder: Path) -> None:
        run = RunFolder(folder / "run")
        self.stars, self.catalog = read_table(run.artificial_stars), read_table(run.catalog)
        self.stars = self.stars[np.isfinite(self.stars[f"in_{BANDS[0]}_mag"])]
        self.bands = [name[3:-4] for name in self.stars.colnames if name.startswith("in_") and name.endswith("_mag")]
        true, self.place, held = true_stars(folder)
        self.mag = np.column_stack([true[f"mag_{band.split('_')[1].upper()}"] for band in self.bands])
        self.held = held >= 3
        self.measured = np.column_stack([np.asarray(self.catalog[f"{band}_mag"], float) for band in self.bands])
        self.found = np.column_stack([self.catalog["x"], self.catalog["y"]])
        self._align()
        self.row = self._rows()

    def _align(self) -> None:
        """Bring true magnitudes to the catalogue's zero points, from bright stars."""
        distance, row = cKDTree(self.found).query(self.place)
        good = (distance < 0.1) & (self.mag[:, 0] < np.quantile(self.mag[:, 0], 0.2))
        self.mag = self.mag + np.nanmedian((self.measured[row] - self.mag)[good], axis=0)

    def _rows(self) -> NDArray[np.int64]:
        """The row of each true star, -1 for none: a row stands for the brightest star that it can be."""
        pairs = cKDTree(self.place).sparse_distance_matrix(cKDTree(self.found), MATCH, output_type="ndarray")
        i, j = pairs["i"], pairs["j"]
        with np.errstate(invalid="ignore"):
            good = (np.abs(self.mag[i] - self.measured[j]) < DIFFERENCE).all(axis=1)
        i, j = i[good], j[good]
        order = np.lexsort((self.mag[i, 0], j))
        i, j = i[order], j[order]
        first = np.unique(j, return_index=True)[1]
        row = np.full(len(self.mag), -1)
        row[i[first]] = j[first]
        return row

    def blended(self, place: NDArray, magnitude: NDArray, own: bool) -> NDArray[np.bool_]:
        """Which stars at these places have a true star beside them (``own``: they are the true stars)."""
        near = cKDTree(self.place).query_ball_point(place, BLEND_RADIUS)
        faintest, bright = magnitude - 2.5 * np.log10(BLEND_SHARE), self.mag[:, 0]
        return np.array([any(bright[n] < faintest[k] and not (own and n == k) for n in others) for k, others in enumerate(near)])


def compare(truth: Truth, band: int, real: NDArray[np.bool_], put_in: NDArray[np.bool_]) -> list[list[float]]:
    """Bins: magnitude, stars, completeness from artificial and of real stars, and their difference in sigmas."""
    stars = truth.stars
    mag_in = np.asarray(stars[f"in_{truth.bands[band]}_mag"], float)
    place_in = np.column_stack([stars["in_x"], stars["in_y"]])
    recovered = np.asarray(stars["recovered"], bool)
    low, high = place_in.min(axis=0), place_in.max(axis=0)
    cell_in, cell = (np.clip((CELLS * (p - low) / (high - low)).astype(int), 0, CELLS - 1) for p in (place_in, truth.place))
    rows = []
    for begin in np.arange(np.floor(mag_in.min()), mag_in.max(), STEP):
        a = np.flatnonzero(put_in & (mag_in >= begin) & (mag_in < begin + STEP))
        t = np.flatnonzero(real & (truth.mag[:, band] >= begin) & (truth.mag[:, band] < begin + STEP))
        if min(len(a), len(t)) < FEWEST:
            continue
        weight = np.ones(len(a))
        for keys_in, keys in (
            (cell_in[a] @ [CELLS, 1], cell[t] @ [CELLS, 1]),
            (((mag_in[a] - begin) / FINE).astype(int), ((truth.mag[t, band] - begin) / FINE).astype(int)),
        ):
            size = CELLS * CELLS
            have, want = np.bincount(keys_in, weight, size), np.bincount(keys, minlength=size)
            weight *= (want / np.maximum(have, 1e-9))[keys_in]
        share_in, share = np.average(recovered[a], weights=weight), np.mean(truth.row[t] >= 0)
        middle = np.clip(0.5 * (share_in + share), 0.02, 0.98)
        error = np.sqrt(middle * (1 - middle) * (np.sum(weight**2) / np.sum(weight) ** 2 + 1 / len(t)))
        rows.append([begin + 0.5 * STEP, len(a), len(t), share_in, share, (share_in - share) / error])
    return rows


def show_completeness(truth: Truth) -> None:
    """Tables and chi-squares, all stars and blends."""
    # Beyond the faintest true star there is nothing to compare with, in any band: a star has to be measured in both.
    first = np.asarray(truth.stars[f"in_{truth.bands[0]}_mag"], float)
    possible = first < truth.mag[:, 0].max()
    blended = truth.blended(truth.place, truth.mag[:, 0], own=True)
    places = np.column_stack([truth.stars["in_x"], truth.stars["in_y"]])
    blended_in = truth.blended(places, first, own=False)
    for band, name in enumerate(truth.bands):
        for title, real, put_in in (
            ("all stars", truth.held, possible),
            (f"blends within {BLEND_RADIUS:g} pixels", truth.held & blended, possible & blended_in),
        ):
            rows = compare(truth, band, real, put_in)
            print(f"\n{name}, {title}\n| mag | artificial | real | completeness, artificial | real | sigmas |")
            for row in rows:
                print(f"| {row[0]:.2f} | {row[1]} | {row[2]} | {row[3]:.3f} | {row[4]:.3f} | {row[5]:+.1f} |")
            used = np.array([row for row in rows if 0.1 <= 0.5 * (row[3] + row[4]) <= 0.95])
            total = float(np.sum(used[:, 5] ** 2)) if len(used) else 0.0
            print(f"10 to 95 %: chi-square {total:.1f} of {len(used)} bins, p = {chi2.sf(total, max(len(used), 1)):.3f}")


def show_errors(truth: Truth) -> None:
    """The error model's pulls of real stars, and what the corrections do to the faint end."""
    model = fit_error_model(truth.stars, *truth.bands)
    seen = np.flatnonzero(truth.held & (truth.row >= 0))
    saturated = np.any([truth.catalog[f"{band}_saturated"] for band in truth.bands], axis=0)
    seen = seen[~saturated[truth.row[seen]]]
    seen = seen[model.covers(truth.mag[seen])]
    measured = truth.measured[truth.row]
    pulls = model.pulls(truth.mag[seen], measured[seen])
    for band, name in enumerate(truth.bands):
        put_in = np.asarray(truth.stars[f"in_{name}_mag"], float)
        # Corrections hold for the luminosity function that the weights say: here the true one.
        edges = np.arange(np.floor(put_in.min()), put_in.max() + 0.25, 0.25)
        n_real, n_put_in = (np.histogram(mag, edges)[0] for mag in (truth.mag[truth.held, band], put_in))
        weights = (n_real / np.maximum(n_put_in, 1))[np.digitize(put_in, edges) - 1]
        corrected = correct_magnitudes(measured[:, band], migration_correction(truth.stars, name, weights=weights))
        true, pull = truth.mag[seen, band], pulls[:, band]
        print(f"\n{name}\n| mag | stars | pull: bias, width | beyond 3 | measured - true by measured mag: before, corrected |")
        for begin in np.arange(np.ceil(put_in.min()), true.max(), 1.0):
            k = (true >= begin) & (true < begin + 1)
            m = seen[(measured[seen, band] >= begin) & (measured[seen, band] < begin + 1)]
            if min(k.sum(), len(m)) < FEWEST:
                continue
            bias, width = bias_and_width(pull[k])
            off = [np.nanmedian(values[m] - truth.mag[m, band]) for values in (measured[:, band], corrected)]
            tail = np.mean(np.abs(pull[k]) > 3)
            error = 1.253 * bias_and_width(measured[m, band] - truth.mag[m, band])[1] / np.sqrt(len(m))
            shift = f"{off[0]:+.4f}, {off[1]:+.4f} +- {error:.4f}"
            print(f"| {begin + 0.5:.1f} | {k.sum()} | {bias:+.2f}, {width:.2f} | {tail:.3f} | {shift} |")
        bias, width = bias_and_width(pull)
        print(f"| all | {len(pull)} | {bias:+.3f}, {width:.3f} | {np.mean(np.abs(pull) > 3):.4f} | |")


def show_selection(truth: Truth, run: RunFolder) -> None:
    """The counts, and how many of the rows that stand for no true star the selection removes."""
    for step in read_table(run.selection / "counts.parquet"):
        print(f"| {step['step']} | {step['n_real']} | {step['n_artificial']} |")
    fate = read_table(run.selection / "catalog.parquet")
    false = np.ones(len(truth.catalog), bool)
    false[truth.row[truth.row >= 0]] = False
    selected = np.asarray(fate["selected"], bool)
    left = f"after the selection {np.sum(false & selected)} of {selected.sum()}"
    print(f"rows that are no true star: {false.sum()} of {len(false)}, {left}")


def main() -> int:
    """Run and score; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--stars", type=int, default=10_500)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--dithers", type=int, default=4, help="exposures a filter")
    parser.add_argument("--exptime", type=float, default=40.0, help="seconds")
    parser.add_argument("--core", type=float, default=0.0, help="arcsec")
    parser.add_argument("--number", type=int, default=4000, help="artificial stars")
    parser.add_argument("--line", action="store_true", help="colours of the catalogue's own sequence")
    parser.add_argument("--keep", type=Path, help="folder for field and run; a temporary one otherwise")
    parser.add_argument("--score", action="store_true", help="only score what is in the folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if not options.score:
            make_run(folder, options)
        truth = Truth(folder)
        area = float(np.prod(np.ptp(np.column_stack([truth.stars["in_x"], truth.stars["in_y"]]), axis=0)))
        print(f"a true star in {area / truth.held.sum():.1f} pixels, a row of the catalogue in {area / len(truth.catalog):.1f}")
        show_completeness(truth)
        show_errors(truth)
        show_selection(truth, RunFolder(folder / "run"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
