"""One exposure as the atlas takes it: pixels in common units, where they fall, and its sky; read once, written in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Row
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from dpm.io.atomic import replacing
from dpm.io.gathered import BLOCK as FILE_BLOCK
from dpm.io.gathered import GatheredPixels, write_blocks
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.transform import LinearTransform, fit_linear
from dpm.stages.atlas.layout import BLOCK, AtlasPlan
from dpm.stages.atlas.sky import sky_cells
from dpm.stages.residuals.exposure import RunScene
from dpm.stages.second_pass.placement import exposure_maps

__all__ = ["AtlasExposure", "Window", "gather_exposure"]

Floats = NDArray[np.float64]
Images = NDArray[np.float32]

STEP = 16  # raw pixels between the nodes that tell which pixels a cell needs, and how large pixels are
STRIP = 128  # rows of an exposure placed at a time
SKY_STRIDE = 2  # every second pixel and row tells the sky: a thousand in a cell, whose median errs by a thirtieth of their scatter
NODE_REACH = 1.0  # atlas pixels that distortion may bend the lines between nodes
# No value that a mask left is believed where its own exposure says that a cosmic ray was there.
REJECTED = int(PixelFlag.BAD | PixelFlag.COSMIC_RAY)


@dataclass(frozen=True)
class Window:
    """A part of an exposure.

    Parameters
    ----------
    value : ndarray (ny, nx), float32
        Catalogue flux per atlas pixel, the sky in it; 0 where not good.
    variance, gain : ndarray (ny, nx), float32
        Variance without light but for what the flat field errs in ``stars``, and variance per unit of light.
    stars : ndarray (ny, nx), float32
        The catalogue's stars in the pixel, of ``value``.
    good : ndarray (ny, nx), bool
    pixmap : ndarray (ny, nx, 2), float64
        Atlas x and y of the pixels' centres.
    """

    value: Images
    variance: Images
    gain: Images
    stars: Images
    good: NDArray[np.bool_]
    pixmap: Floats


class AtlasExposure:
    """A gathered exposure.

    Parameters
    ----------
    pixels, maps : Path
        Files of `gather_exposure`.
    """

    def __init__(self, pixels: Path, maps: Path) -> None:
        with np.load(maps) as data:
            self.grid_x, self.grid_y = data["grid_x"], data["grid_y"]
            self.column, self.row = data["column"], data["row"]
            self.linear = LinearTransform(*data["linear"])
            self.noise, self.density = float(data["noise"]), float(data["density"])
            self.cells, self.levels = data["cells"], data["levels"]
        shape = int(self.row[-1]) + 1, int(self.column[-1]) + 1
        self._pixels = GatheredPixels(pixels, shape, (0, 0))

    def box(self, x0: float, x1: float, y0: float, y1: float) -> tuple[int, int, int, int] | None:
        """First and last column and row (excluded) of the pixels that may reach a box of the atlas, or None."""
        low = [_corners(grid, np.minimum) for grid in (self.grid_x, self.grid_y)]
        high = [_corners(grid, np.maximum) for grid in (self.grid_x, self.grid_y)]
        # Half a pixel's size lies beyond the outer pixels' centres.
        reach = NODE_REACH + 1.0 / np.sqrt(self.density)
        touch = (high[0] > x0 - reach) & (low[0] < x1 + reach) & (high[1] > y0 - reach) & (low[1] < y1 + reach)
        rows, columns = np.nonzero(touch)
        if not rows.size:
            return None
        first, last = self.column[columns.min()], self.column[columns.max() + 1] + 1
        return int(first), int(last), int(self.row[rows.min()]), int(self.row[rows.max() + 1] + 1)

    def window(self, x0: float, x1: float, y0: float, y1: float) -> Window | None:
        """The pixels that may reach a box of the atlas; None where there are none."""
        box = self.box(x0, x1, y0, y1)
        if box is None:
            return None
        planes, column, row = self._pixels.read(*box)
        ny, nx = planes.shape[1:]
        x, y = self.linear(*np.meshgrid(np.arange(column, column + nx, dtype=float), np.arange(row, row + ny, dtype=float)))
        pixmap = np.stack([x + planes[4], y + planes[5]], axis=-1)
        return Window(planes[0], planes[1], planes[2], planes[3], np.isfinite(planes[1]), pixmap)


def _corners(grid: Floats, extreme: np.ufunc) -> Floats:
    """Least or largest value at the four corners of every mesh."""
    along = extreme(grid[:, :-1], grid[:, 1:])
    return np.asarray(extreme(along[:-1], along[1:]))


def gather_exposure(plan: AtlasPlan, name: str, source: str, threshold: float) -> dict[str, Any]:
    """Write the pixels and the map of one exposure.

    Parameters
    ----------
    plan : AtlasPlan
    name : str
        Exposure and detector.
    source : str
        ``[distortion] source``.
    threshold : float
        ``[find] threshold``.

    Returns
    -------
    dict
        ``blocks``: those that it touches.
    """
    scene = RunScene(plan.folder, source, threshold)
    made = scene.residual(name)
    stars = np.where(np.isfinite(made.residual), made.image.sci - made.residual, np.float32(0.0))
    write_exposure(plan, name, made.image, stars, *_maps(plan, scene.frame, made.row, made.image, source))
    exposure = AtlasExposure(plan.pixels_file(name), plan.map_file(name))
    ny, nx = plan.frame.ny, plan.frame.nx
    blocks = [
        (j, i)
        for j in range(-(-ny // BLOCK))
        for i in range(-(-nx // BLOCK))
        if exposure.box(i * BLOCK, (i + 1) * BLOCK, j * BLOCK, (j + 1) * BLOCK) is not None
    ]
    return {"blocks": blocks}


def _maps(
    plan: AtlasPlan, master: MasterFrame, row: Row, image: ExposureImage, source: str
) -> tuple[Any, Any, float]:
    """Atlas positions and relative areas of raw positions, and the flux scale of the exposure."""
    plane, transform, area = exposure_maps(plan.folder, row, master, image, source)
    frame = plan.frame
    ratio = master.scale / frame.scale

    def place(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        u, v = transform(*plane.forward(x + image.x_origin, y + image.y_origin))
        return (u - master.x0) * ratio + frame.x0, (v - master.y0) * ratio + frame.y0

    def relative_area(x: Floats, y: Floats) -> Floats:
        return area(x + image.x_origin, y + image.y_origin)

    zero_point = float(row["zero_point"])
    return place, relative_area, 10 ** (-0.4 * zero_point) if np.isfinite(zero_point) else 1.0


def write_exposure(
    plan: AtlasPlan, name: str, image: ExposureImage, stars: Images, place: Any, area: Any, scale: float
) -> None:
    """Write pixels in catalogue flux per atlas pixel, and where they fall.

    Parameters
    ----------
    plan : AtlasPlan
    name : str
        Exposure and detector.
    image : ExposureImage
    stars : ndarray (ny, nx), float32
        Light of the catalogue's stars in it.
    place : callable
        Array positions to atlas positions.
    area : callable
        Pixel area over the nominal one at array positions.
    scale : float
        Catalogue flux of a unit of the exposure's flux.
    """
    ny, nx = image.shape
    column, row = (_nodes(n) for n in (nx, ny))
    columns, rows = np.meshgrid(column, row)
    grid_x, grid_y = (value.reshape(columns.shape) for value in place(columns.ravel(), rows.ravel()))
    # From nodes, since the finest terms of a map say nothing on how large a pixel is.
    along = [np.gradient(grid, row, column) for grid in (grid_x, grid_y)]
    size = np.abs(along[0][1] * along[1][0] - along[0][0] * along[1][1])
    linear = fit_linear(columns.ravel(), rows.ravel(), grid_x.ravel(), grid_y.ravel(), clip=None).transform
    per_area = RegularGridInterpolator((row, column), 1.0 / size, method="linear")
    planes = np.zeros((6, -(-ny // FILE_BLOCK) * FILE_BLOCK, -(-nx // FILE_BLOCK) * FILE_BLOCK), np.float32)
    planes[1] = np.inf
    bad = ((image.dq & REJECTED) != 0) | ~np.isfinite(image.sci)
    for first in range(0, ny, STRIP):
        last = min(first + STRIP, ny)
        x, y = np.meshgrid(np.arange(nx, dtype=float), np.arange(first, last, dtype=float))
        at_x, at_y = place(x.ravel(), y.ravel())
        unit = scale * area(x, y) * per_area((y, x))
        mine, lost = slice(first, last), bad[first:last]
        near_x, near_y = linear(x, y)
        strip = planes[:, mine, :nx]
        strip[0] = np.where(lost, 0.0, image.sci[mine] * unit)
        light = stars[mine] * unit
        strip[1] = np.where(lost, np.inf, image.var_read[mine] * unit**2 + image.flat_variance[mine] * light**2)
        strip[2] = np.where(lost, 0.0, image.poisson_factor[mine] * unit)
        strip[3] = np.where(lost, 0.0, light)
        strip[4], strip[5] = at_x.reshape(x.shape) - near_x, at_y.reshape(x.shape) - near_y
    write_blocks(plan.pixels_file(name), planes)
    value, good = planes[0, :ny, :nx], ~bad
    noise = float(np.median(planes[1, :ny, :nx][good])) if good.any() else np.inf
    if good.any():
        level = max(float(np.median(value[good])), 0.0)
        noise += float(np.median(planes[2, :ny, :nx][good])) * level
    density = float(np.median(1.0 / size))
    thin = slice(0, ny, SKY_STRIDE), slice(0, nx, SKY_STRIDE)
    x, y = linear(*np.meshgrid(np.arange(0.0, nx, SKY_STRIDE), np.arange(0.0, ny, SKY_STRIDE)))
    rest = value[thin] - planes[3][thin]
    cells, levels = sky_cells(rest, good[thin], x + planes[4][thin], y + planes[5][thin], density / SKY_STRIDE**2)
    plan.map_file(name).parent.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, Any] = {"noise": noise, "density": density}
    numbers["linear"] = [linear.a, linear.b, linear.c, linear.d, linear.x_shift, linear.y_shift]
    with replacing(plan.map_file(name), ".npz") as temporary:
        np.savez(temporary, grid_x=grid_x, grid_y=grid_y, column=column, row=row, cells=cells, levels=levels, **numbers)


def _nodes(n: int) -> Floats:
    """Every STEP-th pixel and the last one."""
    inner = np.arange(0, max(n - 1, 1), STEP, dtype=float)
    return np.append(inner, float(n - 1)) if n > 1 else inner
