"""Joint Gauss-Newton fit of a few overlapping stars: positions and fluxes of all of them (and the sky) in one normal matrix.

The rules are those of a single fit (`dpm.kernels.fit`): pixels of the 5 x 5 boxes at the peaks, weights from the model.  Steps are
damped (Levenberg-Marquardt), because the chi-square of two stars less than a FWHM apart is far from a parabola.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpm.kernels.epsf import evaluate_box, sample_start
from dpm.kernels.fit import MAX_OFF_PEAK
from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.linear import invert_positive
from dpm.kernels.quality import CHI_MODEL_ERROR, SKY, X, Y
from dpm.kernels.render import WINDOW_COLUMN, WINDOW_ROW, load_window

MAX_GROUP = 6  # stars fitted together; a longer chain is cut, and its parts are fitted in turns
GROUP_HALF = 3  # half-width about each star within which its light is followed while the group is fitted
FIT_HALF = 2  # half-width of the fit box about each star (Anderson & King 2000)
SIDE = 2 * GROUP_HALF + 1
MAX_SIDE = 2 * MAX_GROUP + SIDE  # members are less than two pixels from the next one
MAX_PARAMETERS = 3 * MAX_GROUP + 1
FITTED, FAILED = -1, -2  # outcomes of a group's fit
GROUP_ITERATIONS = 15
GROUP_TRIALS = 5  # dampings tried for one step
GROUP_STEP = 0.25  # pixels a step may move a star: the ePSFs overlap, so that a longer one is no longer linear
GROUP_SHIFT = 1.0  # pixels a star may move in all; farther, it is another star's light that it follows
MAX_GROUP_CHI = 1.5  # with a twentieth of the light allowed as ePSF error, a joint fit worse than this is of no stars: a galaxy
SETTLED = 0.01  # gain in chi-square of a last step: a tenth of an error, squared; what is left after it is far less


class GroupWork(NamedTuple):
    """Work space of a group: pixels of its window, each member's ePSF, the normal matrix, and the members' values."""

    data: Any
    other: Any
    value: Any
    slope_x: Any
    slope_y: Any
    normal: Any
    inverse: Any
    gradient: Any
    sky_gradient: Any
    step: Any
    slope: Any
    factor: Any
    weight: Any
    start: Any
    before: Any
    position: Any
    peak_x: Any
    peak_y: Any


@kernel
def group_workspace():
    """Fresh work arrays."""
    return GroupWork(
        np.empty((MAX_SIDE, MAX_SIDE)),
        np.empty((MAX_SIDE, MAX_SIDE)),
        np.empty((MAX_GROUP, SIDE, SIDE), np.float32),
        np.empty((MAX_GROUP, SIDE, SIDE), np.float32),
        np.empty((MAX_GROUP, SIDE, SIDE), np.float32),
        np.zeros((MAX_PARAMETERS, MAX_PARAMETERS)),
        np.zeros((MAX_PARAMETERS, MAX_PARAMETERS)),
        np.zeros(MAX_PARAMETERS),
        np.zeros(MAX_PARAMETERS),
        np.zeros(MAX_PARAMETERS),
        np.zeros(MAX_PARAMETERS),
        np.zeros((MAX_PARAMETERS, MAX_PARAMETERS)),
        np.zeros((MAX_SIDE, MAX_SIDE)),
        np.zeros((MAX_GROUP, 4)),
        np.zeros((MAX_GROUP, 4)),
        np.zeros((MAX_GROUP, 4)),
        np.zeros(MAX_GROUP, np.int64),
        np.zeros(MAX_GROUP, np.int64),
    )


@leaf_kernel
def evaluate_members(work, group, n):
    """psi and its gradients of every member about its own peak pixel, from the window in ``work``."""
    row, column = work.held[WINDOW_ROW], work.held[WINDOW_COLUMN]
    for k in range(n):
        start_y, phase_y = sample_start(group.peak_y[k] - GROUP_HALF - group.position[k, 1])
        start_x, phase_x = sample_start(group.peak_x[k] - GROUP_HALF - group.position[k, 0])
        evaluate_box(
            work.window, row, column, start_y, start_x, phase_y, phase_x, SIDE, SIDE, work.value, work.slope_x, work.slope_y,
            work.scratch,
        )  # fmt: skip
        for j in range(SIDE):
            for i in range(SIDE):
                group.value[k, j, i] = work.value[j, i]
                group.slope_x[k, j, i] = work.slope_x[j, i]
                group.slope_y[k, j, i] = work.slope_y[j, i]


@leaf_kernel
def gather_group(planes, group, n, y0, x0, height, width):
    """Window of the group: the image without the other stars, and the light of those others."""
    residual, scene, good = planes.residual, planes.scene, planes.good
    ny, nx = residual.shape
    for j in range(height):
        for i in range(width):
            v, u = y0 + j, x0 + i
            inside = 0 <= v < ny and 0 <= u < nx
            own = 0.0
            for k in range(n):
                a, b = v - group.peak_y[k] + GROUP_HALF, u - group.peak_x[k] + GROUP_HALF
                if 0 <= a < SIDE and 0 <= b < SIDE:
                    own += group.position[k, 2] * group.value[k, a, b]
            group.data[j, i] = residual[v, u] + own if inside and good[v, u] else np.nan
            group.other[j, i] = max(scene[v, u] - residual[v, u] - own, 0.0) if inside else 0.0


@leaf_kernel
def group_weights(planes, extra, group, n, y0, x0, height, width, sky, model_error2):
    """Inverse variances from the model over the union of the members' fit boxes, 0 elsewhere; returns the pixels used."""
    variance_read, poisson_factor, flat_variance = planes.variance_read, planes.poisson_factor, planes.flat_variance
    used = 0
    for j in range(height):
        for i in range(width):
            group.weight[j, i] = 0.0
            if np.isnan(group.data[j, i]):
                continue
            v, u = y0 + j, x0 + i
            inside = False
            star = 0.0
            for k in range(n):
                a, b = v - group.peak_y[k] + GROUP_HALF, u - group.peak_x[k] + GROUP_HALF
                if 0 <= a < SIDE and 0 <= b < SIDE:
                    inside |= abs(a - GROUP_HALF) <= FIT_HALF and abs(b - GROUP_HALF) <= FIT_HALF
                    star += group.position[k, 2] * group.value[k, a, b]
            if not inside:
                continue
            used += 1
            light = max(star + sky + group.other[j, i], 0.0)
            variance = variance_read[v, u] + extra + poisson_factor[v, u] * light + flat_variance[v, u] * light * light
            group.weight[j, i] = 1.0 / (variance + model_error2 * star * star)
    return used


@leaf_kernel
def group_equations(group, n, y0, x0, height, width, sky):
    """Normal matrix (lower triangle) and gradient in (x, y, flux) of each member, then the sky; returns chi-square."""
    normal, gradient, sky_gradient, slope = group.normal, group.gradient, group.sky_gradient, group.slope
    size = 3 * n + 1
    for a in range(size):
        gradient[a] = 0.0
        sky_gradient[a] = 0.0
        for b in range(size):
            normal[a, b] = 0.0
    slope[3 * n] = 1.0
    chi2 = 0.0
    for j in range(height):
        for i in range(width):
            weight = group.weight[j, i]
            if weight == 0.0:
                continue
            residual = group.data[j, i] - sky
            for k in range(n):
                a, b = y0 + j - group.peak_y[k] + GROUP_HALF, x0 + i - group.peak_x[k] + GROUP_HALF
                near = 0 <= a < SIDE and 0 <= b < SIDE
                flux = group.position[k, 2]
                slope[3 * k] = flux * group.slope_x[k, a, b] if near else 0.0
                slope[3 * k + 1] = flux * group.slope_y[k, a, b] if near else 0.0
                slope[3 * k + 2] = group.value[k, a, b] if near else 0.0
                residual -= flux * slope[3 * k + 2]
            chi2 += weight * residual * residual
            for a in range(size):
                weighted = weight * slope[a]
                if weighted == 0.0:
                    continue
                gradient[a] += weighted * residual
                sky_gradient[a] += weighted
                for b in range(a + 1):
                    normal[a, b] += weighted * slope[b]
    return chi2


@leaf_kernel
def group_chi2(group, n, y0, x0, height, width, sky):
    """Chi-square of the members' present values with the weights as they are."""
    chi2 = 0.0
    for j in range(height):
        for i in range(width):
            if group.weight[j, i] == 0.0:
                continue
            residual = group.data[j, i] - sky
            for k in range(n):
                a, b = y0 + j - group.peak_y[k] + GROUP_HALF, x0 + i - group.peak_x[k] + GROUP_HALF
                if 0 <= a < SIDE and 0 <= b < SIDE:
                    residual -= group.position[k, 2] * group.value[k, a, b]
            chi2 += group.weight[j, i] * residual * residual
    return chi2


@leaf_kernel
def try_step(group, n, fit_sky, sky, damping):
    """Put position + step into ``position`` (the old one goes to ``before``); returns the sky and the expected gain.

    The step comes from the normal matrix with its diagonal raised by ``damping``; a negative gain means that it is singular.
    """
    parameters = 3 * n + 1 if fit_sky else 3 * n
    for a in range(parameters):
        for b in range(a):
            group.factor[a, b] = group.normal[a, b]
        group.factor[a, a] = group.normal[a, a] * (1.0 + damping)
    if not invert_positive(group.factor, parameters, group.inverse):
        return sky, -1.0
    gain = 0.0
    longest = 0.0
    for a in range(parameters):
        total = 0.0
        for b in range(parameters):
            total += group.inverse[a, b] * group.gradient[b]
        group.step[a] = total
        gain += total * group.gradient[a]
        if a < 3 * n and a % 3 != 2:
            longest = max(longest, abs(total))
    scale = min(GROUP_STEP / longest, 1.0) if longest > 0.0 else 1.0
    for k in range(n):
        for c in range(3):
            group.before[k, c] = group.position[k, c]
            group.position[k, c] += scale * group.step[3 * k + c]
        # A flux may not change sign in one step: the position would turn round with it.
        group.position[k, 2] = max(group.position[k, 2], 0.1 * group.before[k, 2])
    return (sky + scale * group.step[3 * n] if fit_sky else sky), gain


@leaf_kernel
def iterate_group(planes, extra, work, group, n, y0, x0, height, width, sky, fit_sky, model_error):
    """Damped Gauss-Newton steps of a whole group (Levenberg-Marquardt); ``group.position`` is updated.

    ``group.inverse`` holds the covariance afterwards.  Returns the sky, NaN if the fit failed.
    """
    parameters = 3 * n + 1 if fit_sky else 3 * n
    damping = 0.0
    for _ in range(GROUP_ITERATIONS):
        moved = False
        for k in range(n):
            x, y = group.position[k, 0], group.position[k, 1]
            if max(abs(x - group.start[k, 0]), abs(y - group.start[k, 1])) > GROUP_SHIFT:
                return np.nan
            if max(abs(x - group.peak_x[k]), abs(y - group.peak_y[k])) > MAX_OFF_PEAK:
                group.peak_x[k], group.peak_y[k] = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
                moved = True
        if moved:
            evaluate_members(work, group, n)
        if group_weights(planes, extra, group, n, y0, x0, height, width, sky, model_error * model_error) < parameters + 1:
            return np.nan
        chi2 = group_equations(group, n, y0, x0, height, width, sky)
        better = False
        settled = False
        for _ in range(GROUP_TRIALS):
            new_sky, gain = try_step(group, n, fit_sky, sky, damping)
            if gain < 0.0:
                return np.nan
            evaluate_members(work, group, n)
            new_chi2 = group_chi2(group, n, y0, x0, height, width, new_sky)
            settled = gain < SETTLED and damping < 0.1
            better = settled or new_chi2 < chi2
            settled |= better and chi2 - new_chi2 < SETTLED
            if better:
                sky = new_sky
                damping = 0.1 * damping if damping > 1e-3 else 0.0
                break
            damping = max(10.0 * damping, 0.01)
            for k in range(n):
                for c in range(3):
                    group.position[k, c] = group.before[k, c]
        if not better:
            return np.nan
        if settled:
            return sky
    return np.nan


@leaf_kernel
def start_group(planes, library, work, group, stars, members, begin, n):
    """Load the members' rows, the ePSF and the pixels; returns the window (y0, x0, height, width) and the mean sky."""
    sky = 0.0
    for k in range(n):
        star = members[begin + k]
        for c in range(3):
            group.position[k, c] = group.start[k, c] = stars.rows[star, c]
        group.peak_x[k] = int(np.floor(stars.rows[star, X] + 0.5))
        group.peak_y[k] = int(np.floor(stars.rows[star, Y] + 0.5))
        sky += stars.rows[star, SKY] / n
    y0 = y1 = group.peak_y[0]
    x0 = x1 = group.peak_x[0]
    for k in range(1, n):
        y0, y1 = min(y0, group.peak_y[k]), max(y1, group.peak_y[k])
        x0, x1 = min(x0, group.peak_x[k]), max(x1, group.peak_x[k])
    y0, x0 = y0 - GROUP_HALF, x0 - GROUP_HALF
    height, width = y1 + GROUP_HALF - y0 + 1, x1 + GROUP_HALF - x0 + 1
    # One ePSF for the whole group: over its few pixels the blend of the nodes does not change.
    load_window(library, work, group.peak_y[0], group.peak_x[0], GROUP_HALF)
    evaluate_members(work, group, n)
    gather_group(planes, group, n, y0, x0, height, width)
    return y0, x0, height, width, sky


@leaf_kernel
def group_misfit(group, n, y0, x0, height, width, sky, allowed_error):
    """Reduced chi of the joint fit, with an error of the ePSF of ``allowed_error`` of the light."""
    chi2 = 0.0
    used = 0
    for j in range(height):
        for i in range(width):
            if group.weight[j, i] == 0.0:
                continue
            star = 0.0
            for k in range(n):
                a, b = y0 + j - group.peak_y[k] + GROUP_HALF, x0 + i - group.peak_x[k] + GROUP_HALF
                if 0 <= a < SIDE and 0 <= b < SIDE:
                    star += group.position[k, 2] * group.value[k, a, b]
            residual = group.data[j, i] - sky - star
            floor = allowed_error * (star + group.other[j, i])
            chi2 += residual * residual / (1.0 / group.weight[j, i] + floor * floor)
            used += 1
    return np.sqrt(chi2 / max(used - 3 * n, 1))


@leaf_kernel
def member_variance(group, n, fit_sky, iy, ix, variance):
    """Variance that the joint fit's errors give the model in the pixels of the fit box about (iy, ix)."""
    parameters = 3 * n + 1 if fit_sky else 3 * n
    slope = group.slope
    slope[3 * n] = 1.0
    for j in range(2 * FIT_HALF + 1):
        for i in range(2 * FIT_HALF + 1):
            for k in range(n):
                a, b = iy - FIT_HALF + j - group.peak_y[k] + GROUP_HALF, ix - FIT_HALF + i - group.peak_x[k] + GROUP_HALF
                near = 0 <= a < SIDE and 0 <= b < SIDE
                flux = group.position[k, 2]
                slope[3 * k] = flux * group.slope_x[k, a, b] if near else 0.0
                slope[3 * k + 1] = flux * group.slope_y[k, a, b] if near else 0.0
                slope[3 * k + 2] = group.value[k, a, b] if near else 0.0
            total = 0.0
            for a in range(parameters):
                row = 0.5 * group.inverse[a, a] * slope[a]
                for b in range(a):
                    row += group.inverse[a, b] * slope[b]
                total += 2.0 * row * slope[a]
            variance[j, i] = total


@leaf_kernel
def least_significant(group, n, threshold):
    """Place of the member with the lowest flux over its joint error, where that is below the threshold; -1 otherwise."""
    weakest = -1
    least = threshold
    for k in range(n):
        significance = group.position[k, 2] / np.sqrt(group.inverse[3 * k + 2, 3 * k + 2])
        if significance < least:
            weakest = k
            least = significance
    return weakest


@leaf_kernel
def fit_group(planes, extra, library, work, group, stars, members, begin, n, fit_sky, model_error, threshold):
    """Fit one group jointly, starting from the members' rows.

    Returns
    -------
    int
        FITTED; FAILED, and nothing is changed; or the place in the group of a member (0, 1, ...) whose light the others explain.
    """
    y0, x0, height, width, sky = start_group(planes, library, work, group, stars, members, begin, n)
    sky = iterate_group(planes, extra, work, group, n, y0, x0, height, width, sky, fit_sky, model_error)
    if not np.isfinite(sky):
        return FAILED
    ny, nx = planes.residual.shape
    for k in range(n):
        if not (-0.5 <= group.position[k, 0] < nx - 0.5 and -0.5 <= group.position[k, 1] < ny - 0.5):
            return FAILED
        group.position[k, 3] = sky if fit_sky else stars.rows[members[begin + k], SKY]
    weakest = least_significant(group, n, threshold)
    if weakest >= 0:
        return weakest
    allowed = max(CHI_MODEL_ERROR, 3.0 * model_error)
    return FITTED if group_misfit(group, n, y0, x0, height, width, sky, allowed) < MAX_GROUP_CHI else FAILED


@leaf_kernel
def judge_unfitted(planes, extra, library, work, group, stars, members, begin, n, fit_sky, model_error, threshold):
    """What to do with a group whose joint fit failed: covariance of the members' present rows, into ``group.inverse``.

    Returns
    -------
    int
        Place of a member that cannot be told from the others and should go (the faintest where the matrix is singular);
        FAILED if all may stay, with the errors of that covariance.
    """
    y0, x0, height, width, sky = start_group(planes, library, work, group, stars, members, begin, n)
    group_weights(planes, extra, group, n, y0, x0, height, width, sky, model_error * model_error)
    group_equations(group, n, y0, x0, height, width, sky)
    if invert_positive(group.normal, 3 * n + 1 if fit_sky else 3 * n, group.inverse):
        weakest = least_significant(group, n, threshold)
        return weakest if weakest >= 0 else FAILED
    faintest = 0
    for k in range(1, n):
        if group.position[k, 2] < group.position[faintest, 2]:
            faintest = k
    return faintest
