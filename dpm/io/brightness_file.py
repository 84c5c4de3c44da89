"""BFPSF files: the change of an ePSF with a star's charge, beside its STDPSF file (dpm's own format).

A FITS primary array (101, 101) float32 in the sampling of an STDPSF file: psi_1 times ``DPMCHARG``, which is the change of psi of a
star of that charge; ``DPMZREF``, the charge at which the STDPSF file holds; ``DPMERROR``, the error of the change within 1.5
pixels, of the ePSF's peak. Charge is a flux over the exposure's Poisson factor: electrons, but for the correlated reads of ramps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from dpm.io.atomic import replacing
from dpm.io.errors import InputError
from dpm.io.stdpsf import read_stdpsf
from dpm.kernels.epsf import SAMPLES
from dpm.models.epsf import BrightnessTerm, GriddedEPSF

__all__ = ["read_brightness", "read_epsf", "write_brightness"]


def write_brightness(path: Path, term: BrightnessTerm, comments: tuple[str, ...] = (), pair: str = "") -> None:
    """Write a file; ``pair`` is the id of the library that it belongs to."""
    hdu = fits.PrimaryHDU((term.samples * term.brightest).astype(np.float32))
    header = hdu.header
    header["DPMCHARG"] = (term.brightest, "[electron] charge that this change belongs to")
    header["DPMZREF"] = (term.reference, "[electron] charge at which the STDPSF holds")
    if np.isfinite(term.error):
        header["DPMERROR"] = (term.error, "error of the change, of the peak")
    if pair:
        header["DPMPAIR"] = (pair, "of the STDPSF that it belongs to")
    for text in comments:
        header["COMMENT"] = text
    with replacing(path) as temporary:
        hdu.writeto(temporary)


def read_brightness(path: str | Path) -> BrightnessTerm:
    """Read a file.

    Raises
    ------
    InputError
        If it is no such file.
    """
    path = Path(path)
    try:
        with fits.open(path, memmap=False) as hdus:
            header, data = hdus[0].header, np.asarray(hdus[0].data, float)
            charge, reference = float(header["DPMCHARG"]), float(header["DPMZREF"])
            error = float(header.get("DPMERROR", np.nan))
    except (OSError, KeyError, TypeError, ValueError) as problem:
        raise InputError(path, "DPMCHARG", f"is no BFPSF file ({problem})", "run the stage brightness again") from problem
    if data.shape != (SAMPLES, SAMPLES) or not charge > 0 or not np.all(np.isfinite(data)):
        raise InputError(path, "NAXIS", f"does not hold {SAMPLES} x {SAMPLES} finite samples", "run the stage brightness again")
    return BrightnessTerm(data / charge, charge, reference, error)


def read_epsf(library: str | Path, brightness: str | Path = "") -> GriddedEPSF:
    """An STDPSF file of a run, with its change with brightness where there is a file of it."""
    epsf = read_stdpsf(library, centre=False)
    return epsf.with_brightness(read_brightness(brightness)) if str(brightness) else epsf
