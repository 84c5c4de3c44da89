"""Two epochs of one filter through `dpm run`: one row a star with motions, residual images of each epoch, one tile by hand."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from astropy.table import Table
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from dpm.cli.main import app
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.master_frame import sky_to_tangent
from dpm.models.statistics import robust_width
from dpm.report.data import load_run
from dpm.report.plots_motions import describe_zero_point, plot_motions
from dpm.simulate import Effects, SimulationOptions, Visit, simulate_field
from dpm.stages import STAGES
from dpm.stages.residuals.exposure import RunScene

OLD, NEW = "niriss_f090w_2010", "niriss_f090w_2022"
ZERO_POINT = 25.0


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four dithers at each epoch; the cluster moves by 3.5 and the field's stars by up to eight pixels in between."""
    place = tmp_path_factory.mktemp("epochs")
    visits = tuple(Visit(filters=("F090W",), epoch=epoch, n_dithers=4, dither=0.05) for epoch in (2010.5, 2022.33))
    effects = Effects(galaxies=0, fine_distortion=False, filter_distortion=False)
    options = SimulationOptions(
        visits=visits, n_pixels=256, n_stars=900, magnitudes=(16.5, 25.5), cluster_radius=0.0, cluster_motion=(-19.0, 4.0),
        field_motion=(-17.0, 4.0), seed=8, effects=effects,
    )  # fmt: skip
    simulate_field(place / "field", options)
    (place / "field.toml").write_text(
        f'[input]\nexposures = ["{place}/field/*_cal.fits"]\nreference = "{place}/field/reference.ecsv"\n'
        f'[psf]\nsource = "{place}/field/truth/stdpsf"\n[run]\ndirectory = "{place / "run"}"\n'
        f'[distortion]\nsource = "wcs"\n[photometry]\nzero_points = {{niriss_f090w = {ZERO_POINT}}}\n'
        f"[artificial_stars]\nn = 400\nmagnitudes = {{{NEW} = [18.0, 25.0]}}\n"
    )
    # Stage by stage: the report takes longer than they do.
    for name in STAGES:
        command("stage", name, place / "field.toml", "--cluster", "none")
    return RunFolder(place / "run")


def truth(run: RunFolder, epoch: float) -> tuple[Table, np.ndarray]:
    stars = Table.read(run.root.parent / "field" / "truth" / "stars.ecsv")
    years = (epoch - stars.meta["ref_epoch"]) / 1000
    return stars, np.column_stack([stars["xi"] + stars["pm_xi"] * years, stars["eta"] + stars["pm_eta"] * years])


def matched(run: RunFolder) -> tuple[Table, np.ndarray, Table, np.ndarray]:
    """Catalogue, rows, truth and their stars: within 15 mas at the catalogue's epoch, a quarter of a pixel."""
    catalog = read_table(run.catalog)
    stars, place = truth(run, float(catalog["ref_epoch"][0]))
    plane = np.column_stack(sky_to_tangent(catalog["ra"], catalog["dec"], stars.meta["ra0"], stars.meta["dec0"]))
    distance, star = cKDTree(place).query(plane)
    rows = np.flatnonzero(distance < 0.015)
    return catalog, rows, stars, star[rows]


def test_a_star_of_both_epochs_is_one_row_with_both_filters(run: RunFolder) -> None:
    catalog, rows, stars, star = matched(run)
    bright = np.array(stars["mag_F090W"])[star] < 24
    both = np.isfinite(catalog[f"{OLD}_mag"][rows]) & np.isfinite(catalog[f"{NEW}_mag"][rows])
    inside = np.array(catalog[f"{NEW}_n_exposures"])[rows] == 4
    assert np.sum(bright & inside) > 120 and np.mean(both[bright & inside]) > 0.95
    assert len(set(star[both])) == both.sum(), "no star has two rows"
    assert np.array_equal(catalog["n_epochs"][rows] == 2, both)
    assert catalog["baseline"][rows][both].min() == pytest.approx(11.83, abs=0.02)
    assert np.ptp(catalog["ref_epoch"]) == 0 and catalog["ref_epoch"][0] == pytest.approx(2022.33, abs=1e-3)
    assert catalog[f"{OLD}_mag"].info.meta["zero_point"] == catalog[f"{NEW}_mag"].info.meta["zero_point"] == ZERO_POINT
    difference = np.array(catalog[f"{OLD}_mag"] - catalog[f"{NEW}_mag"])[rows][both & bright]
    assert abs(np.median(difference)) < 0.01


def test_motions_are_those_of_the_truth_with_honest_errors(run: RunFolder) -> None:
    catalog, rows, stars, star = matched(run)
    off = np.column_stack([catalog["pmra"][rows] - stars["pm_xi"][star], catalog["pmdec"][rows] - stars["pm_eta"][star]])
    pull = off / np.column_stack([catalog["pmra_error"][rows], catalog["pmdec_error"][rows]])
    known = np.isfinite(pull).all(axis=1)
    assert known.sum() > 250 and np.all(np.abs(np.median(off[known], axis=0)) < 0.05)
    assert 0.8 < robust_width(pull[known].ravel(), 0.0) < 1.2 and np.mean(np.abs(pull[known]) > 4) < 0.03
    bright = np.array(stars["mag_F090W"])[star] < 21
    assert robust_width(off[known & bright].ravel(), 0.0) < 0.12
    assert catalog.meta["pm_zero_point"].startswith("absolute") and max(catalog.meta["pm_zero_point_error"]) < 0.05


def test_artificial_stars_move_as_most_stars_do_and_are_linked_and_fitted_as_real_ones(run: RunFolder) -> None:
    stars, catalog = read_table(run.artificial_stars), read_table(run.catalog)
    assert np.ptp(stars["in_pmra"]) == 0 and abs(stars["in_pmra"][0] + 19.0) < 0.2 and abs(stars["in_pmdec"][0] - 4.0) < 0.2
    bright = np.asarray(stars[f"in_{NEW}_mag"] < 22.5)
    good = np.asarray(stars["recovered"]) & bright
    # Put in where they stood at each epoch: 3.5 pixels apart. Stars that one epoch alone holds have no motion.
    held = np.asarray(np.isfinite(stars[f"in_{OLD}_mag"]) & np.isfinite(stars[f"in_{NEW}_mag"]))
    both = good & held
    assert both.sum() > 150 and good.sum() > 0.9 * bright.sum()
    assert np.mean(stars["out_n_epochs"][both] == 2) > 0.97 and np.all(np.isnan(stars["out_pmra"][stars["out_n_epochs"] < 2]))
    off = np.column_stack([stars[f"out_{name}"] - stars[f"in_{name}"] for name in ("pmra", "pmdec")])
    pull = off / np.column_stack([stars["out_pmra_error"], stars["out_pmdec_error"]])
    # Where noise counts; bright stars' errors have what maps and reference leave in the real ones, which is not put in.
    noisy = held & np.asarray(stars["recovered"] & (stars[f"in_{NEW}_mag"] > 23.5))
    assert noisy.sum() > 40 and 0.7 < robust_width(pull[noisy].ravel(), 0.0) < 1.25
    assert robust_width(pull[both].ravel(), 0.0) < 1.0 and np.all(np.abs(np.median(pull[both], axis=0)) < 0.25)
    # The same errors as those of real stars as bright.
    real = np.isfinite(catalog["pmra_error"]) & (catalog[f"{NEW}_mag"] > 20) & (catalog[f"{NEW}_mag"] < 22)
    mine = both & (stars[f"out_{NEW}_mag"] > 20) & (stars[f"out_{NEW}_mag"] < 22)
    assert np.median(stars["out_pmra_error"][mine]) == pytest.approx(np.median(catalog["pmra_error"][real]), rel=0.2)


def test_residual_images_of_each_epoch_are_noise_where_stars_have_moved(run: RunFolder) -> None:
    scene = RunScene(run, "wcs", 5.0)
    assert sorted(scene.bands()) == [OLD, NEW]
    for band, names in scene.bands().items():
        result = scene.residual(names[0])
        assert result.band == band
        pull = (result.residual - result.local_sky()) / np.sqrt(result.variance())
        x, y, _ = result.placement(*scene.epoch_positions(names[0]))
        ny, nx = result.residual.shape
        chosen = np.flatnonzero((x > 3) & (x < nx - 4) & (y > 3) & (y < ny - 4) & (np.array(scene.catalog[f"{band}_flux"]) > 20))
        assert len(chosen) > 60
        cores = [pull[int(y[k] + 0.5) - 1 : int(y[k] + 0.5) + 2, int(x[k] + 0.5) - 1 : int(x[k] + 0.5) + 2] for k in chosen]
        # A star subtracted half a pixel off leaves tens of sigmas.
        assert np.nanmedian(np.square(cores)) < 1.5


def test_the_report_shows_the_motions(run: RunFolder) -> None:
    data = load_run(run)
    alts = [image.alt for image in plot_motions(data)]
    assert alts[0] == "Vector-point diagram" and len(alts) == 2
    assert re.search(r"^Zero point absolute.* to 0\.0\d+ and 0\.0\d+ mas/yr by \d+ of its stars\.$", describe_zero_point(data))


def test_members_are_those_of_the_truth_and_their_motions_relative(run: RunFolder) -> None:
    catalog, rows, stars, star = matched(run)
    table = read_table(run.motions)
    assert np.array_equal(table["id"], catalog["id"])
    probability, member = np.array(catalog["member_probability"])[rows], np.array(stars["member"], bool)[star]
    known = np.isfinite(probability)
    assert known.sum() > 250
    assert np.mean((probability[known] > 0.5) == member[known]) > 0.95
    bulk = np.array([np.mean(stars[name][star[member]]) for name in ("pm_xi", "pm_eta")])
    true = np.column_stack([stars["pm_xi"][star], stars["pm_eta"][star]])
    off = np.column_stack([table["pmra_relative"][rows], table["pmdec_relative"][rows]]) - true
    pull = (off + bulk) / np.column_stack([table["pmra_relative_error"][rows], table["pmdec_relative_error"][rows]])
    good = np.isfinite(pull).all(axis=1)
    assert 0.8 < robust_width(pull[good].ravel(), 0.0) < 1.2
    absolute = table.meta["motions"]["absolute"]
    assert np.abs((np.array(absolute["motion"]) - bulk) / absolute["error"]).max() < 4


def test_single_positions_agree_with_even_motions(run: RunFolder) -> None:
    catalog, table = read_table(run.catalog), read_table(run.motions)
    degrees = np.array(table["motion_degrees"])
    use = np.isfinite(table["motion_chi2"]) & (degrees >= 8)
    assert use.sum() > 200
    assert 0.7 < np.median(np.array(table["motion_chi2"])[use] / degrees[use]) < 1.2
    off = (np.array(table["pmra_slope"]) - catalog["pmra"])[use] / np.array(catalog["pmra_error"])[use]
    assert robust_width(off, 0.0) < 0.5
    assert np.median(np.abs(np.array(table["pmra_two_epoch"]) - table["pmra_slope"])[use]) < 0.01
    assert (np.array(table["pmra_slope_error"])[use] >= 0.999 * np.array(catalog["pmra_error"])[use]).all()


def test_the_detector_has_a_map_at_each_epoch(run: RunFolder) -> None:
    cells, maps = read_table(run.detector_maps), read_table(run.motions).meta["motions"]["detector_maps"]
    assert set(cells["detector_epoch"]) == set(maps) == {"NIRISS_2010.50", "NIRISS_2022.33"}
    for name, figures in maps.items():
        mine = cells[cells["detector_epoch"] == name]
        assert mine["x"].min() > 0 and mine["x"].max() < 256 and 2 * len(mine) == figures["before"]["degrees"]
        # The headers' distortion is the simulator's here: there is nothing to find beyond noise.
        assert figures["after"]["chi2"] < 2.0 * figures["after"]["degrees"]


def test_one_tile_runs_by_hand_after_a_complete_run(run: RunFolder) -> None:
    before = run.catalog.read_bytes()
    text = command("debug", run.root, "--tile", "find_0")
    assert re.search(r"patch -?\d+_-?\d+: \d+ stars found", text) and re.search(r"^find_0: stars \d+", text, re.MULTILINE)
    assert command("debug", run.root, "--tile", "1").count("measure_1") >= 3
    assert run.catalog.read_bytes() == before and not (run.work / "second_pass_files").exists()
    command("status", run.root)
    for wrong, message in (("sweep_4711", "no tile 4711"), ("mend_1", "no part 'mend_1'")):
        result = CliRunner().invoke(app, ["debug", str(run.root), "--tile", wrong])
        assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


def test_a_tile_that_fails_is_named_as_debug_wants_it(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpm.stages.second_pass import tasks

    def poison(*_: object) -> None:
        raise RuntimeError("bad pixels")

    before = run.catalog.read_bytes()
    shutil.rmtree(run.work / "second_pass")
    stage = ["stage", "second_pass", str(run.root), "--cluster", "none"]
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "find_stars", poison)
        failed = CliRunner().invoke(app, stage)
        name = re.search(r"(find_\d+): RuntimeError: bad pixels", failed.output)
        assert failed.exit_code == 1 and name
        looked = CliRunner().invoke(app, ["debug", str(run.root), "--tile", name[1]])
        assert looked.exit_code == 1 and "in poison" in looked.output
    # What the stopped run left stays for the run that goes on.
    assert (run.work / "second_pass_files" / "pixels").is_dir()
    command("debug", run.root, "--tile", name[1])
    command(*stage)
    # The catalogue is a new one, without the columns that the motions stage adds: that stage knows.
    assert "member_probability" not in read_table(run.catalog).colnames
    command("stage", "motions", run.root, "--cluster", "none")
    assert run.catalog.read_bytes() == before
