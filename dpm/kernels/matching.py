"""Matching of star lists on a hashed grid: linking the detections of many exposures, and assigning them to known stars.

Positions are in any common plane, the radius in its unit.  No result depends on threads or hashing order: the grid is a
sorted list of cells, ties go to the lower index.
"""

import numpy as np

from dpm.kernels.jit import kernel

__all__ = ["assign_units", "grouped_median", "link_units"]


@kernel
def _find(hash_keys, key, mask):
    """Slot of a key in an open-addressing table, or the free slot where it would go."""
    slot = (key * 7046029254386353131) & mask
    while hash_keys[slot] != -1 and hash_keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@kernel
def _cell_key(column, row):
    return (row + 2**20) * 2**22 + (column + 2**20)


@kernel
def _nearest(x, y, cell, radius, limit, hash_keys, hash_heads, mask, next_star, star_x, star_y, taken):
    """Nearest star with index below `limit` (and not taken) within the radius: index or -1, and squared distance."""
    column = int(np.floor(x / cell))
    row = int(np.floor(y / cell))
    best, best_distance = -1, radius * radius
    for j in range(row - 1, row + 2):
        for i in range(column - 1, column + 2):
            key = _cell_key(i, j)
            slot = _find(hash_keys, key, mask)
            if hash_keys[slot] == -1:
                continue
            star = hash_heads[slot]
            while star != -1:
                if star < limit and not taken[star]:
                    distance = (star_x[star] - x) ** 2 + (star_y[star] - y) ** 2
                    if distance < best_distance or (distance == best_distance and best != -1 and star < best):
                        best, best_distance = star, distance
                star = next_star[star]
    return best, best_distance


@kernel
def _insert(star, column, row, hash_keys, hash_heads, mask, next_star):
    key = _cell_key(column, row)
    slot = _find(hash_keys, key, mask)
    if hash_keys[slot] == -1:
        hash_keys[slot] = key
        hash_heads[slot] = -1
    next_star[star] = hash_heads[slot]
    hash_heads[slot] = star


@kernel
def _table_size(n):
    size = 16
    while size < 2 * n + 16:
        size *= 2
    return size


@kernel
def _match_unit(
    start,
    stop,
    x,
    y,
    cell,
    radius,
    limit,
    hash_keys,
    hash_heads,
    mask,
    next_star,
    star_x,
    star_y,
    taken,
    owner,
    owner_distance,
    best_star,
    best_distance,
    star_of,
    passes,
):
    """One-to-one pairs of one unit's detections with stars below `limit`: mutual nearest, then again among the rest."""
    for _ in range(passes):
        for k in range(start, stop):
            if star_of[k] >= 0:
                continue
            star, distance = _nearest(
                x[k], y[k], cell, radius, limit, hash_keys, hash_heads, mask, next_star, star_x, star_y, taken
            )
            best_star[k - start], best_distance[k - start] = star, distance
            if star >= 0 and (owner[star] == -1 or distance < owner_distance[star]):
                owner[star], owner_distance[star] = k, distance
        for k in range(start, stop):
            if star_of[k] >= 0:
                continue
            star = best_star[k - start]
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
    mask = _table_size(n) - 1
    hash_keys = np.full(mask + 1, -1, np.int64)
    hash_heads = np.full(mask + 1, -1, np.int64)
    next_star = np.full(n, -1, np.int64)
    star_x, star_y = np.zeros(n), np.zeros(n)
    members = np.zeros(n, np.int64)
    taken = np.zeros(n, np.bool_)
    owner, owner_distance = np.full(n, -1, np.int64), np.zeros(n)
    best_star, best_distance = np.empty(n, np.int64), np.empty(n)
    star_of = np.full(n, -1, np.int64)
    # A star stays in the cell where it was born, and its mean moves by less than the radius.
    cell = 2.0 * radius
    n_stars = 0
    for unit in range(starts.size - 1):
        start, stop = starts[unit], starts[unit + 1]
        _match_unit(
            start,
            stop,
            x,
            y,
            cell,
            radius,
            n_stars,
            hash_keys,
            hash_heads,
            mask,
            next_star,
            star_x,
            star_y,
            taken,
            owner,
            owner_distance,
            best_star,
            best_distance,
            star_of,
            2,
        )
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
                _insert(
                    star, int(np.floor(x[k] / cell)), int(np.floor(y[k] / cell)), hash_keys, hash_heads, mask, next_star
                )
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
    n, m = x.size, star_x.size
    mask = _table_size(m) - 1
    hash_keys = np.full(mask + 1, -1, np.int64)
    hash_heads = np.full(mask + 1, -1, np.int64)
    next_star = np.full(m, -1, np.int64)
    taken = np.zeros(m, np.bool_)
    owner, owner_distance = np.full(m, -1, np.int64), np.zeros(m)
    best_star, best_distance = np.empty(n, np.int64), np.empty(n)
    star_of = np.full(n, -1, np.int64)
    for star in range(m):
        _insert(
            star,
            int(np.floor(star_x[star] / radius)),
            int(np.floor(star_y[star] / radius)),
            hash_keys,
            hash_heads,
            mask,
            next_star,
        )
    for unit in range(starts.size - 1):
        _match_unit(
            starts[unit],
            starts[unit + 1],
            x,
            y,
            radius,
            radius,
            m,
            hash_keys,
            hash_heads,
            mask,
            next_star,
            star_x,
            star_y,
            taken,
            owner,
            owner_distance,
            best_star,
            best_distance,
            star_of,
            3,
        )
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
