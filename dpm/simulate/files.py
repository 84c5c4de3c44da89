"""Simulated frames as FITS files: JWST ``_cal``, HST ``_flc``, and the true ePSF as an STDPSF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time
from numpy.typing import NDArray

from dpm.simulate.detector import Frame
from dpm.simulate.headers import hst_primary, jwst_primary, photflam, photmjsr, pixel_steradians
from dpm.simulate.instruments import Instrument
from dpm.simulate.optics import OVERSAMPLE, EpsfGrid

__all__ = ["Exposure", "write_cal", "write_flc", "write_stdpsf"]


@dataclass(frozen=True)
class Exposure:
    """What an exposure's headers need.

    Parameters
    ----------
    file : str
        File name.
    filter : str
        Filter.
    mjd : float
        Its middle.
    exptime : float
        Seconds.
    va : float
        Scale of velocity aberration.
    keep_offset : bool
        Whether the cut-out is a subarray of the detector (else a frame as it is).
    """

    file: str
    filter: str
    mjd: float
    exptime: float
    va: float
    keep_offset: bool
    program: str = "01086"
    target: str = "SIMULATED FIELD"


def _plane(data: NDArray, name: str, version: int = 1, header: fits.Header | None = None) -> fits.ImageHDU:
    hdu = fits.ImageHDU(data, header=header, name=name)
    hdu.ver = version
    return hdu


def write_cal(
    path: Path,
    camera: Instrument,
    exposure: Exposure,
    frame: Frame,
    area: NDArray[np.float32],
    wcs: fits.Header,
    start: tuple[int, int],
) -> None:
    """Write a JWST ``_cal`` file.

    SCI is in MJy/sr with the pixel area divided out: SCI * AREA is proportional to the electrons.

    Parameters
    ----------
    path : Path
        File to write (over an older one).
    camera : Instrument
        The camera.
    exposure : Exposure
        Times and names.
    frame : Frame
        Electrons and variances.
    area : ndarray (ny, nx)
        Pixel areas over the nominal one.
    wcs : fits.Header
        World coordinates.
    start : tuple of int
        Detector position (x, y), 0-based, of the first pixel.
    """
    band = camera.filters[exposure.filter]
    unit = photmjsr(camera, band)
    factor = unit / (camera.gain * exposure.exptime) / area
    primary = jwst_primary(
        camera, exposure.filter, path.name, exposure.mjd, exposure.exptime, exposure.program, exposure.target
    )
    ny, nx = frame.counts.shape
    cut = exposure.keep_offset and (ny, nx) != camera.shape
    primary["SUBARRAY"] = "SIMSUB" if cut else "FULL"
    if cut:
        primary["SUBSTRT1"], primary["SUBSTRT2"] = start[0] + 1, start[1] + 1
        primary["SUBSIZE1"], primary["SUBSIZE2"] = nx, ny
    header = fits.Header()
    header["BUNIT"], header["PHOTMJSR"] = "MJy/sr", unit
    header["PHOTUJA2"], header["PIXAR_SR"] = unit * 23.50443, pixel_steradians(camera)
    header["PIXAR_A2"], header["XPOSURE"], header["VA_SCALE"] = camera.pixel_scale**2, exposure.exptime, exposure.va
    header["MJD-AVG"], header["DATE-AVG"] = exposure.mjd, Time(exposure.mjd, format="mjd", scale="utc").isot
    header.update(wcs)
    variances = [(v * factor**2).astype(np.float32) for v in (frame.var_poisson, frame.var_read, frame.var_flat)]
    planes = [
        _plane((frame.counts * factor).astype(np.float32), "SCI", header=header),
        _plane(np.sqrt(variances[0] + variances[1] + variances[2]), "ERR"),
        _plane(frame.dq, "DQ"),
        # astropy swaps the bytes of a native array in place while it writes; other threads read this one
        _plane(area.astype(">f4"), "AREA"),
        _plane(variances[0], "VAR_POISSON"),
        _plane(variances[1], "VAR_RNOISE"),
        _plane(variances[2], "VAR_FLAT"),
    ]
    fits.HDUList([fits.PrimaryHDU(header=primary), *planes]).writeto(path, overwrite=True)


def write_flc(
    path: Path,
    camera: Instrument,
    exposure: Exposure,
    chips: Sequence[tuple[str, Frame, NDArray[np.float32], fits.Header, tuple[int, int]]],
) -> None:
    """Write an HST ``_flc`` file of one or two chips, chip 2 first as in real files.

    ``chips`` holds for each chip its name, frame, pixel areas, world coordinates and the detector position (x, y;
    0-based) of its first pixel.  SCI is in electrons, the flat field having divided the pixel area out (SCI times the
    area map is proportional to a star's electrons); ERR is that of the measured value.
    """
    whole = all(frame.counts.shape == camera.shape for _, frame, _, _, _ in chips)
    primary = hst_primary(
        camera, exposure.filter, path.name, exposure.mjd, exposure.exptime, not whole, exposure.target
    )
    hdus: list = [fits.PrimaryHDU(header=primary)]
    band = camera.filters[exposure.filter]
    for version, (name, frame, area, wcs, start) in enumerate(sorted(chips, key=lambda c: c[0], reverse=True), 1):
        ny, nx = frame.counts.shape
        offset = start if exposure.keep_offset else (0, 0)
        header = fits.Header()
        header["EXPNAME"], header["BUNIT"], header["CCDCHIP"] = path.name.split("_")[0], "ELECTRONS", int(name[-1])
        header["LTV1"], header["LTV2"], header["LTM1_1"], header["LTM2_2"] = (
            -float(offset[0]),
            -float(offset[1]),
            1.0,
            1.0,
        )
        header["VAFACTOR"] = exposure.va
        header["PHOTFLAM"], header["PHOTPLAM"], header["PHOTZPT"] = photflam(band), band.wavelength * 1e4, -21.1
        header["CENTERA1"], header["CENTERA2"] = offset[0] + nx // 2, offset[1] + ny // 2
        header["SIZAXIS1"], header["SIZAXIS2"], header["BINAXIS1"], header["BINAXIS2"] = nx, ny, 1, 1
        header.update(wcs)
        error = np.sqrt(frame.var_poisson + frame.var_read) / area
        hdus.append(_plane((frame.counts / area).astype(np.float32), "SCI", version, header))
        hdus.append(_plane(error.astype(np.float32), "ERR", version))
        hdus.append(_plane(frame.dq.astype(np.int16), "DQ", version))
        for hdu in hdus[-2:]:
            hdu.header.update({k: wcs[k] for k in wcs if not k.startswith(("A_", "B_", "CTYPE"))})
            hdu.header["CTYPE1"], hdu.header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    primary["NEXTEND"] = len(hdus) - 1
    fits.HDUList(hdus).writeto(path, overwrite=True)


def write_stdpsf(path: Path, grids: Sequence[tuple[EpsfGrid, int]]) -> None:
    """Write the ePSFs as an STDPSF file: 101 x 101, 4x, 1-based node positions; values are fractions of all the light.

    ``grids`` holds the grid of each chip with what is added to its rows (2048 for the upper chip of a stacked
    library), lower chip first.
    """
    stack, rows = [], []
    for grid, offset in grids:
        values = grid.crop(13, OVERSAMPLE // 4)
        centre = values.shape[-1] // 2
        stack.append(values[:, :, centre - 50 : centre + 51, centre - 50 : centre + 51])
        rows += [int(np.rint(y)) + 1 + offset for y in grid.y_nodes]
    values = np.concatenate(stack)
    columns = [int(np.rint(x)) + 1 for x in grids[0][0].x_nodes]
    hdu = fits.PrimaryHDU(values.reshape(-1, 101, 101).astype(np.float32))
    hdu.header["NXPSFS"], hdu.header["NYPSFS"] = len(columns), len(rows)
    for axis, nodes in (("IPSFX", columns), ("JPSFY", rows)):
        for k in range(10):
            hdu.header[f"{axis}{k + 1:02d}"] = nodes[k] if k < len(nodes) else 9999
    hdu.writeto(path, overwrite=True)
