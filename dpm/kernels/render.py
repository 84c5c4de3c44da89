"""Stars in and out of an image: the ePSF on a star's box, added, subtracted, or replaced after a new fit."""

from __future__ import annotations

import numpy as np

from dpm.kernels.bundles import workspace
from dpm.kernels.epsf import OVERSAMPLING, TAPS, blend, sample_start, value_box
from dpm.kernels.jit import kernel, leaf_kernel

# Entries of the small record that says what a window holds, and how many pixels the last step of a fit rested on.
WINDOW_ROW, WINDOW_COLUMN, WINDOW_Y, WINDOW_X, WINDOW_HALF, FIT_PIXELS = 0, 1, 2, 3, 4, 5


@leaf_kernel
def load_window(library, work, iy, ix, half):
    """Blend the ePSF for a star whose peak pixel is (iy, ix), for boxes up to half-width ``half`` about it.

    The blend is that of the peak pixel's centre, so it stays the same while the star moves inside its pixel.  The window leaves
    room for the star to be up to one pixel off the centre.

    Parameters
    ----------
    library : Library
    work : Work
        Its window and held are filled.
    iy, ix : int
        Array pixel.
    half : int
    """
    start, _ = sample_start(-half - 1.0)
    first = max(start, 0)
    count = min(OVERSAMPLING * (2 * half + 2) + TAPS + 1, library.coefficients.shape[2] - first)
    x = ix + library.x_origin
    y = iy + library.y_origin
    blend(library.coefficients, library.node_x, library.node_y, x, y, (first, first), count, count, work.window)
    work.held[WINDOW_ROW] = first
    work.held[WINDOW_COLUMN] = first
    work.held[WINDOW_Y] = iy
    work.held[WINDOW_X] = ix
    work.held[WINDOW_HALF] = half


@leaf_kernel
def star_values(work, x, y, half, value):
    """psi of a star at (x, y) on the box of half-width ``half`` about the window's peak pixel, into ``value``."""
    held = work.held
    start_y, phase_y = sample_start(held[WINDOW_Y] - half - y)
    start_x, phase_x = sample_start(held[WINDOW_X] - half - x)
    side = 2 * half + 1
    row, column = held[WINDOW_ROW], held[WINDOW_COLUMN]
    value_box(work.window, row, column, start_y, start_x, phase_y, phase_x, side, side, value, work.scratch)


@leaf_kernel
def add_values(image, iy, ix, flux, half, value, value_half):
    """Add flux times psi (on a box of half-width value_half about (iy, ix)) to the image within ``half`` pixels of (iy, ix)."""
    ny, nx = image.shape
    f = np.float32(flux)
    shift = value_half - half
    j0, j1 = max(half - iy, 0), min(2 * half + 1, ny - iy + half)
    i0, i1 = max(half - ix, 0), min(2 * half + 1, nx - ix + half)
    if j1 <= j0 or i1 <= i0:
        return
    # Unsigned indices: numba then leaves out the check for negative ones, and the inner loop runs in vectors.
    v0, u0 = np.uintp(iy - half + j0), np.uintp(ix - half + i0)
    r0, c0 = np.uintp(j0 + shift), np.uintp(i0 + shift)
    for j in range(np.uintp(j1 - j0)):
        for i in range(np.uintp(i1 - i0)):
            image[v0 + j, u0 + i] += f * value[r0 + j, c0 + i]


@leaf_kernel
def add_star(image, library, work, x, y, flux, half):
    """Add a star of ``flux`` at (x, y) to the image (subtract it with a negative flux) within ``half`` pixels of its peak pixel."""
    iy = int(np.floor(y + 0.5))
    ix = int(np.floor(x + 0.5))
    load_window(library, work, iy, ix, half)
    star_values(work, x, y, half, work.value)
    add_values(image, iy, ix, flux, half, work.value, half)


@leaf_kernel
def replace_star(residual, library, work, x_old, y_old, flux_old, half_old, x, y, flux, half):
    """In the residual image, give back a star's old light and take its new light away.

    ``work`` is as `fit_star` left it: psi at the old position (half-width half_old) and at the new one (half-width of the window);
    where the peak pixel changed or the box grew, both are evaluated afresh.
    """
    iy = int(np.floor(y + 0.5))
    ix = int(np.floor(x + 0.5))
    held_half = work.held[WINDOW_HALF]
    same = iy == work.held[WINDOW_Y] and ix == work.held[WINDOW_X] and half <= held_half
    same = same and iy == int(np.floor(y_old + 0.5)) and ix == int(np.floor(x_old + 0.5)) and half_old <= held_half
    if same:
        if flux_old != 0.0:
            add_values(residual, iy, ix, flux_old, half_old, work.old_value, half_old)
        add_values(residual, iy, ix, -flux, half, work.value, held_half)
    else:
        if flux_old != 0.0:
            add_star(residual, library, work, x_old, y_old, flux_old, half_old)
        add_star(residual, library, work, x, y, -flux, half)


@kernel
def subtract_stars(image, library, x, y, flux, half):
    """Subtract stars at array positions (n,), each within ``half`` (n,) pixels of its peak pixel, from the image."""
    work = workspace()
    for k in range(x.shape[0]):
        add_star(image, library, work, x[k], y[k], -flux[k], half[k])
