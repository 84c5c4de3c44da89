"""One exposure of one detector as plain arrays: what every stage works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExposureImage"]


@dataclass(frozen=True)
class ExposureImage:
    """Pixels and noise of one exposure of one detector.

    Pixel (row j, column i) of the arrays is the raw pixel (i + x_origin, j + y_origin) of the full detector, 0-based.
    The variance of a pixel whose expected value is ``model`` is
    ``poisson_factor * max(model, 0) + var_read + flat_variance * model**2`` (DESIGN section 4).

    Parameters
    ----------
    name : str
        Stem of the file name.
    detector, filter : str
        Detector (one chip) and filter.
    sci : ndarray (ny, nx), float32
        Values in DN/s or electrons/s; NaN only where ``dq`` has BAD.
    var_read : ndarray (ny, nx), float32
        Variance without light, (flux unit)^2.
    poisson_factor : ndarray (ny, nx), float32
        Variance per unit of light, in the flux unit.
    flat_variance : ndarray (ny, nx), float32
        Variance of the flat field, relative squared; zeros where unknown.
    area : ndarray (ny, nx), float32
        Pixel area over the nominal one; ones where unknown.
    dq : ndarray (ny, nx), uint8
        Bits of `dpm.models.flags.PixelFlag`.
    x_origin, y_origin : int
        Full-detector position of the arrays' first pixel.
    exptime : float
        Seconds.
    saturation : float
        Lowest value of saturated pixels, NaN where unknown.
    """

    name: str
    detector: str
    filter: str
    sci: NDArray[np.float32]
    var_read: NDArray[np.float32]
    poisson_factor: NDArray[np.float32]
    flat_variance: NDArray[np.float32]
    area: NDArray[np.float32]
    dq: NDArray[np.uint8]
    x_origin: int = 0
    y_origin: int = 0
    exptime: float = 1.0
    saturation: float = float("nan")
    noise_fallback: bool = False

    @property
    def charge_per_flux(self) -> float:
        """Charge of a unit of flux: electrons, but for the correlated reads of a ramp."""
        factor = float(np.median(self.poisson_factor[::8, ::8]))
        return 1.0 / factor if factor > 0 else 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return int(self.sci.shape[0]), int(self.sci.shape[1])
