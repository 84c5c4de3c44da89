"""The difference of one exposure's ePSF from its library, from the residuals of the exposure's own stars.

Positions and fluxes are free fits of the same exposure. What an error of the ePSF does to them at one pixel phase cannot be told
from it; for the fluxes the sum of the ePSF over pixels tells, which is the same at every phase. For the positions nothing does, so
that a perturbation improves fits and photometry, not astrometry (paper 2, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dpm.kernels.epsf import OVERSAMPLING, SAMPLES
from dpm.kernels.epsf_samples import smooth_samples
from dpm.models.epsf import GriddedEPSF, centre_samples
from dpm.stages.psf.candidates import StarStamps
from dpm.stages.psf.grid import CORE_RADIUS, MIDDLE, radius_grid
from dpm.stages.psf.samples import NodeSums, fit_candidates, sum_samples

__all__ = [
    "CONVERGED",
    "FEWEST_STARS",
    "Correction",
    "average_residual",
    "balanced",
    "choose_zones",
    "find_correction",
    "perturbed_epsf",
    "significant_share",
]

MOST_ZONES = 3  # along each side
STARS_A_ZONE = 40  # that every zone needs
FEWEST_STARS = 40  # of an exposure: ten in each quarter of the stars
MOST_ROUNDS = 5  # the fits move when the ePSF changes, and the smoothing gives up its bias by and by
CONVERGED = 5e-4  # of the peak, RMS within 1.5 pixels; a sixth of the error that a built ePSF may have (DESIGN section 7)
REACH = 5.0  # pixels; further out an exposure's own stars are too few for the wings
TAPER = 1.0  # pixels
BANDWIDTH = ((0.0, 0.6), (1.0, 0.7), (2.0, 1.2), (4.0, 2.5))  # radius in pixels, sigma of the smoothing in samples
ZONE_WIDTH = 1.5  # the zones' own shapes are smoothed over as many times the width: they rest on fewer stars
CURVED_RADIUS = 3.0  # pixels; inside, the smoothing keeps slope and curvature
RINGS = (0.0, 0.8, 1.6, 2.6, 3.8, REACH)  # pixels; in each the significance is judged anew
NOISE_FACTOR = 2.0  # a ring holds few independent samples: its noise may be twice what two halves of the stars show
RIDGE = 0.1  # of the diagonal, when the zones' shapes are told apart

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Correction:
    """What is to be added to the library.

    Parameters
    ----------
    node_x, node_y : ndarray
        Middles of the zones, raw pixels of the full detector; bilinear between them.
    samples : ndarray (node_y, node_x, 101, 101)
        Additions to psi.
    error : float
        RMS of the error that is left within 1.5 pixels, noise and damping, as a fraction of the ePSF's peak; NaN: not known.
    """

    node_x: Floats
    node_y: Floats
    samples: Floats
    error: float = float("nan")

    @staticmethod
    def none(node_x: Floats, node_y: Floats) -> Correction:
        """Nothing added, on a grid of zones."""
        return Correction(node_x, node_y, np.zeros((node_y.size, node_x.size, SAMPLES, SAMPLES)))

    @property
    def grid(self) -> GriddedEPSF:
        """The additions on the zones' grid, as what is interpolated like an ePSF."""
        return GriddedEPSF(self.samples, self.node_x, self.node_y, source="perturbation")


def choose_zones(raw: Floats, bounds: tuple[float, float, float, float]) -> tuple[Floats, Floats] | None:
    """Middles of the zones along x and y: as many as every zone has stars for; None where even one has too few.

    Parameters
    ----------
    raw : ndarray (n, 2)
        Raw positions of the stars.
    bounds : tuple of float
        First and last column, first and last row of the exposure, raw pixels.
    """
    x_low, x_high, y_low, y_high = bounds
    for zones in range(MOST_ZONES, 0, -1):
        count, *_ = np.histogram2d(raw[:, 0], raw[:, 1], zones, ((x_low - 0.5, x_high + 0.5), (y_low - 0.5, y_high + 0.5)))
        if count.min() >= (STARS_A_ZONE if zones > 1 else FEWEST_STARS):
            middle = (np.arange(zones) + 0.5) / zones
            return x_low + middle * (x_high - x_low), y_low + middle * (y_high - y_low)
    return None


def perturbed_epsf(epsf: GriddedEPSF, correction: Correction) -> GriddedEPSF:
    """The library with a correction added: on the library's nodes, or on the zones along an axis where the library has one node."""
    node_x = epsf.node_x if epsf.node_x.size > 1 else correction.node_x
    node_y = epsf.node_y if epsf.node_y.size > 1 else correction.node_y
    added = correction.grid
    samples = np.empty((node_y.size, node_x.size, SAMPLES, SAMPLES))
    for j, y in enumerate(node_y):
        for i, x in enumerate(node_x):
            more = added.blended(float(x), float(y))
            base = epsf.blended(float(x), float(y))
            samples[j, i] = centre_samples(base + more)[0] if more.any() else base
    same = samples.shape == epsf.samples.shape
    weak = epsf.weak_nodes if same or not epsf.weak_nodes else tuple(range(node_x.size * node_y.size))
    return replace(epsf, samples=samples, node_x=node_x, node_y=node_y, weak_nodes=weak)


def find_correction(
    stars: StarStamps, epsf: GriddedEPSF, zones: tuple[Floats, Floats], half: NDArray[np.int64]
) -> Correction:
    """The damped difference of the stars' ePSF from the library.

    Parameters
    ----------
    stars : StarStamps
    epsf : GriddedEPSF
        The library.
    zones : tuple of ndarray
        Middles of the zones along x and y.
    half : ndarray (n,), int
        0 or 1: half of the stars that a star belongs to; what the halves do not share is noise. -1: left out.

    Returns
    -------
    Correction
        Zero where the stars show no significant difference.
    """
    chosen = half >= 0
    correction, share = Correction.none(*zones), None
    for _ in range(MOST_ROUNDS):
        sums = _residuals(stars, perturbed_epsf(epsf, correction), correction.grid, chosen, half)
        if share is None:
            share, error = significant_share(sums, epsf)
            correction = replace(correction, error=error)
        whole = average_residual(sums.top.sum(axis=0), sums.bottom.sum(axis=0), sums.gram.sum(axis=0), epsf)
        modes = (_cosines(zones[1].size), _cosines(zones[0].size))
        kept = np.einsum("aj,bi,abrc->jirc", *modes, share * np.einsum("aj,bi,jirc->abrc", *modes, correction.samples + whole))
        # Rings that count differently would add light.
        kept = np.array([[balanced(node, epsf) for node in row] for row in kept])
        moved = np.sqrt(np.mean((kept - correction.samples)[..., radius_grid() <= CORE_RADIUS] ** 2)) / epsf.samples.max()
        correction = replace(correction, samples=kept)
        if moved < CONVERGED:
            break
    return correction


def _residuals(stars: StarStamps, model: GriddedEPSF, grid: GriddedEPSF, chosen: NDArray[np.bool_], half: NDArray) -> NodeSums:
    """What free fits of the chosen stars leave over, summed in two halves on the zones' grids."""
    fits = fit_candidates(stars, model)
    raw = np.where(chosen[:, None], fits.raw, np.nan)
    signal = np.where(np.isfinite(fits.flux), fits.flux / fits.flux_error, 0.0)
    free = np.full(len(stars), np.nan)
    return sum_samples(stars, model, raw, free, np.zeros(len(stars), bool), np.maximum(half, 0), signal, nodes=grid)


def significant_share(sums: NodeSums, epsf: GriddedEPSF) -> tuple[Floats, float]:
    """How much of each mode over the zones counts in each ring, and the error that is left (of the peak) with that.

    The share of a mode's power that is not noise (Wiener); the noise is what the two halves of the stars do not share.
    """
    radius = radius_grid()
    halves = [average_residual(sums.top[k], sums.bottom[k], sums.gram[k], epsf) for k in (0, 1)]
    whole = average_residual(sums.top.sum(axis=0), sums.bottom.sum(axis=0), sums.gram.sum(axis=0), epsf)
    modes = tuple(_cosines(n) for n in whole.shape[:2])
    first, second, full = (np.einsum("aj,bi,jirc->abrc", *modes, values) for values in (*halves, whole))
    share = np.zeros_like(full)
    error2, samples = 0.0, 0
    for inner, outer in zip(RINGS[:-1], RINGS[1:], strict=True):
        ring = (radius >= inner) & (radius < outer)
        noise = NOISE_FACTOR * np.mean((first - second)[..., ring] ** 2, axis=-1) / 4.0
        power = np.mean(full[..., ring] ** 2, axis=-1)
        kept = np.clip(1.0 - noise / np.maximum(power, 1e-30), 0.0, 1.0)
        share[..., ring] = kept[..., None]
        if inner < CORE_RADIUS:
            # Of modes that count the filter leaves this much noise; of those that do not, their own power at the most.
            error2 += float(np.where(kept > 0, kept * noise, np.minimum(noise, power)).sum()) * int(ring.sum())
            samples += int(ring.sum())
    nodes = whole.shape[0] * whole.shape[1]
    return share, float(np.sqrt(error2 / samples / nodes)) / float(epsf.samples.max())


def average_residual(top: Floats, bottom: Floats, gram: Floats, epsf: GriddedEPSF) -> Floats:
    """Smoothed average residual of every zone, with what bilinear blending mixes in from its neighbours taken apart."""
    mean = _smooth(top.sum(axis=(0, 1)), bottom.sum(axis=(0, 1)), 1.0)
    deviation = np.zeros((gram.shape[0], SAMPLES * SAMPLES))
    if len(gram) > 1:
        broad = _smooth(top.sum(axis=(0, 1)), bottom.sum(axis=(0, 1)), ZONE_WIDTH)
        for k, node in enumerate(np.ndindex(*top.shape[:2])):
            if bottom[node].any():
                deviation[k] = (_smooth(top[node], bottom[node], ZONE_WIDTH) - broad).ravel()
        total = gram.sum(axis=1)
        ridge = RIDGE * np.diag(np.maximum(total, 1e-3 * total.mean() + 1e-300))
        deviation = np.linalg.solve(gram + ridge, (1.0 + RIDGE) * total[:, None] * deviation)
    return np.array([[balanced(node, epsf) for node in row] for row in mean + deviation.reshape(top.shape)])


def _smooth(top: Floats, bottom: Floats, widen: float) -> Floats:
    radius = radius_grid()
    width = np.where(radius < REACH, widen * np.interp(radius, *np.array(BANDWIDTH).T), 0.0)
    smoothed, variance = np.empty((SAMPLES, SAMPLES)), np.empty((SAMPLES, SAMPLES))
    smooth_samples(
        np.ascontiguousarray(top), np.ascontiguousarray(bottom), width, np.where(radius < CURVED_RADIUS, 2, 0), smoothed, variance
    )
    taper = np.clip((REACH - radius) / TAPER, 0.0, 1.0)
    return np.asarray(smoothed * taper)


def balanced(correction: Floats, epsf: GriddedEPSF) -> Floats:
    """A correction that adds no light at any pixel phase: the pixels that see a star at one phase share all of its light.

    What is wrong is what the fits' own fluxes took up, which is in proportion to the ePSF.
    """
    psf = epsf.samples.mean(axis=(0, 1))
    taper = np.clip((REACH - radius_grid()) / TAPER, 0.0, 1.0)
    balanced = correction.copy()
    for row in range(OVERSAMPLING):
        for column in range(OVERSAMPLING):
            phase = np.s_[(MIDDLE + row) % OVERSAMPLING :: OVERSAMPLING, (MIDDLE + column) % OVERSAMPLING :: OVERSAMPLING]
            share = (psf * taper)[phase]
            balanced[phase] -= share * (correction[phase].sum() / share.sum())
    return balanced


def _cosines(n: int) -> Floats:
    """Orthonormal cosine modes over n zones, (mode, zone)."""
    k = np.arange(n)
    modes = np.cos(np.pi * np.outer(k, k + 0.5) / n)
    return np.asarray(modes / np.linalg.norm(modes, axis=1)[:, None])
