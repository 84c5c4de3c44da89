"""The distortion stage: files in a run folder, their use by the frame stage, and the independent simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from frame_fixture import Field, dithers

from dpm.io.distortion_files import errors_file, read_errors, solution_file, write_errors
from dpm.io.errors import InputError
from dpm.io.stdgdc import read_stdgdc, write_stdgdc
from dpm.io.tables import read_columns, read_table
from dpm.models.distortion import MapDistortion
from dpm.models.distortion_errors import DistortionErrors
from dpm.models.flags import StarFlag
from dpm.models.options import DistortionOptions, FrameOptions, InputOptions, Options
from dpm.stages import distortion, frame
from dpm.stages.distortion.run import pair_id
from dpm.stages.frame.geometry import find_map, stdgdc_file
from dpm.stages.psf.field import link_candidates

SOLVE = DistortionOptions(source="solve")


def run(folder, options: Options) -> tuple[dict, Table]:
    """Distortion and frame stages of a run folder."""
    summaries = []
    for stage in (distortion, frame):
        tasks = stage.plan(folder, options)
        summaries.append(stage.finalise(folder, options, [stage.work(task) for task in tasks]))
    return summaries[0], read_table(folder.frame_catalog)


@pytest.fixture(scope="module")
def field() -> Field:
    """Eight dithers of a field whose header leaves half a pixel of distortion."""
    made = Field(n_stars=900, noise=0.002)
    made.shots = [replace(shot, distortion=0.4) for shot in dithers(8, step=3.0)]
    return made


def test_other_sources_give_no_work(tmp_path):
    for source in ("wcs", str(tmp_path)):
        options = Options(distortion=DistortionOptions(source=source))
        assert distortion.plan(None, options) == []
        assert distortion.finalise(None, options, []) == {"source": source}


def test_solved_maps_are_written_and_used(tmp_path, field):
    folder, _ = field.write(tmp_path / "run")
    options = Options(
        input=InputOptions(reference=str(field.reference(tmp_path / "reference.ecsv"))), frame=FrameOptions(), distortion=SOLVE
    )
    summary, catalog = run(folder, options)
    assert set(summary["files"]) >= {"calibration/distortion/STDGDC_NIRISS_F090W.fits", "calibration/distortion/errors_NIRISS.fits"}
    path = stdgdc_file(folder.distortion, "NIRISS", "F090W")
    with fits.open(path) as hdulist:
        assert hdulist[0].header["DPMPAIR"] == "none" and hdulist["XGC"].data.shape == (field.size, field.size)
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(10, 189, 9), np.linspace(10, 189, 9)))
    back = read_stdgdc(path).inverse(*read_stdgdc(path).forward(x, y))
    assert np.max(np.hypot(back[0] - x, back[1] - y)) < 1e-4
    rows, _, east, north = field.compare(catalog, 2022.33)
    errors = np.array([catalog["ra_error"], catalog["dec_error"]])[:, rows]
    bright = np.hypot(*errors) < 1.5
    off = np.array([east, north])[:, bright]
    # The header alone leaves 0.2 pixel, 13 mas.
    assert bright.sum() > 100 and np.std(off) < 0.6
    assert 0.6 < np.std(off / errors[:, bright]) < 1.4
    assert not (catalog["flags"] & int(StarFlag.POSITION_RELATIVE)).any()
    with fits.open(solution_file(folder.distortion, "NIRISS")) as hdulist:
        table = Table(hdulist["UNITS"].data)
        assert len(table) == 8 and np.all(table["pixel_scale_error"] > 0)
        before, after = hdulist["F090W_START"].data, hdulist["F090W_POLYNOMIAL"].data
        # Cells hold one or two stars of 0.01 pixel: their own noise is what the polynomial leaves.
        assert np.nanstd(before[0]) > 0.05
        assert np.nanstd(after[0]) < 0.018


def test_without_a_solution_the_header_counts(tmp_path):
    few = Field(n_stars=6)
    few.shots = dithers(4)
    folder, _ = few.write(tmp_path / "run")
    summary, catalog = run(folder, Options(distortion=SOLVE))
    assert summary["files"] == [] and "too few stars" in summary["warnings"][0]
    assert len(catalog) and (catalog["flags"] & int(StarFlag.POSITION_RELATIVE)).all()
    assert find_map("solve", "NIRISS", "F090W", folder.distortion) is None


def test_errors_there_and_back(tmp_path):
    rng = np.random.default_rng(4)
    nodes = np.linspace(-0.5, 99.5, 5)
    covered = np.ones((5, 5), dtype=bool)
    covered[0, 0] = False
    maps, transforms = {"F090W": rng.normal(size=(6, 2, 5, 5))}, {"a_NIRISS": rng.normal(size=(6, 4))}
    errors = DistortionErrors(nodes, nodes, maps, transforms, {"F090W": covered})
    write_errors(errors_file(tmp_path, "NIRISS"), errors)
    again = read_errors(errors_file(tmp_path, "NIRISS"))
    np.testing.assert_allclose(again.maps["F090W"], errors.maps["F090W"], atol=1e-6)
    np.testing.assert_allclose(again.transforms["a_NIRISS"], errors.transforms["a_NIRISS"])
    assert list(again.is_covered("F090W", np.array([3.0, 60.0]), np.array([3.0, 3.0]))) == [False, True]
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    moved = again.on_frame("b", "F090W", turn, nodes[1:2], nodes[2:3], np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(moved[:, 0, 0], -again.maps["F090W"][:, 1, 2, 1])
    np.testing.assert_allclose(moved[:, 1, 0], again.maps["F090W"][:, 0, 2, 1])
    with pytest.raises(InputError, match="Run the stage distortion again"):
        read_errors(tmp_path / "none.fits")


def test_pair_id_is_the_keyword_or_a_hash(tmp_path):
    assert pair_id(tmp_path / "none.fits") == "none"
    path = tmp_path / "psf.fits"
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(path)
    assert len(pair_id(path)) == 16
    fits.setval(path, "DPMPAIR", value="abc")
    assert pair_id(path) == "abc"


def test_the_epsf_build_takes_no_map_of_an_earlier_run(tmp_path, field):
    folder, _ = field.write(tmp_path / "run")
    tables = [read_columns(path, ["x", "y", "area"]) for path in sorted(folder.detections.glob("*.parquet"))]
    rows = [np.flatnonzero(np.isfinite(table["x"])) for table in tables]
    raw = [np.column_stack([table["x"], table["y"]])[row] for table, row in zip(tables, rows)]
    area = [np.asarray(table["area"])[row] for table, row in zip(tables, rows)]
    first = link_candidates(folder, Options(distortion=SOLVE), folder.detections, rows, raw, area)[0]
    y, x = np.mgrid[0.0 : field.size, 0.0 : field.size]
    wrong = MapDistortion(x + 1e-4 * (x - 50) ** 2, y + 1e-4 * (y - 50) ** 2, np.zeros_like(x))
    folder.distortion.mkdir(parents=True, exist_ok=True)
    write_stdgdc(stdgdc_file(folder.distortion, "NIRISS", "F090W"), wrong, {"DETECTOR": "NIRISS"})
    again = link_candidates(folder, Options(distortion=SOLVE), folder.detections, rows, raw, area)[0]
    assert np.array_equal(again.master, first.master)
