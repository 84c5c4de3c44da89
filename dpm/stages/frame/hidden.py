"""Neighbours that one epoch shows and another hides: there their light is in the star's position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["hidden_shifts"]

Floats = NDArray[np.float64]


def hidden_shifts(
    positions: Sequence[Floats], fluxes: Sequence[Floats], radii: Sequence[float], real: NDArray[np.bool_] | None = None
) -> list[Floats]:
    """How far neighbours without a row of their own may have moved each star, as covariances.

    A neighbour that only another epoch shows moves the light's centre by its share of it.

    Parameters
    ----------
    positions : sequence of ndarray (n, 2)
        Of each epoch, NaN where a star was not measured.
    fluxes : sequence of ndarray (n, n_bands)
        Of each epoch, NaN where unknown.
    radii : sequence of float
        Within which each epoch's detectors may hide a neighbour.
    real : ndarray (n,), bool, optional
        Stars that can be a neighbour: artificial ones were not there together.  All when None.

    Returns
    -------
    list of ndarray (n, 2, 2)
        One an epoch; zeros where nothing is hidden.
    """
    n = len(positions[0])
    seen = [np.isfinite(place).all(axis=1) for place in positions]
    out = [np.zeros((n, 2, 2)) for _ in positions]
    real = np.ones(n, bool) if real is None else real
    for e, radius in enumerate(radii):
        for other, place in enumerate(positions):
            if other == e:
                continue
            stars = np.flatnonzero(seen[e] & seen[other])
            alone = np.flatnonzero(seen[other] & ~seen[e] & real)
            # A star that was not linked has a row at both epochs, and hides nowhere.
            single = np.flatnonzero(seen[e] & ~seen[other] & real)
            if single.size and alone.size:
                distance, _ = cKDTree(positions[e][single]).query(place[alone])
                alone = alone[distance > radius]
            if not stars.size or not alone.size:
                continue
            near = cKDTree(place[alone]).query_ball_point(place[stars], radius, return_sorted=True)
            i = np.repeat(stars, [len(part) for part in near])
            j = alone[np.fromiter((k for part in near for k in part), np.int64, len(i))]
            with np.errstate(invalid="ignore", divide="ignore"):
                share = fluxes[other][j] / (fluxes[other][i] + fluxes[other][j])
            share = np.clip(np.nanmax(np.where(np.isfinite(share), share, 0.0), axis=1, initial=0.0), 0.0, 1.0)
            shift = share[:, None] * (place[j] - place[i])
            np.add.at(out[e], i, shift[:, :, None] * shift[:, None, :])
    return out
