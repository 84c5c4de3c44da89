"""Any supported exposure file: headers first (cheap, in the driver), pixels later (on a worker)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from astropy.io import fits

from dpm.io import hst, jwst
from dpm.io.errors import InputError
from dpm.io.fits_files import header_text, open_exposure
from dpm.io.units import ExposureUnit, UnitPixels
from dpm.models.options import InputOptions

__all__ = ["read_exposure_headers", "read_exposure_pixels"]


def _reader(path: str | Path, hdulist: fits.HDUList) -> ModuleType:
    telescope = header_text((hdulist[0].header,), "TELESCOP").upper()
    if telescope == "JWST":
        return jwst
    if telescope == "HST":
        return hst
    problem = (
        f"the telescope {telescope!r} is not supported"
        if telescope
        else "the keyword is missing from the primary header"
    )
    raise InputError(
        path, "TELESCOP", problem, "dpm reads calibrated exposures of JWST (_cal) and HST (_flc, _flt, _cal)"
    )


def read_exposure_headers(path: str | Path) -> list[ExposureUnit]:
    """Units of a file as its headers describe them.

    Parameters
    ----------
    path : str or Path
        A calibrated JWST or HST exposure.

    Returns
    -------
    list of ExposureUnit
        One a detector (chip).

    Raises
    ------
    InputError
        Naming the file and the key, for anything that cannot be read.
    """
    with open_exposure(path) as hdulist:
        return _reader(path, hdulist).read_headers(path, hdulist)


def read_exposure_pixels(
    path: str | Path, detectors: list[str], settings: InputOptions
) -> Iterator[tuple[ExposureUnit, UnitPixels]]:
    """Pixels of some detectors of a file, one after the other, so that only one chip need be in memory.

    Parameters
    ----------
    path : str or Path
        A calibrated JWST or HST exposure.
    detectors : list of str
        Names of the detectors wanted.
    settings : InputOptions
        How files are read.

    Yields
    ------
    (ExposureUnit, UnitPixels)
        In the file's order.

    Raises
    ------
    InputError
        Naming the file and the key, for anything that cannot be read.
    """
    with open_exposure(path) as hdulist:
        reader = _reader(path, hdulist)
        for unit in reader.read_headers(path, hdulist):
            if unit.detector.name in detectors:
                yield unit, reader.read_pixels(path, hdulist, unit, settings)
