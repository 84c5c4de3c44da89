"""What measuring does to a star, learnt from artificial stars: bias, scatter, correlation between bands, tails, and loss.

Bias and scatter are smooth functions of a band's inserted magnitude.  Everything else is kept as it happened: a drawn star
takes the fate of an artificial star of nearly its own magnitudes in ALL bands, whose errors are carried over in units of the
scatter about the bias.  So lost stars, blends' tails, and what neighbours do to all bands alike come out as they went in, and
colours count where artificial stars cover them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.sparse import coo_array, csr_array
from scipy.spatial import cKDTree
from scipy.stats import qmc

from dpm.science.random_errors import bias_and_width, correlation, magnitude_resolution, random_errors, undo_rounding
from dpm.science.table_access import row_mask, stack_magnitudes

__all__ = ["ErrorModel", "Fates", "fit_error_model"]

# A drawn star's fate is that of one of the 50 artificial stars about a place within 0.1 mag: many stars of one magnitude get many
# fates, and completeness and errors change little over so small a distance.
N_DONORS, NEIGHBORHOOD = 50, 0.1
REACH = 0.5  # mag: half-magnitude bins (paper 1) are the largest over which errors are taken as alike
BIN_WIDTH, BIN_STARS = 0.25, 100  # of the bins behind bias and scatter: scatter to 10 % at the least
CHUNK = 200_000
N_PLACES = 256  # about a star, of which `fates` asks for the nearest artificial star: their shares to some 0.1 %


class Fates(NamedTuple):
    """What may become of simulated stars.

    Parameters
    ----------
    star : ndarray (m,)
        Row of the star that a fate belongs to.
    donor : ndarray (m,)
        Row of the artificial star whose fate it is.
    probability : ndarray (m,)
        They add up to 1 for each star.
    measured : ndarray (m, bands)
        Magnitudes, NaN where it is lost.
    """

    star: NDArray[np.intp]
    donor: NDArray[np.intp]
    probability: NDArray[np.float64]
    measured: NDArray[np.float64]


@dataclass(frozen=True)
class ErrorModel:
    """Errors of photometry as functions of true magnitudes, and draws from them.

    Parameters
    ----------
    bands : tuple of str
        Bands, in the order of all arrays here.
    inserted : ndarray (n, bands)
        Inserted magnitudes of the artificial stars behind it, lost ones too.
    difference : ndarray (n, bands)
        Measured minus inserted magnitudes; NaN where lost.
    knots : tuple of ndarray (3, k)
        A band: magnitudes, bias and scatter of its bins.
    correlations : ndarray (bands, bands, k)
        At the first band's knots.
    summary : astropy.table.Table
        Half-magnitude bins; see `random_errors`.
    """

    bands: tuple[str, ...]
    inserted: NDArray[np.float64]
    difference: NDArray[np.float64]
    knots: tuple[NDArray[np.float64], ...]
    correlations: NDArray[np.float64]
    summary: Table
    _tree: cKDTree = field(init=False, repr=False)
    _donors: NDArray[np.int32] = field(init=False, repr=False)
    _own_pulls: NDArray[np.float64] = field(init=False, repr=False)

    def bias(self, band: str, magnitude: Any) -> NDArray[np.float64]:
        """Median of measured minus true magnitude at these true magnitudes of a band."""
        knots = self.knots[self.bands.index(band)]
        return _smooth(knots[0], knots[1], magnitude)

    def scatter(self, band: str, magnitude: Any) -> NDArray[np.float64]:
        """One-sigma random error (half of the middle 68.27 %) at these true magnitudes of a band."""
        knots = self.knots[self.bands.index(band)]
        return np.exp(_smooth(knots[0], np.log(knots[2]), magnitude))

    def covariance(self, magnitudes: Any) -> NDArray[np.float64]:
        """Covariance of the errors, without tails.

        Parameters
        ----------
        magnitudes : array_like (n, bands)
            True magnitudes.

        Returns
        -------
        ndarray (n, bands, bands)
        """
        mags = self._magnitudes(magnitudes)
        scatter = np.column_stack([self.scatter(band, mags[:, i]) for i, band in enumerate(self.bands)])
        between = np.array([[np.interp(mags[:, 0], self.knots[0][0], values) for values in row] for row in self.correlations])
        return scatter[:, :, None] * scatter[:, None, :] * np.moveaxis(between, -1, 0)

    def pulls(self, inserted: Any, measured: Any) -> NDArray[np.float64]:
        """(measured - true - bias) / scatter (n, bands), of width 1 where the model holds; NaN where lost."""
        true, out = self._magnitudes(inserted), self._magnitudes(measured)
        return np.column_stack(
            [(out[:, i] - true[:, i] - self.bias(b, true[:, i])) / self.scatter(b, true[:, i]) for i, b in enumerate(self.bands)]
        )

    def covers(self, magnitudes: Any) -> NDArray[np.bool_]:
        """Whether an artificial star lies within half a magnitude of these true magnitudes (n, bands); `draw` needs that."""
        return self._nearest(self._magnitudes(magnitudes))[1] <= REACH

    def draw(self, magnitudes: Any, generator: np.random.Generator | int) -> NDArray[np.float64]:
        """Measure simulated stars.

        Parameters
        ----------
        magnitudes : array_like (n, bands)
            True magnitudes, in the order of `bands`; (n,) where there is one band.
        generator : numpy.random.Generator or int
            Source of randomness, or a seed: the same seed and stars give the same draw.

        Returns
        -------
        ndarray (n, bands)
            Measured magnitudes; NaN in bands in which a star is lost, as artificial stars like it were.

        Raises
        ------
        ValueError
            If there are stars that no artificial star is near: see `covers`.
        """
        mags = self._covered(magnitudes)
        random = np.random.default_rng(generator)
        nearest = self._nearest(mags + random.uniform(-NEIGHBORHOOD, NEIGHBORHOOD, mags.shape))[0]
        donors = self._donors[nearest, random.integers(self._donors.shape[1], size=len(mags))]
        center, scatter = self._center_and_scatter(mags)
        return center + scatter * self._own_pulls[donors]

    def fates(self, magnitudes: Any) -> Fates:
        """All that `draw` draws from: what may become of stars of these true magnitudes, and how probable it is.

        Parameters
        ----------
        magnitudes : array_like (n, bands)
            As for `draw`.

        Returns
        -------
        Fates
        """
        mags = self._covered(magnitudes)
        even = qmc.Sobol(len(self.bands), scramble=False).random(N_PLACES) + 0.5 / N_PLACES
        places = mags[:, None, :] + NEIGHBORHOOD * (2.0 * even - 1.0)
        nearest = self._nearest(places.reshape(-1, len(self.bands)))[0]
        used, place = np.unique(nearest, return_inverse=True)
        donors = self._donors[used]
        # Shares of the nearest artificial stars, times those of the donors about each.
        near = _sparse(np.repeat(np.arange(len(mags)), N_PLACES), place, 1.0 / N_PLACES, (len(mags), used.size))
        about = _sparse(
            np.repeat(np.arange(used.size), donors.shape[1]), donors.ravel(), 1.0 / donors.shape[1], (used.size, len(self.inserted))
        )
        shares = (near @ about).tocoo()
        star, donor = (np.asarray(axis, dtype=np.intp) for axis in shares.coords)
        center, scatter = self._center_and_scatter(mags)
        return Fates(star, donor, np.asarray(shares.data), center[star] + scatter[star] * self._own_pulls[donor])

    def _covered(self, magnitudes: Any) -> NDArray[np.float64]:
        """Magnitudes (n, bands) that artificial stars are near."""
        mags = self._magnitudes(magnitudes)
        distance = self._nearest(mags)[1]
        beyond = ~(distance <= REACH)
        if beyond.any():
            worst = mags[np.argmax(np.where(beyond, np.nan_to_num(distance, nan=np.inf, posinf=np.inf), -1.0))]
            raise ValueError(
                f"{int(beyond.sum())} of {len(mags)} stars are farther than {REACH} mag from every artificial star, such as "
                f"{', '.join(f'{b} {m:.2f}' for b, m in zip(self.bands, worst))}: insert artificial stars there, or leave out what "
                "covers() says is not covered"
            )
        return mags

    def _center_and_scatter(self, mags: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Magnitude with its bias, and scatter, both (n, bands)."""
        bias = [self.bias(band, mags[:, i]) for i, band in enumerate(self.bands)]
        scatter = [self.scatter(band, mags[:, i]) for i, band in enumerate(self.bands)]
        return mags + np.column_stack(bias), np.column_stack(scatter)

    def __post_init__(self) -> None:
        tree = cKDTree(self.inserted)
        n_donors = min(N_DONORS, len(self.inserted))
        parts = [
            tree.query(self.inserted[i : i + CHUNK], k=np.arange(1, n_donors + 1))[1] for i in range(0, len(self.inserted), CHUNK)
        ]
        object.__setattr__(self, "_tree", tree)
        object.__setattr__(self, "_donors", np.concatenate(parts).astype(np.int32))
        object.__setattr__(self, "_own_pulls", self.pulls(self.inserted, self.inserted + self.difference))

    def _nearest(self, mags: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Nearest artificial star and its distance, mag; infinite for a star without magnitudes."""
        known = np.isfinite(mags).all(axis=1)
        distance, place = np.full(len(mags), np.inf), np.zeros(len(mags), dtype=np.intp)
        distance[known], place[known] = self._tree.query(mags[known])
        return place, distance

    def _magnitudes(self, magnitudes: Any) -> NDArray[np.float64]:
        mags = np.asarray(magnitudes, dtype=float)
        mags = mags[:, None] if mags.ndim == 1 and len(self.bands) == 1 else mags
        if mags.ndim != 2 or mags.shape[1] != len(self.bands):
            raise ValueError(
                f"magnitudes have to be (stars, {len(self.bands)}) in the order {', '.join(self.bands)}, not {mags.shape}"
            )
        return mags


def fit_error_model(table: Any, *bands: str, passed: Any = "recovered", among: Any = None) -> ErrorModel:
    """Learn the errors of photometry from artificial stars.

    Parameters
    ----------
    table : table
        Artificial stars, lost ones too.
    *bands : str
        Bands to model together; ``in_{band}_mag`` and ``out_{band}_mag``.
    passed : str or array_like of bool (n,)
        Stars that would be in the catalogue: recovered, and selected where the catalogue is.  The others count as lost.
    among : str or array_like of bool (n,), optional
        Inserted stars that count at all.

    Returns
    -------
    ErrorModel

    Raises
    ------
    ValueError
        If no band is named, or fewer than 100 stars were measured in one.
    """
    if not bands:
        raise ValueError("name at least one band")
    inserted = stack_magnitudes(table, bands, "in")
    measured = np.where(row_mask(table, passed)[:, None], stack_magnitudes(table, bands, "out"), np.nan)
    used = row_mask(table, among) & np.isfinite(inserted).all(axis=1)
    inserted, difference = inserted[used], (measured - inserted)[used]
    resolution = magnitude_resolution(table)
    difference = np.column_stack([undo_rounding(difference[:, i], resolution, i) for i in range(len(bands))])
    knots = tuple(_knots(inserted[:, i], difference[:, i], band) for i, band in enumerate(bands))
    counted = row_mask(table, passed) & used
    return ErrorModel(
        bands=bands,
        inserted=inserted,
        difference=difference,
        knots=knots,
        correlations=_correlations(inserted[:, 0], difference, knots[0][0]),
        summary=random_errors(table, bands, counted),
    )


def _bins(magnitude: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Rows of each bin of sorted magnitudes: a quarter magnitude, or more where stars are few."""
    order = np.argsort(magnitude, kind="stable")
    number = np.floor(magnitude[order] / BIN_WIDTH)
    groups: list[NDArray[np.intp]] = []
    waiting: list[NDArray[np.intp]] = []
    for rows in np.split(order, np.flatnonzero(np.diff(number)) + 1):
        waiting.append(rows)
        if sum(part.size for part in waiting) >= BIN_STARS:
            groups.append(np.concatenate(waiting))
            waiting = []
    if waiting and groups:
        groups[-1] = np.concatenate([groups[-1], *waiting])
    return groups


def _knots(magnitude: NDArray[np.float64], difference: NDArray[np.float64], band: str) -> NDArray[np.float64]:
    """Mean magnitude, bias and scatter of each bin, as (3, bins)."""
    good = np.isfinite(difference)
    magnitude, difference = magnitude[good], difference[good]
    rows = []
    for mine in _bins(magnitude):
        bias, width = bias_and_width(difference[mine])
        rows.append((magnitude[mine].mean(), bias, width))
    if not rows:
        raise ValueError(f"{band}: {magnitude.size} artificial stars were measured; an error model needs {BIN_STARS}")
    if min(width for _, _, width in rows) <= 0:
        raise ValueError(
            f'{band}: measured minus inserted magnitudes do not vary; are they rounded? Set meta["magnitude_resolution"]'
        )
    return np.array(rows).T


def _correlations(
    magnitude: NDArray[np.float64], difference: NDArray[np.float64], places: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlations (bands, bands, k) of stars measured in all bands, at these magnitudes of the first."""
    n_bands = difference.shape[1]
    good = np.isfinite(difference).all(axis=1)
    out = np.zeros((n_bands, n_bands, places.size)) + np.eye(n_bands)[:, :, None]
    groups = _bins(magnitude[good])
    middles = [magnitude[good][rows].mean() for rows in groups]
    for i in range(n_bands):
        for j in range(i):
            if groups:
                values = [correlation(difference[good][rows, i], difference[good][rows, j]) for rows in groups]
                out[i, j] = out[j, i] = np.interp(places, middles, values)
    return out


def _sparse(rows: NDArray[np.intp], columns: NDArray[Any], value: float, shape: tuple[int, int]) -> csr_array:
    """One value at many places; where they meet it adds up."""
    return coo_array((np.full(rows.size, value), (rows, columns)), shape).tocsr()


def _smooth(places: NDArray[np.float64], values: NDArray[np.float64], magnitude: Any) -> NDArray[np.float64]:
    """Through the bins' values without overshooting, constant beyond them."""
    mag = np.clip(np.asarray(magnitude, dtype=float), places[0], places[-1])
    if places.size == 1:
        return np.where(np.isfinite(mag), values[0], np.nan)
    return np.asarray(PchipInterpolator(places, values)(mag))
