"""Robust statistics and the constants between medians, scatters and magnitudes, for every layer above the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAD_TO_SIGMA", "MAG_PER_RELATIVE_FLUX", "MEDIAN_TO_MEAN_ERROR", "robust_width"]

MAD_TO_SIGMA = 1.4826  # 1 / (0.75 quantile of the unit normal)
MEDIAN_TO_MEAN_ERROR = 1.2533  # sqrt(pi / 2): error of a median over that of the mean, for normal values
MAG_PER_RELATIVE_FLUX = 2.5 / np.log(10.0)


def robust_width(values: NDArray[Any], center: float | None = None) -> float:
    """Scatter from the median absolute deviation: the standard deviation where values are normal.

    Parameters
    ----------
    values : ndarray (n,)
        Finite values, at least one.
    center : float, optional
        What deviations are taken from; the median when None.
    """
    middle = np.median(values) if center is None else center
    return float(MAD_TO_SIGMA * np.median(np.abs(values - middle)))
