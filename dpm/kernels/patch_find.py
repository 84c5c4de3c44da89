"""Finding on a patch: the matched-filter significance of the residuals of all exposures together, on a half-pixel lattice.

Every exposure gives at each of its pixels the weighted sum of residuals over the 3 x 3 pixels about it and the weight of that
sum.  A
point of the lattice takes both from the nearest pixel of every exposure that covers it: their sums by band are the flux of a star
there and its variance, with no image resampled (DESIGN section 6).
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.patch import place, sky_at

LATTICE = 0.5  # master pixels between lattice points
SEGMENT = 32  # lattice points over which positions run linearly: one step of the nodes
FILTER_MISMATCH = 0.35  # of the flux: the filter does not know where in its pixel a star lies, and single exposures differ by this
REJECT_SIGMA = 4.5  # an exposure this far from the others is left out of a candidate
MAX_REJECTED = 0.34  # of the exposures


@kernel
def score_exposures(patch, profiles, error2, numerator, denominator):
    """Matched-filter sums of every cut-out.

    Parameters
    ----------
    patch : Patch
    profiles : ndarray (L, 3, 3), float32
        Each library's ePSF averaged over the pixel phase.
    error2 : ndarray (E,)
        Squared error of the ePSF relative to the light of the model, times the exposures of the band: it is the same in all of
        them, so
        that averaging does not help.
    numerator, denominator : ndarray (pixels,), float32
        Filled: sum p w d and sum p^2 w; 0 on the outermost pixels.
    """
    longest = 0
    for e in range(patch.first.shape[0]):
        longest = max(longest, patch.nx[e])
    weight = np.zeros((3, longest), np.float32)
    weighted = np.zeros((3, longest), np.float32)
    for e in range(patch.first.shape[0]):
        ny, nx, start = patch.ny[e], patch.nx[e], patch.first[e]
        p = profiles[patch.library[e]]
        for y in range(ny):
            weigh(patch, e, y, np.float32(error2[e]), weight, weighted)
            if y >= 2:
                correlate(weight, weighted, p, y - 1, nx, start + (y - 1) * nx, numerator, denominator)
            if y == 0 or y == ny - 1:
                for x in range(nx):
                    numerator[start + y * nx + x] = 0.0
                    denominator[start + y * nx + x] = 0.0


@leaf_kernel
def weigh(patch, e, y, error2, weight, weighted):
    """Weights and weighted residuals of row y of exposure e into row y % 3 of the buffers."""
    nx = patch.nx[e]
    slot = np.uintp(y % 3)
    base = np.uintp(patch.first[e] + y * nx)
    residual, scene, read = patch.residual, patch.scene, patch.variance_read
    poisson, flat = patch.poisson_factor, patch.flat_variance
    zero, one = np.float32(0.0), np.float32(1.0)
    cell = patch.sky_cell
    # The mesh is linear over the columns; every eighth is exact enough and saves most of the work.
    for begin in range(0, nx, 8):
        sky = np.float32(sky_at(patch.sky, e, cell, y, min(begin + 3, nx - 1), patch.ny[e], nx))
        for x in range(np.uintp(begin), np.uintp(min(begin + 8, nx))):
            at = base + x
            value = residual[at]
            star = max(scene[at] - value, zero)
            light = max(sky + star, zero)
            w = one / (read[at] + light * (poisson[at] + flat[at] * light) + error2 * star * star)
            weight[slot, x] = w
            weighted[slot, x] = (value - sky) * w


@leaf_kernel
def correlate(weight, weighted, p, y, nx, base, numerator, denominator):
    """Sums over the three rows about y, into the flat arrays from ``base``."""
    a, b, c = np.uintp((y - 1) % 3), np.uintp(y % 3), np.uintp((y + 1) % 3)
    p00, p01, p02, p10, p11, p12 = p[0, 0], p[0, 1], p[0, 2], p[1, 0], p[1, 1], p[1, 2]
    p20, p21, p22 = p[2, 0], p[2, 1], p[2, 2]
    one, two, start = np.uintp(1), np.uintp(2), np.uintp(base + 1)
    for k in range(np.uintp(nx - 2)):
        m, n = k + one, k + two
        numerator[start + k] = (
            p00 * weighted[a, k] + p01 * weighted[a, m] + p02 * weighted[a, n]
            + p10 * weighted[b, k] + p11 * weighted[b, m] + p12 * weighted[b, n]
            + p20 * weighted[c, k] + p21 * weighted[c, m] + p22 * weighted[c, n]
        )  # fmt: skip
        denominator[start + k] = (
            p00 * p00 * weight[a, k] + p01 * p01 * weight[a, m] + p02 * p02 * weight[a, n]
            + p10 * p10 * weight[b, k] + p11 * p11 * weight[b, m] + p12 * p12 * weight[b, n]
            + p20 * p20 * weight[c, k] + p21 * p21 * weight[c, m] + p22 * p22 * weight[c, n]
        )  # fmt: skip
    numerator[np.uintp(base)] = 0.0
    denominator[np.uintp(base)] = 0.0
    numerator[np.uintp(base + nx - 1)] = 0.0
    denominator[np.uintp(base + nx - 1)] = 0.0


@kernel
def combine_scores(patch, numerator, denominator, x0, y0, flux_sum, weight_sum):
    """Sums over exposures by band at every lattice point.

    Parameters
    ----------
    patch : Patch
    numerator, denominator : ndarray (pixels,), float32
        From `score_exposures`.
    x0, y0 : float
        Master position of lattice point (0, 0).
    flux_sum, weight_sum : ndarray (B, H, W), float32
        Filled: weighted fluxes and their weights.
    """
    flux_sum[:] = 0.0
    weight_sum[:] = 0.0
    _, height, width = flux_sum.shape
    segments = (width + SEGMENT - 1) // SEGMENT
    corners = np.empty((2, segments + 1, 3))
    for e in range(patch.first.shape[0]):
        for top in range(0, height, SEGMENT):
            rows = min(SEGMENT, height - top)
            for side in range(2):
                y = y0 + LATTICE * (top + side * rows)
                for s in range(segments + 1):
                    x = x0 + LATTICE * min(s * SEGMENT, width)
                    corners[side, s, 0], corners[side, s, 1], corners[side, s, 2], _, _, _, _ = place(patch, e, x, y)
            for j in range(rows):
                for s in range(segments):
                    begin = s * SEGMENT
                    add_segment(
                        patch, e, numerator, denominator, corners, s, j / rows, top + j, begin, min(SEGMENT, width - begin),
                        flux_sum, weight_sum,
                    )  # fmt: skip


@leaf_kernel
def add_segment(patch, e, numerator, denominator, corners, s, down, row, begin, count, flux_sum, weight_sum):
    """Add exposure e to ``count`` lattice points of a row.

    ``corners`` (2, segments + 1, 3): raw x, raw y and scale above and below, between which positions run linearly; ``down``: from 0
    above to 1 below.
    """
    ny, nx, start = patch.ny[e], patch.nx[e], patch.first[e]
    xa = corners[0, s, 0] + down * (corners[1, s, 0] - corners[0, s, 0])
    ya = corners[0, s, 1] + down * (corners[1, s, 1] - corners[0, s, 1])
    xb = corners[0, s + 1, 0] + down * (corners[1, s + 1, 0] - corners[0, s + 1, 0])
    yb = corners[0, s + 1, 1] + down * (corners[1, s + 1, 1] - corners[0, s + 1, 1])
    if max(xa, xb) < 0.5 or min(xa, xb) > nx - 1.5 or max(ya, yb) < 0.5 or min(ya, yb) > ny - 1.5:
        return
    if not (xa == xa and xb == xb and ya == ya and yb == yb):
        return
    scale = corners[0, s, 2]
    f, f2 = np.float32(scale), np.float32(scale * scale)
    step_x, step_y = (xb - xa) / count, (yb - ya) / count
    xa, ya = xa + 0.5, ya + 0.5
    band, j, first, width = np.uintp(patch.band[e]), np.uintp(row), np.uintp(begin), np.int64(nx)
    if min(xa, xb + 0.5) >= 0.0 and max(xa, xb + 0.5) < nx and min(ya, yb + 0.5) >= 0.0 and max(ya, yb + 0.5) < ny:
        # Positive numbers: to cut is to round down, and no point needs a look at the edges.
        for i in range(count):
            at = np.uintp(start + np.int64(ya + step_y * i) * width + np.int64(xa + step_x * i))
            flux_sum[band, j, first + np.uintp(i)] += f * numerator[at]
            weight_sum[band, j, first + np.uintp(i)] += f2 * denominator[at]
        return
    for i in range(count):
        u, v = int(np.floor(xa + step_x * i)), int(np.floor(ya + step_y * i))
        if 0 <= u < nx and 0 <= v < ny:
            at = np.uintp(start + v * nx + u)
            flux_sum[band, j, first + np.uintp(i)] += f * numerator[at]
            weight_sum[band, j, first + np.uintp(i)] += f2 * denominator[at]


@kernel
def lattice_significance(flux_sum, weight_sum, significance):
    """Square root of the summed squares of the bands' positive significances, at every lattice point."""
    bands, height, width = flux_sum.shape
    zero = np.float32(0.0)
    for j in range(np.uintp(height)):
        for i in range(np.uintp(width)):
            total = zero
            for b in range(np.uintp(bands)):
                f, w = flux_sum[b, j, i], weight_sum[b, j, i]
                total += f * f / w if f > zero and w > zero else zero
            significance[j, i] = np.sqrt(total)


@kernel
def lattice_peaks(significance, limit, reach, rows, columns):
    """Lattice points at or above ``limit`` that nothing within ``reach`` points exceeds (ties: the first in raster order).

    Returns
    -------
    int
        How many; ``rows`` and ``columns`` hold as many as they have room for.
    """
    height, width = significance.shape
    n = 0
    for j in range(height):
        for i in range(width):
            s = significance[j, i]
            if not s >= limit:
                continue
            peak = True
            for v in range(max(j - reach, 0), min(j + reach, height - 1) + 1):
                for u in range(max(i - reach, 0), min(i + reach, width - 1) + 1):
                    t = significance[v, u]
                    if t > s or (t == s and (v < j or (v == j and u < i))):
                        peak = False
                        break
                if not peak:
                    break
            if peak:
                if n < rows.shape[0]:
                    rows[n] = j
                    columns[n] = i
                n += 1
    return n


@leaf_kernel
def judge_band(fluxes, weights, used, n, floor):
    """Weighted mean of n exposures' fluxes without those that disagree; returns it, its weight and how many were used."""
    for k in range(n):
        used[k] = 1
    left = n
    mean = 0.0
    total = 0.0
    while True:
        mean = total = 0.0
        for k in range(n):
            if used[k]:
                mean += weights[k] * fluxes[k]
                total += weights[k]
        mean /= total
        worst = 0.0
        which = -1
        if left >= 2 and n - left < max(MAX_REJECTED * n, 1.0):
            for k in range(n):
                # Without the one in question, the others say what it should be.
                if used[k] and total > weights[k]:
                    rest = (mean * total - weights[k] * fluxes[k]) / (total - weights[k])
                    variance = 1.0 / weights[k] + 1.0 / (total - weights[k]) + (floor * max(rest, 0.0)) ** 2
                    pull = (fluxes[k] - rest) / np.sqrt(variance)
                    if pull > worst:
                        worst, which = pull, k
        if worst < REJECT_SIGMA:
            return mean, total, left
        used[which] = 0
        left -= 1


@kernel
def judge_candidates(patch, numerator, denominator, x, y, limit, flux, significance, n_used):
    """Fluxes and significances of candidates from the exposures that agree: a cosmic ray stands in one exposure alone.

    Parameters
    ----------
    patch, numerator, denominator
        As in `combine_scores`.
    x, y : ndarray (n,)
        Master positions.
    limit : ndarray (n, B)
        A band counts where its flux is above this.
    flux : ndarray (n, B)
        Filled.
    significance : ndarray (n,)
        Filled: as `lattice_significance`, of the bands that count.
    n_used : ndarray (n,), int
        Filled: exposures used, all bands.
    """
    n_exposures = patch.first.shape[0]
    bands = flux.shape[1]
    fluxes = np.empty(n_exposures)
    weights = np.empty(n_exposures)
    used = np.empty(n_exposures, np.int64)
    for k in range(x.shape[0]):
        square = 0.0
        n_used[k] = 0
        for b in range(bands):
            flux[k, b] = 0.0
            n = 0
            for e in range(n_exposures):
                if patch.band[e] != b:
                    continue
                raw_x, raw_y, scale, _, _, _, _ = place(patch, e, x[k], y[k])
                if not (0.5 <= raw_x < patch.nx[e] - 1.5 and 0.5 <= raw_y < patch.ny[e] - 1.5):
                    continue
                at = patch.first[e] + int(np.floor(raw_y + 0.5)) * patch.nx[e] + int(np.floor(raw_x + 0.5))
                if denominator[at] > 0.0:
                    fluxes[n] = numerator[at] / (denominator[at] * scale)
                    weights[n] = denominator[at] * scale * scale
                    n += 1
            if n == 0:
                continue
            mean, total, left = judge_band(fluxes, weights, used, n, FILTER_MISMATCH)
            flux[k, b] = mean
            n_used[k] += left
            if mean > limit[k, b]:
                square += mean * mean * total
        significance[k] = np.sqrt(square)


