"""The distortion solver on the geometry of the independent simulation: real polynomials, waves, a void, two filters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dpm.io.reference import read_reference
from dpm.models.master_frame import MasterFrame, tangent_to_sky
from dpm.models.options import FrameOptions
from dpm.models.transform import LinearTransform, fit_linear
from dpm.stages.distortion.solve import solve_distortion
from dpm.stages.frame.units import Unit

SIZE, SCALE = 512, 0.0656
MIDDLE = (SIZE - 1) / 2


def true_unit(folder, number: int, entry: dict, frame: MasterFrame, rng: np.random.Generator) -> Unit:
    """True raw positions of one exposure's brighter stars with photon noise; a header without any distortion."""
    truth = np.load(folder / "truth" / entry["file"].replace("_cal.fits", ".npz"))
    x, y, counts = truth["x"], truth["y"], truth["counts"]
    seen = np.flatnonzero((counts > 700) & (counts < 4e5) & (x > 2) & (x < SIZE - 3) & (y > 2) & (y < SIZE - 3))
    sigma = np.hypot(0.7 / np.sqrt(counts[seen]), 20 / counts[seen])
    x, y = x[seen] + rng.normal(0, sigma), y[seen] + rng.normal(0, sigma)
    # Ideal x grows to the West at roll 0, as the master frame's does.
    c, s = (f(np.radians(entry["roll"])) * entry["va"] for f in (np.cos, np.sin))
    centre_ra, centre_dec = tangent_to_sky(np.array([entry["px"]]), np.array([entry["py"]]), 80.49, -69.4978)
    at = frame.sky_to_pixel(centre_ra, centre_dec)
    start = LinearTransform(c, -s, s, c, float(at[0][0]), float(at[1][0]))
    edge = np.array([0.0, SIZE - 1, SIZE - 1, 0.0]) - MIDDLE
    columns = {"qfit": np.full(len(x), 0.02)}
    return Unit(
        entry["file"], "NIRISS", f"niriss_{entry['filter'].lower()}", 2022.33 + 1e-6 * number, x - MIDDLE, y - MIDDLE, sigma,
        sigma.copy(), counts[seen], np.sqrt(counts[seen]), np.zeros(len(x), np.int32), np.arange(len(x), dtype=np.int32), edge,
        np.roll(edge, 1), start, lambda u, v: (u + MIDDLE, v + MIDDLE), columns.__getitem__, SCALE,
        (0.0, SIZE - 1.0, 0.0, SIZE - 1.0), filter=entry["filter"], x=x, y=y,
        forward=lambda x, y: (np.asarray(x) - MIDDLE, np.asarray(y) - MIDDLE), va_scale=entry["va"],
    )  # fmt: skip


@pytest.mark.slow
def test_the_simulation_s_distortion_and_its_void(shared_data):
    folder = shared_data / "sim"
    frame = MasterFrame(80.49, -69.4978, SCALE, 1024, 1024)
    rng = np.random.default_rng(1)
    entries = json.loads((folder / "truth" / "scene.json").read_text())["exposures"]
    units = [true_unit(folder, k, entry, frame, rng) for k, entry in enumerate(entries)]
    solution = solve_distortion(units, frame, FrameOptions(), read_reference(folder / "reference.ecsv"))
    for name in ("F090W", "F150W"):
        truth = np.load(folder / "truth" / f"distortion_{name}.npz")
        x, y, ideal_x, ideal_y = (truth[key].ravel() for key in ("x", "y", "X", "Y"))
        inside = (x > -0.5) & (x < SIZE - 0.5) & (y > -0.5) & (y < SIZE - 0.5)
        x, y, ideal_x, ideal_y = x[inside], y[inside], ideal_x[inside], ideal_y[inside]
        u, v = solution.maps["NIRISS", name].forward(x, y)
        back = fit_linear(u, v, ideal_x, ideal_y, parameters=4, clip=None).transform
        off = np.subtract(back(u, v), (ideal_x, ideal_y)) / SCALE
        assert np.sqrt(np.mean(off**2)) < 0.005
        void = truth["void"]
        near = np.hypot((x / SIZE - void[0]) / void[2], (y / SIZE - void[1]) / void[3]) < 1.5
        # The void moves stars by 0.05 pixel.
        assert near.sum() > 100 and np.sqrt(np.mean(off[:, near] ** 2)) < 0.004
    assert solution.detectors["NIRISS"].error_rms < 0.005
