"""Gather: each exposure's pixels are read once, into blocks that patches read, with the geometry that places them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.io.cubes import read_exposure
from dpm.io.gathered import write_gathered
from dpm.io.run_folder import RunFolder
from dpm.io.stdgdc import read_stdgdc
from dpm.io.stdpsf import read_stdpsf
from dpm.io.tables import read_columns, read_table
from dpm.models.detectors import find_detector
from dpm.models.master_frame import MasterFrame
from dpm.models.transform import LinearTransform
from dpm.stages.frame.geometry import find_map, unit_plane
from dpm.stages.second_pass.field import SecondPassField, write_geometry
from dpm.stages.second_pass.geometry import make_geometry
from dpm.stages.second_pass.halos import without_halos

__all__ = ["gather_exposure"]


def gather_exposure(folder: RunFolder, name: str, distortion_source: str, threshold: float) -> dict[str, Any]:
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
    """
    table = read_table(folder.exposures)
    frame = MasterFrame.from_meta(table.meta["master_frame"])
    field = SecondPassField.from_exposures(folder, table)
    exposure = next(e for group in field.groups for e in group.exposures if e.name == name)
    row = table[exposure.row]
    detector, filter_name = str(row["detector"]), str(row["filter"])
    path = find_map(distortion_source, detector, filter_name, folder.distortion)
    offset = 0 if distortion_source == "solve" else find_detector(detector).library_y_offset
    distortion = read_stdgdc(path, y_offset=offset) if path else None
    plane, _ = unit_plane(folder, row, frame, distortion)
    transform = LinearTransform(*(float(row[key]) for key in ("a", "b", "c", "d", "x_shift", "y_shift")))
    image = read_exposure(folder.cubes / str(row["cube"]), int(row["index"]))
    (ny, nx), (x0, y0) = exposure.shape, exposure.origin

    def plane_area(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(image.area[np.rint(y - y0).astype(int), np.rint(x - x0).astype(int)], float)

    zero_point = float(row["zero_point"])
    geometry = make_geometry(
        plane.forward, transform, (x0, x0 + nx - 1.0, y0, y0 + ny - 1.0),
        distortion.area if distortion is not None else plane_area, zero_point if np.isfinite(zero_point) else 0.0,
        image.charge_per_flux, image.saturation,
    )  # fmt: skip
    group = next(group for group in field.groups if exposure in group.exposures)
    same = sum(other.band == exposure.band for other in group.exposures)
    detections = read_columns(folder.detections_file(str(row["exposure"]), detector), ["x", "y", "flux", "flags"])
    sci, variance, halo = without_halos(image, read_stdpsf(exposure.library, centre=False), detections, threshold / np.sqrt(same))
    write_geometry(field.geometry_file(exposure), geometry)
    write_gathered(field.pixels_file(exposure), image, sci, variance, halo)
    warnings = [] if np.isfinite(zero_point) else [f"{name}: no photometric zero point was solved; fluxes stay as they are"]
    return {"warnings": warnings}
