"""Halos of bright stars: cubic splines at shifted places, weighted medians over stars, and their subtraction."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel


@leaf_kernel
def cubic_taps(phase):
    """Weights of the four cubic B-splines about a place ``phase`` of a pixel after the second."""
    back = 1.0 - phase
    return (
        back * back * back / 6.0,
        (4.0 + phase * phase * (3.0 * phase - 6.0)) / 6.0,
        (4.0 + back * back * (3.0 * back - 6.0)) / 6.0,
        phase * phase * phase / 6.0,
    )


@kernel
def spline_box(coefficients, y, x, out):
    """Values of a cubic spline one pixel apart from (y, x) on.

    Parameters
    ----------
    coefficients : ndarray (n, m), float64
        Two of them about the box have to be there.
    y, x : float
        Place of the first value, in entries of ``coefficients``.
    out : ndarray (ny, nx), float64
        Filled.
    """
    ny, nx = out.shape
    iy, ix = int(np.floor(y)), int(np.floor(x))
    y0, y1, y2, y3 = cubic_taps(y - iy)
    x0, x1, x2, x3 = cubic_taps(x - ix)
    row = np.empty(nx + 3)
    one, two, three, left = np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(ix - 1)
    for j in range(np.uintp(ny)):
        v = np.uintp(iy - 1) + j
        for i in range(np.uintp(nx + 3)):
            u = left + i
            a, b, c, d = coefficients[v, u], coefficients[v + one, u], coefficients[v + two, u], coefficients[v + three, u]
            row[i] = y0 * a + y1 * b + y2 * c + y3 * d
        for i in range(np.uintp(nx)):
            out[j, i] = x0 * row[i] + x1 * row[i + one] + x2 * row[i + two] + x3 * row[i + three]


@kernel
def weighted_median(stack, weights, out):
    """Weighted median over the first axis without the NaNs: the lowest value at which half of the weight is reached.

    Parameters
    ----------
    stack : ndarray (n, ny, nx), float64
    weights : ndarray (n,), float64
    out : ndarray (ny, nx), float64
        Filled; 0 where all are NaN.
    """
    count, ny, nx = stack.shape
    value, weight = np.empty(count), np.empty(count)
    for j in range(ny):
        for i in range(nx):
            n = 0
            total = 0.0
            for k in range(count):
                v = stack[k, j, i]
                if not np.isfinite(v):
                    continue
                at = n
                while at > 0 and value[at - 1] > v:
                    value[at], weight[at] = value[at - 1], weight[at - 1]
                    at -= 1
                value[at], weight[at] = v, weights[k]
                total += weights[k]
                n += 1
            out[j, i] = 0.0
            below = 0.0
            for k in range(n):
                below += weight[k]
                if below >= 0.5 * total:
                    out[j, i] = value[k]
                    break


@kernel
def subtract_halos(sci, variance, poisson_factor, light, error, y, x, flux, reach):
    """Subtract the halo of every star, and add the variance of what was subtracted.

    Parameters
    ----------
    sci, variance : ndarray (ny, nx), float32
        Changed in place.
    poisson_factor : ndarray (ny, nx), float32
    light, error : ndarray (n, n), float64
        Spline coefficients of the halo and of its error for unit flux, the star in the middle, two zeros or more about them.
    y, x, flux : ndarray (stars,)
        Array positions.
    reach : ndarray (stars,), int
        Half-width of the box in which the halo is subtracted; 0: none.
    """
    ny, nx = sci.shape
    middle = light.shape[0] // 2
    for k in range(y.shape[0]):
        yc, xc, half = int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5)), reach[k]
        y0, y1, x0, x1 = max(yc - half, 0), min(yc + half + 1, ny), max(xc - half, 0), min(xc + half + 1, nx)
        if half == 0 or y0 >= y1 or x0 >= x1:
            continue
        halo, wrong = np.empty((y1 - y0, x1 - x0)), np.empty((y1 - y0, x1 - x0))
        spline_box(light, y0 - y[k] + middle, x0 - x[k] + middle, halo)
        spline_box(error, y0 - y[k] + middle, x0 - x[k] + middle, wrong)
        for j in range(y1 - y0):
            for i in range(x1 - x0):
                own = flux[k] * halo[j, i]
                sci[y0 + j, x0 + i] -= np.float32(own)
                photons = poisson_factor[y0 + j, x0 + i] * max(own, 0.0)
                variance[y0 + j, x0 + i] += np.float32(photons + (flux[k] * wrong[j, i]) ** 2)
