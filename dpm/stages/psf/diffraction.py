"""A first guess of the ePSF from optics alone: an obscured circular aperture over the filter's band, through the pixel.

Airy pattern of an annulus (Born & Wolf): amplitude 2 J1(v)/v - eps^2 2 J1(eps v)/(eps v), v = pi D r / lambda.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import j1

from dpm.kernels.epsf import OVERSAMPLING, SAMPLES

__all__ = ["diffraction_epsf"]

APERTURES = {"HST": (2.4, 0.33), "JWST": (6.5, 0.11)}  # diameter in metres, obscured fraction of it
BAND_HALF_WIDTH = 0.1  # of the wavelength: the mean half-width of wide filters
FINE = 5  # points per sample while integrating over the pixel


def diffraction_epsf(wavelength: float, telescope: str, pixel_scale: float, blur: float) -> NDArray[np.float64]:
    """A diffraction ePSF on the STDPSF grid, normalised to 1 on it.

    Parameters
    ----------
    wavelength : float
        Microns.
    telescope : str
        ``HST`` or ``JWST``.
    pixel_scale : float
        Arcsec.
    blur : float
        Gaussian sigma in pixels of everything but diffraction: jitter, charge diffusion, small aberrations.

    Returns
    -------
    ndarray (101, 101)
    """
    diameter, obscured = APERTURES[telescope]
    side = SAMPLES * FINE
    offset = (np.arange(side) - (side - 1) / 2) / (FINE * OVERSAMPLING)
    radius = np.radians(np.hypot(offset[:, None], offset[None, :]) * pixel_scale / 3600.0)
    fine = np.zeros((side, side))
    for factor in np.linspace(1 - BAND_HALF_WIDTH, 1 + BAND_HALF_WIDTH, 7):
        v = np.maximum(np.pi * diameter * radius / (wavelength * factor * 1e-6), 1e-9)
        amplitude = 2 * j1(v) / v - obscured**2 * 2 * j1(obscured * v) / (obscured * v)
        fine += (amplitude / (1 - obscured**2)) ** 2 / factor**2
    fine = ndimage.gaussian_filter(fine, blur * FINE * OVERSAMPLING, mode="nearest")
    # A pixel is FINE * OVERSAMPLING = 20 points wide: the even box is the mean of the two odd-centred ones.
    width = FINE * OVERSAMPLING
    kernel = np.ones(width + 1)
    kernel[[0, -1]] = 0.5
    for axis in (0, 1):
        fine = ndimage.convolve1d(fine, kernel, axis=axis, mode="nearest")
    samples = fine[FINE // 2 :: FINE, FINE // 2 :: FINE]
    return np.asarray(samples / (samples.sum() / OVERSAMPLING**2))
