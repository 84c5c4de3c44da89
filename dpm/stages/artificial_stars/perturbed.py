"""ePSFs a little wider, narrower or longer than those that stars are measured with, to put artificial stars in with.

Put in and measured with the same ePSF, bright stars have no errors but those of the noise: a lower limit, since no ePSF is known to
better than some per mille.  These differ from it by a linear stretch of the image plane, as a change of focus or a jitter of the
telescope would make it, and each star has another one in every exposure.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.io.brightness_file import read_epsf
from dpm.kernels import epsf as kernels
from dpm.kernels.patch import Libraries
from dpm.models.epsf import SPLINE_ORDER, GriddedEPSF
from dpm.stages.second_pass.scene import pack_libraries

__all__ = ["VARIANTS", "choose_variants", "perturbed_libraries", "stretched"]

# Wider and narrower, longer along x and along y, longer along the diagonals: xx, xy, yy of the stretch, in pairs, so that the mean
# is the ePSF itself.  sqrt(3) makes the variance of each kind, over the three kinds, one.
VARIANTS = np.sqrt(3.0) * np.array([[1, 0, 1], [-1, 0, -1], [1, 0, -1], [-1, 0, 1], [0, 1, 0], [0, -1, 0]], float)


def stretched(epsf: GriddedEPSF, xx: float, xy: float, yy: float) -> GriddedEPSF:
    """The ePSF with its image plane stretched about the star by 1 + xx along x, 1 + yy along y, sheared by xy; its light stays."""
    matrix = np.array([[1.0 + yy, xy], [xy, 1.0 + xx]])  # rows, columns
    back = np.linalg.inv(matrix)
    middle = (kernels.SAMPLES - 1) / 2
    offset = middle + kernels.PADDING - back @ np.full(2, middle)
    out = np.empty(epsf.samples.shape)
    for node in np.ndindex(*epsf.samples.shape[:2]):
        out[node] = ndimage.affine_transform(
            epsf.coefficients[node].astype(float), back, offset, out.shape[2:], order=SPLINE_ORDER, mode="mirror", prefilter=False
        )
    return replace(epsf, samples=out / np.linalg.det(matrix))


@functools.lru_cache(maxsize=1)
def perturbed_libraries(files: tuple[tuple[str, str], ...], epsf_error: float) -> Libraries:
    """All variants of the ePSFs of these pairs of files (library, change with brightness or ""), those of one library together."""
    epsfs = [read_epsf(*pair) for pair in files]
    return pack_libraries([stretched(epsf, *epsf_error * kind) for epsf in epsfs for kind in VARIANTS])


def choose_variants(library: NDArray[np.int64], star_key: np.uint64, exposure_keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Numbers in `perturbed_libraries` of the ePSFs that a star has in each exposure, whose libraries' numbers are given."""
    kind = ((star_key ^ exposure_keys) % np.uint64(len(VARIANTS))).astype(np.int64)
    return np.asarray(library * len(VARIANTS) + kind)
