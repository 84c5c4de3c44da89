"""Clipped means of all exposures of a band on the master frame, data and residuals alike."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dpm.stages.residuals.exposure import Placement, ResidualImage

__all__ = ["Stack", "resample", "stack_exposures"]

Floats = NDArray[np.float64]
Images = NDArray[np.float32]

STRIP = 128  # rows of the master frame at a time
CLIP_SIGMA = 5.0
MODEL_ERROR = 0.05  # of the stars' light: what ePSF errors and the resampling may leave without being an outlier
LEAST_SHARE = 0.5  # of the weight of the four pixels about a point, that has to be good


@dataclass(frozen=True)
class Stack:
    """Stacks of one band on the master frame, (ny, nx).

    Parameters
    ----------
    data, residual : ndarray
        In the catalogue's flux unit a master pixel; NaN without exposures.
    number : ndarray of int
        Exposures in each pixel's mean.
    clipped : float
        Share of the exposures' pixels that stood out.
    """

    data: Images
    residual: Images
    number: NDArray[np.int16]
    clipped: float


@dataclass(frozen=True)
class _Window:
    """Planes of one exposure on its part of the master frame, in a file: data, residual, allowed variance of the residual."""

    path: Path
    row: int
    column: int
    shape: tuple[int, int]
    weight: float
    sky: float

    def strip(self, first: int, last: int, width: int) -> Images:
        """(3, last - first, width), NaN beyond the window."""
        out = np.full((3, last - first, width), np.nan, np.float32)
        a, b = max(first, self.row), min(last, self.row + self.shape[0])
        if a < b:
            planes = np.memmap(self.path, np.float32, "r", shape=(3, *self.shape))
            out[:, a - first : b - first, self.column : self.column + self.shape[1]] = planes[:, a - self.row : b - self.row]
        return out


def resample(image: NDArray, good: NDArray[np.bool_], x: Floats, y: Floats) -> Images:
    """An image at array positions, bilinear over its good pixels; NaN where too few are good."""
    place = np.array([y, x])
    share = map_coordinates(good.astype(np.float32), place, order=1, cval=0.0)
    total = map_coordinates(np.where(good, image, 0.0).astype(np.float32), place, order=1, cval=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(share >= LEAST_SHARE, total / share, np.nan), np.float32)


def stack_exposures(exposures: Iterable[ResidualImage], shape: tuple[int, int], scratch: Path) -> Stack:
    """Mean of exposures on the master frame, one exposure in memory at a time.

    Every exposure has one weight, from its median noise: weights that follow each pixel's light would bend the profiles of stars.
    Pixels whose residual stands out from the exposures' median (from the lower one of two) are left out of both means: cosmic rays
    that no mask names.  Each exposure's sky counts as its median, and the stacks keep the mean sky.

    Parameters
    ----------
    exposures : iterable of ResidualImage
    shape : (int, int)
        (ny, nx) of the master frame.
    scratch : Path
        Folder for temporary files, 12 bytes a pixel and exposure.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        made = (_write_window(exposure, shape, Path(temporary) / f"{k}.bin") for k, exposure in enumerate(exposures))
        return _combine([window for window in made if window is not None], shape)


def _write_window(exposure: ResidualImage, shape: tuple[int, int], path: Path) -> _Window | None:
    x_low, x_high, y_low, y_high = (int(v) for v in exposure.placement.bounds)
    c0, c1, r0, r1 = max(x_low, 0), min(x_high + 1, shape[1]), max(y_low, 0), min(y_high + 1, shape[0])
    if c0 >= c1 or r0 >= r1 or not exposure.good.any():
        return None
    good, sky = exposure.good, exposure.sky
    variance = exposure.variance()
    error = np.nan_to_num(MODEL_ERROR * (exposure.image.sci - exposure.residual))
    allowed = variance + error * error
    planes = np.memmap(path, np.float32, "w+", shape=(3, r1 - r0, c1 - c0))
    middle = 1.0
    for first in range(r0, r1, STRIP):
        last = min(first + STRIP, r1)
        x, y, unit = _raw_positions(exposure.placement, first, last, c0, c1)
        x, y = x - exposure.image.x_origin, y - exposure.image.y_origin
        mine = slice(first - r0, last - r0)
        planes[0, mine] = resample(exposure.image.sci - sky, good, x, y) * unit
        planes[1, mine] = resample(exposure.residual - sky, good, x, y) * unit
        planes[2, mine] = resample(allowed, good, x, y) * unit**2
        if np.isfinite(planes[0, mine]).any():
            middle = float(np.median(unit[np.isfinite(planes[0, mine])]))
    planes.flush()
    weight = 1.0 / max(float(np.median(variance[good])) * middle**2, 1e-30)
    return _Window(path, r0, c0, (r1 - r0, c1 - c0), weight, sky * middle)


def _raw_positions(placement: Placement, first: int, last: int, c0: int, c1: int) -> tuple[Floats, Floats, Floats]:
    """Raw positions of master pixels, and what turns a raw pixel's value into catalogue flux in a master pixel."""
    columns, rows = np.meshgrid(np.arange(c0 - 1, c1 + 1), np.arange(first - 1, last + 1))
    low_x, high_x, low_y, high_y = placement.bounds
    x, y, scale = placement(np.clip(columns, low_x, high_x), np.clip(rows, low_y, high_y))
    inner = slice(1, -1)
    dx_col, dx_row = 0.5 * (x[inner, 2:] - x[inner, :-2]), 0.5 * (x[2:, inner] - x[:-2, inner])
    dy_col, dy_row = 0.5 * (y[inner, 2:] - y[inner, :-2]), 0.5 * (y[2:, inner] - y[:-2, inner])
    area = np.abs(dx_col * dy_row - dx_row * dy_col)
    return x[inner, inner], y[inner, inner], area / scale[inner, inner]


def _combine(windows: list[_Window], shape: tuple[int, int]) -> Stack:
    data, residual = (np.full(shape, np.nan, np.float32) for _ in range(2))
    number = np.zeros(shape, np.int16)
    weights = np.array([window.weight for window in windows])
    mean_sky = float(np.average([window.sky for window in windows], weights=weights)) if windows else 0.0
    n_clipped = n_total = 0
    for first in range(0, shape[0], STRIP):
        last = min(first + STRIP, shape[0])
        near = [k for k, w in enumerate(windows) if w.row < last and w.row + w.shape[0] > first]
        if not near:
            continue
        planes = np.array([windows[k].strip(first, last, shape[1]) for k in near])
        there = np.isfinite(planes[:, 1])
        count = there.sum(axis=0)
        reference = np.sort(planes[:, 1], axis=0)  # NaN last
        lower = np.take_along_axis(reference, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
        with np.errstate(invalid="ignore"):
            keep = there & (np.abs(planes[:, 1] - lower) <= CLIP_SIGMA * np.sqrt(planes[:, 2]))
        n_total, n_clipped = n_total + int(there.sum()), n_clipped + int((there & ~keep).sum())
        weight = weights[near][:, None, None] * keep
        total = weight.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            for out, plane in ((data, 0), (residual, 1)):
                mean = np.sum(weight * np.where(keep, planes[:, plane], 0.0), axis=0) / total
                out[first:last] = np.where(total > 0, mean + mean_sky, np.nan)
        number[first:last] = keep.sum(axis=0)
    return Stack(data, residual, number, n_clipped / max(n_total, 1))
