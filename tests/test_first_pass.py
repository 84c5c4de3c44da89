"""The first pass: saturated stars, cosmic rays, empty frames; real and independently simulated exposures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from analytic_scene import exposure, gridded_epsf, observe, render, true_epsf
from astropy.table import Table
from scipy.spatial import cKDTree

from dpm.io.exposure_files import read_exposure_headers, read_exposure_pixels
from dpm.io.stdpsf import read_stdpsf
from dpm.kernels import quality as columns
from dpm.models.columns import DETECTION_COLUMNS
from dpm.models.epsf import GriddedEPSF, centre_samples
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag, StarFlag
from dpm.models.options import FindOptions, InputOptions
from dpm.models.statistics import robust_width
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.first_pass.table import detection_table

LOST = int(PixelFlag.BAD | PixelFlag.SATURATED)


def load(path: Path) -> ExposureImage:
    """The only detector of an exposure file."""
    unit = read_exposure_headers(path)[0]
    [(_, pixels)] = read_exposure_pixels(path, [unit.detector.name], InputOptions(exposures=(str(path),)))
    return pixels.image


def detections(image: ExposureImage, epsf: GriddedEPSF) -> Table:
    return detection_table(image, epsf, measure_exposure(image, epsf, FindOptions()), "electron/s")


def saturated_field(seed: int, bleed: int) -> tuple[ExposureImage, np.ndarray, np.ndarray, np.ndarray]:
    """Six saturated stars with bleed columns, and ordinary stars between them."""
    rng = np.random.default_rng(seed)
    x = np.r_[[60.3, 160.1, 260.4, 60.2, 160.45, 260.0], rng.uniform(10, 310, 60)]
    y = np.r_[[60.1, 70.4, 60.2, 160.3, 150.0, 160.45], rng.uniform(10, 210, 60)]
    flux = np.r_[np.full(6, 2e6), np.full(60, 4000.0)]
    pixels = observe(render((220, 320), x, y, flux), seed)
    lost = pixels > 60000
    for k in range(6):
        column = round(x[k])
        lost[round(y[k]) - bleed : round(y[k]) + bleed + 1, column] = True
    pixels[lost] = 60000
    dq = np.where(lost, LOST, 0).astype(np.uint8)
    return exposure(pixels, dq, saturation=60000.0), x, y, flux


@pytest.mark.parametrize("bleed", [1, 15])
def test_saturated_stars_are_measured_from_their_wings(bleed: int) -> None:
    image, x, y, flux = saturated_field(4, bleed)
    table = detections(image, gridded_epsf())
    tree = cKDTree(np.c_[table["x"], table["y"]])
    distance, found = tree.query(np.c_[x, y])
    bright = np.arange(6)
    assert distance[bright].max() < 0.05
    rows = table[found[bright]]
    assert np.all(rows["flags"] & int(StarFlag.SATURATED))
    assert np.abs(rows["flux"] / flux[bright] - 1).max() < 0.02
    # Nothing else within 20 pixels of them that is not a star: halos and bleed columns do not become stars.
    near = cKDTree(np.c_[x[:6], y[:6]]).query(np.c_[table["x"], table["y"]])[0] < 20
    to_true = cKDTree(np.c_[x, y]).query(np.c_[table["x"], table["y"]])[0]
    assert np.sum(near & (to_true > 1.0)) == 0
    assert np.mean(distance[6:] < 0.5) > 0.85


def test_spikes_of_a_saturated_star_are_no_stars() -> None:
    """Diffraction spikes that the ePSF does not know, at 15 % of the star's mean light there."""
    image, x, y, flux = saturated_field(5, 3)
    pixels = image.sci.copy()
    rows, cols = np.indices(pixels.shape)
    rng = np.random.default_rng(1)
    for k in range(6):
        r = np.hypot(cols - x[k], rows - y[k])
        along = (np.abs(np.abs(cols - x[k]) - np.abs(rows - y[k])) < 1) & (r > 4) & (r < 40)
        light = 2e6 * 0.15 * true_epsf(np.array(11.0), np.array(0.0)) * (11 / np.maximum(r, 4)) ** 2
        pixels[along] += rng.poisson(light[along])
    table = detections(exposure(pixels, image.dq, saturation=60000.0), gridded_epsf())
    to_true = cKDTree(np.c_[x, y]).query(np.c_[table["x"], table["y"]])[0]
    assert np.sum(to_true > 1.5) <= 3


def test_cosmic_rays_do_not_become_stars() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.uniform(8, 504, (2, 300))
    pixels = observe(render((512, 512), x, y, np.full(300, 3000.0)), 6)
    hits = rng.integers(5, 507, (400, 2))
    charge = rng.uniform(150, 5000, 400)
    pixels[hits[:, 0], hits[:, 1]] += charge
    tail = rng.integers(-1, 2, (200, 2))
    pixels[hits[:200, 0] + tail[:, 0], hits[:200, 1] + tail[:, 1]] += 0.6 * charge[:200]
    table = detections(exposure(pixels), gridded_epsf())
    distance = cKDTree(np.c_[x, y]).query(np.c_[table["x"], table["y"]])[0]
    assert np.sum(distance > 1.0) < 0.06 * 400
    back = cKDTree(np.c_[table["x"], table["y"]]).query(np.c_[x, y])[0]
    assert np.mean(back < 0.5) > 0.95


def test_galaxies_are_flagged_as_extended() -> None:
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(30.0, 240, 40), np.arange(30.0, 240, 40))
    x, y = x.ravel() + rng.uniform(-0.5, 0.5, x.size), y.ravel() + rng.uniform(-0.5, 0.5, x.size)
    rows, cols = np.indices((270, 270))
    light = np.zeros((270, 270))
    for xs, ys in zip(x, y):
        light += 9000 / (2 * np.pi) * np.exp(-0.5 * ((cols - xs) ** 2 + (rows - ys) ** 2))
    table = detections(exposure(observe(light, 4)), gridded_epsf())
    distance, found = cKDTree(np.c_[table["x"], table["y"]]).query(np.c_[x, y])
    extended = (np.asarray(table["flags"])[found] & int(StarFlag.EXTENDED)) > 0
    assert np.mean(extended & (distance < 1)) > 0.9


def test_frame_without_a_good_pixel_gives_an_empty_table() -> None:
    pixels = np.full((64, 64), np.nan)
    table = detections(exposure(pixels, np.ones((64, 64), np.uint8)), gridded_epsf())
    assert len(table) == 0
    assert table.colnames == [column.name for column in DETECTION_COLUMNS]


def test_pure_noise_gives_hardly_a_star() -> None:
    table = detections(exposure(observe(np.zeros((1024, 1024)), 12)), gridded_epsf())
    assert len(table) <= 6


def test_the_same_pixels_give_the_same_bits() -> None:
    rng = np.random.default_rng(9)
    x, y = rng.uniform(0, 256, (2, 500))
    image = exposure(observe(render((256, 256), x, y, 10 ** rng.uniform(2.7, 5, 500)), 1))
    first = measure_exposure(image, gridded_epsf(), FindOptions())
    second = measure_exposure(image, gridded_epsf(), FindOptions())
    # The quality of a star whose last fit failed is NaN.
    assert np.array_equal(first.rows, second.rows, equal_nan=True)
    assert np.array_equal(first.residual, second.residual)


def true_library(folder: Path, band: str) -> GriddedEPSF:
    """The scene's own ePSF, cut to 101 x 101 samples and centred."""
    data = np.load(folder / "truth" / f"epsf_{band}.npz")
    grid = data["epsf"].astype(float)
    middle = grid.shape[-1] // 2
    grid = grid[:, :, middle - 50 : middle + 51, middle - 50 : middle + 51].copy()
    for index in np.ndindex(*grid.shape[:2]):
        grid[index] = centre_samples(grid[index])[0]
    nodes = data["nodes"].astype(float)
    return GriddedEPSF(grid, nodes, nodes)


def test_independent_simulation(shared_data: Path) -> None:
    """Exposures made by a program that shares no code with this one: pixel origin, completeness, false rows, errors."""
    folder = shared_data / "sim"
    scene = json.loads((folder / "truth" / "scene.json").read_text())
    stars = Table.read(folder / "truth" / "stars.ecsv")
    epsf = true_library(folder, "F090W")
    zero_point = scene["zero_points"]["F090W"]
    offsets, pulls, found, total, false, rows = [], [], 0, 0, 0, 0
    for name in ("jw01086001001_02101_00001_nis", "jw01086001001_02101_00005_nis"):
        table = detections(load(folder / f"{name}_cal.fits"), epsf)
        truth = np.load(folder / "truth" / f"{name}.npz")
        magnitude = np.asarray(stars["mag_F090W"])[truth["id"]]
        measured = -2.5 * np.log10(table["flux"] * table["area"]) + zero_point
        places = np.c_[table["x"], table["y"]]
        distance, index = cKDTree(places).query(np.c_[truth["x"], truth["y"]])
        good = (distance < 0.5) & (np.abs(measured[index] - magnitude) < 1)
        part = (magnitude > 23) & (magnitude < 24)
        found, total = found + np.sum(part & good), total + np.sum(part)
        bright = (magnitude > 20) & (magnitude < 23) & good
        neighbours = cKDTree(np.c_[truth["x"], truth["y"]])
        alone = np.array([len(n) == 1 for n in neighbours.query_ball_point(np.c_[truth["x"], truth["y"]], 4.0)])
        pick = bright & alone
        error = np.c_[table["x_error"], table["y_error"]][index[pick]]
        offset = places[index[pick]] - np.c_[truth["x"], truth["y"]][pick]
        offsets.append(offset)
        pulls.append((offset - np.median(offset, axis=0)) / error)
        to_true = cKDTree(np.c_[truth["x"], truth["y"]]).query(places)[0]
        clear = (measured > 23) & (measured < 24)
        rows, false = rows + np.sum(clear), false + np.sum(clear & (to_true > 0.5))
    offset = np.median(np.concatenate(offsets), axis=0)
    assert np.abs(offset).max() < 0.02, "a pixel origin off by half or one would show here"
    assert found / total > 0.95
    assert false / rows < 0.05
    assert 0.85 < robust_width(np.concatenate(pulls).ravel()) < 1.3


def test_real_dithers_show_the_same_sources(shared_data: Path) -> None:
    """Three WFC3/UVIS exposures full of cosmic rays: the sources come out with one brightness, the cosmic rays do not."""
    epsf = read_stdpsf(shared_data / "real" / "stdpsf" / "STDPSF_WFC3UV_F814W.fits", rows=(0, 2051))
    files = sorted((shared_data / "real" / "wfc3uvis_f814w_3dithers").glob("*_flc.fits"))
    tables = [detections(load(path), epsf) for path in files]
    first = tables[0]
    magnitudes = []
    for table, dither in zip(tables, ((0, 0), (2.355, 2.268), (4.70, 4.58))):
        distance, index = cKDTree(np.c_[table["x"], table["y"]]).query(np.c_[first["x"] + dither[0], first["y"] + dither[1]])
        magnitudes.append(np.where(distance < 0.4, -2.5 * np.log10(table["flux"][index]), np.nan))
    everywhere = np.isfinite(magnitudes).all(axis=0)
    assert everywhere.sum() >= 9
    bright = everywhere & (magnitudes[0] < -3)
    assert np.nanstd(np.array(magnitudes)[:, bright], axis=0).max() < 0.08
    assert len(first) < 35, "thousands of cosmic-ray hits lie in each frame"
    assert np.all(np.isfinite(first["flux_error"]))


def test_rows_are_in_the_registry_order_of_results() -> None:
    """The quick look-up columns of the fit stay unique: a clash would silently mix two quantities."""
    names = ["X", "Y", "FLUX", "SKY", "X_ERROR", "Y_ERROR", "FLUX_ERROR", "XY_COVARIANCE", "CHI", "QFIT", "QFIT_EXPECTED", "RADXS"]
    names += ["RADXS_ERROR", "PEAK", "N_PIXELS", "CHI_ROBUST", "NEIGHBOR", "SHARE"]
    assert sorted(getattr(columns, name) for name in names) == list(range(columns.RESULT_SIZE))


def test_qfit_ceiling_drops_rows_above_it() -> None:
    rng = np.random.default_rng(15)
    x, y = rng.uniform(8, 248, (2, 60))
    image = exposure(observe(render((256, 256), x, y, 10 ** rng.uniform(2.8, 4.5, 60)), 2))
    everything = measure_exposure(image, gridded_epsf(), FindOptions())
    fewer = measure_exposure(image, gridded_epsf(), FindOptions(max_qfit=0.3))
    expected = np.sum(everything.rows[:, columns.QFIT] <= 0.3)
    assert 0 < expected < len(everything.rows)
    assert len(fewer.rows) == expected
