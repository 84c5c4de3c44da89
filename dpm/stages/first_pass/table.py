"""The table of detections from the fits: full-detector positions, quality numbers and flags (DESIGN section 5)."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.fit import CONVERGED
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag, StarFlag
from dpm.stages.first_pass.measure import FIT_HALF, StarMeasurements
from dpm.stages.first_pass.place_flags import any_in_box, leans_on_guess

__all__ = ["detection_table"]

FEW_PIXELS = 15  # of the 25 of a fit box
NEIGHBOR_SHARE = 0.1  # of the star's own light in the fit box
SHAPE_SIGMA = 5.0  # significance at which RADXS marks a star as extended or sharp
SHAPE_LIMIT = 0.1  # RADXS beyond which it does


def detection_table(image: ExposureImage, epsf: GriddedEPSF, measured: StarMeasurements, flux_unit: str) -> Table:
    """Detections of one exposure with the columns of ``DETECTION_COLUMNS``.

    Parameters
    ----------
    image : ExposureImage
    epsf : GriddedEPSF
    measured : StarMeasurements
        Array pixels; become full-detector pixels here.
    flux_unit : str
        Goes into the metadata of the flux columns.

    Returns
    -------
    astropy.table.Table
        Bright to faint.
    """
    rows = measured.rows
    n = len(rows)
    x, y = rows[:, columns.X], rows[:, columns.Y]
    ny, nx = image.shape
    ix = np.clip(np.floor(x + 0.5).astype(int), 0, nx - 1)
    iy = np.clip(np.floor(y + 0.5).astype(int), 0, ny - 1)
    table = Table()
    table["exposure"] = np.full(n, image.name)
    table["detector"] = np.full(n, image.detector)
    table["filter"] = np.full(n, image.filter)
    table["x"] = x + image.x_origin
    table["y"] = y + image.y_origin
    table["x_error"] = rows[:, columns.X_ERROR].astype(np.float32)
    table["y_error"] = rows[:, columns.Y_ERROR].astype(np.float32)
    table["flux"] = rows[:, columns.FLUX]
    table["flux_error"] = rows[:, columns.FLUX_ERROR].astype(np.float32)
    table["area"] = image.area[iy, ix]
    table["sky"] = rows[:, columns.SKY].astype(np.float32)
    table["sky_rms"] = measured.sky_rms.astype(np.float32)
    table["qfit"] = rows[:, columns.QFIT].astype(np.float32)
    table["qfit_expected"] = rows[:, columns.QFIT_EXPECTED].astype(np.float32)
    table["radxs"] = rows[:, columns.RADXS].astype(np.float32)
    table["chi"] = rows[:, columns.CHI].astype(np.float32)
    table["peak"] = rows[:, columns.PEAK].astype(np.float32)
    table["significance"] = (rows[:, columns.FLUX] / rows[:, columns.FLUX_ERROR]).astype(np.float32)
    table["n_pixels"] = rows[:, columns.N_PIXELS].astype(np.int16)
    table["flags"] = _flags(image, epsf, measured, iy, ix)
    table.meta["flux_unit"] = flux_unit
    return table


def _flags(image: ExposureImage, epsf: GriddedEPSF, measured: StarMeasurements, iy: NDArray, ix: NDArray) -> NDArray[np.int32]:
    rows = measured.rows
    flags = np.zeros(len(rows), np.int32)

    def mark(flag: StarFlag, where: NDArray[np.bool_]) -> None:
        flags[where] |= np.int32(int(flag))

    ny, nx = image.shape
    box = (2 * measured.fit_half + 1) ** 2
    saturated = any_in_box(image.dq, int(PixelFlag.SATURATED | PixelFlag.BAD), 1, iy, ix, every_bit=True)
    mark(StarFlag.SATURATED, saturated | (measured.fit_half > FIT_HALF))
    mark(StarFlag.SHORT_RAMP, any_in_box(image.dq, int(PixelFlag.SHORT_RAMP), FIT_HALF, iy, ix))
    edge = (ix < FIT_HALF) | (iy < FIT_HALF) | (ix >= nx - FIT_HALF) | (iy >= ny - FIT_HALF)
    mark(StarFlag.EDGE, edge)
    mark(StarFlag.MASKED_PIXELS, (rows[:, columns.N_PIXELS] < box) & ~edge)
    mark(StarFlag.FEW_PIXELS, rows[:, columns.N_PIXELS] < FEW_PIXELS)
    mark(StarFlag.NOT_CONVERGED, measured.status != CONVERGED)
    mark(StarFlag.NEIGHBOR, rows[:, columns.NEIGHBOR] > NEIGHBOR_SHARE)
    mark(StarFlag.NEAR_SATURATED, measured.near_saturated)
    mark(StarFlag.SKY_UNCERTAIN, measured.sky_pixels == 0)
    mark(StarFlag.EPSF_EXTRAPOLATED, leans_on_guess(epsf, ix + image.x_origin, iy + image.y_origin))
    mark(StarFlag.NOISE_FALLBACK, np.full(len(rows), image.noise_fallback))
    mark(StarFlag.NOISE_RAISED, measured.noise_raised)
    radxs, error = rows[:, columns.RADXS], rows[:, columns.RADXS_ERROR]
    mark(StarFlag.EXTENDED, (radxs > SHAPE_LIMIT) & (radxs > SHAPE_SIGMA * error))
    mark(StarFlag.SHARP, (radxs < -SHAPE_LIMIT) & (radxs < -SHAPE_SIGMA * error))
    return flags
