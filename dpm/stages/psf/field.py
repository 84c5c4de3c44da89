"""The master frame for the ePSF build: which candidate is which star, and where its raw pixels lie on the sky."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.cubes import read_exposure_table
from dpm.io.run_folder import RunFolder
from dpm.models.master_frame import MasterFrame
from dpm.models.options import DistortionOptions, FrameOptions, Options
from dpm.stages.frame.field import solve_field
from dpm.stages.frame.geometry import load_units, make_frame
from dpm.stages.frame.link import link_field
from dpm.stages.frame.units import Unit, epoch_groups
from dpm.stages.psf.agreement import agree
from dpm.stages.psf.positions import Links

__all__ = ["link_candidates", "sorted_exposures"]

log = logging.getLogger(__name__)

MIN_EXPOSURES = 2  # a star seen once is no star of the frame

Floats = NDArray[np.float64]


def sorted_exposures(folder: RunFolder) -> Table:
    """Exposures of all cubes in the order in which the build counts its units."""
    exposures = read_exposure_table(folder)
    return exposures[np.lexsort((exposures["detector"], exposures["exposure"], exposures["epoch"]))]


def link_candidates(
    folder: RunFolder, options: Options, detections: Path, rows: list[NDArray[np.int64]], raw: list[Floats], area: list[Floats]
) -> tuple[Links, list[str]]:
    """Solve the frame with the build's own detections, bring positions to agreement, and link the candidates of all units.

    No reference catalogue is used: the build needs positions that agree among the exposures, wherever the sky is.

    Parameters
    ----------
    folder : RunFolder
    options : Options
        Pointing may be off by ``[frame] max_offset``.
    detections : Path
        Folder with a table for each unit.
    rows : list of ndarray (n,), int
        For each unit the candidates' rows in its table.
    raw : list of ndarray (n, 2)
        Their raw positions.
    area : list of ndarray (n,)
        Pixel area there.

    Returns
    -------
    links : Links
        All units end to end.
    warnings : list of str
    """
    exposures = sorted_exposures(folder)
    frame = make_frame(folder, exposures, None)
    # The headers' distortion: maps that an earlier run left in the folder must not count.
    units = load_units(folder, exposures, frame, replace(options, distortion=DistortionOptions(source="wcs")), detections)
    frame_options = FrameOptions(max_offset=options.frame.max_offset)
    if len(units) > 1:
        solve_field(units, frame, frame_options, None)
    warnings = [text for unit in units for text in unit.warnings]
    star = _stars(units, frame_options, frame)
    place = [np.column_stack(unit.position()) for unit in units]
    jacobian = [np.eye(2)] * len(units)
    for group in epoch_groups(units):
        part = [k for k in group if units[k].transform is not None]
        if len(part) > 1:
            result = agree([units[k] for k in part], [star[k] for k in part])
            log.info("ePSF build: positions of %d exposures agree to %.4f pixel", len(part), result.scatter)
            for k, where, derivative in zip(part, result.place, result.jacobian, strict=True):
                place[k], jacobian[k] = where, derivative
    parts = []
    for k, unit in enumerate(units):
        at = _rows_of(unit, rows[k])
        derivative = np.broadcast_to(jacobian[k], (len(at), 2, 2))
        parts.append(Links(np.full(len(at), k), star[k][at], raw[k], place[k][at], derivative, np.asarray(area[k], float)))
    joined = Links(*(np.concatenate([getattr(part, name) for part in parts]) for name in Links.__dataclass_fields__))
    return joined, warnings


def _rows_of(unit: Unit, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a unit holds rows of its detections file: it keeps only the rows that are finite, as candidates are."""
    return np.searchsorted(unit.row, rows)


def _stars(units: list[Unit], options: FrameOptions, frame: MasterFrame) -> list[NDArray[np.int64]]:
    """Number of the star of every detection of every unit, -1 for none; epochs do not share stars, which may have moved."""
    star = [np.full(len(unit), -1, np.int64) for unit in units]
    first = 0
    for group in epoch_groups(units):
        part = [k for k in group if units[k].transform is not None]
        if len(part) < MIN_EXPOSURES:
            continue
        links = link_field([units[k] for k in part], options.match_radius, MIN_EXPOSURES, frame.scale)
        for place, k in enumerate(part):
            number = links.star[links.starts[place] : links.starts[place + 1]]
            star[k] = np.where(number >= 0, number + first, -1)
        first += links.n_stars
    return star
