"""Pixels of one exposure in blocks, uncompressed: written once, then read by patches that need a small part each (DESIGN section
3).

The file holds blocks of BLOCK x BLOCK pixels of the detector's raw grid, row by row; each block holds six float32 planes: image,
variance without light (infinite where a pixel carries no weight), variance per unit of light, relative variance of the flat
field, the flux below
which the halos of bright stars explain a detection, and the bits of the pixel's data quality.
No file is mapped into memory: pages of a mapped file count against a worker's limit.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag

__all__ = ["BLOCK", "PLANES", "GatheredPixels", "write_blocks", "write_gathered"]

BLOCK = 64
PLANES = 6
_BLOCK_BYTES = PLANES * BLOCK * BLOCK * 4


def write_gathered(
    path: str | os.PathLike[str],
    image: ExposureImage,
    sci: NDArray[np.float32],
    variance: NDArray[np.float32],
    halo: NDArray[np.float32],
) -> None:
    """Write an exposure's planes in blocks, atomically.

    Parameters
    ----------
    path : path
        The file; its folder is made if need be.
    image : ExposureImage
        Noise planes; pixels that carry no weight become 0 with infinite variance.
    sci, variance, halo : ndarray (ny, nx), float32
        The image to write, its variance without light, and the limit of the halos.
    """
    ny, nx = image.shape
    rows, columns = -(-ny // BLOCK), -(-nx // BLOCK)
    bad = ((image.dq & int(PixelFlag.BAD)) != 0) | ~np.isfinite(sci)
    planes = np.zeros((PLANES, rows * BLOCK, columns * BLOCK), np.float32)
    planes[1] = np.inf
    planes[0, :ny, :nx] = np.where(bad, np.float32(0.0), sci)
    planes[1, :ny, :nx] = np.where(bad, np.float32(np.inf), variance)
    planes[2, :ny, :nx] = np.where(bad, np.float32(0.0), image.poisson_factor)
    planes[3, :ny, :nx] = np.where(bad, np.float32(0.0), image.flat_variance)
    planes[4, :ny, :nx] = halo
    planes[5, :ny, :nx] = image.dq
    write_blocks(path, planes)


def write_blocks(path: str | os.PathLike[str], planes: NDArray[np.float32]) -> None:
    """Write six planes in blocks, atomically, for `GatheredPixels` to read.

    Parameters
    ----------
    path : path
        The file; its folder is made if need be.
    planes : ndarray (6, rows * BLOCK, columns * BLOCK), float32
    """
    rows, columns = planes.shape[1] // BLOCK, planes.shape[2] // BLOCK
    blocks = planes.reshape(PLANES, rows, BLOCK, columns, BLOCK).transpose(1, 3, 0, 2, 4)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        np.ascontiguousarray(blocks).tofile(file)


class GatheredPixels:
    """Boxes of one exposure from a file of `write_gathered`.

    Parameters
    ----------
    path : path
    shape : tuple of int
        (ny, nx) of the exposure.
    origin : tuple of int
        Raw full-detector (x, y) of its first pixel.
    """

    def __init__(self, path: str | os.PathLike[str], shape: tuple[int, int], origin: tuple[int, int]) -> None:
        self.path, self.shape, self.origin = Path(path), shape, origin

    def _clip(self, x0: int, x1: int, y0: int, y1: int) -> tuple[int, int, int, int]:
        """First and last row and column (excluded) of the part of a raw box that the exposure has."""
        ny, nx = self.shape
        a, c = max(y0 - self.origin[1], 0), max(x0 - self.origin[0], 0)
        return a, max(min(y1 - self.origin[1], ny), a), c, max(min(x1 - self.origin[0], nx), c)

    def count(self, x0: int, x1: int, y0: int, y1: int) -> int:
        """Pixels of the raw box [x0, x1) x [y0, y1) that the exposure has."""
        a, b, c, d = self._clip(x0, x1, y0, y1)
        return (b - a) * (d - c)

    def read(self, x0: int, x1: int, y0: int, y1: int) -> tuple[NDArray[np.float32], int, int]:
        """Planes (6, ny, nx) of the raw box [x0, x1) x [y0, y1) as far as the exposure reaches, and where they begin (x, y).

        Raises
        ------
        FileNotFoundError
            If the file was removed.
        ValueError
            If it is shorter than its shape says.
        """
        ny, nx = self.shape
        a, b, c, d = self._clip(x0, x1, y0, y1)
        if a == b or c == d:
            return np.zeros((PLANES, 0, 0), np.float32), 0, 0
        columns = -(-nx // BLOCK)
        first_row, last_row, first, last = a // BLOCK, (b - 1) // BLOCK, c // BLOCK, (d - 1) // BLOCK
        out = np.empty((PLANES, (last_row - first_row + 1) * BLOCK, (last - first + 1) * BLOCK), np.float32)
        with open(self.path, "rb", buffering=0) as file:
            for row in range(first_row, last_row + 1):
                file.seek((row * columns + first) * _BLOCK_BYTES)
                count = (last - first + 1) * PLANES * BLOCK * BLOCK
                strip = np.fromfile(file, np.float32, count)
                if strip.size != count:
                    raise ValueError(f"{self.path}: shorter than its {ny} x {nx} pixels; remove it and run second_pass again")
                strip = strip.reshape(last - first + 1, PLANES, BLOCK, BLOCK).transpose(1, 2, 0, 3)
                at = (row - first_row) * BLOCK
                out[:, at : at + BLOCK] = strip.reshape(PLANES, BLOCK, -1)
        shift_y, shift_x = first_row * BLOCK, first * BLOCK
        box = out[:, a - shift_y : b - shift_y, c - shift_x : d - shift_x]
        return box, c + self.origin[0], a + self.origin[1]
