"""The folder that goes with a paper: other programs read from it what the run holds, and it is there whole or not at all."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io.votable import parse, validate
from astropy.table import Table
from report_fixture import make_run
from science_tables import Photometry
from typer.testing import CliRunner

import dpm.stages.release.write
from dpm.cli.main import app
from dpm.io.cds import byte_by_byte, format_table
from dpm.io.run_folder import RunFolder
from dpm.io.tables import catalog_columns, read_table, star_completeness_columns, write_table
from dpm.models.columns import MOTION_COLUMNS
from dpm.models.flags import StarFlag
from dpm.science import Selection, write_selections
from dpm.stages.release import MissingPartError, write_release

BANDS = ("niriss_f090w", "niriss_f150w")
N = 60


def complete(root: Path) -> RunFolder:
    """A run with everything that a release may have."""
    folder = make_run(root, n_stars=N, n_exposures=2, cubes=False)
    rng = np.random.default_rng(9)
    catalog = read_table(folder.catalog)
    for name in ("pmra", "pmdec"):
        catalog[name] = rng.normal(0, 1, N)
        catalog[f"{name}_error"] = np.full(N, 0.03)
    catalog["member_probability"] = np.where(rng.random(N) < 0.6, 0.98, 0.01)
    catalog["member_probability"][3] = np.nan
    catalog["niriss_f150w_mag"][5] = np.nan
    catalog["flags"][:4] = int(StarFlag.EXTENDED)
    catalog.meta |= {"reference": "/home/somebody/reference.ecsv", "ref_epoch": 2022.33, "pm_zero_point": "absolute"}
    catalog["niriss_f090w_mag"].meta |= {"system": "AB", "zero_point": 26.19}
    write_table(folder.catalog, catalog, catalog_columns(BANDS))
    motions = Table({"id": catalog["id"], "pmra_relative": catalog["pmra"], "member": catalog["member_probability"] > 0.5})
    write_table(folder.motions, motions, MOTION_COLUMNS)
    write_table(folder.artificial_stars, Photometry().table(200, np.random.default_rng(4)))
    curves = Table({"filter": ["b", "b"], "mag": [22.0, 24.0], "n_inserted": [90, 110], "completeness": [0.9, 0.4]})
    write_table(folder.completeness, curves)
    write_selections(folder.selection / "cuts.ecsv", [
        Selection("radxs", "below", "niriss_f090w_mag", "niriss_f090w_radxs", ((-10.0, 0.02), (0.0, 0.02))),
        Selection("qfit", "below", "niriss_f090w_mag", "niriss_f090w_qfit", ((-10.0, 0.0), (0.0, 0.0))),
    ])  # fmt: skip
    write_table(folder.selection / "catalog.parquet", Table({"id": catalog["id"]}))
    of_stars = Table({"id": catalog["id"], "two_band_completeness": np.linspace(0.2, 1.0, N)}, meta={"two_bands": list(BANDS)})
    for name in BANDS:
        of_stars[f"{name}_completeness"] = rng.uniform(0, 1, N)
        of_stars[f"{name}_completeness_error"] = np.full(N, 0.02)
        of_stars[f"{name}_completeness_selected"] = np.full(N, np.nan)
    write_table(folder.selection / "completeness.parquet", of_stars, star_completeness_columns(BANDS))
    (folder.distortion / "STDGDC_NIRISS_F090W.fits").write_bytes(b"distortion")
    for name in ("atlas_niriss_f090w.fits", "atlas/colour/0/0_0.png", "atlas/.unfinished/x.png", "stack_niriss_f090w.fits"):
        path = folder.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    folder.tables.mkdir(parents=True)
    (folder.tables / "selection").mkdir()
    return complete(folder.root)


@pytest.fixture(scope="module")
def release(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, absent = write_release(run, tmp_path_factory.mktemp("out") / "release", "Stars of a made-up field")
    assert absent == []
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_everything_is_there_with_its_checksum(run: RunFolder, release: Path) -> None:
    files = contents(release)
    tables = {"catalog", "catalog_radxs", "members", "members_radxs", "motions", "artificial_stars", "completeness"}
    tables |= {"star_completeness"}
    assert {Path(name).stem for name in files if name.endswith(".dat")} == tables
    assert {Path(name).stem for name in files if name.startswith("votable/")} == tables
    assert files["psf/STDPSF_NIRISS_F090W.fits"] == run.psf_file("NIRISS", "F090W").read_bytes()
    assert files["distortion/STDGDC_NIRISS_F090W.fits"] == b"distortion"
    atlas = {name for name in files if name.startswith("atlas/")}
    assert atlas == {"atlas/atlas_niriss_f090w.fits", "atlas/atlas/colour/0/0_0.png"}
    listed = dict(reversed(line.split("  ")) for line in files.pop("SHA256SUMS").decode().splitlines())
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    readme = files["ReadMe"].decode("ascii")
    assert "two_band_completeness is that of niriss_f090w and niriss_f150w together" in " ".join(readme.split())
    assert "sha256sum --check SHA256SUMS" in readme and max(map(len, readme.splitlines())) <= 80
    assert all(name in readme for name in files if name.count("/") < 2 and "hats/" not in name)
    assert "atlas/atlas/ " in readme and "hats/ " in readme
    assert not any(b"/home/somebody" in content for content in files.values())


def test_astropy_reads_values_and_units_back(run: RunFolder, release: Path) -> None:
    original = read_table(run.catalog)
    for path in sorted(release.glob("*.dat")):
        back = Table.read(path, format="ascii.cds", readme=str(release / "ReadMe"))
        vot = parse(release / "votable" / f"{path.stem}.vot").get_first_table().array
        assert back.colnames == list(vot.dtype.names)
        for name in back.colnames:
            if back[name].dtype.kind not in "iuf":
                assert np.array_equal(back[name], vot[name]), name
                continue
            ours, theirs = (np.ma.filled(np.ma.asarray(values).astype(float), np.nan) for values in (back[name], vot[name]))
            # Half of the last digit: errors of positions have four after the point, other columns five or more.
            digit = 5.1e-5 if name.endswith(("ra_error", "dec_error")) else 5.1e-6
            assert np.allclose(ours, theirs, rtol=1e-6, atol=digit, equal_nan=True), name
    back = Table.read(release / "catalog.dat", format="ascii.cds", readme=str(release / "ReadMe"))
    assert np.abs(back["ra"] - original["ra"]).max() < 1e-10
    for name in original.colnames:
        expected = str(original[name].unit or "None").replace("DN", "ct")
        assert str(back[name].unit) == expected, name
    assert back["niriss_f150w_mag"].mask[5]
    assert "AB magnitude" in back["niriss_f090w_mag"].description


def test_tables_hold_the_stars_that_they_should(run: RunFolder, release: Path) -> None:
    catalog = read_table(run.catalog)
    read = {name: Table.read(release / f"{name}.dat", format="ascii.cds", readme=str(release / "ReadMe"))["id"]
            for name in ("catalog", "catalog_radxs", "members", "members_radxs")}  # fmt: skip
    member = np.nan_to_num(np.asarray(catalog["member_probability"])) >= 0.5
    passes = (np.asarray(catalog["niriss_f090w_radxs"]) <= 0.02) & np.isfinite(catalog["niriss_f090w_mag"])
    assert 0 < passes.sum() < N
    expected = {"catalog": np.ones(N, bool), "catalog_radxs": passes, "members": member, "members_radxs": member & passes}
    for name, rows in expected.items():
        assert np.array_equal(read[name], catalog["id"][rows]), name


def test_completeness_belongs_to_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "run" / "tables" / "selection").mkdir(parents=True)
    folder = complete(tmp_path / "run")
    path = folder.selection / "completeness.parquet"
    write_table(path, read_table(path)[::-1], star_completeness_columns(BANDS))
    with pytest.raises(MissingPartError, match=r"selection/completeness.parquet is of other stars: run `dpm stage selection"):
        write_release(folder, tmp_path / "release")


def test_votables_validate(release: Path) -> None:
    for path in sorted((release / "votable").glob("*.vot")):
        assert "found no violations" in validate(str(path), output=None, xmllint=False), path.name


def test_the_same_run_gives_the_same_bytes(run: RunFolder, release: Path, tmp_path: Path) -> None:
    again, _ = write_release(run, tmp_path / "again", "Stars of a made-up field")
    assert contents(again) == contents(release)


def test_a_failure_leaves_the_older_release_and_nothing_else(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = write_release(run, tmp_path / "release")
    before = contents(path)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(dpm.stages.release.write, "write_hats", fail)
        with pytest.raises(OSError, match="no space"):
            write_release(run, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["release"] and contents(path) == before
    write_release(run, path, "Another title")
    assert contents(path)["ReadMe"].startswith(b"Another title")


def test_what_a_run_lacks_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=20, n_exposures=1, cubes=False, psf=False)
    path, absent = write_release(folder, tmp_path / "release")
    assert absent == ["members", "artificial_stars", "psf", "distortion", "atlas"]
    readme = (path / "ReadMe").read_text()
    assert "no artificial stars set its limits" in " ".join(readme.split()) and "Not in this release" in readme
    for needed, message in ((["members"], "has no members: it takes motions"), (["figures"], "no part of a release")):
        with pytest.raises(MissingPartError, match=message):
            write_release(folder, tmp_path / "other", needed=needed)
    write_table(folder.motions, Table({"id": [1, 2]}), MOTION_COLUMNS)
    with pytest.raises(MissingPartError, match="of other stars: run `dpm stage motions"):
        write_release(folder, tmp_path / "other")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("")
    folder.motions.unlink()
    with pytest.raises(FileExistsError, match="something else"):
        write_release(folder, tmp_path / "taken")
    with pytest.raises(FileNotFoundError, match="make it or name another"):
        write_release(folder, tmp_path / "no" / "release")
    assert not (tmp_path / "other").exists()


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=20, n_exposures=1, cubes=False, psf=False)
    arguments = ["export", str(folder.root), str(tmp_path / "out"), "--release"]
    result = CliRunner().invoke(app, [*arguments, "--need", "artificial_stars"])
    assert result.exit_code == 1 and "[artificial_stars] n" in result.output
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "members, artificial_stars" in result.output
    assert (tmp_path / "out" / "SHA256SUMS").is_file()


def test_an_empty_table_and_long_texts_are_described() -> None:
    table = Table({"id": np.zeros(0, int), "x": np.zeros(0), "name": np.zeros(0, "U5")})
    table["x"].description = "a text that goes on over several lines of which none begins with 3 or 4 or 5 or any other digit"
    fixed = format_table(table, "empty.dat", "Nothing")
    lines = byte_by_byte(fixed)
    assert fixed.content == b"" and max(map(len, lines)) <= 80
    assert not any(line.strip()[:1].isdigit() for line in lines[4:-1] if line.startswith(" " * 20))


@pytest.mark.slow
def test_lsdb_opens_the_release(run: RunFolder, release: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lsdb's, as in test_hats.py
        import lsdb

        stars = lsdb.open_catalog(release / "hats").compute()
    catalog = read_table(run.catalog)
    assert sorted(stars["id"]) == sorted(catalog["id"])
