"""Weighted Gauss-Newton fit of one star's position and flux (and sky) to the pixels about its peak (Anderson & King 2000).

The model of a pixel is ``flux * psi_E(pixel - position) + sky + neighbours``; the neighbours are what the image and the residual
image differ by.  Weights come from the model, evaluated again at every step, never from the observed counts: that would bias
faint fluxes low (DESIGN section 4).
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.epsf import (
    OVERSAMPLING,
    TAPS,
    blend,
    evaluate_box,
    sample_start,
    value_box,
)
from dpm.kernels.jit import kernel

MAX_HALF = 12  # largest half-width of a box: the ePSF ends there
MAX_WINDOW = OVERSAMPLING * (2 * MAX_HALF + 2) + TAPS + 2
MAX_BOX = 2 * MAX_HALF + 3

# Columns of a star's result row.
X, Y, FLUX, SKY = 0, 1, 2, 3
X_ERROR, Y_ERROR, FLUX_ERROR, XY_COVARIANCE = 4, 5, 6, 7
CHI, QFIT, QFIT_EXPECTED, RADXS, RADXS_ERROR, PEAK, N_PIXELS = 8, 9, 10, 11, 12, 13, 14
CHI_ROBUST, NEIGHBOR, SHARE = 15, 16, 17
RESULT_SIZE = 18

# Entries of the small record that says what a window holds.
WINDOW_ROW, WINDOW_COLUMN, WINDOW_Y, WINDOW_X, WINDOW_HALF = 0, 1, 2, 3, 4

# Outcomes of a fit.
CONVERGED, NOT_CONVERGED, FAILED = 0, 1, 2

MAX_ITERATIONS = 12
MAX_RECENTRES = 4
MAX_STEP = 0.5  # pixels a Gauss-Newton step may move the star
FIRST_TOLERANCE = 0.5  # of the error, for stars that will be fitted again
FINE_TOLERANCE = 0.05  # of the error: Gauss-Newton's next step would be a small part of it
RADXS_INNER2, RADXS_OUTER2 = 1.0, 6.25  # squared radii of the ring of RADXS, pixels (DESIGN section 4)
CHI_MODEL_ERROR = 0.05  # of the light, allowed as ePSF error where a fit is judged star or not
MEAN_ABSOLUTE_NORMAL = 0.7978845608028654  # sqrt(2 / pi)


@kernel
def load_window(coefficients, node_x, node_y, x_origin, y_origin, iy, ix, half, window, held):
    """Blend the ePSF for a star whose peak pixel is (iy, ix), for boxes up to half-width ``half`` about it.

    The blend is that of the peak pixel's centre, so it stays the same while the star moves inside its pixel.  The window leaves
    room for the star to be up to one pixel off the centre.

    Parameters
    ----------
    held : ndarray (5,), int64
        Filled: what the window now holds (WINDOW_ROW ...).
    """
    start, _ = sample_start(-half - 1.0)
    first = max(start, 0)
    count = min(OVERSAMPLING * (2 * half + 2) + TAPS + 1, coefficients.shape[2] - first)
    blend(coefficients, node_x, node_y, ix + x_origin, iy + y_origin, (first, first), count, count, window)
    held[WINDOW_ROW] = first
    held[WINDOW_COLUMN] = first
    held[WINDOW_Y] = iy
    held[WINDOW_X] = ix
    held[WINDOW_HALF] = half


@kernel
def star_values(window, held, x, y, half, value, scratch):
    """psi of a star at (x, y) on the box of half-width ``half`` about the window's peak pixel."""
    start_y, phase_y = sample_start(held[WINDOW_Y] - half - y)
    start_x, phase_x = sample_start(held[WINDOW_X] - half - x)
    side = 2 * half + 1
    value_box(window, held[WINDOW_ROW], held[WINDOW_COLUMN], start_y, start_x, phase_y, phase_x, side, side, value, scratch)


@kernel
def add_star(image, coefficients, node_x, node_y, x_origin, y_origin, x, y, flux, half, window, held, value, scratch):
    """Add a star of ``flux`` at (x, y) to the image (subtract it with a negative flux) within ``half`` pixels of its peak pixel."""
    ny, nx = image.shape
    iy = int(np.floor(y + 0.5))
    ix = int(np.floor(x + 0.5))
    load_window(coefficients, node_x, node_y, x_origin, y_origin, iy, ix, half, window, held)
    star_values(window, held, x, y, half, value, scratch)
    f = np.float32(flux)
    for j in range(max(half - iy, 0), min(2 * half + 1, ny - iy + half)):
        row = image[iy - half + j]
        for i in range(max(half - ix, 0), min(2 * half + 1, nx - ix + half)):
            row[ix - half + i] += f * value[j, i]


@kernel
def replace_star(
    residual, coefficients, node_x, node_y, x_origin, y_origin, x_old, y_old, flux_old, half_old, x, y, flux, half,
    window, held, old_value, value, scratch,
):
    """In the residual image, give back a star's old light and take its new light away.

    ``window``, ``held``, ``old_value`` (psi at the old position, half-width half_old) and ``value`` (psi at the new one, half-width
    of the window) are as `fit_star` left them; where the peak pixel changed or the box grew, both are evaluated afresh.
    """
    iy = int(np.floor(y + 0.5))
    ix = int(np.floor(x + 0.5))
    held_half = held[WINDOW_HALF]
    same = iy == held[WINDOW_Y] and ix == held[WINDOW_X] and half <= held_half
    same = same and iy == int(np.floor(y_old + 0.5)) and ix == int(np.floor(x_old + 0.5)) and half_old <= held_half
    if not same:
        add_star(residual, coefficients, node_x, node_y, x_origin, y_origin, x_old, y_old, flux_old, half_old, window, held, value, scratch)
        add_star(residual, coefficients, node_x, node_y, x_origin, y_origin, x, y, -flux, half, window, held, value, scratch)
        return
    ny, nx = residual.shape
    f_old = np.float32(flux_old)
    f_new = np.float32(flux)
    shift = held_half - half
    for j in range(max(half_old - iy, 0), min(2 * half_old + 1, ny - iy + half_old)):
        row = residual[iy - half_old + j]
        for i in range(max(half_old - ix, 0), min(2 * half_old + 1, nx - ix + half_old)):
            row[ix - half_old + i] += f_old * old_value[j, i]
    for j in range(max(half - iy, 0), min(2 * half + 1, ny - iy + half)):
        row = residual[iy - half + j]
        for i in range(max(half - ix, 0), min(2 * half + 1, nx - ix + half)):
            row[ix - half + i] -= f_new * value[j + shift, i + shift]


@kernel
def solve_symmetric(matrix, n, inverse):
    """Inverse of a small positive definite matrix by Cholesky; False if it is singular."""
    lower = np.zeros((4, 4))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if not total > 1e-14 * abs(matrix[i, i]):
                    return False
                lower[i, i] = np.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    for column in range(n):
        z = np.zeros(4)
        for i in range(n):
            total = 1.0 if i == column else 0.0
            for k in range(i):
                total -= lower[i, k] * z[k]
            z[i] = total / lower[i, i]
        for i in range(n - 1, -1, -1):
            total = z[i]
            for k in range(i + 1, n):
                total -= lower[k, i] * inverse[k, column]
            inverse[i, column] = total / lower[i, i]
    return True


@kernel
def gather_pixels(residual, scene, good, variance_read, poisson_factor, flat_variance, iy, ix, outer, flux_old, old_value, shift_y, shift_x,
                  half_old, pixels):
    """Copy the box about (iy, ix): pixels[0] without other stars, [1] their light, [2:5] the noise planes; no weight is infinite [2].

    The star's own old light (psi ``old_value`` on a box of half_old about a pixel (shift_y, shift_x) away) is put back.
    """
    ny, nx = residual.shape
    side = 2 * outer + 1
    for j in range(side):
        v = iy - outer + j
        for i in range(side):
            u = ix - outer + i
            if 0 <= v < ny and 0 <= u < nx and good[v, u]:
                pixels[0, j, i] = residual[v, u]
                pixels[1, j, i] = scene[v, u]
                pixels[2, j, i] = variance_read[v, u]
                pixels[3, j, i] = poisson_factor[v, u]
                pixels[4, j, i] = flat_variance[v, u]
            else:
                pixels[0, j, i] = 0.0
                pixels[1, j, i] = 0.0
                pixels[2, j, i] = np.inf
                pixels[3, j, i] = 0.0
                pixels[4, j, i] = 0.0
    if flux_old != 0.0:
        f = np.float32(flux_old)
        for j in range(max(outer - half_old - shift_y, 0), min(side, outer + half_old - shift_y + 1)):
            jo = j - outer + half_old + shift_y
            for i in range(max(outer - half_old - shift_x, 0), min(side, outer + half_old - shift_x + 1)):
                pixels[0, j, i] += f * old_value[jo, i - outer + half_old + shift_x]
    for j in range(side):
        for i in range(side):
            pixels[1, j, i] = max(pixels[1, j, i] - pixels[0, j, i], np.float32(0.0))


@kernel
def normal_equations(pixels, margin, side, value, slope_x, slope_y, flux, sky, model_error2, normal, gradient):
    """Weighted normal matrix and gradient in (x, y, flux, sky) on the inner box; returns the number of pixels with weight."""
    n00 = n10 = n11 = n20 = n21 = n22 = n30 = n31 = n32 = n33 = 0.0
    b0 = b1 = b2 = b3 = 0.0
    used = 0
    for j in range(side):
        for i in range(side):
            read = np.float64(pixels[2, j + margin, i + margin])
            if read == np.inf:
                continue
            used += 1
            psi = np.float64(value[j, i])
            star = flux * psi
            light = max(star + sky + pixels[1, j + margin, i + margin], 0.0)
            weight = 1.0 / (
                read + pixels[3, j + margin, i + margin] * light + pixels[4, j + margin, i + margin] * light * light + model_error2 * star * star
            )
            g0 = flux * slope_x[j, i]
            g1 = flux * slope_y[j, i]
            wr = weight * (pixels[0, j + margin, i + margin] - sky - star)
            w0 = weight * g0
            w1 = weight * g1
            w2 = weight * psi
            b0 += wr * g0
            b1 += wr * g1
            b2 += wr * psi
            b3 += wr
            n00 += w0 * g0
            n10 += w1 * g0
            n11 += w1 * g1
            n20 += w2 * g0
            n21 += w2 * g1
            n22 += w2 * psi
            n30 += w0
            n31 += w1
            n32 += w2
            n33 += weight
    normal[0, 0], normal[1, 0], normal[1, 1], normal[2, 0], normal[2, 1] = n00, n10, n11, n20, n21
    normal[2, 2], normal[3, 0], normal[3, 1], normal[3, 2], normal[3, 3] = n22, n30, n31, n32, n33
    gradient[0], gradient[1], gradient[2], gradient[3] = b0, b1, b2, b3
    return used


@kernel
def fit_star(
    residual, scene, good, variance_read, poisson_factor, flat_variance,
    coefficients, node_x, node_y, x_origin, y_origin,
    x_old, y_old, flux_old, half_old, x_start, y_start, flux_start, sky, sky_error, fit_sky, half, model_error, tolerance,
    window, held, old_value, value, slope_x, slope_y, pixels, scratch, result,
):
    """Fit one star; the rest of the scene is taken as subtracted.

    Parameters
    ----------
    residual, scene : ndarray (ny, nx), float32
        Image minus all stars (sky kept), and the image.
    good, variance_read, poisson_factor, flat_variance : ndarray (ny, nx)
        Pixels with weight, and the noise planes.
    coefficients, node_x, node_y : ndarray
        The ePSF (`dpm.kernels.epsf`).
    x_origin, y_origin : float
        Full-detector position of the arrays' first pixel.
    x_old, y_old, flux_old, half_old : float, int
        The star as it stands subtracted in ``residual`` (flux_old = 0: not subtracted), array pixels, and its box.
    x_start, y_start, flux_start : float
        Where to start.
    sky, sky_error : float
        Local sky and its error; the starting value if ``fit_sky``.
    fit_sky : bool
        Fit the sky as a fourth parameter.
    half : int
        Half-width of the fit box.
    model_error : float
        Error of the ePSF relative to the light it predicts; joins the variances as (model_error * light)^2.
    tolerance : float
        A step below this part of the errors ends the fit.
    window, held, old_value, value, slope_x, slope_y, pixels, scratch : ndarray
        Work space (`workspace`).
    result : ndarray (RESULT_SIZE,)
        Filled (columns named in this module); positions in array pixels.

    Returns
    -------
    int
        CONVERGED, NOT_CONVERGED or FAILED.
    """
    ny, nx = residual.shape
    x = x_start
    y = y_start
    flux = flux_start
    outer = min(half + 1, MAX_HALF)
    margin = outer - half
    side = 2 * half + 1
    n_par = 4 if fit_sky else 3
    normal = np.zeros((4, 4))
    inverse = np.zeros((4, 4))
    gradient = np.zeros(4)
    step = np.zeros(4)
    status = NOT_CONVERGED
    model_error2 = model_error * model_error
    iy = 0
    ix = 0
    for _ in range(MAX_RECENTRES):
        iy = int(np.floor(y + 0.5))
        ix = int(np.floor(x + 0.5))
        if iy < 0 or ix < 0 or iy >= ny or ix >= nx:
            return FAILED
        shift_y = 0
        shift_x = 0
        if flux_old != 0.0:
            shift_y = iy - int(np.floor(y_old + 0.5))
            shift_x = ix - int(np.floor(x_old + 0.5))
            if abs(shift_y) > 2 or abs(shift_x) > 2:
                return FAILED
            if shift_y != 0 or shift_x != 0:
                load_window(coefficients, node_x, node_y, x_origin, y_origin, iy - shift_y, ix - shift_x, half_old, window, held)
                star_values(window, held, x_old, y_old, half_old, old_value, scratch)
        load_window(coefficients, node_x, node_y, x_origin, y_origin, iy, ix, max(outer, half_old), window, held)
        if flux_old != 0.0 and shift_y == 0 and shift_x == 0:
            star_values(window, held, x_old, y_old, half_old, old_value, scratch)
        gather_pixels(
            residual, scene, good, variance_read, poisson_factor, flat_variance, iy, ix, outer, flux_old, old_value, shift_y, shift_x,
            half_old, pixels,
        )
        moved_out = False
        for _iteration in range(MAX_ITERATIONS):
            start_y, phase_y = sample_start(iy - half - y)
            start_x, phase_x = sample_start(ix - half - x)
            evaluate_box(
                window, held[WINDOW_ROW], held[WINDOW_COLUMN], start_y, start_x, phase_y, phase_x, side, side, value, slope_x, slope_y, scratch
            )
            used = normal_equations(pixels, margin, side, value, slope_x, slope_y, flux, sky, model_error2, normal, gradient)
            if used < n_par + 1 or not solve_symmetric(normal, n_par, inverse):
                return FAILED
            for a in range(n_par):
                total = 0.0
                for b in range(n_par):
                    total += inverse[a, b] * gradient[b]
                step[a] = total
            scale = max(abs(step[0]), abs(step[1])) / MAX_STEP
            if scale > 1.0:
                step[0] /= scale
                step[1] /= scale
            x += step[0]
            y += step[1]
            # A flux may not change sign in one step: the position would turn round with it.
            flux = max(flux + step[2], 0.1 * flux)
            if fit_sky:
                sky += step[3]
            if abs(x - x_start) > half + 1.0 or abs(y - y_start) > half + 1.0 or not np.isfinite(flux):
                return FAILED
            if abs(x - ix) > 0.7 or abs(y - iy) > 0.7:
                moved_out = True
                break
            limit = tolerance * np.sqrt(inverse[0, 0])
            if abs(step[0]) < limit and abs(step[1]) < limit and abs(step[2]) < tolerance * np.sqrt(inverse[2, 2]):
                status = CONVERGED
                break
        if not moved_out:
            break
    if abs(x - ix) > 0.95 or abs(y - iy) > 0.95:
        return FAILED
    star_values(window, held, x, y, held[WINDOW_HALF], value, scratch)
    result[X], result[Y], result[FLUX], result[SKY] = x, y, flux, sky
    # The sky's own error is common to all pixels: it moves the solution along inverse . sum(w g).
    v0 = v1 = v2 = 0.0
    if not fit_sky:
        for b in range(3):
            v0 += inverse[0, b] * normal[3, b]
            v1 += inverse[1, b] * normal[3, b]
            v2 += inverse[2, b] * normal[3, b]
    s2 = sky_error * sky_error
    result[X_ERROR] = np.sqrt(inverse[0, 0] + s2 * v0 * v0)
    result[Y_ERROR] = np.sqrt(inverse[1, 1] + s2 * v1 * v1)
    result[XY_COVARIANCE] = inverse[0, 1] + s2 * v0 * v1
    result[FLUX_ERROR] = np.sqrt(inverse[2, 2] + s2 * v2 * v2)
    assess_fit(pixels, value, held[WINDOW_HALF], iy, ix, outer, half, n_par, max(CHI_MODEL_ERROR, 3.0 * model_error), result)
    return status


@kernel
def assess_fit(pixels, value, value_half, iy, ix, outer, half, n_par, allowed_error, result):
    """Fill in chi, QFIT and its expectation, RADXS, the peak and what neighbours contribute (DESIGN section 4).

    Parameters
    ----------
    pixels : ndarray (5, side, side)
        From `gather_pixels`, half-width ``outer``.
    value : ndarray
        psi on a box of half-width ``value_half`` about the same pixel.
    allowed_error : float
        Error of the ePSF, relative to the light, that CHI_ROBUST allows for.
    """
    x, y, flux, sky = result[X], result[Y], result[FLUX], result[SKY]
    shift = value_half - outer
    chi2 = chi2_robust = absolute = expected = share = 0.0
    ring = ring_variance = neighbor = own = 0.0
    peak = -np.inf
    used = 0
    for j in range(2 * outer + 1):
        dy = iy - outer + j - y
        for i in range(2 * outer + 1):
            read = np.float64(pixels[2, j, i])
            if read == np.inf:
                continue
            psi = np.float64(value[j + shift, i + shift])
            star = flux * psi
            other = np.float64(pixels[1, j, i])
            light = max(star + sky + other, 0.0)
            variance = read + pixels[3, j, i] * light + pixels[4, j, i] * light * light
            r = pixels[0, j, i] - sky - star
            dx = ix - outer + i - x
            distance2 = dx * dx + dy * dy
            if RADXS_INNER2 <= distance2 < RADXS_OUTER2:
                ring += r
                ring_variance += variance
            if abs(j - outer) <= half and abs(i - outer) <= half:
                used += 1
                chi2 += r * r / variance
                floor = allowed_error * (star + other)
                chi2_robust += r * r / (variance + floor * floor)
                absolute += abs(r)
                expected += np.sqrt(variance)
                share += psi
                neighbor += other * psi
                own += star * psi
                peak = max(peak, pixels[0, j, i] + other)
    degrees = max(used - n_par, 1)
    result[CHI] = np.sqrt(chi2 / degrees)
    result[CHI_ROBUST] = np.sqrt(chi2_robust / degrees)
    total = flux * share
    result[QFIT] = absolute / total if total > 0.0 else np.nan
    result[QFIT_EXPECTED] = MEAN_ABSOLUTE_NORMAL * expected / total if total > 0.0 else np.nan
    result[RADXS] = ring / flux
    result[RADXS_ERROR] = np.sqrt(ring_variance) / flux
    result[PEAK] = peak
    result[N_PIXELS] = used
    result[NEIGHBOR] = neighbor / own if own > 0.0 else np.inf
    result[SHARE] = share


@kernel
def workspace():
    """Work arrays of `fit_star`: window, held, old_value, value, slope_x, slope_y, pixels, scratch."""
    box = (MAX_BOX, MAX_BOX)
    return (
        np.empty((MAX_WINDOW, MAX_WINDOW), np.float32),
        np.zeros(5, np.int64),
        np.empty(box, np.float32),
        np.empty(box, np.float32),
        np.empty(box, np.float32),
        np.empty(box, np.float32),
        np.empty((5, MAX_BOX, MAX_BOX), np.float32),
        np.empty((2, MAX_WINDOW), np.float32),
    )
