"""Cosmic rays: straight tracks of random direction and length through the pixels, with the charge spread along them."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["add_tracks", "cosmic_rays"]


@njit(cache=True, nogil=True)
def add_tracks(
    image: NDArray[np.float64],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    angles: NDArray[np.float64],
    lengths: NDArray[np.float64],
    charges: NDArray[np.float64],
) -> None:
    """Add tracks of charge to the image, in place; positions in its pixels, steps of a quarter of a pixel."""
    ny, nx = image.shape
    for k in range(xs.size):
        steps = int(lengths[k] * 4) + 1
        share = charges[k] / steps
        for s in range(steps):
            i = int(np.rint(xs[k] + 0.25 * s * np.cos(angles[k])))
            j = int(np.rint(ys[k] + 0.25 * s * np.sin(angles[k])))
            if 0 <= i < nx and 0 <= j < ny:
                image[j, i] += share


def cosmic_rays(
    shape: tuple[int, int],
    rate: float,
    exptime: float,
    pixel_size: float,
    generator: np.random.Generator,
    thickness: float = 1.5,
    charge: float = 1500.0,
) -> NDArray[np.float64]:
    """Charge from cosmic rays in one exposure.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    rate : float
        Hits per cm^2 and second.
    exptime : float
        Seconds.
    pixel_size : float
        cm.
    generator : numpy.random.Generator
        Source of chance.
    thickness : float
        Typical length of a track in pixels (the detector's depth over a pixel's size).
    charge : float
        Median electrons of a hit.

    Returns
    -------
    ndarray (ny, nx)
        Electrons.
    """
    image = np.zeros(shape)
    ny, nx = shape
    n = generator.poisson(rate * exptime * ny * nx * pixel_size**2)
    x, y = generator.uniform(-0.5, nx - 0.5, n), generator.uniform(-0.5, ny - 0.5, n)
    angle = generator.uniform(0, 2 * np.pi, n)
    # isotropic rays through a slab: length = thickness * tan(angle of incidence), cut at grazing incidence
    cosine = np.sqrt(generator.uniform(0.0015, 1, n))
    length = np.minimum(thickness * np.sqrt(1 - cosine**2) / cosine, 60.0)
    electrons = charge * np.exp(0.7 * generator.normal(size=n)) * np.sqrt(1 + (length / thickness) ** 2)
    add_tracks(image, x, y, angle, length, electrons)
    return image
