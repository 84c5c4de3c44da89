"""STDGDC distortion files: formats 1 and 2, read and written.

Format 1 has the extensions ``XGC``, ``YGC`` (int32, BSCALE 1e-5: corrected 1-based position of every raw pixel's
centre), ``MGC`` (int16, BSCALE 1e-4: magnitudes to add), and ``XCG``, ``YCG`` (int32, BSCALE 1e-5: raw 1-based
position of every pixel of the corrected frame, whose first pixel is at ``XGC_0``, ``YGC_0``; -2e9 where there is no
detector).  Format 2 has three layers: corrections in x and y, and magnitudes.  Everything outside this module is
0-based.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.io.errors import InputError
from dpm.io.fits_files import check_packing, check_sizes
from dpm.models.distortion import MapDistortion

__all__ = ["read_stdgdc", "write_stdgdc"]

_POSITION_SCALE = 1e-5
_MAGNITUDE_SCALE = 1e-4
_OFF_DETECTOR = -2_000_000_000
_ROWS = 128  # rows inverted at a time


def read_stdgdc(path: str | Path, y_offset: int = 0) -> MapDistortion:
    """Read an STDGDC file.

    Parameters
    ----------
    path : str or Path
        Format 1 or 2.
    y_offset : int
        Rows to add to raw y of the chip in question (upper chip of a stacked map).

    Returns
    -------
    MapDistortion
        0-based; the inverse maps of the file are not needed (the forward map is inverted to higher precision).

    Raises
    ------
    InputError
        If the file is missing or is neither format; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "distortion.source", "no such file", "Give an STDGDC file")
    check_packing(path)
    try:
        with fits.open(path, memmap=False, do_not_scale_image_data=True) as hdulist:
            check_sizes(path, hdulist)
            named = {hdu.name.upper(): _scaled(hdu) for hdu in hdulist if _is_image(hdu)}
            layers = _layers(hdulist)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(path, "distortion.source", f"not a readable FITS file ({error})", "Copy it again") from error
    if "XGC" in named and "YGC" in named:
        x, y, magnitude = named["XGC"] - 1.0, named["YGC"] - 1.0, named.get("MGC")
    elif len(layers) == 3:
        ny, nx = layers[0].shape
        rows, columns = np.mgrid[0:ny, 0:nx]
        x, y, magnitude = columns + layers[0], rows + layers[1], layers[2]
    else:
        raise InputError(
            path,
            "XGC",
            f"neither the extensions XGC and YGC nor three layers ({len(layers)} images)",
            "Give an STDGDC file",
        )
    if x.shape != y.shape or (magnitude is not None and magnitude.shape != x.shape):
        raise InputError(path, "YGC", "the layers differ in size", "Give an STDGDC file")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(path, "XGC", "pixels without a corrected position", "Fill them in; every pixel needs one")
    return MapDistortion(x, y, magnitude, y_offset)


def write_stdgdc(
    path: str | Path, distortion: MapDistortion, header: dict[str, str | float | int] | None = None, layout: int = 1
) -> None:
    """Write format 1 (or 2), atomically.

    Parameters
    ----------
    path : str or Path
        File to write.
    distortion : MapDistortion
        0-based maps; its `y_offset` is not stored.
    header : dict, optional
        Keywords to add to the primary header.
    layout : int
        1, or 2: three layers (float32) with the corrections in x and y and the magnitudes.

    Raises
    ------
    ValueError
        If there is no such format.
    """
    path = Path(path)
    if layout not in (1, 2):
        raise ValueError(f"STDGDC has formats 1 and 2, not {layout}")
    ny, nx = distortion.x_corrected.shape
    if layout == 2:
        _write(path, _three_layers(distortion, header or {}))
        return
    x, y = np.asarray(distortion.x_corrected, dtype=float) + 1, np.asarray(distortion.y_corrected, dtype=float) + 1
    x0, y0 = int(np.floor(x.min())) - 1, int(np.floor(y.min())) - 1
    width, height = int(np.ceil(x.max())) + 2 - x0, int(np.ceil(y.max())) + 2 - y0
    raw_x, raw_y = _inverse_maps(distortion, x0, y0, width, height)
    magnitude = np.zeros((ny, nx)) if distortion.magnitude is None else np.asarray(distortion.magnitude, dtype=float)
    primary = fits.PrimaryHDU()
    keys = {
        "XGC_0": (x0, "corrected x of the first pixel of XCG, YCG"),
        "YGC_0": (y0, "corrected y of the first pixel of XCG, YCG"),
        "NDIM_XGC": (nx, "columns of XGC, YGC, MGC"),
        "NDIM_YGC": (ny, "rows of XGC, YGC, MGC"),
        "NDIM_XCG": (width, "columns of XCG, YCG"),
        "NDIM_YCG": (height, "rows of XCG, YCG"),
        "LTV1": (1 - x0, "1 - XGC_0"),
        "LTV2": (1 - y0, "1 - YGC_0"),
    }
    for key, value in {**keys, **(header or {})}.items():
        primary.header[key] = value
    hdulist = fits.HDUList(
        [
            primary,
            _image("XGC", x, _POSITION_SCALE, np.int32),
            _image("YGC", y, _POSITION_SCALE, np.int32),
            _image("MGC", magnitude, _MAGNITUDE_SCALE, np.int16),
            _image("XCG", raw_x, _POSITION_SCALE, np.int32),
            _image("YCG", raw_y, _POSITION_SCALE, np.int32),
        ]
    )
    _write(path, hdulist)


def _inverse_maps(
    distortion: MapDistortion, x0: int, y0: int, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw 1-based positions of the corrected frame's pixels, NaN off the detector."""
    ny, nx = distortion.x_corrected.shape
    plain = MapDistortion(distortion.x_corrected, distortion.y_corrected)
    raw_x, raw_y = np.empty((height, width)), np.empty((height, width))
    # The inversion holds a score of arrays of its size: a block of rows at a time.
    for first in range(0, height, _ROWS):
        rows = slice(first, min(first + _ROWS, height))
        u, v = np.meshgrid(np.arange(width) + x0 - 1.0, np.arange(rows.start, rows.stop) + y0 - 1.0)
        x, y = plain.inverse(u, v)
        # Bilinear interpolation at the outermost pixels needs neighbours a little beyond them.
        off = ~((x > -2) & (x < nx + 1) & (y > -2) & (y < ny + 1))
        raw_x[rows], raw_y[rows] = np.where(off, np.nan, x + 1), np.where(off, np.nan, y + 1)
    return raw_x, raw_y


def _three_layers(distortion: MapDistortion, header: dict[str, str | float | int]) -> fits.HDUList:
    """Format 2."""
    ny, nx = distortion.x_corrected.shape
    rows, columns = np.mgrid[0:ny, 0:nx]
    magnitude = np.zeros((ny, nx)) if distortion.magnitude is None else distortion.magnitude
    primary = fits.PrimaryHDU()
    for key, value in header.items():
        primary.header[key] = value
    layers = {"DX": distortion.x_corrected - columns, "DY": distortion.y_corrected - rows, "MAGNITUDE": magnitude}
    return fits.HDUList([primary, *(fits.ImageHDU(np.asarray(v, dtype=np.float32), name=k) for k, v in layers.items())])


def _write(path: Path, hdulist: fits.HDUList) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        hdulist.writeto(temporary, output_verify="exception")


def _is_image(hdu: fits.hdu.base.ExtensionHDU) -> bool:
    return isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) and hdu.data is not None


def _scaled(hdu: fits.ImageHDU) -> NDArray[np.float64]:
    """Values of an image that was read unscaled; integers without BSCALE have the format's own scale."""
    data = np.asarray(hdu.data)
    values = data.astype(np.float64)
    if data.dtype.kind in "iu":
        default = _MAGNITUDE_SCALE if hdu.name.upper() == "MGC" else _POSITION_SCALE
        values = values * float(hdu.header.get("BSCALE", default)) + float(hdu.header.get("BZERO", 0.0))
        values[data <= _OFF_DETECTOR] = np.nan
    return values


def _layers(hdulist: fits.HDUList) -> list[NDArray[np.float64]]:
    """All two-dimensional layers in order, whether extensions or planes of a cube."""
    layers: list[NDArray[np.float64]] = []
    for hdu in hdulist:
        if _is_image(hdu):
            data = _scaled(hdu)
            layers += [data] if data.ndim == 2 else list(data) if data.ndim == 3 else []
    return layers


def _image(name: str, values: NDArray[np.float64], scale: float, kind: type[np.signedinteger]) -> fits.ImageHDU:
    """An integer image with its BSCALE; NaN becomes 'off the detector'."""
    scaled = np.where(np.isfinite(values), np.rint(values / scale), _OFF_DETECTOR)
    limits = np.iinfo(kind)
    hdu = fits.ImageHDU(np.clip(scaled, limits.min, limits.max).astype(kind), name=name)
    hdu.header["BSCALE"] = scale
    hdu.header["BZERO"] = 0.0
    return hdu
