"""ePSF samples from star stamps: normalised residuals at given positions, and their weighted sums on the nodes' grids.

A pixel of a star at (x, y) samples the ePSF at (pixel - star); its residual goes to the nearest grid point of the four nodes around
the star, with their bilinear weights (Anderson & King 2000; paper 2, section 3).
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.bundles import Library, workspace
from dpm.kernels.epsf import OVERSAMPLING, SAMPLES, node_interval
from dpm.kernels.jit import kernel
from dpm.kernels.render import add_star

FLUX_HALF = 2  # the flux comes from 5 x 5 pixels (Anderson & King 2000)
FLUX_STEPS = 3  # the weights depend a little on the flux


@kernel
def sample_stamps(stamps, library, position, sky, given, model_error, flux, chi, residuals, weights):
    """What the pixels of every star leave over at a given position and flux, per unit of flux; missing fluxes are fitted.

    Parameters
    ----------
    stamps : Stamps
        From `dpm.kernels.stamps.cut_stamps`.
    library : Library
        The ePSF; its origin is not used.
    position : ndarray (n, 2)
        x and y in stamp pixels; not finite: the star is left out.
    sky : ndarray (n,)
        Held.
    given : ndarray (n,)
        Flux to normalise with; not finite: the fitted one. A fitted flux takes up any error of the ePSF that all pixels of one
        pixel phase share, so that only stars seen at several phases can tell it.
    model_error : float
        Error of the ePSF relative to its value, which keeps the brightest stars from ruling alone.
    flux, chi : ndarray (n,)
        Filled: fitted flux, and the square root of the reduced chi-square on 5 x 5 pixels without the model error; NaN where
        left out.
    residuals, weights : ndarray (n, side, side), float32
        Filled: (pixel - sky) / flux - psi, and its inverse variance; 0 for masked pixels and stars left out.
    """
    work = workspace()
    side = stamps.values.shape[1]
    half = side // 2
    psi = np.empty((side, side), np.float32)
    for k in range(stamps.values.shape[0]):
        residuals[k] = 0.0
        weights[k] = 0.0
        flux[k] = np.nan
        chi[k] = np.nan
        x, y = position[k, 0], position[k, 1]
        if not (np.isfinite(x) and np.isfinite(y) and abs(x - half) < 1.5 and abs(y - half) < 1.5):
            continue
        own = Library(library.coefficients, library.node_x, library.node_y, stamps.first_x[k], stamps.first_y[k])
        psi[:] = 0.0
        add_star(psi, own, work, x, y, 1.0, half)
        centre_x, centre_y = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        z = 0.0
        chi2 = 0.0
        used = 0
        for step in range(FLUX_STEPS):
            top = 0.0
            bottom = 0.0
            chi2 = 0.0
            used = 0
            for j in range(centre_y - FLUX_HALF, centre_y + FLUX_HALF + 1):
                for i in range(centre_x - FLUX_HALF, centre_x + FLUX_HALF + 1):
                    if not stamps.mask[k, j, i]:
                        continue
                    p = np.float64(psi[j, i])
                    star = stamps.values[k, j, i] - sky[k]
                    light = max(z * p + sky[k], 0.0)
                    variance = stamps.read[k, j, i] + stamps.poisson[k, j, i] * light + stamps.flat[k, j, i] * light * light
                    chi2 += (star - z * p) ** 2 / variance
                    variance += (model_error * z * p) ** 2
                    top += p * star / variance
                    bottom += p * p / variance
                    used += 1
            if step < FLUX_STEPS - 1 and bottom > 0.0:
                z = top / bottom
        if used < 9 or not z > 0.0:
            continue
        flux[k] = z
        chi[k] = np.sqrt(chi2 / (used - 1))
        if np.isfinite(given[k]):
            z = given[k]
        for j in range(side):
            for i in range(side):
                if not stamps.mask[k, j, i]:
                    continue
                p = np.float64(psi[j, i])
                light = max(z * p + sky[k], 0.0)
                variance = stamps.read[k, j, i] + stamps.poisson[k, j, i] * light + stamps.flat[k, j, i] * light * light
                residuals[k, j, i] = (stamps.values[k, j, i] - sky[k]) / z - p
                weights[k, j, i] = 1.0 / (variance / (z * z) + (model_error * p) ** 2)


@kernel
def add_samples(residuals, weights, limit, position, raw, node_x, node_y, radius, top, bottom):
    """Add the residuals to the nodes' sums on their 4 x grids; outliers are left out.

    Parameters
    ----------
    residuals, weights : ndarray (n, side, side)
        From `sample_stamps`.
    limit : ndarray (rings,)
        Largest residual, in units of its error, in each ring of one pixel.
    position : ndarray (n, 2)
        x and y in stamp pixels.
    raw : ndarray (n, 2)
        Raw position of the star, where the bilinear weights of the nodes are taken.
    node_x, node_y : ndarray
        Positions of the nodes.
    radius : ndarray (n,)
        Largest radius (pixels) that each star samples.
    top, bottom : ndarray (node_y, node_x, SAMPLES, SAMPLES)
        Sums of weight times residual and of weight; added to.
    """
    side = residuals.shape[1]
    middle = (SAMPLES - 1) // 2
    for k in range(residuals.shape[0]):
        i0, u = node_interval(node_x, raw[k, 0])
        j0, v = node_interval(node_y, raw[k, 1])
        i1 = min(i0 + 1, node_x.shape[0] - 1)
        j1 = min(j0 + 1, node_y.shape[0] - 1)
        for j in range(side):
            dy = j - position[k, 1]
            row = int(np.floor(dy * OVERSAMPLING + 0.5)) + middle
            if row < 0 or row >= SAMPLES:
                continue
            for i in range(side):
                w = np.float64(weights[k, j, i])
                if w <= 0.0:
                    continue
                dx = i - position[k, 0]
                column = int(np.floor(dx * OVERSAMPLING + 0.5)) + middle
                distance = np.sqrt(dx * dx + dy * dy)
                if column < 0 or column >= SAMPLES or distance > radius[k]:
                    continue
                r = np.float64(residuals[k, j, i])
                ring = min(int(distance), limit.shape[0] - 1)
                if abs(r) * np.sqrt(w) > limit[ring]:
                    continue
                for b in range(2):
                    share_y = v if b else 1.0 - v
                    node_j = j1 if b else j0
                    for a in range(2):
                        share = share_y * (u if a else 1.0 - u)
                        if share > 0.0:
                            node_i = i1 if a else i0
                            top[node_j, node_i, row, column] += share * w * r
                            bottom[node_j, node_i, row, column] += share * w


@kernel
def smooth_samples(top, bottom, bandwidth, degree, smoothed, variance):
    """Local polynomial regression on the grid: at every point a polynomial fitted to the samples under a Gaussian.

    Keeps peaks that a moving mean would flatten (the purpose of the quartic kernel of Anderson & King 2000), and takes uneven and
    empty grid points as they are.

    Parameters
    ----------
    top, bottom : ndarray (SAMPLES, SAMPLES)
        Sums of weight times value and of weight.
    bandwidth : ndarray (SAMPLES, SAMPLES)
        Sigma of the Gaussian in samples; 0: the point is left at zero.
    degree : ndarray (SAMPLES, SAMPLES), int
        0, 2: degree of the polynomial.
    smoothed, variance : ndarray (SAMPLES, SAMPLES)
        Filled; the variance is that of the fit, infinite where there is nothing to fit.
    """
    normal = np.empty((6, 6))
    right = np.empty(6)
    basis = np.empty(6)
    for row in range(SAMPLES):
        for column in range(SAMPLES):
            h = bandwidth[row, column]
            smoothed[row, column] = 0.0
            variance[row, column] = np.inf
            if h <= 0.0:
                continue
            reach = int(np.ceil(2.5 * h))
            n = 1 if degree[row, column] == 0 else 6
            normal[:] = 0.0
            right[:] = 0.0
            scale = 1.0 / max(reach, 1)
            squares = 0.0
            for j in range(max(row - reach, 0), min(row + reach + 1, SAMPLES)):
                for i in range(max(column - reach, 0), min(column + reach + 1, SAMPLES)):
                    w0 = bottom[j, i]
                    if w0 <= 0.0:
                        continue
                    p = (j - row) * scale
                    q = (i - column) * scale
                    share = np.exp(-0.5 * ((j - row) ** 2 + (i - column) ** 2) / (h * h))
                    basis[0] = 1.0
                    basis[1] = p
                    basis[2] = q
                    basis[3] = p * p
                    basis[4] = p * q
                    basis[5] = q * q
                    t0 = share * top[j, i]
                    squares += share * share * w0
                    for a in range(n):
                        right[a] += t0 * basis[a]
                        for b in range(a + 1):
                            normal[a, b] += share * w0 * basis[a] * basis[b]
            if normal[0, 0] <= 0.0:
                continue
            # A little of the zeroth order's weight on the higher terms: where samples are few, the fit falls back to the mean.
            for a in range(n):
                if a > 0:
                    normal[a, a] += 1e-3 * normal[0, 0]
                for b in range(a):
                    normal[b, a] = normal[a, b]
            if n == 1:
                smoothed[row, column] = right[0] / normal[0, 0]
                variance[row, column] = squares / normal[0, 0] ** 2
            else:
                inverse = np.linalg.inv(normal)
                total = 0.0
                for a in range(n):
                    total += inverse[0, a] * right[a]
                smoothed[row, column] = total
                variance[row, column] = inverse[0, 0] * squares / normal[0, 0]
