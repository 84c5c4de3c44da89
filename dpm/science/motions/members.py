"""Members and their frame together: reference stars chosen by their own motions, motions against them, and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.science.motions.mixture import FEWEST_STARS, Mixture, fit_mixture
from dpm.science.motions.relative import FEWEST_REFERENCE, RelativeMotions, relative_motions
from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["MemberMotions", "member_motions"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MEMBER = 0.9  # probability of a reference star: one in ten at worst is of the field, and clipping finds those that matter
ROUNDS = 8
SETTLED = 0.005  # share of the reference stars that may still change
# Reference stars have errors up to this percentile of those of all stars: the transform's weight lies with them.
WELL_MEASURED = 70.0
# Bayesian evidence (difference of the information criterion) from which a cluster counts as seen.
LEAST_EVIDENCE = 10.0


@dataclass(frozen=True)
class MemberMotions:
    """Motions against the members, and who they are.

    Parameters
    ----------
    relative : RelativeMotions
    mixture : Mixture, optional
        Fitted to the relative motions; None where the field shows no cluster: motions then count from all well-measured stars.
    probability : ndarray (n,)
        Of membership; NaN for stars without motions, and for all where there is no cluster.
    rounds : int
        Until the members stayed.
    """

    relative: RelativeMotions
    mixture: Mixture | None
    probability: Floats
    rounds: int


def member_motions(
    position: NDArray,
    motion: NDArray,
    covariance: NDArray,
    radius: NDArray | None = None,
    start: NDArray | None = None,
    clean: NDArray | None = None,
    neighbors: int = 0,
    field_components: int = 1,
) -> MemberMotions:
    """Choose members by their motions, take motions against them, and repeat until they stay the same.

    Parameters
    ----------
    position : array_like (n, 2)
        On a plane, any unit.
    motion, covariance : array_like (n, 2), (n, 2, 2)
        mas/yr.
    radius : array_like (n,), optional
        From the cluster's centre: the mixture then has a spatial term.
    start : array_like (n,), bool, optional
        Candidates (a list, a CMD region) that reference stars are chosen from; all stars by default.
    clean : array_like (n,), bool, optional
        Stars good enough for the fits; all by default.
    neighbors, field_components
        Of `relative_motions` and `fit_mixture`.

    Raises
    ------
    MotionError
        If too few stars have motions, or no reference star is left.
    """
    position, motion, covariance = (np.asarray(values, dtype=float) for values in (position, motion, covariance))
    known = known_motions(motion, covariance) & np.isfinite(position).all(axis=1)
    good = known if clean is None else known & np.asarray(clean, dtype=bool)
    if good.sum() < FEWEST_STARS:
        raise MotionError(
            f"{int(known.sum())} stars have motions, {int(good.sum())} of them good ones: members need {FEWEST_STARS} or more. "
            "Motions need stars measured at two epochs, or an older catalogue as first epoch"
        )
    variance = np.trace(covariance, axis1=1, axis2=2)
    precise = good & (variance <= np.percentile(variance[good], WELL_MEASURED))
    candidates = precise if start is None else precise & np.asarray(start, dtype=bool)
    if candidates.sum() < FEWEST_REFERENCE:
        raise MotionError(
            f"{int(candidates.sum())} of the chosen reference stars are well measured at two epochs; {FEWEST_REFERENCE} or "
            "more are needed: choose more of them, or none to have them chosen by motion"
        )
    where = None if radius is None else np.asarray(radius, dtype=float)
    inside = None if where is None else where[good]
    # A list or a region of the CMD is mostly members already; all stars begin with the densest motion.
    begin = None if start is None else tuple(np.median(motion[candidates], axis=0))
    mixture = fit_mixture(motion[good], covariance[good], inside, field_components, begin)
    if mixture.evidence < LEAST_EVIDENCE:
        relative = relative_motions(position, motion, covariance, candidates, neighbors)
        return MemberMotions(relative, None, np.full(len(motion), np.nan), 1)
    moved, spread, before = motion, covariance, np.zeros(len(motion), dtype=bool)
    turn = 0
    while turn < ROUNDS:
        turn += 1
        probability = mixture.probability(moved, spread, where)
        reference = candidates & (np.nan_to_num(probability) >= MEMBER)
        relative = relative_motions(position, motion, covariance, reference, neighbors)
        moved, spread = relative.motion, relative.covariance
        mixture = fit_mixture(moved[good], spread[good], inside, field_components, (0.0, 0.0))
        if np.sum(reference != before) <= SETTLED * reference.sum():
            break
        before = reference
    return MemberMotions(relative, mixture, mixture.probability(moved, spread, where), turn)
