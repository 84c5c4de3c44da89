"""What a star's flags owe to the place where it lies: pixels with a history, an ePSF that is a guess there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpm.models.epsf import GriddedEPSF

__all__ = ["any_in_box", "leans_on_guess"]

WEAK_SHARE = 0.5  # of the bilinear weights, on nodes that too few stars made


def leans_on_guess(epsf: GriddedEPSF, x: NDArray, y: NDArray) -> NDArray[np.bool_]:
    """Whether more than half of the ePSF at full-detector positions is of nodes that too few stars made, or it was made quickly."""
    if epsf.approximate or not epsf.weak_nodes:
        return np.full(len(x), epsf.approximate)
    return np.asarray(epsf.node_weights(x, y)[:, list(epsf.weak_nodes)].sum(axis=1) > WEAK_SHARE)


def any_in_box(
    dq: NDArray[np.uint8], bits: int, half: int, iy: NDArray, ix: NDArray, every_bit: bool = False
) -> NDArray[np.bool_]:
    """Whether any pixel of the box about (iy, ix) has one of the bits (or all of them)."""
    out = np.zeros(iy.size, bool)
    if not np.any(dq & bits):
        return out
    ny, nx = dq.shape
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            found = dq[np.clip(iy + dy, 0, ny - 1), np.clip(ix + dx, 0, nx - 1)] & bits
            out |= (found == bits) if every_bit else (found != 0)
    return out
