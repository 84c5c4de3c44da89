"""Parquet tables: metadata, types, atomic replacement, errors."""

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, QTable, Table

from dpm.io.tables import catalog_columns, read_columns, read_table, write_table
from dpm.models.columns import DETECTION_COLUMNS


def detections() -> Table:
    return Table({"exposure": ["a", "bcd"], "x": np.array([1, 2]), "flux": [3.0, 4.0], "flags": [1, 2]})


def test_types_units_and_ucds_come_from_the_registry(tmp_path):
    path = tmp_path / "sub" / "d.parquet"
    write_table(path, detections(), DETECTION_COLUMNS, {"flux_unit": "DN/s", "note": [1, 2]})
    table = read_table(path)
    assert table["x"].dtype == np.float64 and table["flags"].dtype == np.int32
    assert table["x"].unit == u.pix and table["flux"].unit == u.Unit("DN/s")
    assert table["x"].meta["ucd"] == "pos.cartesian.x;instr.det"
    assert list(table["exposure"]) == ["a", "bcd"]
    assert table.meta["note"] == [1, 2]
    assert [p.name for p in path.parent.iterdir()] == ["d.parquet"]


def test_qtable_read_understands_the_file(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "d.parquet"
    write_table(path, detections(), DETECTION_COLUMNS, {"flux_unit": "electron/s"})
    table = QTable.read(path)
    assert table["flux"].unit == u.electron / u.s
    assert table["flux"].info.meta["ucd"] == "phot.count"
    assert table["exposure"][1] == "bcd"


def test_own_metadata_survive_without_registry(tmp_path):
    table = detections()
    table["flux"].unit = "mJy"
    write_table(tmp_path / "d.parquet", table)
    again = read_table(tmp_path / "d.parquet", columns=["flux", "x"])
    assert again.colnames == ["flux", "x"] and again["flux"].unit == u.mJy
    plain = read_columns(tmp_path / "d.parquet", ["exposure", "flux"])
    assert list(plain["exposure"]) == ["a", "bcd"] and plain["flux"].dtype == np.float64


def test_empty_table_and_masked_floats(tmp_path):
    write_table(tmp_path / "e.parquet", detections()[:0], DETECTION_COLUMNS)
    assert len(read_table(tmp_path / "e.parquet")) == 0
    table = Table({"x": MaskedColumn([1.0, 2.0], mask=[False, True])})
    write_table(tmp_path / "m.parquet", table)
    assert np.isnan(read_table(tmp_path / "m.parquet")["x"][1])
    assert pq.read_table(tmp_path / "m.parquet")["x"].null_count == 0


def test_catalogue_columns_have_the_band_in_front():
    names = [column.name for column in catalog_columns(["niriss_f090w"])]
    assert "ra" in names and "niriss_f090w_mag_error" in names


def test_errors_name_file_and_column(tmp_path):
    table = detections()
    table["colour"] = 1.0
    with pytest.raises(ValueError, match=r"d\.parquet.*'colour'"):
        write_table(tmp_path / "d.parquet", table, DETECTION_COLUMNS)
    masked = Table({"n": MaskedColumn([1, 2], mask=[False, True])})
    with pytest.raises(ValueError, match="'n' has masked"):
        write_table(tmp_path / "d.parquet", masked)
    with pytest.raises(FileNotFoundError, match=r"nothing\.parquet"):
        read_table(tmp_path / "nothing.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"bad\.parquet"):
        read_table(tmp_path / "bad.parquet")
    write_table(tmp_path / "d.parquet", detections())
    with pytest.raises(ValueError, match="no column zz"):
        read_table(tmp_path / "d.parquet", columns=["zz"])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "d.parquet"
    write_table(path, detections())

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("dpm.io.tables.pq.write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write_table(path, detections()[:1])
    assert len(read_table(path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["d.parquet"]
