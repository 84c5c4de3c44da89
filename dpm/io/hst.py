"""HST exposures: ACS/WFC and WFC3/UVIS ``_flc``/``_flt`` (one or two chips, subarrays), WFC3/IR ``_flt``, NICMOS
``_cal``.

Images become electrons/s (NICMOS: DN/s).  ``LTV1/2`` place a subarray on its chip: raw 0-based position of the first
pixel = -LTV.  Noise: k = 1/exptime for electrons, and the variance without light (read noise, dark, flash, subtracted
sky) from ERR^2 - light.  Up-the-ramp detectors use the pixel's own TIME; calnica's ERR takes the reads for
independent (its slope of ERR^2 against flux is a fifth of 1 / (gain time)), so NICMOS takes k from ADCGAIN and TIME
with the factor of a line fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from dpm.io.dq import translate_hst
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
from dpm.io.units import ExposureUnit, UnitPixels, check_image, footprint
from dpm.io.wcs import header_wcs, pixel_area
from dpm.models.detectors import Detector, band_name, header_detector
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.noise import ramp_read_factor, ramp_shot_factor, saturation_level, split_error
from dpm.models.options import InputOptions

__all__ = ["read_headers", "read_pixels"]

Plane = NDArray[np.float32]

# A ramp with less than this part of the longest TIME is flagged: its shot noise is 15 % larger or more.
_SHORT_RAMP_BELOW = 0.75
# Part of the longest TIME from which a pixel counts as whole (TIME is float32); it only chooses pixels to learn the noise from.
_WHOLE_RAMP = 0.999
# Where less than this part of a ramp's variance is left without light, k = 1 / exptime was too large for this ERR (a ramp's
# noise is not that of a sum): then both are found from the pixels.
_LEAST_READ_SHARE = 0.05
# Seconds; keeps pixels without any exposure (which are BAD) from dividing by zero.
_SHORTEST_TIME = 1e-3
# AB magnitude of 1 erg/s/cm2/A at 1 A: 2.5 log10 of the light's speed, 2.998e18 A/s, less 48.60.
_AB_OF_FLAM = -2.408


def _filter_name(path: str | Path, header: fits.Header, instrument: str) -> str:
    """Filter of the exposure; ACS has two wheels, of which one is clear."""
    if instrument == "ACS":
        wheels = [header_value(path, (header,), (key,), str).upper() for key in ("FILTER1", "FILTER2")]
        names = [name for name in wheels if not name.startswith("CLEAR")]
        chosen = "-".join(names) if names else "CLEAR"
    else:
        chosen = header_value(path, (header,), ("FILTER",), str).upper()
    if not is_filter_name(chosen):
        raise InputError(
            path,
            "FILTER",
            f"{chosen!r} is not an imaging filter",
            "Use direct images: dpm does not read grism, prism or blank exposures",
        )
    return chosen


def _find_detector(path: str | Path, primary: fits.Header, sci: fits.Header, instrument: str) -> Detector:
    if instrument == "NICMOS":
        name, chip = "NIC", header_value(path, (primary,), ("CAMERA",), int)
    else:
        name = header_value(path, (primary,), ("DETECTOR",), str)
        chip = 0 if name.upper() == "IR" else header_value(path, (sci,), ("CCDCHIP",), int)
    detector = header_detector(instrument, name, chip)
    if detector is None:
        raise InputError(
            path,
            "INSTRUME",
            f"{instrument} {name} (chip or camera {chip}) is not supported",
            "dpm reads ACS/WFC, WFC3/UVIS, WFC3/IR and NICMOS of HST",
        )
    return detector


def _rate_divisor(path: str | Path, sci: fits.Header, instrument: str, exptime: float) -> tuple[float, str]:
    """Divisor that brings SCI to a rate, and the rate's unit."""
    unit = header_value(path, (sci,), ("BUNIT",), str).replace(" ", "").upper()
    known = {"NICMOS": {"COUNTS/S": 1.0, "DN/S": 1.0, "COUNTS": exptime, "DN": exptime}}
    divisors = known.get(instrument, {"ELECTRONS/S": 1.0, "ELECTRONS": exptime})
    if unit not in divisors:
        raise InputError(
            path,
            "BUNIT",
            f"the unit {unit!r} is not one of {', '.join(divisors)}",
            "Use the calibrated product (_flc, _flt or _cal), not _raw or _drz",
        )
    return divisors[unit], "DN/s" if instrument == "NICMOS" else "electron/s"


def _origin(
    path: str | Path, sci: fits.Header, detector: Detector, shape: tuple[int, int]
) -> tuple[int, int, list[str]]:
    """Raw 0-based position of the first pixel, and notes for the log."""
    for key in ("LTM1_1", "LTM2_2"):
        if abs(optional_number((sci,), key, 1.0) - 1.0) > 1e-6:
            raise InputError(path, key, f"the image is binned ({key} = {sci[key]})", "Use unbinned exposures")
    x0, y0 = round(-optional_number((sci,), "LTV1", 0.0)), round(-optional_number((sci,), "LTV2", 0.0))
    notes = []
    if x0 < 0 or y0 < 0 or x0 + shape[1] > detector.nx or y0 + shape[0] > detector.ny:
        notes.append(
            f"{path}: LTV1, LTV2 put the {shape[1]} x {shape[0]} array at raw ({x0}, {y0}), beyond the {detector.nx} x "
            f"{detector.ny} pixels of {detector.name}; taken as the header says"
        )
    return x0, y0, notes


def _zero_point(headers: tuple[fits.Header, ...]) -> float:
    """AB zero point from PHOTFLAM and PHOTPLAM (ACS Data Handbook), NaN where they are absent."""
    flam, pivot = optional_number(headers, "PHOTFLAM", 0.0), optional_number(headers, "PHOTPLAM", 0.0)
    if flam <= 0 or pivot <= 0:
        return float("nan")
    return float(-2.5 * np.log10(flam) - 5.0 * np.log10(pivot) + _AB_OF_FLAM)


def read_headers(path: str | Path, hdulist: fits.HDUList) -> list[ExposureUnit]:
    """What the headers of an HST exposure say, one unit a chip.

    Parameters
    ----------
    path : str or Path
        The file, for names and messages.
    hdulist : HDUList
        The open file.

    Returns
    -------
    list of ExposureUnit
        One or two, in the file's order.

    Raises
    ------
    InputError
        If a keyword or extension is missing, or the instrument, filter, binning or unit is not supported.
    """
    extension(path, hdulist, "SCI")
    primary = hdulist[0].header
    instrument = header_value(path, (primary,), ("INSTRUME",), str).upper()
    if instrument not in ("ACS", "WFC3", "NICMOS"):
        raise InputError(
            path,
            "INSTRUME",
            f"HST {instrument} is not supported",
            "dpm reads ACS/WFC, WFC3/UVIS, WFC3/IR and NICMOS of HST",
        )
    versions = sorted(hdu.ver for hdu in hdulist if hdu.name == "SCI")
    units = [_unit_header(path, hdulist, version, instrument) for version in versions]
    names = [unit.detector.name for unit in units]
    if len(set(names)) != len(names):
        raise InputError(
            path,
            "CCDCHIP",
            f"the SCI extensions name the same detector twice ({', '.join(names)})",
            "Use single exposures, not _ima or stacked files",
        )
    return units


def _unit_header(path: str | Path, hdulist: fits.HDUList, version: int, instrument: str) -> ExposureUnit:
    primary = hdulist[0].header
    hdu = extension(path, hdulist, "SCI", version)
    sci = hdu.header
    headers = (sci, primary)
    detector = _find_detector(path, primary, sci, instrument)
    if len(hdu.shape) != 2:
        raise InputError(
            path,
            f"SCI,{version}",
            f"the image has {len(hdu.shape)} dimensions",
            "Use calibrated single exposures (_flc, _flt or _cal)",
        )
    shape = (int(hdu.shape[0]), int(hdu.shape[1]))
    filter_name = _filter_name(path, primary, instrument)
    exptime = header_value(path, (primary, sci), ("EXPTIME",))
    if exptime <= 0:
        raise InputError(path, "EXPTIME", f"the exposure time is {exptime}", "Take the file out of input.exposures")
    _, unit_name = _rate_divisor(path, sci, instrument, exptime)
    x0, y0, notes = _origin(path, sci, detector, shape)
    start = header_value(path, (primary, sci), ("EXPSTART",))
    end = header_value(path, (primary, sci), ("EXPEND",))
    row: dict[str, Any] = {
        "exposure": exposure_name(path),
        "file": str(path),
        "telescope": "HST",
        "instrument": instrument,
        "detector": detector.name,
        "filter": filter_name,
        "band": band_name(detector, filter_name),
        "target": header_text((primary, sci), "TARGNAME"),
        "epoch": julian_year(0.5 * (start + end)),
        "exptime": exptime,
        "flux_unit": unit_name,
        "x_origin": x0,
        "y_origin": y0,
        "nx": shape[1],
        "ny": shape[0],
        "pixel_scale": detector.pixel_scale,
        "va_scale": optional_number((sci,), "VAFACTOR", 1.0),
        "zero_point_vega": float("nan"),
        "zero_point_ab": _zero_point(headers),
        "crds_context": header_text((primary,), "CRDS_CTX"),
        "calibration_version": header_text((primary,), "CAL_VER"),
        "sdp_version": header_text((primary,), "OPUS_VER"),
        "prd_version": header_text((primary,), "PRD_VER"),
    }
    return ExposureUnit(row, detector, version, *footprint(path, sci, shape), notes=tuple(notes))


def read_pixels(path: str | Path, hdulist: fits.HDUList, unit: ExposureUnit, settings: InputOptions) -> UnitPixels:
    """Image, flags and noise planes of one chip, as rates.

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
    row, version = unit.row, unit.version
    shape = (row["ny"], row["nx"])
    hdu = extension(path, hdulist, "SCI", version)
    divisor, _ = _rate_divisor(path, hdu.header, row["instrument"], row["exptime"])
    sci: Plane = image_array(path, hdu, shape, divisor=divisor)
    dq = translate_hst(
        image_array(path, extension(path, hdulist, "DQ", version), shape, np.int32), sci, unit.detector.name
    )
    err: Plane = np.full(shape, np.nan, dtype=np.float32)
    if ("ERR", version) in hdulist:
        err = image_array(path, hdulist[("ERR", version)], shape, divisor=divisor)
    ramp = _ramp_planes(path, hdulist, version, shape)
    full_time = float(ramp[1].max()) if ramp is not None else row["exptime"]
    if ramp is not None:
        dq[(ramp[0] < 1) | (ramp[1] <= 0)] |= np.uint8(PixelFlag.BAD)
        dq[(ramp[1] < _SHORT_RAMP_BELOW * full_time) & ((dq & PixelFlag.BAD) == 0)] |= np.uint8(PixelFlag.SHORT_RAMP)
    check_image(path, sci, (dq & PixelFlag.BAD) != 0, f"SCI,{version}")
    k, var_read, source = _noise(path, sci, err, dq, ramp, hdulist[0].header, unit, settings)
    wcs = header_wcs(path, hdu.header, hdulist)
    area = pixel_area(wcs, shape, unit.detector.pixel_scale) / np.float32(row["va_scale"] ** 2)
    image = ExposureImage(
        name=row["exposure"],
        detector=unit.detector.name,
        filter=row["filter"],
        sci=sci,
        var_read=var_read,
        poisson_factor=k,
        flat_variance=np.zeros_like(sci),
        area=area.astype(np.float32),
        dq=dq,
        x_origin=row["x_origin"],
        y_origin=row["y_origin"],
        exptime=row["exptime"],
        saturation=saturation_level(sci, (dq & PixelFlag.SATURATED) != 0, (dq & PixelFlag.BAD) == 0),
        noise_fallback=source.startswith("gain"),
    )
    return UnitPixels(image, err, wcs, "header", source)


def _ramp_planes(
    path: str | Path, hdulist: fits.HDUList, version: int, shape: tuple[int, int]
) -> tuple[Plane, Plane] | None:
    """Reads and seconds behind each pixel of an up-the-ramp detector, None where the file does not tell."""
    if ("SAMP", version) not in hdulist or ("TIME", version) not in hdulist:
        return None
    samples = image_array(path, hdulist[("SAMP", version)], shape)
    times = image_array(path, hdulist[("TIME", version)], shape)
    return (samples, times) if times.max() > 0 else None


def _noise(
    path: str | Path,
    sci: Plane,
    err: Plane,
    dq: NDArray[np.uint8],
    ramp: tuple[Plane, Plane] | None,
    primary: fits.Header,
    unit: ExposureUnit,
    settings: InputOptions,
) -> tuple[Plane, Plane, str]:
    """k, variance without light, and what they were made from."""
    exptime = unit.row["exptime"]
    electrons = unit.row["flux_unit"] == "electron/s"
    gain = 1.0 if electrons else optional_number((primary,), "ADCGAIN", settings.gain or 0.0)
    if gain <= 0:
        raise InputError(
            path, "ADCGAIN", "the keyword is missing, and with it the gain", "Set input.gain (electrons per DN)"
        )
    k = np.full_like(sci, 1.0 / (gain * exptime))
    longest = ramp[1] >= _WHOLE_RAMP * ramp[1].max() if ramp is not None else np.ones(sci.shape, dtype=bool)
    light = np.nan_to_num(sci)
    variance = np.nan_to_num(err * err)
    slope, var_read, own = split_error(variance, light, (dq == 0) & longest, k=None if not electrons else 1.0 / exptime)
    source = "ERR and exposure time" if electrons else "ERR, ADCGAIN and TIME"
    if electrons and ramp is not None and not np.median(var_read) > _LEAST_READ_SHARE * np.median(variance[dq == 0]):
        slope, var_read, own = split_error(variance, light, (dq == 0) & longest)
    if not np.isfinite(var_read).all():
        noise = (
            settings.read_noise
            if settings.read_noise is not None
            else max(optional_number((primary,), f"READNSE{amp}", 0.0) for amp in "ABCD")
        )
        if noise <= 0:
            raise InputError(
                path,
                f"ERR,{unit.version}",
                "the extension is missing or empty and READNSEA..D are zero",
                "Use the pipeline's calibrated file, or set input.read_noise (electrons)",
            )
        var_read, own = np.full_like(sci, (noise / (gain * exptime)) ** 2), np.zeros_like(sci)
        source = "gain and read_noise"
    if ramp is None:
        warm = (dq & PixelFlag.WARM) != 0
        var_read[warm] = np.maximum(var_read[warm], own[warm])
        return k, var_read, source
    return *_ramp_noise(ramp, k, var_read, gain, not electrons), source


def _ramp_noise(
    ramp: tuple[Plane, Plane], k: Plane, var_read: Plane, gain: float, line_fit: bool
) -> tuple[Plane, Plane]:
    """k and variance without light of every pixel from its own reads and seconds."""
    reads, times = ramp
    seconds = np.maximum(times, _SHORTEST_TIME).astype(np.float64)
    own_k = 1.0 / (gain * seconds) * (ramp_shot_factor(reads) if line_fit else 1.0)
    full = float(reads.max())
    longer = ramp_read_factor(reads) / ramp_read_factor(np.array(full)) * (float(times.max()) / seconds) ** 2
    exposed = times > 0
    return (
        np.where(exposed, own_k, k).astype(np.float32),
        np.where(exposed, var_read * np.maximum(longer, 1.0), var_read).astype(np.float32),
    )
