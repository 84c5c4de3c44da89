"""Which stars of a patch have to be fitted again: ``touch`` of `dpm.kernels.patch_fit.PatchStars`."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel


@leaf_kernel
def touch_others(stars, by_x, rank, fall, members, begin, n, before):
    """Note on the stars about a group what its change from ``before`` (members, 2 + B) does to them.

    ``by_x``: the stars in the order of x, ``rank`` their places in it, ``fall`` the share of a star's light that counts at each
    whole distance.
    """
    bands = stars.flux.shape[1]
    reach = fall.shape[0]
    for k in range(n):
        m = members[begin + k]
        x, y = before[k, 0], before[k, 1]
        moved = np.sqrt((stars.x[m] - x) ** 2 + (stars.y[m] - y) ** 2)
        changed = moved != 0.0
        for b in range(bands):
            changed = changed or stars.flux[m, b] != before[k, 2 + b]
        if not changed:
            continue
        for direction in (-1, 1):
            at = rank[m] + direction
            while 0 <= at < by_x.shape[0] and abs(stars.x[by_x[at]] - x) < reach:
                other = by_x[at]
                at += direction
                distance = np.sqrt((stars.x[other] - x) ** 2 + (stars.y[other] - y) ** 2)
                if distance >= reach:
                    continue
                share = fall[int(distance)]
                largest = 0.0
                for b in range(bands):
                    light = abs(stars.flux[m, b] - before[k, 2 + b]) + 2.0 * moved * abs(stars.flux[m, b])
                    if light > largest * stars.flux_error[other, b]:
                        largest = light / stars.flux_error[other, b]
                stars.touch[other] += share * largest


@kernel
def touch_by_light(stars, fall, x, y, flux, until):
    """Note what light that came or went does to stars.

    Parameters
    ----------
    stars : PatchStars
    fall : ndarray (reach,)
        As `sweep` has it.
    x, y, flux : ndarray (n,), (n,), (n, B)
        Where in master pixels, and how much.
    until : ndarray (n,), int
        The stars before this one were fitted without knowing of it.
    """
    for k in range(x.shape[0]):
        for other in range(until[k]):
            distance = np.sqrt((stars.x[other] - x[k]) ** 2 + (stars.y[other] - y[k]) ** 2)
            if distance < fall.shape[0]:
                largest = 0.0
                for b in range(flux.shape[1]):
                    if abs(flux[k, b]) > largest * stars.flux_error[other, b]:
                        largest = abs(flux[k, b]) / stars.flux_error[other, b]
                stars.touch[other] += fall[int(distance)] * largest
