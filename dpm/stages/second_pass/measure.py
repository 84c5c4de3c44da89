"""Rows of the stars of a solved patch: what every exposure says, with errors that hold the neighbours' covariance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.kernels import patch_measure as kernels
from dpm.kernels import quality as columns
from dpm.kernels.patch import FIT_HALF
from dpm.kernels.patch_fit import MAX_GROUP
from dpm.models.flags import PixelFlag, StarFlag
from dpm.models.patches import PatchBounds
from dpm.stages.first_pass.measure import NEAR_FRACTION
from dpm.stages.second_pass.patches import StarList
from dpm.stages.second_pass.scene import PatchScene

__all__ = ["MEASURED", "measure_patch"]

NEIGHBOR_SHARE = 0.1  # of the star's own light in the fit box
FEW_PIXELS = 15  # of the 25 of a fit box
SHAPE_SIGMA = 5.0
SHAPE_LIMIT = 0.1

# What a row holds: the star (patch, number in it), the exposure's number in its group, and values in the exposure's raw pixels
# and flux.
MEASURED: dict[str, type] = {
    "row": np.int64, "column": np.int64, "star": np.int64, "exposure": np.int64,
    "x": np.float64, "y": np.float64, "x_error": np.float32, "y_error": np.float32, "xy_covariance": np.float32,
    "flux": np.float64, "flux_error": np.float32, "flux_free": np.float64, "flux_free_error": np.float32,
    "flux_small": np.float64, "flux_small_error": np.float32, "scale": np.float64,
    "sky": np.float32, "sky_rms": np.float32, "qfit": np.float32, "qfit_expected": np.float32, "radxs": np.float32,
    "chi": np.float32, "peak": np.float32, "significance": np.float32, "neighbor_ratio": np.float32, "n_pixels": np.int16,
    "flags": np.int32, "star_significance": np.float32, "chi_robust": np.float32, "ring": np.float32, "ring_error": np.float32,
}  # fmt: skip


def measure_patch(scene: PatchScene, own: NDArray[np.int64], members: list[int], patch: PatchBounds) -> StarList:
    """Rows of `MEASURED` for the patch's own stars and the exposures that cover them.

    Parameters
    ----------
    scene : PatchScene
        Solved.
    own : ndarray of int
        The patch's own stars.
    members : list of int
        Numbers of the scene's exposures in their group.
    patch : PatchBounds
    """
    stars, n = scene.stars, scene.count
    position = np.column_stack([stars.x[:n], stars.y[:n]])
    near, count, beyond = _nearest(position, own)
    covariance = np.empty((len(own), 3))
    flux_error = np.empty((len(own), scene.n_bands))
    crowding = np.empty((len(own), 1 + scene.n_bands))
    rows = np.empty((len(own), scene.n_exposures, kernels.MEASUREMENT_SIZE))
    kernels.measure_stars(
        scene.patch, scene.libraries, stars, own, near, count, scene.model_error, covariance, flux_error, crowding, rows
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.maximum(np.nan_to_num(stars.flux[own] / flux_error), 0.0)
    star_significance = np.sqrt(np.sum(ratio**2, axis=1))
    k, e = np.nonzero(np.isfinite(rows[:, :, columns.X]))
    row = rows[k, e]
    band = scene.patch.band[e]
    # The covariance with neighbours, and of the flux with the position, widens single exposures' errors as it does the joint ones.
    wider_position = np.sqrt(np.maximum(np.nan_to_num(crowding[k, 0], nan=1.0), 1.0))
    wider_flux = np.sqrt(np.maximum(np.nan_to_num(crowding[k, 1 + band], nan=1.0), 1.0))
    x_origin, y_origin = scene.patch.x_origin[e], scene.patch.y_origin[e]
    own_flux = stars.flux[own][k, band] * row[:, kernels.SCALE]
    ring_scale = np.where(own_flux != 0, own_flux, np.nan)
    out: StarList = {
        "row": np.full(len(k), patch.row), "column": np.full(len(k), patch.column), "star": k,
        "exposure": np.array(members, np.int64)[e],
        "x": row[:, columns.X] + x_origin, "y": row[:, columns.Y] + y_origin,
        "x_error": row[:, columns.X_ERROR] * wider_position, "y_error": row[:, columns.Y_ERROR] * wider_position,
        "xy_covariance": row[:, columns.XY_COVARIANCE] * wider_position**2,
        "flux": row[:, columns.FLUX], "flux_error": row[:, columns.FLUX_ERROR] * wider_flux,
        "flux_free": row[:, kernels.FLUX_FREE], "flux_free_error": row[:, kernels.FLUX_FREE_ERROR] * wider_flux,
        "flux_small": row[:, kernels.FLUX_SMALL], "flux_small_error": row[:, kernels.FLUX_SMALL_ERROR] * wider_flux,
        "scale": row[:, kernels.SCALE],
        "sky": row[:, columns.SKY], "sky_rms": row[:, kernels.SKY_RMS],
        "qfit": row[:, columns.QFIT], "qfit_expected": row[:, columns.QFIT_EXPECTED], "radxs": row[:, columns.RADXS],
        "chi": row[:, columns.CHI], "peak": row[:, columns.PEAK],
        "significance": row[:, columns.FLUX] / (row[:, columns.FLUX_ERROR] * wider_flux),
        "neighbor_ratio": row[:, columns.NEIGHBOR], "n_pixels": row[:, columns.N_PIXELS],
        "flags": _flags(scene, row, own[k], e, beyond[k]), "star_significance": star_significance[k],
        "chi_robust": row[:, columns.CHI_ROBUST],
        "ring": row[:, columns.RADXS] * ring_scale, "ring_error": row[:, columns.RADXS_ERROR] * ring_scale,
    }  # fmt: skip
    return {name: np.asarray(out[name]).astype(dtype) for name, dtype in MEASURED.items()}


def _nearest(
    position: NDArray[np.float64], own: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The nearest neighbours of each star within COVARIANCE_RADIUS, how many, and whether there are more than are taken."""
    near = np.zeros((len(own), MAX_GROUP - 1), np.int64)
    if len(position) < 2 or not len(own):
        return near, np.zeros(len(own), np.int64), np.zeros(len(own), bool)
    most = min(MAX_GROUP + 1, len(position))
    distance, index = cKDTree(position).query(position[own], k=most, distance_upper_bound=kernels.COVARIANCE_RADIUS)
    others = np.isfinite(distance[:, 1:MAX_GROUP])
    near[:, : others.shape[1]] = np.where(others, index[:, 1:MAX_GROUP], 0)
    beyond = np.isfinite(distance[:, MAX_GROUP]) if most > MAX_GROUP else np.zeros(len(own), bool)
    return near, others.sum(axis=1).astype(np.int64), beyond


def _flags(
    scene: PatchScene, row: NDArray[np.float64], star: NDArray[np.int64], e: NDArray[np.int64], cut: NDArray[np.bool_]
) -> NDArray[np.int32]:
    flags = np.zeros(len(row), np.int32)

    def mark(flag: StarFlag, where: NDArray[np.bool_]) -> None:
        flags[where] |= np.int32(int(flag))

    patch = scene.patch
    half = scene.stars.half[star]
    lost, short, halo = _places(scene, row, e)
    mark(StarFlag.SATURATED, (half > FIT_HALF) | lost)
    mark(StarFlag.SHORT_RAMP, short)
    mark(StarFlag.NEAR_SATURATED, (halo > NEAR_FRACTION * row[:, columns.FLUX]) & (half == FIT_HALF))
    # A sky that too few pixels tell is that of the meshes alone.
    mark(StarFlag.SKY_UNCERTAIN, scene.stars.sky[star, patch.band[e]] == 0.0)
    box = (2 * half + 1) ** 2
    ix, iy = np.floor(row[:, columns.X] + 0.5), np.floor(row[:, columns.Y] + 0.5)
    edge = (ix < FIT_HALF) | (iy < FIT_HALF) | (ix >= patch.nx[e] - FIT_HALF) | (iy >= patch.ny[e] - FIT_HALF)
    mark(StarFlag.EDGE, edge)
    mark(StarFlag.MASKED_PIXELS, (row[:, columns.N_PIXELS] < box) & ~edge)
    mark(StarFlag.FEW_PIXELS, row[:, columns.N_PIXELS] < FEW_PIXELS)
    mark(StarFlag.NOT_CONVERGED, scene.stars.status[star] != 0)
    mark(StarFlag.NEIGHBOR, row[:, columns.NEIGHBOR] > NEIGHBOR_SHARE)
    mark(StarFlag.GROUP_CUT, cut)
    mark(StarFlag.NOISE_RAISED, scene.noise_raised[e])
    radxs, error = row[:, columns.RADXS], row[:, columns.RADXS_ERROR]
    mark(StarFlag.EXTENDED, (radxs > SHAPE_LIMIT) & (radxs > SHAPE_SIGMA * error))
    mark(StarFlag.SHARP, (radxs < -SHAPE_LIMIT) & (radxs < -SHAPE_SIGMA * error))
    return flags


def _places(
    scene: PatchScene, row: NDArray[np.float64], e: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32]]:
    """Whether a star's core lost pixels to saturation, whether its fit box has short ramps, and the halos' limit at its peak."""
    bits, halo = np.zeros((2, len(row)), np.uint8), np.zeros(len(row), np.float32)
    lost, short = int(PixelFlag.SATURATED | PixelFlag.BAD), int(PixelFlag.SHORT_RAMP)
    kernels.box_bits(scene.patch, scene.dq, e, row[:, columns.Y], row[:, columns.X], lost, FIT_HALF, bits, halo)
    return bits[0] != 0, (bits[1] & short) != 0, halo
