"""Blocks of a stack: every exposure's good pixels dropped onto a cell of the atlas' frame with the drizzle package.

Cells are on a fixed lattice and each is made from its own pixels and a margin about it, exposures in the order of the plan, so that
pixels are the same however cells are bundled into tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.stages.atlas.cosmic_rays import combine_median, outliers, predict
from dpm.stages.atlas.exposure import AtlasExposure, Window
from dpm.stages.atlas.layout import BLOCK, CELL, AtlasPlan

__all__ = ["Cell", "drizzle_block", "drizzle_cell"]

Images = NDArray[np.float32]

MARGIN = 16  # atlas pixels about a cell that its median is made of too: five pixels of the coarsest camera beside the finest
LEAST_SHARE = 0.5  # of a pixel that an exposure's good pixels have to cover to count in the median


class Source(Protocol):
    """An exposure that gives the pixels of a box of the atlas."""

    noise: float
    density: float

    def window(self, x0: float, x1: float, y0: float, y1: float) -> Window | None: ...


@dataclass(frozen=True)
class Cell:
    """Planes of a part of a stack, (ny, nx).

    Parameters
    ----------
    sci : ndarray, float32
        Catalogue flux per pixel; NaN without exposures.
    weight : ndarray, float32
        Inverse variance of the sky, of areas large beside a pixel; 0 without exposures.
    error : ndarray, float32
        Standard deviation, noise of stars in it, for sums over several pixels (in quadrature); NaN without exposures.
    number : ndarray, int16
        Exposures in it.
    pixels, rejected : int
        Pixels of the exposures in it, and those rejected as cosmic rays.
    scatter : float
        Median of a single pixel's standard deviation over ``error``: resampling smooths.
    """

    sci: Images
    weight: Images
    error: Images
    number: NDArray[np.int16]
    pixels: int
    rejected: int
    scatter: float


def _drizzle(shape: tuple[int, int], **outputs: Any) -> Any:
    from drizzle.resample import Drizzle

    return Drizzle(kernel="square", out_shape=shape, fillval="NaN", disable_ctx=True, **outputs)


def _drop(made: Any, value: Images, weight: Images, pixmap: NDArray[np.float64], pixfrac: float, **more: Any) -> None:
    """Add pixels to an output image of the drizzle package."""
    made.add_image(value, 1.0, pixmap, weight_map=weight, pixfrac=pixfrac, **more)


def drizzle_cell(
    sources: Sequence[Source], sky: Sequence[float], box: tuple[int, int, int, int], pixfrac: float
) -> Cell | None:
    """One cell of a stack; None where no exposure has a pixel.

    Parameters
    ----------
    sources : sequence of Source
    sky : sequence of float
        Subtracted from each, per atlas pixel.
    box : tuple of int
        y0, y1, x0, x1 of the cell.
    pixfrac : float
        Side of the drops over that of the pixels.
    """
    y0, y1, x0, x1 = box
    shape, wide = (y1 - y0, x1 - x0), (y1 - y0 + 2 * MARGIN, x1 - x0 + 2 * MARGIN)
    near = (x0 - MARGIN - 0.5, x1 + MARGIN - 0.5, y0 - MARGIN - 0.5, y1 + MARGIN - 0.5)
    corner = np.array([x0 - MARGIN, y0 - MARGIN], float)
    singles: list[Images] = []
    present: list[int] = []
    for number, (source, level) in enumerate(zip(sources, sky)):
        window = source.window(*near)
        if window is None or not window.good.any():
            continue
        # Without the catalogue's stars: the cores of undersampled ones differ from exposure to exposure as cosmic rays do.
        single = _drizzle(wide)
        value = np.where(window.good, window.value - window.stars - np.float32(level), np.float32(0.0))
        _drop(single, value, window.good.astype(np.float32), window.pixmap - corner, 1.0)
        singles.append(np.where(single.out_wht >= LEAST_SHARE * source.density, single.out_img, np.float32(np.nan)))
        present.append(number)
    if not present:
        return None
    # A single exposure's noise on the atlas' pixels: that of its own, for the area of one.
    noise = np.array([np.sqrt(sources[k].noise / sources[k].density) for k in present])
    median, count = combine_median(np.array(singles), noise)
    del singles
    made, spread, everything, everything_spread = (_drizzle(shape) for _ in range(4))
    number_of, all_of = np.zeros(shape, np.int16), np.zeros(shape, np.int16)
    pixels = rejected = 0
    inner = np.array([x0, y0], float)
    for k in present:
        window = sources[k].window(*near)
        assert window is not None
        value, variance, lost = _judge(window, sky[k], median, count, corner)
        # One weight an exposure: weights that follow the light would bend the profiles of stars.
        weight = np.where(window.good, np.float32(1.0 / sources[k].noise), np.float32(0.0))
        kept = np.where(lost, np.float32(0.0), weight)
        pixmap = window.pixmap - inner
        before, before_all = made.out_wht.copy(), everything.out_wht.copy()
        _drop(made, value, kept, pixmap, pixfrac, data2=variance)
        _drop(spread, kept * variance, kept, pixmap, pixfrac)
        _drop(everything, value, weight, pixmap, pixfrac)
        _drop(everything_spread, weight * variance, weight, pixmap, pixfrac)
        number_of += made.out_wht > before
        all_of += everything.out_wht > before_all
        inside = np.all((pixmap > -0.5) & (pixmap < np.array(shape[::-1]) - 0.5), axis=-1)
        pixels, rejected = pixels + int((window.good & inside).sum()), rejected + int((lost & inside).sum())
    # Where all exposures disagree, as on what moved between them, none is better than another.
    hole = (made.out_wht == 0) & (everything.out_wht > 0)
    for kept_plane, plane in ((made.out_img, everything.out_img), (made.out_wht, everything.out_wht), (number_of, all_of)):
        kept_plane[hole] = plane[hole]
    there = made.out_wht > 0
    if not there.any():
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        # Exposure by exposure the sum of weight^2 variance over pixels, over the square of the sum of weights.
        mean = np.where(hole, everything_spread.out_img, spread.out_img)
        error = np.sqrt(np.where(there, mean / made.out_wht, np.float32(np.nan)))
        ratio = np.sqrt(np.asarray(made.out_img2[0])[there & ~hole]) / error[there & ~hole]
    scatter = float(np.median(ratio)) if ratio.size else float("nan")
    return Cell(made.out_img, made.out_wht, error, number_of, pixels, rejected, scatter)


def _judge(
    window: Window, level: float, median: Images, count: NDArray[np.int16], corner: NDArray[np.float64]
) -> tuple[Images, Images, NDArray[np.bool_]]:
    """Pixels above the sky, their variances, and which of them are cosmic rays."""
    x, y = np.moveaxis(window.pixmap - corner, -1, 0)
    expected, told = predict(median, count, x, y)
    above = np.where(window.good, window.value - np.float32(level), np.float32(0.0))
    rest = above - window.stars
    # The noise of the light that is expected, not of what was counted, which would hide that a pixel is off.
    light = np.maximum(window.stars + np.where(np.isfinite(expected), expected, rest) + np.float32(level), 0.0)
    variance = np.where(window.good, window.variance, np.float32(0.0)) + window.gain * light
    lost = outliers(rest, window.good, expected, told, variance, window.stars)
    return above, variance.astype(np.float32), lost


def cells(box: tuple[int, int, int, int]) -> Iterator[tuple[int, int, int, int]]:
    """y0, y1, x0, x1 of the lattice's cells in a box that begins on it."""
    y0, y1, x0, x1 = box
    for y in range(y0, y1, CELL):
        for x in range(x0, x1, CELL):
            yield y, min(y + CELL, y1), x, min(x + CELL, x1)


def drizzle_block(plan: AtlasPlan, stack: int, block: tuple[int, int]) -> dict[str, Any]:
    """Write the planes of one block of one stack.

    Parameters
    ----------
    plan : AtlasPlan
    stack : int
        Its number.
    block : tuple of int
        Row and column.
    """
    told = plan.stacks[stack]
    ny, nx = plan.part_shape(block)
    y0, x0 = block[0] * BLOCK, block[1] * BLOCK
    sources, sky = [], []
    for name in told.exposures:
        source = AtlasExposure(plan.pixels_file(name), plan.map_file(name))
        if source.box(x0 - MARGIN, x0 + nx + MARGIN, y0 - MARGIN, y0 + ny + MARGIN) is not None:
            sources.append(source)
            sky.append(plan.sky[name])
    planes: dict[str, Any] = {
        "sci": np.full((ny, nx), np.nan, np.float32), "weight": np.zeros((ny, nx), np.float32),
        "error": np.full((ny, nx), np.nan, np.float32), "number": np.zeros((ny, nx), np.int16),
    }  # fmt: skip
    out: dict[str, Any] = {"stack": stack, "block": list(block), "pixels": 0, "rejected": 0}
    scatters = []
    for box in cells((y0, y0 + ny, x0, x0 + nx)):
        made = drizzle_cell(sources, sky, box, plan.pixfrac)
        if made is None:
            continue
        mine = slice(box[0] - y0, box[1] - y0), slice(box[2] - x0, box[3] - x0)
        for name in planes:
            planes[name][mine] = getattr(made, name)
        out["pixels"], out["rejected"] = out["pixels"] + made.pixels, out["rejected"] + made.rejected
        scatters.append(made.scatter)
    path = plan.part_file(stack, block)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, ".npz") as temporary:
        np.savez(temporary, **planes)
    return out | {"scatter": float(np.median(scatters)) if scatters else None}
