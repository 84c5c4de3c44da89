"""Joint fits of stars closer than two pixels: positions, fluxes and errors are those of the joint solution."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import READ_NOISE, SKY, exposure, gridded_epsf, observe, render, true_epsf
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.kernels import quality as columns
from dpm.kernels.group_fit import MAX_GROUP
from dpm.kernels.groups import LINK, link_groups
from dpm.kernels.linear import invert_positive
from dpm.models.options import FindOptions
from dpm.stages.first_pass.measure import StarMeasurements, measure_exposure
from dpm.stages.first_pass.scene import Scene

SIDE = 1024
SPACING = 24  # pixels between pairs


def robust_width(values: NDArray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def field_of_pairs(separation: float, flux: tuple[float, float], seed: int) -> tuple[StarMeasurements, NDArray, NDArray]:
    """Pairs on a grid at random angles: what was measured, and the truth (n, 2 stars, x y), (2,)."""
    rng = np.random.default_rng(seed)
    centres = np.arange(SPACING // 2, SIDE - SPACING // 2 + 1, SPACING)
    gy, gx = np.meshgrid(centres, centres, indexing="ij")
    first = np.c_[gx.ravel(), gy.ravel()] + rng.uniform(-0.5, 0.5, (gx.size, 2))
    angle = rng.uniform(0, 2 * np.pi, len(first))
    second = first + separation * np.c_[np.cos(angle), np.sin(angle)]
    true = np.stack([first, second], axis=1)
    xy = true.reshape(-1, 2)
    fluxes = np.tile(flux, len(first))
    pixels = observe(render((SIDE, SIDE), xy[:, 0], xy[:, 1], fluxes), seed + 1)
    return measure_exposure(exposure(pixels), gridded_epsf(), FindOptions()), true, np.array(flux)


def joint_bound(pair: NDArray, flux: NDArray) -> NDArray:
    """One-sigma bounds (star, x y flux) of a joint fit of two stars with known sky, on 17 x 17 pixels."""
    x0, y0 = np.rint(pair.mean(axis=0))
    columns_, rows = x0 + np.arange(-8, 9)[None, :], y0 + np.arange(-8, 9)[:, None]
    h = 1e-4
    slopes = []
    light = np.zeros((17, 17))
    for (x, y), f in zip(pair, flux, strict=True):
        slopes.append(f * (true_epsf(columns_ - x - h, rows - y) - true_epsf(columns_ - x + h, rows - y)) / (2 * h))
        slopes.append(f * (true_epsf(columns_ - x, rows - y - h) - true_epsf(columns_ - x, rows - y + h)) / (2 * h))
        slopes.append(true_epsf(columns_ - x, rows - y))
        light += f * slopes[-1]
    g = np.array(slopes).reshape(6, -1)
    return np.sqrt(np.diag(np.linalg.inv((g / (light + SKY + READ_NOISE**2).ravel()) @ g.T))).reshape(2, 3)


@pytest.mark.parametrize("separation", [1.2, 1.6])
def test_close_pairs_reach_the_joint_bound_with_honest_errors(separation: float) -> None:
    """Fits in turns have pulls of 2 and positions two to three times worse at 1.2 pixels, and know nothing of the neighbour."""
    measured, true, flux = field_of_pairs(separation, (20000.0, 8000.0), seed=5)
    rows = measured.rows
    distance, match = cKDTree(rows[:, [columns.X, columns.Y]]).query(true.reshape(-1, 2))
    both = (distance.reshape(-1, 2) < 0.5).all(axis=1) & (np.diff(match.reshape(-1, 2), axis=1)[:, 0] != 0)
    assert both.mean() > 0.97
    found = rows[match.reshape(-1, 2)[both]]
    bound = np.array([joint_bound(pair, flux) for pair in true[both]])
    offset = found[:, :, [columns.X, columns.Y]] - true[both]
    sampling = 2 * 1.17 / np.sqrt(2 * both.sum())
    for star in (0, 1):
        ratio = robust_width((offset[:, star] / bound[:, star, :2]).ravel())
        assert ratio < 1.08 + sampling
        pull = robust_width((offset[:, star] / found[:, star][:, [columns.X_ERROR, columns.Y_ERROR]]).ravel())
        assert 0.93 - sampling < pull < 1.07 + sampling
        excess = (found[:, star, columns.FLUX] - flux[star]) / found[:, star, columns.FLUX_ERROR]
        assert 0.9 - sampling < robust_width(excess) < 1.1 + sampling
        quality = np.median(found[:, star, columns.QFIT] / found[:, star, columns.QFIT_EXPECTED])
        assert 0.97 < quality < 1.03
    # The neighbour's three parameters fit noise in a star's box too, and its degrees of freedom do not count them.
    assert np.sqrt(19 / 22) - 0.03 < np.median(found[:, :, columns.CHI]) < 1.03


def test_a_star_split_in_two_becomes_one() -> None:
    """A second row whose light the first explains is dropped, and the first gets all of it back."""
    pixels = observe(render((64, 64), np.array([30.2]), np.array([30.1]), np.array([20000.0])), 3)
    scene = Scene(exposure(pixels), gridded_epsf())
    half = np.full(1, 2, np.int64)
    scene.fit_new(np.array([30.1]), np.array([30.2]), np.array([14000.0]), half, 5.0)
    annulus = np.array([[-6, -3, 3], [-5, -3, 3], [5, -3, 3], [6, -3, 3]])
    scene.refine(False, annulus, True, 0.2)
    whole = scene.rows[0, columns.FLUX]
    scene.stars.rows[1] = scene.stars.rows[0]
    scene.stars.rows[:2, columns.FLUX] = 0.7 * whole, 0.3 * whole
    scene.stars.rows[1, columns.X] += 0.02
    for array in scene.stars[1:]:
        array[1] = array[0]
    scene.count = 2
    done = scene.refine_groups(False, 3.5, 0.2)
    assert done.all()
    flux = scene.rows[:, columns.FLUX]
    assert np.count_nonzero(flux) == 1
    assert flux.sum() == pytest.approx(20000.0, abs=4 * scene.rows[:, columns.FLUX_ERROR].max())


def test_groups_are_friends_of_friends_of_limited_size() -> None:
    rows = np.zeros((MAX_GROUP + 6, columns.RESULT_SIZE))
    chain = MAX_GROUP + 2
    rows[:chain, columns.X] = 10 + 0.9 * LINK * np.arange(chain)
    rows[:chain, columns.Y] = 20.0
    rows[chain:, columns.X] = 50.0, 50.0 + 1.01 * LINK, 60.0, 60.5
    rows[chain:, columns.Y] = 5.0
    usable = np.ones(len(rows), bool)
    usable[-1] = False
    members, first = np.empty(len(rows), np.int64), np.zeros(len(rows) + 1, np.int64)
    n = link_groups(rows, usable, np.arange(len(rows)), (64, 80), members, first)
    groups = [sorted(members[first[k] : first[k + 1]]) for k in range(n)]
    assert groups == [list(range(MAX_GROUP)), [MAX_GROUP, MAX_GROUP + 1]]


def test_inverse_of_positive_matrices() -> None:
    rng = np.random.default_rng(2)
    for n in (3, 6, 19):
        square = rng.normal(size=(n, 2 * n)) * np.geomspace(1e-3, 1e3, n)[:, None]
        matrix = square @ square.T
        inverse = np.empty((n + 1, n + 1))
        assert invert_positive(np.tril(matrix), n, inverse)
        scale = np.outer(1 / np.sqrt(np.diag(matrix)), 1 / np.sqrt(np.diag(matrix)))
        np.testing.assert_allclose(inverse[:n, :n] / scale, np.linalg.inv(matrix * scale), rtol=1e-8)
    same = np.ones((2, 2))
    assert not invert_positive(same, 2, np.empty((2, 2)))
