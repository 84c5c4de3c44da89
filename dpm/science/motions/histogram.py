"""Motions along a direction: histogram averaged over noisy draws, and several Gaussians (paper 2, figure 23).

Each draw adds noise of the star's own error and moves the bins' start, so that neither bins nor single values matter (Libralato et
al. 2019).  The histogram is therefore wider than the stars by twice their errors; ``sigma`` of the components has both taken out
again with the stars' median error.  Errors come from fits to stars drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["KinematicHistogram", "kinematic_histogram", "principal_direction"]

Floats = NDArray[np.float64]

BOOTSTRAPS = 100
STARTS = 12  # random ones, since the best of several Gaussians hides among lesser ones
DRAWS_OF_A_BOOTSTRAP = 30  # enough for a curve whose own noise is far below that of the stars drawn
BINS_PER_WIDTH = 8
FEWEST_STARS = 20


@dataclass(frozen=True)
class KinematicHistogram:
    """Averaged histogram, and the Gaussians fitted to it in order of their means.

    Parameters
    ----------
    value, count, count_error : ndarray (k,)
        Middle of the bins (mas/yr along the direction, from the point given), stars in them, and the errors of these.
    step : float
        Width of the bins.
    mean, width, fraction : ndarray (g,)
        Of the components; ``width`` as the histogram shows it.
    sigma : ndarray (g,)
        Without the errors; zero where these explain the width.
    mean_error, sigma_error, fraction_error : ndarray (g,)
    """

    value: Floats
    count: Floats
    count_error: Floats
    step: float
    mean: Floats
    width: Floats
    fraction: Floats
    sigma: Floats
    mean_error: Floats
    sigma_error: Floats
    fraction_error: Floats


def principal_direction(motion: NDArray) -> tuple[Floats, Floats]:
    """Median motion, and the unit vector along which motions spread most."""
    motion = np.asarray(motion, dtype=float)
    motion = motion[np.isfinite(motion).all(axis=1)]
    middle = np.median(motion, axis=0)
    vector = np.linalg.eigh(np.cov((motion - middle).T))[1][:, -1]
    return middle, vector * np.sign(vector[np.argmax(np.abs(vector))])


def kinematic_histogram(
    motion: NDArray,
    covariance: NDArray,
    components: int,
    point: NDArray,
    direction: NDArray,
    draws: int = 1000,
    start: NDArray | None = None,
    seed: int = 1,
) -> KinematicHistogram:
    """Histogram of motions along a line of the vector-point diagram, and Gaussians fitted to it.

    Parameters
    ----------
    motion, covariance : array_like (n, 2), (n, 2, 2)
    components : int
        Gaussians.
    point, direction : array_like (2,)
        A point of the line, where values are zero, and its direction.
    draws : int
    start : array_like (components,), optional
        Means to begin with; quantiles by default.
    seed : int
        Of the draws.

    Raises
    ------
    MotionError
        If there are too few stars, or the fit does not converge.
    """
    motion, covariance = np.asarray(motion, dtype=float), np.asarray(covariance, dtype=float)
    known = known_motions(motion, covariance)
    if known.sum() < max(FEWEST_STARS, 6 * components):
        raise MotionError(f"{int(known.sum())} stars with motions are too few for {components} Gaussians")
    unit = np.asarray(direction, dtype=float) / np.hypot(*np.asarray(direction, dtype=float))
    value = (motion[known] - np.asarray(point, dtype=float)) @ unit
    error = np.sqrt(np.einsum("i,nij,j->n", unit, covariance[known], unit))
    rng = np.random.default_rng(seed)
    width = 0.7413 * float(np.subtract(*np.percentile(value, [75, 25])))
    step = width / BINS_PER_WIDTH / max(components**0.5, 1.0)
    low, high = (np.array([value.min(), value.max()]) + np.array([-3, 3]) * np.median(error)).tolist()
    fine = np.arange(low, high + step, step)
    total = _average(value, error, fine, step, draws, rng)
    middle = fine + 0.5 * step
    guesses = [np.quantile(value, (np.arange(components) + 0.5) / components)]
    guesses += [np.sort(rng.choice(value, components, replace=False)) for _ in range(STARTS)]
    fits = []
    for guess in guesses if start is None else [np.asarray(start, dtype=float)]:
        begin = np.concatenate([np.full(components, len(value) / components), guess, np.full(components, width / components)])
        fits += _fit(middle, total, begin, step)
    if not fits:
        raise MotionError(f"{components} Gaussians do not fit this histogram: take fewer, or give start")
    best = min(fits, key=lambda fit: fit[0])[1]
    trials = []
    for _ in range(BOOTSTRAPS):
        pick = rng.integers(0, len(value), len(value))
        trials += _fit(middle, _average(value[pick], error[pick], fine, step, DRAWS_OF_A_BOOTSTRAP, rng), best, step)
    noise = 2.0 * float(np.median(error)) ** 2
    result = _describe(best, components, noise)
    spread = [np.std(values, axis=0, ddof=1) for values in zip(*(_describe(trial, components, noise) for _, trial in trials))]
    count_error = np.sqrt(np.maximum(total, 1.0 / draws))
    area, mean, wide, sigma = result
    return KinematicHistogram(middle, total, count_error, step, mean, wide, area, sigma, spread[1], spread[3], spread[0])


def _average(value: Floats, error: Floats, fine: Floats, step: float, draws: int, rng: np.random.Generator) -> Floats:
    """Stars a bin, averaged over draws of their noise and of the bins' start."""
    total = np.zeros(len(fine))
    for _ in range(draws):
        drawn = value + error * rng.standard_normal(len(value)) - fine[0] - step * (rng.random() - 0.5)
        place = np.floor(drawn / step).astype(int)
        total += np.bincount(place[(place >= 0) & (place < len(fine))], minlength=len(fine))
    return total / draws


def _gaussians(x: Floats, values: Floats) -> Floats:
    areas, means, widths = values.reshape(3, -1)
    parts = np.exp(-0.5 * ((x[:, None] - means) / widths) ** 2) / (np.sqrt(2 * np.pi) * np.abs(widths))
    return np.asarray(parts @ np.abs(areas))


def _fit(middle: Floats, count: Floats, begin: Floats, step: float) -> list[tuple[float, Floats]]:
    """Cost and parameters of the best Gaussians near a start; none where the search does not end."""
    # Weights of the smoothed counts: an empty bin is not known without error.
    sigma = np.sqrt(np.maximum(count, 1.0))
    found = least_squares(lambda values: (step * _gaussians(middle, values) - count) / sigma, begin, method="lm", max_nfev=2000)
    return [(float(found.cost), np.asarray(found.x))] if found.success else []


def _describe(values: Floats, components: int, noise: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Fractions, means, widths and error-free widths in order of the means."""
    areas, means, widths = np.abs(values[:components]), values[components : 2 * components], np.abs(values[2 * components :])
    order = np.argsort(means)
    sigma = np.sqrt(np.maximum(widths**2 - noise, 0.0))
    return areas[order] / areas.sum(), means[order], widths[order], sigma[order]
