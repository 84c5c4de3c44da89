"""Find and fit the stars of one patch, wave by wave from bright to faint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.spatial import cKDTree
from scipy.stats import chi2, norm

from dpm.kernels.bundles import MAX_HALF
from dpm.kernels.patch import place_stars
from dpm.stages.second_pass.scene import PatchScene

__all__ = ["FrozenStars", "equivalent_threshold", "find_stars", "saturated_half"]

Floats = NDArray[np.float64]

WAVES = 4
CANDIDATE_FRACTION = 0.85  # candidates are taken from this fraction of the threshold: the filter does not know the pixel phase
KEEP_FRACTION = 0.7  # and stay until the last wave with this fraction: neighbours not subtracted yet disturb them
FINDER_MODEL_ERROR = (0.05, 0.02)  # error of the ePSF that the finder allows for: first wave, later waves
FIRST_ITERATIONS, SWEEP_ITERATIONS = 4, 4
SATURATED_RIM = 3  # pixels of wings about the lost core that a fit rests on
SWEEPS = (1, 1, 2, 3)  # of each wave; those after the first look only where something changed


@dataclass(frozen=True)
class FrozenStars:
    """Stars that a patch takes as they are: positions (n,), fluxes (n, B) and half-widths of fit boxes (n,)."""

    x: Floats
    y: Floats
    flux: Floats
    half: NDArray[np.int64]


def equivalent_threshold(sigma: float, n_bands: int) -> float:
    """Threshold of the combined significance that noise alone passes as often as one band passes ``sigma``.

    The combined significance squared is the sum of squares of the bands' positive significances: of n bands k are positive with
    binomial probability, and their squares then follow chi-square with k degrees of freedom.

    Parameters
    ----------
    sigma : float
        ``[find] threshold``.
    n_bands : int
        Bands of the patch.
    """
    if n_bands == 1:
        return sigma
    wanted = norm.logsf(sigma)
    degrees = np.arange(n_bands + 1)
    choose = np.array([_choose(n_bands, int(k)) for k in degrees], float)
    weights = choose / 2.0**n_bands

    def excess(limit: float) -> float:
        return float(np.log(np.sum(weights[1:] * chi2.sf(limit * limit, degrees[1:]))) - wanted)

    return float(brentq(excess, 0.5 * sigma, sigma + 2.0 * np.sqrt(n_bands)))


def _choose(n: int, k: int) -> int:
    out = 1
    for i in range(k):
        out = out * (n - i) // (i + 1)
    return out


def find_stars(
    scene: PatchScene,
    threshold: float,
    seeds: FrozenStars | None = None,
    frozen: Sequence[FrozenStars] = (),
    near: tuple[NDArray[np.float64], float] | None = None,
) -> int:
    """Find and fit all stars of a patch and its margin; the scene holds them afterwards.

    Parameters
    ----------
    scene : PatchScene
        Fresh.
    threshold : float
        Lowest combined significance.
    seeds : FrozenStars, optional
        Saturated stars of the first pass, which are fitted with the others.
    frozen : sequence of FrozenStars
        Stars beyond the margin whose light reaches in.
    near : tuple, optional
        Places (n, 2) and a distance from one of them within which stars are looked for; everywhere if not given.

    Returns
    -------
    int
        Pixels that lost their weight because they stood out in one exposure alone.
    """
    masked = 0
    for group in frozen:
        scene.subtract_frozen(group.x, group.y, group.flux)
    if seeds is not None and len(seeds.x):
        scene.add_known(seeds.x, seeds.y, seeds.flux, seeds.half)
        scene.update_sky()
        scene.sweep(SWEEP_ITERATIONS, everyone=True)
    for wave in range(WAVES):
        last = wave == WAVES - 1
        model_error = FINDER_MODEL_ERROR[min(wave, 1)]
        x, y, flux, _ = scene.candidates(CANDIDATE_FRACTION * threshold, model_error)
        if near is not None:
            wanted = np.isfinite(cKDTree(near[0]).query(np.column_stack([x, y]), distance_upper_bound=near[1])[0])
            x, y, flux = x[wanted], y[wanted], flux[wanted]
        scene.fit_new(x, y, flux, KEEP_FRACTION * threshold, FIRST_ITERATIONS)
        for turn in range(SWEEPS[wave]):
            scene.sweep(SWEEP_ITERATIONS, everyone=turn == 0 and (wave == 0 or last))
        scene.update_sky()
        scene.raise_noise()
        if wave == 1:
            masked += scene.mask_outliers()
        scene.keep(scene.significance() >= (threshold if last else KEEP_FRACTION * threshold))
    return masked


def saturated_half(scene: PatchScene, x: Floats, y: Floats) -> NDArray[np.int64]:
    """Half-width of the fit box of saturated stars: the radius of the pixels that are lost, and a rim of wings about it."""
    patch = scene.patch
    placed = np.zeros((len(x), scene.n_exposures, 3))
    place_stars(patch, np.asarray(x, float), np.asarray(y, float), placed)
    out = np.full(len(x), SATURATED_RIM, np.int64)
    for e, begin in enumerate(patch.first):
        ny, nx = int(patch.ny[e]), int(patch.nx[e])
        lost = ~np.isfinite(patch.variance_read[begin : begin + ny * nx].reshape(ny, nx))
        for k in range(len(x)):
            if not np.isfinite(placed[k, e]).all():
                continue
            column, row = int(round(placed[k, e, 0])), int(round(placed[k, e, 1]))
            rows, columns = (slice(max(v - MAX_HALF, 0), max(v + MAX_HALF + 1, 0)) for v in (row, column))
            box = lost[rows, columns]
            radius = int(np.ceil(np.sqrt(box.sum() / np.pi)))
            out[k] = max(out[k], min(radius + SATURATED_RIM, MAX_HALF - 2))
    return out
