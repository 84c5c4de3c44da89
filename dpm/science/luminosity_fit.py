"""Unbinned luminosity functions: the likelihood of every star's measured magnitude, with completeness and errors in the model.

A shape phi(m) of TRUE magnitudes is what is fitted.  Stars of m are in the catalogue with probability c(m), at a measured magnitude
spread about m + bias(m) by the error model's scatter; the expected density of measured magnitudes is the integral of the three, and
the extended likelihood is that of its Poisson process between two measured magnitudes.  So migration of faint stars needs no
correction, and no bin has to be chosen.  Tails of the errors (blends) are not in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import erfc
from scipy.stats import chi2, norm

from dpm.science.completeness_curve import CompletenessCurve
from dpm.science.error_model import ErrorModel

__all__ = ["LuminosityFit", "fit_luminosity_function", "slope_and_cutoff"]

Shape = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

STEP = 0.02  # mag, of the integrals over true magnitudes; shapes are smooth over it
REACH = 5.0  # sigma beyond the fitted measured magnitudes from which stars are counted
MAX_STARTS, COST_CHANGE = 5, 1e-3  # of the search; change of the log likelihood at its end
DERIVATIVE_STEP = 1e-4  # in units of each parameter's own scale
MIN_EXPECTED = 8.0  # stars of a group of the goodness of fit


def slope_and_cutoff(magnitude: NDArray[np.float64], parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """A power law of flux that ends: phi = 10^(a + s (m - m_c)) erfc((m - m_c) / (sqrt 2 w)) / 2 with parameters (a, s, m_c, w).

    a is the logarithm of the stars per magnitude that the unbroken law has at the cut-off m_c, where phi is half of it; s is in
    dex a magnitude; w, the cut-off's width, in magnitudes.
    """
    level, slope, cutoff, width = parameters
    from_cutoff = magnitude - cutoff
    return 10 ** (level + slope * from_cutoff) * 0.5 * erfc(from_cutoff / (np.sqrt(2.0) * abs(width)))


@dataclass(frozen=True)
class LuminosityFit:
    """A fitted shape; call it with true magnitudes for stars per magnitude.

    Parameters
    ----------
    parameters : ndarray (p,)
        Where the likelihood is largest.
    covariance : ndarray (p, p)
        From the likelihood's curvature, and from the errors of the completeness.
    completeness_covariance : ndarray (p, p)
        The latter's part of it.
    log_likelihood : float
    n_stars, n_expected : int, float
        Stars between the two measured magnitudes, and what the fit expects there.
    chi2, dof, p_value : float, int, float
        Goodness of fit: chi-square of counts in groups of about equal expectation.
    shape : callable
    """

    parameters: NDArray[np.float64]
    covariance: NDArray[np.float64]
    completeness_covariance: NDArray[np.float64]
    log_likelihood: float
    n_stars: int
    n_expected: float
    chi2: float
    dof: int
    p_value: float
    shape: Shape

    @property
    def errors(self) -> NDArray[np.float64]:
        """One standard deviation of each parameter."""
        return np.sqrt(np.diag(self.covariance))

    def __call__(self, magnitude: Any) -> NDArray[np.float64]:
        """Stars per magnitude at these true magnitudes."""
        return self.shape(np.asarray(magnitude, dtype=float), self.parameters)


@dataclass(frozen=True)
class _Data:
    """What the likelihood is made of: stars (n,), grids of true (t,) and measured (g,) magnitudes.

    ``response`` (g, t) is the density of measured magnitudes for stars that are seen, ``completeness`` (t,) the share that is.
    """

    measured: NDArray[np.float64]
    true: NDArray[np.float64]
    grid: NDArray[np.float64]
    response: csr_array
    completeness: NDArray[np.float64]

    def expected(self, shape: Shape, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected stars per measured magnitude on the grid."""
        return np.asarray(self.response @ (shape(self.true, parameters) * self.completeness))

    def cost(self, shape: Shape, parameters: NDArray[np.float64]) -> float:
        """Minus the logarithm of the extended likelihood."""
        density = self.expected(shape, parameters)
        if not np.isfinite(density).all():
            return 1e12
        here = np.interp(self.measured, self.grid, density)
        return float(np.trapezoid(density, self.grid) - np.sum(np.log(np.maximum(here, 1e-300))))


def fit_luminosity_function(
    measured: Any,
    completeness: CompletenessCurve,
    magnitudes: tuple[float, float],
    start: Sequence[float],
    errors: ErrorModel | None = None,
    shape: Shape = slope_and_cutoff,
) -> LuminosityFit:
    """Fit a shape of true magnitudes to measured ones by unbinned, extended maximum likelihood.

    Parameters
    ----------
    measured : array_like (n,)
        MEASURED magnitudes, not corrected for migration.
    completeness : CompletenessCurve
        Of the same selections as the stars'.
    magnitudes : (float, float)
        Brightest and faintest measured magnitude of the fit.
    start : sequence of float (p,)
        First guess.
    errors : ErrorModel, optional
        For bias and scatter in the completeness curve's band; without it measured magnitudes are taken as true ones.
    shape : callable
        Of true magnitudes (m,) and parameters (p,), giving stars per magnitude (m,); `slope_and_cutoff` by default.

    Returns
    -------
    LuminosityFit

    Raises
    ------
    ValueError
        If the completeness curve does not reach as far as errors carry stars into the fitted magnitudes, or the fit has no maximum.
    """
    data = _data(np.asarray(measured, dtype=float), completeness, magnitudes, errors)
    first = np.asarray(start, dtype=float)
    scale = np.maximum(np.abs(first), 1.0) * 0.05
    best, lowest = first, np.inf
    # Nelder-Mead ends early in flat valleys; restarted, it leaves them.
    for _ in range(MAX_STARTS):
        simplex = np.vstack([best, best + np.diag(scale)])
        options = {"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-5, "maxiter": 4000, "maxfev": 8000}
        found = minimize(lambda p: data.cost(shape, p), best, method="Nelder-Mead", options=options)
        best, gain, lowest = found.x, lowest - found.fun, found.fun
        if gain < COST_CHANGE:
            break
    steps = _steps(data, shape, best)
    information = _hessian(lambda p: data.cost(shape, p), best, steps)
    if not np.all(np.linalg.eigvalsh(information / np.sqrt(np.outer(np.diag(information), np.diag(information)))) > 1e-8):
        raise ValueError(f"the likelihood has no maximum near {best}: the data do not say enough about every parameter")
    statistical = np.linalg.inv(information)
    from_curve = _completeness_part(data, completeness, shape, best, steps, statistical)
    density = data.expected(shape, best)
    statistic, dof = _goodness(data, density, best.size)
    return LuminosityFit(
        parameters=best,
        covariance=statistical + from_curve,
        completeness_covariance=from_curve,
        log_likelihood=-data.cost(shape, best),
        n_stars=data.measured.size,
        n_expected=float(np.trapezoid(density, data.grid)),
        chi2=statistic,
        dof=dof,
        p_value=float(chi2.sf(statistic, dof)) if dof > 0 else np.nan,
        shape=shape,
    )


def _data(
    measured: NDArray[np.float64], curve: CompletenessCurve, magnitudes: tuple[float, float], errors: ErrorModel | None
) -> _Data:
    bright, faint = magnitudes
    grid = np.linspace(bright, faint, int(np.ceil((faint - bright) / STEP)) + 1)
    mine = measured[(measured >= bright) & (measured <= faint)]
    if errors is None:
        if not curve.brightest <= bright < faint <= curve.faintest:
            raise ValueError(f"the completeness is known from {curve.brightest:.2f} to {curve.faintest:.2f} only")
        return _Data(mine, grid, grid, csr_array(np.eye(grid.size)), curve(grid))
    true = np.arange(curve.brightest, curve.faintest + 0.5 * STEP, STEP)
    true[-1] = min(true[-1], curve.faintest)
    middle, scatter = true + errors.bias(curve.band, true), errors.scatter(curve.band, true)
    if middle[0] + REACH * scatter[0] > bright:
        raise ValueError(
            f"stars brighter than {curve.brightest:.2f}, where the completeness is not known, get into the fitted magnitudes: "
            f"begin at {middle[0] + REACH * scatter[0]:.2f} or fainter, or insert brighter artificial stars"
        )
    if curve(true[-1]) > 0.01 and middle[-1] - REACH * scatter[-1] < faint:
        raise ValueError(
            f"stars fainter than {curve.faintest:.2f}, where the completeness is not known, get into the fitted magnitudes: end "
            f"at {middle[-1] - REACH * scatter[-1]:.2f}, or insert artificial stars until none are found"
        )
    used = (middle + REACH * scatter > bright) & (middle - REACH * scatter < faint)
    true, middle, scatter = true[used], middle[used], scatter[used]
    # Integrated over each cell of true magnitude by its middle; weights of the trapezoid at the ends do not matter.
    response = norm.pdf(grid[:, None], middle, np.maximum(scatter, STEP)) * np.gradient(true)
    response[np.abs(grid[:, None] - middle) > REACH * np.maximum(scatter, STEP)] = 0.0
    return _Data(mine, true, grid, csr_array(response), curve(true))


def _steps(data: _Data, shape: Shape, best: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps of the derivatives: where the cost grows by about a hundredth."""
    lowest = data.cost(shape, best)
    steps = np.maximum(np.abs(best), 1.0) * DERIVATIVE_STEP
    for number in range(best.size):
        for _ in range(30):
            moved = best.copy()
            moved[number] += steps[number]
            rise = data.cost(shape, moved) - lowest
            if 1e-3 < rise < 1e-1:
                break
            steps[number] *= np.clip(np.sqrt(1e-2 / max(rise, 1e-6)), 0.2, 5.0)
    return steps


def _hessian(cost: Callable[[NDArray[np.float64]], float], best: NDArray[np.float64], steps: NDArray[np.float64]) -> Any:
    """Second derivatives (p, p) by central differences."""
    n = best.size
    out = np.empty((n, n))
    unit = np.diag(steps)
    for i in range(n):
        for j in range(i + 1):
            corners = [cost(best + a * unit[i] + b * unit[j]) for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
            out[i, j] = out[j, i] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4.0 * steps[i] * steps[j])
    return out


def _completeness_part(
    data: _Data,
    curve: CompletenessCurve,
    shape: Shape,
    best: NDArray[np.float64],
    steps: NDArray[np.float64],
    statistical: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How far the completeness's errors move the maximum, to first order."""
    widths, vectors = np.linalg.eigh(curve.covariance)
    moves = []
    for width, vector in zip(np.sqrt(np.maximum(widths, 0.0)), vectors.T):
        gradients = []
        for sign in (1.0, -1.0):
            moved = dataclasses.replace(curve, parameters=curve.parameters + sign * width * vector)
            other = dataclasses.replace(data, completeness=moved(data.true))
            gradients.append(_gradient(lambda p, other=other: other.cost(shape, p), best, steps))  # type: ignore[misc]
        moves.append(statistical @ (gradients[0] - gradients[1]) / 2.0)
    shifts = np.array(moves)
    return np.asarray(shifts.T @ shifts)


def _gradient(
    cost: Callable[[NDArray[np.float64]], float], best: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.array([(cost(best + step) - cost(best - step)) for step in np.diag(steps)]) / (2.0 * steps)


def _goodness(data: _Data, density: NDArray[np.float64], n_parameters: int) -> tuple[float, int]:
    """Chi-square of the counts in groups of about equal expectation, and its degrees of freedom."""
    total = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(data.grid))])
    n_groups = int(min(total[-1] / MIN_EXPECTED, 30))
    if n_groups <= n_parameters:
        return np.nan, 0
    expected = total[-1] / n_groups
    place = np.interp(data.measured, data.grid, total) / expected
    counts = np.bincount(np.minimum(place.astype(int), n_groups - 1), minlength=n_groups)
    return float(np.sum((counts - expected) ** 2 / expected)), n_groups - n_parameters
