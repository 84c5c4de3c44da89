"""FITS files of the atlas, and the index of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from dpm import __version__
from dpm.io.atomic import replacing
from dpm.io.tables import read_table, table_names
from dpm.stages.atlas.layout import BLOCK, AtlasPlan, Stack

__all__ = ["write_index", "write_stack"]

Box = tuple[int, int, int, int]

# Plane in the parts: extension, and what it holds.
EXTENSIONS = {
    "sci": ("SCI", "catalogue flux per pixel, sky subtracted"),
    "error": ("ERR", "one sigma, for sums over several pixels"),
    "weight": ("WHT", "inverse variance of the sky"),
    "number": ("NEXP", "exposures in the pixel"),
}
FILL = {"sci": np.nan, "error": np.nan, "weight": 0.0, "number": 0}


def read_plane(plan: AtlasPlan, stack: int, name: str, box: Box) -> NDArray[Any]:
    """One plane of a stack in a box (y0, y1, x0, x1) that begins on the lattice of blocks, from its parts."""
    y0, y1, x0, x1 = box
    out = np.full((y1 - y0, x1 - x0), FILL[name], np.int16 if name == "number" else np.float32)
    made = set(plan.blocks[stack])
    for row in range(y0 // BLOCK, -(-y1 // BLOCK)):
        for column in range(x0 // BLOCK, -(-x1 // BLOCK)):
            if (row, column) in made:
                with np.load(plan.part_file(stack, (row, column))) as data:
                    part = data[name]
                mine = out[row * BLOCK - y0 : (row + 1) * BLOCK - y0, column * BLOCK - x0 : (column + 1) * BLOCK - x0]
                mine[...] = part[: mine.shape[0], : mine.shape[1]]
    return out


def wcs_header(plan: AtlasPlan, y0: int, x0: int) -> fits.Header:
    """WCS of a file whose first pixel is (x0, y0) of the atlas."""
    wcs = plan.frame.wcs
    wcs.wcs.crpix = [plan.frame.x0 + 1 - x0, plan.frame.y0 + 1 - y0]
    header = wcs.to_header()
    header["ATLAS_X"] = (x0, "column of the first pixel in the atlas, 0-based")
    header["ATLAS_Y"] = (y0, "row of the first pixel in the atlas, 0-based")
    header["CREATOR"] = (f"dpm {__version__}", "program")
    header["RUN"] = (plan.folder.root.resolve().name, "run folder")
    return header


def write_stack(plan: AtlasPlan, stack: int, suffix: str, box: Box, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Write one FITS file of a stack; none where it has no data.

    Parameters
    ----------
    plan : AtlasPlan
    stack : int
        Its number.
    suffix : str
        Of the file's name.
    box : tuple of int
        y0, y1, x0, x1.
    parts : dict
        Sums over the stack's blocks: ``pixels``, ``rejected``, ``scatter``.
    """
    told = plan.stacks[stack]
    y0, y1, x0, x1 = box
    out: dict[str, Any] = {"stack": stack, "box": list(box), "file": ""}
    number = read_plane(plan, stack, "number", box)
    if not number.any():
        return out
    path = plan.folder.images / f"atlas_{told.name}{suffix}.fits"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = wcs_header(plan, y0, x0)
    with replacing(path, ".fits") as temporary:
        fits.PrimaryHDU(None, _describe(plan, told, header, parts)).writeto(temporary)
        for name, (extension, meaning) in EXTENSIONS.items():
            plane = number if name == "number" else read_plane(plan, stack, name, box)
            mine = header.copy()
            mine["BUNIT"] = ({"weight": f"({told.unit})-2", "number": ""}.get(name, told.unit), meaning)
            mine["EXTNAME"] = extension
            fits.append(temporary, plane, mine)
        table = _exposures(plan, told)
        fits.append(temporary, table.data, table.header)
    covered = number > 0
    return out | {
        "file": path.relative_to(plan.folder.root).as_posix(),
        "covered": int(covered.sum()),
        "exposures": float(np.median(number[covered])),
    }


def _describe(plan: AtlasPlan, stack: Stack, header: fits.Header, parts: Mapping[str, Any]) -> fits.Header:
    header = header.copy()
    header["BAND"] = (stack.band, "columns of the catalogue")
    header["EPOCH"] = (round(stack.epoch, 5), "mean of the exposures, decimal year")
    header["NEXPOSUR"] = (len(stack.exposures), "exposures of the stack")
    header["KERNEL"] = ("square", "of the drizzle package")
    header["PIXFRAC"] = (plan.pixfrac, "side of the drops over that of the pixels")
    header["PIXSCALE"] = (plan.frame.scale, "arcsec")
    header["REJECTED"] = (parts["rejected"] / max(parts["pixels"], 1), "share of pixels left out as cosmic rays")
    if parts["scatter"] is not None:
        header["PIXELERR"] = (parts["scatter"], "a single pixel's sigma over ERR")
    known = _zero_point(plan, stack.band)
    if known is not None:
        header["PHOTZP"] = (known[0], "magnitude = PHOTZP - 2.5 log10(catalogue flux)")
        header["PHOTSYS"] = (known[1], "system of the magnitudes")
    return header


def _zero_point(plan: AtlasPlan, band: str) -> tuple[float, str] | None:
    """Zero point and system of the catalogue's magnitudes."""
    column = f"{band}_mag"
    if not plan.folder.frame_catalog.is_file() or column not in table_names(plan.folder.frame_catalog):
        return None
    catalog = read_table(plan.folder.frame_catalog, [column])
    meta = catalog[column].info.meta or {}
    value = meta.get("zero_point")
    return (float(value), str(meta.get("system", ""))) if value is not None and np.isfinite(float(value)) else None


def _exposures(plan: AtlasPlan, stack: Stack) -> fits.BinTableHDU:
    """The stack's exposures and what was subtracted from them."""
    rows = read_table(plan.folder.exposures, ["exposure", "detector", "file", "epoch", "exptime"])[stack.rows]
    table = Table({name: np.asarray(rows[name]) for name in ("exposure", "detector", "epoch", "exptime")})
    table["file"] = [str(name).rpartition("/")[2] for name in rows["file"]]
    table["sky"] = [plan.sky[name] for name in stack.exposures]
    hdu = fits.BinTableHDU(table, name="EXPOSURES")
    hdu.header["COMMENT"] = f"sky: subtracted, in {stack.unit} per pixel of the atlas"
    return hdu


def write_index(plan: AtlasPlan, joined: Sequence[Mapping[str, Any]]) -> Any:
    """Write ``images/atlas.ecsv``, one row a FITS file; returns its path.

    Parameters
    ----------
    plan : AtlasPlan
    joined : sequence of dict
        Results of `write_stack`.
    """
    rows = []
    for result in joined:
        if not result["file"]:
            continue
        stack = plan.stacks[result["stack"]]
        y0, y1, x0, x1 = result["box"]
        ra, dec = plan.frame.pixel_to_sky([x0 - 0.5, x1 - 0.5, x1 - 0.5, x0 - 0.5], [y0 - 0.5, y0 - 0.5, y1 - 0.5, y1 - 0.5])
        rows.append(
            {
                "stack": stack.name, "band": stack.band, "epoch": stack.epoch, "n_exposures": len(stack.exposures),
                "median_exposures": result["exposures"], "file": result["file"], "x0": x0, "y0": y0, "nx": x1 - x0, "ny": y1 - y0,
                "ra_corners": " ".join(f"{value:.7f}" for value in ra), "dec_corners": " ".join(f"{value:.7f}" for value in dec),
            }
        )  # fmt: skip
    table = Table(rows=rows)
    table.meta = {"frame": plan.frame.to_meta(), "pixfrac": plan.pixfrac}
    path = plan.folder.atlas_index
    with replacing(path, ".ecsv") as temporary:
        table.write(temporary, format="ascii.ecsv")
    return path
