"""Expected distributions of a population over a luminosity function's or CMD's cells, as smooth functions of its parameters.

For each age, systems of each kind (single, pair, companion) are drawn once and measured by the error model, with losses; a mass
function is a weight on each.  So the same draws serve every exponent, and the expectation changes smoothly with it.  Between the
ages and exponents of the grid it is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.science.error_model import ErrorModel
from dpm.science.isochrones.isochrone import Isochrone
from dpm.science.populations.synthetic import Companions, add_magnitudes, draw_masses, measure

__all__ = ["PopulationTemplates", "population_templates"]

N_DRAWS = 200_000  # systems of a kind and age; their noise is to be small against that of some hundred stars
PROPOSAL = -1.8  # exponent of the draws, in the middle of those that are fitted
EXPONENTS = np.linspace(-4.0, 1.0, 26)  # linear between steps of 0.2: wrong by 2e-3 of a cell at most


@dataclass(frozen=True)
class PopulationTemplates:
    """Probabilities that a system of the population is found in each cell.

    Parameters
    ----------
    band : str
        Of the magnitude.
    color : (str, str) or None
        Blue and red band of a CMD's colour.
    edges : tuple of ndarray
        Magnitudes, and colours.
    ages, exponents : ndarray
        Of the grid; ages in Gyr.
    probability : ndarray (ages, exponents, kinds, cells)
        Kinds: single, pair, and companion where there are companions.
    """

    band: str
    color: tuple[str, str] | None
    edges: tuple[NDArray[np.float64], ...]
    ages: NDArray[np.float64]
    exponents: NDArray[np.float64]
    probability: NDArray[np.float64]

    @property
    def n_kinds(self) -> int:
        """2, or 3 with companions."""
        return int(self.probability.shape[2])

    def counts(self, measured: Any) -> NDArray[np.float64]:
        """Stars in each cell (cells,), of magnitudes (n,) or magnitudes and colours (n, 2)."""
        return _histogram(np.asarray(measured, dtype=float), self.edges)

    def expected(self, exponent: Any, age: Any, pair_fraction: Any = 0.0, companion_fraction: Any = 0.0) -> NDArray[np.float64]:
        """Probability of each cell (n, cells) for arrays of parameters (n,); the sum is the share of systems that are found there.

        Parameters outside the grid are NaN.
        """
        parameters = (np.atleast_1d(v) for v in (exponent, age, pair_fraction, companion_fraction))
        alpha, gyr, pairs, others = np.broadcast_arrays(*parameters)
        weights = [1.0 - pairs - others, pairs, others][: self.n_kinds]
        out = np.zeros((alpha.size, self.probability.shape[3]))
        places = [_place(alpha, self.exponents), _place(gyr, self.ages)]
        for a, near_alpha in ((0, 1.0 - places[0][1]), (1, places[0][1])):
            for t, near_age in ((0, 1.0 - places[1][1]), (1, places[1][1])):
                i, j = places[0][0] + a, np.minimum(places[1][0] + t, self.ages.size - 1)
                for kind, weight in enumerate(weights):
                    out += (near_alpha * near_age * weight)[:, None] * self.probability[j, i, kind]
        return out


def population_templates(
    isochrones: Sequence[Isochrone],
    errors: ErrorModel,
    band: str,
    magnitude_edges: Any,
    color: tuple[str, str] | None = None,
    color_edges: Any = None,
    companions: Companions | None = None,
    generator: np.random.Generator | int = 0,
    n_draws: int = N_DRAWS,
) -> PopulationTemplates:
    """Draw and measure populations of several ages.

    Parameters
    ----------
    isochrones : sequence of Isochrone
        One an age, at their distance and extinction, in steps no larger than the age's error.
    errors : ErrorModel
        Of the bands that are used and of no other: a star lost in any of its bands is lost.
    band : str
        Of the magnitude.
    magnitude_edges : array_like
        Edges of the cells.
    color : (str, str), optional
        Blue and red band of the colour; without it, it is a luminosity function.
    color_edges : array_like, optional
        Edges of the cells.
    companions : Companions, optional
        For a fraction with companions.
    generator : numpy.random.Generator or int
        Source of randomness, or a seed.
    n_draws : int
        Systems of a kind and age.

    Returns
    -------
    PopulationTemplates

    Raises
    ------
    ValueError
        If two isochrones have the same age, or the error model is not one of the bands that are used.
    """
    ordered = sorted(isochrones, key=lambda isochrone: isochrone.age)
    ages = np.array([isochrone.age for isochrone in ordered])
    if np.any(np.diff(ages) <= 0):
        raise ValueError("give one isochrone for each age")
    if (color is None) != (color_edges is None):
        raise ValueError("give a colour and the edges of its cells, or neither")
    edges = tuple(np.asarray(edge, dtype=float) for edge in (magnitude_edges, color_edges) if edge is not None)
    bands = errors.bands
    used = {band, *(color or ())}
    if used != set(bands):
        raise ValueError(f"bands {', '.join(sorted(used))} are used; the error model is one of {', '.join(bands)}")
    # Both errors and draws of each age start alike, so that ages differ by what ages do.
    seed = int(np.random.default_rng(generator).integers(2**31))
    n_kinds = 2 if companions is None else 3
    n_cells = int(np.prod([edge.size - 1 for edge in edges]))
    probability = np.zeros((ages.size, EXPONENTS.size, n_kinds, n_cells))
    for number, isochrone in enumerate(ordered):
        random = np.random.default_rng(seed)
        ends = float(isochrone.mass[0]), float(isochrone.mass[-1])
        for kind in range(n_kinds):
            mass = draw_masses(n_draws, PROPOSAL, ends, random)
            true = isochrone(mass, bands)
            log_mass = np.log(mass)
            if kind == 1:
                second = draw_masses(n_draws, PROPOSAL, ends, random)
                true = add_magnitudes(true, isochrone(second, bands))
                log_mass = np.stack([log_mass, np.log(second)])
            elif companions is not None and kind == 2:
                true = add_magnitudes(true, companions.isochrone(random.uniform(*companions.masses, n_draws), bands))
            measured = measure(true, errors, random)
            cell = _cells(_plane(measured, bands, band, color), edges)
            inside = cell >= 0
            for step, exponent in enumerate(EXPONENTS):
                weight = np.atleast_2d(np.exp((exponent - PROPOSAL) * log_mass))
                # Each star's own weights average to one, so that losses are shares of all systems.
                weight = np.prod(weight / weight.mean(axis=1, keepdims=True), axis=0)
                probability[number, step, kind] = np.bincount(cell[inside], weight[inside], n_cells) / n_draws
    return PopulationTemplates(band, color, edges, ages, EXPONENTS, probability)


def _plane(mags: NDArray[np.float64], bands: tuple[str, ...], band: str, color: tuple[str, str] | None) -> NDArray[np.float64]:
    """Magnitudes (n,), or magnitudes and colours (n, 2); NaN for stars that are not measured in all bands."""
    found = np.isfinite(mags).all(axis=1, keepdims=True)
    columns = [mags[:, bands.index(band)]]
    if color is not None:
        columns.append(mags[:, bands.index(color[0])] - mags[:, bands.index(color[1])])
    return np.where(found, np.column_stack(columns), np.nan)


def _cells(values: NDArray[np.float64], edges: tuple[NDArray[np.float64], ...]) -> NDArray[np.intp]:
    """Number of each star's cell, -1 outside."""
    table = values[:, None] if values.ndim == 1 else values
    if table.shape[1] != len(edges):
        raise ValueError(f"{len(edges)} quantities a star are needed, not {table.shape[1]}")
    cell = np.zeros(len(table), dtype=np.intp)
    inside = np.isfinite(table).all(axis=1)
    for column, edge in zip(table.T, edges):
        place = np.searchsorted(edge, np.where(inside, column, edge[0]), side="right") - 1
        inside &= (place >= 0) & (place < edge.size - 1)
        cell = cell * (edge.size - 1) + np.clip(place, 0, edge.size - 2)
    return np.where(inside, cell, -1)


def _histogram(values: NDArray[np.float64], edges: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
    cell = _cells(values, edges)
    return np.bincount(cell[cell >= 0], minlength=int(np.prod([edge.size - 1 for edge in edges]))).astype(float)


def _place(values: NDArray[Any], grid: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Cell of a grid, and how far into it (0 to 1); NaN outside."""
    if grid.size == 1:
        return np.zeros(values.shape, dtype=np.intp), np.where(np.isclose(values, grid[0]), 0.0, np.nan)
    cell = np.clip(np.searchsorted(grid, values, side="right") - 1, 0, grid.size - 2)
    into = (values - grid[cell]) / (grid[cell + 1] - grid[cell])
    return cell, np.where((values >= grid[0]) & (values <= grid[-1]), into, np.nan)
