"""Star stamps: cut out of an image with the neighbours subtracted, and fitted again and again while the ePSF changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpm.kernels.bundles import Library, Planes, workspace
from dpm.kernels.fit import FAILED, FINE_TOLERANCE, fit_star
from dpm.kernels.jit import kernel
from dpm.kernels.quality import CHI, FLUX, SKY, X, Y
from dpm.kernels.render import add_star

STAMP_FIT_HALF = 2  # 5 x 5 pixels (Anderson & King 2000)


class Stamps(NamedTuple):
    """Pixels, mask and noise planes (n, side, side), and the full-detector position of each stamp's first pixel (n,)."""

    values: Any
    mask: Any
    read: Any
    poisson: Any
    flat: Any
    first_x: Any
    first_y: Any


@kernel
def cut_stamps(planes, library, rows, render, half, stamps):
    """Pixels about each star with its own light put back into the residual image.

    Parameters
    ----------
    planes : Planes
        The exposure, all stars subtracted from its residual image.
    library : Library
        The ePSF they were subtracted with.
    rows : ndarray (n, RESULT_SIZE)
        The stars.
    render : ndarray (n,), int
        Half-width within which each was subtracted.
    half : int
        Half-width of the stamps.
    stamps : Stamps
        Filled; the peak pixel is at the centre.
    """
    work = workspace()
    ny, nx = planes.residual.shape
    for k in range(rows.shape[0]):
        iy = int(np.floor(rows[k, Y] + 0.5))
        ix = int(np.floor(rows[k, X] + 0.5))
        for j in range(2 * half + 1):
            for i in range(2 * half + 1):
                v = iy - half + j
                u = ix - half + i
                inside = 0 <= v < ny and 0 <= u < nx
                stamps.mask[k, j, i] = inside and planes.good[v, u]
                stamps.values[k, j, i] = planes.residual[v, u] if inside else 0.0
                stamps.read[k, j, i] = planes.variance_read[v, u] if inside else 1.0
                stamps.poisson[k, j, i] = planes.poisson_factor[v, u] if inside else 0.0
                stamps.flat[k, j, i] = planes.flat_variance[v, u] if inside else 0.0
        stamps.first_x[k] = ix - half + library.x_origin
        stamps.first_y[k] = iy - half + library.y_origin
        own = Library(library.coefficients, library.node_x, library.node_y, stamps.first_x[k], stamps.first_y[k])
        x, y = rows[k, X] - ix + half, rows[k, Y] - iy + half
        add_star(stamps.values[k], own, work, x, y, rows[k, FLUX], render[k])


@kernel
def fit_stamps(stamps, library, start, results, residuals, weights):
    """Fit every stamp's star (position and flux, the sky held) and give the normalised residuals.

    Parameters
    ----------
    stamps : Stamps
        From `cut_stamps`.
    library : Library
        The ePSF; its origin is not used.
    start : ndarray (n, RESULT_SIZE)
        Where to start, stamp pixels; its SKY is held.
    results : ndarray (n, RESULT_SIZE)
        Filled; CHI is NaN where the fit failed.
    residuals, weights : ndarray (n, side, side)
        (pixel - sky) / flux - psi, and flux^2 / variance: inverse variance of the former; 0 for masked pixels.
    """
    work = workspace()
    side = stamps.values.shape[1]
    half = side // 2
    model = np.empty((side, side), np.float32)
    nothing = (0.0, 0.0, 0.0)
    for k in range(stamps.values.shape[0]):
        own = Library(library.coefficients, library.node_x, library.node_y, stamps.first_x[k], stamps.first_y[k])
        values = stamps.values[k]
        planes = Planes(values, values, stamps.mask[k], stamps.read[k], stamps.poisson[k], stamps.flat[k])
        sky = start[k, SKY]
        first = (start[k, X], start[k, Y], start[k, FLUX], sky)
        result = results[k]
        status = fit_star(planes, 0.0, own, work, nothing, 0, first, 0.0, False, STAMP_FIT_HALF, 0.0, FINE_TOLERANCE, True, result)
        if status == FAILED:
            results[k, CHI] = np.nan
            weights[k] = 0.0
            residuals[k] = 0.0
            continue
        flux = results[k, FLUX]
        model[:] = 0.0
        add_star(model, own, work, results[k, X], results[k, Y], 1.0, half)
        for j in range(side):
            for i in range(side):
                light = max(flux * model[j, i] + sky, 0.0)
                variance = stamps.read[k, j, i] + stamps.poisson[k, j, i] * light + stamps.flat[k, j, i] * light * light
                residuals[k, j, i] = (values[j, i] - sky) / flux - model[j, i]
                weights[k, j, i] = flux * flux / variance if stamps.mask[k, j, i] else 0.0
