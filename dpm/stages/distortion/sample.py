"""Measurements of a distortion solution, sorted by star, and where they lie on the master frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.stages.distortion.terms import Layout, State, evaluate

__all__ = ["Plane", "Sample", "project", "sums", "to_raw"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass
class Sample:
    """Measurements sorted by star.

    Parameters
    ----------
    edges : ndarray (n_stars + 1,)
        First measurement of each star.
    star, unit, filt : ndarray (n,)
        Of each measurement.
    x, y : ndarray (n,)
        Raw.
    base_u, base_v : ndarray (n,)
        By the start map, from the detector's centre.
    variance : ndarray (n,)
        Per axis, raw pixels squared.
    reference_x, reference_y, reference_variance : ndarray (n_stars,)
        Master frame; infinite variance where there is none.
    scale_group : ndarray (n_units,)
        Units of one number have one pixel scale, but for `va_scale`.
    va_scale : ndarray (n_units,)
        Velocity aberration.
    """

    edges: Ints
    star: Ints
    unit: Ints
    filt: Ints
    x: Floats
    y: Floats
    base_u: Floats
    base_v: Floats
    variance: Floats
    reference_x: Floats
    reference_y: Floats
    reference_variance: Floats
    scale_group: Ints
    va_scale: Floats

    def __len__(self) -> int:
        return len(self.x)

    @property
    def n_stars(self) -> int:
        return len(self.edges) - 1


@dataclass
class Plane:
    """Measurements on the master frame under one state."""

    u: Floats
    v: Floats
    x: Floats
    y: Floats
    scale2: Floats


def project(sample: Sample, layout: Layout, state: State) -> Plane:
    """Corrected positions and places on the master frame of all measurements, under a state."""
    dx, dy = evaluate(layout, state, sample.x, sample.y, sample.filt)
    u, v = sample.base_u + dx, sample.base_v + dy
    m = state.matrices[sample.unit]
    x = m[:, 0, 0] * u + m[:, 0, 1] * v + state.shifts[sample.unit, 0]
    y = m[:, 1, 0] * u + m[:, 1, 1] * v + state.shifts[sample.unit, 1]
    scale2 = np.abs(np.linalg.det(state.matrices))
    return Plane(u, v, x, y, scale2)


def to_raw(sample: Sample, state: State, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Differences on the master frame (x, y) turned back to the corrected pixels of each measurement's exposure."""
    inverse = np.linalg.inv(state.matrices)[sample.unit]
    return inverse[:, 0, 0] * x + inverse[:, 0, 1] * y, inverse[:, 1, 0] * x + inverse[:, 1, 1] * y


def sums(sample: Sample, values: Floats) -> Floats:
    """Sums over the measurements of each star."""
    return np.asarray(np.bincount(sample.star, values, sample.n_stars), dtype=float)
