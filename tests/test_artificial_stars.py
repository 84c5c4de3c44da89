"""Artificial stars: drawn evenly, put in with the noise of their light, and none near another of its pass."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import true_epsf
from astropy.table import Table
from scipy.spatial import cKDTree
from scipy.stats import kstest
from second_pass_scene import dithers, make_scene, prepare

from dpm.kernels.inject import inject_stars
from dpm.models.master_frame import MasterFrame
from dpm.models.options import ArtificialStarsOptions
from dpm.models.patches import PatchBounds
from dpm.stages.artificial_stars.draw import SEPARATION, Coverage, draw_stars, passes
from dpm.stages.second_pass.patches import PatchReader

FRAME = MasterFrame.around(np.array([10.0]), np.array([20.0]), 0.03)


def empty_patch(root, n: int = 3):
    """A patch of exposures without a star."""
    none = np.zeros(0)
    scene = make_scene(none, none, np.zeros((0, 2)), dithers(n, 3), [0, 1, 0][:n], 11, side=160)
    return PatchReader(prepare(scene, root), 0).scene(PatchBounds(0, 0))[0]


def inject(scene, x, y, flux, keys, saturation=np.inf):
    patch = scene.patch
    pixels, variance, lost = patch.scene.copy(), patch.variance_read.copy(), np.zeros(patch.scene.size, bool)
    exposures = np.arange(1, len(patch.first) + 1, dtype=np.uint64) * np.uint64(977)
    full = np.full(len(patch.first), saturation)
    inject_stars(patch, scene.libraries, x, y, flux, keys, exposures, full, pixels, variance, lost)
    return pixels, variance, lost


def box(scene, values, e, x, y, half=3):
    """Values about a raw position of exposure e, and offsets from it."""
    from dpm.kernels.patch import place_stars

    placed = np.zeros((1, scene.n_exposures, 3))
    place_stars(scene.patch, np.array([x]), np.array([y]), placed)
    ny, nx, begin = int(scene.patch.ny[e]), int(scene.patch.nx[e]), int(scene.patch.first[e])
    plane = values[begin : begin + ny * nx].reshape(ny, nx)
    u, v = placed[0, e, :2]
    iy, ix = round(v), round(u)
    rows, columns = np.arange(iy - half, iy + half + 1), np.arange(ix - half, ix + half + 1)
    return plane[np.ix_(rows, columns)], columns[None, :] - u, rows[:, None] - v


def test_the_light_put_in_is_the_epsf_with_its_photon_noise(tmp_path):
    scene = empty_patch(tmp_path)
    n = 400
    # The same place again and again: each star alone, so that mean and scatter of every pixel are known.
    for flux in (40.0, 3000.0):
        light = []
        for k in range(n):
            keys = np.array([k + 1], np.uint64) * np.uint64(7919)
            one = np.array([[flux, 0.0]])
            pixels, _, lost = inject(scene, np.array([60.3]), np.array([70.4]), one, keys)
            assert not lost.any()
            added, dx, dy = box(scene, pixels - scene.patch.scene, 0, 60.3, 70.4)
            assert np.all(box(scene, pixels - scene.patch.scene, 1, 60.3, 70.4)[0] == 0)
            light.append(added)
        expected = flux * true_epsf(dx, dy)
        mean, variance = np.mean(light, axis=0), np.var(light, axis=0)
        # Four sigma of a mean and of a variance over n draws of Poisson deviates, and the ePSF's own interpolation.
        assert np.all(np.abs(mean - expected) < 4.5 * np.sqrt(expected / n) + 0.004 * expected.max())
        bright = expected > 1.0
        spread = np.sqrt((2.0 + 1.0 / expected[bright]) / n)
        assert np.all(np.abs(variance[bright] / expected[bright] - 1) < 4.5 * spread + 0.02)
        assert abs(np.sum(variance) / np.sum(mean) - 1) < 0.1


def test_noise_depends_on_the_star_and_the_exposure_alone(tmp_path):
    scene = empty_patch(tmp_path)
    x, y = np.array([40.0, 90.0]), np.array([50.0, 95.0])
    flux, keys = np.full((2, 2), 800.0), np.array([5, 6], np.uint64)
    both, _, _ = inject(scene, x, y, flux, keys)
    turned, _, _ = inject(scene, x[::-1], y[::-1], flux, keys[::-1].copy())
    assert np.array_equal(both, turned)
    alone, _, _ = inject(scene, x[:1], y[:1], flux[:1], keys[:1])
    first = box(scene, both, 0, 40.0, 50.0)[0]
    assert np.array_equal(first, box(scene, alone, 0, 40.0, 50.0)[0])
    other, _, _ = inject(scene, x, y, flux, keys + np.uint64(10))
    assert not np.array_equal(first, box(scene, other, 0, 40.0, 50.0)[0])
    shifted = inject(scene, x[:1], y[:1], flux[:1], keys[:1])[0] - scene.patch.scene
    assert not np.array_equal(box(scene, shifted, 0, 40.0, 50.0)[0], box(scene, shifted, 1, 40.0, 50.0)[0])


def test_pixels_beyond_saturation_are_lost(tmp_path):
    scene = empty_patch(tmp_path)
    pixels, variance, lost = inject(scene, np.array([60.0]), np.array([60.0]), np.full((1, 2), 2e5), np.ones(1, np.uint64), 3e4)
    assert 3 <= lost.sum() <= 40
    assert np.all(np.isinf(variance[lost])) and np.all(pixels[lost] == 0)
    assert pixels.max() <= 3e4
    assert np.array_equal(np.isinf(variance), lost | np.isinf(scene.patch.variance_read))


def test_stars_of_one_pass_are_apart_and_passes_are_few():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 600, 8000), rng.uniform(0, 600, 8000)
    number = passes(x, y, 600.0 * 600.0)
    for k in range(number.max() + 1):
        mine = np.column_stack([x, y])[number == k]
        assert len(mine) < 2 or cKDTree(mine).query(mine, k=2)[0][:, 1].min() > SEPARATION
    # Random packing fills 0.547 of the plane with circles; first fit in blocks comes to more than half of that.
    filled = 8000 / (number.max() + 1) * np.pi * (SEPARATION / 2) ** 2 / 600**2
    assert filled > 0.28


def catalog(n: int = 600) -> Table:
    rng = np.random.default_rng(4)
    blue = rng.uniform(18, 26, n)
    out = Table({"x": rng.uniform(20, 140, n), "y": rng.uniform(20, 140, n), "a_mag": blue})
    out["b_mag"] = blue - 0.5 - 0.1 * (blue - 22)
    out["a_saturated"] = out["b_saturated"] = np.zeros(n, bool)
    return out


def coverage(root) -> Coverage:
    scene = make_scene(np.zeros(0), np.zeros(0), np.zeros((0, 2)), dithers(3, 3), [0, 1, 0], 11, side=160)
    return Coverage(prepare(scene, root).geometries(0), [(0.0, 159.0, 0.0, 159.0)] * 3)


def test_stars_are_drawn_evenly_where_enough_exposures_are_and_on_the_line(tmp_path):
    covered = coverage(tmp_path)
    options = ArtificialStarsOptions(n=4000, magnitudes={"a": (19.0, 27.0)})
    stars = draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {})
    assert len(stars) == 4000 and stars["id"][0] == 1
    assert covered.count(np.asarray(stars["x"]), np.asarray(stars["y"])).min() == 3
    assert kstest((stars["a_mag"] - 19) / 8, "uniform").pvalue > 0.001
    inside = (stars["x"] > 10) & (stars["x"] < 150) & (stars["y"] > 10) & (stars["y"] < 150)
    assert kstest((stars["x"][inside] - 10) / 140, "uniform").pvalue > 0.001
    colour = stars["b_mag"] - stars["a_mag"]
    on_line = (stars["a_mag"] > 19) & (stars["a_mag"] < 25.5)
    assert np.abs(colour + 0.5 + 0.1 * (stars["a_mag"] - 22))[on_line].max() < 0.08
    again = draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {})
    assert np.array_equal(stars["x"], again["x"]) and np.array_equal(stars["b_mag"], again["b_mag"])
    reseeded = ArtificialStarsOptions(n=4000, magnitudes={"a": (19.0, 27.0)}, seed=2)
    other = draw_stars(reseeded, catalog(), ["a", "b"], covered, 3, FRAME, {})
    assert not np.array_equal(stars["x"], other["x"])


def test_a_table_of_the_users_own_and_its_faults(tmp_path):
    covered = coverage(tmp_path)
    own = Table({"ra": [10.0, 10.0001], "dec": [20.0, 20.0001], "a_mag": [20.0, 21.0], "b_mag": [19.0, 20.5]})
    options = ArtificialStarsOptions(table="own.ecsv")
    stars = draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {"table": own})
    x, y = FRAME.sky_to_pixel(own["ra"], own["dec"])
    assert np.allclose(stars["x"], x) and np.allclose(stars["y"], y) and stars["b_mag"].tolist() == [19.0, 20.5]
    with pytest.raises(ValueError, match="no column b_mag"):
        draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {"table": own[["ra", "dec", "a_mag"]]})
    with pytest.raises(ValueError, match="no band c"):
        draw_stars(ArtificialStarsOptions(n=5, magnitudes={"c": (1.0, 2.0)}), catalog(), ["a", "b"], covered, 3, FRAME, {})
    with pytest.raises(ValueError, match="held by 9 exposures"):
        draw_stars(ArtificialStarsOptions(n=5), catalog(), ["a", "b"], covered, 9, FRAME, {})
