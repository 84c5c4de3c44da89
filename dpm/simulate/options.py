"""What the simulator can be told: one `SimulationOptions` a field, one `Visit` a set of exposures of one instrument."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpm.simulate.instruments import INSTRUMENTS

__all__ = ["Effects", "SimulationOptions", "Visit"]


@dataclass(frozen=True)
class Visit:
    """Exposures of one instrument at one epoch: every filter is taken at every pointing.

    Parameters
    ----------
    instrument : str
        A key of `dpm.simulate.instruments.INSTRUMENTS`: ``niriss``, ``nircam_a1``, ``nircam_b1``, ``acs_wfc`` or
        ``wfc3_uvis``.
    filters : tuple of str
        Names of filters of that instrument; empty for its first two.
    epoch : float
        Middle of the visit, decimal Julian year.
    n_dithers : int
        Exposures a filter.
    exptime : float
        Seconds an exposure.
    dither : float
        Step between neighbouring pointings of the square-ish pattern, as a fraction of the frame's side.  A random
        fraction of a pixel comes on top, so that stars fall at all pixel phases.
    rolls : tuple of float
        Position angles of the frame's y axis, degrees from North through East; pointing k has ``rolls[k %
        len(rolls)]``.
    offset : tuple of float
        Centre of the dither pattern in arcsec to the East and to the North of the field's centre.
    chips : tuple of str
        Detectors read out into each file; empty for the instrument's default (one).  ``("WFC1", "WFC2")`` and
        ``("UVIS1", "UVIS2")`` give files of two chips.
    n_pixels : int or None
        Side of the square cut-out of each chip, around its middle; None for the field's, 0 for the whole chip.
    """

    instrument: str = "niriss"
    filters: tuple[str, ...] = ()
    epoch: float = 2022.33
    n_dithers: int = 9
    exptime: float = 128.0
    dither: float = 0.19
    rolls: tuple[float, ...] = (37.0,)
    offset: tuple[float, float] = (0.0, 0.0)
    chips: tuple[str, ...] = ()
    n_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.instrument not in INSTRUMENTS:
            raise ValueError(f"instrument: {self.instrument!r} is not one of {', '.join(INSTRUMENTS)}")
        camera = INSTRUMENTS[self.instrument]
        for name in self.filters:
            if name not in camera.filters:
                raise ValueError(f"filters: {name!r} is not one of {self.instrument}'s: {', '.join(camera.filters)}")
        for name in self.chips:
            if name not in camera.detectors:
                raise ValueError(f"chips: {name!r} is not one of {self.instrument}'s: {', '.join(camera.detectors)}")
        if self.n_dithers < 1 or self.exptime <= 0 or not self.rolls:
            raise ValueError(
                "n_dithers, exptime and rolls: at least one exposure of positive length with a roll is needed"
            )
        if self.n_pixels is not None and self.n_pixels and self.n_pixels < 64:
            raise ValueError(f"n_pixels: {self.n_pixels} is too small, 64 is the least")

    @property
    def filter_names(self) -> tuple[str, ...]:
        """The filters, with the default filled in."""
        return self.filters or tuple(INSTRUMENTS[self.instrument].filters)[:2]

    @property
    def chip_names(self) -> tuple[str, ...]:
        """The detectors, with the default filled in."""
        return self.chips or INSTRUMENTS[self.instrument].detectors[-1:]


@dataclass(frozen=True)
class Effects:
    """What is put on top of stars, sky and noise; everything has a switch.

    Parameters
    ----------
    galaxies : int
        Number of galaxies in the field.
    cosmic_rays : float
        Hits per cm^2 and second; 0 for none.  JWST: nine in ten are flagged (the jump step found them), HST: none.
    bad_pixels : bool
        Dead and hot pixels, flagged and without a value.
    warm_pixels : bool
        Pixels with too much charge; half of them are flagged.
    saturation : bool
        JWST: shorter ramps, down to frame zero, then DO_NOT_USE; HST: charge above the full well bleeds along the
        columns.
    sky_gradient : float
        Change of the sky over the frame, relative.
    flat_error : float
        One-sigma error of the flat field of a pixel, the same pattern in all exposures of a detector and filter;
        VAR_FLAT tells of it.
    filter_distortion : bool
        A smooth term of distortion of each filter that no polynomial of the header has.
    fine_distortion : bool
        A fine pattern of distortion (0.01 pixel) and one small region displaced by up to 0.05 pixel ("void").
    stripes : float
        Rms in electrons of 1/f noise, correlated along the fast direction; not in the VAR planes.  0 for none.
    interpixel_capacitance : float
        Fraction of a pixel's charge that is seen in each of its four neighbours (0.005 in the near infrared); 0 for
        none. The true ePSF that is written includes it.
    brighter_fatter : float
        Strength per electron by which a full pixel pushes light to emptier neighbours (4e-7 gives one per cent in FWHM
        near saturation); 0 for none.  Not in the true ePSF.
    breathing : float
        Amplitude in nm rms of a slow change of focus from exposure to exposure; 0 for none.  The true ePSF that is
        written is that of no change; the change in every exposure stands in scene.json.
    chromatic : float
        Relative growth of a star's effective wavelength in every filter per magnitude of its colour index, from the median star's;
        0 for none.  The true ePSF that is written is the median star's.
    cte_trails : float
        Fraction of the charge that trails behind per 2048 parallel transfers (HST alone); 0 for none.  Not in the true
        ePSF.
    """

    galaxies: int = 40
    cosmic_rays: float = 1.5
    bad_pixels: bool = True
    warm_pixels: bool = True
    saturation: bool = True
    sky_gradient: float = 0.05
    flat_error: float = 0.002
    filter_distortion: bool = True
    fine_distortion: bool = True
    stripes: float = 0.0
    interpixel_capacitance: float = 0.0
    brighter_fatter: float = 0.0
    breathing: float = 0.0
    chromatic: float = 0.0
    cte_trails: float = 0.0


@dataclass(frozen=True)
class SimulationOptions:
    """A simulated star field.

    Parameters
    ----------
    visits : tuple of Visit
        Sets of exposures, all of the same stars.
    n_pixels : int
        Side of the square cut-out from the middle of each chip; 0 for the whole chip.
    keep_offset : bool
        True: cut-outs are subarrays, whose headers say where on the detector they lie; False: the cut-out is the
        frame as it is, with its first pixel at (0, 0).
    n_stars : int
        Stars in the area that the exposures of all visits cover together.
    magnitudes : tuple of float
        Brightest and faintest magnitude, in the first filter of the first visit.
    slope : float
        d log10(N) / d mag of the luminosity function.
    cluster_fraction : float
        Part of the stars that belong to the cluster.
    cluster_radius : float
        Core radius of the cluster's density profile in arcsec; 0 for a uniform density.
    cluster_motion, field_motion : tuple of float
        Mean proper motions (towards East, towards North) in mas/yr.
    cluster_dispersion, field_dispersion : float
        Their dispersions an axis, mas/yr.
    centre : tuple of float
        Right ascension and declination of the field's centre, degrees.
    ref_epoch : float
        Epoch of the true positions and of ``reference.ecsv``, Julian year.
    reference_depth : float
        Stars brighter than the brightest by this many magnitudes (of the first filter) are in ``reference.ecsv``.
    reference_error : float
        Error of the brightest reference positions an axis in mas (motions: 0.075 of it a year).
    pointing_error : float
        One-sigma error of the headers' pointing an axis in arcsec; the header's roll is off by 0.01 degree (one
        sigma) for any positive value.
    wcs : str
        ``"sip"``: headers have the polynomials of distortion; ``"tan"``: JWST headers are linear (HST's never are).
    psf_grid : int
        Nodes an axis of the true ePSF.
    seed : int
        The same seed gives the same bits.
    effects : Effects
        Everything that can be switched.
    """

    visits: tuple[Visit, ...] = (Visit(),)
    n_pixels: int = 512
    keep_offset: bool = False
    n_stars: int = 5000
    magnitudes: tuple[float, float] = (15.5, 26.5)
    slope: float = 0.28
    cluster_fraction: float = 0.5
    cluster_radius: float = 12.0
    cluster_motion: tuple[float, float] = (1.9, 0.3)
    field_motion: tuple[float, float] = (0.0, 1.2)
    cluster_dispersion: float = 0.03
    field_dispersion: float = 2.0
    centre: tuple[float, float] = (80.49, -69.4978)
    ref_epoch: float = 2016.0
    reference_depth: float = 7.0
    reference_error: float = 0.3
    pointing_error: float = 0.2
    wcs: str = "sip"
    psf_grid: int = 3
    seed: int = 1
    effects: Effects = field(default_factory=Effects)

    def __post_init__(self) -> None:
        if not self.visits:
            raise ValueError("visits: at least one is needed")
        if self.wcs not in ("sip", "tan"):
            raise ValueError(f"wcs: {self.wcs!r} is not 'sip' or 'tan'")
        if self.n_pixels and self.n_pixels < 64:
            raise ValueError(f"n_pixels: {self.n_pixels} is too small, 64 is the least")
        if self.n_stars < 1:
            raise ValueError("n_stars: at least one star is needed")
        if self.magnitudes[0] >= self.magnitudes[1]:
            raise ValueError(f"magnitudes: {self.magnitudes} is not (brightest, faintest)")
        if self.psf_grid < 2:
            raise ValueError("psf_grid: at least 2 nodes an axis are needed")
