"""The pictures of the atlas: a PNG, a FITS cube of the planes in it, and a page that zooms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.io.tables import read_table
from dpm.science.colour_images import ColourScale, colour_image, colour_planes, learn_colour_scale
from dpm.stages.atlas.join import Box, read_plane, wcs_header
from dpm.stages.atlas.layout import BLOCK, AtlasPlan

__all__ = ["write_picture"]

TILE = 256  # pixels a side of the page's pictures
LARGEST_PNG = 8192  # pixels a side of the one PNG; larger fields are halved until they fit
SAMPLE = 2_000_000  # pixels that the stretch is learnt from


def write_picture(plan: AtlasPlan, name: str, stacks: Sequence[int]) -> dict[str, Any]:
    """Write one picture's files.

    Parameters
    ----------
    plan : AtlasPlan
    name : str
        Of its files.
    stacks : sequence of int
        Red, (green,) blue, or one alone.
    """
    folder = plan.folder
    scale = learn_colour_scale(*_sample(plan, stacks))
    pages = folder.atlas_pages / name
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    cubes = []
    for suffix, box in plan.file_boxes():
        if any(read_plane(plan, k, "number", strip).any() for k in stacks for strip in _strips(box)):
            cubes.append(folder.images / f"atlas_{name}{suffix}.fits")
            with replacing(cubes[-1], ".fits") as temporary:
                _write_cube(plan, temporary, stacks, box, scale, pages)
    levels = _pyramid(plan, pages)
    covered = _covered(plan, stacks)
    png = folder.images / f"atlas_{name}.png"
    _stitch(plan, pages, levels, covered, png)
    page = _page(plan, name, [plan.stacks[k].name for k in stacks], pages, levels, covered)
    made = [png, page, *cubes]
    return {"name": name, "files": [path.relative_to(folder.root).as_posix() for path in [*made, pages]]}


def _strips(box: Box) -> Iterator[Box]:
    """Rows of blocks of a box."""
    y0, y1, x0, x1 = box
    for y in range(y0, y1, BLOCK):
        yield y, min(y + BLOCK, y1), x0, x1


def _covered(plan: AtlasPlan, stacks: Sequence[int]) -> Box:
    """The smallest box that holds the data of all the stacks; the whole field without any."""
    rows, columns = np.zeros(plan.frame.ny, bool), np.zeros(plan.frame.nx, bool)
    for k in stacks:
        for strip in _strips((0, plan.frame.ny, 0, plan.frame.nx)):
            there = read_plane(plan, k, "number", strip) > 0
            rows[strip[0] : strip[1]] |= there.any(axis=1)
            columns |= there.any(axis=0)
    if not rows.any():
        return 0, plan.frame.ny, 0, plan.frame.nx
    (y0, y1), (x0, x1) = ((int(np.flatnonzero(part)[0]), int(np.flatnonzero(part)[-1]) + 1) for part in (rows, columns))
    return y0, y1, x0, x1


def _sample(plan: AtlasPlan, stacks: Sequence[int]) -> list[NDArray[np.float32]]:
    """Every n-th pixel and row of the stacks."""
    step = max(int(np.sqrt(plan.frame.nx * plan.frame.ny / SAMPLE)), 1)
    whole: Box = (0, plan.frame.ny, 0, plan.frame.nx)
    return [
        np.concatenate([read_plane(plan, k, "sci", strip)[::step, ::step].ravel() for strip in _strips(whole)]) for k in stacks
    ]


def _write_cube(plan: AtlasPlan, path: Path, stacks: Sequence[int], box: Box, scale: ColourScale, pages: Path) -> None:
    """A FITS cube (3, ny, nx) of a box, and the page's finest pictures of it."""
    y0, y1, x0, x1 = box
    ny, nx = y1 - y0, x1 - x0
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 3, "NAXIS1": nx, "NAXIS2": ny, "NAXIS3": 3})
    header.update(wcs_header(plan, y0, x0))
    header["WCSAXES"] = 2
    for key, stack, factor in zip(_keys(len(stacks)), stacks, scale.factors):
        header[key] = (plan.stacks[stack].name, f"multiplied by {factor:.6g}")
    if len(stacks) == 2:
        header["GREEN"] = ("mean", "of red and blue, 1:3")
    header["BUNIT"] = (plan.stacks[stacks[-1]].unit, "per pixel, of the last band")
    header["BLACK"], header["STRETCH"], header["SOFTEN"] = scale.black, scale.stretch, scale.softening
    header["COMMENT"] = "Planes: red, green, blue. make_lupton_rgb(minimum=BLACK, stretch=STRETCH, Q=SOFTEN) of astropy shows them."
    begin = header.tostring().encode("ascii")
    size = 12 * nx * ny
    with open(path, "wb") as file:
        file.write(begin)
        file.truncate(len(begin) + -(-size // 2880) * 2880)
        for strip in _strips(box):
            planes = colour_planes(scale, *(read_plane(plan, k, "sci", strip) for k in stacks))
            for number in range(3):
                file.seek(len(begin) + 4 * nx * (number * ny + strip[0] - y0))
                file.write(planes[number].astype(">f4").tobytes())
            _finest(plan, pages, strip, colour_image(planes, scale))


def _keys(count: int) -> tuple[str, ...]:
    return {1: ("GREY",), 2: ("RED", "BLUE"), 3: ("RED", "GREEN", "BLUE")}[count]


def _height(plan: AtlasPlan) -> int:
    """Rows of the page's canvas, whose first one is at the top: whole blocks, so that tiles begin on the lattice."""
    return -(-plan.frame.ny // BLOCK) * BLOCK


def _finest(plan: AtlasPlan, pages: Path, strip: Box, picture: NDArray[np.uint8]) -> None:
    """Tiles of a strip, North up."""
    from PIL import Image

    y0, y1, x0, x1 = strip
    level = pages / str(_finest_level(plan))
    level.mkdir(parents=True, exist_ok=True)
    canvas = np.zeros((BLOCK, -(-(x1 - x0) // TILE) * TILE, 3), np.uint8)
    canvas[BLOCK - (y1 - y0) :, : x1 - x0] = picture[::-1]
    top = (_height(plan) - y0 - BLOCK) // TILE
    for row in range(BLOCK // TILE):
        for column in range(canvas.shape[1] // TILE):
            part = canvas[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            if part.any():
                Image.fromarray(np.ascontiguousarray(part)).save(level / f"{x0 // TILE + column}_{top + row}.png")


def _finest_level(plan: AtlasPlan) -> int:
    """Level of full resolution; one tile holds level 0."""
    return int(np.ceil(np.log2(max(plan.frame.nx, _height(plan), TILE) / TILE)))


def _pyramid(plan: AtlasPlan, pages: Path) -> int:
    """Coarser levels, each from four tiles of the finer one; returns the finest level."""
    from PIL import Image

    finest = _finest_level(plan)
    for level in range(finest - 1, -1, -1):
        fine, coarse = pages / str(level + 1), pages / str(level)
        coarse.mkdir(parents=True, exist_ok=True)
        names = sorted({tuple(int(part) // 2 for part in path.stem.split("_")) for path in fine.glob("*.png")})
        for column, row in names:
            four = Image.new("RGB", (2 * TILE, 2 * TILE))
            for dy in (0, 1):
                for dx in (0, 1):
                    path = fine / f"{2 * column + dx}_{2 * row + dy}.png"
                    if path.exists():
                        with Image.open(path) as tile:
                            four.paste(tile, (dx * TILE, dy * TILE))
            four.reduce(2).save(coarse / f"{column}_{row}.png")
    return finest


def _stitch(plan: AtlasPlan, pages: Path, finest: int, covered: Box, path: Path) -> None:
    """One PNG of what is covered."""
    from PIL import Image

    y0, y1, x0, x1 = covered
    left, top, right, bottom, level = x0, _height(plan) - y1, x1, _height(plan) - y0, finest
    while max(right - left, bottom - top) > LARGEST_PNG:
        left, top, right, bottom, level = left // 2, top // 2, -(-right // 2), -(-bottom // 2), level - 1
    whole = Image.new("RGB", (right - left, bottom - top))
    for tile in (pages / str(level)).glob("*.png"):
        column, row = (int(part) for part in tile.stem.split("_"))
        with Image.open(tile) as picture:
            whole.paste(picture, (column * TILE - left, row * TILE - top))
    with replacing(path, ".png") as temporary:
        whole.save(temporary)


def _page(plan: AtlasPlan, name: str, bands: list[str], pages: Path, finest: int, covered: Box) -> Path:
    """The page itself, with nothing to load but the tiles beside it."""
    frame = plan.frame
    target = str(read_table(plan.folder.exposures, ["target"])["target"][0])
    told = {
        "title": f"{target or plan.folder.root.resolve().name}: {name}", "covered": covered,
        "bands": bands, "colours": _keys(len(bands)), "tile": TILE, "levels": finest,
        "nx": frame.nx, "ny": frame.ny, "height": _height(plan), "ra0": frame.ra0, "dec0": frame.dec0, "scale": frame.scale,
        "x0": frame.x0, "y0": frame.y0,
    }  # fmt: skip
    text = files("dpm.stages.atlas").joinpath("viewer.html").read_text(encoding="utf-8")
    path = pages / "index.html"
    with replacing(path, ".html") as temporary:
        temporary.write_text(text.replace("/*PICTURE*/null", json.dumps(told).replace("</", "<\\/")), encoding="utf-8")
    return path
