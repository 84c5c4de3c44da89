"""Errors of a solved distortion as a few draws of what it might as well have been.

Neighbouring pixels, dithers and filters share them, so that a table of variances would not do: every draw is a whole
set of maps and transforms, and the scatter over the draws of whatever is made from them is its error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DistortionErrors"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DistortionErrors:
    """Draws of the errors of one detector's maps and of its units' transforms.

    Parameters
    ----------
    node_x, node_y : ndarray
        Raw positions of the nodes, ascending.
    maps : dict
        For each filter (n_draws, 2, len(node_y), len(node_x)): errors of x and y, raw pixels.
    transforms : dict
        For each unit by name (n_draws, 4): errors of its shift (x, y), of the logarithm of its scale, and of its angle
        (radians), on the master frame.
    covered : dict
        For each filter (len(node_y), len(node_x)) bool: cells of the detector with stars near enough.
    """

    node_x: Floats
    node_y: Floats
    maps: dict[str, Floats]
    transforms: dict[str, Floats]
    covered: dict[str, NDArray[np.bool_]]

    @property
    def n_draws(self) -> int:
        return len(next(iter(self.maps.values())))

    def on_frame(self, name: str, filter_name: str, matrix: Floats, x: Floats, y: Floats, dx: Floats, dy: Floats) -> Floats:
        """Draws of the errors of positions on the master frame.

        Parameters
        ----------
        name, filter_name : str
            Of the unit.
        matrix : ndarray (2, 2)
            Of its transform to the master frame.
        x, y : ndarray (n,)
            Raw positions.
        dx, dy : ndarray (n,)
            The same positions on the master frame, from the image of the detector's centre.

        Returns
        -------
        ndarray (n_draws, 2, n)
        """
        values = self._at(filter_name, x, y)
        out = np.empty_like(values)
        shift = self.transforms.get(name, np.zeros((self.n_draws, 4)))
        out[:, 0] = matrix[0, 0] * values[:, 0] + matrix[0, 1] * values[:, 1]
        out[:, 1] = matrix[1, 0] * values[:, 0] + matrix[1, 1] * values[:, 1]
        out[:, 0] += shift[:, 0, None] + shift[:, 2, None] * dx - shift[:, 3, None] * dy
        out[:, 1] += shift[:, 1, None] + shift[:, 2, None] * dy + shift[:, 3, None] * dx
        return out

    def is_covered(self, filter_name: str, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether raw positions lie where the map rests on stars; elsewhere it is extrapolated."""
        grid = self.covered[filter_name]
        cells = []
        for nodes, position in ((self.node_x, x), (self.node_y, y)):
            step = (nodes[-1] - nodes[0]) / len(nodes)
            cells.append(np.clip(np.floor((position - nodes[0]) / step), 0, len(nodes) - 1).astype(np.int64))
        return np.asarray(grid[cells[1], cells[0]])

    def _at(self, filter_name: str, x: Floats, y: Floats) -> Floats:
        """Bilinear values at raw positions, (n_draws, 2, n); beyond the nodes those of the border."""
        grid = self.maps[filter_name]
        i, s = _cell(self.node_x, x)
        j, t = _cell(self.node_y, y)
        low = (1 - s) * grid[:, :, j, i] + s * grid[:, :, j, i + 1]
        high = (1 - s) * grid[:, :, j + 1, i] + s * grid[:, :, j + 1, i + 1]
        return np.asarray((1 - t) * low + t * high)


def _cell(nodes: Floats, position: Floats) -> tuple[NDArray[np.int64], Floats]:
    position = np.clip(position, nodes[0], nodes[-1])
    low = np.clip(np.searchsorted(nodes, position, side="right") - 1, 0, len(nodes) - 2)
    return low, (position - nodes[low]) / (nodes[low + 1] - nodes[low])
