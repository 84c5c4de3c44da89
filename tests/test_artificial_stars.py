"""Artificial stars: drawn evenly, put in with the noise of their light, and none near another of its pass."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import true_epsf
from astropy.table import Table
from scipy.spatial import cKDTree
from scipy.stats import kstest
from second_pass_scene import PATCH, THRESHOLD, dithers, make_scene, prepare

from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import read_arrays
from dpm.io.tables import read_columns, write_table
from dpm.kernels.inject import inject_stars
from dpm.models.epsf import GriddedEPSF
from dpm.models.master_frame import MasterFrame
from dpm.models.options import ArtificialStarsOptions
from dpm.models.patches import PatchBounds
from dpm.stages.artificial_stars import files
from dpm.stages.artificial_stars.draw import SEPARATION, Coverage, common_motion, draw_stars, passes, separation_of, spacing_of
from dpm.stages.artificial_stars.files import STAGE, recovered_file, write_plan
from dpm.stages.artificial_stars.link import keep_linked, linked_epochs
from dpm.stages.artificial_stars.perturbed import VARIANTS, choose_variants, stretched
from dpm.stages.artificial_stars.recover import recover_tile
from dpm.stages.frame.epoch_link import EpochStars
from dpm.stages.frame.field_errors import FieldErrors
from dpm.stages.frame.link import Links
from dpm.stages.second_pass.field import SecondPassField, Tile
from dpm.stages.second_pass.patches import PatchReader

FRAME = MasterFrame.around(np.array([10.0]), np.array([20.0]), 0.03)


def empty_patch(root, n: int = 3):
    """A patch of exposures without a star."""
    none = np.zeros(0)
    scene = make_scene(none, none, np.zeros((0, 2)), dithers(n, 3), [0, 1, 0][:n], 11, side=160)
    return PatchReader(prepare(scene, root), 0).scene(PatchBounds(0, 0, PATCH))[0]


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
    side = 25 * SEPARATION
    x, y = rng.uniform(0, side, (2, 8000))
    number = passes([np.column_stack([x, y])], side**2, SEPARATION)
    for k in range(number.max() + 1):
        mine = np.column_stack([x, y])[number == k]
        assert len(mine) < 2 or cKDTree(mine).query(mine, k=2)[0][:, 1].min() > SEPARATION
    # Random packing fills 0.547 of the plane with circles; first fit in blocks comes to more than half of that.
    filled = 8000 / (number.max() + 1) * np.pi * (SEPARATION / 2) ** 2 / side**2
    assert filled > 0.28


class Everywhere:
    """A field of 600 x 600 master pixels, held by three exposures."""

    def bounds(self):
        return 0.0, 600.0, 0.0, 600.0

    def count(self, x, y):
        return np.full(len(x), 3)


def test_even_stars_come_in_dense_passes_and_anywhere():
    n = 8000
    stars = draw_stars(ArtificialStarsOptions(n=n, seed=3), catalog(), ["a", "b"], Everywhere(), 3, FRAME, {}, SEPARATION)
    place = np.column_stack([stars["x"], stars["y"]])
    number = passes([place], 600.0 * 600.0, SEPARATION)
    counts = np.bincount(number)
    for k in range(len(counts)):
        assert counts[k] < 2 or cKDTree(place[number == k]).query(place[number == k], k=2)[0][:, 1].min() > SEPARATION
    # A triangular lattice has a star in 0.866 spacings squared.
    assert np.sort(counts)[1:].min() > 0.95 * 600**2 / (0.866 * spacing_of(SEPARATION) ** 2)
    for values in (*(place / 600.0).T, *np.modf(place)[0].T):
        assert kstest(values, "uniform").pvalue > 0.001
    again = draw_stars(ArtificialStarsOptions(n=n, seed=4), catalog(), ["a", "b"], Everywhere(), 3, FRAME, {}, SEPARATION)
    assert not np.allclose(again["x"], stars["x"])


def catalog(n: int = 600) -> Table:
    rng = np.random.default_rng(4)
    blue = rng.uniform(18, 26, n)
    out = Table({"x": rng.uniform(20, 140, n), "y": rng.uniform(20, 140, n), "a_mag": blue})
    out["b_mag"] = blue - 0.5 - 0.1 * (blue - 22)
    out["a_mag_error"] = np.where(blue < 25.5, 0.02, 0.15)
    out["b_mag_error"] = out["a_mag_error"]
    # Close to the limit only red stars are found.
    out["b_mag"][blue > 25.5] -= 0.5
    out["a_saturated"] = out["b_saturated"] = np.zeros(n, bool)
    return out


def coverage(root) -> Coverage:
    scene = make_scene(np.zeros(0), np.zeros(0), np.zeros((0, 2)), dithers(3, 3), [0, 1, 0], 11, side=160)
    return Coverage(prepare(scene, root).geometries(0), [(0.0, 159.0, 0.0, 159.0)] * 3)


def test_stars_are_drawn_evenly_where_enough_exposures_are_and_on_the_line(tmp_path):
    covered = coverage(tmp_path)
    options = ArtificialStarsOptions(n=4000, magnitudes={"a": (19.0, 27.0)})
    stars = draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {}, SEPARATION)
    assert len(stars) == 4000 and stars["id"][0] == 1
    assert covered.count(np.asarray(stars["x"]), np.asarray(stars["y"])).min() == 3
    assert kstest((stars["a_mag"] - 19) / 8, "uniform").pvalue > 0.001
    inside = (stars["x"] > 10) & (stars["x"] < 150) & (stars["y"] > 10) & (stars["y"] < 150)
    assert kstest((stars["x"][inside] - 10) / 140, "uniform").pvalue > 0.001
    colour = stars["b_mag"] - stars["a_mag"]
    # Beyond the well-measured stars as well.
    assert np.abs(colour + 0.5 + 0.1 * (stars["a_mag"] - 22)).max() < 0.03
    again = draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {}, SEPARATION)
    assert np.array_equal(stars["x"], again["x"]) and np.array_equal(stars["b_mag"], again["b_mag"])
    reseeded = ArtificialStarsOptions(n=4000, magnitudes={"a": (19.0, 27.0)}, seed=2)
    other = draw_stars(reseeded, catalog(), ["a", "b"], covered, 3, FRAME, {}, SEPARATION)
    assert not np.array_equal(stars["x"], other["x"])


def test_a_table_of_the_users_own_and_its_faults(tmp_path):
    covered = coverage(tmp_path)
    own = Table({"ra": [10.0, 10.0001], "dec": [20.0, 20.0001], "a_mag": [20.0, 21.0], "b_mag": [19.0, 20.5]})
    options = ArtificialStarsOptions(table="own.ecsv")
    stars = draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {"table": own}, SEPARATION)
    x, y = FRAME.sky_to_pixel(own["ra"], own["dec"])
    assert np.allclose(stars["x"], x) and np.allclose(stars["y"], y) and stars["b_mag"].tolist() == [19.0, 20.5]
    with pytest.raises(ValueError, match="no column b_mag"):
        draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {"table": own[["ra", "dec", "a_mag"]]}, SEPARATION)
    own["ra"][1] = np.nan
    with pytest.raises(ValueError, match="not a number"):
        draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {"table": own}, SEPARATION)
    with pytest.raises(ValueError, match="no band c"):
        options = ArtificialStarsOptions(n=5, magnitudes={"c": (1.0, 2.0)})
        draw_stars(options, catalog(), ["a", "b"], covered, 3, FRAME, {}, SEPARATION)
    with pytest.raises(ValueError, match="held by 9 exposures"):
        draw_stars(ArtificialStarsOptions(n=5), catalog(), ["a", "b"], covered, 9, FRAME, {}, SEPARATION)


BANDS = ["band0", "band1"]


def crowd(root):
    """Eight exposures of 250 stars in two bands, as they are when the second pass is done, and their true stars."""
    rng = np.random.default_rng(8)
    n = 250
    x, y = rng.uniform(4, 156, (2, n))
    flux = np.column_stack([10 ** rng.uniform(1.8, 4.0, n), 10 ** rng.uniform(1.8, 4.0, n)])
    scene = make_scene(x, y, flux, dithers(8, 4), [0, 0, 0, 0, 1, 1, 1, 1], 23, side=160)
    field = prepare(scene, root, stage=STAGE)
    table = Table({"x": x, "y": y})
    for b, band in enumerate(BANDS):
        table[f"{band}_flux"], table[f"{band}_saturated"] = flux[:, b], np.zeros(n, bool)
    write_table(field.folder.catalog, table)
    return field


def plan(field, n: int = 120) -> dict[str, np.ndarray]:
    """Artificial stars of a few times and of a hundred times their noise."""
    rng = np.random.default_rng(3)
    x, y = rng.uniform(15, 145, (2, n))
    stars = {"id": np.arange(1, n + 1), "x": x, "y": y, "x_0": x, "y_0": y}
    stars["pass"] = passes([np.column_stack([x, y])], 160.0**2, SEPARATION)
    level = np.where(np.arange(n) % 3 == 0, 15.0, np.where(np.arange(n) % 3 == 1, 400.0, 6000.0))
    stars |= {f"{band}_flux": level * scale for band, scale in zip(BANDS, (1.0, 0.8))}
    write_plan(field.folder, stars)
    return stars


def recovered(field) -> dict[str, np.ndarray]:
    """All that the tasks wrote, sorted by star and exposure."""
    out = {}
    for step in ("measured", "found"):
        lists = [read_arrays(p) for p in sorted(recovered_file(field.folder, step, 0, 0).parent.glob("*.arrow"))]
        table = {name: np.concatenate([part[name] for part in lists]) for name in lists[0]}
        order = np.lexsort((table["exposure"], table["star"])) if step == "measured" else np.argsort(table["id"])
        out |= {f"{step}_{name}": values[order] for name, values in table.items()}
    return out


def test_stars_put_in_come_out_as_they_were_or_not_at_all(tmp_path):
    field = crowd(tmp_path)
    stars = plan(field)
    n_passes = int(stars["pass"].max()) + 1
    for tile in field.tiles:
        recover_tile(field.folder, tile.number, 0, n_passes, 5, THRESHOLD, SEPARATION)
    out = recovered(field)
    assert np.array_equal(out["found_id"], stars["id"])
    found = out["found_distance"] < 0.5
    faint, bright = np.arange(120) % 3 == 0, np.arange(120) % 3 == 2
    assert found[bright].all()
    for band in BANDS:
        # The sky of a scene of this noise (5.5 a pixel), with what faint stars add to it.
        assert np.all((out[f"found_{band}_sky_rms"] > 4.0) & (out[f"found_{band}_sky_rms"] < 12.0))
    assert found[faint].mean() < 0.35
    # Fluxes of the bright ones, each exposure's own, with the noise of their own light.
    real = read_columns(field.folder.catalog, ["x", "y"])
    clear = cKDTree(np.column_stack([real["x"], real["y"]])).query(np.column_stack([stars["x"], stars["y"]]))[0] > 3
    rows = (bright & clear)[out["measured_star"] - 1]
    true = np.column_stack([stars[f"{band}_flux"] for band in BANDS])
    band = (out["measured_exposure"][rows] >= 4).astype(int)
    pull = (out["measured_flux"][rows] - true[out["measured_star"][rows] - 1, band]) / out["measured_flux_error"][rows]
    assert rows.sum() > 200
    assert 0.88 < np.std(pull) < 1.15
    assert abs(np.mean(pull)) < 0.25


def test_the_same_bits_for_any_tiles_and_passes_a_task(tmp_path):
    field = crowd(tmp_path / "a")
    stars = plan(field, 40)
    n_passes = int(stars["pass"].max()) + 1
    for tile in field.tiles:
        recover_tile(field.folder, tile.number, 0, n_passes, 5, THRESHOLD, SEPARATION)
    one = recovered(field)
    other = crowd(tmp_path / "b")
    patches = [patch for tile in other.tiles for patch in tile.patches]
    tiles = [Tile(number, 0, [patch], 1.0) for number, patch in enumerate(reversed(patches))]
    other = SecondPassField(other.folder, other.groups, tiles, STAGE)
    other.save()
    plan(other, 40)
    for tile in other.tiles:
        for first in reversed(range(n_passes)):
            recover_tile(other.folder, tile.number, first, first + 1, 5, THRESHOLD, SEPARATION)
    two = recovered(other)
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


def test_stretched_epsfs_keep_their_light_and_centre_and_change_in_width():
    sigma = 0.9
    offset = (np.arange(101) - 50) / 4
    dx, dy = np.meshgrid(offset, offset)
    samples = np.exp(-0.5 * (dx**2 + dy**2) / sigma**2) / (2 * np.pi * sigma**2)
    epsf = GriddedEPSF(samples[None, None], np.array([500.0]), np.array([500.0]))
    for xx, xy, yy in (0.02 * VARIANTS).tolist():
        other = stretched(epsf, xx, xy, yy).samples[0, 0]
        assert other.sum() / 16 == pytest.approx(1.0, abs=1e-4)
        assert np.sum(other * dx) == pytest.approx(0.0, abs=1e-6) and np.sum(other * dy) == pytest.approx(0.0, abs=1e-6)
        stretch = np.array([[1 + xx, xy], [xy, 1 + yy]])
        moments = [[np.sum(other * a * b) / 16 for a in (dx, dy)] for b in (dx, dy)]
        np.testing.assert_allclose(moments, sigma**2 * stretch @ stretch.T, atol=2e-3 * sigma**2)
    # Each kind of stretch has the variance asked for, and no mean.
    kinds = np.column_stack([VARIANTS[:, 0] + VARIANTS[:, 2], VARIANTS[:, 0] - VARIANTS[:, 2]]) / 2
    np.testing.assert_allclose(np.mean(kinds**2, axis=0), 1.0)
    np.testing.assert_allclose(np.mean(VARIANTS, axis=0), 0.0)
    keys = np.random.default_rng(1).integers(0, 2**63, 3000).astype(np.uint64)
    chosen = choose_variants(np.full(3000, 2), keys[0], keys)
    assert chosen.min() == 12 and chosen.max() == 17 and np.bincount(chosen - 12).min() > 400


def test_stars_put_in_with_another_epsf_scatter_more(tmp_path):
    field = crowd(tmp_path)
    stars = plan(field, 30)
    stars |= {f"{band}_flux": np.full(30, 6000.0) for band in BANDS}
    write_plan(field.folder, stars)
    spread = []
    for epsf_error in (0.0, 0.06):
        for tile in field.tiles:
            recover_tile(field.folder, tile.number, 0, int(stars["pass"].max()) + 1, 5, THRESHOLD, SEPARATION, epsf_error)
        out = recovered(field)
        true = stars[f"{BANDS[0]}_flux"][out["measured_star"] - 1]
        rows = out["measured_exposure"] < 4
        pull = ((out["measured_flux"] - true) / out["measured_flux_error"])[rows]
        spread.append(1.4826 * np.median(np.abs(pull - np.median(pull))))
    # Six per cent in width are some per cent of the fitted flux, and its photon noise is one to two.
    assert spread[1] > 2.0 * spread[0]


def test_motions_of_the_members_are_the_densest():
    rng = np.random.default_rng(6)
    motion = np.concatenate([rng.normal([3.2, -17.6], 0.1, (150, 2)), rng.normal([0.0, -14.0], 4.0, (350, 2))])
    table = Table({"pmra": motion[:, 0], "pmdec": motion[:, 1], "pmra_error": np.full(500, 0.1), "pmdec_error": np.full(500, 0.1)})
    assert np.allclose(common_motion(table), (3.2, -17.6), atol=0.1)
    assert common_motion(table[:4]) == (0.0, 0.0)


def test_artificial_stars_are_linked_over_epochs_by_the_code_that_links_real_ones():
    rng = np.random.default_rng(2)
    n, m, years, scale = 500, 120, 12.0, 0.06
    place, motion = rng.uniform(0, 400, (n, 2)), rng.normal(0.0, 0.02, (n, 2)) + [0.25, -0.1]
    put_in = rng.uniform(20, 380, (m, 2))
    mags = [rng.uniform(18, 24, size) for size in (n, m)]

    def lists(time, positions, mag):
        place = positions + rng.normal(0.0, 0.03, positions.shape)
        return EpochStars(time, place[:, 0], place[:, 1], np.full(len(place), 0.03), {"F": mag + rng.normal(0, 0.02, len(mag))})

    real = [lists(2010.0, place - years * motion, mags[0]), lists(2022.0, place, mags[0])]
    old = put_in - years * np.array([0.25, -0.1])
    old[:10] += 9.0  # where no motion of the field brings them
    stars = [lists(2010.0, old, mags[1]), lists(2022.0, put_in, mags[1])]
    number = linked_epochs(real, stars, [np.arange(m), np.arange(m)], m, scale)
    together = number[:, 0] == number[:, 1]
    assert not together[:10].any() and together[10:].mean() > 0.93
    unit = np.repeat([0, 1], m)
    both = np.tile(np.arange(m), 2)
    links = keep_linked(Links(np.array([0, m, 2 * m]), unit, unit, np.zeros(2 * m), np.zeros(2 * m), both, m, 2), number)
    assert np.array_equal(links.star[m:], np.arange(m)) and np.array_equal(links.star[:m] >= 0, together)


def test_the_fields_errors_come_back_from_their_file(tmp_path):
    nan = np.nan
    places = [np.array([[1.0, 2.0], [nan, nan], [30.0, 4.0]])]
    made = FieldErrors(
        True, [np.array([0.01, 0.02])], {"f": np.array([0.003])}, places, [np.ones((3, 1))], [np.array([[1.0, 2], [0, 0], [3, 4]])],
        [np.array([True, False, False])], [nan],
    )  # fmt: skip
    made.save(tmp_path / "field.npz")
    back = FieldErrors.load(tmp_path / "field.npz")
    variance, known = back.at(0, np.array([2.0, 28.0, nan]), np.array([2.0, 2.0, 1.0]))
    assert variance.tolist() == [[1.0, 3.0, 0.0], [2.0, 4.0, 0.0]] and known.tolist() == [True, False, False]
    assert back.registered and back.flux_floors["f"][0] == 0.003 and np.array_equal(back.position_floors[0], [0.01, 0.02])


def test_the_plan_is_read_pass_by_pass_and_cut_into_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK_STARS", 250)
    rng = np.random.default_rng(9)
    number = np.concatenate([np.arange(7), rng.integers(0, 7, 1000)])
    folder = RunFolder(tmp_path)
    write_plan(folder, {"id": np.arange(1, 1008), "pass": number})
    for first, last in ((0, 7), (2, 4)):
        part = files.read_plan(folder, first, last)
        assert np.array_equal(np.sort(part["id"]), 1 + np.flatnonzero((number >= first) & (number < last)))
    chunks = files.read_chunks(folder)
    assert [first for first, _ in chunks[1:]] == [last for _, last in chunks[:-1]] and chunks[-1][1] == 7
    assert all(len(files.read_plan(folder, *ends)["id"]) >= 250 for ends in chunks[:-1])


def test_stars_of_a_pass_are_as_far_apart_on_the_coarsest_detector():
    exposures = Table({"pixel_scale": [FRAME.scale, 2.0 * FRAME.scale]})
    assert separation_of(exposures, FRAME) == 2 * SEPARATION and separation_of(exposures[:1], FRAME) == SEPARATION
    coarse = draw_stars(ArtificialStarsOptions(n=3000, seed=3), catalog(), ["a", "b"], Everywhere(), 3, FRAME, {}, 2 * SEPARATION)
    place = np.column_stack([coarse["x"], coarse["y"]])
    number = passes([place], 600.0**2, 2 * SEPARATION)
    assert cKDTree(place[number == 0]).query(place[number == 0], k=2)[0][:, 1].min() > 2 * SEPARATION
