"""Value and gradient of a gridded ePSF on a box of pixels.

The library's samples (4 a pixel) are held as quintic B-spline coefficients: on undersampled ePSFs a cubic spline through
the same samples errs by 0.05 % of the peak and more, a quintic one ten times less.  Because a pixel is a whole number of
samples, all pixels of a box share one set of spline weights, and the box is evaluated by two short separable sums.

Coefficient arrays are ``(node_y, node_x, size, size)`` float32, padded by `PADDING` zeros on every side of the 101 x 101
samples.  Node positions are 0-based raw pixels.
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import leaf_kernel

OVERSAMPLING = 4  # samples a pixel in the STDPSF format
SAMPLES = 101  # samples a side in the STDPSF format
PADDING = 12  # zeros around the samples, so that a box may overlap the border
TAPS = 6  # a quintic B-spline touches six samples


@leaf_kernel
def quintic_weights(t):
    """Weights of the six samples around a point that lies t samples (0 <= t < 1) beyond the third; float32.

    A quintic B-spline is one polynomial of the distance a to the sample below 1, one from 1 to 2, and one from 2 to 3.
    """
    u = 1.0 - t
    a, b = 1.0 + t, 1.0 + u
    t2, u2 = t * t, u * u
    return (
        np.float32(u2 * u2 * u * (1.0 / 120.0)),
        np.float32(0.425 + a * (0.625 + a * (-1.75 + a * (1.25 + a * (-0.375 + a * (1.0 / 24.0)))))),
        np.float32(0.55 + t2 * (-0.5 + t2 * (0.25 - t * (1.0 / 12.0)))),
        np.float32(0.55 + u2 * (-0.5 + u2 * (0.25 - u * (1.0 / 12.0)))),
        np.float32(0.425 + b * (0.625 + b * (-1.75 + b * (1.25 + b * (-0.375 + b * (1.0 / 24.0)))))),
        np.float32(t2 * t2 * t * (1.0 / 120.0)),
    )


@leaf_kernel
def quintic_slopes(t):
    """Derivatives of the six weights by t; float32."""
    u = 1.0 - t
    a, b = 1.0 + t, 1.0 + u
    t2, u2 = t * t, u * u
    return (
        np.float32(-u2 * u2 * (1.0 / 24.0)),
        np.float32(0.625 + a * (-3.5 + a * (3.75 + a * (-1.5 + a * (5.0 / 24.0))))),
        np.float32(t * (-1.0 + t2 * (1.0 - t * (5.0 / 12.0)))),
        np.float32(-u * (-1.0 + u2 * (1.0 - u * (5.0 / 12.0)))),
        np.float32(-0.625 - b * (-3.5 + b * (3.75 + b * (-1.5 + b * (5.0 / 24.0))))),
        np.float32(t2 * t2 * (1.0 / 24.0)),
    )


@leaf_kernel
def node_interval(nodes, position):
    """Lower node and weight of the upper one for bilinear blending; held constant outside the grid."""
    n = nodes.shape[0]
    if n == 1 or position <= nodes[0]:
        return 0, 0.0
    if position >= nodes[n - 1]:
        return max(n - 2, 0), 1.0
    k = 0
    while k < n - 2 and position >= nodes[k + 1]:
        k += 1
    width = nodes[k + 1] - nodes[k]
    if width <= 0.0:
        return k, 0.0
    return k, (position - nodes[k]) / width


@leaf_kernel
def node_interval_of(nodes, k, n, position):
    """`node_interval` among the first n nodes of row k."""
    if n == 1 or position <= nodes[k, 0]:
        return 0, 0.0
    if position >= nodes[k, n - 1]:
        return max(n - 2, 0), 1.0
    low = 0
    while low < n - 2 and position >= nodes[k, low + 1]:
        low += 1
    return low, (position - nodes[k, low]) / (nodes[k, low + 1] - nodes[k, low])


@leaf_kernel
def blend(coefficients, node_x, node_y, x, y, first, count_y, count_x, out):
    """Blend the four surrounding nodes' coefficients on a window.

    Parameters
    ----------
    coefficients : ndarray (node_y, node_x, size, size)
        Spline coefficients, padded.
    node_x, node_y : ndarray
        Node positions, 0-based raw pixels, ascending.
    x, y : float
        Position of the star on the detector, 0-based.
    first : tuple of int
        (row, column) of the window's first sample in the padded array.
    count_y, count_x : int
        Size of the window.
    out : ndarray, at least (count_y, count_x)
        Filled with the blended coefficients.
    """
    i, u = node_interval(node_x, x)
    j, v = node_interval(node_y, y)
    i1 = min(i + 1, node_x.shape[0] - 1)
    j1 = min(j + 1, node_y.shape[0] - 1)
    w00 = np.float32((1.0 - u) * (1.0 - v))
    w10 = np.float32(u * (1.0 - v))
    w01 = np.float32((1.0 - u) * v)
    w11 = np.float32(u * v)
    # Unsigned indices and no slices: numba counts the references of every slice, atomically.
    r0, c0 = np.uintp(first[0]), np.uintp(first[1])
    a, b, c, d = np.uintp(j), np.uintp(i), np.uintp(j1), np.uintp(i1)
    if i1 == i and j1 == j:
        for r in range(np.uintp(count_y)):
            for k in range(np.uintp(count_x)):
                out[r, k] = coefficients[a, b, r0 + r, c0 + k]
        return
    for r in range(np.uintp(count_y)):
        for k in range(np.uintp(count_x)):
            out[r, k] = (
                w00 * coefficients[a, b, r0 + r, c0 + k]
                + w10 * coefficients[a, d, r0 + r, c0 + k]
                + w01 * coefficients[c, b, r0 + r, c0 + k]
                + w11 * coefficients[c, d, r0 + r, c0 + k]
            )


@leaf_kernel
def sample_start(offset):
    """First of the six samples and the spline's phase for a pixel at ``offset`` (pixel minus star) pixels."""
    s = PADDING + (SAMPLES - 1) // 2 + OVERSAMPLING * offset
    base = int(np.floor(s))
    return base - 2, s - base


@leaf_kernel
def evaluate_box(window, row0, col0, start_y, start_x, phase_y, phase_x, size_y, size_x, value, slope_x, slope_y, scratch):
    """Value and gradient of the ePSF on a box of pixels from a blended window.

    Parameters
    ----------
    window : ndarray
        Blended coefficients whose first entry is sample (row0, col0) of the padded array.
    start_y, start_x : int
        First of the six samples of the box's first pixel (`sample_start`).
    phase_y, phase_x : float
        Spline phases (`sample_start`).
    size_y, size_x : int
        Pixels of the box.
    value, slope_x, slope_y : ndarray, at least (size_y, size_x)
        Filled with psi and with d(psi)/dx and d(psi)/dy by the STAR's position, per pixel.
    scratch : ndarray (2, width)
        Work space for one row, at least 4 * size_x + 2 wide.
    """
    width = np.uintp(OVERSAMPLING * (size_x - 1) + TAPS)
    step = np.uintp(OVERSAMPLING)
    c0 = np.uintp(start_x - col0)
    r0 = np.uintp(start_y - row0)
    zero, one, two, three, four, five = np.uintp(0), np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(4), np.uintp(5)
    y0, y1, y2, y3, y4, y5 = quintic_weights(phase_y)
    d0, d1, d2, d3, d4, d5 = quintic_slopes(phase_y)
    x0, x1, x2, x3, x4, x5 = quintic_weights(phase_x)
    e0, e1, e2, e3, e4, e5 = quintic_slopes(phase_x)
    scale = np.float32(-OVERSAMPLING)
    for j in range(np.uintp(size_y)):
        r = r0 + step * j
        for c in range(width):
            k = c0 + c
            a0, a1, a2 = window[r, k], window[r + one, k], window[r + two, k]
            a3, a4, a5 = window[r + three, k], window[r + four, k], window[r + five, k]
            scratch[zero, c] = y0 * a0 + y1 * a1 + y2 * a2 + y3 * a3 + y4 * a4 + y5 * a5
            scratch[one, c] = d0 * a0 + d1 * a1 + d2 * a2 + d3 * a3 + d4 * a4 + d5 * a5
        for i in range(np.uintp(size_x)):
            k = step * i
            l0, l1, l2 = scratch[zero, k], scratch[zero, k + one], scratch[zero, k + two]
            l3, l4, l5 = scratch[zero, k + three], scratch[zero, k + four], scratch[zero, k + five]
            m0, m1, m2 = scratch[one, k], scratch[one, k + one], scratch[one, k + two]
            m3, m4, m5 = scratch[one, k + three], scratch[one, k + four], scratch[one, k + five]
            value[j, i] = x0 * l0 + x1 * l1 + x2 * l2 + x3 * l3 + x4 * l4 + x5 * l5
            slope_x[j, i] = scale * (e0 * l0 + e1 * l1 + e2 * l2 + e3 * l3 + e4 * l4 + e5 * l5)
            slope_y[j, i] = scale * (x0 * m0 + x1 * m1 + x2 * m2 + x3 * m3 + x4 * m4 + x5 * m5)


@leaf_kernel
def value_box(window, row0, col0, start_y, start_x, phase_y, phase_x, size_y, size_x, value, scratch):
    """Value of the ePSF on a box of pixels; parameters as for `evaluate_box`."""
    width = np.uintp(OVERSAMPLING * (size_x - 1) + TAPS)
    step = np.uintp(OVERSAMPLING)
    c0 = np.uintp(start_x - col0)
    r0 = np.uintp(start_y - row0)
    zero, one, two, three, four, five = np.uintp(0), np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(4), np.uintp(5)
    y0, y1, y2, y3, y4, y5 = quintic_weights(phase_y)
    x0, x1, x2, x3, x4, x5 = quintic_weights(phase_x)
    for j in range(np.uintp(size_y)):
        r = r0 + step * j
        for c in range(width):
            k = c0 + c
            a0, a1, a2 = window[r, k], window[r + one, k], window[r + two, k]
            a3, a4, a5 = window[r + three, k], window[r + four, k], window[r + five, k]
            scratch[zero, c] = y0 * a0 + y1 * a1 + y2 * a2 + y3 * a3 + y4 * a4 + y5 * a5
        for i in range(np.uintp(size_x)):
            k = step * i
            l0, l1, l2 = scratch[zero, k], scratch[zero, k + one], scratch[zero, k + two]
            l3, l4, l5 = scratch[zero, k + three], scratch[zero, k + four], scratch[zero, k + five]
            value[j, i] = x0 * l0 + x1 * l1 + x2 * l2 + x3 * l3 + x4 * l4 + x5 * l5
