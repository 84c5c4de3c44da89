"""The 4 x grid of ePSF samples: radii, normalisation, and the quick and the built ePSF's common numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpm.kernels.epsf import OVERSAMPLING, SAMPLES

__all__ = ["CORE_RADIUS", "END_RADIUS", "MIDDLE", "NORMALISATION_RADIUS", "normalise", "radius_grid"]

NORMALISATION_RADIUS = 5.0  # pixels (paper 2, section 3)
END_RADIUS = 12.0  # pixels; the ePSF ends here, at the edge of the stamps
END_TAPER = 0.5  # pixels over which it goes to zero
CORE_RADIUS = 1.5  # pixels; where errors of the ePSF are stated (DESIGN section 7)
MIDDLE = (SAMPLES - 1) // 2

Floats = NDArray[np.float64]


def radius_grid() -> Floats:
    """Distance of every sample from the star, pixels, (101, 101)."""
    rows, columns = np.mgrid[:SAMPLES, :SAMPLES]
    return np.asarray(np.hypot(rows - MIDDLE, columns - MIDDLE) / OVERSAMPLING)


def normalise(samples: Floats) -> Floats:
    """One node's samples with a sum of one star within the normalisation radius, and nothing beyond the end radius."""
    radius = radius_grid()
    taper = np.clip((END_RADIUS - radius) / END_TAPER, 0.0, 1.0)
    return np.asarray(samples * taper / (samples[radius <= NORMALISATION_RADIUS].sum() / OVERSAMPLING**2))
