"""Gather: each exposure's pixels are read once, into blocks that patches read, with the geometry that places them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpm.io.cubes import read_exposure
from dpm.io.gathered import write_gathered
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf
from dpm.io.tables import read_table
from dpm.models.master_frame import MasterFrame
from dpm.stages.second_pass.field import SecondPassField, write_geometry
from dpm.stages.second_pass.placement import place_exposure, subtract_halos

__all__ = ["gather_exposure"]


def gather_exposure(
    folder: RunFolder, name: str, distortion_source: str, threshold: float, stage: str = "second_pass"
) -> dict[str, Any]:
    """Write the blocks and the nodes of one exposure.

    Parameters
    ----------
    folder : RunFolder
    name : str
        Exposure and detector.
    distortion_source : str
        ``[distortion] source``.
    threshold : float
        ``[find] threshold``.
    stage : str
        Name of the stage that wants them.
    """
    table = read_table(folder.exposures)
    frame = MasterFrame.from_meta(table.meta["master_frame"])
    field = SecondPassField.from_exposures(folder, table, stage)
    exposure = next(e for group in field.groups for e in group.exposures if e.name == name)
    row = table[exposure.row]
    image = read_exposure(folder.cubes / str(row["cube"]), int(row["index"]))
    placed = place_exposure(folder, row, frame, image, distortion_source)
    group = next(group for group in field.groups if exposure in group.exposures)
    same = sum(other.band == exposure.band for other in group.exposures)
    sci, variance, halo = subtract_halos(folder, row, image, read_stdpsf(exposure.library, centre=False), same, threshold)
    write_geometry(field.geometry_file(exposure), placed.geometry)
    write_gathered(field.pixels_file(exposure), image, sci, variance, halo)
    known = np.isfinite(float(row["zero_point"]))
    warnings = [] if known else [f"{name}: no photometric zero point was solved; fluxes stay as they are"]
    return {"warnings": warnings}
