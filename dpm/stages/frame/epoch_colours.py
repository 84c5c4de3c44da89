"""Colours of pairs of stars of two epochs, whatever filters they were seen in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import robust_width

__all__ = ["PairColours", "pair_colours"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Stars in a bin of magnitudes, and the error that no colour is believed to be below (mag).
MAGNITUDE_BIN = 30
SMALLEST_COLOUR = 0.05


@dataclass(frozen=True)
class PairColours:
    """Colours of pairs: offset from the field's relation, its kernel, and the density of magnitudes there; NaN where unknown."""

    offset: Floats
    kernel: Floats
    chance: Floats

    @classmethod
    def unknown(cls, n: int) -> PairColours:
        return cls(*(np.full(n, np.nan) for _ in range(3)))


def pair_colours(
    first: Mapping[str, Floats], second: Mapping[str, Floats], i: Ints, j: Ints, sure: Ints, fewest: int
) -> PairColours:
    """Colours of pairs in the two filters, of all that both sides have, that agree best.

    Parameters
    ----------
    first, second : mapping
        Magnitudes by filter of the stars of either side.
    i, j : ndarray
        Stars of the pairs.
    sure : ndarray
        Pairs that the relation of colour and magnitude is learnt from.
    fewest : int
        So many are needed.
    """
    best, typical = PairColours.unknown(len(i)), np.inf
    for mine in first.values():
        for theirs in second.values():
            difference = theirs[j] - mine[i]
            use = sure[np.isfinite(difference[sure])]
            if len(use) < fewest:
                continue
            middle, width = _relation(mine[i[use]], difference[use], mine[i])
            if np.median(width[use]) < typical:
                typical = float(np.median(width[use]))
                chance = np.interp(theirs[j], *_magnitude_density(theirs))
                best = PairColours(difference - middle, np.maximum(width, SMALLEST_COLOUR), chance)
    return best


def _relation(mag: Floats, difference: Floats, at: Floats) -> tuple[Floats, Floats]:
    """Running median and width of colours over magnitude, at magnitudes ``at``."""
    order = np.argsort(mag, kind="stable")
    parts = np.array_split(order, max(len(order) // MAGNITUDE_BIN, 1))
    centre = np.array([np.median(mag[part]) for part in parts])
    middle = np.array([np.median(difference[part]) for part in parts])
    width = np.array([max(robust_width(difference[part]), SMALLEST_COLOUR) for part in parts])
    at = np.nan_to_num(at, nan=float(centre[-1]))
    return np.interp(at, centre, middle), np.interp(at, centre, width)


def _magnitude_density(mag: Floats) -> tuple[Floats, Floats]:
    """Stars a magnitude, of one star, on points along the magnitudes."""
    known = np.sort(mag[np.isfinite(mag)])
    edges = known[np.unique(np.linspace(0, len(known) - 1, max(len(known) // MAGNITUDE_BIN, 1) + 1).astype(int))]
    if len(edges) < 2 or edges[-1] <= edges[0]:
        return np.array([known[0], known[0] + 1.0]), np.ones(2)
    edges = edges[np.concatenate([[True], np.diff(edges) > 0])]
    share = np.diff(np.searchsorted(known, edges, side="left")) / (len(known) * np.diff(edges))
    return 0.5 * (edges[1:] + edges[:-1]), np.maximum(share, 1e-6)
