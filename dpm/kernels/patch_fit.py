"""Joint fit of a group of stars on a patch: one position and one flux a band for each star, over every pixel of every exposure.

Weighted Gauss-Newton on the normal equations of all exposures at once (DESIGN section 6, "Second pass"); the pixels are the 5 x 5
boxes
at each star's peak in each exposure, the weights come from the model (`dpm.kernels.fit`).  Stars outside the group are taken as
subtracted; members share one normal matrix, so that their covariance is in every error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpm.kernels.bundles import MAX_BOX, MAX_HALF
from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.linear import invert_positive
from dpm.kernels.patch import FIT_HALF, box_workspace, change_in_exposure, is_covered, load_box, place
from dpm.kernels.patch_normal import accumulate
from dpm.kernels.patch_touch import touch_others

MAX_GROUP = 6  # stars fitted together; a longer chain is cut, and its parts are fitted in turns
GROUP_HALF = 3  # half-width about each member within which its light is followed while a group is fitted
MAX_SIDE = 25  # pixels of a group's window; also the box of a saturated star
FITTED, NOT_CONVERGED, FAILED = 0, 1, 2
MAX_SHIFT = 1.5  # master pixels a star may move in one fit: farther, it follows another star's light
SINGLE_STEP, GROUP_STEP = 0.5, 0.25  # master pixels a step may move a star
FIRST_DAMPING = 1e-2  # of a group's first step, and after a step that made the fit worse
SETTLED = 0.01  # gain of chi-square of a last step: a tenth of an error, squared
QUIET = 0.02  # of the pixel noise: a smaller change of a star's brightest pixel is not rendered


class PatchStars(NamedTuple):
    """Stars of a patch, S of them in B bands.

    x, y (S,): master pixels.  flux, flux_error (S, B).  xx, xy, yy (S,): covariance of the position.  half (S,): half-width of
    its fit box.  sky (S, B): local sky above the exposures' meshes.  status (S,): outcome of its last fit.  touch (S,): how far
    the changes of other stars since its last fit moved its flux, at most, over its error.
    """

    x: Any
    y: Any
    flux: Any
    flux_error: Any
    xx: Any
    xy: Any
    yy: Any
    half: Any
    sky: Any
    status: Any
    touch: Any


class GroupWork(NamedTuple):
    """Work space of a group's fit; ``raw`` (E, members, 7) as `place` returns it, ``peak`` (E, members, 2) the box centres (y, x),
    ``corner`` and ``size`` (E, 2) the windows (y, x), ``data`` (E, side, side) the image without the other stars.
    """

    data: Any
    raw: Any
    peak: Any
    corner: Any
    size: Any
    value: Any
    slope_x: Any
    slope_y: Any
    start: Any
    position: Any
    trial: Any
    normal: Any
    damped: Any
    inverse: Any
    gradient: Any
    step: Any
    slope: Any
    sky: Any


@kernel
def group_workspace(n_exposures, n_bands):
    """Fresh work arrays for this many exposures and bands."""
    size = MAX_GROUP * (2 + n_bands)
    return GroupWork(
        np.empty((n_exposures, MAX_SIDE, MAX_SIDE), np.float32),
        np.zeros((n_exposures, MAX_GROUP, 7)),
        np.zeros((n_exposures, MAX_GROUP, 2), np.int64),
        np.zeros((n_exposures, 2), np.int64),
        np.zeros((n_exposures, 2), np.int64),
        np.zeros((MAX_GROUP, MAX_BOX, MAX_BOX), np.float32),
        np.zeros((MAX_GROUP, MAX_BOX, MAX_BOX), np.float32),
        np.zeros((MAX_GROUP, MAX_BOX, MAX_BOX), np.float32),
        np.zeros((MAX_GROUP, 2 + n_bands)),
        np.zeros((MAX_GROUP, 2 + n_bands)),
        np.zeros((MAX_GROUP, 2 + n_bands)),
        np.zeros((size, size)),
        np.zeros((size, size)),
        np.zeros((size, size)),
        np.zeros(size),
        np.zeros(size),
        np.zeros((MAX_GROUP, 3)),
        np.zeros(n_bands),
    )


@leaf_kernel
def load_group(patch, libraries, box, group, stars, guess, members, begin, n, half):
    """Windows of a group in all exposures: the image without the other stars.  False if a window is too large.

    ``guess`` (S, B): fluxes where the fit begins; those of ``stars`` are subtracted from the residuals.  ``half``: half-width
    about each member within which its light is followed.
    """
    any_used = False
    bands = stars.flux.shape[1]
    for b in range(bands):
        group.sky[b] = 0.0
        for k in range(n):
            group.sky[b] += stars.sky[members[begin + k], b] / n
    for k in range(n):
        m = members[begin + k]
        group.start[k, 0] = stars.x[m]
        group.start[k, 1] = stars.y[m]
        for b in range(bands):
            group.start[k, 2 + b] = guess[m, b]
    for e in range(patch.first.shape[0]):
        ny, nx = patch.ny[e], patch.nx[e]
        y0 = x0 = 1 << 30
        y1 = x1 = -1
        for k in range(n):
            raw_x, raw_y, scale, xx, xy, yx, yy = place(patch, e, group.start[k, 0], group.start[k, 1])
            fit = half if n == 1 else FIT_HALF
            if not is_covered(patch, e, raw_x, raw_y, fit):
                group.raw[e, k, 2] = 0.0
                continue
            iy, ix = int(np.floor(raw_y + 0.5)), int(np.floor(raw_x + 0.5))
            group.raw[e, k, 0], group.raw[e, k, 1], group.raw[e, k, 2] = raw_x, raw_y, scale
            group.raw[e, k, 3], group.raw[e, k, 4], group.raw[e, k, 5], group.raw[e, k, 6] = xx, xy, yx, yy
            group.peak[e, k, 0], group.peak[e, k, 1] = iy, ix
            y0, x0 = min(y0, max(iy - fit, 0)), min(x0, max(ix - fit, 0))
            y1, x1 = max(y1, min(iy + fit, ny - 1)), max(x1, min(ix + fit, nx - 1))
        if y1 < y0 or x1 < x0:
            group.size[e, 0] = 0
            continue
        height, width = y1 - y0 + 1, x1 - x0 + 1
        if height > MAX_SIDE or width > MAX_SIDE:
            return False
        any_used = True
        group.corner[e, 0], group.corner[e, 1] = y0, x0
        group.size[e, 0], group.size[e, 1] = height, width
        for j in range(height):
            row = patch.first[e] + (y0 + j) * nx + x0
            for i in range(width):
                group.data[e, j, i] = patch.residual[row + i]
        for k in range(n):
            light = stars.flux[members[begin + k], patch.band[e]] * group.raw[e, k, 2]
            if light == 0.0:
                continue
            iy, ix = group.peak[e, k, 0], group.peak[e, k, 1]
            load_box(patch, libraries, e, group.raw[e, k, 0], group.raw[e, k, 1], light, iy, ix, half, False, box)
            f = np.float32(light)
            for j in range(max(y0, iy - half), min(y1, iy + half) + 1):
                for i in range(max(x0, ix - half), min(x1, ix + half) + 1):
                    group.data[e, j - y0, i - x0] += f * box.value[j - iy + half, i - ix + half]
    return any_used


@leaf_kernel
def solve_step(group, n, width, damping):
    """Damped step into ``group.step``; a parameter without information stays.  False if singular."""
    size = n * width
    for a in range(size):
        free = group.normal[a, a] > 0.0
        for b in range(a):
            group.damped[a, b] = group.normal[a, b] if free else 0.0
        group.damped[a, a] = group.normal[a, a] * (1.0 + damping) if free else 1.0
        group.step[a] = group.gradient[a] if free else 0.0
        if not free:
            for c in range(a + 1, size):
                group.normal[c, a] = 0.0
    if not invert_positive(group.damped, size, group.inverse):
        return False
    for a in range(size):
        total = 0.0
        for b in range(size):
            total += group.inverse[a, b] * group.step[b]
        group.damped[a, a] = total
    for a in range(size):
        group.step[a] = group.damped[a, a]
    return True


@leaf_kernel
def take_step(group, n, width, limit):
    """Trial positions: the step, shortened so that no star moves by more than ``limit``."""
    largest = 0.0
    for k in range(n):
        largest = max(largest, abs(group.step[k * width]), abs(group.step[k * width + 1]))
    scale = min(1.0, limit / largest) if largest > 0.0 else 1.0
    for k in range(n):
        for p in range(width):
            step = group.step[k * width + p]
            group.trial[k, p] = group.position[k, p] + (scale * step if p < 2 else step)


@leaf_kernel
def fit_group(patch, libraries, box, group, stars, guess, members, begin, n, model_error, iterations):
    """Fit the members begin .. begin + n - 1 jointly; positions, fluxes and covariances of ``stars`` are updated, residuals too.

    Parameters
    ----------
    patch, libraries, box, group
        See `Patch`, `Libraries`, `box_workspace`, `group_workspace`.
    stars : PatchStars
    guess : ndarray (S, B)
        Fluxes where the fit begins; ``stars.flux`` is what the residuals are without.
    members : ndarray of int
    model_error : float
        Error of the ePSF relative to its light.
    iterations : int
        Most steps.

    Returns
    -------
    int
        FITTED, NOT_CONVERGED or FAILED (nothing changed).
    """
    bands = stars.flux.shape[1]
    width = 2 + bands
    half = min(stars.half[members[begin]], MAX_HALF) if n == 1 else GROUP_HALF
    if not load_group(patch, libraries, box, group, stars, guess, members, begin, n, half):
        return FAILED
    error2 = model_error * model_error
    damping = 0.0 if n == 1 else FIRST_DAMPING
    limit = SINGLE_STEP if n == 1 else GROUP_STEP
    status = NOT_CONVERGED
    best = np.inf
    for k in range(n):
        for p in range(width):
            group.trial[k, p] = group.start[k, p]
    for _ in range(iterations):
        chi2 = accumulate(patch, libraries, box, group, n, half, bands, error2, group.trial)
        # Weights change with the model: a small rise is no worse fit.
        if chi2 <= best + SETTLED * (1.0 + 1e-3 * best) or best == np.inf:
            best = chi2
            for k in range(n):
                for p in range(width):
                    group.position[k, p] = group.trial[k, p]
            if not solve_step(group, n, width, damping):
                return FAILED
            damping = 0.1 * damping if damping > 1e-4 else 0.0
            gain = 0.0
            for a in range(n * width):
                gain += group.step[a] * group.gradient[a]
            take_step(group, n, width, limit)
            if gain < SETTLED:
                # So short a step needs no proof.
                for k in range(n):
                    for p in range(width):
                        group.position[k, p] = group.trial[k, p]
                status = FITTED
                break
        else:
            # Back to the best so far, and a shorter step from its normal equations.
            damping = max(10.0 * damping, FIRST_DAMPING)
            accumulate(patch, libraries, box, group, n, half, bands, error2, group.position)
            if not solve_step(group, n, width, damping):
                return FAILED
            take_step(group, n, width, limit)
        far = False
        for k in range(n):
            off = max(abs(group.trial[k, 0] - group.start[k, 0]), abs(group.trial[k, 1] - group.start[k, 1]))
            far = far or not off <= MAX_SHIFT
        if far:
            break
    if damping > 0.0 and not solve_step(group, n, width, 0.0):
        return FAILED
    store_group(patch, libraries, box, group, stars, members, begin, n, width, status)
    return status


@leaf_kernel
def store_group(patch, libraries, box, group, stars, members, begin, n, width, status):
    """Take over the fitted values, and bring the residual images up to date where they changed visibly."""
    bands = width - 2
    for k in range(n):
        m = members[begin + k]
        a = k * width
        stars.xx[m], stars.xy[m], stars.yy[m] = group.inverse[a, a], group.inverse[a, a + 1], group.inverse[a + 1, a + 1]
        for b in range(bands):
            known = group.normal[a + 2 + b, a + 2 + b] > 0.0
            stars.flux_error[m, b] = np.sqrt(group.inverse[a + 2 + b, a + 2 + b]) if known else np.nan
        stars.status[m] = status
        old_x, old_y = stars.x[m], stars.y[m]
        x, y = group.position[k, 0], group.position[k, 1]
        shift = np.sqrt((x - old_x) ** 2 + (y - old_y) ** 2)
        visible = False
        for e in range(patch.first.shape[0]):
            b = patch.band[e]
            old, new = stars.flux[m, b], group.position[k, 2 + b]
            limit = QUIET * patch.noise[e]
            visible = visible or (abs(new - old) + 2.0 * abs(old) * shift) * group.raw[e, k, 2] > limit
        if not visible:
            continue
        for e in range(patch.first.shape[0]):
            b = patch.band[e]
            change_in_exposure(patch, libraries, box, e, old_x, old_y, stars.flux[m, b], x, y, group.position[k, 2 + b])
        stars.x[m], stars.y[m] = x, y
        for b in range(bands):
            stars.flux[m, b] = group.position[k, 2 + b]


@kernel
def sweep(patch, libraries, stars, members, first, model_error, iterations, least, fall):
    """Fit all groups in turn, each with all other stars subtracted.

    Parameters
    ----------
    patch, libraries, stars
        Residuals and stars are updated.
    members, first : ndarray of int
        Group g holds members[first[g]] .. members[first[g + 1] - 1] (`dpm.kernels.patch_groups.link_groups`).
    model_error : float
    iterations : int
        Most steps a fit.
    least : float
        Only groups of which a member was touched by more than this when its turn comes.
    fall : ndarray (reach,)
        Share of a star's light that counts for another at each whole distance, master pixels.
    """
    box = box_workspace()
    group = group_workspace(patch.first.shape[0], stars.flux.shape[1])
    by_x = np.argsort(stars.x[: members.shape[0]])
    rank = np.empty(members.shape[0], np.int64)
    for k in range(members.shape[0]):
        rank[by_x[k]] = k
    before = np.empty((MAX_GROUP, 2 + stars.flux.shape[1]))
    for g in range(first.shape[0] - 1):
        begin, n = first[g], first[g + 1] - first[g]
        touched = 0.0
        for k in range(n):
            touched = max(touched, stars.touch[members[begin + k]])
        if not touched > least:
            continue
        for k in range(n):
            m = members[begin + k]
            stars.touch[m] = 0.0
            before[k, 0], before[k, 1] = stars.x[m], stars.y[m]
            for b in range(stars.flux.shape[1]):
                before[k, 2 + b] = stars.flux[m, b]
        apart = fit_group(patch, libraries, box, group, stars, stars.flux, members, begin, n, model_error, iterations) == FAILED
        if apart:
            for k in range(n):
                one = begin + k
                status = FAILED
                if n > 1:
                    status = fit_group(patch, libraries, box, group, stars, stars.flux, members, one, 1, model_error, iterations)
                if status == FAILED:
                    stars.status[members[one]] = FAILED
        touch_others(stars, by_x, rank, fall, members, begin, n, before)
        for k in range(n):
            m = members[begin + k]
            if not apart:
                # Its companions were fitted with it.
                stars.touch[m] = 0.0
            if stars.status[m] == NOT_CONVERGED:
                stars.touch[m] = np.inf
