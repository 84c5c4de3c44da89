"""Finding: local maxima of the matched-filter significance of an image."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.sky import mesh_row

# Rows kept of each: the filter and the comparison with neighbours are three rows high.
KEPT_ROWS = 3


@leaf_kernel
def weigh_row(residual, scene, sky, extra, variance_read, poisson_factor, good, squared_error, y, weight, weighted):
    """Weights of the pixels of row y, and weights times light above the sky, into row y % KEPT_ROWS of the buffers."""
    zero = np.float32(0.0)
    one = np.float32(1.0)
    v = np.uintp(y)
    slot = np.uintp(y % KEPT_ROWS)
    for x in range(np.uintp(residual.shape[1])):
        value = residual[v, x]
        star = max(scene[v, x] - value, zero)
        counted = poisson_factor[v, x] * max(sky[x] + star, zero)
        w = one / (variance_read[v, x] + extra[x] + counted + squared_error * star * star)
        w = w if good[v, x] else zero
        d = (value - sky[x]) * w
        weight[slot, x] = w
        weighted[slot, x] = d if good[v, x] else zero


@leaf_kernel
def significance_row(weight, weighted, p, y, significance):
    """Significance of a star centred near each pixel of row y, from the three rows about it; into row y % KEPT_ROWS."""
    a, b, c = np.uintp((y - 1) % KEPT_ROWS), np.uintp(y % KEPT_ROWS), np.uintp((y + 1) % KEPT_ROWS)
    one, two = np.uintp(1), np.uintp(2)
    zero = np.float32(0.0)
    p00, p01, p02, p10, p11, p12 = p[0, 0], p[0, 1], p[0, 2], p[1, 0], p[1, 1], p[1, 2]
    p20, p21, p22 = p[2, 0], p[2, 1], p[2, 2]
    q00, q01, q02, q10, q11, q12 = p00 * p00, p01 * p01, p02 * p02, p10 * p10, p11 * p11, p12 * p12
    q20, q21, q22 = p20 * p20, p21 * p21, p22 * p22
    for k in range(np.uintp(weight.shape[1] - 2)):
        m, n = k + one, k + two
        top = (
            p00 * weighted[a, k]
            + p01 * weighted[a, m]
            + p02 * weighted[a, n]
            + p10 * weighted[b, k]
            + p11 * weighted[b, m]
            + p12 * weighted[b, n]
            + p20 * weighted[c, k]
            + p21 * weighted[c, m]
            + p22 * weighted[c, n]
        )
        bottom = (
            q00 * weight[a, k]
            + q01 * weight[a, m]
            + q02 * weight[a, n]
            + q10 * weight[b, k]
            + q11 * weight[b, m]
            + q12 * weight[b, n]
            + q20 * weight[c, k]
            + q21 * weight[c, m]
            + q22 * weight[c, n]
        )
        s = top / np.sqrt(bottom)
        significance[b, m] = s if bottom > zero else zero


@leaf_kernel
def maxima_of_row(significance, residual, y, limit, rows, columns, values, peaks, n):
    """Append the local maxima of row y that reach the limit; returns the new number."""
    a, b, c = np.uintp((y - 1) % KEPT_ROWS), np.uintp(y % KEPT_ROWS), np.uintp((y + 1) % KEPT_ROWS)
    one = np.uintp(1)
    for x in range(one, np.uintp(significance.shape[1] - 1)):
        s = significance[b, x]
        if s < limit:
            continue
        l, r = x - one, x + one
        # Ties go to the first pixel in raster order.
        if (
            significance[a, l] >= s
            or significance[a, x] >= s
            or significance[a, r] >= s
            or significance[b, l] >= s
            or significance[b, r] > s
            or significance[c, l] > s
            or significance[c, x] > s
            or significance[c, r] > s
        ):
            continue
        if n < rows.shape[0]:
            rows[n] = y
            columns[n] = x
            values[n] = s
            # The peak pixel itself may have no weight.
            peak = residual[y, x]
            for v in range(np.uintp(y - 1), np.uintp(y + 2)):
                peak = max(peak, residual[v, l], residual[v, x], residual[v, r])
            peaks[n] = peak
        n += 1
    return n


@kernel
def find_peaks(
    residual, scene, level, excess, cell, variance_read, poisson_factor, good, profile, model_error, threshold,
    rows, columns, values, peaks,
):
    """Pixels where the significance of a star is above a threshold and no neighbour of the 3 x 3 exceeds it.

    The significance is ``sum(p w d) / sqrt(sum(p^2 w))`` over 3 x 3 pixels, with p the ePSF averaged over the pixel phase, d the
    residual above the sky and w one over the variance: Poisson and read noise of what the model has, plus (model_error x
    model)^2 for the ePSF's own error, so that structure of bright stars does not become stars (DESIGN section 6).

    Parameters
    ----------
    residual : ndarray (ny, nx), float32
        Image minus the stars known so far, sky included.
    scene : ndarray (ny, nx), float32
        The image itself; scene - residual is the model of the stars.
    level, excess : ndarray (my, mx), float32
        Meshes of the sky and of what the read variance lacks, in cells of ``cell`` pixels.
    cell : int
    variance_read, poisson_factor : ndarray (ny, nx), float32
        Noise planes (`dpm.models.exposure.ExposureImage`).
    good : ndarray (ny, nx), bool
        Pixels with weight.
    profile : ndarray (3, 3), float32
        Phase-averaged ePSF.
    model_error : float
        Error of the ePSF model relative to the light it predicts.
    threshold : float
        Lowest significance that counts.
    rows, columns, values : ndarray (capacity,)
        Filled with what is found, in raster order; the outermost ring of pixels is not searched.
    peaks : ndarray (capacity,)
        Filled with the brightest of the 3 x 3 pixels of ``residual`` there.

    Returns
    -------
    int
        How many there are; more than the arrays hold means that the rest was not stored.
    """
    ny, nx = residual.shape
    weight = np.zeros((KEPT_ROWS, nx), np.float32)
    weighted = np.zeros((KEPT_ROWS, nx), np.float32)
    significance = np.zeros((KEPT_ROWS, nx), np.float32)
    sky = np.empty(nx, np.float32)
    extra = np.zeros(nx, np.float32)
    squared = np.float32(model_error * model_error)
    limit = np.float32(threshold)
    raised = excess.max() > 0.0
    n = 0
    for y in range(ny):
        mesh_row(level, cell, y, sky)
        if raised:
            mesh_row(excess, cell, y, extra)
        weigh_row(residual, scene, sky, extra, variance_read, poisson_factor, good, squared, y, weight, weighted)
        if y >= 2:
            significance_row(weight, weighted, profile, y - 1, significance)
        if y >= 3:
            n = maxima_of_row(significance, residual, y - 2, limit, rows, columns, values, peaks, n)
    if ny >= 3:
        # The last row, never filtered, is below every star.
        significance[(ny - 1) % KEPT_ROWS] = 0.0
        n = maxima_of_row(significance, residual, ny - 2, limit, rows, columns, values, peaks, n)
    return n
