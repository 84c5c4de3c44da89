"""JWST level-2b imaging exposures (``_cal``) of NIRISS and NIRCam.

MJy/sr become DN/s with PHOTMJSR, variances with its square.  ``SUBSTRT1/2`` (1-based) give the place of a subarray on
the detector.  A cut-out of a frame still carries the whole frame's keywords: its array is taken as it is, and its
offset follows from CRPIX where that tells it (JWST puts the reference pixel of a full frame at the centre, (1024.5,
1024.5) in the 1-based system).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from dpm.io.dq import translate_jwst
from dpm.io.errors import InputError
from dpm.io.fits_files import (
    exposure_name,
    extension,
    header_text,
    header_value,
    image_array,
    is_filter_name,
    julian_year,
    optional_number,
)
from dpm.io.gwcs_fit import fit_gwcs
from dpm.io.units import ExposureUnit, UnitPixels, check_image, footprint
from dpm.io.wcs import header_wcs, pixel_area
from dpm.models.detectors import band_name, header_detector
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.noise import block_median, saturation_level, smooth_plane, split_error, variance_ratio
from dpm.models.options import InputOptions

__all__ = ["read_headers", "read_pixels"]

Plane = NDArray[np.float32]

_PUPIL_FILTERS = ("F162M", "F164N", "F323N", "F405N", "F466N", "F470N")
_JANSKY_AB = 3631.0


def _filter_name(path: str | Path, header: fits.Header, instrument: str) -> str:
    """Filter of the exposure: NIRISS keeps it in PUPIL below 2.7 um, NIRCam for filters that sit in the pupil wheel."""
    name = header_value(path, (header,), ("FILTER",), str).upper()
    pupil = header_text((header,), "PUPIL").upper()
    in_pupil = name == "CLEAR" if instrument == "NIRISS" else pupil in _PUPIL_FILTERS
    chosen = pupil if in_pupil else name
    if not is_filter_name(chosen):
        raise InputError(
            path,
            "FILTER",
            f"FILTER {name!r} with PUPIL {pupil!r} is not an imaging filter",
            "Use direct images: dpm does not read grism or mask exposures",
        )
    return chosen


def _origin(
    path: str | Path, headers: tuple[fits.Header, fits.Header], shape: tuple[int, int]
) -> tuple[int, int, list[str]]:
    """Raw 0-based position of the first pixel, and notes for the log."""
    primary, sci = headers
    x0, y0 = _subarray_start(primary)
    nx = round(optional_number((primary,), "SUBSIZE1", shape[1]))
    ny = round(optional_number((primary,), "SUBSIZE2", shape[0]))
    if (ny, nx) == shape:
        return x0, y0, []
    what = f"{path}: a {shape[1]} x {shape[0]} cut-out of a {nx} x {ny} frame"
    dx, dy = (
        0.5 * (nx + 1) - optional_number((sci,), "CRPIX1", 0.0),
        0.5 * (ny + 1) - optional_number((sci,), "CRPIX2", 0.0),
    )
    inside = 0 <= dx <= nx - shape[1] and 0 <= dy <= ny - shape[0]
    if inside and abs(dx - round(dx)) < 1e-6 and abs(dy - round(dy)) < 1e-6:
        x0, y0 = x0 + round(dx), y0 + round(dy)
        return x0, y0, [f"{what}; CRPIX puts its first pixel at raw ({x0}, {y0})"]
    return x0, y0, [f"{what} whose place CRPIX does not tell: raw pixels are counted from ({x0}, {y0})"]


def _subarray_start(primary: fits.Header) -> tuple[int, int]:
    """Raw 0-based position of the subarray that the header describes."""
    x, y = (optional_number((primary,), key, 1.0) for key in ("SUBSTRT1", "SUBSTRT2"))
    return round(x) - 1, round(y) - 1


def _scale_to_rate(path: str | Path, sci: fits.Header) -> tuple[float, float]:
    """Divisor that brings SCI to DN/s, and the AB zero point of DN/s (NaN where unknown)."""
    unit = header_value(path, (sci,), ("BUNIT",), str).replace(" ", "").upper()
    if unit in ("DN/S", "DN/SEC"):
        return 1.0, float("nan")
    if unit != "MJY/SR":
        raise InputError(path, "BUNIT", f"the unit {unit!r} is not supported", "Use _cal files in MJy/sr (or DN/s)")
    factor = header_value(path, (sci,), ("PHOTMJSR",))
    if factor <= 0:
        raise InputError(path, "PHOTMJSR", f"the conversion factor is {factor}", "Run the photom step again")
    solid_angle = optional_number((sci,), "PIXAR_SR", 0.0)
    zero_point = -2.5 * np.log10(factor * 1e6 * solid_angle / _JANSKY_AB) if solid_angle > 0 else float("nan")
    return factor, float(zero_point)


def read_headers(path: str | Path, hdulist: fits.HDUList) -> list[ExposureUnit]:
    """What the headers of a JWST exposure say.

    Parameters
    ----------
    path : str or Path
        The file, for names and messages.
    hdulist : HDUList
        The open file.

    Returns
    -------
    list of ExposureUnit
        One.

    Raises
    ------
    InputError
        If a keyword or extension is missing, or the instrument, filter or unit is not supported.
    """
    hdu = extension(path, hdulist, "SCI")
    primary, sci = hdulist[0].header, hdu.header
    headers = (primary, sci)
    instrument = header_value(path, (primary,), ("INSTRUME",), str).upper()
    detector = header_detector(instrument, header_value(path, (primary,), ("DETECTOR",), str))
    if detector is None:
        raise InputError(
            path,
            "DETECTOR",
            f"{instrument} {header_text((primary,), 'DETECTOR')} is not supported",
            "dpm reads NIRISS and NIRCam imaging of JWST",
        )
    if len(hdu.shape) != 2:
        raise InputError(
            path,
            "SCI,1",
            f"the image has {len(hdu.shape)} dimensions",
            "Use _cal files, not ramps (_uncal) or integrations (_calints)",
        )
    shape = (int(hdu.shape[0]), int(hdu.shape[1]))
    exptime = header_value(path, headers, ("EFFEXPTM", "XPOSURE"))
    if exptime <= 0:
        raise InputError(
            path,
            "EFFEXPTM",
            f"the exposure time is {exptime}",
            "Correct the header or take the file out of input.exposures",
        )
    _, zero_point = _scale_to_rate(path, sci)
    x0, y0, notes = _origin(path, headers, shape)
    filter_name = _filter_name(path, primary, instrument)
    area = optional_number((sci,), "PIXAR_SR", 0.0)
    row: dict[str, Any] = {
        "exposure": exposure_name(path),
        "file": str(path),
        "telescope": "JWST",
        "instrument": instrument,
        "detector": detector.name,
        "filter": filter_name,
        "band": band_name(detector, filter_name),
        "target": header_text(headers, "TARGNAME"),
        "epoch": julian_year(header_value(path, headers, ("EXPMID", "MJD-AVG"))),
        "exptime": exptime,
        "flux_unit": "DN/s",
        "x_origin": x0,
        "y_origin": y0,
        "nx": shape[1],
        "ny": shape[0],
        "pixel_scale": float(np.degrees(np.sqrt(area)) * 3600.0) if area > 0 else detector.pixel_scale,
        "va_scale": optional_number((sci,), "VA_SCALE", 1.0),
        "zero_point_vega": float("nan"),
        "zero_point_ab": zero_point,
        "crds_context": header_text(headers, "CRDS_CTX"),
        "calibration_version": header_text(headers, "CAL_VER"),
        "sdp_version": header_text(headers, "SDP_VER"),
        "prd_version": header_text(headers, "PRD_VER"),
    }
    return [ExposureUnit(row, detector, 1, *footprint(path, sci, shape), notes=tuple(notes))]


def read_pixels(path: str | Path, hdulist: fits.HDUList, unit: ExposureUnit, settings: InputOptions) -> UnitPixels:
    """Image, flags and noise planes of a JWST exposure in DN/s.

    Parameters
    ----------
    path : str or Path
        The file, for messages.
    hdulist : HDUList
        The open file.
    unit : ExposureUnit
        From `read_headers`.
    settings : InputOptions
        Gain and read noise of the last resort.

    Raises
    ------
    InputError
        If an extension is missing or damaged, no pixel is usable, or nothing tells the noise.
    """
    hdu = extension(path, hdulist, "SCI")
    shape = (unit.row["ny"], unit.row["nx"])
    factor, _ = _scale_to_rate(path, hdu.header)
    sci: Plane = image_array(path, hdu, shape, divisor=factor)
    dq = translate_jwst(image_array(path, extension(path, hdulist, "DQ"), shape, np.uint32), sci)
    check_image(path, sci, (dq & PixelFlag.BAD) != 0, "SCI,1")
    wcs = header_wcs(path, hdu.header, hdulist)
    planes: dict[str, Plane] = {
        name: image_array(path, hdulist[name], shape, divisor=factor**power)
        for name, power in (("ERR", 1), ("VAR_POISSON", 2), ("VAR_RNOISE", 2), ("VAR_FLAT", 2))
        if name in hdulist
    }
    k, var_read, flat, source = _noise(path, sci, dq, planes, unit, settings)
    notes: list[str] = []
    if "AREA" in hdulist:
        area: Plane = image_array(path, hdulist["AREA"], shape)
    else:
        area = pixel_area(wcs, shape, unit.row["pixel_scale"])
        notes.append(f"{path}: no AREA extension; pixel areas come from the WCS")
    wcs_source, wcs_error = "header", optional_number((hdu.header,), "SIPMXERR", 0.0) or None
    exact = _exact_wcs(path, hdulist, unit) if settings.gwcs else None
    if exact is not None:
        wcs, wcs_error = exact
        wcs_source = "GWCS"
        notes.append(f"{path}: the GWCS is stored as TAN-SIP, good to {wcs_error:.2g} pixel")
    image = ExposureImage(
        name=unit.row["exposure"],
        detector=unit.detector.name,
        filter=unit.row["filter"],
        sci=sci,
        var_read=var_read,
        poisson_factor=k,
        flat_variance=flat,
        area=np.where(np.isfinite(area) & (area > 0), area, 1.0).astype(np.float32),
        dq=dq,
        x_origin=unit.row["x_origin"],
        y_origin=unit.row["y_origin"],
        exptime=unit.row["exptime"],
        saturation=saturation_level(sci, (dq & PixelFlag.SATURATED) != 0, dq == 0),
        noise_fallback=source == "gain and read_noise",
    )
    err = planes.get("ERR", np.full(shape, np.nan, dtype=np.float32))
    return UnitPixels(image, err, wcs, wcs_source, source, wcs_error, tuple(notes))


def _exact_wcs(path: str | Path, hdulist: fits.HDUList, unit: ExposureUnit) -> tuple[WCS, float] | None:
    """The file's GWCS as TAN-SIP with its error in pixels; None where the file has none."""
    start = _subarray_start(hdulist[0].header)
    cut = (unit.row["x_origin"] - start[0], unit.row["y_origin"] - start[1])
    return fit_gwcs(path, hdulist, (unit.row["ny"], unit.row["nx"]), cut)


def _noise(
    path: str | Path,
    sci: Plane,
    dq: NDArray[np.uint8],
    planes: dict[str, Plane],
    unit: ExposureUnit,
    settings: InputOptions,
) -> tuple[Plane, Plane, Plane, str]:
    """k, variance without light, relative flat variance, and what they were made from."""
    good = dq == 0
    poisson, read = planes.get("VAR_POISSON"), planes.get("VAR_RNOISE")
    if poisson is not None and read is not None and (poisson[good] > 0).any() and (read[good] > 0).any():
        return _from_variances(sci, dq, poisson, read, planes.get("VAR_FLAT"))
    err = planes.get("ERR")
    flat = np.zeros_like(sci)
    if err is not None and (err[good] > 0).any():
        k_value, local, _ = split_error(err * err, sci, good)
        if np.isfinite(k_value) and np.isfinite(local).all():
            return np.full_like(sci, k_value), local, flat, "ERR"
    if settings.gain is None or settings.read_noise is None:
        raise InputError(
            path,
            "VAR_POISSON",
            "the file has neither VAR_POISSON and VAR_RNOISE nor a usable ERR",
            "Use the pipeline's _cal file, or set input.gain (electrons per DN) and input.read_noise (electrons)",
        )
    rate = settings.gain * unit.row["exptime"]
    return (
        np.full_like(sci, 1.0 / rate),
        np.full_like(sci, (settings.read_noise / rate) ** 2),
        flat,
        "gain and read_noise",
    )


def _from_variances(
    sci: Plane, dq: NDArray[np.uint8], poisson: Plane, read: Plane, flat: Plane | None
) -> tuple[Plane, Plane, Plane, str]:
    """Planes from VAR_*: robust local k, but pixels of shorter ramps keep their own (DESIGN section 4)."""
    good = (dq == 0) & np.isfinite(poisson) & np.isfinite(read) & (read > 0)
    sigma = np.sqrt(np.maximum(np.nan_to_num(poisson + read), 1e-30))
    light = np.nan_to_num(sci)
    k = variance_ratio(poisson, light, sigma, good)
    medians, _ = block_median(read, good)
    typical = smooth_plane(medians, sci.shape)
    if not np.isfinite(typical).all():
        typical = np.full_like(sci, np.median(read[good]))
    var_read = np.where(np.isfinite(read) & (read > 0), read, typical)
    short = ((dq & PixelFlag.SHORT_RAMP) != 0) & np.isfinite(poisson)
    if short.any():
        bright = short & (light > 5.0 * sigma)
        faint = short & ~bright
        k[faint] *= np.sqrt(np.maximum(var_read[faint] / typical[faint], 1.0))
        k[bright] = poisson[bright] / light[bright]
    source = "VAR_POISSON and VAR_RNOISE"
    relative = np.zeros_like(sci)
    if flat is not None and (np.nan_to_num(flat[good]) > 0).any():
        relative = np.nan_to_num(variance_ratio(flat, light, sigma, good, power=2))
        source = "VAR_POISSON, VAR_RNOISE and VAR_FLAT"
    return k, var_read, relative, source
