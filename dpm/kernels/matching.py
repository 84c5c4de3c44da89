"""Matching of star lists on a hashed grid: linking the detections of many exposures, and assigning them to known stars.

Positions are in any common plane, the radius in its unit.  No result depends on threads or hashing order: the grid is a
sorted list of cells, ties go to the lower index.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpm.kernels.jit import kernel

__all__ = ["assign_units", "grouped_median", "link_units"]

# A detection whose nearest star went to a nearer detection looks again among the stars that are left.
LINK_PASSES = 2
ASSIGN_PASSES = 3


class Grid(NamedTuple):
    """Stars by cell: side of a cell, open-addressing table of cells, first star of each, and the next star in the same cell."""

    cell: Any
    keys: Any
    heads: Any
    next_star: Any


class Claims(NamedTuple):
    """Work space of one unit: stars that are taken, who claims them from what squared distance; each detection's best star."""

    taken: Any
    owner: Any
    owner_distance: Any
    best_star: Any
    best_distance: Any


@kernel
def _make_grid(n_stars, cell):
    """An empty grid for up to n_stars stars, at most half full."""
    size = 16
    while size < 2 * n_stars + 16:
        size *= 2
    return Grid(cell, np.full(size, -1, np.int64), np.full(size, -1, np.int64), np.full(n_stars, -1, np.int64))


@kernel
def _make_claims(n_stars, n_detections):
    return Claims(
        np.zeros(n_stars, np.bool_),
        np.full(n_stars, -1, np.int64),
        np.zeros(n_stars),
        np.empty(n_detections, np.int64),
        np.empty(n_detections),
    )


@kernel
def _cell_of(grid, x, y):
    """Column and row of a position's cell."""
    return int(np.floor(x / grid.cell)), int(np.floor(y / grid.cell))


@kernel
def _slot(grid, column, row):
    """Slot of a cell in the table (or the free slot where it would go), and the cell's key."""
    key = (row + 2**20) * 2**22 + (column + 2**20)
    mask = grid.keys.size - 1
    slot = (key * 7046029254386353131) & mask  # Fibonacci hashing (Knuth, TAOCP 3, section 6.4)
    while grid.keys[slot] != -1 and grid.keys[slot] != key:
        slot = (slot + 1) & mask
    return slot, key


@kernel
def _insert(grid, star, x, y):
    """Put a star into its cell."""
    column, row = _cell_of(grid, x, y)
    slot, key = _slot(grid, column, row)
    grid.keys[slot] = key
    grid.next_star[star] = grid.heads[slot]
    grid.heads[slot] = star


@kernel
def _nearest(x, y, radius, limit, grid, star_x, star_y, taken):
    """Nearest star with index below `limit` (and not taken) within the radius: index or -1, and squared distance."""
    column, row = _cell_of(grid, x, y)
    best, best_distance = -1, radius * radius
    for j in range(row - 1, row + 2):
        for i in range(column - 1, column + 2):
            slot, _ = _slot(grid, i, j)
            star = grid.heads[slot]
            while star != -1:
                if star < limit and not taken[star]:
                    distance = (star_x[star] - x) ** 2 + (star_y[star] - y) ** 2
                    if distance < best_distance or (distance == best_distance and best != -1 and star < best):
                        best, best_distance = star, distance
                star = grid.next_star[star]
    return best, best_distance


@kernel
def _match_unit(start, stop, x, y, radius, limit, grid, star_x, star_y, claims, star_of, passes):
    """One-to-one pairs of one unit's detections with stars below `limit`: mutual nearest, then again among the rest."""
    taken, owner = claims.taken, claims.owner
    for _ in range(passes):
        for k in range(start, stop):
            if star_of[k] >= 0:
                continue
            star, distance = _nearest(x[k], y[k], radius, limit, grid, star_x, star_y, taken)
            claims.best_star[k - start], claims.best_distance[k - start] = star, distance
            if star >= 0 and (owner[star] == -1 or distance < claims.owner_distance[star]):
                owner[star], claims.owner_distance[star] = k, distance
        for k in range(start, stop):
            if star_of[k] >= 0:
                continue
            star = claims.best_star[k - start]
            if star >= 0 and owner[star] == k:
                star_of[k] = star
                taken[star] = True
    for k in range(start, stop):
        star = star_of[k]
        if star >= 0:
            taken[star] = False
            owner[star] = -1


@kernel
def link_units(x, y, starts, radius):
    """Link the detections of several units into stars, unit after unit.

    Parameters
    ----------
    x, y : float64 (n,)
        Positions of all detections, unit by unit.
    starts : int64 (n_units + 1,)
        First detection of each unit, and n.
    radius : float
        A detection belongs to the nearest star (running mean of its detections) within this distance, if that star's
        nearest detection of the unit is this one; the others become new stars.

    Returns
    -------
    star_of : int64 (n,)
        Star of every detection.
    n_stars : int
        Number of stars.
    """
    n = x.size
    # A star stays in the cell where it was born, and its mean moves by less than the radius.
    grid = _make_grid(n, 2.0 * radius)
    claims = _make_claims(n, n)
    star_x, star_y = np.zeros(n), np.zeros(n)
    members = np.zeros(n, np.int64)
    star_of = np.full(n, -1, np.int64)
    n_stars = 0
    for unit in range(starts.size - 1):
        start, stop = starts[unit], starts[unit + 1]
        _match_unit(start, stop, x, y, radius, n_stars, grid, star_x, star_y, claims, star_of, LINK_PASSES)
        for k in range(start, stop):
            star = star_of[k]
            if star >= 0:
                members[star] += 1
                step_x, step_y = (x[k] - star_x[star]) / members[star], (y[k] - star_y[star]) / members[star]
                star_x[star] += step_x
                star_y[star] += step_y
            else:
                star = n_stars
                n_stars += 1
                star_of[k] = star
                star_x[star], star_y[star], members[star] = x[k], y[k], 1
                _insert(grid, star, x[k], y[k])
    return star_of, n_stars


@kernel
def assign_units(x, y, starts, star_x, star_y, radius):
    """Assign detections to known stars: per unit one-to-one, mutual nearest within the radius.

    Parameters
    ----------
    x, y, starts
        As in `link_units`.
    star_x, star_y : float64 (m,)
        Positions of the stars.
    radius : float
        Largest distance.

    Returns
    -------
    star_of : int64 (n,)
        Star of every detection, -1 for none.
    """
    n_stars = star_x.size
    grid = _make_grid(n_stars, radius)
    claims = _make_claims(n_stars, x.size)
    star_of = np.full(x.size, -1, np.int64)
    for star in range(n_stars):
        _insert(grid, star, star_x[star], star_y[star])
    for unit in range(starts.size - 1):
        start, stop = starts[unit], starts[unit + 1]
        _match_unit(start, stop, x, y, radius, n_stars, grid, star_x, star_y, claims, star_of, ASSIGN_PASSES)
    return star_of


@kernel
def grouped_median(values, starts):
    """Median of each group of finite values.

    Parameters
    ----------
    values : float64 (n,)
        Values, group after group; NaN is left out.
    starts : int64 (n_groups + 1,)
        First value of each group, and n.

    Returns
    -------
    float64 (n_groups,)
        NaN for a group without a finite value.
    """
    out = np.full(starts.size - 1, np.nan)
    for group in range(starts.size - 1):
        part = values[starts[group] : starts[group + 1]]
        part = np.sort(part[np.isfinite(part)])
        if part.size:
            out[group] = 0.5 * (part[(part.size - 1) // 2] + part[part.size // 2])
    return out
