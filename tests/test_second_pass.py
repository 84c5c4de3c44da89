"""Second pass against truth: bounds, errors, depth, cosmic rays, blends, and the same bits however patches are bundled."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import cramer_rao, gridded_epsf, observe
from numpy.typing import NDArray
from report_fixture import make_run
from scipy.spatial import cKDTree
from scipy.stats import chi2, norm
from second_pass_scene import averages, dithers, make_scene, solve

from dpm.io.brightness_file import write_brightness
from dpm.io.tables import read_table
from dpm.kernels.patch_fit import MAX_GROUP
from dpm.models.distortion import MapDistortion
from dpm.models.epsf import BrightnessTerm
from dpm.models.flags import PixelFlag, StarFlag
from dpm.models.patches import FRINGE, MARGIN, NODE_STEP, PatchBounds, patch_side
from dpm.models.transform import LinearTransform
from dpm.stages.brightness.term import spreading
from dpm.stages.second_pass.field import SecondPassField, load_libraries
from dpm.stages.second_pass.geometry import make_geometry
from dpm.stages.second_pass.scene import PatchScene
from dpm.stages.second_pass.waves import equivalent_threshold


def robust_width(values: NDArray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def grid_of_stars(spacing: int, seed: int, low: float = 20.0, high: float = 180.0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    line = np.arange(low, high, spacing)
    gx, gy = (axis.ravel() for axis in np.meshgrid(line, line))
    return gx + rng.uniform(-0.5, 0.5, gx.size), gy + rng.uniform(-0.5, 0.5, gx.size)


def matched(x: NDArray, y: NDArray, found: dict[str, NDArray], radius: float = 0.5) -> tuple[NDArray, NDArray]:
    """Index of the found star nearest to each true one, and whether it is near enough."""
    distance, index = cKDTree(np.c_[found["x"], found["y"]]).query(np.c_[x, y])
    return index, distance < radius


def test_isolated_stars_reach_the_joint_bound_with_honest_errors(tmp_path):
    """Two bands, six exposures, one of them rolled by 30 degrees: position over the bound of all pixels of all exposures."""
    x, y = grid_of_stars(14, 1)
    rng = np.random.default_rng(2)
    flux = np.c_[np.exp(rng.uniform(np.log(600), np.log(30000), x.size)), np.zeros(x.size)]
    flux[:, 1] = 0.7 * flux[:, 0]
    scene = make_scene(x, y, flux, dithers(6, 3, np.radians(30)), [0, 1, 0, 1, 0, 1], 10)
    found = averages(scene, solve(scene, tmp_path))
    index, ok = matched(x, y, found)
    assert ok.all() and len(found["x"]) == x.size
    bound = np.zeros((x.size, 3))
    for band in (0, 1):
        bound += 3 / cramer_rao(x, y, flux[:, band]) ** 2
    bound = 1 / np.sqrt(bound)
    off = np.r_[found["x"][index] - x, found["y"][index] - y]
    assert robust_width(off / np.r_[bound[:, 0], bound[:, 1]]) < 1.10
    assert 0.88 < robust_width(off / np.r_[found["error"][index], found["error"][index]]) < 1.12
    for band in (0, 1):
        pull = (found["flux"][index, band] - flux[:, band]) / found["flux_error"][index, band]
        assert 0.85 < robust_width(pull) < 1.15
        assert abs(np.median(pull)) < 0.3
        assert np.all(found["flux_error"][index, band] > 0.9 * cramer_rao(x, y, flux[:, band])[:, 2] / np.sqrt(3))


def test_stars_too_faint_for_any_exposure_are_found_in_all_together(tmp_path):
    """Significance 2.7 in each of nine exposures is 8 in all: found, with fluxes that are right on average."""
    x, y = grid_of_stars(12, 4)
    flux = np.full((x.size, 1), 2.7 * cramer_rao(x[:1], y[:1], np.array([250.0]))[0, 2])
    scene = make_scene(x, y, flux, dithers(9, 5), [0] * 9, 20)
    found = averages(scene, solve(scene, tmp_path / "all"))
    index, ok = matched(x, y, found, 0.7)
    assert ok.mean() > 0.9
    error = (found["flux"][index, 0] - flux[:, 0])[ok] / flux[0, 0]
    assert abs(np.mean(error)) < 0.05
    assert 0.85 < robust_width(((found["flux"][index, 0] - flux[:, 0]) / found["flux_error"][index, 0])[ok]) < 1.2
    one = make_scene(x, y, flux, scene.transforms[:1], [0], 20)
    alone = averages(one, solve(one, tmp_path / "one"))
    assert matched(x, y, alone, 0.7)[1].mean() < 0.2


def test_noise_alone_gives_no_stars(tmp_path):
    empty = np.zeros(0)
    scene = make_scene(empty, empty, np.zeros((0, 2)), dithers(4, 6), [0, 1, 0, 1], 30)
    rows = solve(scene, tmp_path)
    # 40,000 pixels at one in 3.5 million.
    assert len(np.unique(rows["id"])) <= 1


def test_threshold_of_several_bands_keeps_the_false_alarm_rate():
    assert equivalent_threshold(5.0, 1) == 5.0
    limit = equivalent_threshold(5.0, 2)
    tail = 0.5 * chi2.sf(limit**2, 1) + 0.25 * chi2.sf(limit**2, 2)
    assert tail == pytest.approx(norm.sf(5.0), rel=1e-6)
    rng = np.random.default_rng(7)
    draws = np.sqrt((np.maximum(rng.normal(size=(2_000_000, 3)), 0) ** 2).sum(axis=1))
    assert np.mean(draws > equivalent_threshold(3.0, 3)) == pytest.approx(norm.sf(3.0), rel=0.1)


def test_cosmic_rays_in_single_exposures_are_no_stars_and_do_no_harm(tmp_path):
    x, y = grid_of_stars(16, 8)
    flux = np.full((x.size, 1), 4000.0)
    transforms = dithers(5, 9)
    rng = np.random.default_rng(10)

    def strike(k: int, image: NDArray) -> None:
        rows, columns = rng.integers(5, 195, 60), rng.integers(5, 195, 60)
        image[rows, columns] += rng.uniform(300, 5000, 60)
        image[rows, columns + 1] += rng.uniform(100, 2000, 60)

    hit = make_scene(x, y, flux, transforms, [0] * 5, 40, change=strike)
    clean = make_scene(x, y, flux, transforms, [0] * 5, 40)
    found, undisturbed = averages(hit, solve(hit, tmp_path / "hit")), averages(clean, solve(clean, tmp_path / "clean"))
    index, ok = matched(x, y, found)
    assert ok.all() and len(found["x"]) <= x.size + 2
    pull = (found["flux"][index, 0] - 4000.0) / found["flux_error"][index, 0]
    assert robust_width(pull) < 1.25 and np.mean(np.abs(pull) > 5) < 0.03
    assert len(undisturbed["x"]) == x.size
    assert np.median(found["flux_error"]) < 1.1 * np.median(undisturbed["flux_error"])


def test_blends_have_errors_with_the_neighbours_covariance(tmp_path):
    """Pairs 1.1 to 1.6 pixels apart in four exposures: pulls of one, which single fits miss by two."""
    x, y = grid_of_stars(13, 11)
    rng = np.random.default_rng(12)
    angle, separation = rng.uniform(0, 2 * np.pi, x.size), rng.uniform(1.1, 1.6, x.size)
    all_x, all_y = np.r_[x, x + separation * np.cos(angle)], np.r_[y, y + separation * np.sin(angle)]
    flux = np.r_[np.full(x.size, 6000.0), np.full(x.size, 2500.0)][:, None]
    scene = make_scene(all_x, all_y, flux, dithers(4, 13), [0] * 4, 50)
    rows = solve(scene, tmp_path)
    found = averages(scene, rows)
    index, ok = matched(all_x, all_y, found)
    assert ok.mean() > 0.97
    off = np.r_[found["x"][index] - all_x, found["y"][index] - all_y][np.r_[ok, ok]]
    error = np.r_[found["error"][index], found["error"][index]][np.r_[ok, ok]]
    assert 0.85 < robust_width(off / error) < 1.15
    pull = ((found["flux"][index, 0] - flux[:, 0]) / found["flux_error"][index, 0])[ok]
    assert 0.8 < robust_width(pull) < 1.2


def crowded_scene(seed: int, n: int = 700):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(8, 192, (2, n))
    flux = np.exp(rng.uniform(np.log(200), np.log(20000), n))[:, None]
    return make_scene(x, y, flux, dithers(3, seed + 1, np.radians(20)), [0] * 3, seed + 2)


def test_same_bits_for_one_patch_a_task_and_for_all_in_one(tmp_path):
    """Other tiles, in another order, on a crowded field with stars on every border of a patch."""
    scene = crowded_scene(60)
    whole, single = solve(scene, tmp_path / "whole"), solve(scene, tmp_path / "single", one_patch_a_tile=True)
    assert len(whole["x"]) > 1000
    for name in whole:
        np.testing.assert_array_equal(whole[name], single[name], err_msg=name)


def test_patches_are_as_large_as_the_exposures_allow():
    """A worker holds the pixels of a patch in all exposures: at 40 bytes each they stay below half a GiB up to a thousand."""
    sides = [patch_side(depth) for depth in (1, 18, 100, 300, 1000)]
    assert sides[:2] == [256, 256] and sorted(sides, reverse=True) == sides
    for depth in (18, 100, 300, 1000):
        assert 40 * depth * (patch_side(depth) + 2 * (MARGIN + FRINGE)) ** 2 < 0.5 * 2**30


def test_stars_hardly_depend_on_the_side_of_patches(tmp_path):
    """Neighbours across a border are frozen: stars of a crowd move by far less than their errors, and none is lost."""
    x, y = np.random.default_rng(60).uniform(5, 195, (2, 400))
    scene = make_scene(x, y, np.full((x.size, 1), 4000.0), dithers(4, 61), [0] * 4, 62)
    found = [averages(scene, solve(scene, tmp_path / str(side), patch=side)) for side in (64, 256)]
    small, large = (np.column_stack([one["x"], one["y"]]) for one in found)
    distance, _ = cKDTree(large).query(small)
    same = distance < 0.3
    assert same.mean() > 0.98 and abs(len(found[0]["x"]) - len(found[1]["x"])) < 0.01 * len(found[0]["x"])
    change = distance[same] / found[0]["error"][same]
    assert np.median(change) < 0.03 and np.mean(change > 0.5) < 0.03


def test_no_star_is_lost_or_doubled_on_the_border_of_two_patches(tmp_path):
    scene = crowded_scene(70)
    found = averages(scene, solve(scene, tmp_path))
    assert cKDTree(np.c_[found["x"], found["y"]]).query_pairs(0.4) == set()
    border = (np.abs(scene.x - 128) < 3) | (np.abs(scene.y - 128) < 3)
    # Bright ones without a neighbour that hides them.
    distance = cKDTree(np.c_[scene.x, scene.y]).query(np.c_[scene.x, scene.y], k=2)[0][:, 1]
    sure = (scene.flux[:, 0] > 1500) & (distance > 2) & (np.abs(scene.x - 100) < 80) & (np.abs(scene.y - 100) < 80)
    _, ok = matched(scene.x, scene.y, found)
    assert (border & sure).sum() > 5 and ok[border & sure].all()
    assert ok[sure].mean() > 0.98


def test_a_crowd_beyond_the_group_limit_ends_and_says_so(tmp_path):
    """196 stars two pixels apart, nearly all linked: the fit ends, half of them are found, and they are flagged."""
    rng = np.random.default_rng(80)
    line = 86 + 2.0 * np.arange(14)
    x, y = (axis.ravel() + rng.uniform(-0.15, 0.15, 196) for axis in np.meshgrid(line, line))
    scene = make_scene(x, y, np.full((196, 1), 3000.0), dithers(4, 81), [0] * 4, 82)
    rows = solve(scene, tmp_path)
    flagged = (rows["flags"] & int(StarFlag.GROUP_CUT)) != 0
    found = averages(scene, rows)
    index, ok = matched(x, y, found, 0.3)
    assert ok.mean() > 0.5 and flagged.mean() > 0.2
    near = cKDTree(np.c_[found["x"], found["y"]]).query_ball_point(np.c_[found["x"], found["y"]], 2.9)
    assert max(len(c) for c in near) > MAX_GROUP
    off = np.hypot(found["x"][index] - x, found["y"][index] - y)[ok]
    assert np.median(off) < 0.15


def test_an_exposure_of_another_field_and_a_band_of_one_exposure(tmp_path):
    x, y = grid_of_stars(20, 90)
    flux = np.full((x.size, 2), 5000.0)
    far = LinearTransform(1.0, 0.0, 0.0, 1.0, 5000.0, 5000.0)
    scene = make_scene(x, y, flux, [*dithers(3, 91), far], [0, 0, 1, 0], 92)
    found = averages(scene, solve(scene, tmp_path))
    index, ok = matched(x, y, found)
    assert ok.all() and np.all(found["n"][index] == 3)
    pull = (found["flux"][index, 1] - 5000.0) / found["flux_error"][index, 1]
    assert 0.75 < robust_width(pull) < 1.25


@pytest.mark.parametrize("n_exposures", [1, 6])
def test_quality_of_a_perfect_model_is_as_expected(tmp_path, n_exposures):
    """QFIT and chi know what the fit took off: most of three parameters in one exposure, half of one in each of six."""
    x, y = grid_of_stars(14, 100)
    flux = np.full((x.size, 1), 3000.0)
    rows = solve(make_scene(x, y, flux, dithers(n_exposures, 101), [0] * n_exposures, 102), tmp_path)
    assert abs(np.median(rows["qfit"] / rows["qfit_expected"]) - 1.0) < 0.03
    assert abs(np.mean(rows["chi"].astype(float) ** 2) - 1.0) < 0.05


def test_quality_of_blends_is_as_expected(tmp_path):
    """Pairs share their pixels, so that both stars' parameters take noise off both boxes."""
    x, y = grid_of_stars(16, 103)
    x, y = np.r_[x, x + 1.2], np.r_[y, y + 0.7]
    rows = solve(make_scene(x, y, np.full((x.size, 1), 3000.0), dithers(2, 104), [0, 0], 105), tmp_path)
    assert abs(np.median(rows["qfit"] / rows["qfit_expected"]) - 1.0) < 0.04
    assert abs(np.mean(rows["chi"].astype(float) ** 2) - 1.0) < 0.05


def test_bright_stars_are_fitted_with_the_epsf_of_their_charge(tmp_path):
    """Brighter-fatter of 7 % in the centre: without the term QFIT is off and positions scatter more."""
    x, y = grid_of_stars(16, 106)
    flux = np.where(np.arange(x.size) % 2, 1.5e5, 1e4)[:, None]
    scene = make_scene(x, y, flux, dithers(4, 108), [0] * 4, 109, strength=1e-6)
    bright = flux[:, 0] > 1e5
    term = BrightnessTerm(1e-6 * spreading(gridded_epsf().samples[0, 0]), 2e5)
    quality, scatter, bias = [], [], []
    for name, brightness in (("without", None), ("with", term)):
        rows = solve(scene, tmp_path / name, term=brightness)
        found = averages(scene, rows)
        index, ok = matched(x, y, found)
        assert ok.all()
        ratio = np.bincount(rows["id"], rows["qfit"] / rows["qfit_expected"]) / np.bincount(rows["id"])
        quality.append(float(np.median(ratio[index[bright]])))
        off = np.r_[found["x"][index] - x, found["y"][index] - y] / np.tile(found["error"][index], 2)
        scatter.append(robust_width(off[np.tile(bright, 2)]))
        relative = found["flux"][index, 0] / flux[:, 0]
        bias.append(float(np.median(relative[bright]) / np.median(relative[~bright]) - 1.0))
    assert quality[0] > 3.0 and 0.85 < quality[1] < 1.1
    assert scatter[1] < 0.95 * scatter[0] and scatter[1] < 1.15
    assert abs(bias[1]) < 0.003


def test_a_run_with_a_brightness_term_hands_it_to_the_second_pass(tmp_path):
    folder = make_run(tmp_path / "run", n_stars=20, n_exposures=2, cubes=False)
    table = read_table(folder.exposures)
    assert {e.brightness for g in SecondPassField.from_exposures(folder, table).groups for e in g.exposures} == {""}
    path = folder.brightness_file("NIRISS", "F090W")
    write_brightness(path, BrightnessTerm(1e-7 * spreading(gridded_epsf().samples[0, 0]), 2e5))
    exposures = [e for g in SecondPassField.from_exposures(folder, table).groups for e in g.exposures]
    for exposure in exposures:
        assert exposure.brightness == (str(path) if str(table["filter"][exposure.row]) == "F090W" else "")
    pairs = tuple({(e.library, e.brightness) for e in exposures})
    libraries, _, _, full = load_libraries(pairs)
    assert sorted(full) == [2e5, np.inf]
    changed = np.abs(libraries.change).max(axis=(1, 2)) > 0
    assert changed.tolist() == [value < np.inf for value in full]


def test_geometry_inverts_a_distortion_and_interpolates_it():
    """A map with quadratic terms of twelve pixels and a transform: raw positions come back to a thousandth of a pixel."""
    ny = nx = 400
    row, column = np.mgrid[:ny, :nx].astype(float)
    u, v = (column - 200) / 200, (row - 200) / 200
    map_x, map_y = column + 12 * u * v + 8 * u * u + 3 * v**3, row - 9 * u * v + 5 * v * v + 2 * u**3
    distortion = MapDistortion(map_x, map_y)
    transform = LinearTransform(0.8, -0.6, 0.6, 0.8, 30.0, -20.0)
    geometry = make_geometry(distortion.forward, transform, (0.0, nx - 1.0, 0.0, ny - 1.0), lambda a, b: np.full_like(a, 2.0), 0.5)
    raw_x, raw_y = np.random.default_rng(0).uniform(20, 380, (2, 500))
    x, y = transform(*distortion.forward(raw_x, raw_y))
    from dpm.kernels.patch import place_stars

    for patch in {PatchBounds.holding(a, b, 128) for a, b in zip(x, y)}:
        mine = [PatchBounds.holding(a, b, 128) == patch for a, b in zip(x, y)]
        scene = patch_of(geometry, patch)
        out = np.zeros((sum(mine), 1, 3))
        place_stars(scene.patch, x[mine], y[mine], out)
        assert np.max(np.abs(out[:, 0, 0] - raw_x[mine])) < 1e-3
        assert np.max(np.abs(out[:, 0, 1] - raw_y[mine])) < 1e-3
        np.testing.assert_allclose(out[:, 0, 2], 10**0.2 / 2.0, rtol=1e-6)


def patch_of(geometry, patch: PatchBounds) -> PatchScene:
    from dpm.stages.second_pass.scene import Cutout, pack_libraries

    pixels = observe(np.zeros((400, 400)), 1).astype(np.float32)
    one = np.ones_like(pixels)
    planes = np.stack([pixels, one * 64, one, one * 0, one * 0, one * 0])
    return PatchScene(
        patch, [Cutout(planes, 0, 0, geometry, 0, 0)], planes[0].size, pack_libraries([gridded_epsf()]),
        np.ones((1, 3, 3), np.float32), 1, 0.0,
    )


def test_nodes_of_a_patch_reach_beyond_its_margin():
    patch = PatchBounds(3, -2, 128)
    row, column = patch.first_node
    x_low, x_high, y_low, y_high = patch.bounds(30.0)
    assert column * NODE_STEP <= x_low - NODE_STEP / 2 and (column + patch.n_nodes - 1) * NODE_STEP >= x_high + NODE_STEP / 2
    assert row * NODE_STEP <= y_low - NODE_STEP / 2 and (row + patch.n_nodes - 1) * NODE_STEP >= y_high + NODE_STEP / 2


def test_flags_say_what_pixels_an_exposure_had_at_a_star(tmp_path):
    """A short ramp two pixels from every other star in one exposure of three flags these stars' rows of that exposure alone."""
    x, y = grid_of_stars(16, 50)
    scene = make_scene(x, y, np.full((x.size, 1), 5000.0), dithers(3, 51), [0] * 3, 52)
    dq = np.zeros((200, 200), np.uint8)
    raw_x, raw_y = scene.transforms[1].inverse()(x, y)
    dq[np.floor(raw_y[::2] + 0.5).astype(int) - 2, np.floor(raw_x[::2] + 0.5).astype(int) + 1] = int(PixelFlag.SHORT_RAMP)
    scene.dq[1] = dq
    rows = solve(scene, tmp_path)
    short = (rows["flags"] & int(StarFlag.SHORT_RAMP)) != 0
    raw = np.c_[raw_x, raw_y][::2]
    for k in range(3):
        mine = rows["exposure"] == k
        beside = cKDTree(raw).query(np.c_[rows["x"], rows["y"]][mine])[0] < 0.5
        if k == 1:
            # A star on the border of two pixels may have its peak in the other.
            assert beside.sum() == len(raw) and short[mine][beside].mean() > 0.95 and not short[mine][~beside].any()
        else:
            assert not short[mine].any()
