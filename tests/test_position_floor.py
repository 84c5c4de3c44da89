"""What the fit itself adds to positions of bright stars: nothing that matters against 0.001 pixel (DESIGN section 7)."""

from __future__ import annotations

import numpy as np
from analytic_scene import SKY, exposure, gridded_epsf, render

from dpm.kernels import quality as columns
from dpm.models.options import FindOptions
from dpm.stages.first_pass.measure import measure_exposure


def test_noiseless_stars_have_no_pixel_phase_error() -> None:
    """Interpolation, cropping, float32 and the end of the iteration together: less than 0.0003 pixel, no trend with phase."""
    rng = np.random.default_rng(8)
    centres = np.arange(16, 500, 30)
    gy, gx = np.meshgrid(centres, centres, indexing="ij")
    x, y = gx.ravel() + rng.uniform(-0.5, 0.5, gx.size), gy.ravel() + rng.uniform(-0.5, 0.5, gx.size)
    pixels = render((512, 512), x, y, np.full(gx.size, 1e5)) + SKY
    rows = measure_exposure(exposure(pixels), gridded_epsf(), FindOptions()).rows
    assert len(rows) == gx.size
    order = np.lexsort((rows[:, columns.X] // 30, rows[:, columns.Y] // 30))
    offset = rows[order][:, [columns.X, columns.Y]] - np.c_[x, y]
    assert np.abs(offset).max() < 3e-4
    phase = 2 * np.pi * (np.c_[x, y] - np.rint(np.c_[x, y]))
    for harmonic in (1, 2):
        amplitude = 2 * np.abs((offset * np.exp(1j * harmonic * phase)).mean(axis=0))
        assert (amplitude < 1e-4).all()
