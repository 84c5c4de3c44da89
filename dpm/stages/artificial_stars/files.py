"""What the parts of the stage read and leave for each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_columns, read_table
from dpm.models.master_frame import MasterFrame
from dpm.stages.frame.astrometry import positions_at
from dpm.stages.second_pass.field import SecondPassField, files_folder
from dpm.stages.second_pass.placement import group_years

__all__ = ["STAGE", "SurroundingStars", "plan_file", "recovered_file", "surrounding_stars"]


STAGE = "artificial_stars"  # whose files these are


@dataclass(frozen=True)
class SurroundingStars:
    """The catalogue's stars as they stand beyond a patch.

    Parameters
    ----------
    x, y : ndarray (n,)
        Master pixels.
    flux : ndarray (n, B)
        Of the bands of one group; 0 where unknown.
    saturated : ndarray (n,), bool
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    saturated: NDArray[np.bool_]


def plan_file(folder: RunFolder) -> Path:
    """The stars to put in."""
    return files_folder(folder, STAGE) / "stars.arrow"


def recovered_file(folder: RunFolder, step: str, tile: int, first: int) -> Path:
    """What a task made of a tile and the passes from ``first`` on."""
    return files_folder(folder, STAGE) / step / f"{tile}_{first}.arrow"


def surrounding_stars(field: SecondPassField, group: int) -> SurroundingStars:
    """Stars of the run's catalogue for one group of exposures, where they stood at its epoch."""
    folder, bands = field.folder, field.groups[group].bands
    motions = ["pmra", "pmdec", "ref_epoch"] if len(field.groups) > 1 else []
    names = ["x", "y", *motions, *(f"{band}_{name}" for band in bands for name in ("flux", "saturated"))]
    data = read_columns(folder.catalog, names)
    x, y = np.asarray(data["x"], float), np.asarray(data["y"], float)
    if motions and len(x):
        exposures = read_table(folder.exposures)
        frame = MasterFrame.from_meta(exposures.meta["master_frame"])
        x, y = positions_at(data, frame, group_years(field.groups[group], exposures, float(data["ref_epoch"][0])))
    flux = np.stack([np.nan_to_num(np.asarray(data[f"{band}_flux"], float)) for band in bands], -1)
    saturated = np.any([np.asarray(data[f"{band}_saturated"], bool) for band in bands], axis=0)
    return SurroundingStars(x, y, flux, saturated)
