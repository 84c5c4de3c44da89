"""Colour images of three, or two, images on one grid (Lupton et al. 2004), for anyone with FITS files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import robust_width

__all__ = ["ColourScale", "colour_image", "colour_planes", "learn_colour_scale"]

GREEN_RED_WEIGHT = 0.25  # of two images the green one is their weighted mean, 1:3 red to blue
BRIGHT_SIGMA = 20.0  # times its sky's scatter: pixels of stars, which tell what white is
SOFTENING = 8.0  # Q of Lupton et al.
STRETCH_SIGMA = 6.0  # times the sky's scatter: where the stretch turns from linear to logarithmic, at the least
# The stretch is white at this many times its scale, which the brightest thousandth of the pixels should reach.
WHITE, WHITE_QUANTILE = 95.0, 0.999
FEWEST_BRIGHT = 30


@dataclass(frozen=True)
class ColourScale:
    """What turns images into one picture.

    Parameters
    ----------
    factors : tuple of float
        What each image is multiplied by: the median bright pixel becomes white.
    black : float
        Scaled value that is black.
    stretch : float
        Scaled value where the stretch turns from linear to logarithmic.
    softening : float
    """

    factors: tuple[float, ...]
    black: float
    stretch: float
    softening: float = SOFTENING


def learn_colour_scale(*images: NDArray) -> ColourScale:
    """A scale from the images themselves, sky subtracted.

    Parameters
    ----------
    *images : ndarray, all of one shape
        Red, (green,) blue, or one alone; NaN where there is nothing. Every tenth pixel of a large field will do.
    """
    there = np.all([np.isfinite(image) for image in images], axis=0)
    values = [np.asarray(image, float)[there] for image in images]
    if not there.any():
        return ColourScale((1.0,) * len(images), 0.0, 1.0)
    noise = [max(robust_width(value), 1e-12) for value in values]
    bright = np.all([value > BRIGHT_SIGMA * sigma for value, sigma in zip(values, noise)], axis=0)
    if bright.sum() >= FEWEST_BRIGHT:
        factors = [float(np.median(values[-1][bright] / value[bright])) for value in values]
    else:
        factors = [noise[-1] / sigma for sigma in noise]
    level = np.mean([factor * value for factor, value in zip(factors, values)], axis=0)
    middle, width = float(np.median(level)), max(robust_width(level), 1e-12)
    top = float(np.quantile(level, WHITE_QUANTILE)) - middle
    return ColourScale(tuple(factors), middle - 0.5 * width, max(STRETCH_SIGMA * width, top / WHITE))


def colour_planes(scale: ColourScale, *images: NDArray) -> NDArray[np.float32]:
    """Red, green and blue planes (3, ny, nx), linear; green is the mean of two images, 1:3 red to blue.

    Parameters
    ----------
    scale : ColourScale
    *images : ndarray (ny, nx)
        Red, (green,) blue, or one alone for a grey picture. Where one of several is NaN the others stand for it.
    """
    planes = np.array([np.float32(factor) * image for factor, image in zip(scale.factors, images)], np.float32)
    missing = np.isnan(planes)
    count = (~missing).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(count > 0, np.where(missing, 0, planes).sum(axis=0) / np.maximum(count, 1), np.nan)
    planes = np.where(missing, mean, planes)
    if len(images) == 1:
        planes = np.concatenate([planes] * 3)
    elif len(images) == 2:
        green = GREEN_RED_WEIGHT * planes[0] + (1 - GREEN_RED_WEIGHT) * planes[1]
        planes = np.array([planes[0], green, planes[1]])
    return planes.astype(np.float32)


def colour_image(planes: NDArray[np.float32], scale: ColourScale) -> NDArray[np.uint8]:
    """An RGB picture (ny, nx, 3), first row at the bottom as in FITS; black where there is nothing.

    Parameters
    ----------
    planes : ndarray (3, ny, nx)
        Of `colour_planes`.
    scale : ColourScale
    """
    from astropy.visualization import make_lupton_rgb

    red, green, blue = (np.nan_to_num(plane, nan=scale.black) for plane in planes)
    with np.errstate(invalid="ignore", divide="ignore"):  # black pixels have no colour
        picture = make_lupton_rgb(red, green, blue, minimum=scale.black, stretch=scale.stretch, Q=scale.softening)
    return np.asarray(picture, np.uint8)
