"""The stars of one exposure that show what its ePSF is: bright, isolated, and like the others."""

from __future__ import annotations

from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.stages.first_pass.measure import StarMeasurements
from dpm.stages.psf.candidates import StarStamps, choose_stars, cut_stars, drop_outliers

__all__ = ["cut_candidates"]

SIGNAL_TO_NOISE = 40.0
LOWER_SIGNAL_TO_NOISE = 20.0  # where too few reach the one above
FEW_STARS = 40


def cut_candidates(image: ExposureImage, epsf: GriddedEPSF, measured: StarMeasurements, most: int | None = None) -> StarStamps:
    """Stamps of the stars that serve, at most ``most`` of them: the brightest of every zone first."""
    keep = choose_stars(image, measured, SIGNAL_TO_NOISE)
    if keep.size < FEW_STARS:
        keep = choose_stars(image, measured, LOWER_SIGNAL_TO_NOISE)
    if keep.size:
        keep = drop_outliers(measured.rows, keep)
    return cut_stars(image, epsf, measured, keep[:most])
