"""Finding: matched-filter significance of an image and its local maxima."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel


@kernel
def significance_image(residual, scene, sky, variance_read, poisson_factor, good, profile, model_error, out):
    """Significance of a star centred near each pixel, in units of the noise.

    ``S = sum(p w d) / sqrt(sum(p^2 w))`` over 3 x 3 pixels, with p the ePSF averaged over the pixel phase, d the residual above
    the sky and w one over the variance: Poisson and read noise of what the model has, plus (model_error x model)^2 for the
    ePSF's own error, so that structure of bright stars does not become stars (DESIGN section 6).

    Parameters
    ----------
    residual : ndarray (ny, nx), float32
        Image minus the stars known so far, sky included.
    scene : ndarray (ny, nx), float32
        The image itself; scene - residual is the model of the stars.
    sky : ndarray (ny, nx), float32
        Sky level.
    variance_read, poisson_factor : ndarray (ny, nx), float32
        Noise planes (`dpm.models.exposure.ExposureImage`).
    good : ndarray (ny, nx), bool
        Pixels with weight.
    profile : ndarray (3, 3), float32
        Phase-averaged ePSF.
    model_error : float
        Error of the ePSF model relative to the light it predicts.
    out : ndarray (ny, nx), float32
        Filled; the outermost ring is zero.
    """
    ny, nx = residual.shape
    weighted = np.zeros((3, nx), np.float32)
    weight = np.zeros((3, nx), np.float32)
    squared = np.float32(model_error * model_error)
    p = profile
    q = profile * profile
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for x in range(nx):
        out[0, x] = zero
        out[ny - 1, x] = zero
    for y in range(ny):
        slot = y % 3
        w_row = weight[slot]
        d_row = weighted[slot]
        for x in range(nx):
            star = scene[y, x] - residual[y, x]
            star = max(star, zero)
            variance = variance_read[y, x] + poisson_factor[y, x] * max(sky[y, x] + star, zero) + squared * star * star
            w = one / variance if good[y, x] else zero
            d = (residual[y, x] - sky[y, x]) * w
            w_row[x] = w
            d_row[x] = d if good[y, x] else zero
        if y < 2:
            continue
        a, b, c = (y - 2) % 3, (y - 1) % 3, slot
        wa, wb, wc = weight[a], weight[b], weight[c]
        da, db, dc = weighted[a], weighted[b], weighted[c]
        row = out[y - 1]
        row[0] = zero
        row[nx - 1] = zero
        for x in range(1, nx - 1):
            top = (
                p[0, 0] * da[x - 1]
                + p[0, 1] * da[x]
                + p[0, 2] * da[x + 1]
                + p[1, 0] * db[x - 1]
                + p[1, 1] * db[x]
                + p[1, 2] * db[x + 1]
                + p[2, 0] * dc[x - 1]
                + p[2, 1] * dc[x]
                + p[2, 2] * dc[x + 1]
            )
            bottom = (
                q[0, 0] * wa[x - 1]
                + q[0, 1] * wa[x]
                + q[0, 2] * wa[x + 1]
                + q[1, 0] * wb[x - 1]
                + q[1, 1] * wb[x]
                + q[1, 2] * wb[x + 1]
                + q[2, 0] * wc[x - 1]
                + q[2, 1] * wc[x]
                + q[2, 2] * wc[x + 1]
            )
            row[x] = top / np.sqrt(bottom) if bottom > zero else zero


@kernel
def local_maxima(significance, threshold, rows, columns, values):
    """Pixels above a threshold that no neighbour of the 3 x 3 exceeds.

    Parameters
    ----------
    significance : ndarray (ny, nx), float32
        Image to search.
    threshold : float
        Lowest value that counts.
    rows, columns, values : ndarray
        Filled with what is found, in raster order.

    Returns
    -------
    int
        How many there are; more than the arrays hold means that the rest was not stored.
    """
    ny, nx = significance.shape
    n = 0
    limit = np.float32(threshold)
    for y in range(1, ny - 1):
        for x in range(1, nx - 1):
            s = significance[y, x]
            if s < limit:
                continue
            # Ties go to the first pixel in raster order.
            if (
                significance[y - 1, x - 1] >= s
                or significance[y - 1, x] >= s
                or significance[y - 1, x + 1] >= s
                or significance[y, x - 1] >= s
                or significance[y, x + 1] > s
                or significance[y + 1, x - 1] > s
                or significance[y + 1, x] > s
                or significance[y + 1, x + 1] > s
            ):
                continue
            if n < rows.shape[0]:
                rows[n] = y
                columns[n] = x
                values[n] = s
            n += 1
    return n
