"""The motions stage on made-up run folders of one epoch: an older catalogue as first epoch, and bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from motion_catalogs import make_field, pull_width

from dpm.io.run_folder import RunFolder
from dpm.io.tables import catalog_columns, read_table, write_table
from dpm.models.columns import EXPOSURE_COLUMNS
from dpm.models.master_frame import MasterFrame
from dpm.models.options import InputOptions, MotionsOptions, Options
from dpm.report.data import load_run
from dpm.report.figures import style
from dpm.report.plots_members import load_members, member_figures, member_table
from dpm.science.motions import MotionError, motion_vectors
from dpm.stages import motions

EPOCH, FIRST, BULK = 2022.33, 2006.39, (1.9, 0.3)
FRAME = MasterFrame(80.49, -69.4978, 0.065, 900.0, 900.0, 1800, 1800)
ERROR = 0.3  # mas, of a position, both catalogues


def place(field, rng, years):
    """Sky positions with errors, ``years`` after those of the field."""
    arcsec = field.position + 1e-3 * (field.true * years + rng.normal(0, ERROR, field.position.shape))
    return FRAME.pixel_to_sky(FRAME.x0 - arcsec[:, 0] / FRAME.scale, FRAME.y0 + arcsec[:, 1] / FRAME.scale)


@pytest.fixture
def run(tmp_path):
    """A catalogue of one epoch, and a reference of 2006 with motions; returns the folder, its options and the field."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    field, rng = make_field(n=900, seed=31, bulk=BULK), np.random.default_rng(5)
    ra, dec = place(field, rng, 0.0)
    x, y = FRAME.sky_to_pixel(ra, dec)
    n = len(ra)
    catalog = Table({"id": np.arange(1, n + 1), "ra": ra, "dec": dec, "x": x, "y": y, "flags": np.zeros(n, np.int32)})
    for name in ("ra_error", "dec_error"):
        catalog[name] = np.full(n, ERROR)
    catalog["ra_dec_corr"], catalog["ref_epoch"] = np.zeros(n), np.full(n, EPOCH)
    for number, band in enumerate(("niriss_f090w", "niriss_f150w")):
        catalog[f"{band}_mag"] = field.mag - number * (0.5 + 0.1 * (field.mag - 19))
        catalog[f"{band}_mag_error"] = np.full(n, 0.01)
    catalog.meta["epochs"] = [EPOCH]
    write_table(folder.catalog, catalog, catalog_columns(("niriss_f090w", "niriss_f150w")))
    exposures = Table({"exposure": ["a"], "detector": ["NIRISS"], "band": ["niriss_f090w"]})
    exposures["pixel_scale"], exposures["epoch"] = [0.0656], [EPOCH]
    write_table(folder.exposures, exposures, EXPOSURE_COLUMNS, {"master_frame": FRAME.to_meta()})
    old_ra, old_dec = place(field, rng, FIRST - EPOCH)
    reference = Table({"ra": old_ra, "dec": old_dec, "ref_epoch": np.full(n, FIRST)})
    reference["ra_error"] = reference["dec_error"] = ERROR
    reference["pmra"], reference["pmdec"] = (field.true + rng.normal(0, 0.05, (n, 2))).T
    reference["pmra_error"] = reference["pmdec_error"] = 0.05
    reference.write(tmp_path / "reference.ecsv")
    return folder, Options(input=InputOptions(reference=str(tmp_path / "reference.ecsv"))), field


def execute(folder, options, **keys):
    options = replace(options, motions=MotionsOptions(**keys))
    return motions.finalise(folder, options, [motions.work(task) for task in motions.plan(folder, options)])


def test_an_older_catalogue_is_the_first_epoch(run):
    folder, options, field = run
    summary = execute(folder, options, priors=True)
    assert summary["files"] == ["tables/motions.parquet"]
    catalog, table = read_table(folder.catalog), read_table(folder.motions)
    motion, covariance = motion_vectors(catalog)
    assert pull_width(motion, field.true, covariance) == pytest.approx(1.0, abs=0.06)
    assert np.median(np.sqrt(covariance[:, 0, 0])) == pytest.approx(ERROR * np.sqrt(2) / (EPOCH - FIRST), rel=0.01)
    chosen = np.array(catalog["member_probability"]) > 0.5
    assert field.member[chosen].mean() > 0.99
    assert chosen[field.member].mean() > 0.98
    relative, spread = motion_vectors(table, ("pmra_relative", "pmdec_relative"))
    assert pull_width(relative, field.true - BULK, spread) == pytest.approx(1.0, abs=0.06)
    cluster, zero = table.meta["motions"]["cluster"], table.meta["motions"]["absolute"]
    assert abs(cluster["sigma"] - 0.03) < 3 * cluster["sigma_error"]
    assert np.abs((np.array(zero["motion"]) - BULK) / zero["error"]).max() < 3
    assert catalog["pmra"].unit == "mas / yr" and catalog.meta["pm_zero_point"].startswith("absolute")
    error = np.array(table["pmra_combined_error"])
    assert np.median(error) < 0.05 and np.median(error) < np.median(catalog["pmra_error"])
    pull = (np.array(table["pmra_combined"]) - field.true[:, 0]) / error
    assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1.0, abs=0.1)


def test_the_catalogue_holds_what_the_last_configuration_says(run):
    folder, options, _ = run
    before = read_table(folder.catalog)
    execute(folder, options)
    first = folder.catalog.read_bytes()
    execute(folder, options)
    assert folder.catalog.read_bytes() == first
    execute(folder, replace(options, input=InputOptions()))
    after = read_table(folder.catalog)
    assert sorted(after.colnames) == sorted(before.colnames)
    assert after.meta == before.meta


def test_one_epoch_alone_has_no_motions_and_says_so(run):
    folder, options, _ = run
    summary = execute(folder, replace(options, input=InputOptions()))
    assert "of one epoch" in summary["words"]
    assert not folder.motions.exists()
    reference = Table.read(options.input.reference)
    reference["ref_epoch"] = EPOCH
    reference.write(options.input.reference, overwrite=True)
    assert "of one epoch" in execute(folder, options)["words"]
    with pytest.raises(MotionError, match="no motions in one epoch"):
        execute(folder, options, reference=options.input.reference)


def test_few_stars_and_none_are_no_failure(run):
    folder, options, _ = run
    whole = read_table(folder.catalog)
    for n, words in ((20, "no relative motions"), (0, "the catalogue is empty")):
        write_table(folder.catalog, whole[:n], None)
        assert words in execute(folder, options)["words"]
    write_table(folder.catalog, whole[:150], None)
    assert execute(folder, options)["stars"] > 100
    with style():
        data = load_run(folder)
        assert member_figures(data, load_members(data))


def test_a_reference_without_motions_gives_relative_ones(run):
    folder, options, field = run
    reference = Table.read(options.input.reference)
    reference.remove_columns(["pmra", "pmdec", "pmra_error", "pmdec_error"])
    reference.write(options.input.reference, overwrite=True)
    execute(folder, options, max_motion=6.0)
    catalog, table = read_table(folder.catalog), read_table(folder.motions)
    assert catalog.meta["pm_zero_point"].startswith("relative")
    assert "absolute" not in table.meta["motions"]
    relative, spread = motion_vectors(table, ("pmra_relative", "pmdec_relative"))
    assert pull_width(relative, field.true - BULK, spread) == pytest.approx(1.0, abs=0.08)
    with pytest.raises(MotionError, match="reference catalogue with motions"):
        execute(folder, options, priors=True)


def test_members_by_list_and_by_region_of_the_cmd(run, tmp_path):
    folder, options, field = run
    catalog = read_table(folder.catalog)
    catalog[field.member][::2]["ra", "dec"].write(tmp_path / "members.ecsv")
    execute(folder, options, members=str(tmp_path / "members.ecsv"))
    chosen = np.array(read_table(folder.motions)["reference"])
    assert 100 < chosen.sum() <= field.member[::1].sum() / 2 + 1
    assert field.member[chosen].all()
    colour = np.array(catalog["niriss_f090w_mag"] - catalog["niriss_f150w_mag"])
    polygon = ((0.5, 18.0), (1.0, 18.0), (1.0, 24.0), (0.5, 24.0))
    execute(folder, options, cmd_bands=("niriss_f090w", "niriss_f150w"), cmd_polygon=polygon)
    chosen = np.array(read_table(folder.motions)["reference"])
    assert chosen.sum() > 50 and colour[chosen].max() < 1.0
    with pytest.raises(MotionError, match="there is no niriss_f444w"):
        execute(folder, options, cmd_bands=("niriss_f090w", "niriss_f444w"), cmd_polygon=polygon)
    with pytest.raises(MotionError, match="needs cmd_bands"):
        execute(folder, options, cmd_polygon=polygon)
    Table({"ra": [10.0], "dec": [10.0]}).write(tmp_path / "far.ecsv")
    with pytest.raises(MotionError, match="none of its 1 stars"):
        execute(folder, options, members=str(tmp_path / "far.ecsv"))


def test_parallaxes_need_exposures_of_several_epochs(run):
    folder, options, _ = run
    with pytest.raises(MotionError, match="several epochs"):
        execute(folder, options, parallax=True)


def test_the_report_shows_members_and_reference(run):
    folder, options, _ = run
    execute(folder, options, corrections=True, neighbors=50)
    data = load_run(folder)
    stars = load_members(data)
    with style():
        titles = [image.alt for image in member_figures(data, stars)]
    for title in ("Vector-point diagrams", "Errors of relative", "Relative motion", "Colour-magnitude", "Motions of this run",
                  "Mean motion", "Dispersion of members", "Motions along"):  # fmt: skip
        assert any(name.startswith(title) for name in titles), title
    rows = {row[0]: row[1] for row in member_table(stars).rows}
    assert float(rows["intrinsic dispersion, one axis"].split()[0]) == pytest.approx(0.03, abs=0.006)
    catalog = read_table(folder.catalog)
    write_table(folder.catalog, catalog[:-1], None)
    data = load_run(folder)
    assert load_members(data) is None
    assert "of another catalogue" in data.warnings[-1]
