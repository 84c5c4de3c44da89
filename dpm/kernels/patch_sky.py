"""Sky on a patch: a mesh of each exposure, and what lies above it at each star in all exposures of a band together."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.patch import NODE_STEP, place, sky_at
from dpm.kernels.sky import BINS, MIN_SKY_PIXELS, binned_quartiles, clipped_mean, clipped_statistics

QUIET = 0.2  # photon noise of stars over the noise of sky and reads, in variance: below, a pixel counts as sky
ENOUGH = 4  # times MIN_SKY_PIXELS: below, a star's own sky is not measured


@leaf_kernel
def sample_cell(patch, start, ny, nx, y0, x0, cell, sky, quiet, sample):
    """Residuals of a cell's pixels whose stars' photon noise is at most ``quiet`` times the variance of sky and reads.

    Returns
    -------
    n : int
        How many.
    light : float
        The light that was subtracted from them, summed.
    """
    n = 0
    total = 0.0
    for y in range(y0, min(y0 + cell, ny)):
        for x in range(x0, min(x0 + cell, nx)):
            at = start + y * nx + x
            read, poisson = patch.variance_read[at], patch.poisson_factor[at]
            value = patch.residual[at]
            light = patch.scene[at] - value
            if read < np.inf and light * poisson <= quiet * (read + poisson * sky):
                sample[n] = value
                total += light
                n += 1
    return n, total


@kernel
def update_sky(patch, known):
    """Clipped level and scatter of the residuals in square cells of every exposure, and the mean light of stars in the pixels that
    counted, into the patch's meshes.

    Pixels that stars make noisier than the sky are left out, as far as enough others remain.

    Parameters
    ----------
    patch : Patch
    known : bool
        Whether the meshes hold an earlier result to start from.
    """
    cell = patch.sky_cell
    sample = np.empty(cell * cell, np.float32)
    counts = np.zeros(BINS, np.int64)
    for e in range(patch.first.shape[0]):
        ny, nx, start = patch.ny[e], patch.nx[e], patch.first[e]
        my, mx = max((ny + cell - 1) // cell, 1), max((nx + cell - 1) // cell, 1)
        mean = sigma = np.nan
        total = spread = 0.0
        filled = 0
        for j in range(my):
            for i in range(mx):
                level = np.float32(max(patch.sky[e, j, i], 0.0) if known else 0.0)
                n, light = sample_cell(patch, start, ny, nx, j * cell, i * cell, cell, level, np.float32(QUIET), sample)
                if n < MIN_SKY_PIXELS:
                    n, light = sample_cell(patch, start, ny, nx, j * cell, i * cell, cell, level, np.float32(np.inf), sample)
                patch.light[e, j, i] = light / max(n, 1)
                if n < MIN_SKY_PIXELS:
                    patch.sky[e, j, i] = np.nan
                    continue
                if known:
                    mean, sigma = np.float64(patch.sky[e, j, i]), np.float64(patch.scatter[e, j, i])
                used = 0
                middle, width = binned_quartiles(sample, n, mean, sigma, counts)
                if width > 0.0:
                    mean, sigma, used = clipped_mean(sample, n, middle, width)
                if used == 0:
                    mean, sigma, used = clipped_statistics(sample, n)
                patch.sky[e, j, i] = mean
                patch.scatter[e, j, i] = sigma
                total += mean
                spread += sigma
                filled += 1
        for j in range(my):
            for i in range(mx):
                if not np.isfinite(patch.sky[e, j, i]):
                    patch.sky[e, j, i] = total / max(filled, 1)
                    patch.scatter[e, j, i] = spread / max(filled, 1)


@kernel
def plane_medians(patch, step, read, poisson):
    """Medians of every ``step``-th pixel of the planes of each exposure.

    Parameters
    ----------
    patch : Patch
    step : int
    read, poisson : ndarray (E,)
        Filled: variance without light, and variance per unit of light; 1 and 0 where no pixel has weight.
    """
    for e in range(patch.first.shape[0]):
        start, size = patch.first[e], patch.ny[e] * patch.nx[e]
        values = np.empty((2, size // step + 1), np.float32)
        n = 0
        for k in range(0, size, step):
            if patch.variance_read[start + k] < np.inf:
                values[0, n] = patch.variance_read[start + k]
                values[1, n] = patch.poisson_factor[start + k]
                n += 1
        read[e], poisson[e] = 1.0, 0.0
        if n > 0:
            read[e], poisson[e] = np.median(values[0, :n]), np.median(values[1, :n])


@kernel
def noise_ratios(patch, read, poisson, ratio, sky):
    """Variance of the sky over what the noise planes say of it, the photon noise of stars included: the median over the cells.

    Parameters
    ----------
    patch : Patch
        With its meshes.
    read, poisson : ndarray (E,)
        From `plane_medians`.
    ratio, sky : ndarray (E,)
        Filled; ``sky`` with the median level.
    """
    cell = patch.sky_cell
    for e in range(patch.first.shape[0]):
        my, mx = max((patch.ny[e] + cell - 1) // cell, 1), max((patch.nx[e] + cell - 1) // cell, 1)
        values, levels = np.empty(my * mx), np.empty(my * mx)
        for j in range(my):
            for i in range(mx):
                level = np.float64(patch.sky[e, j, i])
                light = max(level, 0.0) + max(np.float64(patch.light[e, j, i]), 0.0)
                values[j * mx + i] = np.float64(patch.scatter[e, j, i]) ** 2 / (read[e] + poisson[e] * light)
                levels[j * mx + i] = level
        ratio[e], sky[e] = np.median(values), np.median(levels)


@kernel
def drop_outside(patch, x_low, x_high, y_low, y_high):
    """Take the weight of pixels outside these master pixels, by each exposure's geometry in the middle of the patch."""
    middle = patch.nodes.shape[2] // 2
    for e in range(patch.first.shape[0]):
        x0, y0 = patch.node_origin[0] + middle * NODE_STEP, patch.node_origin[1] + middle * NODE_STEP
        raw_x, raw_y, _, xx, xy, yx, yy = place(patch, e, x0, y0)
        determinant = xx * yy - xy * yx
        if not np.isfinite(determinant):
            continue
        ny, nx, start = patch.ny[e], patch.nx[e], patch.first[e]
        for j in range(ny):
            v = j - raw_y
            for i in range(nx):
                u = i - raw_x
                x, y = x0 + (yy * u - xy * v) / determinant, y0 + (xx * v - yx * u) / determinant
                if x < x_low or x > x_high or y < y_low or y > y_high:
                    patch.variance_read[start + j * nx + i] = np.inf


@leaf_kernel
def star_sky(patch, x, y, band, spans, sample):
    """Clipped level of the annulus about a star above the meshes, over all exposures of a band.

    Returns
    -------
    level, error : float
        0 and NaN where too few pixels are left.
    """
    n = 0
    guess = 0.0
    exposures = 0
    for e in range(patch.first.shape[0]):
        if patch.band[e] != band:
            continue
        raw_x, raw_y, _, _, _, _, _ = place(patch, e, x, y)
        ny, nx = patch.ny[e], patch.nx[e]
        if not (-0.5 <= raw_x < nx - 0.5 and -0.5 <= raw_y < ny - 0.5):
            continue
        iy, ix = int(np.floor(raw_y + 0.5)), int(np.floor(raw_x + 0.5))
        sky = np.float32(sky_at(patch.sky, e, patch.sky_cell, iy, ix, ny, nx))
        guess += sky_at(patch.scatter, e, patch.sky_cell, iy, ix, ny, nx)
        exposures += 1
        for k in range(spans.shape[0]):
            v = iy + spans[k, 0]
            if v < 0 or v >= ny:
                continue
            base = patch.first[e] + v * nx
            for u in range(max(ix + spans[k, 1], 0), min(ix + spans[k, 2], nx - 1) + 1):
                at = np.uintp(base + u)
                sample[np.uintp(n)] = patch.residual[at] - sky
                n += np.int64(patch.variance_read[at] < np.inf)
    if exposures == 0 or n < ENOUGH * MIN_SKY_PIXELS:
        return 0.0, np.nan
    level, sigma, used = clipped_mean(sample, n, 0.0, guess / exposures)
    if used == 0:
        return 0.0, np.nan
    return level, sigma / np.sqrt(used)


@kernel
def update_star_skies(patch, stars, which, spans):
    """Local sky of the stars in ``which``, all bands, into ``stars.sky`` (see `star_sky`; ``spans``: `annulus_spans`)."""
    pixels = 0
    for k in range(spans.shape[0]):
        pixels += spans[k, 2] - spans[k, 1] + 1
    sample = np.empty(patch.first.shape[0] * pixels + 1, np.float32)
    for m in range(which.shape[0]):
        k = which[m]
        for b in range(stars.flux.shape[1]):
            stars.sky[k, b], _ = star_sky(patch, stars.x[k], stars.y[k], b, spans, sample)
