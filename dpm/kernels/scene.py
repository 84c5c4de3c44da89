"""All stars of one exposure: fit new ones from bright to faint, and sweep over all of them with the neighbours subtracted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpm.kernels.bundles import MAX_HALF, workspace
from dpm.kernels.fit import FAILED, FINE_TOLERANCE, FIRST_TOLERANCE, NOT_CONVERGED, fit_star
from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.quality import FLUX, FLUX_ERROR, N_PIXELS, RESULT_SIZE, X, Y
from dpm.kernels.render import add_star, replace_star
from dpm.kernels.sky import MIN_SKY_PIXELS, annulus_sky, clipped_statistics, interpolate_mesh

MIN_RENDER_HALF = 3
TOUCH_CELL = 4  # pixels a side of the cells in which changes of the scene are counted
FINE_LEVEL = 0.4  # of the pixel noise: a smaller change of the light moves no neighbour
COARSE_LEVEL = 4.0  # the same for sweeps that others follow
NOT_SWEPT = -1  # in star_sky_pixels
MIN_FIT_PIXELS = 6  # position, flux and two to spare


class Sky(NamedTuple):
    """Sky of an exposure on meshes (my, mx) of square cells of ``cell`` pixels: its level, its scatter, and the variance that the
    noise planes lack.
    """

    level: Any
    scatter: Any
    excess: Any
    cell: Any


class Stars(NamedTuple):
    """The stars of an exposure, one entry each, with room for more.

    rows: results (columns of `dpm.kernels.quality`); half: box in which each is subtracted; fit_half: its fit box; status:
    outcome of its last fit; touch: how far its own last change reached (-1: nowhere); sky_rms; sky_pixels: NOT_SWEPT before its
    first sweep.
    """

    rows: Any
    half: Any
    fit_half: Any
    status: Any
    touch: Any
    sky_rms: Any
    sky_pixels: Any


@leaf_kernel
def render_half(flux, envelope, noise):
    """Half-width within which a star's light exceeds a tenth of the pixel noise.

    Parameters
    ----------
    flux : float
    envelope : ndarray (MAX_HALF + 2,)
        Largest ePSF value at or beyond each whole radius in pixels.
    noise : float
        Typical scatter of a sky pixel.
    """
    half = MIN_RENDER_HALF
    limit = 0.1 * noise
    while half < MAX_HALF and flux * envelope[half] > limit:
        half += 1
    return half


@leaf_kernel
def touch_half(change, envelope, limit):
    """Half-width within which a change of a star's light (as a flux) is more than ``limit`` a pixel; -1 for nowhere."""
    half = -1
    while half < MAX_HALF and change * envelope[half + 1] > limit:
        half += 1
    return half


@leaf_kernel
def touch(touched, x, y, half, amount):
    """Count a change of the scene in the cells within ``half`` pixels of (x, y)."""
    if half < 0:
        return
    ny, nx = touched.shape
    for j in range(max(int(y - half) // TOUCH_CELL, 0), min(int(y + half + 1) // TOUCH_CELL, ny - 1) + 1):
        for i in range(max(int(x - half) // TOUCH_CELL, 0), min(int(x + half + 1) // TOUCH_CELL, nx - 1) + 1):
            touched[j, i] += amount


@leaf_kernel
def changed_by_others(touched, x, y, half, own_x, own_y, own_half):
    """Has any star but this one changed the scene in the cells of its fit box?

    The star's own last change was counted within own_half pixels of (own_x, own_y).
    """
    ny, nx = touched.shape
    own_j0 = own_j1 = own_i0 = own_i1 = -1
    if own_half >= 0:
        own_j0 = max(int(own_y - own_half) // TOUCH_CELL, 0)
        own_j1 = min(int(own_y + own_half + 1) // TOUCH_CELL, ny - 1)
        own_i0 = max(int(own_x - own_half) // TOUCH_CELL, 0)
        own_i1 = min(int(own_x + own_half + 1) // TOUCH_CELL, nx - 1)
    for j in range(max(int(y - half) // TOUCH_CELL, 0), min(int(y + half + 1) // TOUCH_CELL, ny - 1) + 1):
        for i in range(max(int(x - half) // TOUCH_CELL, 0), min(int(x + half + 1) // TOUCH_CELL, nx - 1) + 1):
            own = 1 if own_j0 <= j <= own_j1 and own_i0 <= i <= own_i1 else 0
            if touched[j, i] > own:
                return True
    return False


@leaf_kernel
def is_taken(occupied, stars, x, y, min_distance):
    """Does a star already stand in this pixel, or within min_distance of this place?"""
    ny, nx = occupied.shape
    iy = int(np.floor(y + 0.5))
    ix = int(np.floor(x + 0.5))
    if occupied[iy, ix] != 0:
        return True
    for v in range(max(iy - 1, 0), min(iy + 2, ny)):
        for u in range(max(ix - 1, 0), min(ix + 2, nx)):
            other = occupied[v, u] - 1
            if other >= 0 and (stars.rows[other, X] - x) ** 2 + (stars.rows[other, Y] - y) ** 2 < min_distance * min_distance:
                return True
    return False


@kernel
def fit_candidates(
    rows, columns, fluxes, halves, planes, library, sky, envelope, noise, threshold, model_error, min_distance,
    stars, n_stars, occupied, touched,
):
    """Fit candidates in the order given and subtract those that are significant.

    Whether they are stars is not asked here: neighbours that are not subtracted yet spoil the shape.

    Parameters
    ----------
    rows, columns, fluxes, halves : ndarray (n,)
        Where to start, and the half-width of each one's fit box.
    planes : Planes
        The exposure; its residual image is changed in place.
    library : Library
        The ePSF.
    sky : Sky
    envelope, noise : ndarray, float
        For `render_half`.
    threshold : float
        Lowest flux over its error.
    model_error : float
        Of the ePSF (`fit_star`).
    min_distance : float
        Pixels; a candidate nearer to a star is taken for its residual.
    stars : Stars
        Entries from n_stars onwards are filled.
    occupied : ndarray (ny, nx), int32, changed in place
        One plus the index of the star whose peak pixel this is; 0 elsewhere.
    touched : ndarray, int32, changed in place
        Counts of changes of the scene in cells of TOUCH_CELL pixels.

    Returns
    -------
    int
        The new number of stars.
    """
    work = workspace()
    result = np.empty(RESULT_SIZE)
    ny, nx = planes.residual.shape
    nothing = (0.0, 0.0, 0.0)
    for k in range(rows.shape[0]):
        if n_stars >= stars.rows.shape[0]:
            break
        iy, ix = int(rows[k] + 0.5), int(columns[k] + 0.5)
        extra = interpolate_mesh(sky.excess, sky.cell, iy, ix)
        start = (columns[k], rows[k], fluxes[k], interpolate_mesh(sky.level, sky.cell, iy, ix))
        half = max(render_half(fluxes[k], envelope, noise), halves[k])
        status = fit_star(
            planes, extra, library, work, nothing, half, start, 0.0, False, halves[k], model_error, FIRST_TOLERANCE, False,
            result,
        )
        if status == FAILED or not result[FLUX] > threshold * result[FLUX_ERROR] or result[N_PIXELS] < MIN_FIT_PIXELS:
            continue
        x, y, flux = result[X], result[Y], result[FLUX]
        if not (-0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5) or is_taken(occupied, stars, x, y, min_distance):
            continue
        stars.rows[n_stars] = result
        stars.half[n_stars] = max(render_half(flux, envelope, noise), halves[k])
        stars.fit_half[n_stars] = halves[k]
        stars.status[n_stars] = status
        stars.touch[n_stars] = touch_half(flux, envelope, COARSE_LEVEL * noise)
        touch(touched, x, y, stars.touch[n_stars], 1)
        occupied[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))] = n_stars + 1
        replace_star(planes.residual, library, work, x, y, 0.0, 0, x, y, flux, stars.half[n_stars])
        n_stars += 1
    return n_stars


@kernel
def refine_stars(
    order, planes, library, sky_mesh, envelope, noise, fit_sky, model_error, sky_spans, final, everyone,
    stars, touched_before, touched,
):
    """One sweep: each star again, with its sky from the annulus and all others subtracted.

    A star whose fit fails keeps its last values, and its status says so.  A star whose annulus has too few clean pixels takes the
    mesh's sky and gets 0 sky pixels.

    Parameters
    ----------
    order : ndarray of int
        Order of the stars.
    planes : Planes
        The exposure; its residual image is changed in place.
    library : Library
        The ePSF.
    sky_mesh : Sky
        The sky to start from.
    envelope, noise : ndarray, float
        For `render_half`.
    fit_sky, model_error : bool, float
        See `fit_star`.
    sky_spans : ndarray (n, 3)
        Pixels of the sky annulus (`dpm.kernels.sky.annulus_spans`).
    final : bool
        Whether this is a last sweep; in others steps end earlier, only large changes count, and no fit is judged.
    everyone : bool
        Fit every star; otherwise only where another star changed something.
    stars : Stars
        Updated.
    touched_before, touched : ndarray, int32
        Changes of the scene since the last sweep began, and those of this sweep (filled).  A star in whose fit box no other star
        changed anything is left as it is: its fit would give the same.
    """
    work = workspace()
    result = np.empty(RESULT_SIZE)
    tolerance = FINE_TOLERANCE if final else FIRST_TOLERANCE
    limit = (FINE_LEVEL if final else COARSE_LEVEL) * noise
    n_annulus = 0
    for k in range(sky_spans.shape[0]):
        n_annulus += sky_spans[k, 2] - sky_spans[k, 1] + 1
    sample = np.empty(n_annulus + 1, np.float32)
    ny, nx = planes.residual.shape
    for m in range(order.shape[0]):
        k = order[m]
        x, y, flux = stars.rows[k, X], stars.rows[k, Y], stars.rows[k, FLUX]
        fit_half = stars.fit_half[k]
        if not everyone and not (
            changed_by_others(touched_before, x, y, fit_half, x, y, stars.touch[k])
            or changed_by_others(touched, x, y, fit_half, x, y, -1)
        ):
            stars.touch[k] = -1
            continue
        iy = min(max(int(np.floor(y + 0.5)), 0), ny - 1)
        ix = min(max(int(np.floor(x + 0.5)), 0), nx - 1)
        scatter = interpolate_mesh(sky_mesh.scatter, sky_mesh.cell, iy, ix)
        guess = interpolate_mesh(sky_mesh.level, sky_mesh.cell, iy, ix)
        extra = interpolate_mesh(sky_mesh.excess, sky_mesh.cell, iy, ix)
        sky, sky_rms, n_sky, n = annulus_sky(planes.residual, planes.good, iy, ix, sky_spans, guess, scatter, sample)
        if n_sky == 0:
            sky, sky_rms, n_sky = clipped_statistics(sample, n)
        if n_sky < MIN_SKY_PIXELS:
            sky, sky_rms, n_sky = guess, scatter, 0
        sky_error = sky_rms / np.sqrt(max(n_sky, MIN_SKY_PIXELS))
        stars.sky_rms[k] = sky_rms
        stars.sky_pixels[k] = n_sky
        old = (x, y, flux)
        start = (x, y, flux, sky)
        status = fit_star(
            planes, extra, library, work, old, stars.half[k], start, sky_error, fit_sky, fit_half, model_error, tolerance, final,
            result,
        )
        if status == FAILED or not result[FLUX] > 0.0:
            stars.status[k] = NOT_CONVERGED
            stars.touch[k] = -1
            continue
        half = max(render_half(result[FLUX], envelope, noise), fit_half)
        replace_star(planes.residual, library, work, x, y, flux, stars.half[k], result[X], result[Y], result[FLUX], half)
        # A shift changes the light by the flux times the ePSF's slope, which is about its value per pixel.
        shift = np.sqrt((result[X] - x) ** 2 + (result[Y] - y) ** 2)
        stars.touch[k] = touch_half(abs(result[FLUX] - flux) + 2.0 * flux * shift, envelope, limit)
        touch(touched, result[X], result[Y], stars.touch[k], 1)
        stars.rows[k] = result
        stars.half[k] = half
        stars.status[k] = status


@kernel
def exchange_epsf(which, residual, library, other, change, stars, envelope, limit, touched):
    """Subtract the stars listed in ``which`` with another ePSF than before, at the same positions and fluxes.

    ``change`` is the largest difference of the two, of their peak: the scene changes by so much of each star's light.
    """
    work = workspace()
    for m in range(which.shape[0]):
        k = which[m]
        x, y, flux = stars.rows[k, X], stars.rows[k, Y], stars.rows[k, FLUX]
        add_star(residual, library, work, x, y, flux, stars.half[k])
        add_star(residual, other, work, x, y, -flux, stars.half[k])
        touch(touched, x, y, touch_half(change * flux, envelope, limit), 1)


@kernel
def remove_stars(which, residual, library, stars, envelope, noise, touched):
    """Put the light of the stars listed in ``which`` back into the residual image, and count the change."""
    work = workspace()
    for m in range(which.shape[0]):
        k = which[m]
        x, y, flux = stars.rows[k, X], stars.rows[k, Y], stars.rows[k, FLUX]
        add_star(residual, library, work, x, y, flux, stars.half[k])
        touch(touched, x, y, touch_half(flux, envelope, COARSE_LEVEL * noise), 1)
