"""Arrays that travel together through the kernels, as named tuples: one exposure's planes, one ePSF, one work space."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpm.kernels.epsf import OVERSAMPLING, TAPS
from dpm.kernels.jit import kernel

MAX_HALF = 12  # largest half-width of a box: the ePSF ends there
MAX_WINDOW = OVERSAMPLING * (2 * MAX_HALF + 2) + TAPS + 2
MAX_BOX = 2 * MAX_HALF + 3


class Planes(NamedTuple):
    """One exposure's pixels: image minus all stars (sky kept), image, pixels with weight, noise planes; (ny, nx)."""

    residual: Any
    scene: Any
    good: Any
    variance_read: Any
    poisson_factor: Any
    flat_variance: Any


class Library(NamedTuple):
    """One ePSF: spline coefficients, node positions (full-detector pixels), and where the exposure's first pixel lies there."""

    coefficients: Any
    node_x: Any
    node_y: Any
    x_origin: Any
    y_origin: Any


class Work(NamedTuple):
    """Work space of a fit (`workspace`), made once and used for every star.

    float32 for pixels and the ePSF, float64 for the algebra; ``held`` says what the window holds (WINDOW_ROW ...).
    """

    window: Any
    held: Any
    old_value: Any
    value: Any
    slope_x: Any
    slope_y: Any
    pixels: Any
    scratch: Any
    normal: Any
    inverse: Any
    gradient: Any
    step: Any
    position: Any
    fitted_variance: Any


@kernel
def workspace():
    """Fresh work arrays."""
    return Work(
        np.empty((MAX_WINDOW, MAX_WINDOW), np.float32),
        np.zeros(6, np.int64),
        np.empty((MAX_BOX, MAX_BOX), np.float32),
        np.empty((MAX_BOX, MAX_BOX), np.float32),
        np.empty((MAX_BOX, MAX_BOX), np.float32),
        np.empty((MAX_BOX, MAX_BOX), np.float32),
        np.empty((5, MAX_BOX, MAX_BOX), np.float32),
        np.empty((2, MAX_WINDOW), np.float32),
        np.zeros((4, 4)),
        np.zeros((4, 4)),
        np.zeros(4),
        np.zeros(4),
        np.zeros(4),
        np.empty((MAX_BOX, MAX_BOX)),
    )
