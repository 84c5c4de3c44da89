"""The one registry of detectors: sizes, nominal pixel scales, names in headers, in ePSF libraries and in the catalogue.

Sizes and chip order are those of the pipelines' calibrated frames (overscan trimmed): ACS/WFC 4096 x 2048 a chip,
WFC3/UVIS 4096 x 2051, WFC3/IR 1014 x 1014 (ACS, WFC3 and NICMOS Data Handbooks); JWST science-frame orientation. Chip
1 of the two-chip cameras is the upper one (it comes second in the file), so its rows start at 2048 in the stacked
ePSF libraries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DETECTORS", "Detector", "band_name", "band_wavelength", "find_detector", "header_detector"]


@dataclass(frozen=True)
class Detector:
    """One detector (one chip).

    Parameters
    ----------
    name : str
        Name in cubes and tables.
    instrument : str
        ``INSTRUME`` of the header.
    band_prefix : str
        First part of the catalogue's per-filter columns.
    library : str
        Name in the STScI ePSF libraries (``STDPSF_<library>_<FILTER>.fits``); empty where there is none.
    library_y_offset : int
        Rows to add to raw y for the library's stacked coordinates.
    nx, ny : int
        Full size in pixels.
    pixel_scale : float
        Nominal scale, arcsec; the geometric mean of the axes.
    stripe_axis : int
        Direction of the fast readout: 1, stripes run along rows; 2, along columns.
    amplifiers : int
        Readout channels side by side across the stripes' direction, each with its own 1/f noise.
    """

    name: str
    instrument: str
    band_prefix: str
    library: str
    library_y_offset: int
    nx: int
    ny: int
    pixel_scale: float
    stripe_axis: int = 1
    amplifiers: int = 1

    @property
    def telescope(self) -> str:
        """``JWST`` or ``HST``."""
        return "JWST" if self.instrument in _JWST_INSTRUMENTS else "HST"


_JWST_INSTRUMENTS = ("NIRISS", "NIRCAM")
# Prefixes of cameras whose filters are named after nanometres (F814W: 0.814 um); the others after tens of them (F090W: 0.90 um).
_NANOMETRE_PREFIXES = ("acswfc", "wfc3uv")


def _nircam(name: str, scale: float) -> Detector:
    return Detector(name, "NIRCAM", "nircam", name, 0, 2048, 2048, scale, 1, 4)


_ALL = (
    Detector("NIRISS", "NIRISS", "niriss", "NIRISS", 0, 2048, 2048, 0.0656, 2, 1),
    *(_nircam(f"NRC{module}{number}", 0.0311) for module in "AB" for number in (1, 2, 3, 4)),
    _nircam("NRCAL", 0.0630),
    _nircam("NRCBL", 0.0630),
    Detector("WFC1", "ACS", "acswfc", "ACSWFC", 2048, 4096, 2048, 0.0500),
    Detector("WFC2", "ACS", "acswfc", "ACSWFC", 0, 4096, 2048, 0.0500),
    Detector("UVIS1", "WFC3", "wfc3uv", "WFC3UV", 2048, 4096, 2051, 0.0396),
    Detector("UVIS2", "WFC3", "wfc3uv", "WFC3UV", 0, 4096, 2051, 0.0396),
    Detector("WFC3IR", "WFC3", "wfc3ir", "WFC3IR", 0, 1014, 1014, 0.1283),
    Detector("NIC1", "NICMOS", "nicmos", "", 0, 256, 256, 0.0432),
    Detector("NIC2", "NICMOS", "nicmos", "", 0, 256, 256, 0.0757),
    Detector("NIC3", "NICMOS", "nicmos", "", 0, 256, 256, 0.2036),
)

DETECTORS: dict[str, Detector] = {detector.name: detector for detector in _ALL}

_HEADER_NAMES = {
    ("NIRISS", "NIS"): "NIRISS",
    ("NIRCAM", "NRCALONG"): "NRCAL",
    ("NIRCAM", "NRCBLONG"): "NRCBL",
    ("WFC3", "IR"): "WFC3IR",
    **{("NIRCAM", f"NRC{module}{number}"): f"NRC{module}{number}" for module in "AB" for number in (1, 2, 3, 4)},
}
_CHIP_NAMES = {("ACS", "WFC"): "WFC", ("WFC3", "UVIS"): "UVIS"}


def find_detector(name: str) -> Detector:
    """The registry's entry for a detector name.

    Raises
    ------
    KeyError
        If no detector has that name.
    """
    try:
        return DETECTORS[name]
    except KeyError:
        raise KeyError(f"detector {name!r} is unknown; known are {', '.join(DETECTORS)}") from None


def header_detector(instrument: str, detector: str, chip: int = 0) -> Detector | None:
    """The detector that a header names, or None where dpm does not support it.

    Parameters
    ----------
    instrument, detector : str
        ``INSTRUME`` and ``DETECTOR`` of the primary header (for NICMOS the second is ignored).
    chip : int
        ``CCDCHIP`` of a two-chip camera, ``CAMERA`` of NICMOS.
    """
    instrument, detector = instrument.strip().upper(), detector.strip().upper()
    if instrument == "NICMOS":
        return DETECTORS.get(f"NIC{chip}")
    stem = _CHIP_NAMES.get((instrument, detector))
    if stem is not None:
        return DETECTORS.get(f"{stem}{chip}")
    return DETECTORS.get(_HEADER_NAMES.get((instrument, detector), ""))


def band_name(detector: Detector | str, filter_name: str) -> str:
    """Prefix of the catalogue's columns of one filter, e.g. ``acswfc_f814w``."""
    entry = find_detector(detector) if isinstance(detector, str) else detector
    return f"{entry.band_prefix}_{filter_name.lower()}"


def band_wavelength(band: str) -> float:
    """Wavelength in micrometres after a band's name (``acswfc_f814w``: 0.814), infinity where the name tells none."""
    prefix, _, rest = band.partition("_")
    found = re.match(r"f(\d{3,4})", rest)
    if not found:
        return float("inf")
    return float(found.group(1)) / (1000.0 if prefix in _NANOMETRE_PREFIXES else 100.0)
