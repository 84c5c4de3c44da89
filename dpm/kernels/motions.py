"""How common a motion, and a colour with it, is among a sample of stars."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel

__all__ = ["pair_density"]

# Beyond this many squared widths a star of the sample adds nothing that matters.
FARTHEST = 60.0


@kernel
def pair_density(sample, kernel2, sample_colour, motion, error2, offset, width, chance, stray, out):
    """Mean over the sample of normal densities of motion, times the colour's over that of chance.

    Parameters
    ----------
    sample, kernel2, sample_colour : ndarray (k, 2), (k,), (k,)
        Motions, squares of their kernels, and colours; NaN where a colour is unknown.
    motion, error2 : ndarray (n, 2), (n,)
        Of the pairs that are asked for.
    offset, width, chance : ndarray (n,)
        Their colours, the colours' kernels, and the density of what chance brings; NaN: the colour says nothing.
    stray : float
        Share of colours that come from chance.
    out : ndarray (n,)
        Filled.
    """
    normal, normal2 = 1.0 / np.sqrt(2.0 * np.pi), 0.5 / np.pi
    for i in range(len(motion)):
        total = 0.0
        for k in range(len(sample)):
            sigma2 = kernel2[k] + error2[i]
            dx, dy = motion[i, 0] - sample[k, 0], motion[i, 1] - sample[k, 1]
            off2 = (dx * dx + dy * dy) / sigma2
            if off2 > FARTHEST:
                continue
            near = np.exp(-0.5 * off2) * normal2 / sigma2
            off = (offset[i] - sample_colour[k]) / width[i]
            if np.isfinite(off):
                near *= stray + (1.0 - stray) * np.exp(-0.5 * off * off) * normal / (width[i] * chance[i])
            total += near
        out[i] = total / len(sample)
