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
CHI_ROBUST, NEIGHBOR, SHARE, CENTER_EXCESS = 15, 16, 17, 18
RESULT_SIZE = 19

# Outcomes of a fit.
CONVERGED, NOT_CONVERGED, FAILED = 0, 1, 2

MAX_ITERATIONS = 12
MAX_RECENTRES = 4
MAX_STEP = 0.5  # pixels a Gauss-Newton step may move the star
STEP_TOLERANCE = 0.01  # of the position's error: further steps change nothing that matters
MEAN_ABSOLUTE_NORMAL = 0.7978845608028654  # sqrt(2 / pi)


@kernel
def load_window(coefficients, node_x, node_y, detector_x, detector_y, iy, ix, y, x, half, window):
    """Blend the ePSF for a box of half-width ``half`` about (iy, ix); returns the window's first sample (row, column).

    The window leaves room for the star to move by one pixel either way.
    """
    start_y, _ = sample_start(iy - half - y)
    start_x, _ = sample_start(ix - half - x)
    row0 = max(start_y - OVERSAMPLING, 0)
    col0 = max(start_x - OVERSAMPLING, 0)
    count = OVERSAMPLING * (2 * half + 2) + TAPS + 1
    size = coefficients.shape[2]
    blend(
        coefficients, node_x, node_y, detector_x, detector_y, (row0, col0), min(count, size - row0), min(count, size - col0), window
    )
    return row0, col0


@kernel
def add_star(image, coefficients, node_x, node_y, x_origin, y_origin, x, y, flux, half, window, value, scratch):
    """Add a star of ``flux`` at (x, y) to the image (subtract it with a negative flux) within ``half`` pixels of its peak pixel."""
    ny, nx = image.shape
    iy = int(np.floor(y + 0.5))
    ix = int(np.floor(x + 0.5))
    row0, col0 = load_window(coefficients, node_x, node_y, x + x_origin, y + y_origin, iy, ix, y, x, half, window)
    start_y, phase_y = sample_start(iy - half - y)
    start_x, phase_x = sample_start(ix - half - x)
    side = 2 * half + 1
    value_box(window, row0, col0, start_y, start_x, phase_y, phase_x, side, side, value, scratch)
    f = np.float32(flux)
    x_first = max(ix - half, 0)
    x_last = min(ix + half, nx - 1)
    for j in range(side):
        v = iy - half + j
        if v < 0 or v >= ny:
            continue
        shift = ix - half
        for u in range(x_first, x_last + 1):
            image[v, u] += f * value[j, u - shift]


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
def fit_star(
    residual, scene, good, variance_read, poisson_factor, flat_variance,
    coefficients, node_x, node_y, x_origin, y_origin,
    x_old, y_old, flux_old, x_start, y_start, flux_start, sky, sky_error, fit_sky, half, old_half, model_error,
    window, value, slope_x, slope_y, data, others, scratch, result,
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
    x_old, y_old, flux_old : float
        The star as it stands subtracted in ``residual`` (flux_old = 0: not subtracted), array pixels.
    x_start, y_start, flux_start : float
        Where to start.
    sky, sky_error : float
        Local sky and its error; the starting value if ``fit_sky``.
    fit_sky : bool
        Fit the sky as a fourth parameter.
    half, old_half : int
        Half-width of the fit box, and of the box in which the star was subtracted.
    model_error : float
        Error of the ePSF relative to the light it predicts; joins the variances as (model_error * light)^2.
    window, value, slope_x, slope_y, data, others, scratch : ndarray
        Work space: (MAX_WINDOW, MAX_WINDOW), five of (MAX_BOX, MAX_BOX), (2, MAX_WINDOW); all float32.
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
    n_par = 4 if fit_sky else 3
    normal = np.zeros((4, 4))
    inverse = np.zeros((4, 4))
    gradient = np.zeros(4)
    step = np.zeros(4)
    g = np.zeros(4)
    status = NOT_CONVERGED
    model_error2 = model_error * model_error
    row0 = 0
    col0 = 0
    iy = 0
    ix = 0
    n_used = 0
    for _ in range(MAX_RECENTRES):
        iy = int(np.floor(y + 0.5))
        ix = int(np.floor(x + 0.5))
        if iy < 0 or ix < 0 or iy >= ny or ix >= nx:
            return FAILED
        side = 2 * outer + 1
        # What the pixels hold without the neighbours: the residual plus this star's own old light.
        for j in range(side):
            v = iy - outer + j
            for i in range(side):
                u = ix - outer + i
                inside = 0 <= v < ny and 0 <= u < nx
                data[j, i] = residual[v, u] if inside else np.float32(0.0)
        if flux_old != 0.0:
            shift_y = iy - int(np.floor(y_old + 0.5))
            shift_x = ix - int(np.floor(x_old + 0.5))
            if abs(shift_y) > 1 or abs(shift_x) > 1:
                return FAILED
            row0, col0 = load_window(
                coefficients, node_x, node_y, x_old + x_origin, y_old + y_origin, iy - shift_y, ix - shift_x, y_old, x_old,
                old_half, window,
            )
            start_y, phase_y = sample_start(iy - shift_y - old_half - y_old)
            start_x, phase_x = sample_start(ix - shift_x - old_half - x_old)
            value_box(
                window, row0, col0, start_y, start_x, phase_y, phase_x, 2 * old_half + 1, 2 * old_half + 1, value, scratch
            )
            for j in range(side):
                jo = j - outer + shift_y + old_half
                if jo < 0 or jo > 2 * old_half:
                    continue
                for i in range(side):
                    io = i - outer + shift_x + old_half
                    if 0 <= io <= 2 * old_half:
                        data[j, i] += np.float32(flux_old) * value[jo, io]
        for j in range(side):
            v = iy - outer + j
            for i in range(side):
                u = ix - outer + i
                inside = 0 <= v < ny and 0 <= u < nx
                others[j, i] = max(scene[v, u] - data[j, i], np.float32(0.0)) if inside and good[v, u] else np.float32(0.0)
        row0, col0 = load_window(coefficients, node_x, node_y, x + x_origin, y + y_origin, iy, ix, y, x, outer, window)
        moved_out = False
        margin = outer - half
        for _iteration in range(MAX_ITERATIONS):
            start_y, phase_y = sample_start(iy - half - y)
            start_x, phase_x = sample_start(ix - half - x)
            side = 2 * half + 1
            evaluate_box(
                window, row0, col0, start_y, start_x, phase_y, phase_x, side, side, value, slope_x, slope_y, scratch
            )
            normal[:] = 0.0
            gradient[:] = 0.0
            n_used = 0
            for j in range(side):
                v = iy - half + j
                if v < 0 or v >= ny:
                    continue
                for i in range(side):
                    u = ix - half + i
                    if u < 0 or u >= nx or not good[v, u]:
                        continue
                    n_used += 1
                    psi = np.float64(value[j, i])
                    star = flux * psi
                    light = max(star + sky + others[j + margin, i + margin], 0.0)
                    weight = 1.0 / (
                        variance_read[v, u] + poisson_factor[v, u] * light + flat_variance[v, u] * light * light
                        + model_error2 * star * star
                    )
                    g0 = flux * slope_x[j, i]
                    g1 = flux * slope_y[j, i]
                    r = data[j + margin, i + margin] - sky - star
                    wr = weight * r
                    gradient[0] += wr * g0
                    gradient[1] += wr * g1
                    gradient[2] += wr * psi
                    gradient[3] += wr
                    normal[0, 0] += weight * g0 * g0
                    normal[1, 0] += weight * g1 * g0
                    normal[1, 1] += weight * g1 * g1
                    normal[2, 0] += weight * psi * g0
                    normal[2, 1] += weight * psi * g1
                    normal[2, 2] += weight * psi * psi
                    normal[3, 0] += weight * g0
                    normal[3, 1] += weight * g1
                    normal[3, 2] += weight * psi
                    normal[3, 3] += weight
            if n_used < n_par + 1:
                return FAILED
            if not solve_symmetric(normal, n_par, inverse):
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
            tolerance = STEP_TOLERANCE * np.sqrt(inverse[0, 0])
            if (
                abs(step[0]) < tolerance and abs(step[1]) < tolerance
                and abs(step[2]) < STEP_TOLERANCE * np.sqrt(inverse[2, 2])
            ):
                status = CONVERGED
                break
        if not moved_out:
            break
    if abs(x - ix) > 0.95 or abs(y - iy) > 0.95:
        return FAILED

    # Quality of the fit, on the box one pixel wider.
    start_y, phase_y = sample_start(iy - outer - y)
    start_x, phase_x = sample_start(ix - outer - x)
    side = 2 * outer + 1
    value_box(window, row0, col0, start_y, start_x, phase_y, phase_x, side, side, value, scratch)
    chi2 = 0.0
    chi2_robust = 0.0
    absolute = 0.0
    expected = 0.0
    light_fraction = 0.0
    ring = 0.0
    ring_variance = 0.0
    peak = -np.inf
    neighbor = 0.0
    own = 0.0
    n_used = 0
    center_excess = 0.0
    center_variance = 0.0
    center_light = 0.0
    sky_sum_0 = 0.0
    for j in range(side):
        v = iy - outer + j
        if v < 0 or v >= ny:
            continue
        for i in range(side):
            u = ix - outer + i
            if u < 0 or u >= nx or not good[v, u]:
                continue
            psi = np.float64(value[j, i])
            star = flux * psi
            light = max(star + sky + others[j, i], 0.0)
            variance = variance_read[v, u] + poisson_factor[v, u] * light + flat_variance[v, u] * light * light
            r = data[j, i] - sky - star
            distance2 = (u - x) ** 2 + (v - y) ** 2
            if 1.0 <= distance2 < 6.25:
                ring += r
                ring_variance += variance
            if distance2 < 1.0:
                center_excess += r
                center_variance += variance
                center_light += star
            if abs(j - outer) <= half and abs(i - outer) <= half:
                n_used += 1
                chi2 += r * r / variance
                floor = star + others[j, i]
                chi2_robust += r * r / (variance + 0.0025 * floor * floor)
                absolute += abs(r)
                expected += np.sqrt(variance)
                light_fraction += psi
                neighbor += others[j, i] * psi
                own += star * psi
                sky_sum_0 += 1.0
                if scene[v, u] > peak:
                    peak = scene[v, u]
    degrees = max(n_used - n_par, 1)
    result[X] = x
    result[Y] = y
    result[FLUX] = flux
    result[SKY] = sky
    # The sky's own error is common to all pixels: it moves the solution along inverse . sum(w g).
    v0 = 0.0
    v1 = 0.0
    v2 = 0.0
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
    result[CHI] = np.sqrt(chi2 / degrees)
    result[CHI_ROBUST] = np.sqrt(chi2_robust / degrees)
    total = flux * light_fraction
    if total > 0.0:
        result[QFIT] = absolute / total
        result[QFIT_EXPECTED] = MEAN_ABSOLUTE_NORMAL * expected / total
    else:
        result[QFIT] = np.nan
        result[QFIT_EXPECTED] = np.nan
    result[RADXS] = ring / flux
    result[RADXS_ERROR] = np.sqrt(ring_variance) / flux
    result[CENTER_EXCESS] = center_excess / np.sqrt(center_variance) if center_variance > 0.0 else 0.0
    result[PEAK] = peak
    result[N_PIXELS] = n_used
    result[NEIGHBOR] = max(neighbor, 0.0) / own if own > 0.0 else np.inf
    result[SHARE] = light_fraction
    return status
