"""Differential reddening: how far along the reddening vector each star's main-sequence neighbours lie (Milone et al. 2012).

A main-sequence star off the fiducial line by a colour r is redder by dE(B-V) = r / (k - s K), k and K being the reddening of the
colour and the extinction of the magnitude per E(B-V), and s the line's slope: the vector's part across the line.  Its correction
is the clipped weighted mean over its nearest neighbours, itself left out.  The line and the corrections are made in turns.  Only
DIFFERENCES are found: their median over the reference stars is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.models.statistics import robust_width
from dpm.science.cmd.fiducial import FiducialLine, fiducial_line

__all__ = ["ReddeningMap", "fit_reddening_map"]

N_NEIGHBORS = 50  # scatter of a few hundredths of a magnitude becomes an error of a few thousandths
N_TURNS = 4  # of line and map; the map changes by less than its error after the third
CLIP, N_CLIPS = 3.0, 3
MIN_ACROSS = 0.25  # of the colour's reddening that has to show across the line: along it, reddening cannot be told


@dataclass(frozen=True)
class ReddeningMap:
    """Differences of E(B-V) over a field; call it with positions.

    Parameters
    ----------
    x, y : ndarray (n,)
        Reference stars, in the unit they were given in.
    reddening, error : ndarray (n,)
        Each reference star's own dE(B-V) from its colour, and its one-sigma error, scatter about the map included.
    line : FiducialLine
        Of the corrected main sequence.
    scatter : float
        What dE(B-V) of single stars scatters by beyond their errors (binaries, populations, structure finer than the map).
    n_neighbors : int
        Stars behind each value.
    color_reddening, extinction : float
        Of the colour and of the magnitude, per E(B-V).
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    reddening: NDArray[np.float64]
    error: NDArray[np.float64]
    line: FiducialLine
    scatter: float
    n_neighbors: int
    color_reddening: float
    extinction: float

    def __call__(self, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """dE(B-V) and its one-sigma error at these places; a reference star at the very place is left out.

        Returns
        -------
        reddening, error : ndarray
            The error is that of the mean; what the reddening does between the neighbours is not in it.
        """
        shape = np.broadcast(np.asarray(x), np.asarray(y)).shape
        places = np.column_stack([np.broadcast_to(np.asarray(v, dtype=float), shape).ravel() for v in (x, y)])
        value, error = _local_mean(cKDTree(np.column_stack([self.x, self.y])), self.reddening, self.error, places, self.n_neighbors)
        return value.reshape(shape), error.reshape(shape)

    def radius(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Distance to the farthest of the neighbours: the map's resolution at these places."""
        places = np.column_stack([np.ravel(np.asarray(v, dtype=float)) for v in np.broadcast_arrays(x, y)])
        distance, _ = cKDTree(np.column_stack([self.x, self.y])).query(places, k=[self.n_neighbors])
        return np.asarray(distance[:, 0].reshape(np.broadcast(np.asarray(x), np.asarray(y)).shape))


def fit_reddening_map(
    x: Any,
    y: Any,
    magnitude: Any,
    color: Any,
    color_reddening: float,
    extinction: float,
    color_error: Any = 0.0,
    n_neighbors: int = N_NEIGHBORS,
) -> ReddeningMap:
    """Map differential reddening from well-measured main-sequence stars.

    Parameters
    ----------
    x, y : array_like (n,)
        Positions of the reference stars, in equal units (pixels).
    magnitude, color : array_like (n,)
        Of main-sequence members below the turn-off, where the line and the reddening vector are not parallel; binaries and
        outliers clipped by a CMD region.
    color_reddening, extinction : float
        E(colour) / E(B-V) and A(magnitude) / E(B-V); see `extinction_ratio`.
    color_error : float or array_like (n,)
        One-sigma errors of the colours.
    n_neighbors : int
        Reference stars behind each value: more are more precise, fewer resolve more.

    Returns
    -------
    ReddeningMap

    Raises
    ------
    ValueError
        If there are too few stars, or the sequence runs along the reddening vector.
    """
    columns = [np.asarray(v, dtype=float) for v in (x, y, magnitude, color)]
    columns.append(np.broadcast_to(np.asarray(color_error, dtype=float), columns[0].shape))
    good = np.isfinite(columns).all(axis=0)
    x, y, mag, col, err = (column[good] for column in columns)
    if x.size <= 2 * n_neighbors:
        raise ValueError(f"{x.size} reference stars for {n_neighbors} neighbours: use fewer neighbours")
    places = np.column_stack([x, y])
    tree = cKDTree(places)
    shift = np.zeros(x.size)
    for _ in range(N_TURNS):
        line = fiducial_line(mag - extinction * shift, col - color_reddening * shift)
        # Along the vector to where it meets the line: the slope is taken at the corrected magnitude.
        at = mag - extinction * shift
        across = color_reddening - line.slope(at) * extinction
        if np.median(np.abs(across)) < MIN_ACROSS * abs(color_reddening):
            raise ValueError("the sequence runs along the reddening vector; choose other magnitudes or another colour")
        own = (col - color_reddening * shift - line(at)) / across + shift
        own_error = err / np.abs(across)
        residual = own - shift
        extra = np.sqrt(max(robust_width(residual) ** 2 - np.median(own_error) ** 2, 0.0))
        total = np.hypot(own_error, max(extra, 1e-6))
        shift, _ = _local_mean(tree, own, total, places, n_neighbors)
        zero = np.median(shift)
        shift, own = shift - zero, own - zero
    return ReddeningMap(x, y, own, total, line, float(extra), n_neighbors, color_reddening, extinction)


def _local_mean(
    tree: cKDTree, values: NDArray[np.float64], errors: NDArray[np.float64], places: NDArray[np.float64], n_neighbors: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clipped weighted means over the nearest stars, those at the very place left out, and their errors."""
    distance, near = tree.query(places, k=n_neighbors + 1)
    used = distance > 0
    used[:, -1] &= ~used.all(axis=1)
    value, weight = values[near], errors[near] ** -2.0
    middle = np.nanmedian(np.where(used, value, np.nan), axis=1)
    for _ in range(N_CLIPS):
        kept = used & (np.abs(value - middle[:, None]) < CLIP * errors[near])
        kept = np.where(kept.sum(axis=1)[:, None] > n_neighbors // 3, kept, used)
        middle = np.sum(kept * weight * value, axis=1) / np.sum(kept * weight, axis=1)
    return middle, np.sum(kept * weight, axis=1) ** -0.5
