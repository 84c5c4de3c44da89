"""Parquet tables with units, UCDs and descriptions that ``astropy.table.QTable.read`` understands.

The metadata lies in the Arrow schema under the keys that astropy's own Parquet format uses (``table_meta_yaml`` and
``table::len::<column>``), so that any reader of plain Parquet sees plain columns, and astropy sees units as well.  UCDs
are in each column's ``meta["ucd"]``.  Files appear whole or not at all: they are written under a temporary name in the
same folder, then moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Column as TableColumn
from astropy.table import MaskedColumn, Table
from astropy.table.meta import get_header_from_yaml, get_yaml_from_table
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.models.columns import (
    ARTIFICIAL_FATE_COLUMNS,
    ARTIFICIAL_INPUT_COLUMNS,
    CATALOG_COLUMNS,
    CATALOG_FILTER_COLUMNS,
    STAR_COMPLETENESS_COLUMNS,
    STAR_COMPLETENESS_FILTER_COLUMNS,
    Column,
)

__all__ = [
    "arrow_table",
    "artificial_columns",
    "catalog_columns",
    "read_columns",
    "read_table",
    "star_completeness_columns",
    "table_names",
    "write_table",
]

_YAML_KEY = b"table_meta_yaml"
_LENGTH_KEY = "table::len::{}"
KNOWN_HEADERS = 64  # texts kept by a process
_written_headers: dict[str, bytes] = {}


def catalog_columns(bands: Iterable[str]) -> tuple[Column, ...]:
    """The catalogue's registry for these bands: the common columns, then each band's with its prefix.

    Parameters
    ----------
    bands : iterable of str
        Prefixes such as ``niriss_f090w``.

    Returns
    -------
    tuple of Column
        Per-band names are ``f"{band}_{name}"``.
    """
    prefixed = [replace(column, name=f"{band}_{column.name}") for band in bands for column in CATALOG_FILTER_COLUMNS]
    return CATALOG_COLUMNS + tuple(prefixed)


def artificial_columns(bands: Iterable[str]) -> tuple[Column, ...]:
    """The registry of the table of artificial stars: what went in, what came of it, and the catalogue's columns as ``out_``.

    Parameters
    ----------
    bands : iterable of str
        Prefixes such as ``niriss_f090w``.
    """
    bands = list(bands)
    magnitude = next(column for column in CATALOG_FILTER_COLUMNS if column.name == "mag")
    scatter = next(column for column in CATALOG_FILTER_COLUMNS if column.name == "sky_rms")
    put_in = [replace(magnitude, name=f"in_{band}_mag", dtype="float64", description="magnitude put in") for band in bands]
    text = "sky scatter at the place of the star, found or not: mean of the exposures that hold it"
    put_in += [replace(scatter, name=f"in_{band}_sky_rms", description=text) for band in bands]
    came_out = [replace(column, name=f"out_{column.name}") for column in catalog_columns(bands) if column.name != "id"]
    return (*ARTIFICIAL_INPUT_COLUMNS, *put_in, *ARTIFICIAL_FATE_COLUMNS, *came_out)


def star_completeness_columns(bands: Iterable[str]) -> tuple[Column, ...]:
    """The registry of ``tables/selection/completeness.parquet`` for these bands."""
    mine = [replace(column, name=f"{band}_{column.name}") for band in bands for column in STAR_COMPLETENESS_FILTER_COLUMNS]
    return (*STAR_COMPLETENESS_COLUMNS, *mine)


def write_table(
    path: str | os.PathLike[str],
    table: Table,
    columns: tuple[Column, ...] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a table as Parquet, atomically.

    Parameters
    ----------
    path : path
        File to write; its folder is made if need be, an older file is replaced.
    table : astropy.table.Table
        One-dimensional columns of numbers, booleans or text.  Masked floats become NaN.
    columns : tuple of Column, optional
        Registry of the table: types, units, UCDs and descriptions are taken from it, and a column that it lacks is an
        error.  Where the registry's unit is ``flux``, the table column's own unit counts, else ``meta["flux_unit"]``.
        Columns of the registry that the table lacks stay absent.  None: the table's own metadata are kept.
    meta : mapping, optional
        Joined with ``table.meta``; numbers, text, lists and dicts.

    Raises
    ------
    ValueError
        If a column is not in the registry, is masked and not a float, or has more than one dimension; the message names
        the file and the column.
    """
    path = Path(path)
    table_meta = {**table.meta, **(dict(meta) if meta else {})}
    described = Table(meta=table_meta)
    for name in table.colnames:
        entry = _registry_entry(path, name, columns)
        described.add_column(_described(path, table[name], entry, table_meta.get("flux_unit")))
    _replace_file(path, arrow_table(described))


def arrow_table(table: Table) -> pa.Table:
    """Arrow's table of a table's plain columns, with units, UCDs and descriptions as astropy's Parquet format has them.

    Parameters
    ----------
    table : astropy.table.Table
        Unmasked one-dimensional columns.
    """
    arrays, fields = [], []
    metadata = {_YAML_KEY: _yaml_header(table)}
    for name in table.colnames:
        values = np.asarray(table[name])
        if values.dtype.kind == "U":
            metadata[_LENGTH_KEY.format(name).encode()] = str(max(values.dtype.itemsize // 4, 1)).encode()
            array = pa.array(values.tolist(), type=pa.string())
        else:
            array = pa.array(np.ascontiguousarray(values))
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    return pa.table(arrays, schema=pa.schema(fields, metadata=metadata))


def read_table(path: str | os.PathLike[str], columns: Iterable[str] | None = None) -> Table:
    """Read a Parquet table with its units and metadata.

    Parameters
    ----------
    path : path
        File written by `write_table`, or any flat Parquet file.
    columns : iterable of str, optional
        Names to read, in this order; all when None.

    Returns
    -------
    astropy.table.Table
        Plain columns (numbers keep their width, text is unicode); units are on the columns.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not Parquet or lacks a column that was asked for.
    """
    data = _read(Path(path), columns)
    header = _header(data.schema)
    table = Table(meta=header.get("meta", {}))
    attributes = {entry["name"]: entry for entry in header.get("datatype", ())}
    for name in data.schema.names:
        column = TableColumn(_to_numpy(data[name]), name=name, copy=True)
        for attribute in ("unit", "description", "format", "meta"):
            if attribute in attributes.get(name, {}):
                setattr(column, attribute, attributes[name][attribute])
        table.add_column(column, copy=False)
    return table


def read_columns(path: str | os.PathLike[str], columns: Iterable[str]) -> dict[str, NDArray]:
    """Plain arrays of some columns, without units and metadata: quick, for the many small tables of a big run.

    Parameters
    ----------
    path, columns
        As in `read_table`, whose errors this raises too.

    Returns
    -------
    dict of str to ndarray (n,)
        May be read-only.
    """
    data = _read(Path(path), columns)
    return {name: _to_numpy(data[name]) for name in data.schema.names}


def table_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of a table's columns.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `read_table`.
    """
    with _open(Path(path)) as file:
        return list(file.schema_arrow.names)


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table; run the stage that writes it first")
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not readable as Parquet ({error}); run the stage that writes it again") from error


def _read(path: Path, columns: Iterable[str] | None) -> pa.Table:
    with _open(path) as file:
        names = file.schema_arrow.names
        wanted = list(columns) if columns is not None else names
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)}; it has {', '.join(names)}")
        return file.read(columns=wanted).select(wanted)


def _registry_entry(path: Path, name: str, columns: tuple[Column, ...] | None) -> Column | None:
    if columns is None:
        return None
    for column in columns:
        if column.name == name:
            return column
    raise ValueError(f"{path}: column {name!r} is not in the registry of columns (dpm/models/columns.py); add it there")


def _described(path: Path, source: TableColumn, entry: Column | None, flux_unit: Any) -> TableColumn:
    """The column with the registry's type and metadata."""
    values = source
    if isinstance(source, MaskedColumn):
        if source.mask.any() and source.dtype.kind != "f":
            raise ValueError(f"{path}: column {source.name!r} has masked values, which only floats can have (as NaN)")
        values = source.filled(np.nan) if source.dtype.kind == "f" else source.filled()
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{path}: column {source.name!r} has {array.ndim} dimensions; tables have flat columns")
    if array.dtype.kind in "OS":
        array = array.astype(str)
    if entry is None:
        return TableColumn(array, name=source.name, unit=source.unit, description=source.description, meta=source.meta)
    array = array.astype(str if entry.dtype == "str" else entry.dtype, copy=False)
    unit = (source.unit or flux_unit or None) if entry.unit == "flux" else (entry.unit or None)
    description = source.description or entry.description
    meta = {**dict(source.meta), "ucd": entry.ucd}
    return TableColumn(array, name=source.name, unit=unit, description=description, meta=meta)


def _header(schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(_YAML_KEY)
    return deepcopy(_parsed_header(text)) if text else {}


@lru_cache(maxsize=64)
def _parsed_header(text: bytes) -> dict[str, Any]:
    """The YAML of one file, or of many with the same columns: parsing takes longer than reading a small table."""
    return dict(get_header_from_yaml(text.decode().split("\n")))


def _yaml_header(table: Table) -> bytes:
    """YAML of a table's columns and metadata; one text serves all tables of a process that have the same."""
    columns = [(c.name, c.dtype.str, str(c.unit), c.description, c.format, c.meta) for c in table.itercols()]
    key = repr((table.meta, columns))
    if key not in _written_headers:
        if len(_written_headers) >= KNOWN_HEADERS:
            _written_headers.clear()
        _written_headers[key] = "\n".join(get_yaml_from_table(table)).encode()
    return _written_headers[key]


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(["" if value is None else value for value in column.to_pylist()], dtype=str)
    return np.asarray(column.to_numpy())


def _replace_file(path: Path, data: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pq.write_table(data, temporary, compression="zstd")
