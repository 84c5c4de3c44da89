"""The fixed lattice of patches on the master frame: the unit of mathematics of the second pass (DESIGN section 3).

A patch is found, fitted and measured from its own pixels, a margin about it and stars held beyond, so that its stars do not
depend on how patches are bundled into tasks, nor on the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FRINGE", "MARGIN", "NODE_STEP", "SIDES", "PatchBounds", "patch_side"]

# Sides in master pixels.  The margin costs 1.20, 1.41 and 1.89 times the work; the pixels of all exposures are in memory at once.
SIDES = (256, 128, 64)
# Master pixels about the patch whose stars are found and fitted with it: an ePSF's core reaches 3 pixels, so that a star of the
# patch has two rings of neighbours that are solved with it.
MARGIN = 12
# Master pixels beyond the margin whose pixels are still read: the fit box and the sky of its stars.
FRINGE = 9
# Master pixels between the nodes of an exposure's geometry (as `dpm.kernels.patch`).
NODE_STEP = 16
# Nodes about the patch: the margin, the fringe, and one more for the cubic interpolation.
_NODES_BEFORE = 3
# Pixels of all exposures that a patch may hold, where a smaller side allows it: at some 40 bytes each they are 0.4 GiB of a worker.
MOST_PIXELS = 10_000_000


def patch_side(depth: int) -> int:
    """Side of the patches of a field, the largest whose pixels a worker can hold.

    Parameters
    ----------
    depth : int
        Exposures that overlap where most of them do.
    """
    fits = (side for side in SIDES if depth * (side + 2 * (MARGIN + FRINGE)) ** 2 <= MOST_PIXELS)
    return next(fits, SIDES[-1])


@dataclass(frozen=True, order=True)
class PatchBounds:
    """One cell of the lattice.

    Parameters
    ----------
    row, column : int
        Its place: it holds column * side <= x < (column + 1) * side, and y likewise.
    side : int
        Master pixels, a multiple of NODE_STEP.
    """

    row: int
    column: int
    side: int

    @classmethod
    def holding(cls, x: float, y: float, side: int) -> PatchBounds:
        """The patch of a master position."""
        return cls(int(y // side), int(x // side), side)

    @property
    def name(self) -> str:
        """Name for tasks and messages."""
        return f"{self.row}_{self.column}"

    @property
    def x0(self) -> float:
        return float(self.column * self.side)

    @property
    def y0(self) -> float:
        return float(self.row * self.side)

    def bounds(self, margin: float = 0.0) -> tuple[float, float, float, float]:
        """x_low, x_high, y_low, y_high of the patch and a margin."""
        return self.x0 - margin, self.x0 + self.side + margin, self.y0 - margin, self.y0 + self.side + margin

    @property
    def first_node(self) -> tuple[int, int]:
        """Row and column on the master lattice of nodes where the patch's own nodes begin."""
        return self.row * (self.side // NODE_STEP) - _NODES_BEFORE, self.column * (self.side // NODE_STEP) - _NODES_BEFORE

    @property
    def n_nodes(self) -> int:
        """Nodes a side."""
        return self.side // NODE_STEP + 1 + 2 * _NODES_BEFORE
