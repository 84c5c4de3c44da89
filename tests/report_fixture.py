"""A made-up run folder with the registry's tables, for tests of the report and of the export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.special import ndtr

from dpm.io.cubes import create_cube, write_exposure
from dpm.io.distortion_files import errors_file, solution_file, write_errors, write_solution
from dpm.io.run_folder import RunFolder
from dpm.io.tables import catalog_columns, read_table, write_table
from dpm.models.columns import DETECTION_COLUMNS, EXPOSURE_COLUMNS, MATCH_COLUMNS
from dpm.models.distortion_errors import DistortionErrors
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag, StarFlag

SCALE = 0.0656  # arcsec per pixel
SIZE = 512


def make_run(
    root: Path,
    n_stars: int = 1500,
    n_exposures: int = 4,
    bands: tuple[str, ...] = ("niriss_f090w", "niriss_f150w"),
    spurious: int = 60,
    matches: bool = True,
    psf: bool = True,
    cubes: bool = True,
    seed: int = 5,
) -> RunFolder:
    """Write a run folder: stars with photon-like errors, the same dithers in every band, and spurious detections."""
    folder = RunFolder(Path(root))
    folder.create()
    rng = np.random.default_rng(seed)
    x0, y0 = rng.uniform(12, SIZE - 12, n_stars), rng.uniform(12, SIZE - 12, n_stars)
    order = np.argsort(-y0, kind="stable")
    x0, y0 = x0[order], y0[order]
    faintness = 8.0 * rng.power(2.5, n_stars)
    catalog = Table(
        {
            "id": np.arange(1, n_stars + 1),
            "ra": 80.5 - (x0 - SIZE / 2) * SCALE / 3600 / np.cos(np.radians(-69.5)),
            "dec": -69.5 + (y0 - SIZE / 2) * SCALE / 3600,
            "ref_epoch": np.full(n_stars, 2022.33),
            "x": x0,
            "y": y0,
            "flags": np.zeros(n_stars, dtype=np.int32),
        }
    )
    exposure_rows = []
    for number, band in enumerate(bands):
        instrument, _, name = band.partition("_")
        mags = -13.0 + faintness + number * (0.2 + 0.08 * faintness) + rng.normal(0, 0.02, n_stars)
        rows: list[dict] = []
        for index in range(n_exposures):
            exposure = f"jw01086001001_{number:02d}101_{index:05d}_nis"
            row = _exposure(folder, rng, exposure, band, index, (x0, y0, mags), spurious, matches)
            rows.append(row | {"instrument": instrument.upper(), "filter": name.upper()})
        exposure_rows += rows
        if cubes:
            _write_cube(folder, rng, rows)
        _band_columns(catalog, rng, band, mags, n_exposures)
        if psf:
            _write_psf(folder.psf_file("NIRISS", name.upper()))
    error = 0.02 * 10 ** (0.2 * (faintness - 4)) / np.sqrt(n_exposures)
    for name, unit in (("x_error", 1.0), ("y_error", 1.0), ("ra_error", SCALE * 1000), ("dec_error", SCALE * 1000)):
        catalog[name] = (error * unit).astype(np.float32)
    catalog["ra_dec_corr"] = np.float32(0.0)
    catalog["n_epochs"] = np.int16(1)
    catalog["baseline"] = np.float32(0.01)
    frame = {"scale": SCALE, "ra0": 80.5, "dec0": -69.5}
    meta = {"flux_unit": "DN/s", "master_frame": frame, "reference": "the exposures' own WCS"}
    for path in (folder.catalog, folder.frame_catalog):
        write_table(path, catalog, catalog_columns(bands), meta)
    write_table(
        folder.exposures, Table(rows=exposure_rows), EXPOSURE_COLUMNS, {"flux_unit": "DN/s", "master_frame": frame}
    )
    folder.config.write_text('[run]\nname = "made-up field"\n\n[input]\nexposures = ["*_cal.fits"]\n')
    provenance = {
        "dpm": "0.1.0",
        "versions": {"python": "3.12", "numpy": np.__version__},
        "stages": {"ingest": {"seconds": 2.5, "tasks": 8}, "first_pass": {"seconds": 7.25, "tasks": 8}},
    }
    folder.provenance.write_text(json.dumps(provenance))
    return folder


def _exposure(
    folder: RunFolder,
    rng: np.random.Generator,
    exposure: str,
    band: str,
    index: int,
    truth: tuple[np.ndarray, np.ndarray, np.ndarray],
    spurious: int,
    matches: bool,
) -> dict:
    """One exposure's detections and matches; its row of the exposure table."""
    x0, y0, mags = truth
    n, extra = len(x0), spurious
    dx, dy = rng.uniform(-6, 6, 2)
    flux = 10 ** (-0.4 * mags) * 3
    sn = flux / np.sqrt(flux / 3 + 40)
    error = np.hypot(0.9 / sn, 0.002)
    noise = rng.normal(0, 1, (3, n))
    wave = 0.01 * np.sin(2 * np.pi * x0 / 300)
    table = Table(
        {
            "x": np.concatenate([x0 + dx + error * noise[0] + wave, rng.uniform(0, SIZE, extra)]),
            "y": np.concatenate([y0 + dy + error * noise[1], rng.uniform(0, SIZE, extra)]),
            "flux": np.concatenate([flux * (1 + noise[2] / sn), rng.uniform(200, 3000, extra)]),
        }
    )
    total = n + extra
    star = np.arange(total) < n
    table["exposure"], table["detector"], table["filter"] = exposure, "NIRISS", band.split("_")[1].upper()
    table["x_error"] = table["y_error"] = np.append(error, np.full(extra, 0.02)).astype(np.float32)
    table["flux_error"] = (table["flux"] / np.append(sn, np.full(extra, 40.0))).astype(np.float32)
    table["area"] = np.ones(total, np.float32)
    table["sky"] = rng.normal(2, 0.1, total).astype(np.float32)
    table["sky_rms"] = np.full(total, 1.5, np.float32)
    expected = np.append(3.0 / sn, np.full(extra, 0.05))
    table["qfit_expected"] = expected.astype(np.float32)
    table["qfit"] = (expected * rng.normal(1.05, 0.15, total) + np.where(star, 0.01, 0.3)).astype(np.float32)
    table["radxs"] = (np.where(star, 0, -0.2) + rng.normal(0, 0.3, total) * expected).astype(np.float32)
    table["chi"] = (np.where(star, 1, 6) * rng.normal(1, 0.1, total)).astype(np.float32)
    table["peak"] = (0.2 * table["flux"]).astype(np.float32)
    table["significance"] = (table["flux"] / table["flux_error"]).astype(np.float32)
    table["n_pixels"] = np.full(total, 25, np.int16)
    table["flags"] = np.where(rng.random(total) < 0.03, int(StarFlag.MASKED_PIXELS), 0).astype(np.int32)
    write_table(folder.detections_file(exposure, "NIRISS"), table, DETECTION_COLUMNS, {"flux_unit": "DN/s"})
    if matches:
        matched = Table(
            {
                "id": np.arange(1, n + 1),
                "row": np.arange(n, dtype=np.int32),
                "dx": error * noise[0] + wave,
                "dy": error * noise[1],
                "dmag": -2.5 * np.log10(np.maximum(1 + noise[2] / sn, 0.1)),
                "used": rng.random(n) > 0.01,
            }
        )
        write_table(folder.matches_file(exposure, "NIRISS"), matched, MATCH_COLUMNS)
    row = {
        "exposure": exposure,
        "file": f"{exposure}_cal.fits",
        "telescope": "JWST",
        "detector": "NIRISS",
        "band": band,
        "cube": f"NIRISS_{band.split('_')[1].upper()}.zarr",
        "index": index,
        "target": "FIELD",
        "epoch": 2022.33 + 1e-4 * index,
        "exptime": 42.9,
        "flux_unit": "DN/s",
        "x_origin": 0,
        "y_origin": 0,
        "nx": SIZE,
        "ny": SIZE,
        "pixel_scale": SCALE,
        "va_scale": 1.0,
        "noise_source": "VAR_POISSON and VAR_RNOISE",
        "calibration_version": "1.12.0" if index else "1.11.4",
        "n_detections": total,
        "n_matched": n if matches else 0,
        "n_reference": n // 2,
        "a": 1.0,
        "b": 0.0,
        "c": 0.0,
        "d": 1.0,
        "x_shift": -dx,
        "y_shift": -dy,
        "residual_rms": 0.008 + 0.001 * index,
        "zero_point": 0.003 * index,
        "zero_point_error": 0.0005,
    }
    return row


def _band_columns(catalog: Table, rng: np.random.Generator, band: str, mags: np.ndarray, n_exposures: int) -> None:
    n = len(mags)
    flux = 10 ** (-0.4 * mags)
    error = 1.0857 / np.sqrt(3 * flux) / np.sqrt(n_exposures) + 0.001
    columns = {
        "mag": mags + error * rng.normal(0, 1, n),
        "mag_error": error,
        "mag_rms": error * np.sqrt(n_exposures) * rng.uniform(0.6, 1.4, n),
        "flux": flux,
        "flux_error": flux * error / 1.0857,
        "qfit": 5.0 / np.sqrt(3 * flux) + 0.01,
        "radxs": rng.normal(0, 0.02, n),
        "chi": rng.normal(1, 0.1, n),
        "sky": rng.normal(2, 0.1, n),
        "sky_rms": np.full(n, 1.5),
    }
    for name, values in columns.items():
        catalog[f"{band}_{name}"] = values
    catalog[f"{band}_n_exposures"] = np.int16(n_exposures)
    catalog[f"{band}_n_good"] = np.int16(n_exposures)
    catalog[f"{band}_saturated"] = mags < -12.5
    missing = rng.random(n) < 0.05
    for name in ("mag", "mag_error", "mag_rms", "flux"):
        catalog[f"{band}_{name}"][missing] = np.nan


def _write_cube(folder: RunFolder, rng: np.random.Generator, rows: list[dict]) -> None:
    """Pixels of the exposures: sky, noise, the detections as small spots, and a bad column."""
    path = folder.cubes / rows[0]["cube"]
    create_cube(path, rows[0]["detector"], rows[0]["filter"], rows)
    plane = np.ones((SIZE, SIZE), dtype=np.float32)
    offsets = np.arange(-2, 3)
    for row in rows:
        sci = rng.normal(2.0, 1.5, (SIZE, SIZE)).astype(np.float32)
        stars = read_table(folder.detections_file(row["exposure"], row["detector"]), ["x", "y", "flux"])
        inside = (stars["x"] > 3) & (stars["x"] < SIZE - 4) & (stars["y"] > 3) & (stars["y"] < SIZE - 4)
        x, y, flux = (np.asarray(stars[name][inside]) for name in ("x", "y", "flux"))
        column, line = np.round(x).astype(int), np.round(y).astype(int)
        for j in offsets:
            for i in offsets:
                spot = 0.16 * np.exp(-0.5 * ((column + i - x) ** 2 + (line + j - y) ** 2))
                np.add.at(sci, (line + j, column + i), (flux * spot).astype(np.float32))
        dq = np.zeros((SIZE, SIZE), dtype=np.uint8)
        dq[:, 100] = int(PixelFlag.BAD)
        sci[:, 100] = np.nan
        image = ExposureImage(
            row["exposure"], row["detector"], row["filter"], sci, plane, plane * 0.3, plane * 0, plane, dq
        )
        write_exposure(path, row["index"], image)


def _write_psf(path: Path) -> None:
    """A 3 x 3 library of blurred spots in the STDPSF layout."""
    y, x = (np.mgrid[:101, :101] - 50) / 4.0
    nodes = []
    for node in range(9):
        width = 0.75 + 0.02 * node
        spot = np.exp(-0.5 * (x**2 + y**2) / width**2) + 0.01 / (1 + (x**2 + y**2) / 4)
        nodes.append(16 * spot / spot.sum())
    header = fits.Header({"NXPSFS": 3, "NYPSFS": 3})
    for index, position in enumerate((1, 256, 512), start=1):
        header[f"IPSFX{index:02d}"] = position
        header[f"JPSFY{index:02d}"] = position
    fits.PrimaryHDU(np.array(nodes, dtype=np.float32), header).writeto(path, overwrite=True)


def write_build(folder: RunFolder, cubes: tuple[str, ...], rounds: int = 4) -> dict:
    """A history of an ePSF build that converges; the last round's averages hold a share of each position."""
    phase = (np.arange(10) + 0.5) / 10 - 0.5
    history = {}
    for number, cube in enumerate(cubes):
        updates, averages = [], []
        for k in range(rounds):
            size = 1 if k == 0 else 3
            stars = 500 + 10 * number + k
            updates.append(
                {
                    "outer": k // 2, "inner": k % 2, "change": 0.00731 * 0.25**k, "noise": 0.00082, "shift": 0.0,
                    "moved": 0.007, "stars": stars, "averaged": stars - 30, "nodes": [size, size],
                    "node_stars": np.full((size, size), stars / size**2).tolist(),
                    "ring_chi": (1.0 + 1.43 * 0.3**k / (1 + np.arange(12))).tolist(),
                }
            )  # fmt: skip
            amplitude = 0.02345 * 0.2**k
            wave = amplitude * np.exp(2j * np.pi * phase)
            averages.append(
                {
                    "outer": k // 2, "inner": k % 2, "mix": k == rounds - 1, "phase": phase.tolist(),
                    "bias": [wave.real.tolist(), (0.5 * wave.imag).tolist()],
                    "amplitude": amplitude, "scatter": 0.0213 * 0.8**k, "qfit": 0.0456 - 0.002 * k, "bright": 400,
                }
            )  # fmt: skip
        history[cube] = {"updates": updates, "averages": averages, "images": 540, "quick": {}, "phase_spread": 0.62}
    folder.psf.mkdir(parents=True, exist_ok=True)
    (folder.psf / "build.json").write_text(json.dumps(history))
    return history


def write_distortion(folder: RunFolder, detector: str, filters: tuple[str, ...], n_exposures: int = 5) -> dict[str, float]:
    """A solution's diagnostics with Gaussian residuals; returns the widths (pixels) by extension stem."""
    terms = {"START": 0.31, "POLYNOMIAL": 0.0417, "TABLE": 0.0123, "FINE": 0.0119}
    node = np.linspace(0, SIZE - 1.0, 64)
    x, y = np.meshgrid(node, node)
    images, widths, draws = {}, {}, {}
    for f, name in enumerate(filters):
        for term, width in terms.items():
            width *= 1 + 0.1 * f
            widths[f"{name}_{term}"] = width
            cells = np.zeros((3, 20, 20))
            cells[0], cells[1], cells[2] = 0.3 * width, 0.4 * width, 25
            cells[:2, 0, 0], cells[2, 0, 0] = np.nan, 0
            edges = np.linspace(-6 * width, 6 * width, 62)
            counts = 4000 * np.array([np.diff(ndtr(edges / width)), np.diff(ndtr(edges / (1.2 * width)))])
            images[f"{name}_{term}"] = cells
            images[f"{name}_{term}_HISTOGRAM"] = np.vstack([edges[:-1], edges[1:], counts])
        images[f"{name}_CORRECTION"] = np.stack([1e-5 * (x - 256) ** 2, -1e-5 * (y - 256) ** 2])
        images[f"{name}_OFF_MEAN"] = np.full((2, 64, 64), 0.03 * (-1) ** f)
        images[f"{name}_ERROR"] = np.full((2, 64, 64), 0.0042)
        draws[name] = np.zeros((20, 2, 64, 64), dtype=np.float32)
    covered = {name: np.ones((64, 64), dtype=bool) for name in filters}
    write_errors(errors_file(folder.distortion, detector), DistortionErrors(node, node, draws, {}, covered))
    units = Table()
    units["exposure"] = [f"exposure_{k}" for k in range(n_exposures * len(filters))]
    units["filter"] = np.repeat(filters, n_exposures)
    units["epoch"] = np.tile(2020.0 + np.arange(n_exposures), len(filters))
    units["pixel_scale"] = np.tile(0.0655 * (1 + 1e-5 * (np.arange(n_exposures) - (n_exposures - 1) / 2)), len(filters))
    units["pixel_scale_error"] = np.full(len(units), 0.0655 * 3.7e-6)
    units["pixel_scale_relative_error"] = np.full(len(units), 0.0655 * 1.9e-6)
    for name in ("skew_x", "skew_y"):
        units[name], units[f"{name}_error"] = 0.002 * np.sin(np.arange(len(units))), np.full(len(units), 0.0007)
    units["bend"], units["bend_chi2"] = np.full(len(units), 0.0021), np.full(len(units), 1.2)
    header: dict[str, str | float | int] = {"DETECTOR": detector, "DPMORDER": 5, "DPMERROR": 0.00453, "NMEAS": 34377.0}
    write_solution(solution_file(folder.distortion, detector), units, images, header)
    return widths
