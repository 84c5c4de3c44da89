"""The per-pixel term of the distortion: medians of the nearest residuals of all filters (paper 2, section 4.3).

Detector features finer than the table (voids in the epoxy) show in the residuals of all filters together.  A median of
fifty residuals also has noise; it is scaled by how far it stands out of it, so that nothing is added where nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial import cKDTree

from dpm.kernels.distortion import clipped_medians

__all__ = ["FineTerm", "fine_term"]

Floats = NDArray[np.float64]

# Residuals to a median, and their clipping (paper 2, section 4.3).
NEAREST = 50
CLIP = 2.5
CLIP_ROUNDS = 5
# The term is worked out on a lattice of this part of the radius that holds so many residuals.
STEPS_PER_RADIUS = 3.0
# A median this many errors from zero is halved; smaller ones vanish quickly.
HALF_AT = 3.0
# Lattice points done at a time: bounds the memory for their neighbours.
CHUNK = 50_000


@dataclass(frozen=True)
class FineTerm:
    """Displacements on a lattice, pixels.

    Parameters
    ----------
    x, y : ndarray
        Raw positions of the lattice, ascending.
    dx, dy : ndarray (len(y), len(x))
        To be added.
    significant : float
        Part of the lattice where the term stands out of its noise by `HALF_AT` or more.
    """

    x: Floats
    y: Floats
    dx: Floats
    dy: Floats
    significant: float

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Displacement at raw positions; beyond the lattice that of its border."""
        where = np.stack([np.clip(y, self.y[0], self.y[-1]), np.clip(x, self.x[0], self.x[-1])], -1)
        return RegularGridInterpolator((self.y, self.x), self.dx)(where), RegularGridInterpolator((self.y, self.x), self.dy)(where)


def fine_term(
    x: Floats,
    y: Floats,
    residual_x: Floats,
    residual_y: Floats,
    bounds: tuple[float, float, float, float],
    nearest: int = NEAREST,
) -> FineTerm | None:
    """Clipped medians of the nearest residuals, scaled by their significance.

    Parameters
    ----------
    x, y : ndarray (n,)
        Raw positions of the residuals, all filters together.
    residual_x, residual_y : ndarray (n,)
        Star's mean less the measurement, pixels.
    bounds : tuple of float
        Raw x_min, x_max, y_min, y_max of the lattice.
    nearest : int
        Residuals to a median.

    Returns
    -------
    FineTerm or None
        None where there are fewer than ten times `nearest` residuals.
    """
    if len(x) < 10 * nearest:
        return None
    area = (bounds[1] - bounds[0]) * (bounds[3] - bounds[2])
    step = max(np.sqrt(nearest * area / len(x) / np.pi) / STEPS_PER_RADIUS, 1.0)
    nodes_x = np.linspace(bounds[0], bounds[1], int(np.ceil((bounds[1] - bounds[0]) / step)) + 1)
    nodes_y = np.linspace(bounds[2], bounds[3], int(np.ceil((bounds[3] - bounds[2]) / step)) + 1)
    grid = np.stack(np.meshgrid(nodes_x, nodes_y), -1).reshape(-1, 2)
    tree = cKDTree(np.column_stack([x, y]))
    values = np.empty((2, len(grid)))
    errors = np.empty((2, len(grid)))
    for first in range(0, len(grid), CHUNK):
        part = slice(first, first + CHUNK)
        _, index = tree.query(grid[part], k=nearest)
        for axis, residual in enumerate((residual_x, residual_y)):
            clipped_medians(residual, index, CLIP, CLIP_ROUNDS, values[axis, part], errors[axis, part])
    pull2 = (values / np.maximum(errors, 1e-9)) ** 2
    # Significance is that of the displacement, whichever way it points.
    strength = np.mean(pull2, axis=0) ** 2
    shrink = strength / (strength + HALF_AT**4)
    shape = (len(nodes_y), len(nodes_x))
    dx, dy = (values * shrink).reshape(2, *shape)
    return FineTerm(nodes_x, nodes_y, dx, dy, float(np.mean(strength >= HALF_AT**4)))

