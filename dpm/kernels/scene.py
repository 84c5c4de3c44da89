"""All stars of one exposure: fit new ones from bright to faint, and sweep over all of them with the neighbours subtracted."""

from __future__ import annotations

import numpy as np

from dpm.kernels.fit import (
    FAILED,
    FLUX,
    FLUX_ERROR,
    MAX_HALF,
    N_PIXELS,
    NOT_CONVERGED,
    RESULT_SIZE,
    X,
    Y,
    add_star,
    fit_star,
    replace_star,
    workspace,
)
from dpm.kernels.jit import kernel
from dpm.kernels.sky import MIN_SKY_PIXELS, annulus_sky

MIN_RENDER_HALF = 3
MIN_FIT_PIXELS = 6  # position, flux and two to spare


@kernel
def render_half(flux, envelope, noise):
    """Half-width within which a star's light exceeds a tenth of the pixel noise.

    Parameters
    ----------
    flux : float
    envelope : ndarray (MAX_HALF + 2,)
        Largest ePSF value at or beyond each whole radius in pixels.
    noise : float
        Typical scatter of a sky pixel.
    """
    half = MIN_RENDER_HALF
    limit = 0.1 * noise
    while half < MAX_HALF and flux * envelope[half] > limit:
        half += 1
    return half


@kernel
def fit_candidates(
    rows, columns, fluxes, halves, residual, scene, sky_image, good, variance_read, poisson_factor, flat_variance,
    coefficients, node_x, node_y, x_origin, y_origin, envelope, noise, threshold, model_error,
    min_distance, stars, star_half, star_fit_half, star_status, n_stars, occupied,
):
    """Fit candidates in the order given and subtract those that are significant.

    Whether they are stars is not asked here: neighbours that are not subtracted yet spoil the shape.

    Parameters
    ----------
    rows, columns, fluxes, halves : ndarray (n,)
        Where to start, and the half-width of each one's fit box.
    residual : ndarray, changed in place
        Image minus the stars so far.
    occupied : ndarray (ny, nx), int32, changed in place
        One plus the index of the star whose peak pixel this is; 0 elsewhere.
    stars : ndarray (capacity, RESULT_SIZE), changed in place
        Rows n_stars onwards are filled.
    star_half, star_fit_half, star_status : ndarray (capacity,)
        Box in which each star is subtracted, its fit box, and its outcome.

    Returns
    -------
    int
        The new number of stars.
    """
    window, held, old_value, value, slope_x, slope_y, pixels, scratch = workspace()
    result = np.empty(RESULT_SIZE)
    ny, nx = residual.shape
    for k in range(rows.shape[0]):
        if n_stars >= stars.shape[0]:
            break
        sky = sky_image[min(max(int(rows[k] + 0.5), 0), ny - 1), min(max(int(columns[k] + 0.5), 0), nx - 1)]
        status = fit_star(
            residual, scene, good, variance_read, poisson_factor, flat_variance,
            coefficients, node_x, node_y, x_origin, y_origin,
            0.0, 0.0, 0.0, 0, columns[k], rows[k], fluxes[k], sky, 0.0, False, halves[k], model_error,
            window, held, old_value, value, slope_x, slope_y, pixels, scratch, result,
        )
        if status == FAILED or not result[FLUX] > threshold * result[FLUX_ERROR] or result[N_PIXELS] < MIN_FIT_PIXELS:
            continue
        # Two rows for one star would share its light.
        iy = int(np.floor(result[Y] + 0.5))
        ix = int(np.floor(result[X] + 0.5))
        if iy < 0 or ix < 0 or iy >= ny or ix >= nx:
            continue
        taken = False
        for v in range(max(iy - 1, 0), min(iy + 2, ny)):
            for u in range(max(ix - 1, 0), min(ix + 2, nx)):
                other = occupied[v, u] - 1
                if other >= 0:
                    distance2 = (stars[other, X] - result[X]) ** 2 + (stars[other, Y] - result[Y]) ** 2
                    if distance2 < min_distance * min_distance:
                        taken = True
        if taken or occupied[iy, ix] != 0:
            continue
        stars[n_stars] = result
        half = max(render_half(result[FLUX], envelope, noise), halves[k])
        star_half[n_stars] = half
        star_fit_half[n_stars] = halves[k]
        star_status[n_stars] = status
        occupied[iy, ix] = n_stars + 1
        n_stars += 1
        add_star(
            residual, coefficients, node_x, node_y, x_origin, y_origin, result[X], result[Y], -result[FLUX], half,
            window, held, value, scratch,
        )
    return n_stars


@kernel
def refine_stars(
    order, residual, scene, sky_image, scatter_image, good, variance_read, poisson_factor, flat_variance,
    coefficients, node_x, node_y, x_origin, y_origin, envelope, noise, fit_sky, model_error, sky_offsets,
    stars, star_half, star_fit_half, star_status, star_sky_rms, star_sky_pixels,
):
    """One sweep: each star again, with its sky from the annulus and all others subtracted.

    Parameters
    ----------
    order : ndarray of int
        Order of the stars, from bright to faint.
    sky_offsets : ndarray (n, 2)
        Pixels of the sky annulus (`dpm.kernels.sky.annulus_offsets`).
    star_sky_rms, star_sky_pixels : ndarray (capacity,)
        Filled; a star whose annulus has too few clean pixels takes the mesh's sky and gets 0 pixels.

    Notes
    -----
    A star whose fit fails keeps its last values, and its status says so.
    """
    window, held, old_value, value, slope_x, slope_y, pixels, scratch = workspace()
    result = np.empty(RESULT_SIZE)
    sample = np.empty(sky_offsets.shape[0], np.float32)
    ny, nx = residual.shape
    for m in range(order.shape[0]):
        k = order[m]
        x = stars[k, X]
        y = stars[k, Y]
        flux = stars[k, FLUX]
        iy = min(max(int(np.floor(y + 0.5)), 0), ny - 1)
        ix = min(max(int(np.floor(x + 0.5)), 0), nx - 1)
        sky, sky_rms, n_sky = annulus_sky(residual, good, iy, ix, sky_offsets, sky_image[iy, ix], scatter_image[iy, ix], sample)
        if n_sky < MIN_SKY_PIXELS:
            sky = sky_image[iy, ix]
            sky_rms = scatter_image[iy, ix]
            n_sky = 0
        sky_error = sky_rms / np.sqrt(max(n_sky, MIN_SKY_PIXELS))
        star_sky_rms[k] = sky_rms
        star_sky_pixels[k] = n_sky
        status = fit_star(
            residual, scene, good, variance_read, poisson_factor, flat_variance,
            coefficients, node_x, node_y, x_origin, y_origin,
            x, y, flux, star_half[k], x, y, flux, sky, sky_error, fit_sky, star_fit_half[k], model_error,
            window, held, old_value, value, slope_x, slope_y, pixels, scratch, result,
        )
        if status == FAILED or not result[FLUX] > 0.0:
            star_status[k] = NOT_CONVERGED
            continue
        half = max(render_half(result[FLUX], envelope, noise), star_fit_half[k])
        replace_star(
            residual, coefficients, node_x, node_y, x_origin, y_origin, x, y, flux, star_half[k], result[X], result[Y], result[FLUX], half,
            window, held, old_value, value, scratch,
        )
        stars[k] = result
        star_half[k] = half
        star_status[k] = status


@kernel
def remove_stars(which, residual, coefficients, node_x, node_y, x_origin, y_origin, stars, star_half):
    """Put the light of the stars listed in ``which`` back into the residual image."""
    window, held, _, value, _, _, _, scratch = workspace()
    for m in range(which.shape[0]):
        k = which[m]
        add_star(
            residual, coefficients, node_x, node_y, x_origin, y_origin, stars[k, X], stars[k, Y], stars[k, FLUX], star_half[k],
            window, held, value, scratch,
        )
