"""The cameras that can be simulated: detectors, noise, filters, and how their headers call them.

Pixel scales, gains, full wells and read noises are rounded real ones.  Zero points are magnitudes of one DN/s (JWST)
or one electron/s (HST) and stand for no photometric system in particular.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["INSTRUMENTS", "Band", "Instrument"]


@dataclass(frozen=True)
class Band:
    """One filter.

    Parameters
    ----------
    wavelength, width : float
        Middle and full width, micrometres.
    zero_point : float
        Magnitude of a star of one DN/s (JWST) or electron/s (HST).
    sky : float
        Sky in the same unit per pixel of nominal area.
    """

    wavelength: float
    width: float
    zero_point: float
    sky: float


@dataclass(frozen=True)
class Instrument:
    """One camera.

    Parameters
    ----------
    name : str
        Key of `INSTRUMENTS`.
    telescope, header_instrument : str
        TELESCOP and INSTRUME.
    detectors : tuple of str
        Names as in DESIGN section 4, uppermost chip first.
    header_detector : str
        DETECTOR in headers.
    code : str
        What stands for the detector in file names.
    shape : tuple of int
        (ny, nx) of a whole chip.
    pixel_scale, pixel_size : float
        Arcsec and cm.
    gain : float
        Electrons per unit of the flux (DN; 1 for HST, whose fluxes are in electrons).
    read_noise : float
        Electrons an exposure (JWST: of a full ramp's slope times the exposure time).
    poisson_factor : float
        Variance over counts: above 1 for ramps, whose reads are correlated.
    saturation : float
        Full well, electrons.
    pupil : str
        ``segments`` or ``annulus``.
    diameter : float
        Metres.
    wavefront, wavefront_field : float
        Wavefront error in nm rms: common, and varying over the field.
    diffusion : float
        One-sigma blur by diffusion of charge, pixels.
    library : str
        Name in the STScI ePSF library.
    filters : dict of str to Band
        Filters by name.
    """

    name: str
    telescope: str
    header_instrument: str
    detectors: tuple[str, ...]
    header_detector: str
    code: str
    shape: tuple[int, int]
    pixel_scale: float
    pixel_size: float
    gain: float
    read_noise: float
    poisson_factor: float
    saturation: float
    pupil: str
    diameter: float
    wavefront: float
    wavefront_field: float
    diffusion: float
    library: str
    filters: dict[str, Band] = field(default_factory=dict)

    @property
    def is_jwst(self) -> bool:
        """Whether files are JWST's ``_cal`` (else HST's ``_flc``)."""
        return self.telescope == "JWST"


_NIRISS = {
    "F090W": Band(0.901, 0.194, 26.30, 0.22),
    "F150W": Band(1.494, 0.336, 26.00, 0.22),
    "F115W": Band(1.150, 0.268, 26.20, 0.22),
    "F200W": Band(1.993, 0.458, 25.60, 0.22),
}
_NIRCAM = {
    "F115W": Band(1.154, 0.225, 26.25, 0.10),
    "F150W": Band(1.501, 0.318, 26.05, 0.10),
    "F090W": Band(0.902, 0.194, 26.10, 0.08),
    "F200W": Band(1.989, 0.457, 25.70, 0.10),
}
_ACS = {
    "F606W": Band(0.592, 0.200, 26.40, 0.10),
    "F814W": Band(0.805, 0.180, 25.52, 0.08),
    "F435W": Band(0.433, 0.090, 25.78, 0.03),
    "F475W": Band(0.474, 0.120, 26.16, 0.05),
}
_UVIS = {
    "F606W": Band(0.588, 0.200, 25.99, 0.07),
    "F814W": Band(0.802, 0.160, 24.68, 0.05),
    "F438W": Band(0.432, 0.070, 24.98, 0.02),
    "F336W": Band(0.335, 0.050, 23.46, 0.01),
}


def _nircam(module: str) -> Instrument:
    detector = f"NRC{module}1"
    return Instrument(
        f"nircam_{module.lower()}1", "JWST", "NIRCAM", (detector,), detector, detector.lower(), (2048, 2048), 0.0311,
        18e-4, 1.6, 12.0, 1.25, 90000.0, "segments", 6.5, 55.0, 15.0, 0.20, detector, _NIRCAM,
    )  # fmt: skip


INSTRUMENTS: dict[str, Instrument] = {
    "niriss": Instrument(
        "niriss", "JWST", "NIRISS", ("NIRISS",), "NIS", "nis", (2048, 2048), 0.0656, 18e-4,
        1.6, 12.0, 1.25, 90000.0, "segments", 6.5, 55.0, 15.0, 0.20, "NIRISS", _NIRISS,
    ),
    "nircam_a1": _nircam("A"),
    "nircam_b1": _nircam("B"),
    "acs_wfc": Instrument(
        "acs_wfc", "HST", "ACS", ("WFC1", "WFC2"), "WFC", "j", (2048, 4096), 0.0498, 15e-4,
        1.0, 4.5, 1.0, 80000.0, "annulus", 2.4, 30.0, 6.0, 0.36, "ACSWFC", _ACS,
    ),
    "wfc3_uvis": Instrument(
        "wfc3_uvis", "HST", "WFC3", ("UVIS1", "UVIS2"), "UVIS", "i", (2051, 4096), 0.0396, 15e-4,
        1.0, 3.1, 1.0, 68000.0, "annulus", 2.4, 40.0, 6.0, 0.36, "WFC3UV", _UVIS,
    ),
}  # fmt: skip
