"""The distortion stage's one task: read the run folder, solve, write maps, errors and diagnostics."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.cubes import read_exposure_table
from dpm.io.distortion_files import errors_file, solution_file, write_errors, write_solution
from dpm.io.errors import InputError
from dpm.io.reference import read_reference
from dpm.io.run_folder import RunFolder
from dpm.io.stdgdc import write_stdgdc
from dpm.models.options import DistortionOptions, Options
from dpm.stages.distortion.solution import DetectorSolution, DistortionSolution
from dpm.stages.distortion.solve import solve_distortion
from dpm.stages.frame.geometry import load_units, make_frame, stdgdc_file
from dpm.stages.frame.units import Unit

__all__ = ["pair_id", "solve_and_write", "write_files"]

# Keyword of the id that an ePSF and a distortion solved with it share (DESIGN section 4).
PAIR_KEY = "DPMPAIR"


def solve_and_write(folder: RunFolder, options: Options) -> dict[str, Any]:
    """Solve the distortion of a run folder's detections and write ``calibration/distortion``.

    Returns
    -------
    dict
        Numbers for the log, warnings, and the files written.
    """
    exposures = read_exposure_table(folder)
    if not len(exposures):
        raise InputError(folder.cubes, "input.exposures", "there are no exposures", "Run the ingest stage first")
    exposures = exposures[np.lexsort((exposures["detector"], exposures["exposure"], exposures["epoch"]))]
    frame = make_frame(folder, exposures, options.frame.scale)
    units = load_units(folder, exposures, frame, replace(options, distortion=DistortionOptions(source="wcs")))
    reference = read_reference(options.input.reference) if options.input.reference else None
    solution = solve_distortion(units, frame, options.frame, reference)
    files = write_files(folder, solution, units)
    found = {
        name: {"order": one.order, "expected_error": one.error_rms, "floor": one.floor, **one.summary}
        for name, one in solution.detectors.items()
    }
    return {"source": "solve", "detectors": found, "warnings": solution.warnings, "files": files}


def write_files(folder: RunFolder, solution: DistortionSolution, units: list[Unit]) -> list[str]:
    """Write maps, errors and diagnostics of a solution.

    Parameters
    ----------
    folder : RunFolder
    solution : DistortionSolution
    units : list of Unit
        As they were solved.

    Returns
    -------
    list of str
        Paths inside the run folder.
    """
    written: list[Path] = []
    for (detector, filter_name), value in solution.maps.items():
        path = stdgdc_file(folder.distortion, detector, filter_name)
        one = solution.detectors[detector]
        header: dict[str, str | float | int] = {
            "DETECTOR": detector,
            "FILTER": filter_name,
            PAIR_KEY: pair_id(folder.psf_file(detector, filter_name)),
            "DPMORDER": one.order,
            "DPMERROR": one.error_rms,
        }
        write_stdgdc(path, value, header)
        written.append(path)
    for detector, one in solution.detectors.items():
        path = errors_file(folder.distortion, detector)
        write_errors(path, one.errors, {"DETECTOR": detector})
        written.append(path)
        path = solution_file(folder.distortion, detector)
        write_solution(path, _unit_table(solution, one, units), _images(solution, one), _header(one))
        written.append(path)
    return [path.relative_to(folder.root).as_posix() for path in written]


def pair_id(psf: Path) -> str:
    """Id of an ePSF library, which the distortion solved with it repeats: its keyword, else a hash of its bytes."""
    if not psf.exists():
        return "none"
    header = fits.getheader(psf)
    return str(header[PAIR_KEY]) if PAIR_KEY in header else hashlib.sha256(psf.read_bytes()).hexdigest()[:16]


def _unit_table(solution: DistortionSolution, one: DetectorSolution, units: list[Unit]) -> Table:
    """One row an exposure: when, how large its pixels are, how well it fits."""
    solved = [(units[k], solution.units[k]) for k in one.units if k in solution.units]
    table = Table()
    table["exposure"] = np.array([unit.exposure for unit, _ in solved], dtype=str)
    table["filter"] = np.array([unit.filter for unit, _ in solved], dtype=str)
    table["epoch"] = [unit.epoch for unit, _ in solved]
    table["va_scale"] = [unit.va_scale for unit, _ in solved]
    scales = "pixel_scale", "pixel_scale_error", "pixel_scale_relative_error"
    for name in (*scales, "n_used", "rms"):
        table[name] = [getattr(value, name) for _, value in solved]
    for name in scales:
        table[name].unit = "arcsec"
    table["rms"].unit = "pix"
    changes = [value.change for _, value in solved]
    for axis, name in enumerate(("skew_x", "skew_y")):
        table[name] = [change.skew[axis] for change in changes]
        table[f"{name}_error"] = [change.skew_error[axis] for change in changes]
    table["bend"] = [change.bend for change in changes]
    for name in ("skew_x", "skew_x_error", "skew_y", "skew_y_error", "bend"):
        table[name].unit = "pix"
    table["bend_chi2"] = [change.chi2 for change in changes]
    for name in ("a", "b", "c", "d", "x_shift", "y_shift"):
        table[name] = [getattr(value.transform, name) for _, value in solved]
    return table


def _images(solution: DistortionSolution, one: DetectorSolution) -> dict[str, NDArray]:
    """Residual maps and histograms after every term, and what each filter's map has beyond their mean."""
    out: dict[str, NDArray] = {}
    for name, terms in one.residuals.items():
        for term in terms:
            stem = f"{name}_{term.term}".upper()
            out[stem] = np.stack([term.dx, term.dy, term.count])
            out[f"{stem}_HISTOGRAM"] = np.vstack([term.edges[:-1], term.edges[1:], term.histogram])
    node_x, node_y = np.meshgrid(one.errors.node_x, one.errors.node_y)
    maps = np.array([solution.maps[one.detector, name].forward(node_x, node_y) for name in one.filters])
    maps[:, 0] -= node_x
    maps[:, 1] -= node_y
    for name, value in zip(one.filters, maps - maps.mean(axis=0)):
        out[f"{name}_CORRECTION".upper()] = value + maps.mean(axis=0)
        if len(one.filters) > 1:
            out[f"{name}_OFF_MEAN".upper()] = value
        out[f"{name}_ERROR".upper()] = np.std(one.errors.maps[name], axis=0)
    return out


def _header(one: DetectorSolution) -> dict[str, str | float | int]:
    header: dict[str, str | float | int] = {"DETECTOR": one.detector, "DPMORDER": one.order, "DPMERROR": one.error_rms}
    keys = {"measurements": "NMEAS", "stars": "NSTARS", "reference_stars": "NREF", "reference_factor": "REFFACT"}
    keys |= {"table_shared": "TABSHARE", "table_own": "TABOWN", "table_length": "TABLEN", "fine_significant": "FINEPART"}
    for name, key in keys.items():
        if name in one.summary:
            header[key] = one.summary[name]
    return header
