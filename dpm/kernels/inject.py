"""Artificial stars into the pixels of a patch: light, its photon noise and saturation, the same bits whatever is done when."""

from __future__ import annotations

import numpy as np

from dpm.kernels.bundles import MAX_HALF
from dpm.kernels.jit import kernel, leaf_kernel
from dpm.kernels.patch import box_workspace, is_covered, load_box, place, sky_at

__all__ = ["NOISE_STREAMS", "inject_stars", "scatter_at"]

NOISE_STREAMS = 2  # random numbers that a deviate of a pixel takes at most
LARGEST_POISSON = 60.0  # counts: beyond, a normal deviate rounded to whole counts has the same distribution to a percent
TWO_PI = 2.0 * np.pi
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@leaf_kernel
def mixed(z):
    """A 64-bit number from another, all bits mixed (the finaliser of splitmix64, Steele et al. 2014)."""
    z = z + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@leaf_kernel
def uniform(key, number):
    """A uniform deviate above 0 and below 1, of a key and a number."""
    return (float(mixed(key ^ mixed(np.uint64(number))) >> np.uint64(11)) + 0.5) / 9007199254740992.0


@leaf_kernel
def normal(key, number):
    """A normal deviate, of a key and two numbers from ``number`` on."""
    return np.sqrt(-2.0 * np.log(uniform(key, number))) * np.cos(TWO_PI * uniform(key, number + 1))


@leaf_kernel
def poisson(mean, key, number):
    """A Poisson deviate of a mean, of a key and two numbers from ``number`` on."""
    if mean > LARGEST_POISSON:
        return max(np.floor(mean + np.sqrt(mean) * normal(key, number) + 0.5), 0.0)
    left = uniform(key, number)
    count = 0.0
    probability = np.exp(-mean)
    while left > probability and count < 1000.0:
        left -= probability
        count += 1.0
        probability *= mean / count
    return count


@kernel
def inject_stars(patch, libraries, x, y, flux, star_keys, exposure_keys, saturation, pixels, variance, lost):
    """Add artificial stars to the pixels of all exposures of a patch.

    Each star has its own ePSF on each exposure, photon noise of the exposure's own counts, and the error of the flat field.
    A deviate depends on star, exposure and pixel of the detector alone.

    Parameters
    ----------
    patch : Patch
        Pixels and geometry before, which stay as they are.
    libraries : Libraries
    x, y : ndarray (n,)
        Master positions.
    flux : ndarray (n, B)
    star_keys : ndarray (n,), uint64
        Of the seed and the star's number.
    exposure_keys : ndarray (E,), uint64
    saturation : ndarray (E,)
        Pixel value (sky included) beyond which a pixel is lost; infinite where unknown.
    pixels, variance : ndarray, float32, changed in place
        As ``patch.scene`` and ``patch.variance_read``.
    lost : ndarray, bool, changed in place
        Set where a pixel was lost.
    """
    work = box_workspace()
    for k in range(x.shape[0]):
        for e in range(patch.first.shape[0]):
            raw_x, raw_y, scale, _, _, _, _ = place(patch, e, x[k], y[k])
            light = flux[k, patch.band[e]] * scale
            if not light > 0.0 or not is_covered(patch, e, raw_x, raw_y, MAX_HALF):
                continue
            iy, ix = int(np.floor(raw_y + 0.5)), int(np.floor(raw_x + 0.5))
            load_box(patch, libraries, e, raw_x, raw_y, light, iy, ix, MAX_HALF, False, work)
            key = mixed(star_keys[k] ^ exposure_keys[e])
            for j in range(2 * MAX_HALF + 1):
                row = iy - MAX_HALF + j
                if row < 0 or row >= patch.ny[e]:
                    continue
                for i in range(2 * MAX_HALF + 1):
                    column = ix - MAX_HALF + i
                    if column < 0 or column >= patch.nx[e]:
                        continue
                    at = patch.first[e] + row * patch.nx[e] + column
                    if not np.isfinite(variance[at]):
                        continue
                    value = light * work.value[j, i]
                    number = NOISE_STREAMS * ((row + patch.y_origin[e]) * 65536 + column + patch.x_origin[e])
                    unit = patch.poisson_factor[at]
                    if value > 0.0:
                        flat = np.sqrt(patch.flat_variance[at]) * normal(exposure_keys[e], number) * value
                        if unit > 0.0:
                            value = unit * poisson(value / unit, key, number)
                        value += flat
                    pixels[at] += np.float32(value)
                    if pixels[at] > saturation[e]:
                        pixels[at] = 0.0
                        variance[at] = np.inf
                        lost[at] = True


@kernel
def scatter_at(patch, x, y, out):
    """Mean scatter of the sky over the exposures of each band that hold a place; NaN where none does.

    Parameters
    ----------
    patch : Patch
    x, y : ndarray (n,)
        Master positions.
    out : ndarray (n, B), changed in place
    """
    count = np.zeros(out.shape[1], np.int64)
    for k in range(x.shape[0]):
        out[k] = 0.0
        count[:] = 0
        for e in range(patch.first.shape[0]):
            raw_x, raw_y, _, _, _, _, _ = place(patch, e, x[k], y[k])
            ny, nx = patch.ny[e], patch.nx[e]
            if not (-0.5 <= raw_x < nx - 0.5 and -0.5 <= raw_y < ny - 0.5):
                continue
            iy, ix = int(np.floor(raw_y + 0.5)), int(np.floor(raw_x + 0.5))
            out[k, patch.band[e]] += sky_at(patch.scatter, e, patch.sky_cell, iy, ix, ny, nx)
            count[patch.band[e]] += 1
        for b in range(out.shape[1]):
            out[k, b] = out[k, b] / count[b] if count[b] > 0 else np.nan
