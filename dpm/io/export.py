"""The catalogue in the formats that others read: ECSV, VOTable, FITS, Parquet, HATS, with units, UCDs and descriptions.

VOTables follow version 1.4 with units as VOUnits has them; names that this standard lacks (DN, electron) are quoted, as
it asks for.  The FITS standard knows neither, so DN becomes adu and electron becomes ct there, and the column's comment
says what they are.  FITS has no keyword for UCDs: TUCDn is what the Virtual Observatory's programs use; the table's
metadata are one JSON text in DPMMETA.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from dpm import __version__
from dpm.io.atomic import replacing, replacing_folder
from dpm.io.hats_catalog import MARKER as HATS_MARKER
from dpm.io.hats_catalog import write_hats
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table, write_table

__all__ = ["FORMATS", "HATS", "export_catalog", "hats_name", "write_votable"]

HATS = "hats"

_FITS_UNITS = {"DN": "adu", "electron": "ct"}
_QUOTED_UNITS = ("DN", "electron")


def export_catalog(folder: RunFolder | str | os.PathLike[str], format: str, output: str | os.PathLike[str]) -> Path:
    """Write a run's catalogue to a file of another format.

    Parameters
    ----------
    folder : RunFolder or path
        Run folder with ``tables/catalog.parquet``.
    format : {"ecsv", "votable", "fits", "parquet", "hats"}
        What to write.
    output : path
        The file (HATS: the folder); it appears whole or not at all, and an older one is replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no such format.
    FileNotFoundError
        If the run has no catalogue yet, or the file's folder does not exist.
    FileExistsError
        If the folder that HATS should go to holds something else.
    """
    run = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
    path = Path(output)
    if format not in FORMATS and format != HATS:
        raise ValueError(f"{format!r} is not a format of catalogues; the formats are {', '.join(sorted([*FORMATS, HATS]))}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; make it or name another")
    table = read_table(run.catalog)
    if format == HATS:
        with replacing_folder(path, HATS_MARKER) as temporary:
            write_hats(table, temporary, hats_name(path.stem))
        return path
    with replacing(path, path.suffix) as temporary:
        FORMATS[format](table, temporary)
    return path


def hats_name(text: str) -> str:
    """A name that folders and addresses can have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text) or "catalog"


def _write_ecsv(table: Table, path: Path) -> None:
    table.write(path, format="ascii.ecsv", overwrite=True)


def _write_parquet(table: Table, path: Path) -> None:
    write_table(path, table)


def write_votable(table: Table, path: Path, name: str = "catalog", title: str = "Catalogue, one row a star") -> None:
    """Write a VOTable 1.4 with one table.

    Parameters
    ----------
    table : astropy.table.Table
        With units, descriptions and, in the columns' metadata, UCDs.
    path : Path
    name, title : str
        Of the table.
    """
    from astropy.io.votable.tree import CooSys, Field, Info, Resource, TableElement, TimeSys, VOTableFile

    file = VOTableFile(version="1.4")
    resource = Resource(type="results")
    file.resources.append(resource)
    reference = float(table["ref_epoch"][0]) if len(table) and "ref_epoch" in table.colnames else float("nan")
    epoch = {"epoch": f"J{reference:.4f}"} if np.isfinite(reference) else {}
    resource.coordinate_systems.append(CooSys(ID="system", system="ICRS", **epoch))
    version = {"version": "1.4", "version_1_4_or_later": True}
    time_system = TimeSys(ID="time", timescale="TCB", refposition="BARYCENTER", config=version)
    resource.time_systems.append(time_system)
    element = TableElement(file, name=name)
    element.description = f"{title} (dpm {__version__})"
    resource.tables.append(element)
    for name, value in _plain_meta(table).items():
        element.infos.append(Info(name=name, value=value))
    for name in table.colnames:
        column = table[name]
        kind, arraysize = _votable_type(np.asarray(column))
        options = {"arraysize": arraysize} if arraysize else {}
        if column.meta.get("ucd"):
            options["ucd"] = str(column.meta["ucd"])
        if column.unit is not None:
            options["unit"] = _vounit(column.unit)
        if name in ("ra", "dec", "ra_error", "dec_error", "pmra", "pmdec"):
            options["ref"] = "system"
        elif name == "ref_epoch":
            options["ref"] = "time"
        field = Field(file, ID=name, name=name, datatype=kind, **options)
        field.description = column.description
        element.fields.append(field)
    element.create_arrays(len(table))
    for name in table.colnames:
        element.array[name] = np.asarray(table[name])
    file.to_xml(str(path), tabledata_format="binary2")


def _write_fits(table: Table, path: Path) -> None:
    from astropy.io import fits

    columns = []
    for name in table.colnames:
        values = np.asarray(table[name])
        unit = _fits_unit(table[name].unit)
        columns.append(fits.Column(name=name, format=_fits_format(values), unit=unit, array=values))
    hdu = fits.BinTableHDU.from_columns(columns, name="CATALOG", nrows=len(table))
    for number, name in enumerate(table.colnames, start=1):
        column = table[name]
        hdu.header[f"TUCD{number}"] = (str(column.meta.get("ucd", "")), "UCD of the column")
        comment = str(column.description or "")
        if column.unit is not None and hdu.header.get(f"TUNIT{number}") != str(column.unit).replace(" ", ""):
            comment += f" [{column.unit}]"
        hdu.header[f"TCOMM{number}"] = _ascii(comment)
    hdu.header["CREATOR"] = (f"dpm {__version__}", "program that made the catalogue")
    hdu.header["RADESYS"] = ("ICRS", "of ra and dec")
    if len(table) and "ref_epoch" in table.colnames:
        hdu.header["EPOCH"] = (float(table["ref_epoch"][0]), "[yr] Julian epoch of ra and dec, TCB")
    hdu.header["DPMMETA"] = json.dumps(dict(table.meta), default=str)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True, checksum=True)


def _plain_meta(table: Table) -> dict[str, str]:
    """Metadata as text; what is neither text nor a number becomes JSON."""
    return {
        str(name): value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in table.meta.items()
        if value is not None
    }


def _vounit(unit: Any) -> str:
    from astropy.units import Unit

    text = " ".join(f"'{word}'" if word in _QUOTED_UNITS else word for word in str(unit).split())
    return str(Unit(text, format="vounit").to_string("vounit"))


def _fits_unit(unit: Any) -> str | None:
    if unit is None:
        return None
    text = " ".join(_FITS_UNITS.get(word, word) for word in str(unit).split())
    return text.replace(" ", "")


def _votable_type(values: np.ndarray) -> tuple[str, str]:
    """VOTable's datatype and arraysize of an array."""
    if values.dtype.kind == "U":
        return "unicodeChar", "*"
    names = {
        "f4": "float",
        "f8": "double",
        "i2": "short",
        "i4": "int",
        "i8": "long",
        "u1": "unsignedByte",
        "b1": "boolean",
    }
    key = values.dtype.str[1:]
    if key not in names:
        raise ValueError(f"a column of type {values.dtype} has no counterpart in VOTable; convert it to a wider type")
    return names[key], ""


def _fits_format(values: np.ndarray) -> str:
    if values.dtype.kind == "U":
        return f"{max(values.dtype.itemsize // 4, 1)}A"
    names = {"f4": "E", "f8": "D", "i2": "I", "i4": "J", "i8": "K", "u1": "B", "b1": "L"}
    key = values.dtype.str[1:]
    if key not in names:
        raise ValueError(f"a column of type {values.dtype} has no counterpart in FITS; convert it to a wider type")
    return names[key]


def _ascii(text: str) -> str:
    """Text that a FITS header can hold."""
    return text.encode("ascii", "replace").decode("ascii")


FORMATS: dict[str, Callable[[Table, Path], None]] = {
    "ecsv": _write_ecsv,
    "fits": _write_fits,
    "parquet": _write_parquet,
    "votable": write_votable,
}
