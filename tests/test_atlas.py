"""Atlas: stars keep their places and light, cosmic rays go, noise is what is said, and pixels are the same for any tiling."""

from dataclasses import replace

import numpy as np
import pytest
from analytic_scene import READ_NOISE, SKY, exposure, render
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.models.flags import PixelFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import AtlasOptions
from dpm.models.statistics import robust_width
from dpm.models.transform import LinearTransform
from dpm.science.colour_images import colour_image, colour_planes, learn_colour_scale
from dpm.stages.atlas import cosmic_rays, drizzle_cells, join
from dpm.stages.atlas import exposure as exposure_module
from dpm.stages.atlas.drizzle_cells import drizzle_block, drizzle_cell
from dpm.stages.atlas.exposure import AtlasExposure, write_exposure
from dpm.stages.atlas.layout import AtlasPlan, Stack, atlas_frame
from dpm.stages.atlas.picture import write_picture
from dpm.stages.atlas.prepare import begin, choose_pictures
from dpm.stages.atlas.sky import match_skies, sky_cells

SIDE = 150
FRAME = MasterFrame(80.0, -69.5, 0.05, 150.0, 150.0, 300, 300)


def turned(angle, dx, dy, scale=1.0):
    """From array pixels to the atlas, about the middle of both."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    raw = 0.5 * (SIDE - 1)
    return LinearTransform(c, -s, s, c, 150.0 - (c - s) * raw + dx, 150.0 - (s + c) * raw + dy)


DITHERS = ((0.3, 0.2, 0.4), (0.3, 3.7, -1.9), (0.3, -2.4, 2.1), (1.87, 1.3, 3.3), (1.87, -3.1, 0.6))
TRANSFORMS = [turned(*dither) for dither in DITHERS]


def make_plan(folder, transforms, frame=FRAME, pixfrac=1.0, stacks=1, max_side=8192):
    names = [f"e{k}" for k in range(len(transforms))]
    bands = ["niriss_f090w", "niriss_f150w"][:stacks]
    made = [Stack(band, band, 0, 2022.3, "electron", names, list(range(len(names)))) for band in bands]
    return AtlasPlan(RunFolder(folder), frame, made, pixfrac, max_side)


def gather(plan, k, transform, pixels, stars=None, dq=None, zero_point=0.0):
    """Write one exposure as the stage does; its map is linear."""
    image = exposure(pixels, dq)
    light = np.zeros(pixels.shape, np.float32) if stars is None else stars.astype(np.float32)
    write_exposure(plan, f"e{k}", image, light, transform, lambda x, y: np.ones_like(x), 10 ** (-0.4 * zero_point))
    return AtlasExposure(plan.pixels_file(f"e{k}"), plan.map_file(f"e{k}"))


def observe(light, seed):
    rng = np.random.default_rng(seed)
    return rng.poisson(light + SKY) + rng.normal(0, READ_NOISE, light.shape)


def isolated_stars(seed):
    rng = np.random.default_rng(seed)
    gy, gx = np.meshgrid(np.arange(105.0, 200, 22), np.arange(105.0, 200, 22))
    return gx.ravel() + rng.uniform(-0.5, 0.5, gx.size), gy.ravel() + rng.uniform(-0.5, 0.5, gx.size), np.full(gx.size, 3e5)


def starlight(transform, x, y, flux):
    return render((SIDE, SIDE), *transform.inverse()(x, y), flux)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Five dithered exposures with bright stars and, in each, cosmic rays that no mask names, some on the stars."""
    plan = make_plan(tmp_path_factory.mktemp("atlas"), TRANSFORMS)
    x, y, flux = isolated_stars(3)
    sources, hits = [], []
    rng = np.random.default_rng(9)
    for k, transform in enumerate(TRANSFORMS):
        light = starlight(transform, x, y, flux)
        hit = np.zeros((SIDE, SIDE), bool)
        for row, column in rng.integers(8, SIDE - 8, (40, 2)):
            hit[row, column : column + rng.integers(1, 5)] = True
        pixels = observe(light, 50 + k) + 4000.0 * hit
        sources.append(gather(plan, k, transform, pixels, stars=1.02 * light))
        hits.append(hit)
    sky = {f"e{k}": SKY for k in range(len(TRANSFORMS))}
    plan = AtlasPlan(plan.folder, plan.frame, plan.stacks, plan.pixfrac, plan.max_side, [[(0, 0)]], sky)
    made = drizzle_block(plan, 0, (0, 0))
    box = (0, FRAME.ny, 0, FRAME.nx)
    planes = {name: join.read_plane(plan, 0, name, box) for name in join.EXTENSIONS}
    return plan, sources, (x, y, flux), hits, made, planes


def test_stars_keep_places_and_light(field):
    """Centroids within 0.05 pixels of the catalogue through the WCS, light within 1 %, cosmic rays on the cores or not."""
    _, _, (x, y, flux), _, _, planes = field
    ra, dec = FRAME.pixel_to_sky(x, y)
    at_x, at_y = FRAME.wcs.all_world2pix(ra, dec, 0)
    yy, xx = np.mgrid[-9:10, -9:10]
    off = []
    for k in range(x.size):
        i, j = round(float(at_x[k])), round(float(at_y[k]))
        box = planes["sci"][j - 9 : j + 10, i - 9 : i + 10].astype(float)
        assert box.sum() == pytest.approx(flux[k], rel=0.01)
        off.append(((box * xx).sum() / box.sum() + i - at_x[k], (box * yy).sum() / box.sum() + j - at_y[k]))
    assert np.abs(off).max() < 0.05 and np.abs(np.mean(off, axis=0)).max() < 0.01


def test_cosmic_rays_are_rejected_and_nothing_else(field):
    plan, sources, (x, y, flux), hits, made, planes = field
    n_hit = sum(int(hit.sum()) for hit in hits)
    assert 0.97 * n_hit < made["rejected"] < 1.1 * n_hit
    clean = np.mean([observe(starlight(t, x, y, flux), 50 + k).max() for k, t in enumerate(TRANSFORMS)])
    assert clean > 10 * 4000  # the stars' cores, which stay, are far brighter than the cosmic rays
    model = drizzle_cell([Bare(source) for source in sources], [0.0] * len(sources), (0, FRAME.ny, 0, FRAME.nx), 1.0)
    deep = planes["number"] >= 3
    off = (planes["sci"] - model.sci / 1.02)[deep] / np.hypot(planes["error"], 0.003 * model.sci)[deep]
    assert np.mean(np.abs(off) > 6) < 1e-3


class Bare:
    """An exposure's stars alone, without noise."""

    def __init__(self, source):
        self._source, self.noise, self.density = source, source.noise, source.density

    def window(self, *box):
        window = self._source.window(*box)
        return window and replace(window, value=window.stars)


def test_same_bits_for_any_blocks_and_nearly_the_same_in_one_piece(field, monkeypatch):
    plan, sources, *_, planes = field
    box = (0, FRAME.ny, 0, FRAME.nx)
    for module in (drizzle_cells, join, exposure_module):
        monkeypatch.setattr(module, "BLOCK", 256)
    monkeypatch.setattr("dpm.stages.atlas.layout.BLOCK", 256)
    for block in ((0, 0), (0, 1), (1, 0), (1, 1)):
        drizzle_block(plan, 0, block)
    for name in join.EXTENSIONS:
        assert np.array_equal(join.read_plane(plan, 0, name, box), planes[name], equal_nan=True)
    whole = drizzle_cell(sources, [SKY] * len(sources), box, plan.pixfrac)
    assert np.array_equal(np.isfinite(whole.sci), np.isfinite(planes["sci"]))
    assert np.nanmax(np.abs(whole.sci - planes["sci"])) < 1e-4 * np.nanmax(planes["sci"])
    assert np.array_equal(whole.number, planes["number"])


def boxes(plane, side=12):
    """Sums over boxes."""
    ny, nx = (n // side * side for n in plane.shape)
    return plane[:ny, :nx].astype(float).reshape(ny // side, side, nx // side, side).sum(axis=(1, 3))


@pytest.mark.parametrize("ratio", [0.6, 1.4])
def test_errors_hold_for_sums_of_pixels_and_weights_are_inverse_variances(ratio, tmp_path):
    """Blank sky, pixels finer than the exposures' and coarser: sums over boxes scatter as their errors say."""
    frame = atlas_frame(FRAME, 0.05 * ratio)
    scaled = LinearTransform(1 / ratio, 0.0, 0.0, 1 / ratio)
    transforms = [scaled.after(transform) for transform in TRANSFORMS]
    plan = make_plan(tmp_path, transforms, frame)
    blank = np.zeros((SIDE, SIDE))
    sources = [gather(plan, k, t, observe(blank, 80 + k), zero_point=0.3 * k) for k, t in enumerate(transforms)]
    sky = [SKY * 10 ** (-0.12 * k) * ratio**2 for k in range(len(transforms))]
    made = drizzle_cell(sources, sky, (0, frame.ny, 0, frame.nx), 0.9)
    inner = made.number == len(transforms)
    full = boxes(inner) == 144
    pull = boxes(np.nan_to_num(made.sci))[full] / np.sqrt(boxes(np.nan_to_num(made.error) ** 2)[full])
    assert pull.size > 30
    assert pull.std() == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * pull.size))
    assert np.median((made.error * np.sqrt(made.weight))[inner]) == pytest.approx(1.0, abs=0.02)
    assert robust_width(made.sci[inner].astype(float) / made.error[inner]) == pytest.approx(made.scatter, rel=0.06)


def test_what_one_exposure_alone_shows_stays_and_masked_pixels_do_not(tmp_path):
    plan = make_plan(tmp_path, TRANSFORMS[:1])
    pixels = observe(np.zeros((SIDE, SIDE)), 1)
    pixels[40, 40:44] += 3000.0
    pixels[90, 90] = 1e6
    dq = np.zeros(pixels.shape, np.uint8)
    dq[90, 90] = int(PixelFlag.BAD)
    source = gather(plan, 0, TRANSFORMS[0], pixels, dq=dq)
    made = drizzle_cell([source], [SKY], (0, 300, 0, 300), 1.0)
    assert made.rejected == 0 and made.number.max() == 1
    assert 1000 < np.nanmax(made.sci) < 3200
    assert drizzle_cell([source], [SKY], (0, 20, 0, 20), 1.0) is None  # a part of the field that it does not reach


def test_exposures_that_do_not_overlap_are_left_alone(tmp_path):
    transforms = [turned(0.0, -74, 0), turned(0.0, 77, 0)]
    plan = make_plan(tmp_path, transforms)
    sources = [gather(plan, k, t, observe(np.zeros((SIDE, SIDE)), k) + 7 * k) for k, t in enumerate(transforms)]
    made = drizzle_cell(sources, [SKY, SKY + 7], (0, 300, 0, 300), 1.0)
    assert made.number.max() == 1 and made.rejected == 0
    sky, apart = match_skies([s.cells for s in sources], [s.levels for s in sources])
    assert sky == pytest.approx([SKY, SKY + 7], abs=0.6) and np.isnan(apart).all()


def test_where_all_exposures_disagree_none_is_preferred(tmp_path):
    """A thing that moves by more than its size: each exposure has it alone, where it lies in the median of none."""
    plan = make_plan(tmp_path, TRANSFORMS[:2])
    y, x = np.mgrid[:SIDE, :SIDE]
    sources = []
    for k, transform in enumerate(TRANSFORMS[:2]):
        # The second exposure is bright in a ring about where the first is: only the gradient of the lower one tells.
        blob = 500.0 * np.exp(-0.5 * ((x - 75) ** 2 + (y - 75) ** 2) / 6.0**2)
        sources.append(gather(plan, k, transform, SKY + (blob if k == 0 else -blob)))
    made = drizzle_cell(sources, [SKY, SKY], (0, 300, 0, 300), 1.0)
    whole = np.isfinite(drizzle_cell(sources[:1], [SKY], (0, 300, 0, 300), 1.0).sci)
    assert np.isfinite(made.sci[whole]).all()


def test_median_of_three_takes_the_lowest_where_two_are_hit():
    images = np.array([[[10.0, 0.1]], [[300.0, 0.0]], [[900.0, -0.2]]], np.float32)
    median, count = cosmic_rays.combine_median(images, np.full(3, 1.0))
    assert median[0, 0] == 10.0 and median[0, 1] == 0.0 and count.tolist() == [[3, 3]]
    images[2] = np.nan
    median, count = cosmic_rays.combine_median(images, np.full(3, 1.0))
    assert median[0, 0] == 10.0 and count[0, 0] == 2
    assert np.isnan(cosmic_rays.combine_median(np.full((2, 1, 1), np.nan, np.float32), np.ones(2))[0]).all()


def test_skies_are_matched_through_chains_of_overlaps():
    """Levels of five exposures in a row, each overlapping its neighbours alone, over a field with structure."""
    rng = np.random.default_rng(2)
    structure = 10 * rng.standard_normal((12, 40))
    true = np.array([3.0, -2.0, 5.0, 0.0, 8.0])
    cells, levels = [], []
    for k, sky in enumerate(true):
        rows, columns = (v.ravel() for v in np.meshgrid(np.arange(12), np.arange(7 * k, 7 * k + 11), indexing="ij"))
        cells.append(np.column_stack([rows, columns]))
        level = structure[rows, columns] + sky + rng.normal(0, 0.02, rows.size)
        level[:3] += 200.0  # a star that the others see at its right brightness
        levels.append(level)
    sky, apart = match_skies(cells, levels)
    assert sky - sky[0] == pytest.approx(true - true[0], abs=0.05)
    assert (apart < 0.1).all()
    empty, nothing = match_skies([np.zeros((0, 2), np.int64)], [np.zeros(0)])
    assert empty.tolist() == [0.0] and np.isnan(nothing).all()


def test_sky_of_a_cell_does_not_rise_with_its_stars():
    rng = np.random.default_rng(4)
    value = rng.normal(20.0, 2.0, (256, 256))
    value[rng.random(value.shape) < 0.15] += rng.exponential(200.0)
    y, x = np.mgrid[:256, :256].astype(float)
    cells, levels = sky_cells(value, np.ones(value.shape, bool), x, y, 1.0)
    assert len(cells) == 16 and levels == pytest.approx(20.0, abs=0.35)


def test_colours_are_white_in_the_middle_and_green_is_a_quarter_red():
    rng = np.random.default_rng(6)
    blue = rng.normal(0, 1, (100, 100)).astype(np.float32)
    red = rng.normal(0, 3, (100, 100)).astype(np.float32)
    blue[20:40:4, ::4] += 1000.0
    red[20:40:4, ::4] += 5000.0
    scale = learn_colour_scale(red, blue)
    assert scale.factors[0] == pytest.approx(0.2, rel=0.02) and scale.factors[1] == pytest.approx(1.0)
    red[5, 5], blue[5, 5], blue[50, 50] = np.nan, np.nan, np.nan
    planes = colour_planes(scale, red, blue)
    assert planes[1][20, 20] == pytest.approx(0.25 * planes[0][20, 20] + 0.75 * planes[2][20, 20])
    assert np.isnan(planes[:, 5, 5]).all() and planes[2, 50, 50] == pytest.approx(0.2 * red[50, 50], rel=0.02)
    picture = colour_image(planes, scale)
    assert picture.shape == (100, 100, 3) and picture[5, 5].tolist() == [0, 0, 0]
    star = picture[20, 20].astype(int)
    assert star.min() > 150 and np.ptp(star) < 25
    grey = colour_planes(learn_colour_scale(blue), blue)
    assert np.array_equal(grey[0], grey[2], equal_nan=True)
    assert learn_colour_scale(np.full((3, 3), np.nan)).factors == (1.0,)


@pytest.fixture(scope="module")
def written(field, tmp_path_factory):
    """Files of two equal stacks over a field that is cut into four."""
    source, *_, planes = field
    tmp_path = tmp_path_factory.mktemp("files")
    folder = RunFolder(tmp_path)
    folder.create()
    frame = MasterFrame(80.0, -69.5, 0.05, 1000.0, 900.0, 1900, 1400)
    plan = AtlasPlan(folder, frame, make_plan(tmp_path, TRANSFORMS, stacks=2).stacks, 1.0, 1024, [[(0, 0), (0, 1)]] * 2, source.sky)
    columns = {name: [f"e{k}" for k in range(5)] for name in ("exposure", "detector", "file")} | {"target": ["<b>M 1</b>"] * 5}
    Table(columns | {"epoch": [2022.3] * 5, "exptime": [100.0] * 5}).write(folder.exposures)
    for k in range(2):
        # The scene lies across the border of two files, the rest is empty.
        wide = {name: np.full((1024, 1024), join.FILL[name], plane.dtype) for name, plane in planes.items()}
        right = {name: np.full((1024, 876), join.FILL[name], plane.dtype) for name, plane in planes.items()}
        for name, plane in planes.items():
            wide[name][700:1000, 824:1024], right[name][700:1000, :100] = plane[:, :200], plane[:, 200:]
        plan.part_file(k, (0, 0)).parent.mkdir(parents=True, exist_ok=True)
        np.savez(plan.part_file(k, (0, 0)), **wide)
        np.savez(plan.part_file(k, (0, 1)), **right)
    parts = {"pixels": 100, "rejected": 2, "scatter": 0.7}
    joined = [join.write_stack(plan, k, suffix, box, parts) for k in range(2) for suffix, box in plan.file_boxes()]
    join.write_index(plan, joined)
    picture = write_picture(plan, "colour", [1, 0])
    return plan, planes, joined, picture


def test_files_of_a_field_that_is_cut(written):
    from dpm.io.atlas_files import AtlasFiles

    plan, planes, joined, picture = written
    assert [bool(result["file"]) for result in joined] == [True, True, False, False] * 2
    with fits.open(plan.folder.root / joined[1]["file"]) as hdulist:
        hdulist.verify("exception")
        assert [hdu.name for hdu in hdulist] == ["PRIMARY", "SCI", "ERR", "WHT", "NEXP", "EXPOSURES"]
        assert hdulist["SCI"].header["BUNIT"] == "electron" and hdulist[0].header["REJECTED"] == 0.02
        ra, dec = WCS(hdulist["SCI"].header).all_pix2world(5.0, 720.0, 0)
    assert plan.frame.sky_to_pixel(ra, dec) == (pytest.approx(1024 + 5.0, abs=1e-6), pytest.approx(720.0, abs=1e-6))
    atlas = AtlasFiles(plan.folder)
    for name, plane in (("sci", "SCI"), ("number", "NEXP"), ("weight", "WHT")):
        pixels, wcs = atlas.cutout("niriss_f090w", (700, 1000, 824, 1124), plane)
        assert np.array_equal(pixels, planes[name], equal_nan=True)
    assert wcs.all_world2pix(*plan.frame.pixel_to_sky(900.0, 800.0), 0) == [pytest.approx(76.0), pytest.approx(100.0)]
    assert np.isnan(atlas.cutout("niriss_f090w", (-10, 5, -10, 5))[0]).all()
    with pytest.raises(KeyError, match="niriss_f150w"):
        atlas.cutout("niriss_f200w")


def test_pictures_have_north_up_and_pages_stand_alone(written):
    from PIL import Image

    plan, planes, _, picture = written
    images = plan.folder.images
    assert all((plan.folder.root / name).exists() for name in picture["files"])
    rows, columns = np.nonzero(planes["number"])
    with Image.open(images / "atlas_colour.png") as png:
        assert png.size == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        pixels = np.asarray(png)
    j, i = np.unravel_index(np.nanargmax(planes["sci"]), planes["sci"].shape)
    assert pixels[rows.max() - j, i - columns.min()].min() > 200
    page = images / "atlas" / "colour"
    text = (page / "index.html").read_text()
    assert "http" not in text and "/*PICTURE*/" not in text and "<b>M 1" not in text.split("<script>")[0]
    # The level of 1900 x 2048 pixels is 3; of its tiles those with something in them are there.
    row, column = (2048 - 1 - (700 + j)) // 256, (824 + i) // 256
    with Image.open(page / "3" / f"{column}_{row}.png") as tile:
        assert np.asarray(tile)[(2048 - 1 - (700 + j)) % 256, (824 + i) % 256].min() > 200
    assert (page / "0" / "0_0.png").is_file() and not (page / "3" / "0_0.png").exists()
    with fits.open(images / "atlas_colour_0_0.fits") as cube:
        cube.verify("exception")
        assert cube[0].data.shape == (3, 1024, 1024) and cube[0].header["RED"] == "niriss_f150w"
        corner = WCS(cube[0].header).celestial.all_pix2world(0.0, 0.0, 0)
        assert corner == [pytest.approx(float(value)) for value in plan.frame.pixel_to_sky(0.0, 0.0)]


def test_charts_of_stars_and_of_stars_that_are_not_there(written):
    from PIL import Image

    from dpm.report.charts import Target, catalog_targets, draw_charts, position_target

    plan, _, _, _ = written
    ra, dec = plan.frame.pixel_to_sky([974.0, 1500.0, 5000.0], [850.0, 300.0, 300.0])
    catalog = Table({"id": [3, 4, 5], "ra": ra, "dec": dec})
    paths = draw_charts(plan.folder, catalog_targets(catalog, [3]), 6.0)
    with Image.open(paths[0]) as chart:
        assert min(chart.size) > 500 and paths[0].parent == plan.folder.charts
    with pytest.raises(KeyError, match="no star 6, 9"):
        catalog_targets(catalog, [6, 3, 9])
    with pytest.raises(ValueError, match="no data"):
        draw_charts(plan.folder, catalog_targets(catalog, [4]))
    with pytest.raises(ValueError, match="outside the atlas"):
        draw_charts(plan.folder, catalog_targets(catalog, [5]))
    with pytest.raises(ValueError, match="larger than 0"):
        draw_charts(plan.folder, [Target("a", 80.0, -69.5)], -1.0)
    assert position_target("05:20:00,-69:30:00").ra == pytest.approx(80.0)
    with pytest.raises(ValueError, match="no position"):
        position_target("north")
    with pytest.raises(FileNotFoundError, match="no atlas yet"):
        draw_charts(RunFolder(plan.folder.root / "other"), [Target("a", 80.0, -69.5)])


def test_what_cannot_be_made_is_said(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match="no master frame yet"):
        begin(folder, AtlasOptions(make=True))
    plan = make_plan(tmp_path, TRANSFORMS, stacks=2)
    assert choose_pictures(plan, ()) == {"colour": [1, 0]}
    with pytest.raises(InputError, match="no band 'niriss_f200w'"):
        choose_pictures(plan, ("niriss_f200w", "niriss_f090w"))
    with pytest.raises(InputError, match="1 bands"):
        choose_pictures(plan, ("niriss_f090w",))
    assert choose_pictures(make_plan(tmp_path, TRANSFORMS), ()) == {"grey": [0]}


def test_finer_frames_are_on_the_same_sky():
    fine = atlas_frame(FRAME, 0.02)
    ra, dec = FRAME.pixel_to_sky([-0.5, 299.5], [-0.5, 299.5])
    x, y = fine.sky_to_pixel(ra, dec)
    assert np.diff(x)[0] == pytest.approx(750.0) and (x > -3).all() and (y > -3).all()
    assert (x < fine.nx + 2).all() and atlas_frame(FRAME, None) is FRAME
