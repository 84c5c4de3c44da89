"""Positions in new exposures combined with a catalogue's positions, motions and parallaxes in a Bayesian way (as BP3M does).

Unknown are every star's position, motion and parallax, with the catalogue's values and covariances as prior, and six linear
terms an exposure, with none.  All is linear, so that the posterior is Gaussian: stars are eliminated first, the transforms are
solved together, and each star's posterior holds the transforms' errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution
from scipy.stats import norm

from dpm.science.motions.vectors import MotionError

__all__ = ["Combination", "combine_states", "combine_with_priors"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEWEST_STARS = 4  # of an exposure: three fix its six terms
CLIP_SIGMA = 4.0
ROUNDS = 10


@dataclass(frozen=True)
class Combination:
    """Posterior of stars and transforms.

    Parameters
    ----------
    value : ndarray (n, 5)
        East, North (mas, at the prior's epoch), motions (mas/yr), parallax (mas).
    covariance : ndarray (n, 5, 5)
    transforms : ndarray (k, 6)
        Of each exposure: offset = (a, b) + ((c, d), (e, f)) . (East, North), in the unit of the positions (mas) and of ``plane``.
    transform_covariance : ndarray (6 k, 6 k)
    used : ndarray (m,), bool
        Positions that count.
    chi2, degrees : float, int
        Of positions and priors together.
    """

    value: Floats
    covariance: Floats
    transforms: Floats
    transform_covariance: Floats
    used: Bools
    chi2: float
    degrees: int


def combine_states(
    state: NDArray, covariance: NDArray, prior: NDArray, prior_covariance: NDArray, years: NDArray
) -> tuple[Floats, Floats]:
    """A catalogue's positions and motions with those of another epoch as priors, star by star.

    For catalogues that are tied to each other already, and whose errors hold all that is common.

    Parameters
    ----------
    state, covariance : array_like (n, 4), (n, 4, 4)
        East, North (mas), motions (mas/yr); a star without motions has NaN there, and its position alone counts.
    prior, prior_covariance : array_like (n, 4), (n, 4, 4)
        The same from the other catalogue, offsets from the same zeros.
    years : array_like (n,)
        The prior's epoch minus the catalogue's.

    Returns
    -------
    value, covariance : ndarray (n, 4), (n, 4, 4)
        At the catalogue's epoch; NaN where either lacks its position.
    """
    state, covariance, prior, prior_covariance, years = (
        np.asarray(values, dtype=float) for values in (state, covariance, prior, prior_covariance, years)
    )
    n = len(state)
    value, spread = np.full((n, 4), np.nan), np.full((n, 4, 4), np.nan)
    there = np.isfinite(prior).all(axis=1) & np.isfinite(prior_covariance).all(axis=(1, 2)) & np.isfinite(state[:, :2]).all(axis=1)
    moving = np.isfinite(state).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    weight, right = np.zeros((n, 4, 4)), np.zeros((n, 4))
    full, still = np.flatnonzero(there & moving), np.flatnonzero(there & ~moving)
    weight[full] = np.linalg.inv(covariance[full])
    weight[still, :2, :2] = np.linalg.inv(covariance[still, :2, :2])
    right[full] = np.einsum("nij,nj->ni", weight[full], state[full])
    right[still, :2] = np.einsum("nij,nj->ni", weight[still, :2, :2], state[still, :2])
    k = np.flatnonzero(there)
    carry = np.tile(np.eye(4), (len(k), 1, 1))
    carry[:, 0, 2] = carry[:, 1, 3] = years[k]
    back = np.swapaxes(carry, 1, 2) @ np.linalg.inv(prior_covariance[k])
    spread[k] = np.linalg.inv(weight[k] + back @ carry)
    value[k] = np.einsum("nij,nj->ni", spread[k], right[k] + np.einsum("nij,nj->ni", back, prior[k]))
    return value, spread


def combine_with_priors(
    prior: NDArray,
    prior_covariance: NDArray,
    plane: NDArray,
    star: NDArray,
    exposure: NDArray,
    years: NDArray,
    position: NDArray,
    covariance: NDArray,
    parallax_factors: NDArray | None = None,
    clip: float = CLIP_SIGMA,
) -> Combination:
    """Solve stars and transforms.

    Parameters
    ----------
    prior, prior_covariance : array_like (n, 5), (n, 5, 5)
        East, North (mas, offsets from ``plane`` x its unit: small numbers), motions (mas/yr), parallax (mas). A star without a
        value has a wide prior.
    plane : array_like (n, 2)
        Rough positions, any unit, for the transforms' linear terms.
    star, exposure : array_like (m,), int
        Of each position, from 0.
    years : array_like (m,)
        Since the prior's epoch.
    position, covariance : array_like (m, 2), (m, 2, 2)
        East and North (mas), offsets from the same zeros as the prior's, after a rough transform.
    parallax_factors : array_like (m, 2), optional
        Without, positions say nothing of parallaxes.
    clip : float
        Positions less likely than this many standard deviations are left out.

    Raises
    ------
    MotionError
        If an exposure has fewer than `FEWEST_STARS` positions.
    """
    prior, prior_covariance, plane = (np.asarray(values, dtype=float) for values in (prior, prior_covariance, plane))
    star, exposure = np.asarray(star, dtype=np.int64), np.asarray(exposure, dtype=np.int64)
    years, position, covariance = (np.asarray(values, dtype=float) for values in (years, position, covariance))
    n, k = len(prior), int(exposure.max(initial=-1)) + 1
    center, reach = plane.mean(axis=0), max(float(np.std(plane)), 1e-12)
    unit = (plane - center) / reach
    sees = np.zeros((len(star), 2, 5))
    sees[:, 0, 0] = sees[:, 1, 1] = 1.0
    sees[:, 0, 2] = sees[:, 1, 3] = years
    if parallax_factors is not None:
        sees[:, :, 4] = parallax_factors
    moves = np.zeros((len(star), 2, 6))
    moves[:, 0, 0] = moves[:, 1, 1] = 1.0
    moves[:, 0, 2:4] = moves[:, 1, 4:6] = unit[star]
    columns = 6 * exposure[:, None] + np.arange(6)
    weight = np.linalg.inv(covariance)
    tight = np.linalg.inv(prior_covariance)
    off = position - np.einsum("mip,mp->mi", sees, prior[star])
    used = np.isfinite(off).all(axis=1)
    limit = chi2_distribution.isf(2 * norm.sf(clip), 2)
    for turn in range(ROUNDS):
        _enough(exposure, used, k)
        w = np.where(used[:, None, None], weight, 0.0)
        own = tight.copy()
        np.add.at(own, star, np.swapaxes(sees, 1, 2) @ w @ sees)
        own_right = np.zeros((n, 5))
        np.add.at(own_right, star, np.einsum("mip,mij,mj->mp", sees, w, np.nan_to_num(off)))
        inverse = np.linalg.inv(own)
        # cross[s]: of star s with all transforms
        cross = np.zeros((n, 5, 6 * k))
        place = (star[:, None, None], np.arange(5)[None, :, None], columns[:, None, :])
        np.add.at(cross, place, np.swapaxes(sees, 1, 2) @ w @ moves)
        normal, right = np.zeros((6 * k, 6 * k)), np.zeros(6 * k)
        np.add.at(normal, (columns[:, :, None], columns[:, None, :]), np.swapaxes(moves, 1, 2) @ w @ moves)
        np.add.at(right, columns, np.einsum("mip,mij,mj->mp", moves, w, np.nan_to_num(off)))
        carried = np.einsum("npa,npq->nqa", cross, inverse)
        normal -= np.einsum("nqa,nqb->ab", carried, cross)
        right -= np.einsum("nqa,nq->a", carried, own_right)
        spread = np.linalg.inv(normal)
        transform = spread @ right
        step = np.einsum("npq,nq->np", inverse, own_right - cross @ transform)
        left = off - np.einsum("mip,mp->mi", sees, step[star]) - np.einsum("mip,mp->mi", moves, transform[columns])
        chi2 = np.einsum("mi,mij,mj->m", left, weight, left)
        with np.errstate(invalid="ignore"):
            keep = np.isfinite(off).all(axis=1) & (chi2 <= limit)
        if np.array_equal(keep, used) or turn == ROUNDS - 1:
            break
        used = keep
    total = inverse + np.einsum("nqa,ab,npb->nqp", carried, spread, carried)
    both = float(np.sum(chi2[used]) + np.einsum("np,npq,nq->", step, tight, step))
    terms = transform.reshape(k, 6).copy()
    terms[:, 2:] /= reach
    scale = np.tile([1.0, 1.0, *[1.0 / reach] * 4], k)
    terms[:, :2] -= np.column_stack([terms[:, 2:4] @ center, terms[:, 4:6] @ center])
    degrees = 2 * int(used.sum()) - 6 * k
    return Combination(prior + step, total, terms, np.asarray(spread * np.outer(scale, scale), dtype=float), used, both, degrees)


def _enough(exposure: NDArray[np.int64], used: Bools, k: int) -> None:
    count = np.bincount(exposure[used], minlength=k)
    if (count < FEWEST_STARS).any():
        worst = int(np.argmin(count))
        raise MotionError(
            f"exposure {worst} has {count[worst]} usable positions of stars with priors; its six terms need {FEWEST_STARS} or more"
        )
