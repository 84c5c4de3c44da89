"""The atlas of a run as files: which there are, and any part of a stack, over the borders of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.models.master_frame import MasterFrame

__all__ = ["AtlasFiles"]


class AtlasFiles:
    """The stacks of a run.

    Parameters
    ----------
    folder : RunFolder

    Raises
    ------
    FileNotFoundError
        If the run has no atlas.
    """

    def __init__(self, folder: RunFolder) -> None:
        if not folder.atlas_index.is_file():
            raise FileNotFoundError(f"{folder.atlas_index}: no atlas yet; [atlas] make = true and `dpm run` make it")
        self.folder = folder
        self.index = Table.read(folder.atlas_index, format="ascii.ecsv")
        self.frame = MasterFrame.from_meta(self.index.meta["frame"])

    @property
    def stacks(self) -> list[str]:
        """Names of the stacks, oldest epoch first."""
        return list(dict.fromkeys(str(name) for name in self.index["stack"]))

    def path(self, row: int) -> Path:
        """The file of a row of the index."""
        return self.folder.root / str(self.index["file"][row])

    def epoch(self, stack: str) -> float:
        """Mean time of a stack's exposures, decimal years."""
        return float(self.index["epoch"][self._rows(stack)[0]])

    def cutout(self, stack: str, box: tuple[int, int, int, int] | None = None, plane: str = "SCI") -> tuple[NDArray, WCS]:
        """A part of a stack and its WCS.

        Parameters
        ----------
        stack : str
        box : tuple of int, optional
            y0, y1, x0, x1 in the atlas' frame; parts beyond the field are NaN (0 for ``WHT`` and ``NEXP``). The whole stack if
            not given.
        plane : {"SCI", "ERR", "WHT", "NEXP"}

        Raises
        ------
        KeyError
            If there is no such stack.
        """
        rows = self._rows(stack)
        y0, y1, x0, x1 = box or (0, self.frame.ny, 0, self.frame.nx)
        fill = np.nan if plane in ("SCI", "ERR") else 0
        out = np.full((y1 - y0, x1 - x0), fill, np.int16 if plane == "NEXP" else np.float32)
        for row in rows:
            left, low = int(self.index["x0"][row]), int(self.index["y0"][row])
            a, b = max(y0, low), min(y1, low + int(self.index["ny"][row]))
            c, d = max(x0, left), min(x1, left + int(self.index["nx"][row]))
            if a < b and c < d:
                with fits.open(self.path(row), memmap=False) as hdulist:
                    out[a - y0 : b - y0, c - x0 : d - x0] = hdulist[plane].section[a - low : b - low, c - left : d - left]
        wcs = self.frame.wcs
        wcs.wcs.crpix = [self.frame.x0 + 1 - x0, self.frame.y0 + 1 - y0]
        wcs.pixel_shape = out.shape[::-1]
        return out, wcs

    def _rows(self, stack: str) -> list[int]:
        found = [k for k, name in enumerate(self.index["stack"]) if str(name) == stack]
        if not found:
            raise KeyError(f"no stack {stack!r} in the atlas; there are {', '.join(self.stacks)}")
        return found
