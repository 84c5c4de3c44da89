"""Removal of 1/f stripes: it takes simulated stripes out and leaves stars alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exposure_mocks import write_jwst

from dpm.io.cubes import read_exposure
from dpm.io.run_folder import RunFolder
from dpm.models.detectors import find_detector
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.options import InputOptions, Options
from dpm.stages import ingest
from dpm.stages.ingest.stripes import measure_stripes

SIGMA = 0.05


def _scene(shape: tuple[int, int], stars: int) -> tuple[ExposureImage, np.ndarray]:
    """Sloping sky, stars up to 1000 times the noise, white noise; and the stars' positions."""
    rng = np.random.default_rng(7)
    ny, nx = shape
    y, x = np.mgrid[:ny, :nx]
    image = 1.0 + 3e-4 * x + 2e-4 * y
    places = rng.uniform(8, np.array([nx, ny]) - 9, (stars, 2))
    for (x0, y0), flux in zip(places, 10 ** rng.uniform(0.0, 2.5, stars)):
        box = (slice(int(y0) - 8, int(y0) + 9), slice(int(x0) - 8, int(x0) + 9))
        image[box] += flux / (2 * np.pi) * np.exp(-0.5 * ((x[box] - x0) ** 2 + (y[box] - y0) ** 2))
    image += rng.normal(0.0, SIGMA, shape)
    plane = np.ones(shape, dtype=np.float32)
    dq = np.zeros(shape, dtype=np.uint8)
    dq[rng.uniform(size=shape) < 0.01] = PixelFlag.BAD
    return ExposureImage("a", "X", "F", image.astype(np.float32), plane, plane, plane, plane, dq), places


def _fluxes(sci: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sums in 7 x 7 pixels over the median of the border of 17 x 17."""
    values = []
    for x0, y0 in np.rint(places).astype(int):
        box = sci[y0 - 8 : y0 + 9, x0 - 8 : x0 + 9].astype(float)
        ring = np.ones(box.shape, dtype=bool)
        ring[3:-3, 3:-3] = False
        values.append(box[5:-5, 5:-5].sum() - 49 * np.median(box[ring]))
    return np.array(values)


@pytest.mark.parametrize(
    ("name", "shape", "axis"), [("NIRISS", (400, 512), 0), ("NRCA1", (512, 400), 1), ("NRCA1", (2048, 2048), 1)]
)
def test_stripes_go_and_stars_stay(name: str, shape: tuple[int, int], axis: int) -> None:
    clean, places = _scene(shape, 200 if shape[0] < 1000 else 3000)
    rng = np.random.default_rng(8)
    detector = find_detector(name)
    full = shape == (detector.ny, detector.nx)
    parts = detector.amplifiers if full else 1
    stripes = rng.normal(0.0, 0.08, (parts, shape[1 - axis])).astype(np.float32)
    width = shape[axis] // parts
    plane = np.concatenate([np.repeat(s[:, None], width, axis=1) for s in stripes], axis=1)
    plane = plane.T if axis == 0 else plane
    striped = replace(clean, sci=clean.sci + plane)
    corrected = striped.sci - measure_stripes(striped, detector)
    left = corrected - clean.sci
    assert np.std(left - np.median(left)) < 0.12 * 0.08
    before, after = _fluxes(clean.sci, places), _fluxes(corrected, places)
    noise = SIGMA * 7.0
    change = after - before
    assert np.std(change) < 0.35 * noise
    assert abs(np.median(change)) < 4.0 * np.std(change) / np.sqrt(change.size)


def test_without_stripes_little_changes() -> None:
    clean, places = _scene((400, 512), 200)
    stripes = measure_stripes(clean, find_detector("NRCA1"))
    assert np.std(stripes) < 2.0 * SIGMA / np.sqrt(512)
    assert np.std(_fluxes(clean.sci - stripes, places) - _fluxes(clean.sci, places)) < 0.35 * SIGMA * 7


def test_the_switch(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    sci = 3.0 + np.repeat(rng.normal(0.0, 0.5, 160)[None, :], 128, axis=0) + rng.normal(0.0, 0.05, (128, 160))
    path = write_jwst(tmp_path / "a_cal.fits", (128, 160), sci=sci)
    scatter = {}
    for switch in (False, True):
        folder = RunFolder(tmp_path / str(switch))
        options = Options(input=InputOptions(exposures=(str(path),), remove_stripes=switch))
        ingest.finalise(folder, options, [ingest.work(task) for task in ingest.plan(folder, options)])
        scatter[switch] = read_exposure(folder.cube("NIRISS", "F090W"), 0).sci.std()
    assert scatter[True] < 0.2 * scatter[False]
