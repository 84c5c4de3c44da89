"""A patch of the master frame seen by many exposures: cut-outs, where a star falls on each, its ePSF there, its light in and out.

Cut-outs of all exposures lie end to end in flat arrays, since their sizes differ.  Positions on the master frame become raw
positions
through a table of nodes an exposure, 16 master pixels apart, by bicubic (Catmull-Rom) interpolation: a smooth distortion comes
out to
1e-5 pixel, and one evaluation serves the position, its derivatives and the brightness scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpm.kernels.bundles import MAX_BOX, MAX_HALF, MAX_WINDOW
from dpm.kernels.epsf import OVERSAMPLING, TAPS, evaluate_box, node_interval_of, sample_start, value_box
from dpm.kernels.jit import kernel, leaf_kernel

NODE_STEP = 16  # master pixels between nodes of an exposure's geometry
RENDER_NOISE = 0.1  # of the pixel noise: a star is subtracted out to where its light falls below this
MIN_RENDER_HALF = 3
FIT_HALF = 2  # 5 x 5 pixels at the peak (Anderson & King 2000)
STEEPEST = 3.0  # 1/pixel: largest slope of an ePSF's wings over the envelope at their radius
LEAST_SHARE = 0.005  # of the ePSF's largest change with brightness: below, it is left out (less than 5e-4 of the star's peak)


class Patch(NamedTuple):
    """Cut-outs of E exposures about one patch, and how the master frame lies on them.

    residual, scene, variance_read, poisson_factor, flat_variance, halo: pixels of all cut-outs end to end (float32), row by row; a
    pixel without weight has infinite variance_read, halo is the exposure's flux below which halos explain a detection.  first,
    ny, nx: where each cut-out begins and its size.  x_origin, y_origin: raw full-detector pixel of its first pixel.  nodes (E, 3,
    n, n): raw x, raw y and brightness scale (exposure's flux of a star of unit flux) on the master lattice that starts at
    ``node_origin`` (x, y).  band, library: filter and ePSF of each exposure.  noise (E,): typical scatter of a sky pixel.  sky,
    scatter, light (E, m, m): meshes of the sky, and of the stars' light in its pixels, in cells of ``sky_cell`` pixels.
    charge_share (E,): share of the ePSF's largest change with brightness that a unit of the exposure's flux brings; 0 without one.
    """

    residual: Any
    scene: Any
    variance_read: Any
    poisson_factor: Any
    flat_variance: Any
    halo: Any
    first: Any
    ny: Any
    nx: Any
    x_origin: Any
    y_origin: Any
    nodes: Any
    node_origin: Any
    band: Any
    library: Any
    noise: Any
    sky: Any
    scatter: Any
    light: Any
    sky_cell: int
    charge_share: Any


class Libraries(NamedTuple):
    """All ePSFs of a run: coefficients (L, J, I, size, size) float32, padded with unused nodes; node_x (L, I), node_y (L, J), the
    number of nodes count_x, count_y (L,), and the envelopes (L, 14): largest value at or beyond each whole radius.  change
    (L, size, size) float32: what the brightest stars' charge adds to the coefficients.
    """

    coefficients: Any
    node_x: Any
    node_y: Any
    count_x: Any
    count_y: Any
    envelope: Any
    change: Any


class BoxWork(NamedTuple):
    """Work space for one star's ePSF on a box: blended samples, value and slopes, rows in between."""

    window: Any
    value: Any
    slope_x: Any
    slope_y: Any
    scratch: Any


@kernel
def box_workspace():
    """Fresh work arrays."""
    return BoxWork(
        np.empty((MAX_WINDOW, MAX_WINDOW), np.float32),
        np.empty((MAX_BOX, MAX_BOX), np.float32),
        np.empty((MAX_BOX, MAX_BOX), np.float32),
        np.empty((MAX_BOX, MAX_BOX), np.float32),
        np.empty((2, MAX_WINDOW), np.float32),
    )


@leaf_kernel
def cubic_weights(s):
    """Catmull-Rom weights of the nodes at -1, 0, 1, 2 for a point at s (0 <= s <= 1)."""
    s2 = s * s
    s3 = s2 * s
    return -0.5 * s3 + s2 - 0.5 * s, 1.5 * s3 - 2.5 * s2 + 1.0, -1.5 * s3 + 2.0 * s2 + 0.5 * s, 0.5 * s3 - 0.5 * s2


@leaf_kernel
def cubic_slopes(s):
    """Derivatives of the weights by s."""
    s2 = s * s
    return -1.5 * s2 + 2.0 * s - 0.5, 4.5 * s2 - 5.0 * s, -4.5 * s2 + 4.0 * s + 0.5, 1.5 * s2 - s


@leaf_kernel
def place(patch, e, x, y):
    """Where a star at master position (x, y) falls on exposure e.

    Returns
    -------
    raw_x, raw_y : float
        Pixels of the cut-out, 0-based.
    scale : float
        The exposure's flux for unit flux.
    xx, xy, yx, yy : float
        Derivatives of raw x by x and by y, and of raw y by x and by y.
    """
    count = patch.nodes.shape[2]
    u = (x - patch.node_origin[0]) / NODE_STEP
    v = (y - patch.node_origin[1]) / NODE_STEP
    i = min(max(int(np.floor(u)), 1), count - 3)
    j = min(max(int(np.floor(v)), 1), count - 3)
    a0, a1, a2, a3 = cubic_weights(u - i)
    b0, b1, b2, b3 = cubic_weights(v - j)
    da0, da1, da2, da3 = cubic_slopes(u - i)
    db0, db1, db2, db3 = cubic_slopes(v - j)
    raw_x = raw_y = scale = xx = xy = yx = yy = 0.0
    nodes = patch.nodes
    for m in range(4):
        b = b0 if m == 0 else (b1 if m == 1 else (b2 if m == 2 else b3))
        db = db0 if m == 0 else (db1 if m == 1 else (db2 if m == 2 else db3))
        row = np.uintp(j - 1 + m)
        c0, c1, c2, c3 = np.uintp(i - 1), np.uintp(i), np.uintp(i + 1), np.uintp(i + 2)
        n0, n1, n2, n3 = nodes[e, 0, row, c0], nodes[e, 0, row, c1], nodes[e, 0, row, c2], nodes[e, 0, row, c3]
        value = a0 * n0 + a1 * n1 + a2 * n2 + a3 * n3
        raw_x += b * value
        xy += db * value
        xx += b * (da0 * n0 + da1 * n1 + da2 * n2 + da3 * n3)
        n0, n1, n2, n3 = nodes[e, 1, row, c0], nodes[e, 1, row, c1], nodes[e, 1, row, c2], nodes[e, 1, row, c3]
        value = a0 * n0 + a1 * n1 + a2 * n2 + a3 * n3
        raw_y += b * value
        yy += db * value
        yx += b * (da0 * n0 + da1 * n1 + da2 * n2 + da3 * n3)
        n0, n1, n2, n3 = nodes[e, 2, row, c0], nodes[e, 2, row, c1], nodes[e, 2, row, c2], nodes[e, 2, row, c3]
        scale += b * (a0 * n0 + a1 * n1 + a2 * n2 + a3 * n3)
    step = 1.0 / NODE_STEP
    return raw_x - patch.x_origin[e], raw_y - patch.y_origin[e], scale, xx * step, xy * step, yx * step, yy * step


@leaf_kernel
def is_covered(patch, e, x, y, half):
    """Does the box of half-width ``half`` about cut-out position (x, y) touch the cut-out?  False for NaN."""
    return -half - 0.5 <= x < patch.nx[e] + half - 0.5 and -half - 0.5 <= y < patch.ny[e] + half - 0.5


@leaf_kernel
def blend_box(libraries, k, x, y, first_y, first_x, count, out):
    """Blend the four nodes about detector position (x, y) of ePSF k on ``count`` samples a side from (first_y, first_x)."""
    i, u = node_interval_of(libraries.node_x, k, libraries.count_x[k], x)
    j, v = node_interval_of(libraries.node_y, k, libraries.count_y[k], y)
    i1 = min(i + 1, libraries.count_x[k] - 1)
    j1 = min(j + 1, libraries.count_y[k] - 1)
    coefficients = libraries.coefficients
    r0, c0, l = np.uintp(first_y), np.uintp(first_x), np.uintp(k)
    a, b, c, d = np.uintp(j), np.uintp(i), np.uintp(j1), np.uintp(i1)
    if i1 == i and j1 == j:
        for r in range(np.uintp(count)):
            for m in range(np.uintp(count)):
                out[r, m] = coefficients[l, a, b, r0 + r, c0 + m]
        return
    w00 = np.float32((1.0 - u) * (1.0 - v))
    w10 = np.float32(u * (1.0 - v))
    w01 = np.float32((1.0 - u) * v)
    w11 = np.float32(u * v)
    for r in range(np.uintp(count)):
        for m in range(np.uintp(count)):
            out[r, m] = (
                w00 * coefficients[l, a, b, r0 + r, c0 + m]
                + w10 * coefficients[l, a, d, r0 + r, c0 + m]
                + w01 * coefficients[l, c, b, r0 + r, c0 + m]
                + w11 * coefficients[l, c, d, r0 + r, c0 + m]
            )


@leaf_kernel
def add_change(libraries, k, share, first_y, first_x, count, out):
    """Add a share of ePSF k's largest change with brightness to what `blend_box` made."""
    f = np.float32(share)
    change = libraries.change
    r0, c0, l = np.uintp(first_y), np.uintp(first_x), np.uintp(k)
    for r in range(np.uintp(count)):
        for m in range(np.uintp(count)):
            out[r, m] += f * change[l, r0 + r, c0 + m]


@leaf_kernel
def load_box(patch, libraries, e, x, y, flux, iy, ix, half, slopes, work):
    """psi (and its slopes by the star's raw position) of a star at cut-out position (x, y) on the box about pixel (iy, ix).

    The blend of nodes is that of the pixel's centre; ``flux`` (of the exposure) says how bright a star's ePSF is wanted.
    """
    start_y, phase_y = sample_start(iy - half - y)
    start_x, phase_x = sample_start(ix - half - x)
    side = 2 * half + 1
    count = OVERSAMPLING * (side - 1) + TAPS
    k = patch.library[e]
    blend_box(libraries, k, ix + patch.x_origin[e], iy + patch.y_origin[e], start_y, start_x, count, work.window)
    share = min(flux * patch.charge_share[e], 1.0)
    if share > LEAST_SHARE:
        add_change(libraries, k, share, start_y, start_x, count, work.window)
    if slopes:
        evaluate_box(
            work.window, start_y, start_x, start_y, start_x, phase_y, phase_x, side, side, work.value, work.slope_x, work.slope_y,
            work.scratch,
        )  # fmt: skip
    else:
        value_box(work.window, start_y, start_x, start_y, start_x, phase_y, phase_x, side, side, work.value, work.scratch)


@leaf_kernel
def render_half(libraries, k, flux, noise):
    """Half-width within which a star of this flux (of the exposure) exceeds RENDER_NOISE of the pixel noise."""
    half = MIN_RENDER_HALF
    limit = RENDER_NOISE * noise
    light = abs(flux)
    while half < MAX_HALF and light * libraries.envelope[k, half] > limit:
        half += 1
    return half


@leaf_kernel
def add_to_exposure(patch, libraries, work, e, x, y, flux, sign):
    """Add ``sign`` times a star's light to exposure e's residual: master position (x, y), flux of its band."""
    raw_x, raw_y, scale, _, _, _, _ = place(patch, e, x, y)
    light = flux * scale
    if light == 0.0:
        return
    half = render_half(libraries, patch.library[e], light, patch.noise[e])
    if not is_covered(patch, e, raw_x, raw_y, half):
        return
    iy = int(np.floor(raw_y + 0.5))
    ix = int(np.floor(raw_x + 0.5))
    load_box(patch, libraries, e, raw_x, raw_y, light, iy, ix, half, False, work)
    ny, nx = patch.ny[e], patch.nx[e]
    j0, j1 = max(half - iy, 0), min(2 * half + 1, ny - iy + half)
    i0, i1 = max(half - ix, 0), min(2 * half + 1, nx - ix + half)
    if j1 <= j0 or i1 <= i0:
        return
    f = np.float32(sign * light)
    start = np.uintp(patch.first[e] + (iy - half + j0) * nx + ix - half + i0)
    residual, value = patch.residual, work.value
    r0, c0 = np.uintp(j0), np.uintp(i0)
    for j in range(np.uintp(j1 - j0)):
        row = start + j * np.uintp(nx)
        for i in range(np.uintp(i1 - i0)):
            residual[row + i] += f * value[r0 + j, c0 + i]


@leaf_kernel
def change_in_exposure(patch, libraries, work, e, old_x, old_y, old_flux, x, y, flux):
    """Replace a subtracted star in exposure e's residual: master position and flux of its band, old and new.

    Only out to where the change falls below RENDER_NOISE of the pixel noise; both lights come from one blend of the nodes.
    """
    from_x, from_y, scale, _, _, _, _ = place(patch, e, old_x, old_y)
    old_light = old_flux * scale
    to_x, to_y, scale, _, _, _, _ = place(patch, e, x, y)
    light = flux * scale
    iy, ix = int(np.floor(to_y + 0.5)), int(np.floor(to_x + 0.5))
    same = iy == int(np.floor(from_y + 0.5)) and ix == int(np.floor(from_x + 0.5))
    brightest = max(abs(light), abs(old_light))
    if not same or old_light == 0.0 or light == 0.0 or brightest * patch.charge_share[e] > LEAST_SHARE:
        add_to_exposure(patch, libraries, work, e, old_x, old_y, old_flux, 1.0)
        add_to_exposure(patch, libraries, work, e, x, y, flux, -1.0)
        return
    k = patch.library[e]
    difference = abs(light - old_light) + STEEPEST * brightest * (abs(to_x - from_x) + abs(to_y - from_y))
    half = min(render_half(libraries, k, difference, patch.noise[e]), render_half(libraries, k, brightest, patch.noise[e]))
    if not is_covered(patch, e, to_x, to_y, half):
        return
    ny, nx = patch.ny[e], patch.nx[e]
    j0, j1 = max(half - iy, 0), min(2 * half + 1, ny - iy + half)
    i0, i1 = max(half - ix, 0), min(2 * half + 1, nx - ix + half)
    if j1 <= j0 or i1 <= i0:
        return
    old_start_y, old_phase_y = sample_start(iy - half - from_y)
    old_start_x, old_phase_x = sample_start(ix - half - from_x)
    start_y, phase_y = sample_start(iy - half - to_y)
    start_x, phase_x = sample_start(ix - half - to_x)
    row0, col0 = min(start_y, old_start_y), min(start_x, old_start_x)
    side = 2 * half + 1
    count = OVERSAMPLING * (side - 1) + TAPS + max(abs(start_y - old_start_y), abs(start_x - old_start_x))
    blend_box(libraries, k, ix + patch.x_origin[e], iy + patch.y_origin[e], row0, col0, count, work.window)
    old_value, value = work.slope_x, work.value
    value_box(work.window, row0, col0, old_start_y, old_start_x, old_phase_y, old_phase_x, side, side, old_value, work.scratch)
    value_box(work.window, row0, col0, start_y, start_x, phase_y, phase_x, side, side, value, work.scratch)
    f_old, f = np.float32(old_light), np.float32(light)
    start = np.uintp(patch.first[e] + (iy - half + j0) * nx + ix - half + i0)
    residual = patch.residual
    r0, c0 = np.uintp(j0), np.uintp(i0)
    for j in range(np.uintp(j1 - j0)):
        row = start + j * np.uintp(nx)
        for i in range(np.uintp(i1 - i0)):
            residual[row + i] += f_old * old_value[r0 + j, c0 + i] - f * value[r0 + j, c0 + i]


@leaf_kernel
def add_star(patch, libraries, work, x, y, flux, k, sign):
    """Add ``sign`` times star k's light (``flux``: (stars, bands)) to all exposures' residuals."""
    for e in range(patch.first.shape[0]):
        add_to_exposure(patch, libraries, work, e, x, y, flux[k, patch.band[e]], sign)


@kernel
def add_stars(patch, libraries, x, y, flux, sign):
    """Add ``sign`` times the light of all stars to all exposures' residuals."""
    work = box_workspace()
    for k in range(x.shape[0]):
        add_star(patch, libraries, work, x[k], y[k], flux, k, sign)


@kernel
def place_stars(patch, x, y, out):
    """Cut-out positions and scales of stars on all exposures; ``out`` (stars, E, 3) is filled with raw x, raw y, scale."""
    for k in range(x.shape[0]):
        for e in range(patch.first.shape[0]):
            out[k, e, 0], out[k, e, 1], out[k, e, 2], _, _, _, _ = place(patch, e, x[k], y[k])


@kernel
def halo_limits(patch, x, y, limit):
    """Flux by band below which halos explain stars at master positions (n,): the mean over the exposures; ``limit`` (n, B) is
    filled."""
    bands = limit.shape[1]
    count = np.zeros(bands)
    for k in range(x.shape[0]):
        count[:] = 0.0
        limit[k] = 0.0
        for e in range(patch.first.shape[0]):
            raw_x, raw_y, scale, _, _, _, _ = place(patch, e, x[k], y[k])
            if -0.5 <= raw_x < patch.nx[e] - 0.5 and -0.5 <= raw_y < patch.ny[e] - 0.5:
                at = patch.first[e] + int(np.floor(raw_y + 0.5)) * patch.nx[e] + int(np.floor(raw_x + 0.5))
                limit[k, patch.band[e]] += patch.halo[at] / scale
                count[patch.band[e]] += 1.0
        for b in range(bands):
            limit[k, b] /= max(count[b], 1.0)


@leaf_kernel
def sky_at(mesh, e, cell, y, x, ny, nx):
    """Bilinear value of exposure e's mesh at cut-out pixel (y, x); constant beyond the outermost centres."""
    my = max((ny + cell - 1) // cell, 1)
    mx = max((nx + cell - 1) // cell, 1)
    v = min(max((y + 0.5) / cell - 0.5, 0.0), my - 1.0)
    u = min(max((x + 0.5) / cell - 0.5, 0.0), mx - 1.0)
    j = min(int(v), max(my - 2, 0))
    i = min(int(u), max(mx - 2, 0))
    j1 = min(j + 1, my - 1)
    i1 = min(i + 1, mx - 1)
    b = v - j
    a = u - i
    return (1 - b) * ((1 - a) * mesh[e, j, i] + a * mesh[e, j, i1]) + b * ((1 - a) * mesh[e, j1, i] + a * mesh[e, j1, i1])
