"""Stars so close together that fitting them in turns does not converge in a few sweeps: found, fitted jointly, put in the scene.

Two stars 1.2 pixels apart, fitted in turns, hand light to and fro: after the sweeps of a first pass their positions are two to
three times worse than those of a joint fit, and the single fits' errors know nothing of it.
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.bundles import MAX_HALF, workspace
from dpm.kernels.fit import CONVERGED, NOT_CONVERGED, load_star
from dpm.kernels.group_fit import (
    FAILED,
    FIT_HALF,
    FITTED,
    MAX_GROUP,
    fit_group,
    group_workspace,
    judge_unfitted,
    member_variance,
)
from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.quality import (
    CHI_MODEL_ERROR,
    FLUX,
    FLUX_ERROR,
    RESULT_SIZE,
    SKY,
    X_ERROR,
    XY_COVARIANCE,
    Y_ERROR,
    X,
    Y,
    assess_fit,
)
from dpm.kernels.render import WINDOW_HALF, add_star, star_values
from dpm.kernels.scene import NOT_SWEPT, render_half, touch, touch_half
from dpm.kernels.sky import MIN_SKY_PIXELS, interpolate_mesh

LINK = 1.75  # pixels; farther apart, fits in turns converge and the neighbour adds less than a tenth to the errors


@kernel
def link_groups(rows, usable, order, shape, members, first):
    """Friends of friends: stars linked by distances below LINK, at most MAX_GROUP together.

    Parameters
    ----------
    rows : ndarray (n, RESULT_SIZE)
        The stars, array pixels.
    usable : ndarray (n,), bool
        Stars that may join a group.
    order : ndarray (n,), int
        Order in which groups are begun.
    shape : tuple of int
        (ny, nx) of the image.
    members : ndarray (n,), int
        Filled with the stars of all groups of two and more, one group after the other.
    first : ndarray (n + 1,), int
        Filled with where each group begins in ``members``, and where the last one ends.

    Returns
    -------
    int
        Number of groups.
    """
    cells_y, cells_x = shape[0] // 2 + 1, shape[1] // 2 + 1
    head = np.full((cells_y, cells_x), -1, np.int32)
    follower = np.full(rows.shape[0], -1, np.int32)
    taken = np.zeros(rows.shape[0], np.bool_)
    for k in range(rows.shape[0]):
        taken[k] = not usable[k]
        if usable[k]:
            j = min(max(int(rows[k, Y]) // 2, 0), cells_y - 1)
            i = min(max(int(rows[k, X]) // 2, 0), cells_x - 1)
            follower[k] = head[j, i]
            head[j, i] = k
    groups = 0
    end = 0
    first[0] = 0
    for m in range(order.shape[0]):
        if taken[order[m]]:
            continue
        begin = end
        members[end] = order[m]
        taken[order[m]] = True
        end += 1
        reader = begin
        while reader < end:
            k = members[reader]
            reader += 1
            j = min(max(int(rows[k, Y]) // 2, 0), cells_y - 1)
            i = min(max(int(rows[k, X]) // 2, 0), cells_x - 1)
            for v in range(max(j - 1, 0), min(j + 2, cells_y)):
                for u in range(max(i - 1, 0), min(i + 2, cells_x)):
                    other = head[v, u]
                    while other >= 0:
                        distance2 = (rows[k, X] - rows[other, X]) ** 2 + (rows[k, Y] - rows[other, Y]) ** 2
                        if not taken[other] and distance2 < LINK * LINK and end - begin < MAX_GROUP:
                            taken[other] = True
                            members[end] = other
                            end += 1
                        other = follower[other]
        if end - begin == 1:
            end = begin
            continue
        groups += 1
        first[groups] = end
    return groups


@leaf_kernel
def take_over(
    planes, extra, library, work, group, stars, members, begin, n, fit_sky, model_error, envelope, noise, level, touched, row
):
    """Put a group's solution into the residual image and the members' rows, and assess each member."""
    residual = planes.residual
    for k in range(n):
        star = members[begin + k]
        x, y, flux = stars.rows[star, X], stars.rows[star, Y], stars.rows[star, FLUX]
        new_x, new_y, new_flux = group.position[k, 0], group.position[k, 1], group.position[k, 2]
        add_star(residual, library, work, x, y, flux, stars.half[star])
        stars.half[star] = max(render_half(new_flux, envelope, noise), FIT_HALF)
        add_star(residual, library, work, new_x, new_y, -new_flux, stars.half[star])
        shift = np.sqrt((new_x - x) ** 2 + (new_y - y) ** 2)
        stars.touch[star] = touch_half(abs(new_flux - flux) + 2.0 * flux * shift, envelope, level * noise)
        touch(touched, new_x, new_y, stars.touch[star], 1)
        stars.rows[star, X], stars.rows[star, Y], stars.rows[star, FLUX] = new_x, new_y, new_flux
    outer = min(FIT_HALF + 1, MAX_HALF)
    inverse = group.inverse
    for k in range(n):
        star = members[begin + k]
        x, y, flux = group.position[k, 0], group.position[k, 1], group.position[k, 2]
        iy, ix = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        load_star(planes, extra, library, work, iy, ix, outer, x, y, flux, stars.half[star])
        star_values(work, x, y, work.held[WINDOW_HALF], work.value)
        v0 = v1 = v2 = 0.0
        if not fit_sky:
            for b in range(3 * n):
                v0 += inverse[3 * k, b] * group.sky_gradient[b]
                v1 += inverse[3 * k + 1, b] * group.sky_gradient[b]
                v2 += inverse[3 * k + 2, b] * group.sky_gradient[b]
        s2 = 0.0
        if stars.sky_pixels[star] > NOT_SWEPT:
            s2 = stars.sky_rms[star] ** 2 / max(stars.sky_pixels[star], MIN_SKY_PIXELS)
        row[X], row[Y], row[FLUX], row[SKY] = x, y, flux, group.position[k, 3]
        row[X_ERROR] = np.sqrt(inverse[3 * k, 3 * k] + s2 * v0 * v0)
        row[Y_ERROR] = np.sqrt(inverse[3 * k + 1, 3 * k + 1] + s2 * v1 * v1)
        row[XY_COVARIANCE] = inverse[3 * k, 3 * k + 1] + s2 * v0 * v1
        row[FLUX_ERROR] = np.sqrt(inverse[3 * k + 2, 3 * k + 2] + s2 * v2 * v2)
        allowed = max(CHI_MODEL_ERROR, 3.0 * model_error)
        parameters = 4 if fit_sky else 3
        member_variance(group, n, fit_sky, iy, ix, work.fitted_variance)
        assess_fit(
            work.pixels, work.value, work.held[WINDOW_HALF], iy, ix, outer, FIT_HALF, parameters, work.fitted_variance, model_error,
            allowed, row,
        )  # fmt: skip
        for c in range(RESULT_SIZE):
            stars.rows[star, c] = row[c]
        stars.status[star] = CONVERGED


@leaf_kernel
def drop_member(residual, library, work, stars, star, envelope, noise, level, touched):
    """Put back the light of a star that its neighbours explain, and set its flux to zero."""
    x, y, flux = stars.rows[star, X], stars.rows[star, Y], stars.rows[star, FLUX]
    add_star(residual, library, work, x, y, flux, stars.half[star])
    touch(touched, x, y, touch_half(flux, envelope, level * noise), 1)
    stars.rows[star, FLUX] = 0.0
    stars.touch[star] = -1
    stars.status[star] = NOT_CONVERGED


@leaf_kernel
def move_to_end(members, begin, n, which):
    """Swap the member at ``which`` with the last of the n members of a group."""
    last = members[begin + n - 1]
    members[begin + n - 1] = members[begin + which]
    members[begin + which] = last


@leaf_kernel
def widen_errors(group, stars, members, begin, n):
    """Where a joint fit failed the single fits' values stay, but with no errors smaller than a joint fit would have."""
    for k in range(n):
        star = members[begin + k]
        for c, column in ((0, X_ERROR), (1, Y_ERROR), (2, FLUX_ERROR)):
            joint = np.sqrt(group.inverse[3 * k + c, 3 * k + c])
            stars.rows[star, column] = max(stars.rows[star, column], joint)
        stars.status[star] = NOT_CONVERGED


@kernel
def refine_groups(
    members, first, planes, library, sky_mesh, envelope, noise, fit_sky, model_error, threshold, level, stars, done, touched
):
    """Fit every group jointly, the rest of the scene taken as subtracted.

    Parameters
    ----------
    members, first : ndarray of int
        Groups from `link_groups`, ``first`` cut to their number plus one.
    planes : Planes
        The exposure; its residual image is changed in place.
    library : Library
        The ePSF.
    sky_mesh : Sky
        For the variance that the noise planes lack.
    envelope, noise : ndarray, float
        For `dpm.kernels.scene.render_half`.
    fit_sky, model_error : bool, float
        See `dpm.kernels.fit.fit_star`; the sky is common to a group.
    threshold : float
        A member whose flux is less significant than this beside the others is dropped: its flux becomes zero.
    level : float
        What counts as a change of the scene (`dpm.kernels.scene.refine_stars`).
    stars : Stars
        Updated; rows hold errors of the joint fit.
    done : ndarray (n_stars,), bool
        Set for the members of groups: their errors are no longer those of single fits.
    touched : ndarray, int32
        Changes of the scene (filled).
    """
    work = workspace()
    group = group_workspace()
    row = np.empty(RESULT_SIZE)
    for g in range(first.shape[0] - 1):
        begin, n = first[g], first[g + 1] - first[g]
        y, x = stars.rows[members[begin], Y], stars.rows[members[begin], X]
        extra = interpolate_mesh(sky_mesh.excess, sky_mesh.cell, y, x)
        for k in range(n):
            done[members[begin + k]] = True
        outcome = 0
        while outcome >= 0 and n > 0:
            outcome = fit_group(planes, extra, library, work, group, stars, members, begin, n, fit_sky, model_error, threshold)
            if outcome == FAILED:
                outcome = judge_unfitted(
                    planes, extra, library, work, group, stars, members, begin, n, fit_sky, model_error, threshold
                )
                if outcome == FAILED:
                    widen_errors(group, stars, members, begin, n)
            if outcome >= 0:
                drop_member(planes.residual, library, work, stars, members[begin + outcome], envelope, noise, level, touched)
                move_to_end(members, begin, n, outcome)
                n -= 1
        if outcome == FITTED:
            take_over(
                planes, extra, library, work, group, stars, members, begin, n, fit_sky, model_error, envelope, noise, level,
                touched, row,
            )  # fmt: skip
