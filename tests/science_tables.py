"""Synthetic artificial stars whose completeness, errors and quality are known in closed form."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

BRIGHTEST, FAINTEST = 20.0, 28.0


def pritchet(mag: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fleming's form: plateau 0.97, 48.5 % at 26."""
    u = 2.0 * (np.asarray(mag) - 26.0)
    return 0.485 * (1.0 - u / np.sqrt(1.0 + u * u))


def threshold(mag: NDArray[np.float64]) -> NDArray[np.float64]:
    """A sloping plateau and noisy fluxes above a threshold of 5 sigma: no form that is fitted."""
    mag = np.asarray(mag)
    return (0.99 - 0.015 * (mag - 20.0)) * norm.cdf(5.0 * (10 ** (-0.4 * (mag - 26.0)) - 1.0))


def flagged(truth, n_stars: int, generator: np.random.Generator) -> Table:
    """Artificial stars uniform in magnitude, recovered as ``truth`` says."""
    mag = generator.uniform(BRIGHTEST, FAINTEST, n_stars)
    return Table({"in_f_mag": mag, "recovered": generator.random(n_stars) < truth(mag)})


def over_the_field(mag, x, y):
    """Completeness over a field of 2000 x 1000: 0.8 mag shallower and crowded at x > 1000."""
    crowded = np.asarray(x) > 1000.0
    return np.where(crowded, 0.80, 0.98) * expit(4.0 * (26.0 - 0.8 * crowded - np.asarray(mag)))


class Photometry:
    """Two bands, a (bluer) and b: flux noise with a common part, bright tails from blends, and a threshold in both.

    Errors correlate by 0.3; one star in twenty is a blend.
    """

    zero = np.array([27.0, 26.5])  # magnitudes of signal to noise five

    def stars(self, n_stars: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """True magnitudes (n, 2), uniform in b and in colour."""
        red = generator.uniform(BRIGHTEST, FAINTEST, n_stars)
        return np.column_stack([red + generator.uniform(-0.5, 1.5, n_stars), red])

    def observe(self, mags: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
        """Measured magnitudes (n, 2), NaN for lost stars."""
        n_stars = len(mags)
        flux = 5.0 * 10 ** (-0.4 * (mags - self.zero))
        common = generator.standard_normal((n_stars, 1))
        noise = np.sqrt(0.7) * generator.standard_normal((n_stars, 2)) + np.sqrt(0.3) * common
        noise *= np.sqrt(1.0 + (0.02 * flux) ** 2)
        blend = np.where(generator.random((n_stars, 1)) < 0.05, generator.exponential(2.0, (n_stars, 1)), 0.0)
        measured = flux + noise + blend * np.sqrt(np.maximum(flux, 1.0))
        out = self.zero - 2.5 * np.log10(np.maximum(measured, 1e-9) / 5.0)
        lost = (measured < 3.5).any(axis=1) | (np.abs(out - mags) > 1.0).any(axis=1)
        out[lost] = np.nan
        return out

    def table(self, n_stars: int, generator: np.random.Generator) -> Table:
        """Artificial stars with quality columns: QFIT and RADXS that widen towards faint magnitudes, motions, places."""
        mags = self.stars(n_stars, generator)
        out = self.observe(mags, generator)
        table = Table({"in_x": generator.uniform(0, 2000, n_stars), "in_y": generator.uniform(0, 1000, n_stars)})
        for number, band in enumerate("ab"):
            table[f"in_{band}_mag"], table[f"out_{band}_mag"] = mags[:, number], out[:, number]
            width = 0.02 * 10 ** (0.2 * (out[:, number] - 23.0))
            table[f"out_{band}_qfit"] = width * generator.gamma(8.0, 0.3, n_stars)
            table[f"out_{band}_radxs"] = width * generator.standard_normal(n_stars)
        table["recovered"] = np.isfinite(out).all(axis=1)
        for name in ("out_x", "out_y"):
            table[name] = np.where(table["recovered"], table[name.replace("out", "in")], np.nan)
        for name in ("out_pmra", "out_pmdec"):
            table[name] = generator.standard_normal(n_stars) * 0.1 * 10 ** (0.2 * (out[:, 1] - 23.0))
        return table
