"""Stars into pixels: a cubic B-spline through the oversampled ePSFs, blended bilinearly between the nodes.

All pixels of a star lie at the same phase of the oversampled grid, so the spline's coefficients are stored one plane
a phase and the inner loop runs over neighbouring pixels.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import spline_filter1d

from dpm.simulate.optics import OVERSAMPLE, EpsfGrid

__all__ = ["StarRenderer"]

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True)
def _add_stars(
    image: Floats,
    xs: Floats,
    ys: Floats,
    counts: Floats,
    halves: NDArray[np.int64],
    planes: NDArray[np.float32],
    x_nodes: Floats,
    y_nodes: Floats,
    centre: float,
    oversample: int,
) -> None:
    """Add stars to the image; positions are those of the image (its first pixel is (0, 0))."""
    ny, nx = image.shape
    nodes_x, nodes_y = x_nodes.size, y_nodes.size
    width = np.empty(4, np.float64)
    height = np.empty(4, np.float64)
    row = np.empty(nx, np.float64)
    for k in range(xs.size):
        x, y, half = xs[k], ys[k], halves[k]
        ix, iy = int(np.rint(x)), int(np.rint(y))
        i0, i1 = max(ix - half, 0), min(ix + half, nx - 1)
        j0, j1 = max(iy - half, 0), min(iy + half, ny - 1)
        if i0 > i1 or j0 > j1:
            continue
        u = (x - x_nodes[0]) / (x_nodes[nodes_x - 1] - x_nodes[0]) * (nodes_x - 1)
        v = (y - y_nodes[0]) / (y_nodes[nodes_y - 1] - y_nodes[0]) * (nodes_y - 1)
        u = min(max(u, 0.0), nodes_x - 1.0)
        v = min(max(v, 0.0), nodes_y - 1.0)
        a, b = min(int(u), nodes_x - 2), min(int(v), nodes_y - 2)
        u -= a
        v -= b
        sx = (i0 - x) * oversample + centre
        sy = (j0 - y) * oversample + centre
        fx, fy = int(np.floor(sx)), int(np.floor(sy))
        _weights(sx - fx, width)
        _weights(sy - fy, height)
        n = i1 - i0 + 1
        for j in range(j0, j1 + 1):
            for i in range(n):
                row[i] = 0.0
            for q in range(4):
                my = fy - 1 + q
                plane_y, pixel_y = my % oversample, my // oversample + j - j0
                for p in range(4):
                    mx = fx - 1 + p
                    plane_x, pixel_x = mx % oversample, mx // oversample
                    w = counts[k] * height[q] * width[p]
                    w00, w01 = w * (1 - u) * (1 - v), w * u * (1 - v)
                    w10, w11 = w * (1 - u) * v, w * u * v
                    c00 = planes[b, a, plane_y, plane_x, pixel_y]
                    c01 = planes[b, a + 1, plane_y, plane_x, pixel_y]
                    c10 = planes[b + 1, a, plane_y, plane_x, pixel_y]
                    c11 = planes[b + 1, a + 1, plane_y, plane_x, pixel_y]
                    for i in range(n):
                        m = pixel_x + i
                        row[i] += w00 * c00[m] + w01 * c01[m] + w10 * c10[m] + w11 * c11[m]
            for i in range(n):
                image[j, i0 + i] += row[i]


@njit(cache=True, nogil=True)
def _weights(t: float, out: Floats) -> None:
    """The four weights of a cubic B-spline at the fraction t between two samples."""
    out[0] = (1 - t) ** 3 / 6
    out[1] = (3 * t**3 - 6 * t * t + 4) / 6
    out[2] = (-3 * t**3 + 3 * t * t + 3 * t + 1) / 6
    out[3] = t**3 / 6


class StarRenderer:
    """Adds stars to images with a grid of ePSFs.

    Parameters
    ----------
    grid : EpsfGrid
        The ePSFs; a second one of the same nodes may be blended in.
    other : EpsfGrid, optional
        ePSFs at another focus.
    share : float
        Part of ``other`` in the blend (negative: away from it).
    """

    def __init__(self, grid: EpsfGrid, other: EpsfGrid | None = None, share: float = 0.0) -> None:
        self.reach = grid.half - 1
        values = grid.values if other is None or not share else (1 - share) * grid.values + share * other.values
        coefficients = spline_filter1d(spline_filter1d(values, axis=2), axis=3)
        n, samples = values.shape[0], values.shape[-1]
        self._centre = (samples - 1) // 2
        # one pixel of zeros all around keeps every tap inside; the centre moves with it
        per = samples // OVERSAMPLE + 3
        padded = np.zeros((n, n, per * OVERSAMPLE, per * OVERSAMPLE), np.float32)
        padded[:, :, OVERSAMPLE : OVERSAMPLE + samples, OVERSAMPLE : OVERSAMPLE + samples] = coefficients
        self._centre += OVERSAMPLE
        shape = (n, n, per, OVERSAMPLE, per, OVERSAMPLE)
        self._planes = np.ascontiguousarray(padded.reshape(shape).transpose(0, 1, 3, 5, 2, 4))
        self._x_nodes, self._y_nodes = grid.x_nodes, grid.y_nodes
        self.peak = float(values.max())

    def add(
        self,
        image: Floats,
        x: Floats,
        y: Floats,
        counts: Floats,
        halves: NDArray[np.int64],
        origin: tuple[int, int] = (0, 0),
    ) -> None:
        """Add stars to an image, in place.

        Parameters
        ----------
        image : ndarray (ny, nx), float64
            The image.
        x, y, counts : ndarray (n,)
            Raw positions (0-based) and total counts.
        halves : ndarray (n,) of int
            Pixels either side of each star that are filled, at most ``reach``.
        origin : tuple of int
            Raw (x, y) of the image's first pixel.
        """
        halves = np.minimum(np.asarray(halves, np.int64), self.reach)
        _add_stars(
            image,
            np.asarray(x, float) - origin[0],
            np.asarray(y, float) - origin[1],
            np.asarray(counts, float),
            halves,
            self._planes,
            self._x_nodes - origin[0],
            self._y_nodes - origin[1],
            float(self._centre),
            OVERSAMPLE,
        )
