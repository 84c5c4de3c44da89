"""The catalogue as a HATS collection, which ``lsdb.open_catalog`` opens: Parquet files by HEALPix pixel, with a margin.

Written after the IVOA note on HATS 1.0 with pyarrow alone: the files are the same for the same catalogue, and keep units, UCDs
and descriptions (as astropy's Parquet format has them), which lsdb's own writer drops.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Column, Table
from numpy.typing import NDArray

from dpm import __version__
from dpm.io.tables import arrow_table
from dpm.models.healpix import nested_index

__all__ = ["MARKER", "write_hats"]

Ints = NDArray[np.int64]

MARKER = "collection.properties"
INDEX, INDEX_ORDER = "_healpix_29", 29
MOST_ROWS = 1_000_000  # of a file, as the HATS project's importer has it
# A pixel of this order, 0.2 arcsec, is the smallest: a file with more rows stays as it is.
DEEPEST_ORDER = 20
MARGIN = 10.0  # arcsec: no cross-match of positions looks further
DIRECTIONS = 16  # points of each circle about a star that are looked at
# Circles, in margins: a pixel's right-angled corner between two points of the outer one comes no nearer than the margin.
CIRCLES = (0.65, 1.3)


def write_hats(table: Table, folder: Path, name: str, most_rows: int = MOST_ROWS) -> None:
    """Write a collection: the catalogue and the margin of its pixels.

    Parameters
    ----------
    table : astropy.table.Table
        With ``ra`` and ``dec`` in degrees.
    folder : Path
        New folder.
    name : str
        Of the catalogue, and of its folder inside the collection.
    most_rows : int
        Of one pixel's file; a pixel with more is divided.

    Raises
    ------
    ValueError
        If a star has no position.
    """
    ra, dec = np.asarray(table["ra"], dtype=float), np.asarray(table["dec"], dtype=float)
    if not (np.isfinite(ra) & np.isfinite(dec)).all():
        raise ValueError(f"{name}: a star without ra and dec has no place in a HATS catalogue; take it out first")
    index = nested_index(ra, dec, INDEX_ORDER)
    order = np.argsort(index, kind="stable")
    sorted_table = table[order]
    sorted_table.add_column(Column(index[order], name=INDEX, description="nested HEALPix index, order 29"), 0)
    data = arrow_table(sorted_table)
    pixels = _pixels(index[order], most_rows)
    margin_name = f"{name}_margin"
    _write_catalog(folder / name, data, pixels, {
        "obs_collection": name, "dataproduct_type": "object", "hats_nrows": len(table), "hats_col_ra": "ra", "hats_col_dec": "dec",
        "hats_max_rows": most_rows,
    })  # fmt: skip
    margins = _margins(ra[order], dec[order], index[order], pixels)
    _write_catalog(folder / margin_name, data, margins, {
        "obs_collection": margin_name, "dataproduct_type": "margin", "hats_nrows": sum(len(rows) for *_, rows in margins),
        "hats_col_ra": "ra", "hats_col_dec": "dec", "hats_primary_table_url": name, "hats_margin_threshold": MARGIN,
        "hats_max_rows": most_rows,
    })  # fmt: skip
    collection = {"obs_collection": name, "hats_primary_table_url": name, "all_margins": margin_name, "default_margin": margin_name}
    _write_properties(folder / MARKER, collection)


def _pixels(index: Ints, most_rows: int) -> list[tuple[int, int, Ints]]:
    """Order, number and rows of the pixels that hold the stars, none with more than ``most_rows``; in the index's order."""
    out: list[tuple[int, int, Ints]] = []
    waiting = [(0, np.arange(len(index)))]
    while waiting:
        order, rows = waiting.pop()
        number = index[rows] >> (2 * (INDEX_ORDER - order))
        for pixel in np.unique(number):
            mine = rows[number == pixel]
            if len(mine) > most_rows and order < DEEPEST_ORDER:
                waiting.append((order + 1, mine))
            else:
                out.append((order, int(pixel), mine))
    return sorted(out, key=lambda part: part[1] << (2 * (INDEX_ORDER - part[0])))


def _margins(ra: NDArray, dec: NDArray, index: Ints, pixels: list[tuple[int, int, Ints]]) -> list[tuple[int, int, Ints]]:
    """For every pixel the rows of others within `MARGIN` of it, and some a little further; pixels without any are left out."""
    near: list[list[Ints]] = [[] for _ in pixels]
    starts = np.array([pixel << (2 * (INDEX_ORDER - order)) for order, pixel, _ in pixels])
    ends = np.array([(pixel + 1) << (2 * (INDEX_ORDER - order)) for order, pixel, _ in pixels])
    own = np.searchsorted(starts, index, side="right") - 1
    for circle, angle in product(CIRCLES, np.linspace(0.0, 2.0 * np.pi, DIRECTIONS, endpoint=False)):
        reach = circle * MARGIN / 3600.0
        north = np.clip(dec + reach * np.cos(angle), -90.0, 90.0)
        east = ra + reach * np.sin(angle) / np.maximum(np.cos(np.radians(north)), 1e-9)
        place = nested_index(east, north, INDEX_ORDER)
        other = np.searchsorted(starts, place, side="right") - 1
        rows = np.flatnonzero((other >= 0) & (other != own) & (place < ends[np.maximum(other, 0)]))
        for k in np.unique(other[rows]):
            near[k].append(rows[other[rows] == k])
    return [(order, pixel, np.unique(np.concatenate(rows))) for (order, pixel, _), rows in zip(pixels, near) if rows]


def _write_catalog(folder: Path, data: pa.Table, pixels: list[tuple[int, int, Ints]], properties: Mapping[str, object]) -> None:
    """One catalogue: its files by pixel, what they have in common, the list of pixels, and the properties."""
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    collected: list[pq.FileMetaData] = []
    for order, pixel, rows in pixels:
        relative = f"Norder={order}/Dir={pixel // 10000 * 10000}/Npix={pixel}.parquet"
        path = dataset / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        mine: list[pq.FileMetaData] = []
        pq.write_table(data.take(rows), path, compression="zstd", metadata_collector=mine)
        mine[0].set_file_path(relative)
        collected += mine
    pq.write_metadata(data.schema, dataset / "_common_metadata")
    pq.write_metadata(data.schema, dataset / "_metadata", metadata_collector=collected)
    lines = ["Norder,Npix", *(f"{order},{pixel}" for order, pixel, _ in pixels)]
    (folder / "partition_info.csv").write_text("\n".join(lines) + "\n", encoding="ascii")
    highest = max((order for order, *_ in pixels), default=0)
    for name in ("hats.properties", "properties"):
        _write_properties(folder / name, {**properties, "hats_order": highest, "hats_col_healpix": INDEX,
                                          "hats_col_healpix_order": INDEX_ORDER, "hats_npix_suffix": ".parquet"})  # fmt: skip


def _write_properties(path: Path, properties: Mapping[str, object]) -> None:
    """A file of ``key=value``, as HiPS has them."""
    common = {"hats_builder": f"dpm {__version__}", "hats_version": "v1.0"}
    lines = [f"{key}={value}" for key, value in {**properties, **common}.items()]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
