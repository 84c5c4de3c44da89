"""Reading a run folder into units: detections, distortion and header pointing of every exposure of every detector."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from astropy.table import Row, Table
from numpy.typing import NDArray

from dpm.io.distortion_files import errors_file, read_errors
from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.io.stdgdc import read_stdgdc
from dpm.io.stdpsf import read_flux_error
from dpm.io.tables import read_columns
from dpm.io.wcs import read_wcs
from dpm.models.detectors import find_detector
from dpm.models.distortion import MapDistortion, PlaneDistortion, PolynomialInverse, SkyMap, map_to_sky
from dpm.models.distortion_errors import DistortionErrors
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options, PhotometryOptions
from dpm.models.transform import LinearTransform
from dpm.stages.frame.units import Unit

__all__ = ["configured_zero_point", "find_map", "load_units", "make_frame", "stdgdc_file", "unit_plane"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# Largest believable |VA_SCALE - 1|: 40 km/s over the speed of light.
LARGEST_ABERRATION = 1.4e-4


def _bounds(row: Row) -> tuple[float, float, float, float]:
    """Raw limits of a unit's pixels' centres."""
    x, y = float(row["x_origin"]), float(row["y_origin"])
    return x, x + float(row["nx"]) - 1, y, y + float(row["ny"]) - 1


def make_frame(folder: RunFolder, exposures: Table, scale: float | None) -> MasterFrame:
    """The master frame around all units' header footprints.

    Parameters
    ----------
    folder : RunFolder
        With the stored WCS.
    exposures : Table
        Exposure rows of ingest.
    scale : float, optional
        Arcsec per pixel; the finest detector's nominal one when None.
    """
    ra: list[Floats] = []
    dec: list[Floats] = []
    for row in exposures:
        x_low, x_high, y_low, y_high = _bounds(row)
        wcs = read_wcs(folder.wcs_file(str(row["exposure"]), str(row["detector"])))
        corner = wcs.pixel_to_sky(np.array([x_low, x_high, x_high, x_low]), np.array([y_low, y_low, y_high, y_high]))
        ra.append(corner[0])
        dec.append(corner[1])
    corner_ra, corner_dec = np.concatenate(ra), np.concatenate(dec)
    # Exposures of other fields must not pull the frame away: those far from the median do not count.
    a, d = np.radians(corner_ra), np.radians(corner_dec)
    vectors = np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    near = np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1) < np.radians(1.0)
    near |= not near.any()
    nominal = scale or float(np.min(exposures["pixel_scale"]))
    return MasterFrame.around(corner_ra[near], corner_dec[near], nominal)


def find_map(source: str, detector: str, filter_name: str, solved: Path | None = None) -> Path | None:
    """The STDGDC file for a detector and filter, or None where the headers' WCS are to be used.

    Parameters
    ----------
    source : str
        ``[distortion] source``.
    detector, filter_name : str
    solved : Path, optional
        Folder of the maps that the distortion stage made, which ``solve`` means; there is no map where it found none.

    Raises
    ------
    InputError
        If the source is neither ``solve``, ``wcs``, a file, nor a folder with a file for this detector and filter.
    """
    if source in ("", "wcs"):
        return None
    if source == "solve":
        made = stdgdc_file(solved, detector, filter_name) if solved is not None else None
        return made if made is not None and made.exists() else None
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(path, "distortion.source", "no such file or folder", 'Give an STDGDC file, a folder, or "wcs"')
    library = find_detector(detector).library or detector
    wanted = re.compile(rf"STDGDC_({re.escape(detector)}|{re.escape(library)})_{re.escape(filter_name)}([_.].*)?$", re.I)
    found = sorted(file for file in path.iterdir() if wanted.match(file.name) and ".fits" in file.name.lower())
    if not found:
        raise InputError(
            path,
            "distortion.source",
            f"no STDGDC file for {detector} {filter_name}",
            f'Add STDGDC_{library}_{filter_name}.fits, or set source = "wcs"',
        )
    return found[0]


def unit_plane(
    folder: RunFolder, row: Row, frame: MasterFrame, distortion: MapDistortion | None
) -> tuple[PlaneDistortion, LinearTransform]:
    """Distortion of one unit, and the header's transform from its corrected plane to the master frame.

    Parameters
    ----------
    folder : RunFolder
        With the stored WCS.
    row : Row
        The unit's exposure row.
    frame : MasterFrame
        Master frame.
    distortion : MapDistortion, optional
        Distortion map of its detector and filter; the header's own distortion counts when None.
    """
    bounds = _bounds(row)
    to_sky: SkyMap = read_wcs(folder.wcs_file(str(row["exposure"]), str(row["detector"]))).pixel_to_sky
    if distortion is not None:
        to_sky, _ = map_to_sky(distortion, to_sky, bounds)
    centre = (0.5 * (bounds[0] + bounds[1]), 0.5 * (bounds[2] + bounds[3]))
    scale = float(row["pixel_scale"])
    plane = PlaneDistortion(to_sky, centre, scale, (frame.ra0, frame.dec0))
    ratio = scale / frame.scale
    return plane, LinearTransform(ratio, 0.0, 0.0, ratio, frame.x0, frame.y0).after(plane.to_plane)


def load_units(
    folder: RunFolder, exposures: Table, frame: MasterFrame, options: Options, detections: Path | None = None
) -> list[Unit]:
    """All units with their detections, sorted by epoch, exposure and detector.

    Parameters
    ----------
    folder : RunFolder
        Run folder after the first pass.
    exposures : Table
        Exposure rows of ingest, in the order of the result.
    frame : MasterFrame
        Master frame.
    options : Options
        ``[distortion]`` and ``[photometry]`` count.
    detections : Path, optional
        Folder with the tables of detections; the run folder's own when None.
    """
    maps: dict[tuple[str, str], MapDistortion | None] = {}
    epsf_errors: dict[tuple[str, str], float] = {}
    map_errors: dict[tuple[str, str], DistortionErrors | None] = {}
    units = []
    for row in exposures:
        detector, filter_name = str(row["detector"]), str(row["filter"])
        key = detector, filter_name
        if key not in maps:
            path = find_map(options.distortion.source, detector, filter_name, folder.distortion)
            solved = options.distortion.source == "solve"
            offset = 0 if solved else find_detector(detector).library_y_offset
            maps[key] = read_stdgdc(path, y_offset=offset) if path else None
            map_errors[key] = read_errors(errors_file(folder.distortion, detector)) if path and solved else None
            epsf_errors[key] = read_flux_error(folder.psf_file(detector, filter_name))
        path = folder.detections_file(str(row["exposure"]), detector)
        if detections is not None:
            path = detections / path.name
        units.append(_load_unit(folder, path, row, frame, maps[key], options.photometry, epsf_errors[key]))
        _mark_extrapolated(units[-1], map_errors[key])
    return units


def stdgdc_file(folder: Path, detector: str, filter_name: str) -> Path:
    """Path of a solved map in the distortion folder of a run."""
    return folder / f"STDGDC_{detector}_{filter_name}.fits"


def _mark_extrapolated(unit: Unit, errors: DistortionErrors | None) -> None:
    """Give a unit the errors of its map, and a flag to detections where no star holds it."""
    unit.map_errors = errors
    if errors is not None and len(unit):
        outside = ~errors.is_covered(unit.filter, unit.x, unit.y)
        unit.flags[outside] |= np.int32(int(StarFlag.DISTORTION_EXTRAPOLATED))


def _load_unit(
    folder: RunFolder,
    path: Path,
    row: Row,
    frame: MasterFrame,
    distortion: MapDistortion | None,
    photometry: PhotometryOptions,
    epsf_error: float,
) -> Unit:
    names = ["x", "y", "x_error", "y_error", "flux", "flux_error", "area", "flags"]
    table = read_columns(path, names)
    plane, start = unit_plane(folder, row, frame, distortion)
    x, y = np.asarray(table["x"], dtype=float), np.asarray(table["y"], dtype=float)
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(table["flux"]))
    x, y = x[finite], y[finite]
    u, v = plane.forward(x, y) if len(x) else (x, y)
    area = distortion.area(x, y) if distortion is not None else np.asarray(table["area"], dtype=float)[finite]
    x_low, x_high, y_low, y_high = bounds = _bounds(row)
    edge = (np.array([x_low, x_high, x_high, x_low]), np.array([y_low, y_low, y_high, y_high]))
    outline = plane.forward(*edge)

    def load(name: str) -> NDArray:
        return read_columns(path, [name])[name][finite]

    def column(name: str) -> Floats:
        return np.asarray(table[name], dtype=float)[finite]

    return Unit(
        exposure=str(row["exposure"]),
        detector=str(row["detector"]),
        band=str(row["band"]),
        epoch=float(row["epoch"]),
        u=u,
        v=v,
        x_error=column("x_error"),
        y_error=column("y_error"),
        flux=column("flux") * area,
        flux_error=column("flux_error") * area,
        flags=np.array(table["flags"], dtype=np.int32)[finite],
        row=finite.astype(np.int32),
        outline_u=outline[0],
        outline_v=outline[1],
        start=start,
        to_raw=PolynomialInverse(plane.forward, bounds),
        load=load,
        pixel_scale=float(row["pixel_scale"]),
        bounds=bounds,
        zero_point_prior=_prior(row, photometry),
        epsf_error=epsf_error,
        filter=str(row["filter"]),
        x=x,
        y=y,
        forward=plane.forward,
        va_scale=_va_scale(row),
    )


def _va_scale(row: Row) -> float:
    """Scale of velocity aberration; 1 where the header has none."""
    value = float(row["va_scale"])
    return value if np.isfinite(value) and abs(value - 1) < LARGEST_ABERRATION else 1.0


def _prior(row: Row, photometry: PhotometryOptions) -> float:
    """Absolute zero point of a unit, from the configuration or the header; NaN where neither has one."""
    band, detector = str(row["band"]), str(row["detector"])
    given = configured_zero_point(photometry, band, detector)
    if given is not None:
        return given
    for name in ("zero_point_vega", "zero_point_ab"):
        if np.isfinite(float(row[name])):
            return float(row[name])
    return float("nan")


def configured_zero_point(photometry: PhotometryOptions, band: str, detector: str) -> float | None:
    """Zero point of ``[photometry]`` for a band on a detector: that of the detector, else that of the band.

    Detectors may be named as in dpm's tables or as the headers do (``NIS`` for ``NIRISS``).
    """
    for key, value in photometry.zero_points.items():
        name, _, suffix = key.partition(".")
        aliases = {
            detector,
            {"NIRISS": "NIS", "NRCAL": "NRCALONG", "NRCBL": "NRCBLONG", "WFC3IR": "IR"}.get(detector, ""),
        }
        if name == band and suffix and suffix.upper() in aliases:
            return float(value)
    return float(photometry.zero_points[band]) if band in photometry.zero_points else None
