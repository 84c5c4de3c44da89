"""HEALPix indices of places on the sky in the nested scheme (Górski et al. 2005, ApJ 622, 759)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["nested_index"]

# Masks and shifts that spread the bits of a 32-bit number over the even bits of a 64-bit one.
_SPREADING = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)


def nested_index(ra: ArrayLike, dec: ArrayLike, order: int) -> NDArray[np.int64]:
    """Nested index of the pixel that holds each place.

    Parameters
    ----------
    ra, dec : array_like (n,)
        Degrees; finite.
    order : int
        0 to 29: the sphere has 12 * 4**order pixels.

    Returns
    -------
    ndarray (n,), int64
    """
    turn = (np.asarray(ra, dtype=float) / 90.0) % 4.0
    polar_angle = np.radians(np.asarray(dec, dtype=float))
    z, side = np.sin(polar_angle), 1 << order
    # The belt about the equator: diagonal lines of constant jp and jm.
    jp = np.floor(side * (0.5 + turn - 0.75 * z)).astype(np.int64)
    jm = np.floor(side * (0.5 + turn + 0.75 * z)).astype(np.int64)
    up, down = jp >> order, jm >> order
    face = np.where(up == down, up | 4, np.where(up < down, up, down + 8))
    column, row = jm & (side - 1), side - (jp & (side - 1)) - 1
    # The caps; cos(dec) keeps digits that 1 - |z| loses at the poles.
    quarter = np.minimum(turn.astype(np.int64), 3)
    reach = side * np.sqrt(3.0 / (1.0 + np.abs(z))) * np.cos(polar_angle)
    cap_p = np.clip(((turn - quarter) * reach).astype(np.int64), 0, side - 1)
    cap_m = np.clip(((quarter + 1 - turn) * reach).astype(np.int64), 0, side - 1)
    cap, north = np.abs(z) > 2.0 / 3.0, z > 0
    face = np.where(cap, np.where(north, quarter, quarter + 8), face)
    column = np.where(cap, np.where(north, side - cap_m - 1, cap_p), column)
    row = np.where(cap, np.where(north, side - cap_p - 1, cap_m), row)
    return (face.astype(np.int64) << (2 * order)) + _spread(column) + (_spread(row) << 1)


def _spread(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits of the values on the even places."""
    for shift, mask in _SPREADING:
        values = (values | (values << shift)) & mask
    return values
