"""Which stars of a patch are fitted together."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel
from dpm.kernels.patch_fit import MAX_GROUP


@kernel
def link_groups(x, y, order, alone, radius, members, first, cut):
    """Partition stars into groups by linking pairs from the closest on, no group growing beyond MAX_GROUP.

    Parameters
    ----------
    x, y : ndarray (n,)
        Master pixels.
    order : ndarray (n,), int
        Order in which groups (by their first star) and members come out.
    alone : ndarray (n,), bool
        Stars that join no group.
    radius : float
        Largest distance of a pair.
    members : ndarray (n,), int
        Filled: groups end to end.
    first : ndarray (n + 1,), int
        Filled: where each group begins.
    cut : ndarray (n,), bool
        Filled: the star has a neighbour within the radius that is not in its group.

    Returns
    -------
    int
        Number of groups.
    """
    n = x.shape[0]
    by_x = np.argsort(x)
    pairs = 0
    for turn in range(2):
        if turn == 1:
            one = np.empty(pairs, np.int64)
            two = np.empty(pairs, np.int64)
            distance = np.empty(pairs)
        pairs = 0
        for p in range(n):
            a = by_x[p]
            for q in range(p + 1, n):
                b = by_x[q]
                if x[b] - x[a] > radius:
                    break
                d2 = (x[b] - x[a]) ** 2 + (y[b] - y[a]) ** 2
                if d2 <= radius * radius and not alone[a] and not alone[b]:
                    if turn == 1:
                        one[pairs], two[pairs], distance[pairs] = a, b, d2
                    pairs += 1
    root = np.arange(n)
    size = np.ones(n, np.int64)
    cut[:] = False
    for m in np.argsort(distance):
        a, b = one[m], two[m]
        while root[a] != a:
            a = root[a]
        while root[b] != b:
            b = root[b]
        if a == b:
            continue
        if size[a] + size[b] > MAX_GROUP:
            cut[one[m]] = True
            cut[two[m]] = True
            continue
        low, high = min(a, b), max(a, b)
        root[high] = low
        size[low] += size[high]
    number = np.full(n, -1, np.int64)
    groups = 0
    group_of = np.empty(n, np.int64)
    count = np.zeros(n + 1, np.int64)
    for m in range(n):
        a = order[m]
        while root[a] != a:
            a = root[a]
        if number[a] < 0:
            number[a] = groups
            groups += 1
        group_of[m] = number[a]
        count[number[a] + 1] += 1
    first[0] = 0
    for g in range(groups):
        first[g + 1] = first[g] + count[g + 1]
    fill = first[: groups + 1].copy()
    for m in range(n):
        g = group_of[m]
        members[fill[g]] = order[m]
        fill[g] += 1
    return groups
