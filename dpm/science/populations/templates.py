"""Expected distributions of a population over a luminosity function's or CMD's cells, as smooth functions of its parameters.

For each age, systems of each kind (single, pair, companion) are laid out evenly over their masses; a mass function is a weight on
each.  Their true magnitudes are shared out over the nodes of a fine grid, and a star of each node is spread over all that may
become of it (`ErrorModel.fates`), so that templates have no noise but that of the artificial stars.  Between the ages and exponents
of the grid the expectation is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.stats import qmc

from dpm.science.error_model import ErrorModel
from dpm.science.isochrones.isochrone import Isochrone
from dpm.science.populations.synthetic import COMPANION, PAIR, Companions, add_magnitudes, masses_below

__all__ = ["PopulationTemplates", "population_templates"]

LOG_SYSTEMS = 16  # power of two, of systems of a kind and age: Sobol's sequence is even for these
STEP = 0.02  # mag, of the nodes; sharing a star out over them adds 0.008 mag to its error, in quadrature
CHUNK = 2000  # nodes at once, of some 1000 fates each
N_REPLICAS = 64  # of the artificial stars; scatter over them is known to 9 %
PROPOSAL = -1.8  # exponent of the systems, in the middle of those that are fitted
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
    variance : ndarray (ages, cells)
        Relative variance of the probabilities, since artificial stars are a finite number; the same for all exponents and shares.
    replicas : ndarray (ages, replicas, cells)
        Relative changes of the probabilities where each artificial star counts 1 + a unit normal instead of once: one star shows in
        several cells and at all ages, which the variance does not tell.
    """

    band: str
    color: tuple[str, str] | None
    edges: tuple[NDArray[np.float64], ...]
    ages: NDArray[np.float64]
    exponents: NDArray[np.float64]
    probability: NDArray[np.float64]
    variance: NDArray[np.float64]
    replicas: NDArray[np.float64]

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

    def relative_variance(self, age: Any) -> NDArray[np.float64]:
        """Relative variance (n, cells) of what `expected` gives at these ages (n,)."""
        return self._at_ages(self.variance, age)

    def relative_changes(self, age: float) -> NDArray[np.float64]:
        """Relative changes (replicas, cells) of what `expected` gives at an age, for other artificial stars."""
        return np.asarray(self._at_ages(self.replicas.reshape(self.ages.size, -1), age).reshape(self.replicas.shape[1:]))

    def _at_ages(self, values: NDArray[np.float64], age: Any) -> NDArray[np.float64]:
        """Rows between those of the grid's ages."""
        place, into = _place(np.atleast_1d(np.asarray(age, dtype=float)), self.ages)
        upper = np.minimum(place + 1, self.ages.size - 1)
        return (1.0 - into)[:, None] * values[place] + into[:, None] * values[upper]


def population_templates(
    isochrones: Sequence[Isochrone],
    errors: ErrorModel,
    band: str,
    magnitude_edges: Any,
    color: tuple[str, str] | None = None,
    color_edges: Any = None,
    companions: Companions | None = None,
) -> PopulationTemplates:
    """Lay out and measure populations of several ages.

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
    n_kinds = 2 if companions is None else 3
    shared = [[_shares(isochrone, kind, bands, companions) for kind in range(n_kinds)] for isochrone in ordered]
    nodes, place = np.unique(np.concatenate([part[0] for parts in shared for part in parts]), axis=0, return_inverse=True)
    rows = np.split(place.ravel(), np.cumsum([len(own) for parts in shared for own, _ in parts])[:-1])
    # What the variance is worked out for: the middle exponent, and as many systems of each kind.
    usual = np.zeros((ages.size, len(nodes)))
    for number, (mine, (_, weights)) in enumerate(zip(rows, [part for parts in shared for part in parts])):
        np.add.at(usual[number // n_kinds], mine, weights[EXPONENTS.size // 2] / n_kinds)
    response, variance, replicas = _response(
        nodes * STEP, usual, errors, lambda mags: _cells(_plane(mags, bands, band, color), edges), edges
    )
    probability = np.zeros((ages.size, EXPONENTS.size, n_kinds, response.shape[1]))
    for number, (mine, (_, weights)) in enumerate(zip(rows, [part for parts in shared for part in parts])):
        probability[number // n_kinds, :, number % n_kinds] = weights @ response[mine]
    return PopulationTemplates(band, color, edges, ages, EXPONENTS, probability, variance, replicas)


def _shares(
    isochrone: Isochrone, kind: int, bands: tuple[str, ...], companions: Companions | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nodes (m, bands) that systems of a kind fall on, and their shares of all of the kind for each exponent (exponents, m)."""
    even = qmc.Sobol(2, scramble=False).random_base2(LOG_SYSTEMS) + 0.5 / 2**LOG_SYSTEMS
    ends = float(isochrone.mass[0]), float(isochrone.mass[-1])
    mass = masses_below(even[:, 0], PROPOSAL, ends)
    true, log_mass = isochrone(mass, bands), [np.log(mass)]
    if kind == PAIR:
        second = masses_below(even[:, 1], PROPOSAL, ends)
        true = add_magnitudes(true, isochrone(second, bands))
        log_mass.append(np.log(second))
    elif kind == COMPANION and companions is not None:
        low, high = companions.masses
        true = add_magnitudes(true, companions.isochrone(low + (high - low) * even[:, 1], bands))
    first = np.floor(true / STEP).astype(np.int64)
    into = true / STEP - first
    corners = np.array(list(product((0, 1), repeat=len(bands))))
    all_nodes = (first[:, None, :] + corners).reshape(-1, len(bands))
    near = np.prod(np.where(corners, into[:, None, :], 1.0 - into[:, None, :]), axis=2)
    nodes, place = np.unique(all_nodes, axis=0, return_inverse=True)
    out = np.zeros((EXPONENTS.size, len(nodes)))
    for step, exponent in enumerate(EXPONENTS):
        weight = np.ones(mass.size)
        for values in log_mass:
            own = np.exp((exponent - PROPOSAL) * values)
            weight = weight * own / own.mean()
        out[step] = np.bincount(place.ravel(), (near * weight[:, None]).ravel(), len(nodes)) / mass.size
    return nodes, out


def _response(
    true: NDArray[np.float64],
    usual: NDArray[np.float64],
    errors: ErrorModel,
    cells_of: Callable[[NDArray[np.float64]], NDArray[np.intp]],
    edges: tuple[NDArray[np.float64], ...],
) -> tuple[csr_array, NDArray[np.float64], NDArray[np.float64]]:
    """Probability that stars of these true magnitudes (m, bands) are found in each cell (m, cells), its relative variance, and
    relative changes of it.

    A cell holds shares of many artificial stars' fates; the variance (populations, cells) of their sum is that of as many
    independent stars, for populations that have ``usual`` (populations, m) systems at the magnitudes.  Changes (populations,
    N_REPLICAS, cells) are those of `PopulationTemplates.replicas`.
    """
    n_cells = int(np.prod([edge.size - 1 for edge in edges]))
    known = np.flatnonzero(errors.covers(true))
    rows, columns, values = [], [], []
    donated = [csr_array((len(errors.inserted), n_cells)) for _ in usual]
    for some in np.array_split(known, max(1, known.size // CHUNK)):
        fates = errors.fates(true[some])
        cell = cells_of(fates.measured)
        found = cell >= 0
        node, cell, share = some[fates.star[found]], cell[found], fates.probability[found]
        rows.append(node)
        columns.append(cell)
        values.append(share)
        # One artificial star serves many nodes, those of other chunks too: what it gives is added up before it is squared.
        for number, systems in enumerate(usual):
            donated[number] += csr_array((systems[node] * share, (fates.donor[found], cell)), donated[number].shape)
    response = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (len(true), n_cells)).tocsr()
    squares = np.array([np.asarray(given.multiply(given).sum(axis=0)).ravel() for given in donated])
    total = usual @ response
    others = np.random.default_rng(N_REPLICAS).standard_normal((N_REPLICAS, len(errors.inserted)))
    changes = np.array([others @ given for given in donated])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(total[:, None] > 0, changes / total[:, None], 0.0)
        return response, np.where(total > 0, squares / total**2, 1.0), relative


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
