"""Zarr v3 cubes of one detector and filter: pixels, noise planes and flags with dims (exposure, y, x).

Chunks are (1, 256, 256) and one shard holds one exposure's plane, so that every exposure has one writer.  Only the
driver writes metadata and the per-exposure coordinates; workers write shards.  Pixel (j, i) of a cube is raw pixel (i
+ x_origin, j + y_origin) of the full detector; a cube covers all of its exposures, and what an exposure does not
cover is BAD.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from astropy.table import Table
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.models.columns import EXPOSURE_COLUMNS
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.noise import round_mantissa

if TYPE_CHECKING:
    import xarray

__all__ = [
    "PLANES",
    "bounding_box",
    "create_cube",
    "cube_rows",
    "open_cube",
    "read_exposure",
    "read_exposure_table",
    "shard_file",
    "update_rows",
    "write_exposure",
]

CHUNK = 256
FORMAT = 1

#: Variable: (type, value outside the exposure, mantissa bits kept, meaning); "flux" stands for the cube's flux unit.
PLANES: dict[str, tuple[str, float, int, str]] = {
    "sci": ("float32", math.nan, 23, "image [flux]"),
    "err": ("float32", math.nan, 11, "total error as the file has it [flux]"),
    "dq": ("uint8", float(PixelFlag.BAD), 0, "bits of dpm.models.flags.PixelFlag"),
    "var_read": ("float32", 1.0, 11, "variance without light [flux^2]"),
    "poisson_factor": ("float32", 0.0, 11, "variance per unit of light [flux]"),
    "flat_variance": ("float32", 0.0, 11, "relative variance of the flat field"),
    "area": ("float32", 1.0, 17, "pixel area over the nominal one"),
}

INGEST_COLUMNS = tuple(c.name for c in EXPOSURE_COLUMNS)[: [c.name for c in EXPOSURE_COLUMNS].index("prd_version") + 1]
_NUMERIC_COORDS = ("epoch", "exptime", "pixel_scale", "va_scale")
_TEXT_COORDS = ("exposure", "file", "target")


def bounding_box(rows: list[dict[str, Any]]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest box that holds all exposures: ((ny, nx), (x_origin, y_origin))."""
    x0 = min(row["x_origin"] for row in rows)
    y0 = min(row["y_origin"] for row in rows)
    x1 = max(row["x_origin"] + row["nx"] for row in rows)
    y1 = max(row["y_origin"] + row["ny"] for row in rows)
    return (y1 - y0, x1 - x0), (x0, y0)


def _clean(value: Any) -> Any:
    """A value that JSON can hold: numpy scalars become Python's, what is not finite becomes None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _attributes(group: zarr.Group) -> dict[str, Any]:
    return dict(group.attrs)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    return cast(zarr.Array, group[name])


def create_cube(
    path: str | Path,
    detector: str,
    filter_name: str,
    rows: list[dict[str, Any]],
    shape: tuple[int, int] | None = None,
    origin: tuple[int, int] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, int]:
    """Make a cube's metadata, or bring an existing cube up to date without losing pixels that still count.

    A cube that covers the same box and whose exposures are all among ``rows`` is kept: exposures keep their index and
    new ones are appended.  Otherwise it is made anew under a temporary name and renamed.

    Parameters
    ----------
    path : str or Path
        The cube's folder.
    detector, filter_name : str
        Common to all rows.
    rows : list of dict
        Exposure rows (columns of ``EXPOSURE_COLUMNS``), one an exposure.
    shape, origin : tuple of int, optional
        (ny, nx) and (x_origin, y_origin); the rows' bounding box by default.
    settings : dict, optional
        What else the pixels depend on; if it differs from the cube's, all exposures count as not yet ingested.

    Returns
    -------
    dict
        Exposure name to index.

    Raises
    ------
    InputError
        If rows of other detectors, filters or units are among them, or an exposure comes twice.
    """
    path = Path(path)
    _check_rows(path, detector, filter_name, rows)
    box, corner = bounding_box(rows)
    shape, origin = shape or box, origin or corner
    attrs = {
        "dpm_format": FORMAT,
        "detector": detector,
        "filter": filter_name,
        "band": rows[0]["band"],
        "flux_unit": rows[0]["flux_unit"],
        "x_origin": int(origin[0]),
        "y_origin": int(origin[1]),
        "settings": _clean(settings or {}),
    }
    if _extend(path, rows, shape, attrs):
        return {row["exposure"]: index for index, row in enumerate(cube_rows(path))}
    ordered = sorted(rows, key=lambda row: (row["epoch"], row["exposure"]))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _write_metadata(temporary, ordered, shape, attrs)
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(temporary, path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (path / "zarr.json").exists():
            raise
    return {row["exposure"]: index for index, row in enumerate(ordered)}


def _check_rows(path: Path, detector: str, filter_name: str, rows: list[dict[str, Any]]) -> None:
    """Refuse rows that do not belong into one cube."""
    seen: dict[str, str] = {}
    for row in rows:
        for key, expected in (("detector", detector), ("filter", filter_name), ("flux_unit", rows[0]["flux_unit"])):
            if row[key] != expected:
                raise InputError(
                    row["file"],
                    key,
                    f"{row[key]!r} does not belong into the cube {path.name} of {expected!r}",
                    "A cube holds one detector, one filter and one unit",
                )
        name = row["exposure"]
        if name in seen:
            raise InputError(
                row["file"],
                "input.exposures",
                f"the exposure {name} of {detector} is also in {seen[name]}",
                "Give each exposure once (for HST either its _flc or its _flt)",
            )
        seen[name] = row["file"]


def _write_metadata(path: Path, rows: list[dict[str, Any]], shape: tuple[int, int], attrs: dict[str, Any]) -> None:
    """All arrays of a new cube, with no pixels, and the coordinates."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    shard = tuple(-(-length // CHUNK) * CHUNK for length in shape)
    for name, (dtype, fill, _, meaning) in PLANES.items():
        group.create_array(
            name,
            shape=(len(rows), *shape),
            chunks=(1, CHUNK, CHUNK),
            shards=(1, *shard),
            dtype=dtype,
            fill_value=int(fill) if dtype == "uint8" else fill,
            compressors=[
                BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle" if dtype == "float32" else "noshuffle")
            ],
            dimension_names=("exposure", "y", "x"),
            attributes={"description": meaning.replace("flux", attrs["flux_unit"])},
        )
    for name, length, start in (("y", shape[0], attrs["y_origin"]), ("x", shape[1], attrs["x_origin"])):
        axis = group.create_array(
            name,
            shape=(length,),
            dtype="int32",
            dimension_names=(name,),
            attributes={"description": "raw pixel of the full detector, 0-based"},
        )
        axis[:] = np.arange(length, dtype=np.int32) + start
    for name in _NUMERIC_COORDS:
        group.create_array(
            name, shape=(len(rows),), dtype="float64", fill_value=math.nan, dimension_names=("exposure",)
        )
    for name in _TEXT_COORDS:
        group.create_array(name, shape=(len(rows),), dtype=str, dimension_names=("exposure",))
    _store_rows(group, rows, attrs)


def _store_rows(group: zarr.Group, rows: list[dict[str, Any]], attrs: dict[str, Any] | None = None) -> None:
    """Write the exposures' rows, as attributes and as coordinates."""
    rows = [_clean(row) for row in rows]
    for name in _NUMERIC_COORDS:
        _array(group, name)[:] = np.array(
            [math.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64
        )
    for name in _TEXT_COORDS:
        _array(group, name)[:] = np.array([str(row.get(name) or "") for row in rows], dtype=object)
    group.update_attributes({**(attrs or {}), "exposures": rows})


def _extend(path: Path, rows: list[dict[str, Any]], shape: tuple[int, int], attrs: dict[str, Any]) -> bool:
    """Append new exposures to a cube that may stay; False where there is none or it may not."""
    if not (path / "zarr.json").exists():
        return False
    group = zarr.open_group(path, mode="r+")
    old = _attributes(group)
    if any(old.get(key) != value for key, value in attrs.items() if key != "settings"):
        return False
    if _array(group, "sci").shape[1:] != tuple(shape):
        return False
    known = [str(row["exposure"]) for row in old.get("exposures", [])]
    new = {row["exposure"]: row for row in rows}
    if not set(known) <= set(new):
        return False
    same_settings = old.get("settings") == attrs["settings"]
    merged = []
    for before in old["exposures"]:
        row = dict(new[before["exposure"]])
        if same_settings:
            row = {**before, **_clean(row)}
        merged.append(row)
    added = sorted(
        (row for name, row in new.items() if name not in known), key=lambda row: (row["epoch"], row["exposure"])
    )
    if added:
        for name in (*PLANES, *_NUMERIC_COORDS, *_TEXT_COORDS):
            array = _array(group, name)
            array.resize((len(merged) + len(added), *array.shape[1:]))
    elif [_clean(row) for row in merged] == old["exposures"] and same_settings:
        return True
    _store_rows(group, merged + added, attrs)
    return True


def cube_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a cube's exposures in the order of their index, as stored (None for what is not known)."""
    group = zarr.open_group(Path(path), mode="r")
    return [dict(row) for row in _attributes(group).get("exposures", [])]


def update_rows(path: str | Path, changes: dict[int, dict[str, Any]]) -> None:
    """Add what ingest learned from the pixels to some exposures' rows (driver only).

    Parameters
    ----------
    path : str or Path
        The cube.
    changes : dict
        Index to new or changed items of the row.
    """
    group = zarr.open_group(Path(path), mode="r+")
    rows = [dict(row) for row in _attributes(group)["exposures"]]
    for index, items in changes.items():
        rows[index].update(_clean(items))
    _store_rows(group, rows)


def shard_file(path: str | Path, index: int, plane: str = "sci") -> Path:
    """The file that holds one exposure's plane, written last for ``sci``."""
    return Path(path) / plane / "c" / str(index) / "0" / "0"


def write_exposure(path: str | Path, index: int, image: ExposureImage, err: NDArray[np.float32] | None = None) -> None:
    """Write one exposure's planes: one shard each, whole; nobody else may write this index meanwhile.

    Parameters
    ----------
    path : str or Path
        The cube.
    index : int
        Place along the exposure dimension.
    image : ExposureImage
        Pixels; its box has to lie inside the cube's.
    err : ndarray (ny, nx), optional
        The file's own error plane; NaN without it.

    Raises
    ------
    ValueError
        If the image does not fit into the cube, or belongs to another detector, filter or exposure.
    """
    group = zarr.open_group(Path(path), mode="r+", use_consolidated=False)
    attrs = _attributes(group)
    row = attrs["exposures"][index]
    found, expected = (image.name, image.detector, image.filter), (row["exposure"], attrs["detector"], attrs["filter"])
    if found != expected:
        raise ValueError(f"{path}: index {index} is for {expected}, not for {found}")
    ny, nx = image.shape
    y0, x0 = image.y_origin - attrs["y_origin"], image.x_origin - attrs["x_origin"]
    height, width = _array(group, "sci").shape[1:]
    if y0 < 0 or x0 < 0 or y0 + ny > height or x0 + nx > width:
        raise ValueError(f"{path}: the {nx} x {ny} image at ({x0}, {y0}) does not fit into {width} x {height} pixels")
    for name in ("err", "dq", "var_read", "poisson_factor", "flat_variance", "area", "sci"):
        dtype, fill, bits, _ = PLANES[name]
        values = err if name == "err" else getattr(image, name)
        slab = np.full((height, width), fill, dtype=dtype)
        if values is not None:
            slab[y0 : y0 + ny, x0 : x0 + nx] = round_mantissa(values, bits) if 0 < bits < 23 else values
        _array(group, name)[index] = slab


def read_exposure(path: str | Path, index: int) -> ExposureImage:
    """One exposure as its file had it: its own box, without the cube's padding.

    Parameters
    ----------
    path : str or Path
        The cube.
    index : int
        Place along the exposure dimension.

    Returns
    -------
    ExposureImage
        Arrays in memory.

    Raises
    ------
    InputError
        If that exposure's pixels were never written.
    """
    group = zarr.open_group(Path(path), mode="r", use_consolidated=False)
    attrs = _attributes(group)
    row = attrs["exposures"][index]
    shard = shard_file(path, index)
    if not shard.exists():
        raise InputError(
            row["file"], "sci", f"its pixels are not in the cube {Path(path).name}", "Run the ingest stage (again)"
        ) from FileNotFoundError(f"{shard}: no such file")
    y0, x0 = row["y_origin"] - attrs["y_origin"], row["x_origin"] - attrs["x_origin"]
    box = (index, slice(y0, y0 + row["ny"]), slice(x0, x0 + row["nx"]))
    planes = {name: np.ascontiguousarray(_array(group, name)[box]) for name in PLANES if name != "err"}
    saturation = row.get("saturation")
    return ExposureImage(
        name=row["exposure"],
        detector=attrs["detector"],
        filter=attrs["filter"],
        x_origin=row["x_origin"],
        y_origin=row["y_origin"],
        exptime=row["exptime"],
        saturation=math.nan if saturation is None else saturation,
        noise_fallback=bool(row.get("noise_fallback", False)),
        **planes,
    )


def open_cube(path: str | Path) -> xarray.Dataset:
    """A cube as a lazy dataset: dims (exposure, y, x), the planes as variables, the exposures' facts as coordinates.

    Parameters
    ----------
    path : str or Path
        The cube.

    Returns
    -------
    xarray.Dataset
        Pixels are read when they are asked for; no dask involved.
    """
    import xarray

    dataset = xarray.open_zarr(Path(path), consolidated=False, chunks=None, mask_and_scale=False)
    return dataset.set_coords([*_NUMERIC_COORDS, *_TEXT_COORDS])


def read_exposure_table(folder: RunFolder) -> Table:
    """All exposures of all cubes of a run.

    Parameters
    ----------
    folder : RunFolder
        The run.

    Returns
    -------
    astropy.table.Table
        The columns of ``EXPOSURE_COLUMNS`` up to ``prd_version``, in the registry's types, sorted by cube and index.
    """
    rows = []
    for path in sorted(folder.cubes.glob("*.zarr")):
        for index, row in enumerate(cube_rows(path)):
            rows.append({**row, "cube": path.name, "index": index})
    table = Table()
    for column in EXPOSURE_COLUMNS[: len(INGEST_COLUMNS)]:
        values = [row.get(column.name) for row in rows]
        if column.dtype == "str":
            table[column.name] = np.array([str(value or "") for value in values], dtype=str if rows else "U1")
        elif column.dtype.startswith("float"):
            table[column.name] = np.array(
                [math.nan if value is None else value for value in values], dtype=column.dtype
            )
        else:
            table[column.name] = np.array(values, dtype=column.dtype)
    return table
