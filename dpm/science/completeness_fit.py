"""The two forms of completeness curves fitted to flags, as plain arrays; see `completeness_curve`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.optimize import lsq_linear, minimize, minimize_scalar
from scipy.special import expit

__all__ = ["Fit", "Flags", "fit_pritchet", "fit_spline", "goodness", "model"]

MAGNITUDE_STEP = 0.005  # magnitudes equal to this are one term of the likelihood: far below any scale of a curve
N_PIECES = 20  # of the spline; its smoothing, not their number, says how much it bends
LOG_SMOOTHING = (-8.0, 14.0)  # from no smoothing to a straight line in logit
# A quarter of the likeliest smoothing: the curve's bias at its sharpest bend falls by more than its error grows.
UNDERSMOOTHING = np.log(4.0)
MAX_STEPS, COST_CHANGE = 100, 1e-7  # of Newton's iteration; change of the log likelihood at its end
MAX_GROUPS, MIN_EXPECTED = 40, 5.0  # of the goodness of fit: chi-square needs five expected of either kind


@dataclass(frozen=True)
class Flags:
    """Numbers of inserted and passed stars at each magnitude (m,)."""

    magnitude: NDArray[np.float64]
    inserted: NDArray[np.float64]
    passed: NDArray[np.float64]

    @classmethod
    def of(cls, magnitude: NDArray[np.float64], flags: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> Flags:
        steps, place = np.unique(np.round(magnitude / MAGNITUDE_STEP), return_inverse=True)
        passed = np.bincount(place, flags, steps.size).astype(float)
        lost = np.bincount(place, np.where(flags, 0.0, 1.0 if weights is None else weights), steps.size).astype(float)
        return cls(steps * MAGNITUDE_STEP, passed + lost, passed)

    def log_likelihood(self, value: NDArray[np.float64]) -> float:
        """Of the flags, given the logit of the completeness at each magnitude."""
        return float(self.passed @ value - self.inserted @ np.logaddexp(0.0, value))


@dataclass(frozen=True)
class Fit:
    """A fitted curve.

    Parameters
    ----------
    form : str
        ``"pritchet"`` or ``"spline"``.
    parameters : ndarray (p,)
    information : ndarray (p, p)
        Inverse of their covariance.
    knots : ndarray
        Of the spline, mag; empty for the other form.
    value : ndarray (m,)
        Logit of the completeness at the data's magnitudes.
    freedom : float
        Effective number of parameters.
    aic : float
        Akaike's criterion; the smaller fits better.
    """

    form: str
    parameters: NDArray[np.float64]
    information: NDArray[np.float64]
    knots: NDArray[np.float64]
    value: NDArray[np.float64]
    freedom: float
    aic: float


def model(
    form: str, parameters: NDArray[np.float64], knots: NDArray[np.float64], magnitude: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logit of the completeness (m,) and its derivatives by the parameters (m, p)."""
    if form == "spline":
        basis = _falling_basis(knots, magnitude)
        return basis @ parameters, basis
    plateau, alpha = expit(parameters[0]), np.exp(parameters[2])
    u = alpha * (magnitude - parameters[1])
    root = np.sqrt(1.0 + u * u)
    # 1 - u / root without the loss of digits where u is large
    fall = np.where(u > 0, 1.0 / (root * (root + np.abs(u))), 1.0 + np.abs(u) / root) / 2.0
    completeness = plateau * fall
    by_u = -0.5 * plateau / root**3
    gradient = np.column_stack([completeness * (1.0 - plateau), -alpha * by_u, u * by_u])
    lost = 1.0 - completeness
    return np.log(completeness / lost), gradient / (completeness * lost)[:, None]


def _information(data: Flags, value: NDArray[np.float64], gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fisher information of the parameters (p, p)."""
    weight = data.inserted * expit(value) * expit(-value)
    return gradient.T @ (weight[:, None] * gradient)


def _penalised(data: Flags, value: NDArray[np.float64], gradient: NDArray[np.float64]) -> float:
    """Logarithm of likelihood times Jeffreys prior."""
    sign, log_det = np.linalg.slogdet(_information(data, value, gradient))
    return data.log_likelihood(value) + 0.5 * log_det if sign > 0 and np.isfinite(log_det) else -np.inf


def fit_pritchet(data: Flags) -> Fit:
    """The form of Fleming et al. (1995) with a free plateau, where likelihood times Jeffreys prior is largest.

    Parameters
    ----------
    data : Flags

    Returns
    -------
    Fit
        Its parameters: logit of the plateau, magnitude of half the plateau, logarithm of the steepness.
    """
    nothing = np.zeros(0)

    def cost(parameters: NDArray[np.float64]) -> float:
        if np.abs(parameters[[0, 2]]).max() > 12.0 or not low <= parameters[1] <= high:
            return np.inf
        return -_penalised(data, *model("pritchet", parameters, nothing, data.magnitude))

    span = float(np.ptp(data.magnitude))
    low, high = data.magnitude[0] - span, data.magnitude[-1] + span
    # The share that passed is the area under the curve: a first guess of where it falls.
    weight = np.gradient(data.magnitude) if data.magnitude.size > 1 else np.ones(1)
    area = float(np.sum(weight * data.passed / np.maximum(data.inserted, 1e-300)))
    start = np.array([3.0, data.magnitude[0] + area, 0.7])
    simplex = start + np.vstack([np.zeros(3), np.diag([1.0, 0.1 * span, 0.7])])
    options = {"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-5, "maxiter": 4000, "maxfev": 4000}
    best = minimize(cost, start, method="Nelder-Mead", options=options).x
    value, gradient = model("pritchet", best, nothing, data.magnitude)
    aic = 2.0 * best.size - 2.0 * data.log_likelihood(value)
    return Fit("pritchet", best, _information(data, value, gradient), nothing, value, float(best.size), aic)


def fit_spline(data: Flags, guess: NDArray[np.float64], ends: tuple[float, float]) -> Fit:
    """The spline with the smoothing of the largest marginal likelihood, in Laplace's approximation (Wood 2011)."""
    knots = _knots(data, np.sqrt(expit(guess) * expit(-guess)), ends)
    basis = _falling_basis(knots, data.magnitude)
    n_parameters = basis.shape[1]
    # Coefficients of the B-splines: the first parameter, less all drops so far.
    coefficients = np.tril(np.full((n_parameters, n_parameters), -1.0))
    coefficients[:, 0] = 1.0
    second = np.diff(coefficients, n=2, axis=0)
    penalty = second.T @ second
    rank = n_parameters - 2
    start = np.append(2.0, np.full(n_parameters - 1, 4.0 / n_parameters))

    def marginal(log_smoothing: float) -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        smoothing = np.exp(log_smoothing)
        parameters = _smooth_maximum(data, basis, smoothing * penalty, start)
        value = basis @ parameters
        information = _information(data, value, basis)
        whole = information + smoothing * penalty
        likelihood = data.log_likelihood(value) - 0.5 * smoothing * parameters @ penalty @ parameters
        return -(likelihood + 0.5 * rank * log_smoothing - 0.5 * np.linalg.slogdet(whole)[1]), parameters, information, whole

    best = minimize_scalar(lambda s: marginal(s)[0], bounds=LOG_SMOOTHING, method="bounded", options={"xatol": 0.1}).x
    _, parameters, information, whole = marginal(best - UNDERSMOOTHING)
    value = basis @ parameters
    freedom = float(np.trace(np.linalg.solve(whole, information)))
    return Fit("spline", parameters, whole, knots, value, freedom, 2.0 * freedom - 2.0 * data.log_likelihood(value))


def _smooth_maximum(
    data: Flags, basis: NDArray[np.float64], penalty: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest penalised likelihood: Newton steps, each a least-squares problem of p numbers with drops kept non-negative."""

    def cost(parameters: NDArray[np.float64]) -> float:
        return float(0.5 * parameters @ penalty @ parameters) - data.log_likelihood(basis @ parameters)

    n_parameters = basis.shape[1]
    bounds = np.append(-np.inf, np.zeros(n_parameters - 1)), np.full(n_parameters, np.inf)
    parameters, now = start, cost(start)
    for _ in range(MAX_STEPS):
        value = basis @ parameters
        whole = _information(data, value, basis) + penalty
        whole += 1e-9 * np.trace(whole) / n_parameters * np.eye(n_parameters)
        score = basis.T @ (data.passed - data.inserted * expit(value)) - penalty @ parameters
        root = np.linalg.cholesky(whole).T
        target = root @ parameters + np.linalg.solve(root.T, score)
        step = lsq_linear(root, target, bounds, method="bvls").x - parameters
        while (new := cost(parameters + step)) > now and np.abs(step).max() > 1e-9:
            step = step / 2.0
        if new > now - COST_CHANGE:
            break
        parameters, now = parameters + step, new
    return parameters


def _knots(data: Flags, density: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.float64]:
    """Knots of a cubic spline, dense where completeness is uncertain; the outer ones fourfold."""
    # A fifth goes to all magnitudes alike, so that a plateau is not one piece.
    amount = np.cumsum(0.8 * data.inserted * density / np.sum(data.inserted * density) + 0.2 * data.inserted / data.inserted.sum())
    inner = np.interp(np.linspace(0, 1, N_PIECES + 1)[1:-1], amount, data.magnitude)
    return np.concatenate([np.full(4, ends[0]), inner, np.full(4, ends[1])])


def _falling_basis(knots: NDArray[np.float64], magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Basis (m, p) of splines: a constant, then functions that fall from 0 to -1; non-negative drops give a falling spline."""
    design = BSpline.design_matrix(np.clip(magnitude, knots[0], knots[-1]), knots, 3).toarray()
    tails = np.cumsum(design[:, ::-1], axis=1)[:, ::-1]
    return np.column_stack([tails[:, 0], -tails[:, 1:]])


def goodness(data: Flags, fit: Fit) -> tuple[float, int]:
    """Pearson's chi-square over groups of neighbouring magnitudes, and its degrees of freedom."""
    completeness = expit(fit.value)
    expected, lost = data.inserted * completeness, data.inserted * (1.0 - completeness)
    variance = expected * (1.0 - completeness)
    wanted = variance.sum() / MAX_GROUPS
    groups: list[NDArray[np.float64]] = []
    total = np.zeros(4)
    for row in np.column_stack([data.passed, expected, lost, variance]):
        total = total + row
        if total[1] >= MIN_EXPECTED and total[2] >= MIN_EXPECTED and total[3] >= wanted:
            groups.append(total)
            total = np.zeros(4)
    if groups:
        groups[-1] = groups[-1] + total
    sums = np.array(groups).reshape(-1, 4)
    statistic = float(np.sum((sums[:, 0] - sums[:, 1]) ** 2 / sums[:, 3]))
    return statistic, max(len(groups) - round(fit.freedom), 0)
