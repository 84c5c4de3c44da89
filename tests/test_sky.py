"""Sky level and scatter: clipped samples, and the meshes of an exposure with bright stars."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import READ_NOISE, SKY, exposure, gridded_epsf, render

from dpm.kernels import quality as columns
from dpm.kernels.sky import clipped_mean, clipped_statistics
from dpm.models.options import FindOptions
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.first_pass.scene import Scene


def test_clipped_scatter_is_the_standard_deviation() -> None:
    """Clipping takes the tails off a normal distribution; what is left is scaled back."""
    n = 1000
    samples = np.random.default_rng(1).normal(7.0, 3.0, (400, n)).astype(np.float32)
    sorting = np.array([clipped_statistics(sample.copy(), n)[:2] for sample in samples]).mean(axis=0)
    guessing = np.array([clipped_mean(sample, n, 7.3, 3.3)[:2] for sample in samples]).mean(axis=0)
    # The noise of both figures is 0.005; a sample of 1000 is clipped 0.2 % too tight.
    assert sorting == pytest.approx([7.0, 3.0], rel=0.007)
    assert guessing == pytest.approx([7.0, 3.0], rel=0.007)


def bright_field(side: int, sky: float, flux: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bright stars 20 pixels apart on a flat sky and nothing else: pixels, light of the stars, x and y."""
    rng = np.random.default_rng(seed)
    gy, gx = np.meshgrid(np.arange(10, side - 9, 20), np.arange(10, side - 9, 20), indexing="ij")
    x, y = (grid.ravel() + rng.uniform(-0.5, 0.5, grid.size) for grid in (gx, gy))
    light = render((side, side), x, y, np.full(x.size, flux))
    return rng.poisson(light + sky) + rng.normal(0, READ_NOISE, light.shape), light, x, y


# The second is sky-dominated: next to it the read noise is nothing, and photon noise of that size hides in the sky's.
@pytest.mark.parametrize(("sky", "flux"), [(SKY, 1e5), (3000.0, 2e6)])
@pytest.mark.parametrize("side", [256, 1024])  # the larger one is sampled at every fourth pixel
def test_photon_noise_of_bright_stars_is_no_noise_of_the_sky(sky: float, flux: float, side: int) -> None:
    pixels, light, _, _ = bright_field(side, sky, flux, 3)
    scene = Scene(exposure(pixels), gridded_epsf())
    scene.residual -= light.astype(np.float32)
    scene.update_sky()
    scatter = np.sqrt(sky + READ_NOISE**2)
    mean_noise = np.sqrt((light + sky + READ_NOISE**2).mean())
    assert mean_noise > 1.5 * scatter  # the stars' light is there to be mistaken
    # Pixels with a fifth of the sky's noise from stars still count, and are counted.
    assert np.median(scene.sky.scatter) == pytest.approx(scatter, rel=0.06)
    assert (scene.sky.scatter**2 / (scene.sky_variance() + scene.sky_light)).mean() == pytest.approx(1.0, abs=0.03)
    assert scene.sky.level.mean() == pytest.approx(sky, abs=0.05 * scatter)
    assert scene.noise_raised.mean() < 0.05
    assert scene.sky.excess.mean() < 0.04 * scatter**2


def test_errors_beside_bright_stars_are_those_of_their_photons() -> None:
    """Measured, errors are the scatter of the fits about the truth, and no row says that the noise was raised."""
    pixels, _, x, y = bright_field(512, SKY, 1e5, 5)
    measured = measure_exposure(exposure(pixels), gridded_epsf(), FindOptions())
    assert not measured.noise_raised.any()
    rows = measured.rows
    near = np.argmin((rows[:, columns.X, None] - x) ** 2 + (rows[:, columns.Y, None] - y) ** 2, axis=0)
    pull = np.r_[
        (rows[near, columns.X] - x) / rows[near, columns.X_ERROR], (rows[near, columns.Y] - y) / rows[near, columns.Y_ERROR],
    ]  # fmt: skip
    assert np.sqrt((pull**2).mean()) == pytest.approx(1.0, abs=0.1)


def test_unseen_stars_raise_the_noise() -> None:
    """Where the sky does scatter more than the noise planes say, by stars too faint to be found, they are raised by that."""
    rng = np.random.default_rng(8)
    faint = render((256, 256), rng.uniform(0, 255, 20000), rng.uniform(0, 255, 20000), np.full(20000, 30.0))
    scene = Scene(exposure(rng.poisson(faint + SKY) + rng.normal(0, READ_NOISE, faint.shape)), gridded_epsf())
    assert scene.noise_raised.all()
    assert scene.sky.excess.mean() == pytest.approx(faint.var(), rel=0.15)
