"""Stars that can carry an ePSF: bright, isolated, unsaturated, whole; and their stamps with all neighbours subtracted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.kernels import quality as columns
from dpm.kernels.bundles import Planes
from dpm.kernels.sky import fill_empty_cells, mesh_sky, mesh_values
from dpm.kernels.stamps import Stamps, cut_stamps
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.statistics import robust_width
from dpm.stages.first_pass.measure import SHARP_LIMIT, StarMeasurements
from dpm.stages.psf.grid import END_RADIUS

__all__ = ["STAMP_HALF", "StarStamps", "choose_stars", "cut_stars", "drop_outliers"]

STAMP_HALF = int(END_RADIUS)  # pixels
FIT_HALF = 2  # pixels; only whole 5 x 5 fits count
EDGE = 3  # pixels; the fit box and half a pixel of motion lie inside the frame
MAX_NEIGHBOR = 0.05  # neighbours' light over the star's own inside the fit box
ISOLATION = 6.0  # pixels; nothing half as bright lies within
CLOSE, CLOSE_SHARE = 3.5, 0.1  # pixels, of the star's flux; nothing brighter than this share lies as close
QUALITY_SIGMA = 4.0  # outliers in QFIT and RADXS among the stars are not used
QUALITY_FLOOR = 0.02  # of the flux; smaller differences in QFIT and RADXS never make an outlier
ZONES = 8  # the frame's sides are cut into as many zones, so that a clump does not take all places
MAX_STARS = 2400  # of an exposure, in all zones together
SKY_CELL = 64  # pixels; a star's own annulus would hold the wings that are to be learnt

Floats = NDArray[np.float64]


@dataclass
class StarStamps:
    """Stamps of stars, and where each one's fit starts.

    Parameters
    ----------
    stamps : Stamps
        Half-width `STAMP_HALF`, neighbours subtracted.
    start : ndarray (n, RESULT_SIZE)
        Rows of `dpm.kernels.quality`, positions in stamp pixels, the sky that of the surroundings.
    """

    stamps: Stamps
    start: Floats

    def __len__(self) -> int:
        return len(self.start)

    @property
    def first(self) -> Floats:
        """Raw position of the stamps' first pixels, (n, 2)."""
        return np.column_stack([self.stamps.first_x, self.stamps.first_y])


def choose_stars(image: ExposureImage, measured: StarMeasurements, signal_to_noise: float) -> NDArray[np.int64]:
    """Rows of the stars that serve, brightest first in each zone of the frame, and evenly over the zones.

    Parameters
    ----------
    image : ExposureImage
    measured : StarMeasurements
        All its stars.
    signal_to_noise : float
        Lowest.
    """
    rows = measured.rows
    ny, nx = image.shape
    x, y, flux = rows[:, columns.X], rows[:, columns.Y], rows[:, columns.FLUX]
    inside = (x > EDGE) & (x < nx - 1 - EDGE) & (y > EDGE) & (y < ny - 1 - EDGE)
    whole = (measured.fit_half == FIT_HALF) & (rows[:, columns.N_PIXELS] >= (2 * FIT_HALF + 1) ** 2 - 2)
    good = inside & whole & ~measured.near_saturated & (flux > signal_to_noise * rows[:, columns.FLUX_ERROR])
    good &= (rows[:, columns.NEIGHBOR] < MAX_NEIGHBOR) & (rows[:, columns.RADXS] > SHARP_LIMIT)
    good[good] = ~_near_saturation(image, y[good], x[good])
    chosen = np.flatnonzero(good)
    chosen = chosen[_isolated(x, y, flux, chosen)]
    zone = np.minimum(y[chosen] * ZONES / ny, ZONES - 1).astype(int) * ZONES + np.minimum(x[chosen] * ZONES / nx, ZONES - 1).astype(
        int
    )
    order = np.lexsort((-flux[chosen], zone))
    rank = np.arange(order.size) - np.searchsorted(zone[order], zone[order])
    # The zones' brightest first, then their second ones: a poor zone leaves its places to the others.
    return chosen[order[np.argsort(rank, kind="stable")][:MAX_STARS]]


def _near_saturation(image: ExposureImage, y: Floats, x: Floats) -> NDArray[np.bool_]:
    """Whether a pixel next to the peak saturated in any read: charge migrates there, and the ramp's shape tells it late."""
    ny, nx = image.shape
    iy, ix = np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)
    found = np.zeros(iy.size, bool)
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            found |= (image.dq[np.clip(iy + j, 0, ny - 1), np.clip(ix + i, 0, nx - 1)] & int(PixelFlag.SATURATED)) != 0
    return found


def _isolated(x: Floats, y: Floats, flux: Floats, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether no other star is too bright for its distance."""
    tree = cKDTree(np.column_stack([x, y]))
    pairs = cKDTree(np.column_stack([x[chosen], y[chosen]])).sparse_distance_matrix(tree, ISOLATION, output_type="ndarray")
    other = chosen[pairs["i"]] != pairs["j"]
    share = flux[pairs["j"]] / flux[chosen[pairs["i"]]]
    spoilt = other & ((share > 0.5) | ((pairs["v"] < CLOSE) & (share > CLOSE_SHARE)))
    alone = np.ones(chosen.size, bool)
    alone[pairs["i"][spoilt]] = False
    return alone


def drop_outliers(rows: Floats, keep: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out stars whose QFIT or RADXS differs from the others': galaxies, blends, stars hit by cosmic rays."""
    for column in (columns.QFIT, columns.RADXS):
        value = rows[keep, column]
        spread = robust_width(value)
        keep = keep[np.abs(value - np.median(value)) <= QUALITY_SIGMA * spread + QUALITY_FLOOR]
    return keep


def cut_stars(image: ExposureImage, epsf: GriddedEPSF, measured: StarMeasurements, keep: NDArray[np.int64]) -> StarStamps:
    """Stamps of the chosen stars.

    Parameters
    ----------
    image : ExposureImage
    epsf : GriddedEPSF
        That the stars were measured with.
    measured : StarMeasurements
    keep : ndarray (n,), int
        Rows.
    """
    side = 2 * STAMP_HALF + 1
    shape = (keep.size, side, side)
    stamps = Stamps(
        np.empty(shape, np.float32), np.empty(shape, bool), np.empty(shape, np.float32), np.empty(shape, np.float32),
        np.empty(shape, np.float32), np.empty(keep.size), np.empty(keep.size),
    )  # fmt: skip
    usable = (image.dq & int(PixelFlag.BAD)) == 0
    planes = Planes(measured.residual, measured.residual, usable, image.var_read, image.poisson_factor, image.flat_variance)
    start = measured.rows[keep].copy()
    cut_stamps(planes, epsf.library(image.x_origin, image.y_origin), start, measured.render_half[keep], STAMP_HALF, stamps)
    ny, nx = image.shape
    level = np.empty((-(-ny // SKY_CELL), -(-nx // SKY_CELL)), np.float32)
    scatter, light = np.empty_like(level), np.empty_like(level)
    every = np.full_like(level, np.inf)
    mesh_sky(measured.residual, measured.residual, usable, SKY_CELL, 1, every, False, level, scatter, light)
    fill_empty_cells(level, scatter)
    sky = np.empty(keep.size)
    iy, ix = np.floor(start[:, columns.Y] + 0.5), np.floor(start[:, columns.X] + 0.5)
    mesh_values(level, SKY_CELL, iy.astype(np.int64), ix.astype(np.int64), sky)
    start[:, columns.SKY] = sky
    start[:, columns.X] += STAMP_HALF - ix
    start[:, columns.Y] += STAMP_HALF - iy
    return StarStamps(stamps, start)
