"""Sky on a patch: a mesh of each exposure, and what lies above it at each star in all exposures of a band together."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.patch import place, sky_at
from dpm.kernels.sky import BINS, MIN_SKY_PIXELS, binned_quartiles, clipped_mean, clipped_statistics

QUIET = 0.2  # photon noise of stars over the read noise, in variance: below, a pixel counts as sky
ENOUGH = 4  # times MIN_SKY_PIXELS: below, a star's own sky is not measured


@leaf_kernel
def sample_cell(patch, start, ny, nx, y0, x0, cell, quiet, sample):
    """Residuals of a cell's pixels whose stars' photon noise is below ``quiet`` times the read variance; returns how many."""
    n = 0
    for y in range(y0, min(y0 + cell, ny)):
        for x in range(x0, min(x0 + cell, nx)):
            at = start + y * nx + x
            read = patch.variance_read[at]
            value = patch.residual[at]
            if read < np.inf and (patch.scene[at] - value) * patch.poisson_factor[at] < quiet * read:
                sample[n] = value
                n += 1
    return n


@kernel
def update_sky(patch, known):
    """Clipped level and scatter of the residuals in square cells of every exposure, into the patch's meshes.

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
                n = sample_cell(patch, start, ny, nx, j * cell, i * cell, cell, QUIET, sample)
                if n < MIN_SKY_PIXELS:
                    n = sample_cell(patch, start, ny, nx, j * cell, i * cell, cell, np.inf, sample)
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
