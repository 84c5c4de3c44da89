"""How the run's solution places an exposure on the master frame, and where stars stood at its epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Row, Table
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.stdgdc import read_stdgdc
from dpm.io.tables import read_columns, read_table
from dpm.models.detectors import find_detector
from dpm.models.distortion import PlaneDistortion
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.transform import LinearTransform
from dpm.stages.frame.astrometry import positions_at
from dpm.stages.frame.geometry import find_map, unit_plane
from dpm.stages.second_pass.field import Group, SecondPassField
from dpm.stages.second_pass.geometry import ExposureGeometry, make_geometry
from dpm.stages.second_pass.halos import without_halos

__all__ = ["PlacedExposure", "exposure_maps", "group_seeds", "group_years", "place_exposure", "subtract_halos"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PlacedExposure:
    """Geometry of one exposure.

    Parameters
    ----------
    geometry : ExposureGeometry
        Where nodes of the master frame fall on it.
    plane : PlaneDistortion
        Its distortion.
    transform : LinearTransform
        From the corrected plane to the master frame.
    """

    geometry: ExposureGeometry
    plane: PlaneDistortion
    transform: LinearTransform


def exposure_maps(
    folder: RunFolder, row: Row, frame: MasterFrame, image: ExposureImage, source: str
) -> tuple[PlaneDistortion, LinearTransform, Callable[[Floats, Floats], Floats]]:
    """Distortion of an exposure, its transform to the master frame, and its pixel area over the nominal one at raw positions.

    Parameters
    ----------
    folder : RunFolder
    row : Row
        Of ``tables/exposures.parquet``.
    frame : MasterFrame
    image : ExposureImage
    source : str
        ``[distortion] source``.
    """
    detector, filter_name = str(row["detector"]), str(row["filter"])
    path = find_map(source, detector, filter_name, folder.distortion)
    offset = 0 if source == "solve" else find_detector(detector).library_y_offset
    distortion = read_stdgdc(path, y_offset=offset) if path else None
    plane, _ = unit_plane(folder, row, frame, distortion)
    transform = LinearTransform(*(float(row[key]) for key in ("a", "b", "c", "d", "x_shift", "y_shift")))

    def plane_area(x: Floats, y: Floats) -> Floats:
        return np.asarray(image.area[np.rint(y - image.y_origin).astype(int), np.rint(x - image.x_origin).astype(int)], float)

    return plane, transform, distortion.area if distortion is not None else plane_area


def place_exposure(folder: RunFolder, row: Row, frame: MasterFrame, image: ExposureImage, source: str) -> PlacedExposure:
    """Place an exposure by the frame stage's solution.

    Parameters
    ----------
    folder : RunFolder
    row : Row
        Of ``tables/exposures.parquet``.
    frame : MasterFrame
    image : ExposureImage
    source : str
        ``[distortion] source``.
    """
    plane, transform, area = exposure_maps(folder, row, frame, image, source)
    (ny, nx), (x0, y0) = image.shape, (image.x_origin, image.y_origin)
    zero_point = float(row["zero_point"])
    geometry = make_geometry(
        plane.forward, transform, (x0, x0 + nx - 1.0, y0, y0 + ny - 1.0),
        area, zero_point if np.isfinite(zero_point) else 0.0,
        image.charge_per_flux, _lost_beyond(image),
    )  # fmt: skip
    return PlacedExposure(geometry, plane, transform)


def _lost_beyond(image: ExposureImage) -> float:
    """Pixel value beyond which nothing is left of a pixel: ramps keep values of saturated pixels from the reads before."""
    kept = ((image.dq & int(PixelFlag.SATURATED)) != 0) & ((image.dq & int(PixelFlag.BAD)) == 0)
    return float(max(image.saturation, image.sci[kept].max())) if kept.any() else float(image.saturation)


def subtract_halos(
    folder: RunFolder, row: Row, image: ExposureImage, epsf: Any, same: int, threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """An exposure without the halos of the first pass's bright stars, as `without_halos` has it.

    Parameters
    ----------
    folder : RunFolder
    row : Row
        Of ``tables/exposures.parquet``.
    image : ExposureImage
    epsf : GriddedEPSF
    same : int
        Exposures of its band and epoch.
    threshold : float
        ``[find] threshold``.
    """
    path = folder.detections_file(str(row["exposure"]), str(row["detector"]))
    return without_halos(image, epsf, read_columns(path, ["x", "y", "flux", "flags"]), threshold / np.sqrt(same))


def group_years(group: Group, exposures: Table, reference_epoch: float) -> float:
    """Time from the catalogue's epoch to a group's, years."""
    return float(np.mean([float(exposures["epoch"][exposure.row]) for exposure in group.exposures])) - reference_epoch


def group_seeds(field: SecondPassField, number: int, table: Path | None = None) -> dict[str, NDArray[Any]]:
    """Stars as `SecondPassField.seeds` has them, where they stood at the group's epoch."""
    seeds = field.seeds(number, table)
    if len(field.groups) == 1:
        return seeds
    motions = read_columns(table or field.folder.frame_catalog, ["x", "y", "pmra", "pmdec", "ref_epoch"])
    if not len(motions["x"]):
        return seeds
    exposures = read_table(field.folder.exposures)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    years = group_years(field.groups[number], exposures, float(motions["ref_epoch"][0]))
    x, y = positions_at(motions, frame, years)
    return seeds | {"x": x, "y": y}
