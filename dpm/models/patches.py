"""The fixed lattice of patches on the master frame: the unit of mathematics of the second pass (DESIGN section 3).

A patch is found, fitted and measured from its own pixels, a margin about it and stars held beyond, so that its stars do not
depend on
how patches are bundled into tasks, nor on the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FRINGE", "MARGIN", "NODE_STEP", "PATCH", "PatchBounds"]

# Side in master pixels.  The margin costs (152 / 128)^2 = 1.41 times the work; a side of 64 would make that 1.89.
PATCH = 128
# Master pixels about the patch whose stars are found and fitted with it: an ePSF's core reaches 3 pixels, so that a star of the
# patch
# has two rings of neighbours that are solved with it.
MARGIN = 12
# Master pixels beyond the margin whose pixels are still read: the fit box and the sky of its stars.
FRINGE = 9
# Master pixels between the nodes of an exposure's geometry (as `dpm.kernels.patch`).
NODE_STEP = 16
# Nodes about the patch: the margin, the fringe, and one more for the cubic interpolation.
_NODES_BEFORE = 3


@dataclass(frozen=True, order=True)
class PatchBounds:
    """One cell of the lattice.

    Parameters
    ----------
    row, column : int
        Its place: it holds column * PATCH <= x < (column + 1) * PATCH, and y likewise.
    """

    row: int
    column: int

    @classmethod
    def holding(cls, x: float, y: float) -> PatchBounds:
        """The patch of a master position."""
        return cls(int(y // PATCH), int(x // PATCH))

    @property
    def name(self) -> str:
        """Name for tasks and messages."""
        return f"{self.row}_{self.column}"

    @property
    def x0(self) -> float:
        return float(self.column * PATCH)

    @property
    def y0(self) -> float:
        return float(self.row * PATCH)

    def bounds(self, margin: float = 0.0) -> tuple[float, float, float, float]:
        """x_low, x_high, y_low, y_high of the patch and a margin."""
        return self.x0 - margin, self.x0 + PATCH + margin, self.y0 - margin, self.y0 + PATCH + margin

    @property
    def first_node(self) -> tuple[int, int]:
        """Row and column on the master lattice of nodes where the patch's own nodes begin."""
        return self.row * (PATCH // NODE_STEP) - _NODES_BEFORE, self.column * (PATCH // NODE_STEP) - _NODES_BEFORE

    @property
    def n_nodes(self) -> int:
        """Nodes a side."""
        return PATCH // NODE_STEP + 1 + 2 * _NODES_BEFORE
