"""Chi-square, normal matrix and gradient of a group of stars on a patch, over every pixel of every exposure.

A star alone, which most are, has a loop of its own that sums in raw pixels and turns the sums to the master frame once an exposure.
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import leaf_kernel
from dpm.kernels.patch import FIT_HALF, load_box, sky_at


@leaf_kernel
def keep_box(group, k, box, side):
    """Keep psi and slopes of member k from ``box`` in ``group``."""
    value, slope_x, slope_y = group.value, group.slope_x, group.slope_y
    for j in range(side):
        for i in range(side):
            value[k, j, i] = box.value[j, i]
            slope_x[k, j, i] = box.slope_x[j, i]
            slope_y[k, j, i] = box.slope_y[j, i]


@leaf_kernel
def accumulate(patch, libraries, box, group, n, half, bands, model_error2, position):
    """Chi-square of the group at ``position``, and its normal matrix (lower triangle) and gradient."""
    width = 2 + bands
    for a in range(n * width):
        group.gradient[a] = 0.0
        for b in range(a + 1):
            group.normal[a, b] = 0.0
    if n == 1:
        return accumulate_one(patch, libraries, box, group, half, model_error2, position)
    chi2 = 0.0
    fit = FIT_HALF
    raw, value, slope_x, slope_y, peak, slope = group.raw, group.value, group.slope_x, group.slope_y, group.peak, group.slope
    for e in range(patch.first.shape[0]):
        if group.size[e, 0] == 0:
            continue
        band = patch.band[e]
        y0, x0 = group.corner[e, 0], group.corner[e, 1]
        ny, nx = patch.ny[e], patch.nx[e]
        middle_y, middle_x = y0 + group.size[e, 0] // 2, x0 + group.size[e, 1] // 2
        sky = np.float64(sky_at(patch.sky, e, patch.sky_cell, middle_y, middle_x, ny, nx)) + group.sky[band]
        for k in range(n):
            if raw[e, k, 2] == 0.0:
                continue
            dx, dy = position[k, 0] - group.start[k, 0], position[k, 1] - group.start[k, 1]
            x = raw[e, k, 0] + raw[e, k, 3] * dx + raw[e, k, 4] * dy
            y = raw[e, k, 1] + raw[e, k, 5] * dx + raw[e, k, 6] * dy
            light = position[k, 2 + band] * raw[e, k, 2]
            load_box(patch, libraries, e, x, y, light, peak[e, k, 0], peak[e, k, 1], half, True, box)
            keep_box(group, k, box, 2 * half + 1)
        for j in range(group.size[e, 0]):
            v = y0 + j
            base = patch.first[e] + v * nx + x0
            for i in range(group.size[e, 1]):
                u = x0 + i
                at = base + i
                read = np.float64(patch.variance_read[at])
                if read == np.inf:
                    continue
                own = 0.0
                inside = False
                for k in range(n):
                    if raw[e, k, 2] == 0.0:
                        slope[k, 2] = 0.0
                        continue
                    r, c = v - peak[e, k, 0], u - peak[e, k, 1]
                    if abs(r) > half or abs(c) > half:
                        slope[k, 2] = 0.0
                        continue
                    inside = inside or (abs(r) <= fit and abs(c) <= fit)
                    psi = raw[e, k, 2] * np.float64(value[k, r + half, c + half])
                    light = position[k, 2 + band]
                    own += light * psi
                    slope[k, 2] = psi
                    gx = raw[e, k, 2] * light * np.float64(slope_x[k, r + half, c + half])
                    gy = raw[e, k, 2] * light * np.float64(slope_y[k, r + half, c + half])
                    slope[k, 0] = gx * raw[e, k, 3] + gy * raw[e, k, 5]
                    slope[k, 1] = gx * raw[e, k, 4] + gy * raw[e, k, 6]
                if not inside:
                    continue
                data = np.float64(group.data[e, j, i])
                other = max(np.float64(patch.scene[at]) - data, 0.0)
                light = max(own + sky + other, 0.0)
                variance = read + light * (patch.poisson_factor[at] + patch.flat_variance[at] * light) + model_error2 * own * own
                weight = 1.0 / variance
                difference = data - sky - own
                chi2 += weight * difference * difference
                wr = weight * difference
                for k in range(n):
                    if slope[k, 2] == 0.0:
                        continue
                    a = k * width
                    s0, s1, s2 = slope[k, 0], slope[k, 1], slope[k, 2]
                    group.gradient[a] += wr * s0
                    group.gradient[a + 1] += wr * s1
                    group.gradient[a + 2 + band] += wr * s2
                    w0, w1, w2 = weight * s0, weight * s1, weight * s2
                    normal = group.normal
                    normal[a, a] += w0 * s0
                    normal[a + 1, a] += w1 * s0
                    normal[a + 1, a + 1] += w1 * s1
                    normal[a + 2 + band, a] += w2 * s0
                    normal[a + 2 + band, a + 1] += w2 * s1
                    normal[a + 2 + band, a + 2 + band] += w2 * s2
                    for m in range(k):
                        if slope[m, 2] == 0.0:
                            continue
                        b = m * width
                        t0, t1, t2 = slope[m, 0], slope[m, 1], slope[m, 2]
                        normal[a, b] += w0 * t0
                        normal[a, b + 1] += w0 * t1
                        normal[a, b + 2 + band] += w0 * t2
                        normal[a + 1, b] += w1 * t0
                        normal[a + 1, b + 1] += w1 * t1
                        normal[a + 1, b + 2 + band] += w1 * t2
                        normal[a + 2 + band, b] += w2 * t0
                        normal[a + 2 + band, b + 1] += w2 * t1
                        normal[a + 2 + band, b + 2 + band] += w2 * t2
    return chi2


@leaf_kernel
def accumulate_one(patch, libraries, box, group, half, model_error2, position):
    """`accumulate` for a star alone: sums in raw pixels of each exposure, turned to the master frame at its end."""
    chi2 = 0.0
    raw, peak, normal, gradient = group.raw, group.peak, group.normal, group.gradient
    residual_data, scene = group.data, patch.scene
    read, poisson, flat = patch.variance_read, patch.poisson_factor, patch.flat_variance
    for e in range(patch.first.shape[0]):
        if group.size[e, 0] == 0:
            continue
        band = patch.band[e]
        y0, x0 = group.corner[e, 0], group.corner[e, 1]
        height, width = group.size[e, 0], group.size[e, 1]
        nx = patch.nx[e]
        iy, ix = peak[e, 0, 0], peak[e, 0, 1]
        scale = raw[e, 0, 2]
        sky = sky_at(patch.sky, e, patch.sky_cell, iy, ix, patch.ny[e], nx) + group.sky[band]
        dx, dy = position[0, 0] - group.start[0, 0], position[0, 1] - group.start[0, 1]
        x = raw[e, 0, 0] + raw[e, 0, 3] * dx + raw[e, 0, 4] * dy
        y = raw[e, 0, 1] + raw[e, 0, 5] * dx + raw[e, 0, 6] * dy
        flux = position[0, 2 + band] * scale
        load_box(patch, libraries, e, x, y, flux, iy, ix, half, True, box)
        n00 = n10 = n11 = n20 = n21 = n22 = b0 = b1 = b2 = 0.0
        row, column = np.uintp(y0 - iy + half), np.uintp(x0 - ix + half)
        for j in range(np.uintp(height)):
            base = np.uintp(patch.first[e] + y0 * nx + x0) + j * np.uintp(nx)
            for i in range(np.uintp(width)):
                at = base + i
                psi = np.float64(box.value[row + j, column + i])
                data = np.float64(residual_data[e, j, i])
                star = flux * psi
                light = max(star + sky + max(np.float64(scene[at]) - data, 0.0), 0.0)
                # A pixel of infinite variance drops out by itself.
                variance = np.float64(read[at]) + light * (poisson[at] + flat[at] * light) + model_error2 * star * star
                weight = 1.0 / variance
                difference = data - sky - star
                s0 = np.float64(box.slope_x[row + j, column + i])
                s1 = np.float64(box.slope_y[row + j, column + i])
                wr = weight * difference
                chi2 += wr * difference
                b0 += wr * s0
                b1 += wr * s1
                b2 += wr * psi
                w0, w1, w2 = weight * s0, weight * s1, weight * psi
                n00 += w0 * s0
                n10 += w1 * s0
                n11 += w1 * s1
                n20 += w2 * s0
                n21 += w2 * s1
                n22 += w2 * psi
        # d(raw) / d(master), with the flux: derivatives of the light by the master position and the unit flux.
        xx, xy, yx, yy = raw[e, 0, 3], raw[e, 0, 4], raw[e, 0, 5], raw[e, 0, 6]
        f2 = flux * flux
        normal[0, 0] += f2 * (xx * xx * n00 + 2.0 * xx * yx * n10 + yx * yx * n11)
        normal[1, 0] += f2 * (xx * xy * n00 + (xx * yy + xy * yx) * n10 + yx * yy * n11)
        normal[1, 1] += f2 * (xy * xy * n00 + 2.0 * xy * yy * n10 + yy * yy * n11)
        c = 2 + band
        normal[c, 0] += flux * scale * (xx * n20 + yx * n21)
        normal[c, 1] += flux * scale * (xy * n20 + yy * n21)
        normal[c, c] += scale * scale * n22
        gradient[0] += flux * (xx * b0 + yx * b1)
        gradient[1] += flux * (xy * b0 + yy * b1)
        gradient[c] += scale * b2
    return chi2
