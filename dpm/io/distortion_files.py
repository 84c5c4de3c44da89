"""What a solved distortion leaves beside its maps: draws of its errors, and diagnostics, as small FITS files.

``errors_<DETECTOR>.fits`` holds draws of the maps' and transforms' errors; ``solution_<DETECTOR>.fits`` one row an
exposure (pixel scale, residuals) and residual maps after every term.  Both lie beside the STDGDC files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.io.errors import InputError
from dpm.models.distortion_errors import DistortionErrors

__all__ = ["errors_file", "read_errors", "solution_file", "write_errors", "write_solution"]


def errors_file(folder: Path, detector: str) -> Path:
    """Path of the draws of a detector's errors in the distortion folder of a run."""
    return folder / f"errors_{detector}.fits"


def solution_file(folder: Path, detector: str) -> Path:
    """Path of a detector's diagnostics in the distortion folder of a run."""
    return folder / f"solution_{detector}.fits"


def write_errors(path: Path, errors: DistortionErrors, header: dict[str, str | float | int] | None = None) -> None:
    """Write draws of errors, atomically.

    Parameters
    ----------
    path : Path
    errors : DistortionErrors
    header : dict, optional
        Keywords for the primary header.
    """
    primary = fits.PrimaryHDU()
    for key, value in (header or {}).items():
        primary.header[key] = value
    hdus: list[Any] = [primary, fits.ImageHDU(errors.node_x, name="NODE_X"), fits.ImageHDU(errors.node_y, name="NODE_Y")]
    for name, values in errors.maps.items():
        hdus.append(fits.ImageHDU(values.astype(np.float32), name=f"MAP_{name}"))
        hdus.append(fits.ImageHDU(errors.covered[name].astype(np.uint8), name=f"COVERED_{name}"))
    names = list(errors.transforms)
    table = Table({"unit": np.array(names, dtype=str), "errors": np.array([errors.transforms[name] for name in names])})
    hdus.append(fits.BinTableHDU(table, name="TRANSFORMS"))
    _write(path, hdus)


def read_errors(path: Path) -> DistortionErrors:
    """Read draws of errors.

    Raises
    ------
    InputError
        If the file is not one that `write_errors` wrote.
    """
    try:
        with fits.open(path, memmap=False) as hdulist:
            data = {hdu.name: np.asarray(hdu.data) for hdu in hdulist if isinstance(hdu, fits.ImageHDU)}
            table = Table(hdulist["TRANSFORMS"].data)
        maps = {name[4:]: _native(value) for name, value in data.items() if name.startswith("MAP_")}
        covered = {name[8:]: value.astype(bool) for name, value in data.items() if name.startswith("COVERED_")}
        transforms = {str(row["unit"]): _native(row["errors"]) for row in table}
        return DistortionErrors(_native(data["NODE_X"]), _native(data["NODE_Y"]), maps, transforms, covered)
    except (OSError, KeyError, ValueError, TypeError) as error:
        problem = f"not a file of distortion errors ({error})"
        raise InputError(path, "TRANSFORMS", problem, "Run the stage distortion again") from error


def write_solution(path: Path, units: Table, images: dict[str, NDArray], header: dict[str, str | float | int]) -> None:
    """Write diagnostics, atomically.

    Parameters
    ----------
    path : Path
    units : Table
        One row an exposure.
    images : dict
        By extension name.
    header : dict
        Keywords for the primary header.
    """
    primary = fits.PrimaryHDU()
    for key, value in header.items():
        primary.header[key] = value
    hdus: list[Any] = [primary, fits.BinTableHDU(units, name="UNITS")]
    hdus += [fits.ImageHDU(np.asarray(image, dtype=np.float32), name=name) for name, image in images.items()]
    _write(path, hdus)


def _native(values: Any) -> NDArray[np.float64]:
    return np.ascontiguousarray(np.asarray(values), dtype=np.float64)


def _write(path: Path, hdus: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, output_verify="exception")
