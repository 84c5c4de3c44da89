"""Systematic errors of motions that vary smoothly with place on detector or sky, magnitude or colour, solved for together.

Members of a cluster share one motion, so that what theirs have in common at a place is an error.  Each term (a detector at one
epoch, the sky, the magnitude) is a field between nodes with a Gaussian prior whose amplitude, and the scale all share, maximise the
evidence: where the stars show nothing the amplitude is zero, and nothing is corrected.  A star is left out of its own correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.linalg import block_diag, cholesky, solve_triangular
from scipy.sparse import bsr_array, coo_array, csr_array, hstack

from dpm.science.motions.dispersion import intrinsic_dispersion
from dpm.science.motions.slopes import EPOCH_GAP
from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["ErrorTerm", "SmoothErrors", "detector_terms", "fit_smooth_errors", "place_map"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CLIP_SIGMA = 3.5
FEWEST = 50  # members; fewer say too little of two fields
CELLS = 8  # between the nodes of an axis
SCALES = (1.0, 2.0, 4.0)  # correlation lengths tried, cells
# Amplitudes tried: none, and fractions of the median noise of a member's motion (or position).
AMPLITUDES = (0.0, *(2.0**k for k in range(-4, 2)))
FAINTEST = 1e-3  # modes of the prior below this share of the largest variance are left out
ROUNDS = 2  # over the terms, for each scale
FEWEST_IN_CELL = 3
CHUNK = 5000  # stars whose dense rows are in memory at a time


@dataclass(frozen=True)
class ErrorTerm:
    """What a smooth error field does to motions.

    Parameters
    ----------
    name : str
        For messages and maps.
    star : ndarray (m,), int
        Row of the star that each entry belongs to.
    place : ndarray (m, k)
        Where the field is taken, k being 1 or 2.
    effect : ndarray (m, 2, 2)
        Motion of the star (East and North, mas/yr) for a unit error along the field's two axes.
    """

    name: str
    star: Ints
    place: Floats
    effect: Floats


@dataclass(frozen=True)
class SmoothErrors:
    """Corrected motions.

    Parameters
    ----------
    motion, covariance : ndarray (n, 2), (n, 2, 2)
        With the correction's own error; stars outside of all terms stay as they were.
    correction : ndarray (n, 2)
        What was subtracted.
    amplitude : dict of str to float
        Root of each term's prior variance in its own unit; 0: nothing was found.
    scale : float
        Correlation length, cells of an 8th of the field.
    evidence : float
        Logarithm of the likelihood's ratio to no errors at all.
    """

    motion: Floats
    covariance: Floats
    correction: Floats
    amplitude: dict[str, float] = field(default_factory=dict)
    scale: float = float("nan")
    evidence: float = 0.0


def detector_terms(
    star: NDArray, group: Sequence[str], time: NDArray, covariance: NDArray, place: NDArray, jacobian: NDArray, n_stars: int
) -> list[ErrorTerm]:
    """Terms of position errors on detectors, from every single position that the motions rest on.

    Parameters
    ----------
    star : array_like (m,), int
    group : sequence of str
        Detector and epoch of each position; empty for positions without a detector, such as an older catalogue's.
    time : array_like (m,)
        Years.
    covariance : array_like (m, 2, 2)
        East and North; their traces weight the positions of a star.
    place : array_like (m, 2)
        On the detector, pixels.
    jacobian : array_like (m, 2, 2)
        Position (East, North) by place.
    n_stars : int

    Returns
    -------
    list of ErrorTerm
        The fields' unit is the position's (mas), along the detector's axes.
    """
    star, names = np.asarray(star, dtype=np.int64), np.asarray(group)
    weight = 1.0 / np.trace(np.asarray(covariance, float), axis1=1, axis2=2)
    total = np.bincount(star, weight, n_stars)
    years = np.asarray(time, float) - float(np.min(time))
    with np.errstate(invalid="ignore", divide="ignore"):
        years = years - (np.bincount(star, weight * years, n_stars) / total)[star]
        square = np.bincount(star, weight * years**2, n_stars)
        slope = weight * years / square[star]
        # The dithers of one epoch tell nothing of motion.
        slope[(np.sqrt(square / total) < 0.5 * EPOCH_GAP)[star]] = np.nan
    jacobian = np.asarray(jacobian, float)
    size = np.sqrt(np.abs(np.linalg.det(jacobian)))
    terms = []
    for name in sorted(set(names) - {""}):
        mine = np.flatnonzero((names == name) & np.isfinite(slope))
        effect = slope[mine, None, None] * jacobian[mine] / size[mine, None, None]
        terms.append(ErrorTerm(str(name), star[mine], np.asarray(place, float)[mine], effect))
    return terms


def fit_smooth_errors(motion: NDArray, covariance: NDArray, members: NDArray, terms: Sequence[ErrorTerm]) -> SmoothErrors:
    """Solve for the fields of all terms together and subtract them.

    Parameters
    ----------
    motion, covariance : array_like (n, 2), (n, 2, 2)
        Relative motions, mas/yr.
    members : array_like (n,), bool
        Stars whose true motions are alike.
    terms : sequence of ErrorTerm

    Raises
    ------
    MotionError
        If fewer than `FEWEST` members have motions.
    """
    motion, covariance = np.asarray(motion, dtype=float), np.asarray(covariance, dtype=float)
    n, known = len(motion), known_motions(motion, covariance)
    rows = np.flatnonzero(known & np.asarray(members, dtype=bool))
    if len(rows) < FEWEST:
        raise MotionError(f"{len(rows)} members with motions: smooth errors need {FEWEST} or more")
    found = intrinsic_dispersion(motion[rows], covariance[rows])
    noise = covariance + found.sigma**2 * np.eye(2)
    off = motion[rows] - found.mean
    near = (np.abs(off) <= CLIP_SIGMA * np.sqrt(np.diagonal(noise[rows], axis1=1, axis2=2))).all(axis=1)
    rows, off = rows[near], off[near]
    if not terms:
        return SmoothErrors(motion, covariance, np.zeros_like(motion))
    design, grids = _design(terms, n)
    inverse = np.linalg.inv(noise[rows])
    mine = design[np.column_stack([2 * rows, 2 * rows + 1]).ravel()]
    weighted = mine.T @ bsr_array((inverse, np.arange(len(rows)), np.arange(len(rows) + 1))).tocsr()
    normal, right = (weighted @ mine).toarray(), weighted @ off.ravel()
    sigma = float(np.sqrt(np.median(np.trace(noise[rows], axis1=1, axis2=2)) / 2))
    amplitude, scale, evidence = _best_prior(normal, right, np.array([sigma / _typical(term, rows, n) for term in terms]), grids)
    if evidence <= 0.0:
        return SmoothErrors(motion, covariance, np.zeros_like(motion), dict.fromkeys((term.name for term in terms), 0.0))
    root, term = _prior_roots(scale, grids)
    root = (root * amplitude[term])[:, amplitude[term] > 0]
    spread = root @ np.linalg.solve(np.eye(root.shape[1]) + root.T @ normal @ root, root.T)
    value = (design @ (spread @ right)).reshape(n, 2)
    own = np.zeros((n, 2, 2))
    for start in range(0, n, CHUNK):
        part = design[2 * start : 2 * (start + CHUNK)]
        own[start : start + CHUNK] = _own_blocks(part.toarray(), spread)
    # Members are left out of their own: their share in what the others say is taken back.
    block = own[rows] @ inverse
    left = np.linalg.solve(np.eye(2) - block, (off - value[rows])[:, :, None])[:, :, 0]
    value[rows] = off - left
    own[rows] = np.linalg.solve(np.eye(2) - block, own[rows])
    names = (term.name for term in terms)
    return SmoothErrors(motion - value, covariance + own, value, dict(zip(names, amplitude.tolist())), scale, evidence)


def place_map(term: ErrorTerm, motion: NDArray, covariance: NDArray, members: NDArray) -> Table:
    """Weighted mean relative motions of members in cells of a term's places (a star counts once in a cell).

    Parameters
    ----------
    term : ErrorTerm
        With two coordinates.
    motion, covariance : array_like (n, 2), (n, 2, 2)
    members : array_like (n,), bool

    Returns
    -------
    astropy.table.Table
        ``x, y`` (middle of the cell), ``n, pmra, pmdec, error``; ``meta`` has ``rms`` beyond the errors (mas/yr, one axis, negative
        where errors explain more than there is), ``chi2`` and ``degrees``.  Dithered stars are in several cells.
    """
    motion, covariance = np.asarray(motion, float), np.asarray(covariance, float)
    use = known_motions(motion, covariance) & np.asarray(members, dtype=bool)
    names = ("x", "y", "n", "pmra", "pmdec", "error")
    mine = use[term.star]
    if use.sum() < FEWEST or not mine.any():
        return Table(names=names, dtype=(float, float, int, float, float, float))
    variance = 0.5 * np.trace(covariance, axis1=1, axis2=2) + intrinsic_dispersion(motion[use], covariance[use]).sigma ** 2
    low = term.place.min(axis=0)
    step = float(np.ptp(term.place, axis=0).max()) / CELLS * (1 + 1e-9)
    index = np.floor((term.place[mine] - low) / step).astype(int)
    once = np.unique(np.column_stack([index, term.star[mine]]), axis=0)
    keys, cell = np.unique(once[:, :2], axis=0, return_inverse=True)
    cell, star = cell.ravel(), once[:, 2]
    weight = 1.0 / variance[star]
    total, count = np.bincount(cell, weight), np.bincount(cell)
    mean = np.column_stack([np.bincount(cell, weight * motion[star, a]) for a in (0, 1)]) / total[:, None]
    full, error = count >= FEWEST_IN_CELL, 1.0 / np.sqrt(total)
    middle = low + (keys + 0.5) * step
    out = Table([middle[full, 0], middle[full, 1], count[full], mean[full, 0], mean[full, 1], error[full]], names=names)
    excess = float(np.mean(mean[full] ** 2 - error[full, None] ** 2)) if full.any() else np.nan
    out.meta.update({
        "rms": float(np.sign(excess) * np.sqrt(abs(excess))), "chi2": float(np.sum((mean[full] / error[full, None]) ** 2)),
        "degrees": 2 * int(full.sum()),
    })  # fmt: skip
    return out


def _design(terms: Sequence[ErrorTerm], n: int) -> tuple[csr_array, list[Floats]]:
    """Motions of all stars by the nodes' values (2 n, p), and the nodes of each term (cells from the first)."""
    parts, grids = [], []
    for term in terms:
        place = np.atleast_2d(np.asarray(term.place, float))
        axes = place.shape[1]
        low, step = place.min(axis=0), max(float(np.ptp(place, axis=0).max()) / CELLS, 1e-12)
        where = (place - low) / step
        sides = np.floor(where.max(axis=0)).astype(int) + 2
        count = int(np.prod(sides))
        first = np.floor(where).astype(int)
        part = csr_array((2 * n, 2 * count))
        for corner in np.ndindex(*(2,) * axes):
            share = np.prod(np.where(corner, where - first, 1.0 - (where - first)), axis=1)
            node = np.ravel_multi_index(tuple((first + corner).T), tuple(sides))
            for i, j in np.ndindex(2, 2):
                entries = (share * term.effect[:, i, j], (2 * term.star + i, node + j * count))
                part = part + coo_array(entries, shape=part.shape).tocsr()
        parts.append(part)
        grids.append(np.column_stack(np.unravel_index(np.arange(count), tuple(sides))).astype(float))
    return hstack(parts, format="csr"), grids


def _own_blocks(design: Floats, spread: Floats) -> Floats:
    """Covariances (n, 2, 2) of each star's two values."""
    return np.einsum("nip,njp->nij", (design @ spread).reshape(-1, 2, len(spread)), design.reshape(-1, 2, len(spread)))


def _prior_roots(scale: float, grids: Sequence[Floats]) -> tuple[Floats, Ints]:
    """Root (p, r) of the prior covariance of all nodes for amplitudes of one, both axes, and the term of each of its columns."""
    blocks = []
    for nodes in grids:
        distance = np.sum((nodes[:, None] - nodes[None]) ** 2, axis=2)
        values, vectors = np.linalg.eigh(np.exp(-0.5 * distance / scale**2))
        large = values > FAINTEST * values[-1]
        blocks += 2 * [vectors[:, large] * np.sqrt(values[large])]
    widths = [block.shape[1] for block in blocks]
    return block_diag(*blocks), np.repeat(np.arange(len(blocks)) // 2, widths)


def _best_prior(normal: Floats, right: Floats, unit: Floats, grids: Sequence[Floats]) -> tuple[Floats, float, float]:
    """Amplitudes (tried in each term's ``unit``) and scale of the largest evidence, and its logarithm's gain over no errors."""
    best = (np.zeros(len(unit)), SCALES[0], 0.0)
    for scale in SCALES:
        root, term = _prior_roots(scale, grids)
        inner, projected = root.T @ normal @ root, root.T @ right
        amplitude, top = np.zeros(len(unit)), 0.0
        for _ in range(ROUNDS):
            for k in range(len(unit)):
                tried = [(top, amplitude)]
                for fraction in AMPLITUDES:
                    trial = amplitude.copy()
                    trial[k] = fraction * unit[k]
                    tried.append((_evidence(inner, projected, trial[term]), trial))
                top, amplitude = max(tried, key=lambda pair: pair[0])
        if top > best[2]:
            best = (amplitude, scale, top)
    return best


def _evidence(inner: Floats, projected: Floats, amplitude: Floats) -> float:
    """Logarithm of the likelihood's ratio to that without errors."""
    use = amplitude > 0
    if not use.any():
        return 0.0
    matrix = np.eye(int(use.sum())) + amplitude[use, None] * inner[np.ix_(use, use)] * amplitude[use]
    lower = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    half = solve_triangular(lower, amplitude[use] * projected[use], lower=True, check_finite=False)
    return float(0.5 * half @ half - np.sum(np.log(np.diag(lower))))


def _typical(term: ErrorTerm, rows: Ints, n: int) -> float:
    """What a unit of the field, the same at all of a star's places, does to its motion; median of the stars in ``rows``."""
    size = np.bincount(term.star, np.sqrt(0.5 * np.sum(term.effect**2, axis=(1, 2))), n)[rows]
    return float(np.median(size[size > 0])) if (size > 0).any() else 1.0
