"""Opening FITS files and taking keywords and extensions out of them, with errors that name the file and the key."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from dpm.io.errors import InputError
from dpm.io.quiet import ignored

__all__ = [
    "check_packing",
    "check_sizes",
    "checksum",
    "exposure_name",
    "extension",
    "header_text",
    "header_value",
    "is_filter_name",
    "image_array",
    "julian_year",
    "open_exposure",
    "optional_number",
]

# Bytes of one extension, and of a whole file once uncompressed, that no exposure has: the largest ones (two chips of WFC3/UVIS)
# hold 170 MB. A few kilobytes can declare anything.
MOST_BYTES = 2**31
# How packed files begin. astropy unpacks all of these, whatever a file's name ends in; a zip archive onto the disk.
GZIP = b"\x1f\x8b\x08"
OTHERS = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x1f\x9d": "compress"}
_SUFFIXES = ("_cal", "_crf", "_rate", "_flc", "_flt", "_c0m", "_ima", "_mos")


def exposure_name(path: str | Path) -> str:
    """Stem of a file's name without the product suffix: ``iebc16u5q_flc.fits`` gives ``iebc16u5q``."""
    stem = Path(path).name
    for ending in (".gz", ".fits", ".fit"):
        stem = stem.removesuffix(ending)
    for suffix in _SUFFIXES:
        if stem.endswith(suffix):
            return stem.removesuffix(suffix)
    return stem


@contextmanager
def open_exposure(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file for reading without memory maps.

    Parameters
    ----------
    path : str or Path
        The file.

    Yields
    ------
    astropy.io.fits.HDUList
        Data are read when they are asked for.

    Raises
    ------
    InputError
        If the file is missing, is not FITS, is shorter than its headers say, or declares more than `MOST_BYTES`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "input.exposures", "the file does not exist", "Check the path")
    packed = check_packing(path)
    try:
        with ignored(AstropyWarning):
            hdulist = fits.open(path, memmap=False, lazy_load_hdus=False)
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            path,
            "SIMPLE",
            f"not a readable FITS file ({reason})",
            "Download the file again, or take it out of input.exposures",
        ) from error
    try:
        if not packed:  # those were read to their end before
            _check_length(path, hdulist)
        check_sizes(path, hdulist)
        yield hdulist
    finally:
        hdulist.close()


def _check_length(path: Path, hdulist: fits.HDUList) -> None:
    """Compare the file's size with what the last header promises."""
    size = path.stat().st_size
    info = hdulist[-1].fileinfo()
    needed = info["datLoc"] + hdulist[-1].size
    if size < needed:
        raise InputError(
            path,
            hdulist[-1].name or "PRIMARY",
            f"the file is truncated: {size} bytes, at least {needed} needed",
            "Download the file again",
        )


def check_packing(path: Path) -> bool:
    """Whether a file is packed by gzip; then it was read to its end. Other packings are refused.

    Raises
    ------
    InputError
        If it is packed in another way, damaged, cannot be read, or is larger than `MOST_BYTES` once unpacked.
    """
    try:
        with path.open("rb") as stream:
            first = stream.read(8)
    except OSError as error:
        raise InputError(path, "SIMPLE", f"the file cannot be read ({error.strerror})", "Check its permissions") from error
    for magic, name in OTHERS.items():
        if first.startswith(magic):
            raise InputError(path, "SIMPLE", f"the file is packed ({name})", "Unpack it; of packed files gzip's alone are read")
    if not first.startswith(GZIP) and path.suffix != ".gz":
        return False
    _check_gzip(path)
    return True


def _check_gzip(path: Path) -> None:
    """Read a compressed file to its end: astropy takes one that ends early for one with fewer extensions.

    Nothing is kept, and reading stops at `MOST_BYTES`.
    """
    length = 0
    try:
        with gzip.open(path) as stream:
            while block := stream.read(1 << 22):
                length += len(block)
                if length > MOST_BYTES:
                    raise InputError(path, "PRIMARY", f"{_too_large(length)} once uncompressed", "dpm does not read it")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(path, "PRIMARY", f"the file is truncated or damaged ({error})", "Download it again") from error


def check_sizes(path: str | Path, hdulist: fits.HDUList) -> None:
    """See that no extension declares more than any exposure has, before its data are asked for.

    A compressed image declares its own size in its header, whatever few bytes it takes in the file; so does a constant plane
    (``PIXVALUE``).

    Raises
    ------
    InputError
        Naming the extension.
    """
    for hdu in hdulist:
        header = hdu.header
        axes = [header.get(f"NAXIS{n}", 0) for n in range(1, header.get("NAXIS", 0) + 1)]
        sizes = [abs(header.get("BITPIX", 8)) // 8 * math.prod(axes), hdu.size or 0, header.get("PCOUNT", 0)]
        if "PIXVALUE" in header:
            sizes.append(8 * header.get("NPIX1", 0) * header.get("NPIX2", 0))
        if max(sizes) > MOST_BYTES or min(sizes) < 0:
            raise InputError(path, f"{hdu.name},{hdu.ver}", _too_large(max(sizes)), "dpm does not read it")


def _too_large(size: int) -> str:
    return f"it declares {size / 1e9:.3g} GB, where no exposure has more than {MOST_BYTES / 1e9:.1f}"


def is_filter_name(text: str) -> bool:
    """Whether a header's text can be a filter of an imager: it becomes part of file names."""
    return re.fullmatch(r"F[0-9][A-Z0-9-]{0,20}", text) is not None


def extension(path: str | Path, hdulist: fits.HDUList, name: str, version: int = 1) -> Any:
    """One extension by name and version.

    Raises
    ------
    InputError
        If it is missing.
    """
    try:
        return hdulist[(name, version)]
    except KeyError:
        present = ", ".join(f"{hdu.name},{hdu.ver}" for hdu in hdulist[1:]) or "none"
        raise InputError(
            path,
            f"{name},{version}",
            f"the extension is missing (there are: {present})",
            "Use a calibrated product (_cal, _flc or _flt) with all of its extensions",
        ) from None


def header_value(path: str | Path, headers: tuple[fits.Header, ...], keys: tuple[str, ...], kind: type = float) -> Any:
    """The first of several keywords that one of the headers has, with its type checked.

    Parameters
    ----------
    path : str or Path
        File, for messages.
    headers : tuple of Header
        Searched in this order.
    keys : tuple of str
        Searched in this order in each header.
    kind : type
        ``float``, ``int`` or ``str``.

    Raises
    ------
    InputError
        If none is there, or the value has another type or is not finite.
    """
    for key in keys:
        for header in headers:
            if key not in header or isinstance(header[key], fits.card.Undefined):
                continue
            value = header[key]
            try:
                number = kind(value)
            except (TypeError, ValueError):
                raise InputError(
                    path, key, f"the keyword holds {value!r}, not a {kind.__name__}", "Correct the header"
                ) from None
            if kind is float and not np.isfinite(number):
                raise InputError(path, key, f"the keyword holds {value!r}", "Correct the header")
            return number.strip() if kind is str else number
    raise InputError(
        path,
        keys[0],
        "the keyword is missing from the header" + (f" (nor is there {' or '.join(keys[1:])})" if keys[1:] else ""),
        "Correct the header, or use a product of the standard pipeline",
    )


def optional_number(headers: tuple[fits.Header, ...], key: str, default: float) -> float:
    """A keyword as a number; ``default`` where it is absent, undefined, not a number or not finite."""
    for header in headers:
        value = header.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            return float(value)
    return default


def header_text(headers: tuple[fits.Header, ...], key: str) -> str:
    """A keyword as text, empty where it is absent or undefined."""
    for header in headers:
        if key in header and not isinstance(header[key], fits.card.Undefined):
            return str(header[key]).strip()
    return ""


def image_array(
    path: str | Path, hdu: Any, shape: tuple[int, int] | None = None, dtype: Any = np.float32, divisor: float = 1.0
) -> NDArray[Any]:
    """The pixels of an image extension in native byte order, divided by ``divisor`` (in ``dtype``).

    HST files may hold a constant plane as ``PIXVALUE`` with ``NPIX1``, ``NPIX2`` and no data.

    Raises
    ------
    InputError
        If the data are short, absent, not two-dimensional, or of another shape than ``shape``.
    """
    name = f"{hdu.name},{hdu.ver}"
    try:
        data = hdu.data
    except (OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        raise InputError(
            path, name, f"the pixels cannot be read ({error})", "The file is truncated or damaged: download it again"
        ) from error
    if data is None and "PIXVALUE" in hdu.header:
        size = (int(hdu.header["NPIX2"]), int(hdu.header["NPIX1"]))
        data = np.full(size, hdu.header["PIXVALUE"])
    if data is None or getattr(data, "ndim", 0) != 2:
        raise InputError(
            path,
            name,
            "the extension holds no two-dimensional image",
            "Use a calibrated single exposure, not a ramp or a table",
        )
    if shape is not None and data.shape != shape:
        raise InputError(
            path,
            name,
            f"its shape {data.shape} differs from that of SCI, {shape}",
            "The file is damaged or was cut incompletely: cut all extensions alike",
        )
    pixels = np.array(data, dtype=dtype, order="C")
    del data, hdu.data
    if divisor != 1.0:
        pixels /= pixels.dtype.type(divisor)
    return pixels


def julian_year(mjd_utc: float) -> float:
    """Decimal Julian year (TCB, as in Gaia's catalogues) of a modified Julian date in UTC."""
    return float(Time(mjd_utc, format="mjd", scale="utc").tcb.jyear)


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
