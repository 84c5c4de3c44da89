"""Files and settings that cannot be used: a clear error with file and key, and nothing written."""

from __future__ import annotations

import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exposure_mocks import write_ccd, write_jwst

from dpm.execute.local import SerialExecutor
from dpm.io.cubes import read_exposure
from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.models.options import InputOptions, Options
from dpm.run.errors import DiskFullError
from dpm.run.pipeline import run_pipeline
from dpm.stages import ingest


def attempt(root: Path, *patterns: str | Path, **settings: Any) -> InputError:
    """Plan and work; the error that must come."""
    folder = RunFolder(root / "run")
    options = Options(input=InputOptions(exposures=tuple(str(pattern) for pattern in patterns), **settings))
    with pytest.raises(InputError) as caught:
        for task in ingest.plan(folder, options):
            ingest.work(task)
    return caught.value


@pytest.mark.parametrize("key", ["INSTRUME", "DETECTOR", "FILTER", "EFFEXPTM", "EXPMID", "TELESCOP"])
def test_missing_primary_keyword(tmp_path: Path, key: str) -> None:
    header = {"XPOSURE": None} if key == "EFFEXPTM" else {}
    path = write_jwst(tmp_path / "a_cal.fits", primary={key: None}, header=header)
    error = attempt(tmp_path, path)
    assert (error.file, error.key) == (str(path), key) and "missing" in error.problem
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["BUNIT", "PHOTMJSR", "CRVAL1", "CTYPE2"])
def test_missing_image_keyword(tmp_path: Path, key: str) -> None:
    path = write_jwst(tmp_path / "a_cal.fits", header={key: None})
    error = attempt(tmp_path, path)
    assert (error.file, error.key) == (str(path), key)


@pytest.mark.parametrize("key", ["CCDCHIP", "BUNIT"])
def test_missing_hst_keyword(tmp_path: Path, key: str) -> None:
    error = attempt(tmp_path, write_ccd(tmp_path / "a_flc.fits", header={key: None}))
    assert error.key == key


@pytest.mark.parametrize("name", ["SCI", "DQ"])
def test_missing_extension(tmp_path: Path, name: str) -> None:
    error = attempt(tmp_path, write_jwst(tmp_path / "a_cal.fits", omit=(name,)))
    assert error.key == f"{name},1" and "missing" in error.problem


def test_no_noise_at_all(tmp_path: Path) -> None:
    error = attempt(tmp_path, write_jwst(tmp_path / "a_cal.fits", omit=("ERR", "VAR_POISSON", "VAR_RNOISE")))
    assert error.key == "VAR_POISSON" and "input.gain" in error.advice
    error = attempt(tmp_path, write_ccd(tmp_path / "a_flc.fits", chips=(1,), omit=("ERR",)))
    assert error.key == "ERR,1" and "input.read_noise" in error.advice


def test_truncated(tmp_path: Path) -> None:
    path = write_jwst(tmp_path / "a_cal.fits")
    content = path.read_bytes()
    for length in (len(content) - 10000, len(content) // 2, 3000):
        path.write_bytes(content[:length])
        error = attempt(tmp_path, path)
        assert error.file == str(path)
        assert "again" in error.advice or "missing" in error.problem


def test_not_fits(tmp_path: Path) -> None:
    path = tmp_path / "a_cal.fits"
    for content in (b"", b"hello", b"SIMPLE  =                    T" + b" " * 50):
        path.write_bytes(content)
        error = attempt(tmp_path, path)
        assert error.file == str(path) and error.key in ("SIMPLE", "TELESCOP", "PRIMARY")


def test_all_nan(tmp_path: Path) -> None:
    path = write_jwst(tmp_path / "a_cal.fits", sci=np.full((64, 80), np.nan))
    error = attempt(tmp_path, path)
    assert error.file == str(path) and error.key == "SCI,1" and "NaN" in error.problem


def test_all_flagged(tmp_path: Path) -> None:
    error = attempt(tmp_path, write_jwst(tmp_path / "a_cal.fits", dq=np.ones((64, 80))))
    assert error.key == "DQ,1"


def test_another_target(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_jwst(tmp_path / f"a{number}_cal.fits", dec=-69.5 + 0.001 * number)
    stray = write_jwst(tmp_path / "b_cal.fits", dec=-68.0, primary={"TARGNAME": "ELSEWHERE"})
    error = attempt(tmp_path, tmp_path / "*_cal.fits")
    assert error.file == str(stray) and "ELSEWHERE" in error.problem and "arcmin" in error.problem
    assert not (tmp_path / "run").exists()


def test_two_instruments_never_share_a_cube(tmp_path: Path) -> None:
    write_jwst(tmp_path / "a_cal.fits")
    write_ccd(tmp_path / "b_flc.fits", chips=(1,))
    options = Options(input=InputOptions(exposures=(str(tmp_path / "*.fits"),)))
    assert len(ingest.plan(RunFolder(tmp_path / "run"), options)) == 2
    assert {path.name.partition("_")[0] for path in (tmp_path / "run" / "cubes").glob("*.zarr")} == {"NIRISS", "WFC1"}


def test_one_filter_in_two_units_is_named(tmp_path: Path) -> None:
    write_ccd(tmp_path / "a_flc.fits", chips=(1,))
    stray = write_ccd(tmp_path / "b_flc.fits", chips=(1,), header={"BUNIT": "COUNTS"})
    error = attempt(tmp_path, tmp_path / "*.fits")
    assert error.file == str(stray) and error.key == "BUNIT" and not (tmp_path / "run").exists()


def test_a_mosaic_is_one_field(tmp_path: Path) -> None:
    for number in range(4):
        write_jwst(tmp_path / f"a{number}_cal.fits", dec=-69.5 + 0.02 * number)
    options = Options(input=InputOptions(exposures=(str(tmp_path / "*_cal.fits"),)))
    assert len(ingest.plan(RunFolder(tmp_path / "run"), options)) == 4


def test_the_same_exposure_twice(tmp_path: Path) -> None:
    write_ccd(tmp_path / "a_flc.fits")
    write_ccd(tmp_path / "a_flt.fits")
    error = attempt(tmp_path, tmp_path / "*.fits")
    assert error.key == "input.exposures" and "_flc" in error.advice


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE"}, "DETECTOR"),
        ({"TELESCOP": "SPITZER"}, "TELESCOP"),
        ({"FILTER": "GR150C", "PUPIL": "F150W"}, "FILTER"),
        ({"EFFEXPTM": 0.0}, "EFFEXPTM"),
        ({"EFFEXPTM": "long"}, "EFFEXPTM"),
    ],
)
def test_unsupported_jwst(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    assert attempt(tmp_path, write_jwst(tmp_path / "a_cal.fits", primary=changes)).key == key


@pytest.mark.parametrize(
    ("changes", "header", "key"),
    [
        ({"INSTRUME": "WFPC2"}, {}, "INSTRUME"),
        ({"DETECTOR": "SBC"}, {}, "INSTRUME"),
        ({"FILTER2": "G800L"}, {}, "FILTER"),
        ({"EXPTIME": 0.0}, {}, "EXPTIME"),
        ({}, {"BUNIT": "COUNTS"}, "BUNIT"),
        ({}, {"LTM1_1": 0.5}, "LTM1_1"),
        ({}, {"CD1_1": 0.0, "CD2_2": 0.0}, "CTYPE1"),
    ],
)
def test_unsupported_hst(tmp_path: Path, changes: dict[str, Any], header: dict[str, Any], key: str) -> None:
    assert attempt(tmp_path, write_ccd(tmp_path / "a_flc.fits", primary=changes, header=header)).key == key


def test_unknown_unit(tmp_path: Path) -> None:
    assert attempt(tmp_path, write_jwst(tmp_path / "a_cal.fits", header={"BUNIT": "Jy/beam"})).key == "BUNIT"


def test_cut_extensions_differ(tmp_path: Path) -> None:
    error = attempt(tmp_path, write_jwst(tmp_path / "a_cal.fits", dq=np.zeros((10, 10))))
    assert error.key == "DQ,1" and "shape" in error.problem


def test_patterns(tmp_path: Path) -> None:
    assert attempt(tmp_path).key == "input.exposures"
    assert "nothing_*" in attempt(tmp_path, tmp_path / "nothing_*.fits").problem


def test_errors_travel_between_processes() -> None:
    error = InputError("a.fits", "DQ,1", "is missing", "Get it")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a.fits [DQ,1]: is missing. Get it"
    assert (again.file, again.key, again.problem, again.advice) == ("a.fits", "DQ,1", "is missing", "Get it")


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    files = tuple(str(write_jwst(tmp_path / f"{name}_cal.fits")) for name in "ab")
    folder, options = RunFolder(tmp_path / "run"), Options(input=InputOptions(exposures=files))
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, usual[1]))
    try:
        with pytest.raises(DiskFullError, match="free some space and run the same command again"):
            run_pipeline(folder, options, SerialExecutor(), stages=(ingest,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not list(folder.work.glob("ingest/*/[ab].json"))
    run_pipeline(folder, options, SerialExecutor(), stages=(ingest,))
    cube = folder.cubes / "NIRISS_F090W.zarr"
    for index in (0, 1):
        assert np.isfinite(read_exposure(cube, index).sci).all()
    assert not list(folder.root.rglob("*.tmp"))
