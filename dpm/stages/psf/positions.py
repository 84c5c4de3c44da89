"""Positions and fluxes for the ePSF build: averaged over the dithers, and taken back into every exposure.

A star's own position in one exposure takes up any asymmetry of the ePSF at its pixel phase, and its own flux any error that all
pixels of that phase share; only averages over phases tell (Anderson & King 2000; paper 2, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import robust_width

__all__ = ["Fits", "Links", "PhaseBias", "Targets", "average", "phase_bias", "phase_spread"]

MIN_MEASUREMENTS = 3  # exposures that a star's average needs
POSITION_FLOOR = 0.005  # pixels; what transforms and distortion leave, as a start
FLUX_FLOOR = 0.01  # relative; flat fields and zero points
CLIP = 4.0  # sigma
ROUNDS = 4
PHASE_BINS = 10
BRIGHT_ERROR = 0.012  # pixels; stars measured better than this show the pixel-phase bias
MIN_IN_BIN = 8

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Links:
    """Candidates of all units end to end: which star each is, and how its raw pixels lie on the master frame.

    Parameters
    ----------
    unit : ndarray (n,)
        Number of the unit.
    star : ndarray (n,)
        Number of the star; -1: none.
    raw : ndarray (n, 2)
        Raw position about which the map is linear.
    master : ndarray (n, 2)
        Its place on the master frame.
    jacobian : ndarray (n, 2, 2)
        Derivatives of master by raw positions.
    area : ndarray (n,)
        Pixel area over the nominal one: flux times area is comparable over the detector.
    """

    unit: Ints
    star: Ints
    raw: Floats
    master: Floats
    jacobian: Floats
    area: Floats


@dataclass(frozen=True)
class Fits:
    """Free fits of all candidates.

    Parameters
    ----------
    raw : ndarray (n, 2)
        Raw positions; NaN where the fit failed.
    error : ndarray (n,)
        Mean of the two axes' errors, pixels.
    flux, flux_error : ndarray (n,)
    qfit : ndarray (n,)
    """

    raw: Floats
    error: Floats
    flux: Floats
    flux_error: Floats
    qfit: Floats

    @staticmethod
    def joined(parts: list[Fits]) -> Fits:
        """Parts end to end."""
        return Fits(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Fits)))


@dataclass(frozen=True)
class Targets:
    """Where each candidate lies and how bright it is, by all exposures of its star.

    Parameters
    ----------
    raw : ndarray (n, 2)
        Raw position; the candidate's own where it has no average.
    flux : ndarray (n,)
        NaN where there is no average: then the fit's own flux counts.
    averaged : ndarray (n,), bool
        The position is an average.
    used : ndarray (n,), bool
        The candidate agreed with its star's average.
    scatter : float
        Robust scatter of bright candidates about the averages, pixels, per axis.
    flux_scatter : float
        The same of fluxes, relative.
    """

    raw: Floats
    flux: Floats
    averaged: Bools
    used: Bools
    scatter: float
    flux_scatter: float


def average(links: Links, fits: Fits, band: Ints, mix: bool) -> Targets:
    """Average the candidates' positions and fluxes over the exposures of each star, with clipping.

    Positions are averaged over all exposures, fluxes over those of one filter: stars differ in colour.

    Parameters
    ----------
    links : Links
    fits : Fits
        In the same order.
    band : ndarray (n,), int
        Number of each candidate's filter, from 0.
    mix : bool
        Combine each average with the candidate's own position, by their errors: right once the ePSF is nearly so, since what
        transforms and distortion leave is then larger than the bias with pixel phase.
    """
    offset = fits.raw - links.raw
    place = links.master + np.einsum("nij,nj->ni", links.jacobian, offset)
    finite = np.isfinite(fits.raw).all(axis=1) & (fits.flux > 0)
    linked = finite & (links.star >= 0)
    back = np.linalg.inv(np.where(linked[:, None, None], links.jacobian, np.eye(2)))
    n_stars = int(links.star.max(initial=-1)) + 1
    star = np.where(linked, links.star, n_stars)
    bright = linked & (fits.error < max(BRIGHT_ERROR, float(np.quantile(fits.error[linked], 0.2)) if linked.any() else 0.0))
    used, residual, floor = linked.copy(), np.zeros_like(offset), POSITION_FLOOR
    for _ in range(ROUNDS):
        weight = np.where(used, 1.0 / (fits.error**2 + floor**2), 0.0)
        total = np.bincount(star, weight, n_stars + 1)
        mean = np.column_stack(
            [_divide(np.bincount(star, np.where(used, weight * place[:, k], 0.0), n_stars + 1), total) for k in (0, 1)]
        )
        residual = np.einsum("nij,nj->ni", back, place - mean[star])
        sample = residual[bright & used & (np.bincount(star[used], minlength=n_stars + 1)[star] >= MIN_MEASUREMENTS)]
        width = robust_width(sample.ravel(), 0.0) if len(sample) else 0.0
        typical = float(np.median(fits.error[bright])) if bright.any() else 0.0
        floor = max(np.sqrt(max(width**2 - typical**2, 0.0)), 0.2 * POSITION_FLOOR)
        used = linked & (np.abs(residual) < CLIP * np.sqrt(fits.error**2 + floor**2)[:, None]).all(axis=1)
    count = np.bincount(star[used], minlength=n_stars + 1)
    count[n_stars] = 0
    averaged = linked & (count[star] >= MIN_MEASUREMENTS)
    share = floor**2 / (fits.error**2 + floor**2) if mix else np.zeros(len(star))
    raw = np.where(averaged[:, None], fits.raw - residual * (1.0 - share)[:, None], fits.raw)
    used &= averaged
    n_bands = int(band.max(initial=0)) + 1
    flux, flux_scatter = _average_fluxes(links, fits, used, star * n_bands + band, (n_stars + 1) * n_bands)
    return Targets(raw, flux, averaged, used, robust_width(sample.ravel(), 0.0) if len(sample) else float("nan"), flux_scatter)


def _divide(top: NDArray, bottom: NDArray) -> Floats:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), 0.0)


def _average_fluxes(links: Links, fits: Fits, used: Bools, star: Ints, n_stars: int) -> tuple[Floats, float]:
    """Mean fluxes of the stars of each filter in each unit's own zero point; and the scatter of the best measured."""
    n_units = int(links.unit.max(initial=-1)) + 1
    relative = np.where(used, fits.flux_error / np.where(used, fits.flux, 1.0), np.inf)
    value = np.where(used, np.log(np.where(used, fits.flux * links.area, 1.0)), 0.0)
    weight = np.where(used, 1.0 / (relative**2 + FLUX_FLOOR**2), 0.0)
    zero = np.zeros(n_units)
    deviation, mean = np.zeros_like(value), np.zeros(n_stars + 1)
    for _ in range(2 * ROUNDS):
        mean = _divide(np.bincount(star, weight * (value - zero[links.unit]), n_stars + 1), np.bincount(star, weight, n_stars + 1))
        deviation = value - mean[star]
        for unit in range(n_units):
            mine = (links.unit == unit) & (weight > 0)
            zero[unit] = float(np.median(deviation[mine])) if mine.any() else 0.0
        deviation -= zero[links.unit]
        agrees = used & (np.abs(deviation) < CLIP * np.sqrt(relative**2 + FLUX_FLOOR**2))
        weight = np.where(agrees, 1.0 / (relative**2 + FLUX_FLOOR**2), 0.0)
    count = np.bincount(star[weight > 0], minlength=n_stars + 1)
    known = (weight > 0) & (count[star] >= MIN_MEASUREMENTS)
    flux = np.where(known, np.exp(mean[star] + zero[links.unit]) / links.area, np.nan)
    best = deviation[known & (relative < FLUX_FLOOR)]
    return flux, robust_width(best, 0.0) if len(best) else float("nan")


@dataclass(frozen=True)
class PhaseBias:
    """Median of measured less averaged position in bins of pixel phase.

    Parameters
    ----------
    phase : ndarray (bins,)
        Middle of each bin, -0.5 to 0.5 pixel from a pixel's centre.
    bias : ndarray (2, bins)
        Along x and y, pixels; NaN where there are too few stars.
    """

    phase: Floats
    bias: Floats

    @property
    def amplitude(self) -> float:
        """Amplitude of the first harmonic, the larger of the two axes; NaN where bins are empty."""
        wave = np.exp(2j * np.pi * self.phase)
        values = self.bias - self.bias.mean(axis=1, keepdims=True)
        return float(np.max(np.abs(values @ wave)) * 2 / len(self.phase))


def phase_bias(fits: Fits, targets: Targets) -> PhaseBias:
    """Pixel-phase bias of the free fits of bright candidates (paper 2, figure 3)."""
    chosen = targets.used & (fits.error < BRIGHT_ERROR)
    raw, difference = fits.raw[chosen], (fits.raw - targets.raw)[chosen]
    phase = raw - np.floor(raw + 0.5)
    number = np.clip(((phase + 0.5) * PHASE_BINS).astype(int), 0, PHASE_BINS - 1)
    bias = np.full((2, PHASE_BINS), np.nan)
    for axis in (0, 1):
        for k in range(PHASE_BINS):
            inside = difference[number[:, axis] == k, axis]
            if len(inside) >= MIN_IN_BIN:
                bias[axis, k] = float(np.median(inside))
    return PhaseBias((np.arange(PHASE_BINS) + 0.5) / PHASE_BINS - 0.5, bias)


def phase_spread(fits: Fits, links: Links, used: Bools) -> float:
    """How well the dithers spread stars over pixel phases: 1 evenly, 0 all exposures of a star at one phase.

    One less the mean resultant length of the phases of a star's measurements, median over stars, the worse of the two axes.
    """
    star = links.star[used]
    if not len(star):
        return 0.0
    count = np.bincount(star)
    enough = count >= MIN_MEASUREMENTS
    if not enough.any():
        return 0.0
    spread = []
    for axis in (0, 1):
        wave = np.exp(2j * np.pi * fits.raw[used, axis])
        total = np.bincount(star, wave.real) + 1j * np.bincount(star, wave.imag)
        spread.append(1.0 - float(np.median(np.abs(total[enough]) / count[enough])))
    return min(spread)
