"""Intervals of completeness on synthetic artificial stars of known completeness: how many hold the truth.

``python benchmarks/bench_completeness.py [REALISATIONS]``
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from dpm.science import completeness_in_bins, fit_completeness

BRIGHTEST, FAINTEST = 20.0, 28.0
EDGES = np.arange(BRIGHTEST, FAINTEST + 0.25, 0.5)


def pritchet(mag: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fitted form itself."""
    u = 2.0 * (mag - 26.0)
    return 0.485 * (1.0 - u / np.sqrt(1.0 + u * u))


def threshold(mag: NDArray[np.float64]) -> NDArray[np.float64]:
    """A plateau that crowding slopes, and noisy flux against a threshold of 5 sigma: neither of the fitted forms."""
    return (0.99 - 0.015 * (mag - 20.0)) * norm.cdf(5.0 * (10 ** (-0.4 * (mag - 26.0)) - 1.0))


def quiet(mag: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same without crowding: every bright star is recovered."""
    return norm.cdf(5.0 * (10 ** (-0.4 * (mag - 26.0)) - 1.0))


def _above(mag: float, truth: Callable[[Any], Any], completeness: float) -> float:
    return float(truth(mag)) - completeness


def main(n_realisations: int) -> None:
    """Print shares of one-sigma intervals that hold the truth."""
    names = "completeness", "stars", "bins", "curve", "curve, worst magnitude", "50 % limit", "25 % limit"
    names += "scatter of the 50 % limit, mag", "spline taken", "goodness p < 0.05"
    print("|", " | ".join(names), "|")
    print("|" + len(names) * "---|")
    for truth in (pritchet, threshold, quiet):
        mean = [np.mean(truth(np.linspace(low, low + 0.5, 101))) for low in EDGES[:-1]]
        limits = [brentq(_above, BRIGHTEST + 1, FAINTEST, args=(truth, f)) for f in (0.5, 0.25)]
        for n_stars in (1500, 20_000):
            generator = np.random.default_rng(5)
            places = np.arange(20.5, 27.01, 0.25)
            bins, curves, crossings, errors, splines, poor = [], [], [], [], [], []
            for _ in range(n_realisations):
                mag = generator.uniform(BRIGHTEST, FAINTEST, n_stars)
                table = {"in_f_mag": mag, "recovered": generator.random(n_stars) < truth(mag)}
                binned = completeness_in_bins(table, "f", bins=EDGES)
                bins.append((binned["completeness_low"] <= mean) & (mean <= binned["completeness_high"]))
                curve = fit_completeness(table, "f")
                low, high = curve.interval(places)
                curves.append((low <= truth(places)) & (truth(places) <= high))
                found = [curve.limit(f) for f in (0.5, 0.25)]
                crossings.append([abs(m - t) < e for (m, e), t in zip(found, limits)])
                errors.append([m - t for (m, _), t in zip(found, limits)])
                splines.append(curve.form == "spline")
                poor.append(curve.p_value < 0.05)
            share = np.mean(curves, axis=0)[(truth(places) > 0.02) & (truth(places) < 0.995)]
            worst = share[np.argmax(np.abs(share - 0.683))]
            half, quarter = np.mean(crossings, axis=0)
            values = [f"{v:.3f}" for v in (np.mean(bins), share.mean(), worst, half, quarter)]
            values += [f"{np.std(errors, axis=0)[0]:.4f}", f"{np.mean(splines):.2f}", f"{np.mean(poor):.3f}"]
            print("|", " | ".join([truth.__name__, str(n_stars), *values]), "|", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
