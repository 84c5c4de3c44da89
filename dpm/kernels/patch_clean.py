"""Pixels that no mask names: what stands out in one exposure and in no other at the same place of the sky loses its weight."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.patch import place, sky_at

OUTLIER_SIGMA = 6.0  # one normal pixel in 10^9
SKIRT_SIGMA = 3.0  # pixels beside an outlier that stand out by this share its fate
AGREE_SIGMA = 2.5  # another exposure shows it too
AGREE_FRACTION = 0.25  # of the other exposures, that make it real
NEAR2 = np.float32(0.81 * OUTLIER_SIGMA**2)  # squared, with room for the sky's slope over COLUMNS pixels
COLUMNS = 8
MODEL_ERROR = 0.1  # of the light of stars, allowed as error of the model of an undersampled core


@leaf_kernel
def pull_at(patch, e, v, u):
    """Residual of a pixel over its error, the model's own error included; 0 without weight."""
    nx = patch.nx[e]
    at = patch.first[e] + v * nx + u
    read = np.float64(patch.variance_read[at])
    if read == np.inf:
        return 0.0
    sky = sky_at(patch.sky, e, patch.sky_cell, v, u, patch.ny[e], nx)
    value = np.float64(patch.residual[at])
    star = max(np.float64(patch.scene[at]) - value, 0.0)
    light = max(star + sky, 0.0)
    variance = read + light * (patch.poisson_factor[at] + patch.flat_variance[at] * light) + (MODEL_ERROR * star) ** 2
    return (value - sky) / np.sqrt(variance)


@leaf_kernel
def is_real(patch, e, v, u, sign):
    """Do other exposures show the same excess (or lack) at this place of the sky?  True where no other covers it."""
    n = patch.nodes.shape[2]
    x = patch.node_origin[0] + 8.0 * n
    y = patch.node_origin[1] + 8.0 * n
    for _ in range(4):
        raw_x, raw_y, _, xx, xy, yx, yy = place(patch, e, x, y)
        off_x, off_y = u - raw_x, v - raw_y
        determinant = xx * yy - xy * yx
        x += (yy * off_x - xy * off_y) / determinant
        y += (xx * off_y - yx * off_x) / determinant
    covered = 0
    agree = 0
    for o in range(patch.first.shape[0]):
        if o == e:
            continue
        raw_x, raw_y, _, _, _, _, _ = place(patch, o, x, y)
        if not (-0.5 <= raw_x < patch.nx[o] - 0.5 and -0.5 <= raw_y < patch.ny[o] - 0.5):
            continue
        iy, ix = int(np.floor(raw_y + 0.5)), int(np.floor(raw_x + 0.5))
        if patch.variance_read[patch.first[o] + iy * patch.nx[o] + ix] == np.inf:
            continue
        covered += 1
        # The star of an undersampled image may lie in the next pixel.
        found = False
        sky = sky_at(patch.sky, o, patch.sky_cell, iy, ix, patch.ny[o], patch.nx[o])
        for dv in range(-1, 2):
            for du in range(-1, 2):
                if found or not (0 <= iy + dv < patch.ny[o] and 0 <= ix + du < patch.nx[o]):
                    continue
                at = patch.first[o] + (iy + dv) * patch.nx[o] + ix + du
                difference = sign * (patch.residual[at] - sky)
                if difference > 0.0 and difference * difference > AGREE_SIGMA * AGREE_SIGMA * patch.variance_read[at]:
                    found = sign * pull_at(patch, o, iy + dv, ix + du) > AGREE_SIGMA
        if found:
            agree += 1
    # Of nine pixels of noise the largest is above 2.5 sigma in one of twenty.
    return covered == 0 or agree > max(1.0 if covered > 2 else 0.0, AGREE_FRACTION * covered)


@kernel
def mask_outliers(patch):
    """Take the weight of pixels that stand out in one exposure alone, and of those beside them; returns how many.

    Parameters
    ----------
    patch : Patch
        With the known stars subtracted; ``variance_read`` becomes infinite where a pixel is masked.
    """
    masked = 0
    longest = 0
    for e in range(patch.first.shape[0]):
        longest = max(longest, patch.ny[e] * patch.nx[e])
    rows = np.empty(longest, np.int64)
    columns = np.empty(longest, np.int64)
    for e in range(patch.first.shape[0]):
        ny, nx, start = patch.ny[e], patch.nx[e], patch.first[e]
        n = 0
        for v in range(ny):
            for begin in range(0, nx, COLUMNS):
                end = min(begin + COLUMNS, nx)
                sky = np.float32(sky_at(patch.sky, e, patch.sky_cell, v, 0.5 * (begin + end - 1), ny, nx))
                for u in range(begin, end):
                    at = start + v * nx + u
                    difference = patch.residual[at] - sky
                    # Most pixels are within the noise that they would have without light.
                    if difference * difference < NEAR2 * patch.variance_read[at]:
                        continue
                    pull = pull_at(patch, e, v, u)
                    if abs(pull) > OUTLIER_SIGMA and not is_real(patch, e, v, u, 1.0 if pull > 0.0 else -1.0):
                        rows[n] = v
                        columns[n] = u
                        n += 1
        found = n
        for k in range(found):
            for dv in range(-1, 2):
                for du in range(-1, 2):
                    v, u = rows[k] + dv, columns[k] + du
                    if 0 <= v < ny and 0 <= u < nx and n < longest and abs(pull_at(patch, e, v, u)) > SKIRT_SIGMA:
                        rows[n] = v
                        columns[n] = u
                        n += 1
        for k in range(n):
            at = start + rows[k] * nx + columns[k]
            if patch.variance_read[at] < np.inf:
                patch.variance_read[at] = np.inf
                masked += 1
    return masked
