"""From light to measured values: effects of near-infrared arrays and of CCDs, noise, variances and data quality.

Everything is in electrons of one exposure until `Frame`, whose planes are in electrons too; the writers convert.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import fft

from dpm.simulate.cosmic_rays import cosmic_rays
from dpm.simulate.instruments import Instrument
from dpm.simulate.optics import couple
from dpm.simulate.options import Effects

__all__ = [
    "DetectorPattern",
    "Frame",
    "bleed",
    "brighter_fatter",
    "make_pattern",
    "one_over_f",
    "read_ccd",
    "read_ramp",
]

Floats = NDArray[np.float64]

GROUPS = 12
DO_NOT_USE, SATURATED, JUMP, DEAD, HOT, WARM = 1, 2, 4, 1024, 2048, 4096
CCD_BAD, CCD_HOT, CCD_WARM, CCD_SATURATED = 4, 16, 64, 256


@dataclass(frozen=True)
class Frame:
    """What one detector gives, in electrons.

    Parameters
    ----------
    counts : ndarray (ny, nx)
        Measured values; NaN where there is none.
    dq : ndarray (ny, nx), uint32
        Bits of the telescope's own meaning.
    var_poisson, var_read, var_flat : ndarray (ny, nx)
        Variances.
    """

    counts: Floats
    dq: NDArray[np.uint32]
    var_poisson: Floats
    var_read: Floats
    var_flat: Floats


@dataclass(frozen=True)
class DetectorPattern:
    """What stays the same over exposures of one detector: flat errors, bad, hot and warm pixels, read noise."""

    flat: Floats
    dead: NDArray[np.bool_]
    hot: NDArray[np.bool_]
    warm: Floats
    read_noise: Floats


def make_pattern(
    shape: tuple[int, int], camera: Instrument, effects: Effects, generator: np.random.Generator
) -> DetectorPattern:
    """Draw the pixels' properties; ``warm`` is an excess in electrons/s, negative where it is not flagged."""
    flat = 1 + effects.flat_error * generator.normal(size=shape)
    u, excess = generator.uniform(size=shape), 10 ** generator.uniform(-0.5, 1.0, shape)
    flagged = generator.uniform(size=shape) < 0.5
    warm = np.where(effects.warm_pixels & (u > 0.9992), np.where(flagged, excess, -excess), 0.0)
    read_noise = camera.read_noise * (1 + 0.02 * generator.normal(size=shape))
    dead, hot = (u < 2e-4) & effects.bad_pixels, (u > 2e-4) & (u < 6e-4) & effects.bad_pixels
    return DetectorPattern(flat, dead, hot, warm, read_noise)


def brighter_fatter(image: Floats, strength: float) -> Floats:
    """Light pushed across the pixels' borders from fuller to emptier neighbours; the sum stays.

    The border moves by ``strength`` times half the difference of charge, and takes the mean light of the two with it.
    """
    out = image.copy()
    across = 0.5 * strength * (image[:, :-1] - image[:, 1:]) * 0.5 * (image[:, :-1] + image[:, 1:])
    out[:, :-1] -= across
    out[:, 1:] += across
    along = 0.5 * strength * (image[:-1] - image[1:]) * 0.5 * (image[:-1] + image[1:])
    out[:-1] -= along
    out[1:] += along
    return np.maximum(out, 0)


def one_over_f(shape: tuple[int, int], rms: float, vertical: bool, generator: np.random.Generator) -> Floats:
    """Pink noise of the read-out in time order: lines along the fast direction, one amplifier.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    rms : float
        Of the result.
    vertical : bool
        True where the fast direction is y (NIRISS), so that stripes are columns.
    generator : numpy.random.Generator
        Source of chance.
    """
    n = shape[0] * shape[1]
    frequency = np.fft.rfftfreq(n, 1.0)
    frequency[0] = np.inf
    spectrum = (generator.normal(size=frequency.size) + 1j * generator.normal(size=frequency.size)) / np.sqrt(frequency)
    spectrum[frequency > 1 / 64] = 0  # faster changes are the white read noise, which has its own plane
    series: Floats = np.array(fft.irfft(spectrum, n), dtype=np.float64)
    series *= float(rms / series.std())
    lines: Floats = series.reshape(shape[1], shape[0]).T if vertical else series.reshape(shape)
    return lines


def _noisy(model: Floats, factor: float, generator: np.random.Generator) -> Floats:
    """Counts with the variance ``factor * model``."""
    return np.multiply(generator.poisson(np.maximum(model, 0) / factor), factor, dtype=np.float64)


def read_ramp(
    model: Floats,
    exptime: float,
    camera: Instrument,
    pattern: DetectorPattern,
    effects: Effects,
    generator: np.random.Generator,
) -> Frame:
    """A near-infrared array read up the ramp.

    A pixel that saturates, or that a cosmic ray was found in, has the value of a shorter ramp: the fraction f of the
    reads gives variances 1/f (light) and 1/f^2 (read noise) times those of all reads.  Down to one read in `GROUPS`
    (frame zero) saturated pixels have a value, beyond it DO_NOT_USE.

    Parameters
    ----------
    model : ndarray (ny, nx)
        Expected electrons.
    exptime : float
        Seconds.
    camera, pattern, effects
        The detector.
    generator : numpy.random.Generator
        Source of chance; drawn in a fixed order.

    Returns
    -------
    Frame
    """
    shape = model.shape
    light = brighter_fatter(model, effects.brighter_fatter) if effects.brighter_fatter else model
    light = light * pattern.flat + np.abs(pattern.warm) * exptime
    fraction = np.ones(shape)
    dq = np.zeros(shape, np.uint32)
    if effects.saturation:
        full = light > camera.saturation
        groups = np.floor(GROUPS * camera.saturation / np.maximum(light, 1e-9))
        fraction = np.where(full, np.clip(groups, 1, GROUPS) / GROUPS, 1.0)
        dq[full] |= SATURATED
        dq[full & (groups < 1)] |= DO_NOT_USE
    found, lost, missed = (
        cosmic_rays(shape, part * effects.cosmic_rays, exptime, camera.pixel_size, generator)
        for part in (0.81, 0.09, 0.1)
    )
    when = generator.uniform(0.5, 0.85, shape)
    threshold = 5 * camera.read_noise
    flagged = ((found + lost) > threshold) & (fraction == 1)
    dq[flagged] |= JUMP
    dq[flagged & (lost > threshold)] |= DO_NOT_USE
    fraction = np.where(flagged, when, fraction)
    variance_light = camera.poisson_factor * light / fraction
    charge = light + _noisy(variance_light, 1.0, generator) - variance_light
    charge += missed + np.where(flagged, 0.0, found + lost)
    if effects.interpixel_capacitance:
        charge = couple(charge, effects.interpixel_capacitance)
    read = pattern.read_noise / fraction
    counts = charge + read * generator.normal(size=shape)
    if effects.stripes:
        counts += one_over_f(shape, effects.stripes, camera.header_instrument == "NIRISS", generator)
    flagged_warm = pattern.warm > 0
    counts[flagged_warm] -= pattern.warm[flagged_warm] * exptime
    dq[flagged_warm] |= WARM
    dq[pattern.dead] |= DO_NOT_USE | DEAD
    dq[pattern.hot] |= DO_NOT_USE | HOT
    counts[(dq & DO_NOT_USE) > 0] = np.nan
    # the pipeline knows only what was measured; the dark current of a flagged warm pixel is known to it
    seen = np.maximum(counts, 0) + np.maximum(pattern.warm, 0) * exptime
    variance_light = camera.poisson_factor * seen / fraction
    return Frame(counts, dq, variance_light, read**2, (effects.flat_error * counts) ** 2)


@njit(cache=True, nogil=True)
def bleed(charge: Floats, full_well: float) -> None:
    """Move charge above the full well up and down its column until it finds room, in place; off the chip it is lost."""
    ny, nx = charge.shape
    for i in range(nx):
        for j in range(ny):
            excess = charge[j, i] - full_well
            if excess <= 0:
                continue
            charge[j, i] = full_well
            for direction in (-1, 1):
                left = 0.5 * excess
                k = j + direction
                while left > 0 and 0 <= k < ny:
                    room = full_well - charge[k, i]
                    if room > 0:
                        moved = min(room, left)
                        charge[k, i] += moved
                        left -= moved
                    elif room < 0:  # a pixel further on that has its own excess hands it on with this
                        left -= room
                        charge[k, i] = full_well
                    k += direction


@njit(cache=True, nogil=True)
def trail(charge: Floats, loss: float, first_row: int, decay: float) -> None:
    """Move a share of every pixel's charge into an exponential trail towards higher rows, in place.

    The share is ``loss`` per 2048 transfers to row 0; ``first_row`` is the chip's row of the first one here.
    """
    ny, nx = charge.shape
    for i in range(nx):
        carried = 0.0
        for j in range(ny):
            lost = loss * (first_row + j + 1) / 2048 * charge[j, i]
            out = carried * (1 - decay)
            charge[j, i] += out - lost
            carried = carried - out + lost


def read_ccd(
    model: Floats,
    exptime: float,
    camera: Instrument,
    pattern: DetectorPattern,
    effects: Effects,
    generator: np.random.Generator,
    row_start: int = 0,
    read_upwards: bool = False,
) -> Frame:
    """A CCD exposure: one read, bleeding, cosmic rays that nobody flags; see `read_ramp`.

    ``row_start`` counts the chip's rows between its amplifiers and the first row read; ``read_upwards`` says that the
    amplifiers lie above (the upper chip of a pair).
    """
    shape = model.shape
    light = brighter_fatter(model, effects.brighter_fatter) if effects.brighter_fatter else model
    light = light * pattern.flat
    charge = _noisy(light + np.abs(pattern.warm) * exptime, 1.0, generator)
    rays = cosmic_rays(shape, effects.cosmic_rays, exptime, camera.pixel_size, generator, 2.5, 2000.0)
    charge += couple(rays, 0.04)  # charge spreads on its way to the pixels
    dq = np.zeros(shape, np.uint32)
    if effects.saturation:
        bleed(charge, camera.saturation)
        dq[charge >= 0.999 * camera.saturation] |= CCD_SATURATED
    if effects.cte_trails:
        trail(charge[::-1] if read_upwards else charge, effects.cte_trails, row_start, 0.2)
    if effects.interpixel_capacitance:
        charge = couple(charge, effects.interpixel_capacitance)
    counts = charge + pattern.read_noise * generator.normal(size=shape)
    if effects.stripes:
        counts += one_over_f(shape, effects.stripes, False, generator)
    flagged_warm = pattern.warm > 0
    counts[flagged_warm] -= pattern.warm[flagged_warm] * exptime
    dq[flagged_warm] |= CCD_WARM
    counts[pattern.hot] += 80 * exptime
    dq[pattern.hot] |= CCD_HOT
    counts[pattern.dead] *= 0.1
    dq[pattern.dead] |= CCD_BAD
    return Frame(counts, dq, np.maximum(counts, 0), pattern.read_noise**2, np.zeros(shape))
