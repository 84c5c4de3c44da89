"""How the master frame lies on each exposure: raw positions and brightness scale on the lattice of nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.models.distortion import PolynomialInverse
from dpm.models.patches import NODE_STEP, PatchBounds
from dpm.models.transform import LinearTransform

__all__ = ["ExposureGeometry", "make_geometry"]

Floats = NDArray[np.float64]
PlaneMap = Callable[[Floats, Floats], tuple[Floats, Floats]]

BORDER = 80.0  # master pixels about the exposure's outline: stars outside whose light reaches in, and the cubic's neighbours
ROUNDS = 5  # of the inversion: every one gains a factor of twenty or more


@dataclass(frozen=True)
class ExposureGeometry:
    """Raw positions and brightness scale of one exposure at nodes of the master frame.

    Parameters
    ----------
    first_row, first_column : int
        Place of the first node: it lies at x = first_column * NODE_STEP.
    nodes : ndarray (3, rows, columns)
        Raw x and y (0-based, full detector), and the exposure's flux of a star of unit flux.
    charge_per_flux : float
        Charge of a unit of the exposure's flux.
    saturation : float
        Pixel value at which the exposure is saturated; infinite where its file does not tell.
    """

    first_row: int
    first_column: int
    nodes: Floats
    charge_per_flux: float = 0.0
    saturation: float = np.inf

    def window(self, patch: PatchBounds) -> Floats:
        """The patch's own nodes, (3, n, n); NaN beyond the exposure's."""
        row, column = patch.first_node
        out = np.full((3, patch.n_nodes, patch.n_nodes), np.nan)
        r0, c0 = row - self.first_row, column - self.first_column
        rows, columns = self.nodes.shape[1:]
        a, b = max(r0, 0), min(r0 + patch.n_nodes, rows)
        c, d = max(c0, 0), min(c0 + patch.n_nodes, columns)
        if a < b and c < d:
            out[:, a - r0 : b - r0, c - c0 : d - c0] = self.nodes[:, a:b, c:d]
        return out


def make_geometry(
    forward: PlaneMap,
    transform: LinearTransform,
    bounds: tuple[float, float, float, float],
    area: Callable[[Floats, Floats], Floats],
    zero_point: float,
    charge_per_flux: float = 0.0,
    saturation: float = np.inf,
) -> ExposureGeometry:
    """Nodes of one exposure.

    Parameters
    ----------
    forward : callable
        Raw to corrected positions.
    transform : LinearTransform
        Corrected positions to the master frame.
    bounds : tuple of float
        Raw x_min, x_max, y_min, y_max of the array.
    area : callable
        Pixel area over the nominal one at raw positions; flux * area is comparable over the detector.
    zero_point : float
        Added to instrumental magnitudes to match the central exposure.
    charge_per_flux : float, optional
        Charge of a unit of the exposure's flux; 0 where no ePSF changes with brightness.
    saturation : float, optional
        Pixel value at which the exposure is saturated; NaN or infinite where it is unknown.
    """
    along_x, along_y = np.linspace(bounds[0], bounds[1], 9), np.linspace(bounds[2], bounds[3], 9)
    outline_x = np.concatenate([along_x, along_x, np.full(9, bounds[0]), np.full(9, bounds[1])])
    outline_y = np.concatenate([np.full(9, bounds[2]), np.full(9, bounds[3]), along_y, along_y])
    x, y = transform(*forward(outline_x, outline_y))
    column0, row0 = (int(np.floor((v.min() - BORDER) / NODE_STEP)) for v in (x, y))
    column1, row1 = (int(np.ceil((v.max() + BORDER) / NODE_STEP)) for v in (x, y))
    columns, rows = np.meshgrid(np.arange(column0, column1 + 1), np.arange(row0, row1 + 1))
    u, v = transform.inverse()(columns.ravel() * float(NODE_STEP), rows.ravel() * float(NODE_STEP))
    raw_x, raw_y = PolynomialInverse(forward, bounds)(u, v)
    middle_x, middle_y = np.array([0.5 * (bounds[0] + bounds[1])]), np.array([0.5 * (bounds[2] + bounds[3])])
    (u1, v1), (u0, v0) = forward(middle_x + 8, middle_y), forward(middle_x - 8, middle_y)
    (u3, v3), (u2, v2) = forward(middle_x, middle_y + 8), forward(middle_x, middle_y - 8)
    jacobian = np.array([[u1 - u0, u3 - u2], [v1 - v0, v3 - v2]])[:, :, 0] / 16.0
    back = np.linalg.inv(jacobian)
    for _ in range(ROUNDS):
        at_u, at_v = forward(raw_x, raw_y)
        off_u, off_v = u - at_u, v - at_v
        raw_x = raw_x + back[0, 0] * off_u + back[0, 1] * off_v
        raw_y = raw_y + back[1, 0] * off_u + back[1, 1] * off_v
    inside_x, inside_y = np.clip(raw_x, bounds[0], bounds[1]), np.clip(raw_y, bounds[2], bounds[3])
    scale = 10 ** (0.4 * zero_point) / area(inside_x, inside_y)
    nodes = np.stack([part.reshape(columns.shape) for part in (raw_x, raw_y, scale)])
    return ExposureGeometry(row0, column0, nodes, charge_per_flux, saturation if np.isfinite(saturation) else np.inf)
