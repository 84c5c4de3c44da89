"""The atlas against the catalogue: places, brightness and cosmic rays; the figures of docs/results.md.

usage: python benchmarks/bench_atlas.py [--run RUN ...] [--uvis FOLDER] [--blind MARKED_RUN BLIND_RUN]

``--run`` scores the atlas of a finished run (``[atlas] make = true``), and compares it with one of the catalogue's stars alone.
``--uvis`` runs the real WFC3/UVIS dithers twice into a new folder, with the cosmic rays that their DQ planes mark and without;
``--blind`` compares two such runs that are there already.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from photutils.aperture import CircularAnnulus, CircularAperture, aperture_photometry
from photutils.centroids import centroid_2dg, centroid_com, centroid_sources
from scipy.spatial import cKDTree

import dpm
from dpm.config import open_run
from dpm.models.statistics import robust_width
from dpm.notebook.run import Run
from dpm.stages import atlas
from dpm.stages.atlas.drizzle_cells import drizzle_cell
from dpm.stages.atlas.exposure import AtlasExposure, Window
from dpm.stages.atlas.layout import AtlasPlan

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "real"
ALONE, FAINTER = 8.0, 0.02  # no neighbour within so many pixels is brighter than this part of the star
LEAST_SN = 100.0
ZONES = 3
COSMIC_RAY = 4096  # bit of the DQ planes of WFC3 that comparing exposures sets


def isolated(at: NDArray, flux: NDArray, sn: NDArray) -> NDArray[np.bool_]:
    """Bright stars whose neighbours leave their centroid alone."""
    tree, light = cKDTree(at), np.nan_to_num(flux)
    out = np.isfinite(flux) & (sn > LEAST_SN)
    for k in np.flatnonzero(out):
        out[k] = all(light[other] < FAINTER * light[k] for other in tree.query_ball_point(at[k], ALONE) if other != k)
    return out


def choose(run: Run, stack: str) -> tuple[NDArray, NDArray, float]:
    """Atlas positions at its epoch by the FITS header and catalogue fluxes of isolated stars in half of the exposures or more."""
    catalog, atlas = run.catalog, run.atlas
    band = str(atlas.index["band"][[str(name) for name in atlas.index["stack"]].index(stack)])
    number, wcs = atlas.cutout(stack, plane="NEXP")
    ra, dec = np.array(catalog["ra"], float), np.array(catalog["dec"], float)
    moved = np.ones(len(ra), bool)
    if "pmra" in catalog.colnames:
        years = atlas.epoch(stack) - np.array(catalog["ref_epoch"], float)
        ra += np.array(catalog["pmra"], float) * years / 3.6e6 / np.cos(np.radians(dec))
        dec += np.array(catalog["pmdec"], float) * years / 3.6e6
        moved = np.isfinite(ra)
    at = np.column_stack(wcs.all_world2pix(np.where(moved, ra, catalog["ra"]), np.where(moved, dec, catalog["dec"]), 0))
    flux = np.asarray(catalog[f"{band}_flux"], float)
    chosen = moved & isolated(at, flux, flux / np.asarray(catalog[f"{band}_flux_error"], float))
    chosen &= ~np.asarray(catalog[f"{band}_saturated"], bool)
    j, i = np.clip(np.round(at[:, ::-1]).astype(int).T, 0, np.array(number.shape)[:, None] - 1)
    chosen &= number[j, i] >= max(2, 0.5 * number.max())
    return at[chosen], flux[chosen], float(np.median(number[j, i][chosen]))


def centroids(pixels: NDArray, at: NDArray) -> dict[str, NDArray]:
    """Centroids of photutils."""
    filled, out = np.nan_to_num(pixels), {}
    for name, function, box in (("Gaussian fit", centroid_2dg, 7), ("centre of mass", centroid_com, 5)):
        out[name] = np.column_stack(centroid_sources(filled, *at.T, box_size=box, centroid_func=function))
    return out


def score(path: Path) -> None:
    """Of each stack: offsets of centroids through the FITS header from the catalogue, and light over the catalogue's flux."""
    run = dpm.open(path)
    for stack in run.atlas.stacks:
        at, flux, depth = choose(run, stack)
        pixels, _ = run.atlas.cutout(stack)
        print(f"\n{path} {stack}: {len(at)} isolated stars above S/N {LEAST_SN:g}, {depth:g} exposures")
        for name, found in centroids(pixels, at).items():
            describe(name, found - at, at)
        ratio = measure(np.nan_to_num(pixels), at) / flux
        thirds = " ".join(f"{np.median(ratio[part]):.3f}" for part in np.array_split(np.argsort(-flux), 3))
        spread = f"median {np.median(ratio):.3f}, scatter {robust_width(ratio):.4f}"
        print(f"  light within 3 pixels over flux: {spread}, by thirds {thirds}")


def compare_model(path: Path) -> None:
    """The same centroids on the catalogue's stars alone, put through the same maps: what differs is not the sampling."""
    run = dpm.open(path)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "run"
        shutil.copytree(path, copy)
        folder, options = open_run(copy)
        options = replace(options, atlas=replace(options.atlas, make=True))
        rounds = [[atlas.work(task) for task in atlas.plan(folder, options)]]
        atlas.next_round(folder, options, rounds)
        plan = AtlasPlan.load(folder)
        for stack in plan.stacks:
            at, _, _ = choose(run, stack.name)
            sources = [ModelAlone(AtlasExposure(plan.pixels_file(name), plan.map_file(name))) for name in stack.exposures]
            made = drizzle_cell(sources, [0.0] * len(sources), (0, plan.frame.ny, 0, plan.frame.nx), plan.pixfrac)
            assert made is not None
            pixels, _ = run.atlas.cutout(stack.name)
            print(f"\n{path} {stack.name}: atlas minus model, {len(at)} stars")
            for (name, found), model in zip(centroids(pixels, at).items(), centroids(made.sci, at).values()):
                describe(name, found - model, at)


class ModelAlone:
    """An exposure's catalogue stars in place of its pixels."""

    def __init__(self, source: AtlasExposure) -> None:
        self.source, self.noise, self.density = source, source.noise, source.density

    def window(self, *box: float) -> Window | None:
        window = self.source.window(*box)
        return window and replace(window, value=window.stars)


def describe(name: str, off: NDArray, at: NDArray) -> None:
    """Median, its error, scatter, tails, and the largest median of a zone."""
    off, at = off[np.isfinite(off).all(axis=1)], at[np.isfinite(off).all(axis=1)]
    width = [robust_width(off[:, axis]) for axis in (0, 1)]
    median, error = np.median(off, axis=0), 1.25 * np.array(width) / np.sqrt(len(off))
    print(
        f"  {name}: median {median[0]:+.4f} +- {error[0]:.4f}, {median[1]:+.4f} +- {error[1]:.4f}; scatter {width[0]:.4f}, "
        f"{width[1]:.4f}; 95 % within {np.percentile(np.hypot(*off.T), 95):.3f} pixels"
    )
    edges = [np.quantile(at[:, axis], np.linspace(0, 1, ZONES + 1)) for axis in (0, 1)]
    zone = [np.clip(np.searchsorted(edges[axis], at[:, axis], "right") - 1, 0, ZONES - 1) for axis in (0, 1)]
    medians = []
    for k in range(ZONES**2):
        mine = zone[1] * ZONES + zone[0] == k
        if mine.sum() >= 8:
            medians.append(np.hypot(*np.median(off[mine], axis=0)))
    if medians:
        print(f"    zones of a {ZONES} x {ZONES} grid: medians up to {max(medians):.3f}")


def measure(pixels: NDArray, at: NDArray, radius: float = 3.0) -> NDArray:
    """Light within a radius above the local sky."""
    total = np.asarray(aperture_photometry(pixels, CircularAperture(at, radius))["aperture_sum"])
    sky = [np.median(mask.get_values(pixels)) for mask in CircularAnnulus(at, 7.0, 10.0).to_mask(method="center")]
    return total - np.array(sky) * np.pi * radius**2


def prepare_uvis(folder: Path) -> None:
    """The dithers as they are, and blind to the cosmic rays that their DQ planes mark, each with a configuration."""
    for name in ("marked", "blind"):
        place = folder / name
        (place / "data").mkdir(parents=True)
        known = 0
        for path in sorted((REAL / "wfc3uvis_f814w_3dithers").glob("*_flc.fits")):
            with fits.open(path) as hdulist:
                for hdu in hdulist:
                    if hdu.name == "DQ":
                        known += int(((hdu.data & COSMIC_RAY) != 0).sum())
                        if name == "blind":
                            hdu.data = (hdu.data & ~np.int16(COSMIC_RAY)).astype(hdu.data.dtype)
                hdulist.writeto(place / "data" / path.name)
        (place / "field.toml").write_text(
            '[input]\nexposures = ["data/*.fits"]\n[frame]\nmin_exposures = 2\n[atlas]\nmake = true\n'
            f'[psf]\nsource = "{REAL / "stdpsf" / "STDPSF_WFC3UV_F814W.fits"}"\n'
        )
        print(f"{place}: {known} pixels marked as cosmic rays in the files")


def compare_blind(runs: list[Path]) -> None:
    """How a stack that was blind to the marks of its exposures' cosmic rays differs from one that was not."""
    stacks = []
    for path in runs:
        score(path)
        with fits.open(path / "images" / "atlas_wfc3uv_f814w.fits") as hdulist:
            stacks.append({plane: np.array(hdulist[plane].data) for plane in ("SCI", "ERR", "NEXP")})
            print(f"  share of good pixels rejected: {hdulist[0].header['REJECTED']:.5f}")
    marked, blind = stacks
    both = (marked["NEXP"] >= 2) & (blind["NEXP"] >= 1)
    pull = ((blind["SCI"] - marked["SCI"]) / marked["ERR"])[both]
    counts = f"{np.sum(pull > 5)} above 5 ERR, {np.sum(pull > 10)} above 10, {np.sum(pull < -5)} below -5"
    print(f"blind minus marked, {both.sum()} pixels: {counts}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, nargs="*", default=[])
    parser.add_argument("--uvis", type=Path)
    parser.add_argument("--blind", type=Path, nargs=2, metavar=("MARKED_RUN", "BLIND_RUN"))
    told = parser.parse_args()
    for path in told.run:
        score(path)
        compare_model(path)
    if told.uvis is not None:
        prepare_uvis(told.uvis)
        for name in ("marked", "blind"):
            command = [sys.executable, "-m", "dpm", "run", str(told.uvis / name / "field.toml"), "--cluster", "none"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        compare_blind([told.uvis / name / "run" for name in ("marked", "blind")])
    if told.blind is not None:
        compare_blind(told.blind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
