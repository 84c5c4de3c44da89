"""Sky level and its scatter: on a coarse mesh for finding, in an annulus for measuring."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel, leaf_kernel

CLIP_SIGMA = 2.5  # pixels further than this from the median leave the sky sample
CLIP_ROUNDS = 4
CUT_NORMAL_SIGMA = 0.9546  # standard deviation of a unit normal cut at 2.5 sigma
FIXED_POINT = 512  # parts of a standard deviation; the squares of 1024 clipped pixels add up to less than 2^31
BINS = 64  # of the histogram that gives a first median and scatter
BIN_REACH = 4.0  # standard deviations either side of the guess that it covers
MIN_SKY_PIXELS = 20  # below this a sky from the annulus is not trusted
WELL_SAMPLED = 32  # pixels of a cell from which its scatter is known to an eighth


@kernel
def clipped_statistics(values, n):
    """Sigma-clipped mean and scatter of the first n entries (which are reordered).

    Starts from the median and the MAD, then clips about the mean of what is left.

    Parameters
    ----------
    values : ndarray
        Sample; sorted in place.
    n : int
        How many entries count.

    Returns
    -------
    mean, sigma : float
        NaN for an empty sample.  sigma is corrected for the clipping of a normal distribution.
    used : int
        Entries left.
    """
    if n == 0:
        return np.nan, np.nan, 0
    sample = values[:n]
    sample.sort()
    center = 0.5 * (sample[(n - 1) // 2] + sample[n // 2])
    # Quartiles of the sorted sample give the scatter without a second sort (normal: 1.349 sigma apart).
    spread = (sample[(3 * n) // 4] - sample[n // 4]) / 1.349
    lo = 0
    hi = n
    for _ in range(CLIP_ROUNDS):
        low = center - CLIP_SIGMA * spread
        high = center + CLIP_SIGMA * spread
        while lo < hi and sample[lo] < low:
            lo += 1
        while hi > lo and sample[hi - 1] > high:
            hi -= 1
        while lo > 0 and sample[lo - 1] >= low:
            lo -= 1
        while hi < n and sample[hi] <= high:
            hi += 1
        if hi - lo < 3:
            return center, spread, hi - lo
        total = 0.0
        square = 0.0
        for k in range(lo, hi):
            difference = sample[k] - center
            total += difference
            square += difference * difference
        count = hi - lo
        mean = total / count
        variance = square / count - mean * mean
        new_spread = np.sqrt(max(variance, 0.0)) / CUT_NORMAL_SIGMA
        center += mean
        if new_spread <= 0.0 or abs(new_spread - spread) < 1e-3 * spread:
            spread = new_spread
            break
        spread = new_spread
    return center, spread, hi - lo


@leaf_kernel
def clipped_mean(values, n, center, spread):
    """Sigma-clipped mean and scatter of the first n entries, from a first guess of both; no sorting.

    Returns
    -------
    mean, sigma : float
    used : int
        0 where the guess was so wrong that less than half of the entries stay; then the guess is returned.
    """
    mean = center
    sigma = spread
    used = 0
    if not sigma > 0.0:
        return center, spread, 0
    whole = np.int32(FIXED_POINT)
    half_range = np.float32(2 * CLIP_SIGMA * FIXED_POINT) + np.float32(0.5)
    offset = np.int32(2 * CLIP_SIGMA * FIXED_POINT)
    one, zero = np.int32(1), np.int32(0)
    for _ in range(CLIP_ROUNDS):
        low = np.float32(mean - CLIP_SIGMA * sigma)
        high = np.float32(mean + CLIP_SIGMA * sigma)
        middle = np.float32(mean)
        scale = np.float32(FIXED_POINT / sigma)
        # Sums of whole numbers come out the same in any order, so that the loop runs in vectors.
        total = zero
        square = zero
        count = zero
        for k in range(np.uintp(n)):
            v = values[k]
            inside = (v >= low) & (v <= high)
            moved = (v - middle) * scale if inside else np.float32(0.0)
            d = np.int32(np.int32(moved + half_range) - offset)
            total = np.int32(total + d)
            square = np.int32(square + np.int32(d * d))
            count = np.int32(count + (one if inside else zero))
        if 2 * count < n:
            return center, spread, 0
        shift = sigma * total / (count * np.float64(whole))
        variance = sigma * sigma * square / (count * np.float64(whole) * whole) - shift * shift
        new_sigma = np.sqrt(max(variance, 0.0)) / CUT_NORMAL_SIGMA
        # Half a per cent in sigma moves the mean by less than a hundredth of its error.
        settled = abs(new_sigma - sigma) < 0.005 * sigma and abs(shift) < 0.01 * sigma
        used = count
        mean += shift
        sigma = new_sigma
        if settled or not sigma > 0.0:
            break
    return mean, sigma, used


@leaf_kernel
def binned_quartiles(values, n, center, spread, counts):
    """Median and scatter (from the quartiles) of the first n entries, by a histogram about a guess of both.

    Returns
    -------
    median, sigma : float
        sigma is 0 where the histogram does not hold the quartiles well inside, or there was no guess.
    """
    if not spread > 0.0:
        return center, 0.0
    for b in range(BINS):
        counts[b] = 0
    low = center - BIN_REACH * spread
    scale = BINS / (2.0 * BIN_REACH * spread)
    for k in range(n):
        place = (np.float64(values[k]) - low) * scale
        counts[int(min(max(place, 0.0), BINS - 1.0))] += 1
    if counts[0] > n // 8 or counts[BINS - 1] > n // 5:
        return center, 0.0
    first = middle = last = -1.0
    total = 0
    for b in range(BINS):
        count = counts[b]
        more = total + count
        if first < 0.0 and 4 * more >= n:
            first = b + (0.25 * n - total) / count
        if middle < 0.0 and 2 * more >= n:
            middle = b + (0.5 * n - total) / count
        if last < 0.0 and 4 * more >= 3 * n:
            last = b + (0.75 * n - total) / count
        total = more
    return low + middle / scale, (last - first) / (1.349 * scale)


@leaf_kernel
def sample_cell(values, scene, good, y0, y1, x0, x1, stride, most, sample):
    """Good pixels of a cell that hold at most ``most`` of subtracted light; returns how many, and their light summed."""
    n = 0
    total = 0.0
    for y in range(y0, y1, stride):
        for x in range(x0, x1, stride):
            light = scene[y, x] - values[y, x]
            if good[y, x] and light <= most:
                sample[n] = values[y, x]
                total += light
                n += 1
    return n, total


@kernel
def mesh_sky(values, scene, good, cell, stride, most_light, known, level, scatter, light):
    """Clipped sky level and scatter in square cells.

    Pixels that the photon noise of subtracted stars makes noisier than the sky are left out, as far as enough others remain.

    Parameters
    ----------
    values : ndarray (ny, nx), float32
        Image, the stars known so far subtracted.
    scene : ndarray (ny, nx), float32
        Image with all stars.
    good : ndarray (ny, nx), bool
        Pixels with weight.
    cell : int
        Side of a cell in pixels.
    stride : int
        Every stride-th pixel on both axes is looked at; all where these are too few.
    most_light : ndarray (my, mx), float32
        Subtracted light up to which a pixel counts as sky.
    known : bool
        Whether ``level`` and ``scatter`` hold an earlier result, as a first guess; otherwise the cell before is the guess.
    level, scatter : ndarray (my, mx), float32
        Filled; a cell without enough good pixels gets NaN.
    light : ndarray (my, mx), float32
        Filled with the mean subtracted light of the pixels that counted.
    """
    ny, nx = values.shape
    my, mx = level.shape
    sample = np.empty(cell * cell, np.float32)
    counts = np.zeros(BINS, np.int64)
    mean = sigma = np.nan
    for j in range(my):
        for i in range(mx):
            y0, x0 = j * cell, i * cell
            y1, x1 = min(y0 + cell, ny), min(x0 + cell, nx)
            n, total = sample_cell(values, scene, good, y0, y1, x0, x1, stride, most_light[j, i], sample)
            if stride > 1 and n < WELL_SAMPLED:
                n, total = sample_cell(values, scene, good, y0, y1, x0, x1, 1, most_light[j, i], sample)
            if n < MIN_SKY_PIXELS:
                n, total = sample_cell(values, scene, good, y0, y1, x0, x1, 1, np.inf, sample)
            light[j, i] = total / max(n, 1)
            if n < MIN_SKY_PIXELS:
                level[j, i] = np.nan
                scatter[j, i] = np.nan
                continue
            if known:
                mean, sigma = np.float64(level[j, i]), np.float64(scatter[j, i])
            used = 0
            # A guess saves sorting the pixels; only the histogram's place depends on it.
            middle, spread = binned_quartiles(sample, n, mean, sigma, counts)
            if spread > 0.0:
                mean, sigma, used = clipped_mean(sample, n, middle, spread)
            if used == 0:
                mean, sigma, used = clipped_statistics(sample, n)
            level[j, i] = mean
            scatter[j, i] = sigma


@kernel
def mesh_values(mesh, cell, y, x, out):
    """`interpolate_mesh` at many pixels."""
    for k in range(out.shape[0]):
        out[k] = interpolate_mesh(mesh, cell, y[k], x[k])


@kernel
def fill_empty_cells(level, scatter):
    """Give cells without a value the mean of all cells that have one; returns how many were filled."""
    total = 0.0
    spread = 0.0
    count = 0
    empty = 0
    for j in range(level.shape[0]):
        for i in range(level.shape[1]):
            if np.isfinite(level[j, i]):
                total += level[j, i]
                spread += scatter[j, i]
                count += 1
            else:
                empty += 1
    for j in range(level.shape[0]):
        for i in range(level.shape[1]):
            if not np.isfinite(level[j, i]):
                level[j, i] = total / max(count, 1)
                scatter[j, i] = spread / max(count, 1)
    return empty


@leaf_kernel
def interpolate_mesh(mesh, cell, y, x):
    """Bilinear value of a mesh of cell centres at pixel (y, x); constant beyond the outermost centres."""
    my, mx = mesh.shape
    v = min(max((y + 0.5) / cell - 0.5, 0.0), my - 1.0)
    u = min(max((x + 0.5) / cell - 0.5, 0.0), mx - 1.0)
    j = min(int(v), max(my - 2, 0))
    i = min(int(u), max(mx - 2, 0))
    j1 = min(j + 1, my - 1)
    i1 = min(i + 1, mx - 1)
    b = v - j
    a = u - i
    return (1 - b) * ((1 - a) * mesh[j, i] + a * mesh[j, i1]) + b * ((1 - a) * mesh[j1, i] + a * mesh[j1, i1])


@leaf_kernel
def mesh_row(mesh, cell, y, out):
    """`interpolate_mesh` at all pixels of row y, into ``out`` (nx,)."""
    my, mx = mesh.shape
    nx = out.shape[0]
    v = min(max((y + 0.5) / cell - 0.5, 0.0), my - 1.0)
    j = min(int(v), max(my - 2, 0))
    j1 = min(j + 1, my - 1)
    b = np.float32(v - j)
    a = np.float32(1.0) - b
    left = a * mesh[j, 0] + b * mesh[j1, 0]
    half = cell // 2
    for x in range(min(half, nx)):
        out[np.uintp(x)] = left
    for i in range(1, mx + 1):
        k = min(i, mx - 1)
        right = a * mesh[j, k] + b * mesh[j1, k]
        slope = (right - left) / np.float32(cell)
        first = (i - 1) * cell + half
        for x in range(np.uintp(max(min(cell, nx - first), 0))):
            out[np.uintp(first) + x] = left + slope * (np.float32(x) + np.float32(0.5))
        left = right


@kernel
def annulus_spans(inner, outer):
    """The pixels with inner <= r < outer as spans of rows: an int array (n, 3) of (dy, first dx, last dx)."""
    reach = int(np.ceil(outer))
    out = np.empty((2 * (2 * reach + 1), 3), np.int64)
    n = 0
    for dy in range(-reach, reach + 1):
        start = reach + 1
        for dx in range(-reach, reach + 2):
            r = np.sqrt(dy * dy + dx * dx)
            inside = inner <= r < outer and dx <= reach
            if inside and start > reach:
                start = dx
            elif not inside and start <= reach:
                out[n, 0] = dy
                out[n, 1] = start
                out[n, 2] = dx - 1
                n += 1
                start = reach + 1
    return out[:n].copy()


@leaf_kernel
def annulus_sky(residual, good, iy, ix, spans, guess, guess_scatter, sample):
    """Clipped sky about a pixel from an image whose stars are subtracted.

    Parameters
    ----------
    residual, good : ndarray (ny, nx)
        Image minus all stars, and the pixels with weight.
    iy, ix : int
        The pixel.
    spans : ndarray (n, 3)
        The annulus (`annulus_spans`).
    guess, guess_scatter : float
        Sky and scatter to start from, say the mesh's.
    sample : ndarray
        Work space for all pixels of the annulus and one more.

    Returns
    -------
    level, sigma : float
        Mean of the clipped pixels and their scatter (NaN without pixels).
    used : int
        Pixels that the mean rests on; 0 where the guess was so wrong that less than half of the annulus stayed.
    n : int
        Pixels of the annulus, in ``sample``.
    """
    ny, nx = residual.shape
    n = 0
    for k in range(spans.shape[0]):
        y = iy + spans[k, 0]
        if y < 0 or y >= ny:
            continue
        first, last = max(ix + spans[k, 1], 0), min(ix + spans[k, 2], nx - 1)
        v = np.uintp(y)
        for x in range(np.uintp(first), np.uintp(max(last + 1, first))):
            # Written always, kept if good: no branch.
            sample[np.uintp(n)] = residual[v, x]
            n += np.int64(good[v, x])
    level, sigma, used = clipped_mean(sample, n, guess, guess_scatter)
    return level, sigma, used, n
