"""Membership by a mixture of a cluster and the field in the vector-point diagram, each star with its own errors.

The cluster is a round Gaussian (its dispersion is intrinsic: errors are taken out), the field one or more Gaussians of any shape.
With positions the cluster's share falls outwards as a Plummer profile's surface density does, over a field of even density; the
shape of the footprint does not enter, since motions are modelled at given positions.  Maximum likelihood: expectation
maximisation first, then a quasi-Newton search; errors of the parameters come from the scores of single stars.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from dpm.science.motions.vectors import MotionError, known_motions

__all__ = ["Mixture", "densest_motion", "fit_mixture"]

Floats = NDArray[np.float64]

FEWEST_STARS = 30  # fewer say nothing of a dozen parameters
EM_ROUNDS = 30
UNRESOLVED = 1e-4  # of the field's width: a dispersion below has no error of its own
TWO_PI = 2.0 * np.pi


@dataclass(frozen=True)
class Mixture:
    """Cluster and field.

    Parameters
    ----------
    mean, mean_error : ndarray (2,)
        Of the cluster, mas/yr.
    sigma, sigma_error : float
        Its intrinsic dispersion, one axis; the error is NaN where the dispersion is zero.
    fraction, fraction_error : float
        Share of the cluster among the stars (with positions: at the centre).
    field_weights, field_means, field_covariances : ndarray (k,), (k, 2), (k, 2, 2)
        Of the field, errors taken out.
    scale, scale_error : float
        Plummer radius in units of the positions; NaN without positions.
    evidence : float
        Difference of the Bayesian information criterion to the same field without a cluster: positive for a cluster.
    n : int
        Stars.
    """

    mean: Floats
    mean_error: Floats
    sigma: float
    sigma_error: float
    fraction: float
    fraction_error: float
    field_weights: Floats
    field_means: Floats
    field_covariances: Floats
    scale: float
    scale_error: float
    evidence: float
    n: int

    def probability(self, motion: NDArray, covariance: NDArray, radius: NDArray | None = None) -> Floats:
        """Membership probabilities (n,) of stars, those of the fit or others; NaN without a motion.

        Parameters
        ----------
        motion, covariance : array_like (n, 2), (n, 2, 2)
        radius : array_like (n,), optional
            From the centre, where the fit had it.
        """
        motion, covariance = np.asarray(motion, dtype=float), np.asarray(covariance, dtype=float)
        out = np.full(len(motion), np.nan)
        known = known_motions(motion, covariance)
        where = None if radius is None else np.asarray(radius, dtype=float)
        if np.isfinite(self.scale) and where is None:
            raise MotionError("this mixture was fitted with positions: give the stars' radii as well")
        if where is not None:
            known &= np.isfinite(where)
        part = _Stars(motion[known], covariance[known], where[known] if where is not None and np.isfinite(self.scale) else None)
        cluster, field = _densities(self, part)
        out[known] = cluster / np.maximum(cluster + field, 1e-300)
        return out


@dataclass(frozen=True)
class _Stars:
    motion: Floats
    covariance: Floats
    radius: Floats | None


def densest_motion(motion: NDArray, covariance: NDArray) -> tuple[Floats, float]:
    """Where motions lie closest together, and the radius of that clump: a start for the cluster.

    Parameters
    ----------
    motion, covariance : array_like (n, 2), (n, 2, 2)
        The better-measured half of the stars counts.
    """
    motion, covariance = np.asarray(motion, dtype=float), np.asarray(covariance, dtype=float)
    known = known_motions(motion, covariance)
    variance = np.trace(covariance, axis1=1, axis2=2)
    good = known & (variance <= np.median(variance[known]))
    points = motion[good]
    n = int(np.clip(len(points) // 15, 8, 200))
    distance = cKDTree(points).query(points, min(n + 1, len(points)))[0][:, -1]
    middle = points[np.argmin(distance)]
    radius = max(float(distance.min()), 1e-9)
    for _ in range(10):
        near = np.hypot(*(points - middle).T) < 2.0 * radius
        middle = np.median(points[near], axis=0)
    return middle, radius


def fit_mixture(
    motion: NDArray,
    covariance: NDArray,
    radius: NDArray | None = None,
    field_components: int = 1,
    start: tuple[float, float] | None = None,
) -> Mixture:
    """Fit cluster and field.

    Parameters
    ----------
    motion, covariance : array_like (n, 2), (n, 2, 2)
        mas/yr; stars without are left out.
    radius : array_like (n,), optional
        From the cluster's centre, any unit.
    field_components : int
        Gaussians of the field.
    start : (float, float), optional
        Motion of the cluster to begin with; the densest place of the diagram by default.

    Raises
    ------
    MotionError
        If fewer than `FEWEST_STARS` stars have motions.
    """
    motion, covariance = np.asarray(motion, dtype=float), np.asarray(covariance, dtype=float)
    known = known_motions(motion, covariance)
    if radius is not None:
        known &= np.isfinite(np.asarray(radius, dtype=float))
    if known.sum() < FEWEST_STARS:
        raise MotionError(f"{int(known.sum())} stars with motions: a mixture of cluster and field needs {FEWEST_STARS} or more")
    stars = _Stars(motion[known], covariance[known], None if radius is None else np.asarray(radius, dtype=float)[known])
    peak, width = densest_motion(stars.motion, stars.covariance)
    mean = peak if start is None else np.asarray(start, dtype=float)
    first = _begin(stars, mean, width, field_components)
    model = _maximise(_expectation_maximisation(first, stars), stars)
    alone = replace(first, fraction=0.0, scale=np.nan)
    alone = _maximise(_expectation_maximisation(alone, stars), stars)
    gain = 2.0 * (_log_likelihood(model, stars) - _log_likelihood(alone, stars))
    extra = 4 + (radius is not None)
    model = replace(model, evidence=float(gain - extra * np.log(len(stars.motion))), n=len(stars.motion))
    return _with_errors(model, stars)


def _begin(stars: _Stars, mean: Floats, width: float, n_field: int) -> Mixture:
    """First guess: the clump, and nested Gaussians for the field about the others' median."""
    far = np.hypot(*(stars.motion - mean).T) > 3.0 * width
    rest = stars.motion[far] if far.sum() >= 10 else stars.motion
    middle = np.median(rest, axis=0)
    spread = 1.4826 * np.median(np.abs(rest - middle), axis=0) + 1e-9
    sizes = 3.0 ** np.arange(n_field)
    shapes = np.array([np.diag((spread * size) ** 2) for size in sizes])
    scale = np.nan if stars.radius is None else float(np.median(stars.radius))
    nothing = np.full(2, np.nan)
    return Mixture(
        mean, nothing, 0.5 * width, np.nan, 0.5, np.nan, np.full(n_field, 1.0 / n_field), np.tile(middle, (n_field, 1)), shapes,
        scale, np.nan, np.nan, len(rest),
    )  # fmt: skip


def _normal(stars: _Stars, mean: Floats, shape: Floats) -> tuple[Floats, Floats, Floats]:
    """Densities (n,), inverse total covariances (n, 2, 2) and offsets (n, 2) of one Gaussian."""
    xx, xy, yy = (stars.covariance[:, i, j] + shape[i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
    determinant = xx * yy - xy**2
    off = stars.motion - mean
    inverse = np.empty((len(off), 2, 2))
    inverse[:, 0, 0], inverse[:, 1, 1] = yy / determinant, xx / determinant
    inverse[:, 0, 1] = inverse[:, 1, 0] = -xy / determinant
    chi2 = inverse[:, 0, 0] * off[:, 0] ** 2 + 2 * inverse[:, 0, 1] * off[:, 0] * off[:, 1] + inverse[:, 1, 1] * off[:, 1] ** 2
    return np.exp(-0.5 * np.minimum(chi2, 1400.0)) / (TWO_PI * np.sqrt(determinant)), inverse, off


def _share(model: Mixture, stars: _Stars) -> Floats:
    """Prior probability of the cluster for each star."""
    if stars.radius is None or not np.isfinite(model.scale):
        return np.full(len(stars.motion), model.fraction)
    odds = model.fraction / max(1.0 - model.fraction, 1e-12) * (1.0 + (stars.radius / model.scale) ** 2) ** -2
    return odds / (1.0 + odds)


def _densities(model: Mixture, stars: _Stars) -> tuple[Floats, Floats]:
    """Cluster's and field's density at each star."""
    _, density, _ = _components(model, stars)
    return density[0], density[1:].sum(axis=0)


def _components(model: Mixture, stars: _Stars) -> tuple[Floats, Floats, list[tuple[Floats, Floats, Floats]]]:
    """The cluster's prior probability (n,), weighted densities (1 + k, n), and what `_normal` gives for each component."""
    share = _share(model, stars)
    shapes = [model.sigma**2 * np.eye(2), *model.field_covariances]
    parts = [_normal(stars, mean, shape) for mean, shape in zip([model.mean, *model.field_means], shapes)]
    weights = [share, *((1.0 - share) * weight for weight in model.field_weights)]
    return share, np.array([weight * part[0] for weight, part in zip(weights, parts)]), parts


def _log_likelihood(model: Mixture, stars: _Stars) -> float:
    cluster, field = _densities(model, stars)
    return float(np.sum(np.log(np.maximum(cluster + field, 1e-300))))


def _expectation_maximisation(model: Mixture, stars: _Stars) -> Mixture:
    """Rounds of expectation and maximisation, which find the right hill from a rough start."""
    for _ in range(EM_ROUNDS):
        _, density, parts = _components(model, stars)
        belongs = density / np.maximum(density.sum(axis=0), 1e-300)
        shapes = [model.sigma**2 * np.eye(2), *model.field_covariances]
        means = [model.mean, *model.field_means]
        new_means, new_shapes = [], []
        for k, (mean, shape, (_, inverse, off)) in enumerate(zip(means, shapes, parts)):
            gain = shape @ inverse
            true = mean + np.einsum("nij,nj->ni", gain, off)
            total = max(float(belongs[k].sum()), 1e-12)
            middle = belongs[k] @ true / total
            step = true - middle
            left = shape - gain @ shape
            new_shapes.append((np.einsum("n,ni,nj->ij", belongs[k], step, step) + np.tensordot(belongs[k], left, 1)) / total)
            new_means.append(middle)
        field = belongs[1:].sum(axis=1)
        floor = 1e-12 * np.trace(new_shapes[1]) * np.eye(2)
        cluster = belongs[0].mean()
        model = replace(
            model, mean=new_means[0], sigma=float(np.sqrt(0.5 * np.trace(new_shapes[0]))),
            fraction=float(cluster) if np.isnan(model.scale) else model.fraction,
            field_weights=field / field.sum(), field_means=np.array(new_means[1:]),
            field_covariances=np.array(new_shapes[1:]) + floor,
        )  # fmt: skip
    return model


def _pack(model: Mixture, unit: float) -> Floats:
    """Free parameters, of the order of one: motions in units of ``unit``."""
    cluster: list[Floats] = []
    if model.fraction > 0:
        share = np.clip(model.fraction, 1e-6, 1 - 1e-6)
        cluster = [np.array([np.log(share / (1 - share)), *(model.mean / unit), model.sigma / unit])]
        if np.isfinite(model.scale):
            cluster.append(np.array([np.log(model.scale)]))
    roots = np.linalg.cholesky(model.field_covariances) / unit
    shapes = np.column_stack([np.log(roots[:, 0, 0]), np.log(roots[:, 1, 1]), roots[:, 1, 0]])
    ratios = np.log(np.maximum(model.field_weights[1:], 1e-9) / max(model.field_weights[0], 1e-9))
    return np.concatenate([*cluster, (model.field_means / unit).ravel(), shapes.ravel(), ratios])


def _unpack(values: Floats, like: Mixture, unit: float) -> Mixture:
    out, rest = like, values
    if like.fraction > 0:
        out = replace(out, fraction=float(1 / (1 + np.exp(-values[0]))), mean=values[1:3] * unit, sigma=float(values[3]) * unit)
        rest = values[4:]
        if np.isfinite(like.scale):
            out, rest = replace(out, scale=float(np.exp(rest[0]))), rest[1:]
    k = len(like.field_weights)
    means, shapes, ratios = rest[: 2 * k].reshape(k, 2), rest[2 * k : 5 * k].reshape(k, 3), rest[5 * k :]
    roots = np.zeros((k, 2, 2))
    roots[:, 0, 0], roots[:, 1, 1], roots[:, 1, 0] = np.exp(shapes[:, 0]), np.exp(shapes[:, 1]), shapes[:, 2]
    weights = np.exp(np.concatenate([[0.0], ratios]) - max(0.0, float(ratios.max(initial=0.0))))
    shapes = roots @ np.swapaxes(roots, 1, 2) * unit**2
    return replace(out, field_means=means * unit, field_covariances=shapes, field_weights=weights / weights.sum())


def _unit(model: Mixture) -> float:
    return float(np.sqrt(np.trace(model.field_covariances[0]) / 2))


def _scores(model: Mixture, stars: _Stars, unit: float) -> tuple[float, Floats]:
    """Log-likelihood, and each star's derivative (n, p) of it by the parameters of `_pack`."""
    share, density, parts = _components(model, stars)
    total = np.maximum(density.sum(axis=0), 1e-300)
    belongs = density / total
    columns: list[Floats] = []
    pulls = [np.einsum("nij,nj->ni", inverse, off) for _, inverse, off in parts]
    # Derivative of each component's log density by its covariance, twice.
    bends = [pull[:, :, None] * pull[:, None, :] - inverse for pull, (_, inverse, _) in zip(pulls, parts)]
    if model.fraction > 0:
        columns.append((belongs[0] - share)[:, None])
        columns.append(belongs[0][:, None] * pulls[0] * unit)
        columns.append((belongs[0] * np.trace(bends[0], axis1=1, axis2=2) * model.sigma * unit)[:, None])
        if stars.radius is not None and np.isfinite(model.scale):
            square = (stars.radius / model.scale) ** 2
            columns.append(((belongs[0] - share) * 4.0 * square / (1.0 + square))[:, None])
    columns += [belongs[k][:, None] * pulls[k] * unit for k in range(1, len(parts))]
    for k, shape in enumerate(model.field_covariances, start=1):
        root = np.linalg.cholesky(shape)
        bend = belongs[k][:, None, None] * (bends[k] @ root)
        columns.append(np.column_stack([bend[:, 0, 0] * root[0, 0], bend[:, 1, 1] * root[1, 1], bend[:, 1, 0] * unit]))
    field = belongs[1:].sum(axis=0)
    columns.append((belongs[2:] - field * model.field_weights[1:, None]).T)
    return float(np.sum(np.log(total))), np.concatenate(columns, axis=1)


def _maximise(model: Mixture, stars: _Stars) -> Mixture:
    """The top of the hill that expectation maximisation found, which it climbs slowly where errors exceed the dispersion."""
    unit, n = _unit(model), len(stars.motion)

    def cost(values: Floats) -> tuple[float, Floats]:
        total, scores = _scores(_unpack(values, model, unit), stars, unit)
        return -total / n, -scores.sum(axis=0) / n

    best = minimize(cost, _pack(model, unit), jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7})
    found = _unpack(best.x, model, unit)
    return replace(found, sigma=abs(found.sigma))


def _with_errors(model: Mixture, stars: _Stars) -> Mixture:
    """Errors from the scores of single stars: their outer products add up to the information."""
    unit = _unit(model)
    _, scores = _scores(model, stars, unit)
    free = np.ones(scores.shape[1], bool)
    resolved = model.sigma > UNRESOLVED * unit
    free[3] = resolved
    covariance = np.full((len(free), len(free)), np.nan)
    covariance[np.ix_(free, free)] = np.linalg.pinv(scores[:, free].T @ scores[:, free], hermitian=True)
    error = np.sqrt(np.diag(covariance))
    share = model.fraction * (1 - model.fraction)
    return replace(
        model, fraction_error=float(share * error[0]), mean_error=error[1:3] * unit,
        sigma_error=float(error[3] * unit) if resolved else np.nan,
        scale_error=float(error[4] * model.scale) if np.isfinite(model.scale) else np.nan,
    )  # fmt: skip
