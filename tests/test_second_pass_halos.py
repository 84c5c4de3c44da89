"""Light of bright stars beyond the library: learnt, subtracted with its error, and no star is made of what is left."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import READ_NOISE, SKY, exposure, gridded_epsf, observe, render
from numpy.typing import NDArray
from second_pass_scene import PATCH, THRESHOLD, dithers, make_scene, prepare

from dpm.models.flags import PixelFlag
from dpm.models.patches import PatchBounds
from dpm.stages.first_pass.saturated import LOST, saturated_seeds
from dpm.stages.second_pass.halos import without_halos
from dpm.stages.second_pass.patches import PatchReader

SIDE = 400


def spikes(x: float, y: float) -> NDArray[np.float64]:
    """Six spikes two pixels wide that fall as the square of the radius, from 9 to 70 pixels, per unit of flux."""
    rows, cols = np.indices((SIDE, SIDE))
    radius = np.hypot(cols - x, rows - y)
    across = [np.abs((cols - x) * np.sin(t) - (rows - y) * np.cos(t)) for t in np.radians([0, 60, 120])]
    shape = sum(np.exp(-0.5 * a**2) for a in across)
    return np.where((radius > 9) & (radius < 70), 0.02 * shape / np.maximum(radius, 1.0) ** 2, 0.0)


def spiked_field(seed: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """One very bright star amid 25 of a thirtieth to a quarter of its light, all with spikes: pixels and truth."""
    rng = np.random.default_rng(seed)
    gx, gy = np.meshgrid(np.linspace(40, SIDE - 40, 5), np.linspace(40, SIDE - 40, 5))
    x = np.r_[SIDE / 2 + 41.3, gx.ravel() + rng.uniform(-6, 6, 25)]
    y = np.r_[SIDE / 2 - 40.2, gy.ravel() + rng.uniform(-6, 6, 25)]
    flux = np.r_[3e6, np.geomspace(1e5, 7e5, 25)]
    light = render((SIDE, SIDE), x, y, flux)
    for values in zip(x, y, flux):
        light += values[2] * spikes(*values[:2])
    return observe(light, seed), x, y, flux


def test_spikes_of_the_brightest_star_are_subtracted_and_their_error_is_in_the_variance():
    pixels, x, y, flux = spiked_field(3)
    detections = {"x": x, "y": y, "flux": flux, "flags": np.zeros(len(x), np.int32)}
    sci, variance, limit = without_halos(exposure(pixels - SKY), gridded_epsf(), detections, 3.0)
    true = flux[0] * spikes(x[0], y[0])
    rows, cols = np.indices(pixels.shape)
    near = np.hypot(cols - x[0], rows - y[0])
    others = np.min([np.hypot(cols - a, rows - b) for a, b in zip(x[1:], y[1:])], axis=0) > 25
    on = (true > 3 * READ_NOISE) & (near > 14) & (near < 60) & others
    assert on.sum() > 150
    assert np.abs(np.sum(sci[on])) < 0.15 * np.sum(true[on])
    # The photon noise of the spikes and the error of their template are in the variance; the brightest star, with a third of the
    # weight, takes a part of its own noise with its halo.
    assert 0.35 < np.sqrt(np.mean(sci[on] ** 2 / (variance[on] + SKY))) < 1.2
    tenth = (flux[25] * spikes(x[25], y[25]) > READ_NOISE) & (np.hypot(cols - x[25], rows - y[25]) > 14)
    assert tenth.sum() > 100
    assert 0.8 < np.sqrt(np.mean(sci[tenth] ** 2 / (variance[tenth] + SKY))) < 1.2
    # Off the spikes the template brings no noise in.
    off = (true < 0.05 * READ_NOISE) & (near > 14) & (near < 60) & others
    assert np.std(sci[off]) < 1.1 * np.sqrt(READ_NOISE**2 + SKY)
    # What may be left of a spike, as the flux of a star: a spike two pixels wide looks like a star of some four times its pixel.
    assert np.mean(limit[on] > np.abs(sci[on])) > 0.9
    # Where the spikes are too faint for single pixels to show them, the limit goes on.
    far = (true > 0.3 * READ_NOISE) & (near > 40) & (near < 60) & others
    assert np.mean(limit[far] > true[far]) > 0.9
    assert np.median(limit[off & (near > 40)]) < 0.5 * np.median(limit[far])


def test_a_band_whose_flux_a_halo_explains_does_not_count(tmp_path):
    flux = 3000.0
    scene = make_scene(np.array([70.3]), np.array([60.2]), np.array([[flux, flux]]), dithers(4, 5), [0, 0, 1, 1], 7, side=160)
    field = prepare(scene, tmp_path)
    significance = {}
    for explained in ((), (0,), (1,), (0, 1)):
        patch, _ = PatchReader(field, 0).scene(PatchBounds(0, 0, PATCH))
        for e, begin in enumerate(patch.patch.first):
            end = begin + int(patch.patch.nx[e]) * int(patch.patch.ny[e])
            patch.patch.halo[begin:end] = 2.0 * flux if patch.patch.band[e] in explained else 0.0
        x, y, _, found = patch.candidates(THRESHOLD, 0.0)
        at = np.hypot(x - 70.3, y - 60.2) < 1
        significance[explained] = float(found[at].sum())
        assert at.sum() == (explained != (0, 1))
    assert significance[()] > 50
    assert significance[(0,)] ** 2 + significance[(1,)] ** 2 == pytest.approx(significance[()] ** 2, rel=1e-6)


def test_one_lost_pixel_is_a_saturated_star_where_its_neighbours_saturated_too():
    saturated, short = int(PixelFlag.SATURATED), int(PixelFlag.SATURATED | PixelFlag.SHORT_RAMP)
    dq = np.zeros((60, 60), np.uint8)
    dq[20, 20], dq[20, 21], dq[21, 20] = LOST, short, short  # a star
    dq[40, 40] = LOST  # a hot pixel
    dq[10, 50], dq[10, 51] = saturated, saturated  # a star whose ramps all gave a value
    pixels = np.full((60, 60), 10.0)
    pixels[19:23, 19:23] = 50000.0
    seeds = saturated_seeds(exposure(pixels, dq, saturation=60000.0), lambda y, x: np.zeros(len(y)))
    assert seeds.x.tolist() == [20.0] and seeds.y.tolist() == [20.0]
