"""Completeness as a smooth function of magnitude: maximum likelihood on the unbinned flags of recovered and lost stars.

Two forms.  `pritchet`: c = A/2 (1 - u / sqrt(1 + u^2)) with u = alpha (m - m0) (Fleming et al. 1995) and a free plateau A. Its
three numbers describe many fields; but its plateau is flat where crowding makes real ones slope, and both its ends are
approached slowly and alike.  `spline`: logit c is a cubic spline that never rises towards fainter magnitudes, with knots where
the flags say most, and a smoothness that the likelihood sets.  Unless told otherwise the one with the smaller Akaike criterion
(AIC) is taken; `CompletenessCurve.alternatives` has both.

Errors are those of the Fisher information at the maximum, for the spline together with its smoothness, so that they hold most
of what smoothing hides.  That it may not rise is not counted in them.  The likelihood of `pritchet` is multiplied by the
Jeffreys prior (the root of the information's determinant; Firth 1993), as the bins' intervals are: it takes off the bias of
small numbers and keeps a plateau finite where every star was recovered.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.optimize import brentq, lsq_linear, minimize, minimize_scalar
from scipy.special import expit, logit
from scipy.stats import chi2, norm

from dpm.science.table_access import in_magnitudes, row_mask

__all__ = ["CompletenessCurve", "fit_completeness"]

MAGNITUDE_STEP = 0.005  # magnitudes equal to this are one term of the likelihood: far below any scale of a curve
MIN_STARS = 20  # recovered and lost stars each, below which three parameters mean nothing
N_PIECES = 20  # of the spline; its smoothing, not their number, says how much it bends
LOG_SMOOTHING = (-8.0, 14.0)  # from no smoothing to a straight line in logit
# A quarter of the likeliest smoothing: the curve's bias at its sharpest bend falls by more than its error grows.
UNDERSMOOTHING = np.log(4.0)
MAX_STEPS, COST_CHANGE = 100, 1e-7  # of Newton's iteration; change of the log likelihood at its end
MAX_GROUPS, MIN_EXPECTED = 40, 5.0  # of the goodness of fit: chi-square needs five expected of either kind
DERIVATIVE_STEP = 1e-4  # mag
MISFIT_ADVICE = (
    "Does it rise towards faint magnitudes? Leave out those at which stars saturate in any band that has to be measured, or fit "
    "each band's own recoveries (recovered_in)"
)
POOR_FIT = 1e-4  # p of the goodness of fit below which the caller is warned


@dataclass(frozen=True)
class CompletenessCurve:
    """A fitted curve; call it with magnitudes.

    Outside the magnitudes of the artificial stars it is NaN: nothing is known there.

    Parameters
    ----------
    band : str
        Band of the input magnitudes.
    form : str
        ``pritchet`` (parameters: logit A, m0, log alpha) or ``spline`` (logit c at the first coefficient, then drops).
    parameters, covariance : ndarray (p,), (p, p)
        Of the fit.
    knots : ndarray
        Of the spline; empty for ``pritchet``.
    faintest, brightest : float
        Magnitudes between which it holds.
    n_inserted, n_passed : int
        Stars of the fit.
    chi2, dof, p_value : float, int, float
        Goodness of fit: Pearson's chi-square over groups in magnitude.
    alternatives : dict of str to float
        AIC of the best curve of each form that was tried.
    """

    band: str
    form: str
    parameters: NDArray[np.float64]
    covariance: NDArray[np.float64]
    knots: NDArray[np.float64]
    brightest: float
    faintest: float
    n_inserted: int
    n_passed: int
    chi2: float
    dof: int
    p_value: float
    alternatives: dict[str, float]

    def __call__(self, magnitude: Any) -> NDArray[np.float64]:
        """Completeness at these input magnitudes, 0 to 1; NaN outside the fitted ones."""
        return expit(self.logit(magnitude)[0])

    def error(self, magnitude: Any) -> NDArray[np.float64]:
        """One-sigma error of the completeness at these magnitudes."""
        value, error = self.logit(magnitude)
        return expit(value) * expit(-value) * error

    def interval(self, magnitude: Any, level: float = 0.6826894921370859) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Interval of the completeness; normal in its logit, so that it stays between 0 and 1.

        Returns
        -------
        low, high : ndarray
        """
        value, error = self.logit(magnitude)
        width = norm.ppf(0.5 + 0.5 * level) * error
        return expit(value - width), expit(value + width)

    def limit(self, completeness: float) -> tuple[float, float]:
        """Magnitude at which the curve falls to a completeness, and its one-sigma error.

        Parameters
        ----------
        completeness : float
            0.5 for the 50 % limit.

        Returns
        -------
        magnitude, error : float
            NaN where the curve does not cross it within the magnitudes of the artificial stars.
        """
        target = float(logit(completeness))
        ends = self.logit(np.array([self.brightest, self.faintest]))[0] - target
        if not ends[0] > 0 > ends[1]:
            return np.nan, np.nan
        place = brentq(lambda m: float(self.logit(m)[0]) - target, self.brightest, self.faintest, xtol=1e-7)
        near = np.clip([place - DERIVATIVE_STEP, place + DERIVATIVE_STEP], self.brightest, self.faintest)
        value = self.logit(near)[0]
        slope = (value[1] - value[0]) / (near[1] - near[0])
        return float(place), float(self.logit(place)[1] / abs(slope)) if slope < 0 else np.inf

    def summary(self) -> dict[str, Any]:
        """Form, limits and goodness of fit as plain values."""
        (half, half_error), (quarter, quarter_error) = self.limit(0.5), self.limit(0.25)
        return {
            "form": self.form,
            "mag_50": half,
            "mag_50_error": half_error,
            "mag_25": quarter,
            "mag_25_error": quarter_error,
            "n_inserted": self.n_inserted,
            "n_passed": self.n_passed,
            "chi2": self.chi2,
            "dof": self.dof,
            "p_value": self.p_value,
        }

    def to_table(self, step: float = 0.1) -> Table:
        """The curve as ``mag, completeness, completeness_error, completeness_low, completeness_high`` (one sigma)."""
        mag = np.append(np.arange(self.brightest, self.faintest, step), self.faintest)
        low, high = self.interval(mag)
        columns = {"mag": mag, "completeness": self(mag), "completeness_error": self.error(mag)}
        return Table({**columns, "completeness_low": low, "completeness_high": high}, meta={"band": self.band, **self.summary()})

    def logit(self, magnitude: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logit of the completeness, ln(c / (1 - c)), and its one-sigma error."""
        mag = np.asarray(magnitude, dtype=float)
        inside = (mag >= self.brightest) & (mag <= self.faintest)
        value, error = np.full(mag.shape, np.nan), np.full(mag.shape, np.nan)
        if inside.any():
            value[inside], gradient = _model(self.form, self.parameters, self.knots, mag[inside])
            error[inside] = np.sqrt(np.einsum("ij,jk,ik->i", gradient, self.covariance, gradient))
        return value, error


def fit_completeness(
    table: Any,
    band: str,
    passed: Any = "recovered",
    among: Any = None,
    magnitudes: tuple[float, float] | None = None,
    form: str = "auto",
) -> CompletenessCurve:
    """Fit completeness against input magnitude by maximum likelihood.

    Parameters
    ----------
    table : table
        Artificial stars: astropy Table, DataFrame, mapping of arrays.
    band : str
        Band whose input magnitude, ``in_{band}_mag``, it is a function of.
    passed, among : str or array_like of bool (n,)
        What counts as success, and the stars that count at all; see `completeness_in_bins`.
    magnitudes : (float, float), optional
        Brightest and faintest input magnitude of the fit.  Curves only fall: leave out magnitudes at which stars saturate.
    form : {"auto", "pritchet", "spline"}
        Form of the curve; by default the better by AIC.

    Returns
    -------
    CompletenessCurve

    Raises
    ------
    ValueError
        If fewer than 20 stars passed, or fewer than 20 did not.

    Warns
    -----
    UserWarning
        If the curve does not describe the flags: p of the goodness of fit below 1e-4.
    """
    magnitude = in_magnitudes(table, band)
    counted = row_mask(table, among) & np.isfinite(magnitude)
    if magnitudes is not None:
        counted &= (magnitude >= magnitudes[0]) & (magnitude <= magnitudes[1])
    curve = fit_curve(band, magnitude[counted], row_mask(table, passed)[counted], form=form)
    if curve.p_value < POOR_FIT:
        misfit = f"the {curve.form} does not fit completeness (chi-square {curve.chi2:.0f} for {curve.dof} degrees of freedom)"
        warnings.warn(f"{band}: {misfit}, and its errors are too small. {MISFIT_ADVICE}", stacklevel=2)
    return curve


def fit_curve(
    band: str,
    magnitude: NDArray[np.float64],
    flags: NDArray[np.bool_],
    ends: tuple[float, float] | None = None,
    form: str = "auto",
    weights: NDArray[np.float64] | None = None,
) -> CompletenessCurve:
    """`fit_completeness` for plain arrays.

    Parameters
    ----------
    band : str
        For messages.
    magnitude, flags : ndarray (n,)
        Finite input magnitudes, and whether each star passed.
    ends : (float, float), optional
        Magnitudes between which the curve is to hold; those of the stars by default.
    form : str
        See `fit_completeness`.
    weights : ndarray (n,), optional
        What a lost star counts for; 1 by default, as every recovered one does.
    """
    if form not in ("auto", "pritchet", "spline"):
        raise ValueError(f"form {form!r} is unknown: auto, pritchet or spline")
    n_passed = int(flags.sum())
    if min(n_passed, flags.size - n_passed) < MIN_STARS:
        needed = f"a curve needs {MIN_STARS} that did and {MIN_STARS} that did not"
        raise ValueError(f"{band}: {n_passed} of {flags.size} artificial stars passed; {needed}")
    ends = (float(magnitude.min()), float(magnitude.max())) if ends is None else ends
    data = _Flags.of(magnitude, flags, weights)
    fits = [_fit_pritchet(data)]
    if form != "pritchet":
        fits.append(_fit_spline(data, fits[0].value, (min(ends[0], magnitude.min()), max(ends[1], magnitude.max()))))
    best = min(fits, key=lambda fit: fit.aic) if form == "auto" else fits[-1]
    statistic, dof = _goodness(data, best)
    return CompletenessCurve(
        band=band,
        form=best.form,
        parameters=best.parameters,
        covariance=np.asarray(np.linalg.pinv(best.information, hermitian=True), dtype=np.float64),
        knots=best.knots,
        brightest=float(ends[0]),
        faintest=float(ends[1]),
        n_inserted=int(flags.size),
        n_passed=n_passed,
        chi2=statistic,
        dof=dof,
        p_value=float(chi2.sf(statistic, dof)) if dof > 0 else np.nan,
        alternatives={fit.form: fit.aic for fit in fits},
    )


@dataclass(frozen=True)
class _Flags:
    """Numbers of inserted and passed stars at each magnitude (m,)."""

    magnitude: NDArray[np.float64]
    inserted: NDArray[np.float64]
    passed: NDArray[np.float64]

    @classmethod
    def of(cls, magnitude: NDArray[np.float64], flags: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> _Flags:
        steps, place = np.unique(np.round(magnitude / MAGNITUDE_STEP), return_inverse=True)
        passed = np.bincount(place, flags, steps.size).astype(float)
        lost = np.bincount(place, np.where(flags, 0.0, 1.0 if weights is None else weights), steps.size).astype(float)
        return cls(steps * MAGNITUDE_STEP, passed + lost, passed)

    def log_likelihood(self, value: NDArray[np.float64]) -> float:
        """Of the flags, given the logit of the completeness at each magnitude."""
        return float(self.passed @ value - self.inserted @ np.logaddexp(0.0, value))


@dataclass(frozen=True)
class _Fit:
    form: str
    parameters: NDArray[np.float64]
    information: NDArray[np.float64]
    knots: NDArray[np.float64]
    value: NDArray[np.float64]
    freedom: float
    aic: float


def _model(
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


def _information(data: _Flags, value: NDArray[np.float64], gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fisher information of the parameters (p, p)."""
    weight = data.inserted * expit(value) * expit(-value)
    return gradient.T @ (weight[:, None] * gradient)


def _penalised(data: _Flags, value: NDArray[np.float64], gradient: NDArray[np.float64]) -> float:
    """Logarithm of likelihood times Jeffreys prior."""
    sign, log_det = np.linalg.slogdet(_information(data, value, gradient))
    return data.log_likelihood(value) + 0.5 * log_det if sign > 0 and np.isfinite(log_det) else -np.inf


def _fit_pritchet(data: _Flags) -> _Fit:
    nothing = np.zeros(0)

    def cost(parameters: NDArray[np.float64]) -> float:
        if np.abs(parameters[[0, 2]]).max() > 12.0 or not low <= parameters[1] <= high:
            return np.inf
        return -_penalised(data, *_model("pritchet", parameters, nothing, data.magnitude))

    span = float(np.ptp(data.magnitude))
    low, high = data.magnitude[0] - span, data.magnitude[-1] + span
    # The share that passed is the area under the curve: a first guess of where it falls.
    weight = np.gradient(data.magnitude) if data.magnitude.size > 1 else np.ones(1)
    area = float(np.sum(weight * data.passed / np.maximum(data.inserted, 1e-300)))
    start = np.array([3.0, data.magnitude[0] + area, 0.7])
    simplex = start + np.vstack([np.zeros(3), np.diag([1.0, 0.1 * span, 0.7])])
    options = {"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-5, "maxiter": 4000, "maxfev": 4000}
    best = minimize(cost, start, method="Nelder-Mead", options=options).x
    value, gradient = _model("pritchet", best, nothing, data.magnitude)
    aic = 2.0 * best.size - 2.0 * data.log_likelihood(value)
    return _Fit("pritchet", best, _information(data, value, gradient), nothing, value, float(best.size), aic)


def _fit_spline(data: _Flags, guess: NDArray[np.float64], ends: tuple[float, float]) -> _Fit:
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
    return _Fit("spline", parameters, whole, knots, value, freedom, 2.0 * freedom - 2.0 * data.log_likelihood(value))


def _smooth_maximum(
    data: _Flags, basis: NDArray[np.float64], penalty: NDArray[np.float64], start: NDArray[np.float64]
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


def _knots(data: _Flags, density: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.float64]:
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


def _goodness(data: _Flags, fit: _Fit) -> tuple[float, int]:
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
