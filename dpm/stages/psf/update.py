"""From the sums over stars to a better ePSF: smoothing, the nodes' own shapes as far as the stars show them, centring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpm.kernels.epsf import SAMPLES
from dpm.kernels.epsf_samples import smooth_samples
from dpm.models.epsf import GriddedEPSF, centre_samples
from dpm.stages.psf.grid import CORE_RADIUS, END_RADIUS, normalise, radius_grid
from dpm.stages.psf.samples import NodeSums

__all__ = ["Update", "update_epsf"]

BANDWIDTH = ((0.0, 0.6), (1.0, 0.7), (2.0, 1.2), (4.0, 2.5), (8.0, 4.0))  # radius in pixels, sigma of the smoothing in samples
CURVED_RADIUS = 6.0  # pixels; inside, the smoothing keeps slope and curvature
POSITIVE_RADIUS = 4.0  # pixels; outside, noise must not make holes
DEVIATION_RADIUS = 4.0  # pixels; further out all nodes have the mean ePSF: their own stars are too few for it
DEVIATION_TAPER = 1.0  # pixels
DEVIATION_WIDTH = 1.5  # the nodes' own shapes are smoothed over as many times the width: they rest on fewer stars
STANDS_OUT = (1.1, 1.4)  # times the noise's largest component, which differs by a tenth between noises of one size: a shape counts
# not at all below the first and fully above the second, so that no small change of the stars makes it come or go
FINE_NOISE = 2.0  # times the variance that two halves tell: below, the fine structure of a shape is noise (`NOISE_FACTOR` says why)
RIDGE = 0.1  # of the diagonal: nodes without stars stay where their neighbours put them
NOISE_FACTOR = 4.0  # the halves share their clipping and what smoothing rounds off, so that their difference understates the error

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Update:
    """Result of `update_epsf`.

    Parameters
    ----------
    epsf : GriddedEPSF
    change : float
        RMS over nodes and samples within 1.5 pixels of what changed, of the peak.
    noise : float
        The same of the error that the stars' own noise leaves, from the difference of two halves of the stars.
    relative_noise : float
        The noise over the RMS of the ePSF there.
    shift : float
        Largest move that centring made, pixels.
    """

    epsf: GriddedEPSF
    change: float
    noise: float
    relative_noise: float
    shift: float


def update_epsf(epsf: GriddedEPSF, sums: NodeSums) -> Update:
    """Add the averaged residuals to the ePSF.

    The mean ePSF takes the average of all stars. The nodes' deviations from it are solved from the normal equations of bilinear
    blending, and only the few shapes count that stand out of the noise; the noise comes from two halves of the stars.

    Parameters
    ----------
    epsf : GriddedEPSF
        The model that the sums' residuals were taken from.
    sums : NodeSums
        Over all exposures.
    """
    if not sums.bottom.any():
        return Update(epsf, 0.0, epsf.model_error, epsf.model_error, 0.0)
    radius = radius_grid()
    width = np.interp(radius, *np.array(BANDWIDTH).T)
    width[radius > END_RADIUS] = 0.0
    degree = np.where(radius < CURVED_RADIUS, 2, 0)
    top, bottom = sums.top.sum(axis=0), sums.bottom.sum(axis=0)
    correction, variance = _smooth(top.sum(axis=(0, 1)), bottom.sum(axis=(0, 1)), width, degree)
    correction *= _significant(correction, sums, width, degree)
    samples = epsf.samples + correction
    inside = radius <= CORE_RADIUS
    noise = float(np.mean(variance[inside]))
    if epsf.node_x.size * epsf.node_y.size > 1:
        deviations, error2 = _deviations(epsf, sums, width, degree)
        samples = epsf.samples.mean(axis=(0, 1)) + correction + deviations
        noise += error2
    shift = 0.0
    for node in np.ndindex(*samples.shape[:2]):
        positive = np.where(radius > POSITIVE_RADIUS, np.maximum(samples[node], 0.0), samples[node])
        centred, moved = centre_samples(positive)
        samples[node] = normalise(centred)
        shift = max(shift, *(abs(value) for value in moved))
    peak = float(samples.max())
    change = float(np.sqrt(np.mean((samples - epsf.samples)[..., inside] ** 2))) / peak
    new = GriddedEPSF(samples, epsf.node_x, epsf.node_y, source="build")
    level = float(np.sqrt(np.mean(samples[..., inside] ** 2)))
    return Update(new, change, float(np.sqrt(noise)) / peak, float(np.sqrt(noise)) / level, shift)


def _significant(correction: Floats, sums: NodeSums, width: Floats, degree: NDArray) -> Floats:
    """Share of the correction, ring by ring of one pixel, that is not noise by the difference of two halves of the stars.

    Where the stars say nothing (few of them, far out) the ePSF stays what it was: diffraction at the start.
    """
    first, second = (_smooth(sums.top[k].sum(axis=(0, 1)), sums.bottom[k].sum(axis=(0, 1)), width, degree)[0] for k in (0, 1))
    radius = radius_grid()
    share = np.zeros(int(END_RADIUS) + 1)
    for ring in range(len(share)):
        inside = (radius >= ring) & (radius < ring + 1) & (width > 0)
        if inside.any():
            noise = float(np.mean((first - second)[inside] ** 2)) / 4.0
            share[ring] = np.clip(1.0 - noise / max(float(np.mean(correction[inside] ** 2)), 1e-30), 0.0, 1.0)
    return np.interp(radius, np.arange(len(share)) + 0.5, share)


def _smooth(top: Floats, bottom: Floats, width: Floats, degree: NDArray) -> tuple[Floats, Floats]:
    smoothed, variance = np.empty((SAMPLES, SAMPLES)), np.empty((SAMPLES, SAMPLES))
    smooth_samples(np.ascontiguousarray(top), np.ascontiguousarray(bottom), width, degree, smoothed, variance)
    return smoothed, variance


def _deviations(epsf: GriddedEPSF, sums: NodeSums, width: Floats, degree: NDArray) -> tuple[Floats, float]:
    """The nodes' deviations from the mean ePSF, and the mean squared noise that they keep within the core.

    An ePSF varies over a detector in few ways (focus, coma, astigmatism, motion): of the matrix of cosine modes by samples only
    the singular components count that stand out of the largest one of the noise, by what they have beyond it. They are found in
    residuals smoothed over `DEVIATION_WIDTH` times the width; what the plain width shows beyond that is added to each as far as it
    is more than noise, since the smoothing rounds off a sharp core whose shape varies much.
    """
    radius = radius_grid()
    near = radius < DEVIATION_RADIUS
    core = radius[near] <= CORE_RADIUS
    modes_y, modes_x = _cosines(epsf.node_y.size), _cosines(epsf.node_x.size)
    wide, plain = (
        _mode_samples(epsf, sums, np.where(near, factor * width, 0.0), degree, modes_y, modes_x)
        for factor in (DEVIATION_WIDTH, 1.0)
    )
    level = np.sqrt(np.mean(wide.noise[:, core] ** 2, axis=1))[:, None]
    level = np.maximum(level, 1e-12 + 1e-3 * level.max())
    left, size, right = np.linalg.svd(wide.whole / level, full_matrices=False)
    edge = float(np.linalg.norm(wide.noise / level, 2))
    weight = np.interp(size / max(edge, 1e-12), STANDS_OUT, (0.0, 1.0))
    fine, fine_noise = (left.T @ ((a - b) / level) for a, b in ((plain.whole, wide.whole), (plain.noise, wide.noise)))
    power = np.maximum(np.mean(fine**2, axis=1), 1e-30)
    share = np.clip(1.0 - FINE_NOISE * np.mean(fine_noise**2, axis=1) / power, 0.0, 1.0)
    beyond = weight * np.sqrt(np.clip(1.0 - (edge / np.maximum(size, 1e-12)) ** 2, 0.0, 1.0))
    kept = np.zeros((len(left) + 1, *radius.shape))
    kept[1:, near] = level * ((left * beyond) @ (size[:, None] * right + share[:, None] * fine))
    within = (wide.noise @ right.T * weight) @ right
    deviations = np.einsum("aj,bi,abrc->jirc", modes_y, modes_x, kept.reshape(len(modes_y), len(modes_x), *radius.shape))
    taper = np.clip((DEVIATION_RADIUS - radius) / DEVIATION_TAPER, 0.0, 1.0)
    return deviations * taper, NOISE_FACTOR * float(np.sum(np.mean(within[:, core] ** 2, axis=1))) / len(kept)


class ModeSamples(NamedTuple):
    """The nodes' deviations in cosine modes, the constant one left out, at the samples near the star.

    Parameters
    ----------
    whole, noise : ndarray (modes, samples)
        From all stars; and half the difference of two halves of the stars.
    """

    whole: Floats
    noise: Floats


def _mode_samples(
    epsf: GriddedEPSF, sums: NodeSums, width: Floats, degree: NDArray, modes_y: Floats, modes_x: Floats
) -> ModeSamples:
    """Deviations so far and their correction, smoothed over a width (0: left out)."""
    mean, even = epsf.samples.mean(axis=(0, 1)), np.ones((SAMPLES, SAMPLES))
    # Smoothed again every round: otherwise the rounds' noise would gather where the smoothing of the residuals hides it.
    now = np.zeros_like(epsf.samples)
    for node in np.ndindex(*now.shape[:2]):
        now[node] = np.where(width > 0, _smooth(epsf.samples[node] - mean, even, width, degree)[0], 0.0)
    halves = [_solve_nodes(sums.top[k], sums.bottom[k], sums.gram[k], width, degree) for k in (0, 1)]
    whole = now + _solve_nodes(sums.top.sum(axis=0), sums.bottom.sum(axis=0), sums.gram.sum(axis=0), width, degree)
    near = width > 0
    whole, noise = (
        np.einsum("aj,bi,jis->abs", modes_y, modes_x, values[..., near]).reshape(-1, near.sum())[1:]
        for values in (whole, 0.5 * (halves[0] - halves[1]))
    )
    return ModeSamples(whole, noise)


def _solve_nodes(top: Floats, bottom: Floats, gram: Floats, width: Floats, degree: NDArray) -> Floats:
    """Corrections of the nodes less the mean correction, so that the blend of the nodes fits."""
    node_y, node_x = top.shape[:2]
    mean, _ = _smooth(top.sum(axis=(0, 1)), bottom.sum(axis=(0, 1)), width, degree)
    average = np.zeros((node_y * node_x, SAMPLES * SAMPLES))
    for k, node in enumerate(np.ndindex(node_y, node_x)):
        if bottom[node].any():
            average[k] = np.where(width > 0, _smooth(top[node], bottom[node], width, degree)[0] - mean, 0.0).ravel()
    # A node's average mixes in its neighbours' corrections, by the products of the bilinear weights.
    total = gram.sum(axis=1)
    ridge = RIDGE * np.diag(np.maximum(total, 1e-3 * total.mean() + 1e-300))
    solved = np.linalg.solve(gram + ridge, (1.0 + RIDGE) * total[:, None] * average)
    return np.asarray(solved.reshape(top.shape))


def _cosines(n: int) -> Floats:
    """Orthonormal cosine modes over n nodes, (mode, node)."""
    k = np.arange(n)
    modes = np.cos(np.pi * np.outer(k, k + 0.5) / n)
    return np.asarray(modes / np.linalg.norm(modes, axis=1)[:, None])
