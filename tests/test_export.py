"""Catalogues that leave: what other programs read back is what the run folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import parse, validate
from astropy.table import QTable, Table
from report_fixture import make_run

from dpm.io.export import FORMATS, export_catalog
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table, write_table

SUFFIX = {"ecsv": ".ecsv", "votable": ".vot", "fits": ".fits", "parquet": ".parquet"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run(tmp_path_factory.mktemp("run"), n_stars=40, n_exposures=2, cubes=False)
    table = read_table(folder.catalog)
    table["niriss_f090w_mag"][3] = np.nan
    write_table(folder.catalog, table)
    assert table["niriss_f090w_saturated"].dtype == bool
    return folder


def values_equal(first: np.ndarray, second: np.ndarray) -> bool:
    if first.dtype.kind == "f":
        return np.array_equal(first, np.asarray(second, dtype=first.dtype), equal_nan=True)
    return np.array_equal(first, np.asarray(second))


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_values_survive(run: RunFolder, tmp_path: Path, kind: str) -> None:
    output = tmp_path / f"stars{SUFFIX[kind]}"
    assert export_catalog(run, kind, output) == output
    original = read_table(run.catalog)
    back = parse(output).get_first_table().array if kind == "votable" else Table.read(output)
    for name in original.colnames:
        values = np.asarray(back[name]) if original[name].dtype.kind != "f" else np.ma.filled(back[name], np.nan)
        assert values_equal(np.asarray(original[name]), values), name
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize("kind", ["ecsv", "parquet"])
def test_units_descriptions_and_metadata_survive(run: RunFolder, tmp_path: Path, kind: str) -> None:
    output = export_catalog(run.root, kind, tmp_path / f"stars{SUFFIX[kind]}")
    back = Table.read(output)
    assert str(back["ra_error"].unit) == "mas" and str(back["niriss_f150w_flux"].unit) == "DN / s"
    assert back["ra"].meta["ucd"] == "pos.eq.ra;meta.main"
    assert "right ascension" in back["ra"].description
    assert back.meta["reference"] == "the exposures' own WCS" and back.meta["master_frame"]["scale"] == 0.0656
    assert QTable.read(output)["dec"].unit == "deg"


def test_votable_validates(run: RunFolder, tmp_path: Path) -> None:
    output = export_catalog(run, "votable", tmp_path / "stars.vot")
    assert "found no violations" in validate(str(output), output=None, xmllint=False)
    strict = parse(output, verify="exception")
    element = strict.get_first_table()
    fields = {field.name: field for field in element.fields}
    assert fields["ra"].ucd == "pos.eq.ra;meta.main" and fields["ra"].ref == "system"
    assert str(fields["niriss_f090w_flux"].unit) == "DN / s" and str(fields["x"].unit) == "pix"
    assert "ICRS" in fields["dec"].description
    assert {info.name: info.value for info in element.infos}["flux_unit"] == "DN/s"
    assert strict.resources[0].coordinate_systems[0].epoch == "J2022.3300"


def test_fits_has_units_and_ucds(run: RunFolder, tmp_path: Path) -> None:
    output = export_catalog(run, "fits", tmp_path / "stars.fits")
    with fits.open(output, checksum=True) as hdus:
        header = hdus["CATALOG"].header
        number = hdus["CATALOG"].columns.names.index("niriss_f090w_flux") + 1
        assert header[f"TUNIT{number}"] == "adu/s" and header[f"TUCD{number}"] == "phot.count"
        assert header[f"TCOMM{number}"].endswith("[DN / s]")
        number = hdus["CATALOG"].columns.names.index("ra") + 1
        assert header[f"TUNIT{number}"] == "deg" and "right ascension" in header[f"TCOMM{number}"]
        assert hdus["CATALOG"].data["niriss_f090w_saturated"].dtype == bool
        meta = json.loads(header["DPMMETA"])
        assert meta["master_frame"]["scale"] == 0.0656 and meta["reference"] == "the exposures' own WCS"
        hdus.verify("exception")
    assert str(Table.read(output)["ra_error"].unit) == "mas"


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_empty_catalogue(tmp_path: Path, kind: str) -> None:
    folder = make_run(tmp_path / "run", n_stars=0, n_exposures=1, bands=("niriss_f090w",), cubes=False, psf=False)
    output = export_catalog(folder, kind, tmp_path / f"stars{SUFFIX[kind]}")
    back = parse(output).get_first_table().array if kind == "votable" else Table.read(output)
    names = back.dtype.names if kind == "votable" else back.colnames
    assert len(back) == 0 and {"ra", "dec", "niriss_f090w_mag"} <= set(names)


def test_errors_say_what_to_do(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ecsv, fits, hats, parquet, votable"):
        export_catalog(run, "xlsx", tmp_path / "stars.xlsx")
    with pytest.raises(FileNotFoundError, match="does not exist; make it"):
        export_catalog(run, "fits", tmp_path / "no" / "stars.fits")
    with pytest.raises(FileNotFoundError, match="run the stage"):
        export_catalog(tmp_path, "fits", tmp_path / "stars.fits")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        export_catalog(run, "hats", tmp_path / "taken")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine.txt"]
    assert not list(tmp_path.glob("stars*")) and not list(tmp_path.glob(".stars*"))
