"""Synthetic populations on an isochrone: power-law masses, pairs, companions, and what is measured of them (paper 1, section 4).

Every system has a primary whose initial mass is drawn from dN/dM ~ M^alpha between the isochrone's ends.  Some are pairs: another
star of the same isochrone and mass function, whatever its mass.  Some have a companion of another isochrone (brown dwarfs), of a
mass that is uniform between two ends.  Fluxes add.  The rest are single.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.science.error_model import ErrorModel
from dpm.science.isochrones.isochrone import Isochrone
from dpm.science.luminosity_function import LuminosityFunction

__all__ = [
    "COMPANION",
    "PAIR",
    "SINGLE",
    "Companions",
    "add_magnitudes",
    "draw_masses",
    "draw_population",
    "masses_below",
    "measure",
    "measure_population",
    "theoretical_luminosity_function",
]

SINGLE, PAIR, COMPANION = 0, 1, 2
N_THEORY = 300_000  # stars of a theoretical luminosity function: far less noise than some hundred observed ones have


@dataclass(frozen=True)
class Companions:
    """Companions of another kind than the primaries, such as brown dwarfs (paper 1: 0.04 to 0.06 solar masses, uniform).

    Parameters
    ----------
    isochrone : Isochrone
        Of their kind, at the distance and extinction of the primaries' (see `Isochrone.at`).
    masses : (float, float)
        Smallest and largest mass, solar units.
    """

    isochrone: Isochrone
    masses: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.masses
        if not self.isochrone.mass[0] <= low < high <= self.isochrone.mass[-1]:
            ends = f"{self.isochrone.mass[0]:.4f} to {self.isochrone.mass[-1]:.4f}"
            raise ValueError(f"companions of {low} to {high} solar masses, on an isochrone from {ends}")


def draw_masses(n: int, exponent: float, masses: tuple[float, float], generator: np.random.Generator | int) -> NDArray[np.float64]:
    """Masses (n,) of dN/dM ~ M^exponent between two ends."""
    return masses_below(np.random.default_rng(generator).random(n), exponent, masses)


def masses_below(share: NDArray[np.float64], exponent: float, masses: tuple[float, float]) -> NDArray[np.float64]:
    """Masses below which these shares (n,) of the stars are."""
    low, high = np.log(masses)
    power = exponent + 1.0
    if abs(power) < 1e-9:
        return np.exp(low + share * (high - low))
    # Inverse of the cumulative distribution, in logarithms, so that large exponents keep their digits.
    return np.exp(low + np.log1p(share * np.expm1(power * (high - low))) / power)


def add_magnitudes(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitude of the light of both."""
    bright, faint = np.minimum(first, second), np.maximum(first, second)
    return np.asarray(bright - 2.5 * np.log10(1.0 + 10 ** (-0.4 * (faint - bright))))


def draw_population(
    isochrone: Isochrone,
    n: int,
    exponent: float,
    generator: np.random.Generator | int,
    pair_fraction: float = 0.0,
    companion_fraction: float = 0.0,
    companions: Companions | None = None,
) -> Table:
    """Draw systems.

    Parameters
    ----------
    isochrone : Isochrone
        Of the primaries, at its distance and extinction.
    n : int
        Systems.
    exponent : float
        Of the progenitors' mass function; Salpeter's is -2.35.
    generator : numpy.random.Generator or int
        Source of randomness, or a seed.
    pair_fraction, companion_fraction : float
        Shares of the systems that are pairs of two such stars, and that have a companion of the other kind.
    companions : Companions, optional
        Needed for the latter.

    Returns
    -------
    astropy.table.Table
        ``initial_mass``, ``second_mass`` (NaN for single ones), ``kind`` (`SINGLE`, `PAIR`, `COMPANION`), and ``{f}_mag``.
    """
    if not 0.0 <= pair_fraction <= 1.0 or not 0.0 <= companion_fraction <= 1.0 - pair_fraction:
        raise ValueError("fractions have to be between 0 and 1, and their sum too")
    if companion_fraction > 0 and companions is None:
        raise ValueError("companion_fraction needs companions")
    random = np.random.default_rng(generator)
    ends = float(isochrone.mass[0]), float(isochrone.mass[-1])
    mass = draw_masses(n, exponent, ends, random)
    mags = isochrone(mass)
    share = random.random(n)
    kind = np.where(share < pair_fraction, PAIR, np.where(share < pair_fraction + companion_fraction, COMPANION, SINGLE))
    second = np.full(n, np.nan)
    pairs, with_companion = kind == PAIR, kind == COMPANION
    second[pairs] = draw_masses(int(pairs.sum()), exponent, ends, random)
    mags[pairs] = add_magnitudes(mags[pairs], isochrone(second[pairs]))
    if companions is not None and with_companion.any():
        second[with_companion] = random.uniform(*companions.masses, int(with_companion.sum()))
        light = companions.isochrone(second[with_companion], isochrone.bands)
        mags[with_companion] = add_magnitudes(mags[with_companion], light)
    columns = {"initial_mass": mass, "second_mass": second, "kind": kind}
    return Table({**columns, **{f"{band}_mag": mags[:, i] for i, band in enumerate(isochrone.bands)}}, meta={"age": isochrone.age})


def measure_population(population: Any, errors: ErrorModel, generator: np.random.Generator | int) -> NDArray[np.float64]:
    """Measured magnitudes (n, bands) of drawn systems; NaN where they are lost or no artificial star is near.

    Parameters
    ----------
    population : table
        With ``{f}_mag`` of the error model's bands.
    errors : ErrorModel
        From artificial stars, selected as the catalogue is; see `fit_error_model`.
    generator : numpy.random.Generator or int
        Source of randomness, or a seed.
    """
    true = np.column_stack([np.asarray(population[f"{band}_mag"], dtype=float) for band in errors.bands])
    return measure(true, errors, np.random.default_rng(generator))


def measure(true: NDArray[np.float64], errors: ErrorModel, random: np.random.Generator) -> NDArray[np.float64]:
    """`measure_population` for plain magnitudes (n, bands)."""
    out = np.full(true.shape, np.nan)
    covered = errors.covers(true)
    out[covered] = errors.draw(true[covered], random)
    return out


def theoretical_luminosity_function(
    isochrone: Isochrone,
    band: str,
    exponent: float,
    observed: LuminosityFunction,
    magnitudes: tuple[float, float],
    errors: ErrorModel | None = None,
    generator: np.random.Generator | int = 0,
    **fractions: Any,
) -> NDArray[np.float64]:
    """Expected stars in an observed luminosity function's bins, normalised to it between two magnitudes (paper 1, figure 6).

    Parameters
    ----------
    isochrone : Isochrone
        At its distance and extinction.
    band : str
        Band of the observed one.
    exponent : float
        Of the progenitors' mass function.
    observed : LuminosityFunction
        Corrected for completeness, as the theoretical one is without losses.
    magnitudes : (float, float)
        Range of the normalisation: bins whose middles are in it.
    errors : ErrorModel, optional
        Random errors and bias are drawn from it, as normal ones; lost stars stay, since the observed counts are corrected.
    generator : numpy.random.Generator or int
        Source of randomness, or a seed.
    **fractions
        ``pair_fraction, companion_fraction, companions`` of `draw_population`.

    Returns
    -------
    ndarray (bins,)
    """
    random = np.random.default_rng(generator)
    drawn = np.asarray(draw_population(isochrone, N_THEORY, exponent, random, **fractions)[f"{band}_mag"])
    if errors is not None:
        drawn = drawn + errors.bias(band, drawn) + errors.scatter(band, drawn) * random.standard_normal(drawn.size)
    counts = np.histogram(drawn, observed.edges)[0].astype(float)
    middle = 0.5 * (observed.edges[1:] + observed.edges[:-1])
    used = (middle >= magnitudes[0]) & (middle <= magnitudes[1]) & np.isfinite(observed.corrected)
    if not counts[used].sum() > 0 or not observed.corrected[used].sum() > 0:
        raise ValueError(f"no stars, observed or theoretical, between {magnitudes[0]} and {magnitudes[1]} to normalise with")
    return counts * observed.corrected[used].sum() / counts[used].sum()
