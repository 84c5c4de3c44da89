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
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import chi2, norm

from dpm.science.completeness_fit import Flags, fit_pritchet, fit_spline, goodness, model
from dpm.science.table_access import in_magnitudes, row_mask

__all__ = ["ONE_SIGMA", "CompletenessCurve", "fit_completeness", "fit_curve"]

ONE_SIGMA = 0.6826894921370859  # content of a one-sigma interval
MIN_STARS, MIN_MAGNITUDES = 20, 5  # recovered and lost stars each, and different magnitudes: three parameters need more than a few
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

    def interval(self, magnitude: Any, level: float = ONE_SIGMA) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
            value[inside], gradient = model(self.form, self.parameters, self.knots, mag[inside])
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
    data = Flags.of(magnitude, flags, weights)
    if data.magnitude.size < MIN_MAGNITUDES:
        raise ValueError(
            f"{band}: artificial stars have {data.magnitude.size} different magnitudes; a curve needs {MIN_MAGNITUDES}"
        )
    fits = [fit_pritchet(data)]
    if form != "pritchet":
        fits.append(fit_spline(data, fits[0].value, (min(ends[0], magnitude.min()), max(ends[1], magnitude.max()))))
    best = min(fits, key=lambda fit: fit.aic) if form == "auto" else fits[-1]
    statistic, dof = goodness(data, best)
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
