"""The atlas of a run: the same files whoever did the work, finer pixels, and charts from the command line."""

import shutil

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

import dpm
from dpm.cli.main import app
from dpm.execute import create_executor
from dpm.io.tables import read_table
from dpm.models.options import ClusterOptions
from dpm.run.single import finalise_stage, run_partition, run_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BAND = "wfc3uv_f814w"


@pytest.fixture(scope="module")
def run(shared_data, tmp_path_factory):
    """Three real exposures, pixels of two thirds of theirs, files that cut the field."""
    folder, real = tmp_path_factory.mktemp("atlas_run"), shared_data / "real"
    path = folder / "field.toml"
    path.write_text(
        f'[input]\nexposures = ["{real}/wfc3uvis_f814w_3dithers/*_flc.fits"]\n'
        f'[psf]\nsource = "{real}/stdpsf/STDPSF_WFC3UV_F814W.fits"\n'
        "[frame]\nmin_exposures = 2\n[atlas]\nmake = true\nmax_side = 1024\nscale = 0.0264\npixfrac = 0.8\n"
    )
    result = CliRunner().invoke(app, ["run", str(path), "--cluster", "threads"])
    assert result.exit_code == 0, result.output
    return dpm.open(path)


def planes(run):
    return {plane: run.atlas.cutout(BAND, plane=plane)[0] for plane in ("SCI", "ERR", "WHT", "NEXP")}


def test_same_files_in_partitions(run):
    options, folder = run.options, run.folder
    assert run.atlas.stacks == [BAND] and len(run.atlas.index) > 1
    before, png = planes(run), (folder.images / "atlas_grey.png").read_bytes()
    executor = create_executor("none", ClusterOptions())
    shutil.rmtree(folder.work / "atlas")
    shutil.rmtree(folder.images)
    for index in (1, 0):
        assert run_partition(folder, options, executor, "atlas", index, 2) >= 1
    assert finalise_stage(folder, options, executor, "atlas")["stacks"] == 1
    for name, plane in planes(run).items():
        assert np.array_equal(plane, before[name], equal_nan=True)
    assert (folder.images / "atlas_grey.png").read_bytes() == png
    assert run_stage(folder, options, executor, "atlas")["stacks"] == 1
    assert not any(path.is_dir() for path in (folder.work / "atlas_files").iterdir())


def test_charts_from_the_command_line(run):
    star = int(read_table(run.folder.catalog, ["id"])["id"][5])
    result = CliRunner().invoke(app, ["chart", str(run.folder.root), "--id", str(star), "--stack", BAND])
    assert result.exit_code == 0 and (run.folder.charts / f"chart_star_{star}.png").is_file()
    result = CliRunner().invoke(app, ["chart", str(run.folder.root), "--id", "99999999"])
    assert result.exit_code == 2 and "no star 99999999" in result.output
    assert CliRunner().invoke(app, ["chart", str(run.folder.root)]).exit_code == 2
    assert run.chart(star)[0].is_file()
    with fits.open(run.atlas.path(0)) as hdulist:
        assert len(hdulist["EXPOSURES"].data) == 3
