"""All stars of one exposure: fit new ones from bright to faint, and sweep over all of them with the neighbours subtracted."""

from __future__ import annotations

import numpy as np

from dpm.kernels.fit import (
    FAILED,
    FINE_TOLERANCE,
    FIRST_TOLERANCE,
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
from dpm.kernels.sky import MIN_SKY_PIXELS, annulus_sky, interpolate_mesh

MIN_RENDER_HALF = 3
TOUCH_CELL = 4  # pixels a side of the cells in which changes of the scene are counted
TOUCH_LEVEL = 0.1  # of the pixel noise: a smaller change of the light moves no neighbour
NOT_SWEPT = -1  # in star_sky_pixels
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
def touch_half(change, envelope, noise):
    """Half-width within which a change of a star's light (as a flux) is more than TOUCH_LEVEL of the noise; -1 for nowhere."""
    half = -1
    while half < MAX_HALF and change * envelope[half + 1] > TOUCH_LEVEL * noise:
        half += 1
    return half


@kernel
def touch(touched, x, y, half, amount):
    """Count a change of the scene in the cells within ``half`` pixels of (x, y)."""
    if half < 0:
        return
    ny, nx = touched.shape
    for j in range(max(int(y - half) // TOUCH_CELL, 0), min(int(y + half + 1) // TOUCH_CELL, ny - 1) + 1):
        for i in range(max(int(x - half) // TOUCH_CELL, 0), min(int(x + half + 1) // TOUCH_CELL, nx - 1) + 1):
            touched[j, i] += amount


@kernel
def changed_by_others(touched, x, y, half, own_x, own_y, own_half):
    """Has any star but this one changed the scene in the cells of its fit box?

    The star's own last change was counted within own_half pixels of (own_x, own_y).
    """
    ny, nx = touched.shape
    own_j0 = own_j1 = own_i0 = own_i1 = -1
    if own_half >= 0:
        own_j0 = max(int(own_y - own_half) // TOUCH_CELL, 0)
        own_j1 = min(int(own_y + own_half + 1) // TOUCH_CELL, ny - 1)
        own_i0 = max(int(own_x - own_half) // TOUCH_CELL, 0)
        own_i1 = min(int(own_x + own_half + 1) // TOUCH_CELL, nx - 1)
    for j in range(max(int(y - half) // TOUCH_CELL, 0), min(int(y + half + 1) // TOUCH_CELL, ny - 1) + 1):
        for i in range(max(int(x - half) // TOUCH_CELL, 0), min(int(x + half + 1) // TOUCH_CELL, nx - 1) + 1):
            own = 1 if own_j0 <= j <= own_j1 and own_i0 <= i <= own_i1 else 0
            if touched[j, i] > own:
                return True
    return False


@kernel
def fit_candidates(
    rows, columns, fluxes, halves, residual, scene, sky_image, good, variance_read, poisson_factor, flat_variance,
    coefficients, node_x, node_y, x_origin, y_origin, envelope, noise, threshold, model_error,
    min_distance, stars, star_half, star_fit_half, star_status, star_touch, n_stars, occupied, touched,
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
    star_half, star_fit_half, star_status, star_touch : ndarray (capacity,)
        Box in which each star is subtracted, its fit box, its outcome, and how far its light reaches.
    touched : ndarray, int32, changed in place
        Counts of changes of the scene in cells of TOUCH_CELL pixels.

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
            0.0, 0.0, 0.0, 0, columns[k], rows[k], fluxes[k], sky, 0.0, False, halves[k], model_error, FIRST_TOLERANCE,
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
        star_touch[n_stars] = touch_half(result[FLUX], envelope, noise)
        touch(touched, result[X], result[Y], star_touch[n_stars], 1)
        occupied[iy, ix] = n_stars + 1
        n_stars += 1
        add_star(
            residual, coefficients, node_x, node_y, x_origin, y_origin, result[X], result[Y], -result[FLUX], half,
            window, held, value, scratch,
        )
    return n_stars


@kernel
def refine_stars(
    order, residual, scene, sky_image, scatter_mesh, mesh_cell, good, variance_read, poisson_factor, flat_variance,
    coefficients, node_x, node_y, x_origin, y_origin, envelope, noise, fit_sky, model_error, sky_spans, everyone,
    stars, star_half, star_fit_half, star_status, star_touch, star_sky_rms, star_sky_pixels, touched_before, touched,
):
    """One sweep: each star again, with its sky from the annulus and all others subtracted.

    Parameters
    ----------
    order : ndarray of int
        Order of the stars, from bright to faint.
    scatter_mesh : ndarray (my, mx)
        Scatter of the sky in cells of ``mesh_cell`` pixels.
    sky_spans : ndarray (n, 3)
        Pixels of the sky annulus (`dpm.kernels.sky.annulus_spans`).
    everyone : bool
        Also fit stars that no sweep has fitted yet; otherwise only where another star changed something.
    star_touch : ndarray (capacity,), int
        How far each star's own last change reached (-1: nowhere); updated.
    touched_before, touched : ndarray, int32
        Changes of the scene since the last sweep began, and those of this sweep (filled).  A star in whose fit box no other star
        changed anything is left as it is: its fit would give the same.
    star_sky_rms, star_sky_pixels : ndarray (capacity,)
        Filled; NOT_SWEPT pixels before the first sweep; a star whose annulus has too few clean pixels takes the mesh's sky and
        gets 0 pixels.

    Notes
    -----
    A star whose fit fails keeps its last values, and its status says so.
    """
    window, held, old_value, value, slope_x, slope_y, pixels, scratch = workspace()
    result = np.empty(RESULT_SIZE)
    n_annulus = 0
    for k in range(sky_spans.shape[0]):
        n_annulus += sky_spans[k, 2] - sky_spans[k, 1] + 1
    sample = np.empty(n_annulus, np.float32)
    ny, nx = residual.shape
    for m in range(order.shape[0]):
        k = order[m]
        x = stars[k, X]
        y = stars[k, Y]
        flux = stars[k, FLUX]
        if not (everyone and star_sky_pixels[k] == NOT_SWEPT) and not (
            changed_by_others(touched_before, x, y, star_fit_half[k], x, y, star_touch[k])
            or changed_by_others(touched, x, y, star_fit_half[k], x, y, -1)
        ):
            star_touch[k] = -1
            continue
        iy = min(max(int(np.floor(y + 0.5)), 0), ny - 1)
        ix = min(max(int(np.floor(x + 0.5)), 0), nx - 1)
        scatter = interpolate_mesh(scatter_mesh, mesh_cell, iy, ix)
        sky, sky_rms, n_sky = annulus_sky(residual, good, iy, ix, sky_spans, sky_image[iy, ix], scatter, sample)
        if n_sky < MIN_SKY_PIXELS:
            sky = sky_image[iy, ix]
            sky_rms = scatter
            n_sky = 0
        sky_error = sky_rms / np.sqrt(max(n_sky, MIN_SKY_PIXELS))
        star_sky_rms[k] = sky_rms
        star_sky_pixels[k] = n_sky
        status = fit_star(
            residual, scene, good, variance_read, poisson_factor, flat_variance,
            coefficients, node_x, node_y, x_origin, y_origin,
            x, y, flux, star_half[k], x, y, flux, sky, sky_error, fit_sky, star_fit_half[k], model_error, FINE_TOLERANCE,
            window, held, old_value, value, slope_x, slope_y, pixels, scratch, result,
        )
        if status == FAILED or not result[FLUX] > 0.0:
            star_status[k] = NOT_CONVERGED
            star_touch[k] = -1
            continue
        half = max(render_half(result[FLUX], envelope, noise), star_fit_half[k])
        replace_star(
            residual, coefficients, node_x, node_y, x_origin, y_origin, x, y, flux, star_half[k], result[X], result[Y], result[FLUX], half,
            window, held, old_value, value, scratch,
        )
        # A shift changes the light by the flux times the ePSF's slope, which is about its value per pixel.
        shift = np.sqrt((result[X] - x) ** 2 + (result[Y] - y) ** 2)
        star_touch[k] = touch_half(abs(result[FLUX] - flux) + 2.0 * flux * shift, envelope, noise)
        touch(touched, result[X], result[Y], star_touch[k], 1)
        stars[k] = result
        star_half[k] = half
        star_status[k] = status


@kernel
def remove_stars(which, residual, coefficients, node_x, node_y, x_origin, y_origin, stars, star_half, envelope, noise, touched):
    """Put the light of the stars listed in ``which`` back into the residual image, and count the change."""
    window, held, _, value, _, _, _, scratch = workspace()
    for m in range(which.shape[0]):
        k = which[m]
        add_star(
            residual, coefficients, node_x, node_y, x_origin, y_origin, stars[k, X], stars[k, Y], stars[k, FLUX], star_half[k],
            window, held, value, scratch,
        )
        touch(touched, stars[k, X], stars[k, Y], touch_half(stars[k, FLUX], envelope, noise), 1)
