"""Tiny exposures in the real file formats, for tests of readers; every keyword that a reader needs is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

RA, DEC = 80.0, -69.5


def star_field(shape: tuple[int, int], rate: float = 2.0, seed: int = 1, stars: int = 12) -> NDArray[np.float64]:
    """Expected image: flat sky and Gaussian stars, per second."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    y, x = np.mgrid[:ny, :nx]
    image = np.full(shape, rate)
    for _ in range(stars):
        x0, y0 = rng.uniform(6, nx - 7), rng.uniform(6, ny - 7)
        image += 10 ** rng.uniform(1.5, 3.0) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 1.2**2)
    return image


def _wcs_cards(header: fits.Header, shape: tuple[int, int], scale: float, ra: float, dec: float) -> None:
    cards: dict[str, Any] = {
        "WCSAXES": 2,
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRPIX1": 0.5 * (shape[1] + 1),
        "CRPIX2": 0.5 * (shape[0] + 1),
        "CRVAL1": ra,
        "CRVAL2": dec,
        "CD1_1": -scale / 3600.0,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": scale / 3600.0,
        "RADESYS": "ICRS",
    }
    header.update(cards)


def write_jwst(
    path: Path,
    shape: tuple[int, int] = (64, 80),
    *,
    sci: NDArray | None = None,
    dq: NDArray | None = None,
    primary: dict[str, Any] | None = None,
    header: dict[str, Any] | None = None,
    omit: tuple[str, ...] = (),
    ra: float = RA,
    dec: float = DEC,
    seed: int = 1,
) -> Path:
    """A NIRISS ``_cal`` file: gain 1.6, ramp factor 1.25, read noise 12 e-; ``None`` as a value removes a card."""
    factor, exptime = 1.2, 128.0
    expected = star_field(shape, seed=seed)
    k, var_read = 1.25 / (1.6 * exptime), (12.0 / 1.6 / exptime) ** 2
    noise = np.random.default_rng(seed + 100).normal(size=shape) * np.sqrt(k * expected + var_read)
    rate = (expected + noise if sci is None else sci / factor).astype(np.float32)
    first = fits.PrimaryHDU()
    first.header.update(
        {
            "TELESCOP": "JWST",
            "INSTRUME": "NIRISS",
            "DETECTOR": "NIS",
            "FILTER": "CLEAR",
            "PUPIL": "F090W",
            "EFFEXPTM": exptime,
            "EXPMID": 59700.5325,
            "TARGNAME": "MOCK",
            "CAL_VER": "1.20.0",
            "CRDS_CTX": "jwst_1300.pmap",
            "SDP_VER": "2025_1",
            "PRD_VER": "PRD-1",
        }
    )
    image = fits.ImageHDU((rate * factor).astype(np.float32), name="SCI")
    _wcs_cards(image.header, shape, 0.0656, ra, dec)
    image.header.update(
        {"BUNIT": "MJy/sr", "PHOTMJSR": factor, "PIXAR_SR": 1.0115e-13, "VA_SCALE": 0.99999, "XPOSURE": exptime}
    )
    planes = {
        "ERR": np.sqrt(np.maximum(k * rate, 0) + var_read) * factor,
        "DQ": np.zeros(shape) if dq is None else dq,
        "AREA": np.ones(shape),
        "VAR_POISSON": k * np.maximum(rate, 0) * factor**2,
        "VAR_RNOISE": np.full(shape, var_read * factor**2),
        "VAR_FLAT": (1e-3 * rate * factor) ** 2,
    }
    hdus: list[Any] = [first, image]
    for name, plane in planes.items():
        hdus.append(fits.ImageHDU(plane.astype(np.uint32 if name == "DQ" else np.float32), name=name))
    return _write(path, hdus, primary, header, omit)


def write_ccd(
    path: Path,
    shape: tuple[int, int] = (48, 64),
    *,
    instrument: str = "ACS",
    chips: tuple[int, ...] = (2, 1),
    ltv: tuple[float, float] = (0.0, 0.0),
    dq: NDArray | None = None,
    primary: dict[str, Any] | None = None,
    header: dict[str, Any] | None = None,
    omit: tuple[str, ...] = (),
    seed: int = 1,
    flash: float = 20.0,
) -> Path:
    """An ACS/WFC or WFC3/UVIS ``_flc`` file in electrons: read noise 4 e-, a subtracted flash, chips as given."""
    exptime = 100.0
    first = fits.PrimaryHDU()
    first.header.update(
        {
            "TELESCOP": "HST",
            "INSTRUME": instrument,
            "DETECTOR": "WFC" if instrument == "ACS" else "UVIS",
            "EXPTIME": exptime,
            "EXPSTART": 53000.0,
            "EXPEND": 53000.0 + exptime / 86400.0,
            "TARGNAME": "MOCK",
            "CAL_VER": "10.3",
            "CRDS_CTX": "hst_1038.pmap",
            "OPUS_VER": "2022_2",
        }
    )
    first.header.update({"FILTER1": "CLEAR1L", "FILTER2": "F814W"} if instrument == "ACS" else {"FILTER": "F814W"})
    hdus: list[Any] = [first]
    for version, chip in enumerate(chips, start=1):
        expected = exptime * star_field(shape, 0.1, seed + chip) + flash
        rng = np.random.default_rng(seed + 50 + chip)
        counts = rng.poisson(expected) + rng.normal(0.0, 4.0, shape)
        err = np.sqrt(16.0 + np.maximum(counts, 0.0))
        image = fits.ImageHDU((counts - flash).astype(np.float32), name="SCI", ver=version)
        _wcs_cards(image.header, shape, 0.05, RA, DEC + (0.0006 if chip == 1 else 0.0))
        image.header.update(
            {
                "BUNIT": "ELECTRONS",
                "CCDCHIP": chip,
                "LTV1": ltv[0],
                "LTV2": ltv[1],
                "LTM1_1": 1.0,
                "LTM2_2": 1.0,
                "VAFACTOR": 1.0,
                "PHOTFLAM": 7.0e-20,
                "PHOTPLAM": 8045.0,
            }
        )
        plane = np.zeros(shape) if dq is None else dq
        hdus += [
            image,
            fits.ImageHDU(err.astype(np.float32), name="ERR", ver=version),
            fits.ImageHDU(plane.astype(np.int16), name="DQ", ver=version),
        ]
    return _write(path, hdus, primary, header, omit)


def write_ir(path: Path, shape: tuple[int, int] = (64, 64), *, short: NDArray | None = None, seed: int = 1) -> Path:
    """A WFC3/IR ``_flt`` file in electrons/s with SAMP and TIME; ``short`` marks pixels with a tenth of the time."""
    exptime, reads = 200.0, 10
    time = np.full(shape, exptime)
    samples = np.full(shape, reads)
    if short is not None:
        time[short], samples[short] = 0.1 * exptime, 2
    expected = star_field(shape, 1.0, seed)
    variance = expected / time + (12.0 / time) ** 2
    rate = expected + np.random.default_rng(seed).normal(size=shape) * np.sqrt(variance)
    first = fits.PrimaryHDU()
    first.header.update(
        {
            "TELESCOP": "HST",
            "INSTRUME": "WFC3",
            "DETECTOR": "IR",
            "FILTER": "F160W",
            "EXPTIME": exptime,
            "EXPSTART": 55000.0,
            "EXPEND": 55000.0 + exptime / 86400.0,
        }
    )
    image = fits.ImageHDU(rate.astype(np.float32), name="SCI")
    _wcs_cards(image.header, shape, 0.1283, RA, DEC)
    image.header.update({"BUNIT": "ELECTRONS/S", "LTV1": -475.0, "LTV2": -475.0, "VAFACTOR": 1.0})
    error = np.sqrt(np.maximum(rate, 0.0) / time + (12.0 / time) ** 2)
    hdus = [
        first,
        image,
        fits.ImageHDU(error.astype(np.float32), name="ERR"),
        fits.ImageHDU(np.zeros(shape, dtype=np.int16), name="DQ"),
        fits.ImageHDU(samples.astype(np.int16), name="SAMP"),
        fits.ImageHDU(time.astype(np.float32), name="TIME"),
    ]
    return _write(path, hdus, None, None, ())


def _write(
    path: Path, hdus: list[Any], primary: dict[str, Any] | None, header: dict[str, Any] | None, omit: tuple[str, ...]
) -> Path:
    for target, changes in (
        (hdus[0].header, primary or {}),
        *((h.header, header or {}) for h in hdus if h.name == "SCI"),
    ):
        for key, value in changes.items():
            if value is None:
                target.remove(key, ignore_missing=True)
            else:
                target[key] = value
    fits.HDUList([hdu for hdu in hdus if hdu.name not in omit]).writeto(path, overwrite=True)
    return path
