"""Weighted Gauss-Newton fit of one star's position and flux (and sky) to the pixels about its peak.

After Anderson & King (2000).  The model of a pixel is ``flux * psi_E(pixel - position) + sky + neighbours``; the neighbours
are what the image and the residual image differ by.  Weights come from the model, evaluated again at every step, never from the
observed counts: that would bias faint fluxes low (DESIGN section 4).
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.bundles import MAX_HALF
from dpm.kernels.epsf import evaluate_box, sample_start
from dpm.kernels.jit import leaf_kernel
from dpm.kernels.quality import (
    CHI,
    CHI_MODEL_ERROR,
    FLUX,
    FLUX_ERROR,
    N_PIXELS,
    RESULT_SIZE,
    SKY,
    X_ERROR,
    XY_COVARIANCE,
    Y_ERROR,
    X,
    Y,
    assess_fit,
    model_variance,
)
from dpm.kernels.render import FIT_PIXELS, WINDOW_COLUMN, WINDOW_HALF, WINDOW_ROW, load_window, star_values

# Outcomes of a fit.
CONVERGED, NOT_CONVERGED, FAILED = 0, 1, 2
MOVED = 3  # inside a fit only: the peak is another pixel's
MAX_ITERATIONS = 12
MAX_RECENTRES = 4
MAX_STEP = 0.5  # pixels a Gauss-Newton step may move the star
# A step below this part of the errors is the last: the next would be about a tenth as long.
FIRST_TOLERANCE = 0.5
FINE_TOLERANCE = 0.2
MAX_OFF_PEAK = 0.7  # pixels from the box's centre before the box moves on
MAX_WINDOW_OFFSET = 0.95  # pixels from the box's centre that the window has room for
MAX_SHIFT = 2  # pixels a star may move in one fit


@leaf_kernel
def invert_three(m, inverse):
    """Inverse of a positive definite 3 x 3 matrix (lower triangle given) by cofactors; False if it is singular."""
    a, b, c = m[0, 0], m[1, 1], m[2, 2]
    d, e, f = m[1, 0], m[2, 0], m[2, 1]
    c00 = b * c - f * f
    c10 = e * f - d * c
    c20 = d * f - e * b
    determinant = a * c00 + d * c10 + e * c20
    if not determinant > 1e-12 * a * b * c:
        return False
    scale = 1.0 / determinant
    inverse[0, 0] = c00 * scale
    inverse[1, 1] = (a * c - e * e) * scale
    inverse[2, 2] = (a * b - d * d) * scale
    inverse[1, 0] = inverse[0, 1] = c10 * scale
    inverse[2, 0] = inverse[0, 2] = c20 * scale
    inverse[2, 1] = inverse[1, 2] = (d * e - a * f) * scale
    return True


@leaf_kernel
def invert_four(m, inverse):
    """Inverse of a positive definite 4 x 4 matrix (lower triangle given), bordering the inverse of its first three rows."""
    if not invert_three(m, inverse):
        return False
    v0 = inverse[0, 0] * m[3, 0] + inverse[0, 1] * m[3, 1] + inverse[0, 2] * m[3, 2]
    v1 = inverse[1, 0] * m[3, 0] + inverse[1, 1] * m[3, 1] + inverse[1, 2] * m[3, 2]
    v2 = inverse[2, 0] * m[3, 0] + inverse[2, 1] * m[3, 1] + inverse[2, 2] * m[3, 2]
    rest = m[3, 3] - (m[3, 0] * v0 + m[3, 1] * v1 + m[3, 2] * v2)
    if not rest > 1e-12 * m[3, 3]:
        return False
    v = (v0, v1, v2)
    for i in range(3):
        for j in range(3):
            inverse[i, j] += v[i] * v[j] / rest
        inverse[i, 3] = inverse[3, i] = -v[i] / rest
    inverse[3, 3] = 1.0 / rest
    return True


@leaf_kernel
def gather_pixels(planes, extra, iy, ix, outer, flux_old, old_value, shift_y, shift_x, half_old, pixels):
    """Copy the box of half-width ``outer`` about (iy, ix) out of the planes.

    pixels[0] is the image without other stars, [1] their light, [2:5] the noise planes; a pixel without weight is infinite in [2].
    ``extra`` joins the read variance.
    The star's own old light (psi ``old_value`` on a box of half_old about a pixel (shift_y, shift_x) away) is put back.
    """
    # Out of the tuple once: numba counts references at every access.
    residual, scene, good, variance_read, poisson_factor, flat_variance = planes
    ny, nx = residual.shape
    more = np.float32(extra)
    side = 2 * outer + 1
    for j in range(side):
        v = iy - outer + j
        for i in range(side):
            u = ix - outer + i
            if 0 <= v < ny and 0 <= u < nx and good[v, u]:
                pixels[0, j, i] = residual[v, u]
                pixels[1, j, i] = scene[v, u]
                pixels[2, j, i] = variance_read[v, u] + more
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


@leaf_kernel
def load_star(planes, extra, library, work, iy, ix, outer, x_old, y_old, flux_old, half_old):
    """Window and pixels for a fit about (iy, ix); False if the star's old place is too far away."""
    shift_y = 0
    shift_x = 0
    if flux_old != 0.0:
        shift_y = iy - int(np.floor(y_old + 0.5))
        shift_x = ix - int(np.floor(x_old + 0.5))
        if abs(shift_y) > MAX_SHIFT or abs(shift_x) > MAX_SHIFT:
            return False
        if shift_y != 0 or shift_x != 0:
            load_window(library, work, iy - shift_y, ix - shift_x, half_old)
            star_values(work, x_old, y_old, half_old, work.old_value)
    load_window(library, work, iy, ix, max(outer, half_old))
    if flux_old != 0.0 and shift_y == 0 and shift_x == 0:
        star_values(work, x_old, y_old, half_old, work.old_value)
    gather_pixels(planes, extra, iy, ix, outer, flux_old, work.old_value, shift_y, shift_x, half_old, work.pixels)
    return True


@leaf_kernel
def normal_equations(pixels, margin, side, value, slope_x, slope_y, flux, sky, model_error2, normal, gradient):
    """Weighted normal matrix and gradient in (x, y, flux, sky) on the inner box; returns the number of pixels with weight."""
    n00 = n10 = n11 = n20 = n21 = n22 = n30 = n31 = n32 = n33 = 0.0
    b0 = b1 = b2 = b3 = 0.0
    used = 0
    shift = np.uintp(margin)
    image, other, read, poisson, flat = np.uintp(0), np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(4)
    for j in range(np.uintp(side)):
        v = j + shift
        for i in range(np.uintp(side)):
            u = i + shift
            variance = np.float64(pixels[read, v, u])
            used += np.int64(variance < np.inf)
            psi = np.float64(value[j, i])
            star = flux * psi
            light = max(star + sky + pixels[other, v, u], 0.0)
            variance += light * (pixels[poisson, v, u] + pixels[flat, v, u] * light) + model_error2 * star * star
            # A pixel of infinite variance drops out by itself.
            weight = 1.0 / variance
            wr = weight * (pixels[image, v, u] - sky - star)
            g0 = np.float64(slope_x[j, i])
            g1 = np.float64(slope_y[j, i])
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
    flux2 = flux * flux
    normal[0, 0], normal[1, 0], normal[1, 1] = flux2 * n00, flux2 * n10, flux2 * n11
    normal[2, 0], normal[2, 1], normal[2, 2] = flux * n20, flux * n21, n22
    normal[3, 0], normal[3, 1], normal[3, 2], normal[3, 3] = flux * n30, flux * n31, n32, n33
    gradient[0], gradient[1], gradient[2], gradient[3] = flux * b0, flux * b1, b2, b3
    return used


@leaf_kernel
def iterate(work, iy, ix, half, margin, start, fit_sky, model_error, tolerance, normal, inverse, position):
    """Gauss-Newton steps about one peak pixel; ``position`` holds (x, y, flux, sky) and is updated.

    Returns CONVERGED, NOT_CONVERGED (steps used up), MOVED (the peak is another pixel's) or FAILED.
    """
    side = 2 * half + 1
    n_par = 4 if fit_sky else 3
    gradient, step = work.gradient, work.step
    row, column = work.held[WINDOW_ROW], work.held[WINDOW_COLUMN]
    window, pixels, scratch = work.window, work.pixels, work.scratch
    value, slope_x, slope_y = work.value, work.slope_x, work.slope_y
    for _ in range(MAX_ITERATIONS):
        x, y, flux, sky = position[0], position[1], position[2], position[3]
        start_y, phase_y = sample_start(iy - half - y)
        start_x, phase_x = sample_start(ix - half - x)
        evaluate_box(window, row, column, start_y, start_x, phase_y, phase_x, side, side, value, slope_x, slope_y, scratch)
        used = normal_equations(pixels, margin, side, value, slope_x, slope_y, flux, sky, model_error**2, normal, gradient)
        work.held[FIT_PIXELS] = used
        if used < n_par + 1 or not (invert_four(normal, inverse) if fit_sky else invert_three(normal, inverse)):
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
        position[0] += step[0]
        position[1] += step[1]
        # A flux may not change sign in one step: the position would turn round with it.
        position[2] = max(flux + step[2], 0.1 * flux)
        if fit_sky:
            position[3] += step[3]
        far = max(abs(position[0] - start[0]), abs(position[1] - start[1])) > half + 1.0
        if far or not np.isfinite(position[2]):
            return FAILED
        if abs(position[0] - ix) > MAX_OFF_PEAK or abs(position[1] - iy) > MAX_OFF_PEAK:
            return MOVED
        limit = tolerance * np.sqrt(inverse[0, 0])
        if abs(step[0]) < limit and abs(step[1]) < limit and abs(step[2]) < tolerance * np.sqrt(inverse[2, 2]):
            return CONVERGED
    return NOT_CONVERGED


@leaf_kernel
def fit_star(
    planes, extra_variance, library, work, old, half_old, start, sky_error, fit_sky, half, model_error, tolerance, judge, result
):
    """Fit one star; the rest of the scene is taken as subtracted.

    Parameters
    ----------
    planes : Planes
        The exposure.
    extra_variance : float
        Joins the read variance.
    library : Library
        The ePSF.
    work : Work
        Work space; left ready for `dpm.kernels.render.replace_star`.
    old : tuple of float
        (x, y, flux) of the star as it stands subtracted in the residual image (flux 0: not subtracted), array pixels.
    half_old : int
        Half-width of the box in which it is subtracted.
    start : tuple of float
        (x, y, flux, sky) to start from; the sky stays unless ``fit_sky``.
    sky_error : float
        Error of the sky.
    fit_sky : bool
        Fit the sky as a fourth parameter.
    half : int
        Half-width of the fit box.
    model_error : float
        Error of the ePSF relative to the light it predicts; joins the variances as (model_error * light)^2.
    tolerance : float
        A step below this part of the errors ends the fit.
    judge : bool
        Also say how well the fit describes the pixels; otherwise those columns are NaN.
    result : ndarray (RESULT_SIZE,)
        Filled (columns named in `dpm.kernels.quality`); positions in array pixels.

    Returns
    -------
    int
        CONVERGED, NOT_CONVERGED or FAILED.
    """
    ny, nx = planes.residual.shape
    outer = min(half + 1, MAX_HALF)
    normal, inverse, position = work.normal, work.inverse, work.position
    for k in range(4):
        position[k] = start[k]
    status = MOVED
    iy = 0
    ix = 0
    for _ in range(MAX_RECENTRES):
        iy = int(np.floor(position[1] + 0.5))
        ix = int(np.floor(position[0] + 0.5))
        if iy < 0 or ix < 0 or iy >= ny or ix >= nx:
            return FAILED
        if not load_star(planes, extra_variance, library, work, iy, ix, outer, old[0], old[1], old[2], half_old):
            return FAILED
        status = iterate(work, iy, ix, half, outer - half, start, fit_sky, model_error, tolerance, normal, inverse, position)
        if status != MOVED:
            break
    if status == FAILED or max(abs(position[0] - ix), abs(position[1] - iy)) > MAX_WINDOW_OFFSET:
        return FAILED
    x, y = position[0], position[1]
    if judge:
        # From the last step's ePSF: the star moved by less than a fifth of its error since.
        side = 2 * half + 1
        model_variance(work.value, work.slope_x, work.slope_y, position[2], inverse, fit_sky, side, work.fitted_variance)
    star_values(work, x, y, work.held[WINDOW_HALF], work.value)
    result[X], result[Y], result[FLUX], result[SKY] = x, y, position[2], position[3]
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
    if judge:
        allowed = max(CHI_MODEL_ERROR, 3.0 * model_error)
        assess_fit(
            work.pixels, work.value, work.held[WINDOW_HALF], iy, ix, outer, half, 4 if fit_sky else 3, work.fitted_variance,
            model_error, allowed, result,
        )  # fmt: skip
    else:
        for k in range(CHI, RESULT_SIZE):
            result[k] = np.nan
        result[N_PIXELS] = work.held[FIT_PIXELS]
    return CONVERGED if status == CONVERGED else NOT_CONVERGED
