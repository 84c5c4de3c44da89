"""Star stamps: cut out of an image with the neighbours subtracted, and fitted again and again while the ePSF changes."""

from __future__ import annotations

import numpy as np

from dpm.kernels.fit import (
    CHI,
    FAILED,
    FINE_TOLERANCE,
    FLUX,
    SKY,
    X,
    Y,
    add_star,
    fit_star,
    workspace,
)
from dpm.kernels.jit import kernel


@kernel
def cut_stamps(residual, good, variance_read, poisson_factor, flat_variance, coefficients, node_x, node_y, x_origin, y_origin,
               rows, render, half, values, mask, read, poisson, flat):
    """Pixels about each star with its own light put back into the residual image.

    Parameters
    ----------
    residual, good, variance_read, poisson_factor, flat_variance : ndarray (ny, nx)
        Image minus all stars, and its noise planes.
    rows : ndarray (n, RESULT_SIZE)
        The stars.
    render : ndarray (n,), int
        Half-width within which each was subtracted.
    half : int
        Half-width of the stamps.
    values, mask, read, poisson, flat : ndarray (n, 2 half + 1, 2 half + 1)
        Filled; the peak pixel is at the centre.
    """
    window, held, _, value, _, _, _, scratch = workspace()
    ny, nx = residual.shape
    for k in range(rows.shape[0]):
        iy = int(np.floor(rows[k, Y] + 0.5))
        ix = int(np.floor(rows[k, X] + 0.5))
        for j in range(2 * half + 1):
            for i in range(2 * half + 1):
                v = iy - half + j
                u = ix - half + i
                inside = 0 <= v < ny and 0 <= u < nx
                mask[k, j, i] = inside and good[v, u]
                values[k, j, i] = residual[v, u] if inside else 0.0
                read[k, j, i] = variance_read[v, u] if inside else 1.0
                poisson[k, j, i] = poisson_factor[v, u] if inside else 0.0
                flat[k, j, i] = flat_variance[v, u] if inside else 0.0
        # The stamp's pixel (half, half) is the image's (iy, ix).
        add_star(
            values[k], coefficients, node_x, node_y, x_origin + ix - half, y_origin + iy - half, rows[k, X] - ix + half,
            rows[k, Y] - iy + half, rows[k, FLUX], render[k], window, held, value, scratch,
        )  # fmt: skip


@kernel
def fit_stamps(values, mask, read, poisson, flat, coefficients, node_x, node_y, centre_x, centre_y, start, results, residuals, weights):
    """Fit every stamp's star (position, flux, sky from ``start``) and give the normalised residuals.

    Parameters
    ----------
    values, mask, read, poisson, flat : ndarray (n, side, side)
        From `cut_stamps`.
    centre_x, centre_y : ndarray (n,)
        Full-detector position of the stamps' first pixel.
    start : ndarray (n, RESULT_SIZE)
        Where to start, stamp pixels; its SKY is held.
    results : ndarray (n, RESULT_SIZE)
        Filled; CHI is NaN where the fit failed.
    residuals, weights : ndarray (n, side, side)
        (pixel - sky) / flux - psi, and flux^2 / variance: inverse variance of the former; 0 for masked pixels.
    """
    window, held, old_value, value, slope_x, slope_y, pixels, scratch = workspace()
    side = values.shape[1]
    half = side // 2
    model = np.empty((side, side), np.float32)
    for k in range(values.shape[0]):
        sky = start[k, SKY]
        status = fit_star(
            values[k], values[k], mask[k], read[k], poisson[k], flat[k], coefficients, node_x, node_y, centre_x[k], centre_y[k],
            0.0, 0.0, 0.0, 0, start[k, X], start[k, Y], start[k, FLUX], sky, 0.0, False, 2, 0.0, FINE_TOLERANCE,
            window, held, old_value, value, slope_x, slope_y, pixels, scratch, results[k],
        )  # fmt: skip
        if status == FAILED:
            results[k, CHI] = np.nan
            weights[k] = 0.0
            residuals[k] = 0.0
            continue
        flux = results[k, FLUX]
        model[:] = 0.0
        add_star(
            model, coefficients, node_x, node_y, centre_x[k], centre_y[k], results[k, X], results[k, Y], 1.0, half, window, held, value, scratch
        )
        for j in range(side):
            for i in range(side):
                light = max(flux * model[j, i] + sky, 0.0)
                variance = read[k, j, i] + poisson[k, j, i] * light + flat[k, j, i] * light * light
                residuals[k, j, i] = (values[k, j, i] - sky) / flux - model[j, i]
                weights[k, j, i] = flux * flux / variance if mask[k, j, i] else 0.0
