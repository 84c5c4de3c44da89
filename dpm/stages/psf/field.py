"""The master frame for the ePSF build: which candidate is which star, and where its raw pixels lie on the sky."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.cubes import read_exposure_table
from dpm.io.run_folder import RunFolder
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions, Options
from dpm.stages.distortion.solution import DistortionSolution
from dpm.stages.distortion.solve import solve_distortion
from dpm.stages.frame.field import solve_field
from dpm.stages.frame.geometry import load_units, make_frame
from dpm.stages.frame.link import link_field
from dpm.stages.frame.units import Unit
from dpm.stages.psf.positions import Links

__all__ = ["link_candidates", "sorted_exposures"]

log = logging.getLogger(__name__)

STEP = 0.5  # pixels; half the width of the differences that give the map's derivatives
MIN_EXPOSURES = 2  # a star seen once is no star of the frame

Floats = NDArray[np.float64]


def sorted_exposures(folder: RunFolder) -> Table:
    """Exposures of all cubes in the order in which the build counts its units."""
    exposures = read_exposure_table(folder)
    return exposures[np.lexsort((exposures["detector"], exposures["exposure"], exposures["epoch"]))]


def link_candidates(
    folder: RunFolder, options: Options, detections: Path, rows: list[NDArray[np.int64]], raw: list[Floats], area: list[Floats]
) -> tuple[Links, list[str]]:
    """Solve frame and distortion with the build's own detections, and link the candidates of all units.

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
    units = load_units(folder, exposures, frame, options, detections)
    frame_options = FrameOptions(max_offset=options.frame.max_offset)
    warnings: list[str] = []
    solution = DistortionSolution()
    if len(units) > 1:
        solve_field(units, frame, frame_options, None)
        solved = [unit for unit in units if unit.transform is not None]
        warnings += [text for unit in units for text in unit.warnings]
        if len(solved) > 1:
            solution = solve_distortion(units, frame, frame_options, None)
    star = _stars(units, solution, frame_options, frame)
    parts = []
    for k, unit in enumerate(units):
        master, jacobian = _linearise(unit, k, solution, raw[k])
        parts.append(
            Links(np.full(len(raw[k]), k), _star_of_rows(unit, star[k], rows[k]), raw[k], master, jacobian, np.asarray(area[k], float))
        )
    joined = Links(*(np.concatenate([getattr(part, name) for part in parts]) for name in Links.__dataclass_fields__))
    return joined, warnings


def _star_of_rows(unit: Unit, star: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stars of rows of the detections file; a unit keeps only the rows that are finite."""
    of_row = np.full(int(max(unit.row.max(initial=-1), rows.max(initial=-1))) + 1, -1, np.int64)
    of_row[unit.row] = star
    return of_row[rows]


def _stars(
    units: list[Unit], solution: DistortionSolution, options: FrameOptions, frame: MasterFrame
) -> list[NDArray[np.int64]]:
    """Number of the star of every detection of every unit, -1 for none; detectors and the rest do not share numbers."""
    star = [np.full(len(unit), -1, np.int64) for unit in units]
    first = 0
    for detector in sorted(solution.detectors):
        solved = solution.detectors[detector]
        for k in solved.units:
            if k in solution.units:
                number = solution.units[k].star
                star[k] = np.where(number >= 0, number + first, -1)
        first += len(solved.star_x)
    rest = [k for k, unit in enumerate(units) if k not in solution.units and unit.transform is not None]
    if len(rest) > 1:
        links = link_field([units[k] for k in rest], options.match_radius, MIN_EXPOSURES, frame.scale)
        for place, k in enumerate(rest):
            number = links.star[links.starts[place] : links.starts[place + 1]]
            star[k] = np.where(number >= 0, number + first, -1)
    return star


def _linearise(unit: Unit, index: int, solution: DistortionSolution, raw: Floats) -> tuple[Floats, Floats]:
    """Places on the master frame and derivatives by raw position; an unsolved unit's are of no use and never read."""
    x, y = raw[:, 0], raw[:, 1]

    def to_master(x: Floats, y: Floats) -> Floats:
        if index in solution.units:
            solved = solution.detectors[unit.detector]
            u, v = solution.maps[unit.detector, unit.filter].forward(x, y)
            return np.column_stack(solution.units[index].transform(u - solved.centre[0], v - solved.centre[1]))
        assert unit.forward is not None
        return np.column_stack((unit.transform or unit.start)(*unit.forward(x, y)))

    along_x = (to_master(x + STEP, y) - to_master(x - STEP, y)) / (2 * STEP)
    along_y = (to_master(x, y + STEP) - to_master(x, y - STEP)) / (2 * STEP)
    return to_master(x, y), np.stack([along_x, along_y], axis=2)
