"""How well a fit describes its pixels: chi, QFIT and its expectation, RADXS, what neighbours contribute (DESIGN section 4).

Also the columns of a star's result row, which the fit and all that follows share.
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import leaf_kernel

# Columns of a star's result row.
X, Y, FLUX, SKY = 0, 1, 2, 3
X_ERROR, Y_ERROR, FLUX_ERROR, XY_COVARIANCE = 4, 5, 6, 7
CHI, QFIT, QFIT_EXPECTED, RADXS, RADXS_ERROR, PEAK, N_PIXELS = 8, 9, 10, 11, 12, 13, 14
CHI_ROBUST, NEIGHBOR, SHARE = 15, 16, 17
RESULT_SIZE = 18

RADXS_INNER2, RADXS_OUTER2 = 1.0, 6.25  # squared radii of the ring of RADXS, pixels (DESIGN section 4)
CHI_MODEL_ERROR = 0.05  # of the light, allowed as ePSF error where a fit is judged star or not
MEAN_ABSOLUTE_NORMAL = 0.7978845608028654  # sqrt(2 / pi)


@leaf_kernel
def model_variance(value, slope_x, slope_y, flux, inverse, fit_sky, side, variance):
    """Variance that the fit's own errors give the model in every pixel of the fit box: what it takes off the residuals there.

    Parameters
    ----------
    value, slope_x, slope_y : ndarray
        psi and its gradient on the fit box.
    flux : float
    inverse : ndarray
        Covariance of (x, y, flux, sky), the sky's only with ``fit_sky``.
    fit_sky : bool
    side : int
        Pixels along a side of the fit box.
    variance : ndarray, at least (side, side)
        Filled.
    """
    xx, yy, xy = flux * flux * inverse[0, 0], flux * flux * inverse[1, 1], 2.0 * flux * flux * inverse[1, 0]
    xf, yf, ff = 2.0 * flux * inverse[2, 0], 2.0 * flux * inverse[2, 1], inverse[2, 2]
    xs = ys = fs = ss = 0.0
    if fit_sky:
        xs, ys, fs, ss = 2.0 * flux * inverse[3, 0], 2.0 * flux * inverse[3, 1], 2.0 * inverse[3, 2], inverse[3, 3]
    for j in range(side):
        for i in range(side):
            psi, gx, gy = np.float64(value[j, i]), np.float64(slope_x[j, i]), np.float64(slope_y[j, i])
            total = gx * (xx * gx + xy * gy + xf * psi + xs) + gy * (yy * gy + yf * psi + ys)
            variance[j, i] = total + psi * (ff * psi + fs) + ss


@leaf_kernel
def assess_fit(pixels, value, value_half, iy, ix, outer, half, n_par, fitted_variance, model_error, allowed_error, result):
    """Fill in chi, QFIT and its expectation, RADXS, the peak and what neighbours contribute (DESIGN section 4).

    Parameters
    ----------
    pixels : ndarray (5, side, side)
        From `gather_pixels`, half-width ``outer``.
    value : ndarray
        psi on a box of half-width ``value_half`` about the same pixel.
    fitted_variance : ndarray
        Variance of the model in the pixels of the fit box, from the fit's covariance: without it the expected QFIT of a perfect fit
        would be 15 to 20 % too large.
    model_error : float
        Error of the ePSF, relative to the light, that the fit's weights held.
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
                absorbed = np.float64(fitted_variance[j - outer + half, i - outer + half])
                if model_error > 0.0:
                    # Where the weights held more than the noise, the fit follows its pixel less.
                    absorbed *= variance / (variance + (model_error * star) ** 2)
                expected += np.sqrt(max(variance - absorbed, 0.0))
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
