"""A run with artificial stars: their completeness is that of the real stars, and nothing depends on who did the work."""

import errno
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.table import Table
from scipy.spatial import Delaunay, cKDTree
from typer.testing import CliRunner
from worker_killer import killing_one

from dpm.cli.main import app
from dpm.config import load_options
from dpm.execute import create_executor
from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import write_arrays
from dpm.io.tables import read_table
from dpm.models.options import ClusterOptions
from dpm.run.errors import DiskFullError
from dpm.run.parts import Parts
from dpm.run.single import finalise_stage, run_partition, run_stage
from dpm.science import apply_selections, read_selections
from dpm.simulate import Effects, SimulationOptions, Visit, simulate_field
from dpm.stages import artificial_stars
from dpm.stages.artificial_stars import prepare, recover

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

N = 1200
BANDS = ("niriss_f090w", "niriss_f150w")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six exposures of 256 x 256 pixels with a star in 30 pixels, and artificial stars to beyond the faintest."""
    folder = tmp_path_factory.mktemp("artificial")
    effects = Effects(galaxies=0, fine_distortion=False, filter_distortion=False)
    options = SimulationOptions(
        visits=(Visit(n_dithers=3, dither=0.05),), n_pixels=256, n_stars=2600, cluster_radius=0.0, seed=6, effects=effects
    )
    simulate_field(folder / "field", options)
    config = folder / "field.toml"
    config.write_text(
        f'[input]\nexposures = ["{folder}/field/*_cal.fits"]\nreference = "{folder}/field/reference.ecsv"\n'
        f'[psf]\nsource = "{folder}/field/truth/stdpsf"\n[run]\ndirectory = "{folder / "run"}"\n'
        f'[distortion]\nsource = "wcs"\n[artificial_stars]\nn = {N}\nmagnitudes = {{niriss_f090w = [22.0, 30.0]}}\n'
    )
    result = CliRunner().invoke(app, ["run", str(config), "--cluster", "none"])
    assert result.exit_code == 0, result.output
    return load_options(config), RunFolder(folder / "run"), folder / "field"


def again(run, executor):
    """The table, made once more."""
    options, folder, _ = run
    shutil.rmtree(folder.work / "artificial_stars")
    run_stage(folder, options, executor, "artificial_stars")
    return read_table(folder.artificial_stars)


def assert_same(one, other):
    assert one.colnames == other.colnames
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), err_msg=name)


def test_completeness_is_that_of_the_real_stars(run):
    _, folder, field = run
    stars, catalog = read_table(folder.artificial_stars), read_table(folder.catalog)
    truth = Table.read(field / "truth" / "stars.ecsv")
    assert len(stars) == N and np.array_equal(stars["id"], np.arange(1, N + 1))
    assert not np.any(stars["recovered"] & ~stars["found"])
    assert np.all(np.isfinite(stars["out_x"][stars["recovered"]])) and np.all(np.isnan(stars["out_x"][~stars["found"]]))
    # True stars, where and when the catalogue has them, and which of them it has.
    years = float(catalog["ref_epoch"][0]) - 2016.0
    ra = truth["ra"] + truth["pm_xi"] * years / 3.6e6 / np.cos(np.radians(truth["dec"]))
    x, y = frame_of(folder).sky_to_pixel(ra, truth["dec"] + truth["pm_eta"] * years / 3.6e6)
    inside = Delaunay(np.column_stack([stars["in_x"], stars["in_y"]])).find_simplex(np.column_stack([x, y])) >= 0
    distance, row = cKDTree(np.column_stack([catalog["x"], catalog["y"]])).query(np.column_stack([x, y]))
    got = inside & (distance < 0.5)
    offset = {}
    for band in BANDS:
        true = np.asarray(truth[f"mag_{band[-5:].upper()}"])
        difference = np.asarray(catalog[f"{band}_mag"])[row] - true
        offset[band] = np.median(difference[got & (true < 22)])
        got &= np.abs(difference - offset[band]) < 1.0
    band = BANDS[0]
    true = np.asarray(truth[f"mag_{band[-5:].upper()}"]) + offset[band]
    pulls, inserted = [], np.asarray(stars[f"in_{band}_mag"])
    for low in np.arange(22.0, 26.5, 1.0):
        real, put_in = inside & (true >= low) & (true < low + 1), (inserted >= low) & (inserted < low + 1)
        a, b = np.mean(got[real]), np.mean(stars["recovered"][put_in])
        error = np.sqrt(a * (1 - a) / real.sum() + b * (1 - b) / put_in.sum() + 0.01**2)
        pulls.append((a - b) / error)
        assert a > 0.5
    assert np.sum(np.square(pulls)) < 20.5  # chi-square of five bins, p = 0.001
    table = read_table(folder.completeness)
    assert set(np.unique(table["filter"])) == set(BANDS)
    faint = table[(table["filter"] == band) & (table["mag"] > 29.5)]
    assert np.all(faint["completeness"] < 0.1)


def frame_of(folder):
    from dpm.models.master_frame import MasterFrame

    return MasterFrame.from_meta(read_table(folder.exposures).meta["master_frame"])


def test_errors_of_recovered_stars_are_honest(run):
    _, folder, _ = run
    stars = read_table(folder.artificial_stars)
    stars = stars[stars["recovered"]]
    for band in BANDS:
        clean = (stars[f"out_{band}_neighbor_ratio"] < 0.1) & (stars[f"in_{band}_mag"] < 26)
        pull = (stars[f"out_{band}_mag"] - stars[f"in_{band}_mag"])[clean] / stars[f"out_{band}_mag_error"][clean]
        assert clean.sum() > 150
        assert 0.85 < 1.4826 * np.median(np.abs(pull)) < 1.15
        assert abs(np.median(pull)) < 0.25


def test_errors_and_skies_are_those_of_the_catalogue(run):
    _, folder, _ = run
    stars, catalog = read_table(folder.artificial_stars), read_table(folder.catalog)
    # Magnitudes at which real stars, to 26.5 in F090W, are as numerous at both ends of a bin.
    for band, lows in zip(BANDS, ((23.0, 25.0), (22.0, 23.0))):
        for low in lows:
            mags = stars[f"out_{band}_mag"], catalog[f"{band}_mag"]
            alike = [(mag > low) & (mag < low + 1) for mag in mags]
            for name in ("x_error", f"{band}_mag_error", f"{band}_sky_rms"):
                mine, real = np.nanmedian(stars[f"out_{name}"][alike[0]]), np.nanmedian(catalog[name][alike[1]])
                assert 0.85 < mine / real < 1.15
        put_in = np.asarray(stars[f"in_{band}_sky_rms"])
        known = np.isfinite(stars[f"in_{band}_mag"])
        # Lost stars have a sky as well, of the same kind as those that were found.
        assert np.all(np.isfinite(put_in[known])) and np.sum(known & ~stars["found"]) > 100
        found = np.isfinite(stars[f"out_{band}_sky_rms"])
        np.testing.assert_allclose(np.median(put_in[found] / stars[f"out_{band}_sky_rms"][found]), 1.0, atol=0.02)


def test_the_selection_treats_real_and_artificial_stars_alike(run):
    _, folder, _ = run
    cuts = read_selections(folder.selection / "cuts.ecsv")
    stars, catalog = read_table(folder.artificial_stars), read_table(folder.catalog)
    mine, real = read_table(folder.selection / "artificial_stars.parquet"), read_table(folder.selection / "catalog.parquet")
    assert np.array_equal(mine["selected"], apply_selections(stars, cuts, "recovered")) and np.array_equal(mine["id"], stars["id"])
    assert np.array_equal(real["selected"], apply_selections(catalog, cuts)) and np.array_equal(real["id"], catalog["id"])
    counts = read_table(folder.selection / "counts.parquet")
    assert counts["n_real"][-1] == real["selected"].sum() and counts["n_artificial"][-1] == mine["selected"].sum()
    assert 0.8 < mine["selected"].sum() / stars["recovered"].sum() < 0.99
    table = read_table(folder.completeness)
    of_stars = read_table(folder.selection / "completeness.parquet")
    assert np.array_equal(of_stars["id"], catalog["id"])
    known = np.isfinite(of_stars["niriss_f090w_completeness"])
    bright = known & (catalog["niriss_f090w_mag"] < 25.0)
    assert known.mean() > 0.8 and np.median(of_stars["niriss_f090w_completeness"][bright]) > 0.9
    assert np.all(of_stars["niriss_f090w_completeness_error"][known] > 0)
    # Another keep costs no artificial star: the stage before stays as it is.
    assert np.all(table["completeness_selected"] <= table["completeness"]) and "selection" not in artificial_stars.CONFIG


@pytest.fixture(scope="module")
def few(run, tmp_path_factory):
    """The run with few artificial stars, so that they can be made again and again."""
    _, folder, field = run
    place = tmp_path_factory.mktemp("few")
    shutil.copytree(folder.root, place / "run")
    config = place / "few.toml"
    text = (field.parent / "field.toml").read_text()
    config.write_text(text.replace(str(folder.root), str(place / "run")).replace(f"n = {N}", "n = 60"))
    options, folder = load_options(config), RunFolder(place / "run")
    run_stage(folder, options, create_executor("none", ClusterOptions()), "artificial_stars")
    return options, folder, config, read_table(folder.artificial_stars)


def test_a_full_disk_says_what_to_do_and_loses_nothing(few, monkeypatch):
    options, folder, _, first = few
    shutil.rmtree(folder.work / "artificial_stars")
    monkeypatch.setattr(artificial_stars, "TASK_SECONDS", 1.0)
    written = []

    def write(path, arrays):
        written.append(path)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_arrays(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(recover, "write_arrays", write)
        with pytest.raises(DiskFullError, match="free some space and run the same command again"):
            run_stage(folder, options, create_executor("none", ClusterOptions()), "artificial_stars")
    assert len(list((folder.work / "artificial_stars").glob("*/recover_*.json"))) == 2  # two files each
    run_stage(folder, options, create_executor("none", ClusterOptions()), "artificial_stars")
    assert_same(first, read_table(folder.artificial_stars))


def test_partitions_make_the_same_table_and_closing_can_be_killed(few, monkeypatch):
    options, folder, _, first = few
    shutil.rmtree(folder.work / "artificial_stars")
    monkeypatch.setattr(artificial_stars, "TASK_SECONDS", 1.0)
    executor = create_executor("none", ClusterOptions())
    shares = [run_partition(folder, options, executor, "artificial_stars", index, 3) for index in (2, 0, 1)]
    assert min(shares) > 0
    with monkeypatch.context() as patch:
        # Killed after the files are removed and before the stage counts as complete.
        patch.setattr(Parts, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finalise_stage(folder, options, executor, "artificial_stars")
    finalise_stage(folder, options, executor, "artificial_stars")
    assert_same(first, read_table(folder.artificial_stars))


def test_a_run_killed_with_its_scheduler_goes_on(few):
    _, folder, config, first = few
    shutil.rmtree(folder.work / "artificial_stars")
    command = [sys.executable, "-m", "dpm", "stage", "artificial_stars", str(config), "--cluster"]
    process = subprocess.Popen([*command, "local", "--workers", "2"], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(folder.work.glob("artificial_stars/*/recover_*.json")):
        time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.work.glob("artificial_stars/*/recover_*.json")}
    subprocess.run([*command, "none"], check=True, stderr=subprocess.DEVNULL)
    assert_same(first, read_table(folder.artificial_stars))
    assert kept and all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_the_same_table_for_any_tiles_and_workers_and_after_a_kill(run, monkeypatch):
    _, folder, _ = run
    first = read_table(folder.artificial_stars)
    monkeypatch.setattr(prepare, "TILE_SECONDS", 1e-6)
    monkeypatch.setattr(artificial_stars, "TASK_SECONDS", 1e-3)
    assert_same(first, again(run, create_executor("none", ClusterOptions())))
    monkeypatch.setattr(artificial_stars, "TASK_SECONDS", 0.5)
    executor = create_executor("local", ClusterOptions(workers=2))
    try:
        with killing_one(folder.work, "artificial_stars_files/found/*.arrow"):
            assert_same(first, again(run, executor))
    finally:
        executor.close()
