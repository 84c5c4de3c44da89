"""FITS headers of simulated files: world coordinates with SIP polynomials, times, and what real files say about
themselves."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.time import Time
from numpy.typing import NDArray

from dpm.simulate.geometry import Distortion, Pointing, SkyPlane
from dpm.simulate.instruments import Band, Instrument

__all__ = ["epoch_to_mjd", "hst_primary", "jwst_primary", "photflam", "photmjsr", "pixel_steradians", "wcs_header"]


def epoch_to_mjd(epoch: float) -> float:
    """Modified Julian date of a decimal Julian year."""
    return 51544.5 + (epoch - 2000.0) * 365.25


def pixel_steradians(camera: Instrument) -> float:
    """Solid angle of a nominal pixel."""
    return float(np.radians(camera.pixel_scale / 3600) ** 2)


def photmjsr(camera: Instrument, band: Band) -> float:
    """MJy/sr of one DN/s in a pixel, such that simulated magnitudes are AB magnitudes."""
    return float(10 ** (-0.4 * (band.zero_point + 6.10)) / pixel_steradians(camera))


def photflam(band: Band) -> float:
    """erg/cm^2/A of one electron, such that simulated magnitudes are AB magnitudes."""
    return float(10 ** (-0.4 * (band.zero_point + 5 * np.log10(band.wavelength * 1e4) + 2.408)))


def _tangent_jacobian(plane: SkyPlane, xi: float, eta: float) -> tuple[float, float, NDArray[np.float64]]:
    """Sky position of a point of the field's plane, and the matrix from there to the tangent plane at that very
    point."""
    ra, dec = (float(v) for v in plane.to_sky(xi, eta))
    local = SkyPlane(ra, dec)
    step = 1.0
    east = local.from_sky(*plane.to_sky(xi + step, eta))
    west = local.from_sky(*plane.to_sky(xi - step, eta))
    north = local.from_sky(*plane.to_sky(xi, eta + step))
    south = local.from_sky(*plane.to_sky(xi, eta - step))
    by_xi, by_eta = np.subtract(east, west) / (2 * step), np.subtract(north, south) / (2 * step)
    return ra, dec, np.column_stack([by_xi, by_eta])


def wcs_header(distortion: Distortion, pointing: Pointing, plane: SkyPlane, sip: bool) -> fits.Header:
    """TAN or TAN-SIP keywords of one frame.

    Parameters
    ----------
    distortion : Distortion
        Of the frame; its polynomial becomes the SIP coefficients, its filter term and fine pattern do not.
    pointing : Pointing
        What the header believes (errors included).
    plane : SkyPlane
        The field's tangent plane.
    sip : bool
        False: a linear fit over the frame.

    Returns
    -------
    astropy.io.fits.Header
        WCSAXES, CTYPE, CRPIX (1-based in the array), CRVAL, CD, and A_i_j, B_i_j.
    """
    p = distortion.polynomial
    header = fits.Header()
    header["WCSAXES"] = 2
    kind = "-SIP" if sip else ""
    header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{kind}", f"DEC--TAN{kind}"
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    if sip:
        crpix = p.x_reference - distortion.x_start, p.y_reference - distortion.y_start
        ideal = np.array([p.x[0], p.y[0]]) - distortion.ideal_origin
        linear = np.array([p.x[1:3], p.y[1:3]])
    else:
        crpix = (distortion.nx + 1) / 2, (distortion.ny + 1) / 2
        x, y = np.meshgrid(np.linspace(0, distortion.nx - 1, 33), np.linspace(0, distortion.ny - 1, 33))
        position = np.array(distortion.to_ideal(x.ravel() + distortion.x_origin, y.ravel() + distortion.y_origin))
        design = np.column_stack([np.ones(x.size), x.ravel() + 1 - crpix[0], y.ravel() + 1 - crpix[1]])
        solution = np.linalg.lstsq(design, position.T, rcond=None)[0]
        ideal, linear = solution[0], solution[1:].T
    xi, eta = pointing.to_plane(np.asarray(ideal[0]), np.asarray(ideal[1]))
    ra, dec, jacobian = _tangent_jacobian(plane, float(xi), float(eta))
    cd = jacobian @ pointing.matrix @ linear / 3600
    header["CRPIX1"], header["CRPIX2"] = crpix
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    for i in range(2):
        for j in range(2):
            header[f"CD{i + 1}_{j + 1}"] = cd[i, j]
    header["RADESYS"] = "ICRS"
    if sip:
        header["A_ORDER"], header["B_ORDER"] = p.degree, p.degree
        inverse = np.linalg.inv(linear)
        for (i, j), cx, cy in zip(p.terms(), p.x, p.y):
            if i + j >= 2:
                a, b = inverse @ np.array([cx, cy])
                header[f"A_{i}_{j}"], header[f"B_{i}_{j}"] = a, b
    return header


def _times(mjd: float, exptime: float) -> tuple[float, float, str, str]:
    """Start and end (MJD) and the start's date and time of day."""
    half = exptime / 2 / 86400
    date, clock = Time(mjd - half, format="mjd", scale="utc").isot.split("T")
    return mjd - half, mjd + half, date, clock


def jwst_primary(
    camera: Instrument, filter_name: str, file_name: str, mjd: float, exptime: float, program: str, target: str
) -> fits.Header:
    """Primary header of a JWST ``_cal`` file (``mjd``: middle of the exposure)."""
    start, end, date, clock = _times(mjd, exptime)
    niriss = camera.header_instrument == "NIRISS"
    red = camera.filters[filter_name].wavelength > 2.5
    header = fits.Header()
    header["TELESCOP"], header["INSTRUME"], header["DETECTOR"] = (
        "JWST",
        camera.header_instrument,
        camera.header_detector,
    )
    if niriss:
        header["FILTER"], header["PUPIL"] = (filter_name, "CLEARP") if red else ("CLEAR", filter_name)
    else:
        header["FILTER"], header["PUPIL"] = filter_name, "CLEAR"
    header["EXP_TYPE"] = "NIS_IMAGE" if niriss else "NRC_IMAGE"
    header["EFFEXPTM"], header["READPATT"] = exptime, "NISRAPID" if niriss else "RAPID"
    header["NINTS"], header["NGROUPS"] = 1, 12
    if not niriss:
        header["CHANNEL"], header["MODULE"] = "SHORT", camera.header_detector[3]
    header["PROGRAM"], header["TARGNAME"] = program, target
    for key in ("CAL_VER", "CRDS_CTX", "SDP_VER", "PRD_VER"):
        header[key] = "simulated"
    header["FILENAME"], header["DATAMODL"] = file_name, "ImageModel"
    header["EXPMID"], header["EXPSTART"], header["EXPEND"] = mjd, start, end
    header["DATE-OBS"], header["TIME-OBS"] = date, clock
    return header


def hst_primary(
    camera: Instrument, filter_name: str, file_name: str, mjd: float, exptime: float, subarray: bool, target: str
) -> fits.Header:
    """Primary header of an HST ``_flc`` file (``mjd``: middle of the exposure)."""
    start, end, date, clock = _times(mjd, exptime)
    band = camera.filters[filter_name]
    header = fits.Header()
    header["FILENAME"], header["FILETYPE"] = file_name, "SCI"
    header["TELESCOP"], header["INSTRUME"], header["EQUINOX"] = "HST", camera.header_instrument, 2000.0
    header["ROOTNAME"], header["IMAGETYP"], header["TARGNAME"] = file_name.split("_")[0], "EXT", target
    header["DATE-OBS"], header["TIME-OBS"] = date, clock
    header["EXPSTART"], header["EXPEND"], header["EXPTIME"] = start, end, exptime
    header["OBSTYPE"], header["OBSMODE"] = "IMAGING", "ACCUM"
    header["SUBARRAY"], header["DETECTOR"] = subarray, camera.header_detector
    if camera.header_instrument == "ACS":
        first = filter_name in ("F475W", "F555W", "F606W", "F625W", "F775W", "F850LP")
        header["FILTER1"] = filter_name if first else "CLEAR1L"
        header["FILTER2"] = "CLEAR2L" if first else filter_name
    else:
        header["FILTER"] = filter_name
    header["APERTURE"], header["CCDAMP"], header["CCDGAIN"] = camera.header_detector, "ABCD", 1.5
    for amplifier in "ABCD":
        header[f"ATODGN{amplifier}"] = 1.5
        header[f"READNSE{amplifier}"] = camera.read_noise
    header["CAL_VER"], header["OPUS_VER"], header["PCTECORR"] = "simulated", "simulated", "COMPLETE"
    header["PHOTFLAM"], header["PHOTPLAM"], header["PHOTZPT"] = photflam(band), band.wavelength * 1e4, -21.1
    return header
