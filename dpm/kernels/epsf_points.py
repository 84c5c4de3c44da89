"""The ePSF's value and gradient at single offsets, for tests, plots and simulations of single stars."""

from __future__ import annotations

import numpy as np

from dpm.kernels.epsf import OVERSAMPLING, PADDING, SAMPLES, TAPS, blend, quintic_slopes, quintic_weights, sample_start
from dpm.kernels.jit import kernel


@kernel
def evaluate_points(coefficients, node_x, node_y, x, y, dx, dy, out):
    """Value, d/dx and d/dy (by the star's position) at n offsets (pixel minus star), into ``out`` (n, 3); 0 beyond the grid."""
    size = coefficients.shape[2]
    window = np.empty((size, size), np.float32)
    blend(coefficients, node_x, node_y, x, y, (0, 0), size, size, window)
    reach = ((SAMPLES - 1) // 2 + PADDING - TAPS) / OVERSAMPLING
    for k in range(dx.shape[0]):
        out[k, :] = 0.0
        if abs(dx[k]) > reach or abs(dy[k]) > reach:
            continue
        start_x, phase_x = sample_start(dx[k])
        start_y, phase_y = sample_start(dy[k])
        wx, sx = quintic_weights(phase_x), quintic_slopes(phase_x)
        wy, sy = quintic_weights(phase_y), quintic_slopes(phase_y)
        for j in range(6):
            for i in range(6):
                c = window[start_y + j, start_x + i]
                out[k, 0] += wy[j] * wx[i] * c
                out[k, 1] -= OVERSAMPLING * wy[j] * sx[i] * c
                out[k, 2] -= OVERSAMPLING * sy[j] * wx[i] * c
