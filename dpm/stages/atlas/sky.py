"""Sky of exposures, matched where they overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import MAD_TO_SIGMA

__all__ = ["match_skies", "sky_cells"]

Floats = NDArray[np.float64]

SKY_CELL = 64  # atlas pixels: the same stars are in a cell for every exposure, so that differences of its level are the sky's
FULL = 0.9  # of a cell's pixels that an exposure has to show
CLIP_SIGMA = 3.0
CLIP_ROUNDS = 4
ROUNDS = 30  # of the matching; every one carries a level across one more overlap
CONVERGED = 1e-6  # of the levels' scatter


def sky_cells(
    value: NDArray, good: NDArray[np.bool_], x: Floats, y: Floats, density: float
) -> tuple[NDArray[np.int64], Floats]:
    """Clipped median of an exposure in every cell of a lattice on the sky that it covers.

    Parameters
    ----------
    value : ndarray (ny, nx)
    good : ndarray (ny, nx), bool
    x, y : ndarray (ny, nx)
        Atlas positions.
    density : float
        Pixels per atlas pixel.

    Returns
    -------
    cells : ndarray (n, 2)
        Row and column of each cell.
    levels : ndarray (n,)
    """
    row, column = (np.floor(v[good] / SKY_CELL).astype(np.int64) for v in (y, x))
    if not row.size:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    width = int(column.max() - column.min()) + 1
    key = (row - row.min()) * width + column - column.min()
    order = np.argsort(key, kind="stable")
    values = np.asarray(value[good], float)[order]
    keys, starts = np.unique(key[order], return_index=True)
    cells, levels = [], []
    for number, part in zip(keys, np.split(values, starts[1:])):
        if part.size >= FULL * density * SKY_CELL**2:
            cells.append((number // width + row.min(), number % width + column.min()))
            levels.append(_clipped_median(part))
    return np.array(cells, np.int64).reshape(-1, 2), np.array(levels)


def _clipped_median(values: Floats) -> float:
    """Median after values above it by more than it scatters downwards are left out: stars only add."""
    middle = float(np.median(values))
    for _ in range(CLIP_ROUNDS):
        below = middle - values[values <= middle]
        kept = values[values <= middle + CLIP_SIGMA * MAD_TO_SIGMA * np.median(below)]
        if kept.size == values.size:
            break
        values, middle = kept, float(np.median(kept))
    return middle


def match_skies(cells: Sequence[NDArray[np.int64]], levels: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Sky levels of exposures, such that what is left agrees where they overlap and has a median of 0.

    Medians over the cells of each exposure and over the exposures of each cell, in turns; exposures that overlap no other
    have their own median subtracted.

    Parameters
    ----------
    cells : sequence of ndarray (n, 2)
        Of every exposure.
    levels : sequence of ndarray (n,)

    Returns
    -------
    sky : ndarray (n_exposures,)
        0 for exposures without a cell.
    disagreement : ndarray (n_exposures,)
        Robust scatter of an exposure's cells about those of all; NaN where it overlaps none.
    """
    count = len(cells)
    places, inverse = np.unique(np.concatenate([*cells, np.zeros((0, 2), np.int64)]), axis=0, return_inverse=True)
    exposure = np.repeat(np.arange(count), [len(part) for part in cells])
    level, cell = np.concatenate([*levels, np.zeros(0)]), inverse.ravel()
    sky = _medians(level, exposure, count)
    shared = np.bincount(cell, minlength=len(places)) > 1
    used = shared[cell]
    for _ in range(ROUNDS):
        common = _medians(level - sky[exposure], cell, len(places))
        step = _medians((level - sky[exposure] - common[cell])[used], exposure[used], count)
        sky += step
        if np.max(np.abs(step), initial=0.0) <= CONVERGED * (np.ptp(level) if level.size else 0.0):
            break
    common = _medians(level - sky[exposure], cell, len(places))
    if common.size:
        sky += np.median(common)
    apart = np.full(count, np.nan)
    rest = np.abs(level - sky[exposure] - (common - (np.median(common) if common.size else 0.0))[cell])
    for k in np.unique(exposure[used]):
        apart[k] = MAD_TO_SIGMA * np.median(rest[used & (exposure == k)])
    return sky, apart


def _medians(values: Floats, group: NDArray[np.int64], count: int) -> Floats:
    """Median of each group, 0 for groups without a value."""
    out = np.zeros(count)
    order = np.argsort(group, kind="stable")
    numbers, starts = np.unique(group[order], return_index=True)
    for number, part in zip(numbers, np.split(values[order], starts[1:])):
        if part.size:
            out[number] = np.median(part)
    return out
