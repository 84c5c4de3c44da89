"""Shares of sequences in a (rectified) colour: sums of Gaussians in an averaged histogram, and an unbinned mixture.

`gaussian_fractions` is the way of paper 1 (section 4.4; Libralato et al. 2019): stars are moved by their own errors a thousand
times, the histograms' bins start anywhere, and Gaussians are fitted to the mean histogram.
`mixture_fractions` needs no histogram: every star has its own error, sequences have an intrinsic width (or none), and likelihood
gives shares and errors.  It is the one to quote where errors differ from star to star.

Both count MEASURED stars: where sequences are not equally complete, correct for it.  Both need the errors to be right: with too
small ones a mixture makes up the rest as intrinsic width, with tails it finds a broad sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize
from scipy.special import logsumexp

from dpm.science.error_model import ErrorModel

__all__ = ["SequenceFractions", "color_errors", "gaussian_fractions", "mixture_fractions"]

N_DRAWS = 1000  # paper 1's
BINS_PER_SIGMA = 3.0  # bins as wide as a third of the narrowest scatter hide nothing
MIN_SHARE = 1e-4
MIN_WEIGHT = 0.02  # of the highest bin: bins of the wings count no more than one of these
MIN_STARS_EACH = 10  # a mean, a width and a share each


@dataclass(frozen=True)
class SequenceFractions:
    """Shares of sequences, in the order of their means.

    Parameters
    ----------
    fractions, means, widths : ndarray (k,)
        Widths are intrinsic for a mixture, and those of the histogram's Gaussians (errors included twice) else.
    covariance : ndarray (k, k)
        Of the fractions; its rows sum to zero.
    mean_errors : ndarray (k,)
        One standard deviation.
    values : ndarray (n,)
        What was fitted.
    membership : ndarray (n, k)
        Probability of each star to belong to each sequence.
    edges, histogram : ndarray
        Averaged histogram (stars per bin); empty for a mixture.
    log_likelihood : float
        Of the mixture; NaN else.
    """

    fractions: NDArray[np.float64]
    means: NDArray[np.float64]
    widths: NDArray[np.float64]
    covariance: NDArray[np.float64]
    mean_errors: NDArray[np.float64]
    values: NDArray[np.float64]
    membership: NDArray[np.float64]
    edges: NDArray[np.float64]
    histogram: NDArray[np.float64]
    log_likelihood: float

    @property
    def errors(self) -> NDArray[np.float64]:
        """One standard deviation of each fraction."""
        return np.sqrt(np.diag(self.covariance))


def color_errors(model: ErrorModel, magnitudes: Any) -> NDArray[np.float64]:
    """One-sigma errors of the colour of the model's first two bands, what both bands have in common taken off.

    Parameters
    ----------
    model : ErrorModel
        See `fit_error_model`.
    magnitudes : array_like (n, bands)
        Magnitudes in the order of its bands; the model is one of true magnitudes, measured ones stand for them.

    Returns
    -------
    ndarray (n,)
        NaN where a magnitude is.
    """
    covariance = model.covariance(magnitudes)
    return np.sqrt(covariance[:, 0, 0] + covariance[:, 1, 1] - 2.0 * covariance[:, 0, 1])


def gaussian_fractions(
    values: Any, errors: Any, n_components: int = 2, generator: np.random.Generator | int = 0, n_draws: int = N_DRAWS
) -> SequenceFractions:
    """Fit Gaussians to a histogram averaged over noisy draws.

    Parameters
    ----------
    values, errors : array_like (n,)
        Rectified colours and their one-sigma errors; stars without either are left out.
    n_components : int
        2 or 3 Gaussians.
    generator : numpy.random.Generator or int
        Source of randomness, or a seed.
    n_draws : int
        Noisy copies of the stars.

    Returns
    -------
    SequenceFractions
        Errors are those of the stars' number: what the fit would scatter by if other stars had been drawn.

    Raises
    ------
    ValueError
        If there are fewer than ten stars a component, or the Gaussians do not fit.
    """
    value, error = _usable(values, errors, n_components)
    random = np.random.default_rng(generator)
    means, widths, shares = _first_guess(value, n_components)
    bin_width = min(widths.min(), np.std(value) / 4.0) / BINS_PER_SIGMA
    low = value.min() - 4.0 * np.median(error) - bin_width
    n_bins = int(np.ceil((value.max() + 4.0 * np.median(error) - low) / bin_width)) + 1
    # Each star's own mean histogram: errors need to know what each star does to the sum.
    own = np.zeros((value.size, n_bins))
    rows = np.arange(value.size)
    for _ in range(n_draws):
        place = np.floor((value + error * random.standard_normal(value.size) - low) / bin_width + random.random() - 0.5)
        inside = (place >= 0) & (place < n_bins)
        own[rows[inside], place[inside].astype(int)] += 1.0 / n_draws
    middle = low + (np.arange(n_bins) + 0.5) * bin_width
    start = np.concatenate([value.size * bin_width * shares, means, np.log(np.hypot(widths, np.median(error)))])
    histogram = own.sum(axis=0)
    weight = np.sqrt(np.maximum(_gaussians(middle, start), MIN_WEIGHT * histogram.max()))
    best = _fit_gaussians(middle, histogram, weight, start)
    if best is None:
        raise ValueError(f"{n_components} Gaussians do not fit the distribution of {value.size} stars")
    # What one star more or less changes, to first order; stars are independent, the averaged histogram's bins are not.
    slopes = _gaussian_derivatives(middle, best) / weight[:, None]
    influence = np.linalg.lstsq(slopes, (own / weight).T, rcond=None)[0]
    scatter = np.cov(influence) * value.size
    area, centers = best[:n_components], best[n_components : 2 * n_components]
    fractions = area / area.sum()
    jacobian = (np.eye(n_components) - fractions[:, None]) / area.sum()
    shares_covariance = jacobian @ scatter[:n_components, :n_components] @ jacobian.T
    order = np.argsort(centers)
    spread = np.exp(best[2 * n_components :])[order]
    density = fractions[order] * np.exp(-0.5 * ((value[:, None] - centers[order]) / spread) ** 2) / spread
    return SequenceFractions(
        fractions=fractions[order],
        means=centers[order],
        widths=spread,
        covariance=shares_covariance[np.ix_(order, order)],
        mean_errors=np.sqrt(np.diag(scatter)[n_components : 2 * n_components])[order],
        values=value,
        membership=density / np.maximum(density.sum(axis=1, keepdims=True), 1e-300),
        edges=low + np.arange(n_bins + 1) * bin_width,
        histogram=histogram,
        log_likelihood=np.nan,
    )


def mixture_fractions(values: Any, errors: Any, n_components: int = 2, intrinsic: bool = True) -> SequenceFractions:
    """Fit a mixture of sequences by unbinned maximum likelihood, each star with its own error.

    Parameters
    ----------
    values, errors : array_like (n,)
        Rectified colours and their one-sigma errors; stars without either are left out.
    n_components : int
        Sequences.
    intrinsic : bool
        Whether sequences have a width beyond the errors.

    Returns
    -------
    SequenceFractions
        Errors from the curvature of the likelihood.

    Raises
    ------
    ValueError
        If there are fewer than ten stars a component, or the likelihood has no maximum with all components in it.
    """
    value, error = _usable(values, errors, n_components)
    k = n_components
    means, widths, shares = _first_guess(value, k)
    width = np.sqrt(np.maximum(widths**2 - np.median(error) ** 2, (0.1 * np.median(error)) ** 2))
    start = np.concatenate([np.log(shares[1:] / shares[0]), means, np.log(width) if intrinsic else []])
    smallest = np.log(0.02 * np.median(error))  # adds nothing to any error that matters
    bounds = [(np.log(MIN_SHARE), -np.log(MIN_SHARE))] * (k - 1) + [(value.min(), value.max())] * k
    bounds += [(smallest, np.log(np.ptp(value)))] * k if intrinsic else []

    def cost(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        return _mixture_cost(parameters, value, error, k, intrinsic)

    found = minimize(cost, start, jac=True, method="SLSQP", bounds=bounds, options={"maxiter": 500, "ftol": 1e-12})
    best = found.x
    # A width at its lower end is none: the likelihood has no curvature there, and the other parameters' errors do not need it.
    free = np.array([low + 1e-6 < p < high - 1e-6 for p, (low, high) in zip(best, bounds)])
    if not free[: k - 1].all():
        raise ValueError(f"the {value.size} stars show fewer than {k} sequences")
    information = np.array([_derivative(cost, best, int(i)) for i in np.flatnonzero(free)])[:, free]
    information = 0.5 * (information + information.T)
    if np.linalg.eigvalsh(information).min() <= 0:
        raise ValueError(f"the {value.size} stars do not tell {k} sequences apart")
    covariance = np.zeros((best.size, best.size))
    covariance[np.ix_(free, free)] = np.linalg.inv(information)
    fractions, centers, spread = _unpack(best, k, intrinsic)
    # Shares are the softmax of (0, parameters).
    jacobian = (np.diag(fractions) - np.outer(fractions, fractions))[:, 1:]
    shares_covariance = jacobian @ covariance[: k - 1, : k - 1] @ jacobian.T
    order = np.argsort(centers)
    log_density = _log_density(value, error, fractions, centers, spread)[:, order]
    return SequenceFractions(
        fractions=fractions[order],
        means=centers[order],
        widths=np.where(spread > 1.01 * np.exp(smallest), spread, 0.0)[order],
        covariance=shares_covariance[np.ix_(order, order)],
        mean_errors=np.sqrt(np.diag(covariance)[k - 1 : 2 * k - 1])[order],
        values=value,
        membership=np.exp(log_density - logsumexp(log_density, axis=1, keepdims=True)),
        edges=np.zeros(0),
        histogram=np.zeros(0),
        log_likelihood=-float(found.fun),
    )


def _usable(values: Any, errors: Any, n_components: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    value, error = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    error = np.broadcast_to(error, value.shape)
    good = np.isfinite(value) & np.isfinite(error)
    if np.any(error[good] <= 0):
        raise ValueError("errors have to be positive")
    if n_components < 2:
        raise ValueError(f"{n_components} components: a share needs two or more")
    if good.sum() < MIN_STARS_EACH * n_components:
        n_stars = int(good.sum())
        raise ValueError(f"{n_stars} stars with a colour and an error; {n_components} components need {MIN_STARS_EACH} each")
    return value[good], error[good]


def _first_guess(value: NDArray[np.float64], k: int) -> tuple[Any, Any, Any]:
    """Means, widths and shares of k groups of sorted values that leave the least scatter (k-means, from quantiles)."""
    means = np.quantile(value, (np.arange(k) + 0.5) / k)
    group = np.zeros(value.size, dtype=int)
    for _ in range(100):
        group = np.argmin(np.abs(value[:, None] - means), axis=1)
        moved = np.array([value[group == i].mean() if (group == i).any() else means[i] for i in range(k)])
        if np.allclose(moved, means):
            break
        means = moved
    widths = np.array([value[group == i].std() if (group == i).sum() > 2 else value.std() / k for i in range(k)])
    shares = np.maximum(np.bincount(group, minlength=k), 1) / value.size
    return means, np.maximum(widths, 1e-3 * np.ptp(value)), shares / shares.sum()


def _gaussians(x: NDArray[np.float64], parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of Gaussians with areas, means and logarithms of widths."""
    area, mean, log_width = parameters.reshape(3, -1)
    width = np.exp(log_width)
    return np.asarray((area / width * np.exp(-0.5 * ((x[:, None] - mean) / width) ** 2)).sum(axis=1) / np.sqrt(2.0 * np.pi))


def _gaussian_derivatives(x: NDArray[np.float64], parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivatives of `_gaussians` (n, 3 k)."""
    area, mean, log_width = parameters.reshape(3, -1)
    width = np.exp(log_width)
    off = (x[:, None] - mean) / width
    unit = np.exp(-0.5 * off**2) / (np.sqrt(2.0 * np.pi) * width)
    return np.hstack([unit, area * unit * off / width, area * unit * (off**2 - 1.0)])


def _fit_gaussians(
    x: NDArray[np.float64], histogram: NDArray[np.float64], weight: NDArray[np.float64], start: NDArray[np.float64]
) -> Any:
    """Areas, means and log widths by least squares, or None where they do not settle on positive areas."""
    found = least_squares(
        lambda p: (_gaussians(x, p) - histogram) / weight,
        start,
        jac=lambda p: _gaussian_derivatives(x, p) / weight[:, None],  # type: ignore[arg-type]
        method="lm",
        max_nfev=400,
    )
    if not found.success:
        return None
    best = found.x
    k = best.size // 3
    sound = (best[:k] > 0).all() and (best[k : 2 * k] > x[0]).all() and (best[k : 2 * k] < x[-1]).all()
    return best if sound and np.exp(best[2 * k :]).max() < np.ptp(x) else None


def _unpack(parameters: NDArray[np.float64], k: int, intrinsic: bool) -> tuple[Any, Any, Any]:
    logits = np.concatenate([[0.0], parameters[: k - 1]])
    fractions = np.exp(logits - logsumexp(logits))
    return fractions, parameters[k - 1 : 2 * k - 1], np.exp(parameters[2 * k - 1 :]) if intrinsic else np.zeros(k)


def _log_density(value: Any, error: Any, fractions: Any, means: Any, spread: Any) -> NDArray[np.float64]:
    variance = error[:, None] ** 2 + spread**2
    chi = (value[:, None] - means) ** 2 / variance
    return np.asarray(np.log(fractions) - 0.5 * (chi + np.log(2.0 * np.pi * variance)))


def _mixture_cost(
    parameters: NDArray[np.float64], value: NDArray[np.float64], error: NDArray[np.float64], k: int, intrinsic: bool
) -> tuple[float, NDArray[np.float64]]:
    """Minus the log likelihood, and its derivatives."""
    fractions, means, spread = _unpack(parameters, k, intrinsic)
    log_density = _log_density(value, error, fractions, means, spread)
    total = logsumexp(log_density, axis=1)
    member = np.exp(log_density - total[:, None])
    variance = error[:, None] ** 2 + spread**2
    off = value[:, None] - means
    gradient = [(fractions - member)[:, 1:].sum(axis=0), -(member * off / variance).sum(axis=0)]
    if intrinsic:
        gradient.append(-(member * (off**2 / variance - 1.0) * spread**2 / variance).sum(axis=0))
    return -float(total.sum()), np.concatenate(gradient)


def _derivative(cost: Any, place: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Change of the gradient with one parameter."""
    step = 1e-4 * max(abs(place[number]), 0.1)
    moved = [place.copy(), place.copy()]
    moved[0][number] += step
    moved[1][number] -= step
    return np.asarray((cost(moved[0])[1] - cost(moved[1])[1]) / (2.0 * step))
