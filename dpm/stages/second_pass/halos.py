"""Light of bright stars beyond the ePSF library: learnt from the exposure's own stars, subtracted, and what may be left of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.render import subtract_stars
from dpm.kernels.scene import render_half
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag, StarFlag
from dpm.stages.first_pass.halos import (
    BRIGHT_FACTOR,
    TEMPLATE_HALF,
    add_halo_template,
    add_saturated_halos,
    halo_profile,
    pick_halo_stars,
    structure_of,
)

__all__ = ["without_halos"]

INNER, FULL = 9.0, 11.5  # pixels: from here, and fully from there, the halo is subtracted; nearer the library holds the light
LEFT_OVER = 1.5  # of the halo's structure may be left, after its subtraction, as light that looks like stars
FAINTEST_LIGHT = 0.1  # of the pixel noise: a halo below this is left alone


def without_halos(
    image: ExposureImage, epsf: GriddedEPSF, detections: dict[str, NDArray], threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An exposure without the halos of its bright stars, and the flux below which what is left of them explains a detection.

    Parameters
    ----------
    image : ExposureImage
    epsf : GriddedEPSF
    detections : dict of ndarray
        ``x, y`` (raw pixels), ``flux`` and ``flags`` of the first pass.
    threshold : float
        Significance in this exposure of the faintest star that matters.

    Returns
    -------
    sci, limit : ndarray (ny, nx), float32
    """
    good = (image.dq & int(PixelFlag.BAD)) == 0
    noise = float(np.sqrt(np.median(image.var_read[good]) + np.median(image.poisson_factor[good]) * _sky(image, good)))
    x, y = detections["x"] - image.x_origin, detections["y"] - image.y_origin
    flux = np.asarray(detections["flux"], float)
    known = np.isfinite(x) & np.isfinite(y) & (flux > 0)
    x, y, flux, flags = x[known], y[known], flux[known], detections["flags"][known]
    rows = np.zeros((len(x), columns.RESULT_SIZE))
    rows[:, columns.X], rows[:, columns.Y], rows[:, columns.FLUX] = x, y, flux
    saturated = (flags & int(StarFlag.SATURATED)) != 0
    smallest = threshold * noise / float(epsf.matched_profile[1, 1])
    sci = np.where(good, image.sci, np.float32(0.0))
    limit = np.zeros(image.shape, np.float32)
    pick = pick_halo_stars(y, x, np.where(saturated, 0.0, flux), BRIGHT_FACTOR * smallest)
    if pick.size:
        residual = sci.copy()
        half = np.array([render_half(value, epsf.envelope, noise) for value in flux], np.int64)
        subtract_stars(residual, epsf.library(image.x_origin, image.y_origin), x, y, flux, half)
        profile = halo_profile(residual, good, rows[pick])
        _subtract(sci, profile, rows, noise)
        add_halo_template(limit, structure_of(profile), rows, epsf, smallest, LEFT_OVER)
    add_saturated_halos(limit, image, rows[saturated], epsf)
    return sci, limit


def _sky(image: ExposureImage, good: NDArray[np.bool_]) -> float:
    """A first guess of the sky level."""
    return max(float(np.median(image.sci[good])), 0.0) if good.any() else 0.0


def _subtract(sci: NDArray[np.float32], profile: NDArray[np.float64], stars: NDArray, noise: float) -> None:
    """Subtract the halo of every star bright enough for it to show."""
    ny, nx = sci.shape
    rows, cols = np.mgrid[: len(profile), : len(profile)] - TEMPLATE_HALF
    radius = np.hypot(rows, cols)
    outer = profile * np.clip((radius - INNER) / (FULL - INNER), 0.0, 1.0) * (radius <= TEMPLATE_HALF)
    for row in stars[stars[:, columns.FLUX] * np.abs(outer).max() > FAINTEST_LIGHT * noise]:
        y = int(np.floor(row[columns.Y] + 0.5)) - TEMPLATE_HALF
        x = int(np.floor(row[columns.X] + 0.5)) - TEMPLATE_HALF
        v0, v1, u0, u1 = max(y, 0), min(y + len(profile), ny), max(x, 0), min(x + len(profile), nx)
        if v0 < v1 and u0 < u1:
            sci[v0:v1, u0:u1] -= (row[columns.FLUX] * outer[v0 - y : v1 - y, u0 - x : u1 - x]).astype(np.float32)
