"""Exponent, age and binary fractions from an observed luminosity function or CMD, sampled with emcee.

The likelihood is that of the stars' distribution over the cells (their number is not the model's to predict), with flat priors
between the ends of the grid and, for fractions, 0 and 1.  Templates made of a finite number of artificial stars are uncertain
themselves: each cell's expectation may be off by a factor, normal about 1, of which the likeliest is taken (Barlow & Beeston
1993, Comp. Phys. Comm. 77, 219, in the short form of one factor a cell: Conway 2011, arXiv:1103.0354).  Since one artificial star
shows in several cells, what other artificial stars would have moved the parameters by is added to the posterior as well.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import chi2

from dpm.science.populations.templates import PopulationTemplates

__all__ = ["PopulationFit", "fit_population"]

PARAMETERS = "exponent", "age", "pair_fraction", "companion_fraction"
# Stars that are none of the model's: one in 500, anywhere, so that a single interloper does not rule out the truth.
OUTLIERS = 0.002
MIN_ERROR_OF_STEP = 0.4  # of the ages: between two of them the cut-off fades instead of moving, which is seen in narrow posteriors
N_WALKERS, N_BURN, N_STEPS = 32, 200, 400
MAX_STRAIN = 0.1  # of the templates' variance over the stars' own: above, more artificial stars would make errors smaller
MIN_EXPECTED = 5.0  # of a group of cells in the goodness of fit


@dataclass(frozen=True)
class PopulationFit:
    """Posterior of a population's parameters.

    Parameters
    ----------
    names : tuple of str
        Those that were free.
    samples : ndarray (n, parameters)
        Of the posterior.
    best : dict of str to float
        All parameters where the likelihood was largest.
    n_stars : int
        In the cells.
    n_systems : float
        Systems of the population behind them, lost ones included, at the best parameters.
    chi2, dof, p_value : float, int, float
        Goodness of fit there: chi-square over groups of cells.
    expected : ndarray (cells,)
        Stars in each cell there.
    autocorrelation : float
        Steps of the longest autocorrelation; samples are independent after about as many.
    """

    names: tuple[str, ...]
    samples: NDArray[np.float64]
    best: dict[str, float]
    n_stars: int
    n_systems: float
    chi2: float
    dof: int
    p_value: float
    expected: NDArray[np.float64]
    autocorrelation: float

    def summary(self) -> Table:
        """``parameter, median, low, high`` (16th and 84th percentile), ``mean, error, best``."""
        low, median, high = np.percentile(self.samples, [15.87, 50.0, 84.13], axis=0)
        return Table(
            {
                "parameter": list(self.names),
                "median": median,
                "low": low,
                "high": high,
                "mean": self.samples.mean(axis=0),
                "error": self.samples.std(axis=0),
                "best": [self.best[name] for name in self.names],
            }
        )


def fit_population(
    templates: PopulationTemplates,
    measured: Any,
    fixed: dict[str, float] | None = None,
    generator: np.random.Generator | int = 0,
    n_steps: int = N_STEPS,
) -> PopulationFit:
    """Fit a population to measured stars.

    Parameters
    ----------
    templates : PopulationTemplates
        See `population_templates`.
    measured : array_like (n,) or (n, 2)
        MEASURED magnitudes, or magnitudes and colours, not corrected for completeness or migration: both are in the templates.
    fixed : dict of str to float, optional
        Parameters that are known: of ``exponent, age, pair_fraction, companion_fraction``.  An age is fixed where there is one
        isochrone, and companions are none where the templates have none.
    generator : numpy.random.Generator or int
        Source of randomness, or a seed.
    n_steps : int
        Of each of 32 walkers, after 200 that are thrown away.

    Returns
    -------
    PopulationFit

    Raises
    ------
    ImportError
        If emcee is not there.
    ValueError
        If no star is in the cells, or a name is unknown.

    Warns
    -----
    UserWarning
        If the isochrones are too far apart in age for the errors that they give, or artificial stars are too few for so many stars.
    """
    try:
        import emcee
    except ImportError as error:
        raise ImportError("fit_population needs emcee: pip install 'dpm-photometry[science]'") from error
    known = dict(fixed or {})
    if templates.ages.size == 1:
        known.setdefault("age", float(templates.ages[0]))
    if templates.n_kinds == 2:
        known.setdefault("companion_fraction", 0.0)
    if not set(known) <= set(PARAMETERS):
        raise ValueError(f"unknown parameters {', '.join(sorted(set(known) - set(PARAMETERS)))}; there are {', '.join(PARAMETERS)}")
    names = tuple(name for name in PARAMETERS if name not in known)
    if not names:
        raise ValueError("every parameter is fixed")
    counts = templates.counts(measured)
    if counts.sum() == 0:
        raise ValueError("no star is in the cells of the templates")
    ends = {"exponent": (templates.exponents[0], templates.exponents[-1]), "age": (templates.ages[0], templates.ages[-1])}
    low, high = np.array([ends.get(name, (0.0, 1.0)) for name in names]).T

    def log_probability(places: NDArray[np.float64]) -> NDArray[np.float64]:
        return _log_likelihood(templates, counts, names, known, low, high, places)

    random = np.random.default_rng(generator)
    start = _start(log_probability, low, high, names, random)
    sampler = emcee.EnsembleSampler(N_WALKERS, len(names), log_probability, vectorize=True)
    sampler.random_state = np.random.RandomState(random.integers(2**31)).get_state()  # emcee's own kind
    state = sampler.run_mcmc(start, N_BURN)
    sampler.reset()
    sampler.run_mcmc(state, n_steps)
    samples = np.asarray(sampler.get_chain(flat=True), dtype=float)
    values = np.asarray(sampler.get_log_prob(flat=True))
    best = {**known, **dict(zip(names, samples[np.argmax(values)].tolist()))}
    if "age" in names:
        _check_steps(templates.ages, samples[:, names.index("age")])
    share = templates.expected(**best)[0]
    n_stars = int(counts.sum())
    expected = n_stars * _with_outliers(share, share.sum(), share.size)
    variance = templates.relative_variance(best["age"])[0]
    _check_templates(expected, variance)
    moved = _moved_by_templates(templates, names, best, samples, expected, variance, (low, high))
    samples = np.clip(samples + moved[random.integers(len(moved), size=len(samples))], low, high)
    statistic, n_groups = _chi_square(counts, expected, variance)
    dof = n_groups - 1 - len(names)
    return PopulationFit(
        names=names,
        samples=samples,
        best=best,
        n_stars=n_stars,
        n_systems=float(n_stars * (1.0 - OUTLIERS) / share.sum()),
        chi2=statistic,
        dof=dof,
        p_value=float(chi2.sf(statistic, dof)) if dof > 0 else np.nan,
        expected=expected,
        autocorrelation=float(np.max(sampler.get_autocorr_time(quiet=True, tol=0))),
    )


def _moved_by_templates(
    templates: PopulationTemplates,
    names: tuple[str, ...],
    best: dict[str, float],
    samples: NDArray[np.float64],
    expected: NDArray[np.float64],
    variance: NDArray[np.float64],
    ends: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """What the free parameters (replicas, free) would move by, had other artificial stars made the templates.

    To first order: covariance of the posterior, times slope of the expectation, over its variance, times its change.
    """
    covariance = np.atleast_2d(np.cov(samples, rowvar=False))
    slopes = []
    for name, step, low, high in zip(names, np.sqrt(np.diag(covariance)), *ends):
        places = np.clip([best[name] - 0.5 * step, best[name] + 0.5 * step], low, high)
        shares = [templates.expected(**best | {name: place})[0] for place in places]
        below, above = (expected.sum() * _with_outliers(share, share.sum(), share.size) for share in shares)
        slopes.append((above - below) / (places[1] - places[0]))
    change = expected * templates.relative_changes(best["age"])
    change -= expected * (change.sum(axis=1) / expected.sum())[:, None]
    moved = change @ (np.array(slopes) / (expected * (1.0 + expected * variance))).T @ covariance
    return np.asarray(moved - moved.mean(axis=0))


def _check_steps(ages: NDArray[np.float64], samples: NDArray[np.float64]) -> None:
    """Warn where the isochrones are too few: between two ages the cut-off does not move, one fades into the other."""
    step = np.diff(ages)[np.clip(np.searchsorted(ages, np.median(samples)) - 1, 0, ages.size - 2)]
    if samples.std() < MIN_ERROR_OF_STEP * step:
        found = f"the age's error is {samples.std():.3f} Gyr, the isochrones are {step:.3f} Gyr apart, and the errors are too small"
        warnings.warn(f"{found}. Give steps of {samples.std() / MIN_ERROR_OF_STEP:.2f} Gyr or less", stacklevel=3)


def _check_templates(expected: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
    """Warn where artificial stars are so few that they, and not the stars, set the errors."""
    strain = float(np.sum(expected**2 * variance) / expected.sum())
    if strain > MAX_STRAIN:
        found = f"artificial stars near these stars' magnitudes are few: the templates' variance is {strain:.2f} of the stars' own"
        wanted = f"{strain / MAX_STRAIN:.1f} times as many (or so many more along the sequence) would leave the stars' own"
        warnings.warn(f"{found}, and part of the errors is theirs; {wanted}", stacklevel=3)


def _with_outliers(share: NDArray[np.float64], total: Any, n_cells: int) -> NDArray[np.float64]:
    """Probability of cells for a star that is in one of them."""
    return np.asarray((1.0 - OUTLIERS) * share / total + OUTLIERS / n_cells)


def _log_likelihood(
    templates: PopulationTemplates,
    counts: NDArray[np.float64],
    names: tuple[str, ...],
    known: dict[str, float],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    places: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Of parameters (n, free), minus infinity outside the priors."""
    table = np.atleast_2d(places)
    inside = np.all((table >= low) & (table <= high), axis=1)
    values = {
        **{name: np.full(len(table), value) for name, value in known.items()},
        **dict(zip(names, np.clip(table, low, high).T)),
    }
    inside &= values["pair_fraction"] + values["companion_fraction"] <= 1.0
    out = np.full(len(table), -np.inf)
    if inside.any():
        some = {name: value[inside] for name, value in values.items()}
        share = templates.expected(**some)
        expected = counts.sum() * _with_outliers(share, share.sum(axis=1, keepdims=True), counts.size)
        out[inside] = _uncertain_poisson(counts, expected, templates.relative_variance(some["age"])).sum(axis=1)
    return out


def _uncertain_poisson(
    counts: NDArray[np.float64], expected: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log likelihood (n, cells) of counts whose expectation has a relative variance, at the likeliest factor."""
    half = 0.5 * (expected * variance - 1.0)
    factor = np.sqrt(half**2 + counts * variance) - half
    off = np.where(variance > 0, (factor - 1.0) ** 2 / np.maximum(2.0 * variance, 1e-300), 0.0)
    return np.asarray(xlogy(counts, factor * expected) - factor * expected - off)


def _start(
    log_probability: Any, low: NDArray[np.float64], high: NDArray[np.float64], names: tuple[str, ...], random: np.random.Generator
) -> NDArray[np.float64]:
    """Walkers (32, free): the likeliest of many places over the priors, fractions mostly small ones, twice narrowed."""
    share = random.random((4000, low.size))
    share[:, ["fraction" in name for name in names]] **= 2
    places = low + (high - low) * share
    for narrowed in (0.1, 0.03):
        value = log_probability(places)
        chosen = places[np.argsort(value)[::-1][:N_WALKERS]]
        moved = chosen[random.integers(N_WALKERS, size=2000)] + narrowed * (high - low) * random.standard_normal((2000, low.size))
        places = np.vstack([chosen, np.clip(moved, low, high)])
    value = log_probability(places)
    chosen = places[np.argsort(value)[::-1][:N_WALKERS]]
    # emcee needs walkers that are not all on one plane: those at an end of a prior are moved off it.
    inside = low + 1e-4 * (high - low), high - 1e-4 * (high - low)
    return np.asarray(np.clip(chosen, *inside) + 1e-5 * (high - low) * random.uniform(-1, 1, chosen.shape))


def _chi_square(counts: NDArray[np.float64], expected: NDArray[np.float64], variance: NDArray[np.float64]) -> tuple[float, int]:
    """Over cells of five expected stars or more, and the others in groups of as many by falling expectation."""
    order = np.argsort(expected)[::-1]
    total = np.cumsum(expected[order])
    group = np.zeros(order.size, dtype=int)
    start = 0.0
    number = 0
    for i in range(order.size):
        group[i] = number
        if total[i] - start >= MIN_EXPECTED:
            start, number = total[i], number + 1
    group = np.minimum(group, max(number - 1, 0))
    seen, wanted, uncertain = (np.bincount(group, values[order]) for values in (counts, expected, expected**2 * variance))
    return float(np.sum((seen - wanted) ** 2 / (wanted + uncertain))), seen.size
