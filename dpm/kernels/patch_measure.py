"""What every exposure says of every star of a solved patch, and the covariance of a star with its neighbours."""

from __future__ import annotations

import numpy as np

from dpm.kernels import quality as columns
from dpm.kernels.bundles import MAX_BOX, MAX_HALF
from dpm.kernels.fit import invert_three
from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.patch import add_star, box_workspace, load_box, place, sky_at
from dpm.kernels.patch_fit import (
    FAILED,
    GROUP_HALF,
    MAX_GROUP,
    fit_group,
    group_workspace,
    load_group,
    solve_step,
)
from dpm.kernels.patch_normal import accumulate, keep_box
from dpm.kernels.quality import CHI_MODEL_ERROR, assess_fit

# Columns of a measurement beyond those of `dpm.kernels.quality`.
FLUX_FREE, FLUX_FREE_ERROR, FLUX_SMALL, FLUX_SMALL_ERROR = columns.RESULT_SIZE, columns.RESULT_SIZE + 1, columns.RESULT_SIZE + 2, (
    columns.RESULT_SIZE + 3
)
SCALE, SKY_RMS, PREDICTED_X, PREDICTED_Y = (columns.RESULT_SIZE + 4 + k for k in range(4))
MEASUREMENT_SIZE = columns.RESULT_SIZE + 8
SMALL_HALF = 1  # 3 x 3 pixels for the faintest and most crowded (method 3)
SMALL_SKY_INNER2, SMALL_SKY_OUTER2 = 6.25, 20.25  # squared radii of the sky that goes with it, pixels
FARTHEST = 10.0  # pixels: error of a position that the pixels do not tell
COVARIANCE_RADIUS = 3.0  # master pixels; the light of two stars farther apart shares no pixel of a fit box's core


@kernel
def fit_candidates(patch, libraries, stars, n_stars, x, y, flux, model_error, iterations, threshold, min_distance):
    """Fit candidates in the order given and keep those that are significant, subtracted.

    Parameters
    ----------
    patch, libraries : Patch, Libraries
    stars : PatchStars
        Entries from n_stars onwards are filled.
    n_stars : int
    x, y, flux : ndarray (n,), (n,), (n, B)
        Where to start.
    model_error : float
    iterations : int
    threshold : float
        Lowest significance, as `dpm.kernels.patch_find.lattice_significance`.
    min_distance : float
        Master pixels; a candidate nearer to a star is taken for its residual.

    Returns
    -------
    int
        The new number of stars.
    """
    box = box_workspace()
    group = group_workspace(patch.first.shape[0], stars.flux.shape[1])
    member = np.zeros(1, np.int64)
    bands = stars.flux.shape[1]
    guess = np.zeros(stars.flux.shape)
    for c in range(x.shape[0]):
        if n_stars >= stars.x.shape[0]:
            break
        if is_taken(stars, n_stars, x[c], y[c], min_distance):
            continue
        k = n_stars
        stars.x[k], stars.y[k] = x[c], y[c]
        for b in range(bands):
            guess[k, b] = flux[c, b]
            stars.flux[k, b] = 0.0
            stars.sky[k, b] = 0.0
        stars.half[k] = 2
        member[0] = k
        status = fit_group(patch, libraries, box, group, stars, guess, member, 0, 1, model_error, iterations)
        keep = status != FAILED and significance(stars, k) >= threshold
        if not keep or is_taken(stars, n_stars, stars.x[k], stars.y[k], min_distance):
            add_star(patch, libraries, box, stars.x[k], stars.y[k], stars.flux, k, 1.0)
            continue
        n_stars += 1
    return n_stars


@leaf_kernel
def is_taken(stars, n_stars, x, y, min_distance):
    """Does one of the first n_stars stand within min_distance of this place?"""
    for k in range(n_stars):  # noqa: SIM110
        if (stars.x[k] - x) ** 2 + (stars.y[k] - y) ** 2 < min_distance * min_distance:
            return True
    return False


@leaf_kernel
def significance(stars, k):
    """Square root of the summed squares of the bands' positive fluxes over their errors."""
    total = 0.0
    for b in range(stars.flux.shape[1]):
        f, error = stars.flux[k, b], stars.flux_error[k, b]
        if f > 0.0 and error > 0.0:
            total += (f / error) ** 2
    return np.sqrt(total)


@kernel
def measure_stars(
    patch, libraries, stars, which, neighbors, n_neighbors, model_error, position, flux_error, crowding, table
):  # fmt: skip
    """Covariance of each star with its nearest neighbours free as well, and one row for each star and exposure.

    Parameters
    ----------
    patch, libraries, stars
        Solved; all stars subtracted from the residuals.
    which : ndarray (n,), int
    neighbors : ndarray (n, MAX_GROUP - 1), int
        Nearest neighbours within COVARIANCE_RADIUS.
    n_neighbors : ndarray (n,), int
    model_error : float
    position : ndarray (n, 3)
        Filled: xx, xy, yy of the position; NaN where the matrix is singular.
    flux_error : ndarray (n, B)
        Filled; NaN without pixels.
    crowding : ndarray (n, 1 + B)
        Filled: variance of the position over that with the neighbours and its own fluxes held, and of each flux over that with
        everything else held.
    table : ndarray (n, E, MEASUREMENT_SIZE)
        Filled (columns of `dpm.kernels.quality` and of this module; fluxes of the exposure, cut-out pixels); X is NaN where the
        exposure does not cover the star.
    """
    box = box_workspace()
    group = group_workspace(patch.first.shape[0], stars.flux.shape[1])
    members = np.zeros(MAX_GROUP, np.int64)
    pixels = np.empty((5, MAX_BOX, MAX_BOX), np.float32)
    variance = np.zeros((MAX_BOX, MAX_BOX))
    normal = np.zeros((3, 3))
    inverse = np.zeros((3, 3))
    for m in range(which.shape[0]):
        members[0] = which[m]
        n = 1 + n_neighbors[m]
        for k in range(1, n):
            members[k] = neighbors[m, k - 1]
        if not local_covariance(
            patch, libraries, box, group, stars, members, n, model_error, position[m], flux_error[m], crowding[m]
        ):
            n = 0
        for e in range(patch.first.shape[0]):
            measure_star(
                patch, libraries, box, group, n, stars, which[m], e, model_error, pixels, variance, normal, inverse, table[m, e]
            )


@leaf_kernel
def local_covariance(patch, libraries, box, group, stars, members, n, model_error, position, flux_error, crowding):
    """Covariance of the first of n members, as `measure_stars` has it; ``group.inverse`` is that of all. False if singular."""
    bands = stars.flux.shape[1]
    width = 2 + bands
    position[:] = np.nan
    flux_error[:] = np.nan
    crowding[:] = np.nan
    half = min(stars.half[members[0]], MAX_HALF) if n == 1 else GROUP_HALF
    if not load_group(patch, libraries, box, group, stars, stars.flux, members, 0, n, half):
        return False
    for k in range(n):
        for p in range(width):
            group.position[k, p] = group.start[k, p]
    accumulate(patch, libraries, box, group, n, half, bands, model_error * model_error, group.position)
    a, d, c = group.normal[0, 0], group.normal[1, 1], group.normal[1, 0]
    held = (a + d) / (a * d - c * c)
    if not solve_step(group, n, width, 0.0):
        return False
    position[0], position[1], position[2] = group.inverse[0, 0], group.inverse[0, 1], group.inverse[1, 1]
    crowding[0] = (group.inverse[0, 0] + group.inverse[1, 1]) / held
    for b in range(bands):
        information = group.normal[2 + b, 2 + b]
        if information > 0.0:
            flux_error[b] = np.sqrt(group.inverse[2 + b, 2 + b])
            crowding[1 + b] = group.inverse[2 + b, 2 + b] * information
    return True


@leaf_kernel
def load_members(patch, libraries, box, group, n, e):
    """psi and slopes of the members beside the first on exposure e, into ``group``."""
    for k in range(1, n):
        raw_x, raw_y, scale = group.raw[e, k, 0], group.raw[e, k, 1], group.raw[e, k, 2]
        if scale == 0.0:
            continue
        light = group.position[k, 2 + patch.band[e]] * scale
        load_box(patch, libraries, e, raw_x, raw_y, light, group.peak[e, k, 0], group.peak[e, k, 1], GROUP_HALF, True, box)
        keep_box(group, k, box, 2 * GROUP_HALF + 1)


@leaf_kernel
def absorbed_variance(group, n, width, band, e, v, u, psi, gx, gy):
    """Variance that the joint fit's errors give the model in pixel (v, u) of exposure e: what all its parameters take off there.

    ``psi, gx, gy``: of the first of the n members; those of the others are in ``group`` (`load_members`).
    """
    slope, raw = group.slope, group.raw
    for k in range(n):
        if k > 0:
            r, c = v - group.peak[e, k, 0] + GROUP_HALF, u - group.peak[e, k, 1] + GROUP_HALF
            if raw[e, k, 2] == 0.0 or not (0 <= r <= 2 * GROUP_HALF and 0 <= c <= 2 * GROUP_HALF):
                slope[k, 0] = slope[k, 1] = slope[k, 2] = 0.0
                continue
            psi = np.float64(group.value[k, r, c])
            gx, gy = np.float64(group.slope_x[k, r, c]), np.float64(group.slope_y[k, r, c])
        scale = raw[e, k, 2]
        light = group.position[k, 2 + band] * scale
        slope[k, 0] = light * (gx * raw[e, k, 3] + gy * raw[e, k, 5])
        slope[k, 1] = light * (gx * raw[e, k, 4] + gy * raw[e, k, 6])
        slope[k, 2] = scale * psi
    total = 0.0
    for k in range(n):
        for p in range(3):
            a = k * width + (p if p < 2 else 2 + band)
            row = 0.5 * group.inverse[a, a] * slope[k, p]
            for q in range(p):
                row += group.inverse[a, k * width + q] * slope[k, q]
            for m in range(k):
                b = m * width
                row += group.inverse[a, b] * slope[m, 0] + group.inverse[a, b + 1] * slope[m, 1]
                row += group.inverse[a, b + 2 + band] * slope[m, 2]
            total += 2.0 * row * slope[k, p]
    return total


@leaf_kernel
def gather_box(patch, e, iy, ix, outer, own, value, pixels):
    """Copy the box about (iy, ix): pixels with the star's own light put back, other light, and the noise planes."""
    ny, nx = patch.ny[e], patch.nx[e]
    side = 2 * outer + 1
    f = np.float32(own)
    for j in range(side):
        v = iy - outer + j
        for i in range(side):
            u = ix - outer + i
            pixels[2, j, i] = np.inf
            pixels[0, j, i] = pixels[1, j, i] = pixels[3, j, i] = pixels[4, j, i] = 0.0
            if 0 <= v < ny and 0 <= u < nx:
                at = patch.first[e] + v * nx + u
                pixels[2, j, i] = patch.variance_read[at]
                if patch.variance_read[at] < np.inf:
                    alone = patch.residual[at] + f * value[j, i]
                    pixels[0, j, i] = alone
                    pixels[1, j, i] = max(patch.scene[at] - alone, np.float32(0.0))
                    pixels[3, j, i] = patch.poisson_factor[at]
                    pixels[4, j, i] = patch.flat_variance[at]


@leaf_kernel
def measure_star(patch, libraries, box, group, n, stars, k, e, model_error, pixels, absorbed, normal, inverse, row):
    """One row of `measure_stars`; ``group`` holds the covariance of the star and its n - 1 neighbours (n = 0: there is none)."""
    for c in range(MEASUREMENT_SIZE):
        row[c] = np.nan
    raw_x, raw_y, scale, _, _, _, _ = place(patch, e, stars.x[k], stars.y[k])
    ny, nx = patch.ny[e], patch.nx[e]
    if not (-0.5 <= raw_x < nx - 0.5 and -0.5 <= raw_y < ny - 0.5):
        return
    band = patch.band[e]
    half = min(stars.half[k], MAX_HALF - 1)
    outer = half + 1
    iy, ix = int(np.floor(raw_y + 0.5)), int(np.floor(raw_x + 0.5))
    own = stars.flux[k, band] * scale
    sky = sky_at(patch.sky, e, patch.sky_cell, iy, ix, ny, nx) + stars.sky[k, band]
    width = 2 + stars.flux.shape[1]
    load_members(patch, libraries, box, group, n, e)
    load_box(patch, libraries, e, raw_x, raw_y, own, iy, ix, outer, True, box)
    gather_box(patch, e, iy, ix, outer, own, box.value, pixels)
    n00 = n10 = n11 = n20 = n21 = n22 = g0 = g1 = g2 = 0.0
    small = parameters = 0.0
    for j in range(2 * outer + 1):
        for i in range(2 * outer + 1):
            read = np.float64(pixels[2, j, i])
            if read == np.inf:
                continue
            psi = np.float64(box.value[j, i])
            star = own * psi
            light = max(star + sky + pixels[1, j, i], 0.0)
            variance = read + light * (pixels[3, j, i] + pixels[4, j, i] * light) + (model_error * star) ** 2
            r = pixels[0, j, i] - sky - star
            if abs(j - outer) <= half and abs(i - outer) <= half:
                w = 1.0 / variance
                gx, gy = np.float64(box.slope_x[j, i]), np.float64(box.slope_y[j, i])
                taken = absorbed_variance(group, n, width, band, e, iy - outer + j, ix - outer + i, psi, gx, gy)
                absorbed[j - outer + half, i - outer + half] = taken
                parameters += w * taken
                s0, s1 = own * box.slope_x[j, i], own * box.slope_y[j, i]
                n00 += w * s0 * s0
                n10 += w * s1 * s0
                n11 += w * s1 * s1
                n20 += w * psi * s0
                n21 += w * psi * s1
                n22 += w * psi * psi
                g0 += w * r * s0
                g1 += w * r * s1
                g2 += w * r * psi
                if abs(j - outer) <= SMALL_HALF and abs(i - outer) <= SMALL_HALF:
                    small += w * psi * psi
    if not n22 > 0.0:
        return
    row[SCALE] = scale
    row[SKY_RMS] = sky_at(patch.scatter, e, patch.sky_cell, iy, ix, ny, nx)
    row[columns.SKY] = sky
    row[PREDICTED_X], row[PREDICTED_Y] = raw_x, raw_y
    flux = own + g2 / n22
    row[columns.X], row[columns.Y], row[columns.FLUX] = raw_x, raw_y, flux
    row[columns.FLUX_ERROR] = 1.0 / np.sqrt(n22)
    row[columns.X_ERROR] = row[columns.Y_ERROR] = FARTHEST
    row[columns.XY_COVARIANCE] = 0.0
    normal[0, 0], normal[1, 0], normal[1, 1] = n00, n10, n11
    normal[2, 0], normal[2, 1], normal[2, 2] = n20, n21, n22
    if own > 0.0 and invert_three(normal, inverse) and max(inverse[0, 0], inverse[1, 1]) < FARTHEST * FARTHEST:
        row[columns.X] += inverse[0, 0] * g0 + inverse[0, 1] * g1 + inverse[0, 2] * g2
        row[columns.Y] += inverse[1, 0] * g0 + inverse[1, 1] * g1 + inverse[1, 2] * g2
        row[columns.X_ERROR], row[columns.Y_ERROR] = np.sqrt(inverse[0, 0]), np.sqrt(inverse[1, 1])
        row[columns.XY_COVARIANCE] = inverse[1, 0]
        row[FLUX_FREE] = own + inverse[2, 0] * g0 + inverse[2, 1] * g1 + inverse[2, 2] * g2
        row[FLUX_FREE_ERROR] = np.sqrt(inverse[2, 2])
    if small > 0.0:
        row[FLUX_SMALL], row[FLUX_SMALL_ERROR] = small_flux(patch, e, iy, ix, raw_x, raw_y, own, sky, pixels, box, outer, small)
    # Quality is that of the joint model; a flux at or below zero has none.
    held_x, held_y = row[columns.X], row[columns.Y]
    row[columns.X], row[columns.Y], row[columns.FLUX] = raw_x, raw_y, own
    allowed = max(CHI_MODEL_ERROR, 3.0 * model_error)
    # Of the parameters that all exposures share, those that this one paid for.
    assess_fit(pixels, box.value, outer, iy, ix, outer, half, parameters, absorbed, model_error, allowed, row)
    row[columns.X], row[columns.Y], row[columns.FLUX] = held_x, held_y, flux


@kernel
def box_bits(patch, dq, e, y, x, together, half, bits, halo):
    """Data quality and halos about stars.

    Parameters
    ----------
    patch : Patch
    dq : ndarray (pixels,), uint8
    e, y, x : ndarray (n,)
        Exposure, and cut-out position.
    together : int
        Bits that count where one pixel has all of them.
    half : int
        Half-width of the fit box.
    bits : ndarray (2, n), uint8
        Filled: ``together`` where one of the 3 x 3 pixels at the peak has all of these bits, else 0; and all bits in the fit box.
    halo : ndarray (n,), float32
        Filled: the halos' limit at the peak.
    """
    for k in range(e.shape[0]):
        ny, nx, start = patch.ny[e[k]], patch.nx[e[k]], patch.first[e[k]]
        iy = min(max(int(np.floor(y[k] + 0.5)), 0), ny - 1)
        ix = min(max(int(np.floor(x[k] + 0.5)), 0), nx - 1)
        halo[k] = patch.halo[start + iy * nx + ix]
        bits[0, k] = bits[1, k] = 0
        for v in range(max(iy - half, 0), min(iy + half, ny - 1) + 1):
            for u in range(max(ix - half, 0), min(ix + half, nx - 1) + 1):
                found = dq[start + v * nx + u]
                bits[1, k] |= found
                if abs(v - iy) <= 1 and abs(u - ix) <= 1 and found & together == together:
                    bits[0, k] = together


@leaf_kernel
def small_flux(patch, e, iy, ix, raw_x, raw_y, own, sky, pixels, box, outer, information):
    """Flux from the 3 x 3 pixels at the peak with the position held and the sky from a ring close by (method 3)."""
    ny, nx = patch.ny[e], patch.nx[e]
    scatter = sky_at(patch.scatter, e, patch.sky_cell, iy, ix, ny, nx)
    total = 0.0
    n = 0
    for dv in range(-5, 6):
        for du in range(-5, 6):
            v, u = iy + dv, ix + du
            distance2 = (v - raw_y) ** 2 + (u - raw_x) ** 2
            if SMALL_SKY_INNER2 <= distance2 < SMALL_SKY_OUTER2 and 0 <= v < ny and 0 <= u < nx:
                at = patch.first[e] + v * nx + u
                r = np.float64(patch.residual[at]) - sky
                if patch.variance_read[at] < np.inf and abs(r) < 3.0 * scatter:
                    total += r
                    n += 1
    near = total / n if n > 0 else 0.0
    gradient = weights = 0.0
    for j in range(outer - SMALL_HALF, outer + SMALL_HALF + 1):
        for i in range(outer - SMALL_HALF, outer + SMALL_HALF + 1):
            read = np.float64(pixels[2, j, i])
            if read == np.inf:
                continue
            psi = np.float64(box.value[j, i])
            light = max(own * psi + sky + pixels[1, j, i], 0.0)
            w = 1.0 / (read + light * (pixels[3, j, i] + pixels[4, j, i] * light))
            gradient += w * psi * (pixels[0, j, i] - sky - near - own * psi)
            weights += w * psi
    sky_error = scatter / np.sqrt(max(n, 1))
    variance = 1.0 / information + (sky_error * weights / information) ** 2
    return own + gradient / information, np.sqrt(variance)
