"""What a run can be told, with every default: one frozen dataclass a table of the TOML file.

``config.py`` parses the file into these and checks the limits that stand in the annotations; stages take only the tables
that they declare.  A key made by `_file` names a file or folder: relative to the TOML file there, absolute here, and in a
stage's key by its contents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

__all__ = [
    "ArtificialStarsOptions",
    "AtlasOptions",
    "ClusterOptions",
    "DistortionOptions",
    "FindOptions",
    "FrameOptions",
    "InputOptions",
    "MotionsOptions",
    "Options",
    "PhotometryOptions",
    "PopulationOptions",
    "PsfOptions",
    "RunOptions",
    "SelectionOptions",
]


def _file(default: str, *words: str) -> str:
    """A key that names a file or folder, unless it is empty or one of the words."""
    return field(default=default, metadata={"file": True, "words": words})


@dataclass(frozen=True)
class RunOptions:
    """``[run]``: name of the run and the folder that holds everything it makes."""

    name: str = "field"
    directory: str = "run"


@dataclass(frozen=True)
class InputOptions:
    """``[input]``: exposures (globs), the reference catalogue, and how files are read.

    ``gain`` (electrons per DN) and ``read_noise`` (electrons) are used only for files without any variances.
    """

    exposures: tuple[str, ...] = field(default=(), metadata={"file": True, "words": ()})
    reference: str = _file("")
    remove_stripes: bool = False
    gwcs: bool = False
    gain: Annotated[float, Gt(0)] | None = None
    read_noise: Annotated[float, Ge(0)] | None = None


@dataclass(frozen=True)
class PsfOptions:
    """``[psf]``: ``source`` is ``"build"``, an STDPSF file, or a folder of them.

    ``grid`` is the number of ePSFs along each side of the detector that a build makes, where the stars suffice.  ``perturb`` gives
    each exposure an ePSF of its own where its stars fit better with it; ``brightness`` lets the ePSF change with a star's charge
    (brighter-fatter) where stars left out of that fit gain.
    """

    source: str = _file("build", "build")
    grid: Annotated[int, Ge(1)] = 5
    perturb: bool = False
    brightness: bool = False


@dataclass(frozen=True)
class DistortionOptions:
    """``[distortion]``: ``source`` is ``"solve"`` (from the exposures), ``"wcs"``, an STDGDC file, or a folder of them."""

    source: str = _file("solve", "wcs", "solve")


@dataclass(frozen=True)
class FrameOptions:
    """``[frame]``: scale (arcsec per pixel; the finest detector's when not set) and the exposures that a star must be in.

    ``max_offset`` is how far off (arcsec) the headers' pointing may be.  ``match_radius`` is in pixels of the coarsest
    detector of an epoch.  A star must be in ``min_exposures`` exposures, and in ``min_fraction`` of those of one band that
    could show it.
    """

    scale: Annotated[float, Gt(0)] | None = None
    min_exposures: Annotated[int, Ge(1)] = 3
    min_fraction: Annotated[float, Ge(0)] = 0.4
    max_offset: Annotated[float, Gt(0)] = 5.0
    match_radius: Annotated[float, Gt(0)] = 0.5
    clip_sigma: Annotated[float, Gt(0)] = 3.5


@dataclass(frozen=True)
class FindOptions:
    """``[find]``: what counts as a star in one exposure.

    ``threshold`` is in units of the matched filter's noise; ``passes`` counts find-and-fit rounds, each on the residuals of
    the rounds before; ``fit_sky`` fits the sky with the star instead of taking it from the annulus; stars with a QFIT above
    ``max_qfit`` are dropped (0: none is).
    """

    threshold: Annotated[float, Gt(0)] = 5.0
    passes: Annotated[int, Ge(1)] = 3
    fit_sky: bool = False
    max_qfit: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True)
class PhotometryOptions:
    """``[photometry]``: zero points by band (``niriss_f090w``) or band and detector (``niriss_f090w.NIS``), in quotes.

    ``system`` says what magnitudes are where no zero point is given here: ``"auto"`` takes the headers' of a band whose
    exposures all have one (AB, else Vega), ``"ab"`` and ``"vega"`` take that one, ``"instrumental"`` leaves -2.5 log10 of the
    flux.  Beside ``"ab"`` or ``"vega"`` it also names the system of the zero points that are given.

    ``encircled_energy``: the fraction of a star's light, by band, that lies within the radius where the ePSF is normalised to 1
    (5 pixels for those dpm builds).  Fluxes hold that light; magnitudes are made those of all of it.
    """

    zero_points: dict[str, float] = field(default_factory=dict)
    system: Literal["auto", "instrumental", "vega", "ab"] = "auto"
    encircled_energy: dict[str, Annotated[float, Gt(0), Le(1)]] = field(default_factory=dict)


@dataclass(frozen=True)
class ArtificialStarsOptions:
    """``[artificial_stars]``: how many, and what they are like; 0 stars: the stage does nothing.

    ``magnitudes`` gives [bright, faint] by band (``niriss_f090w``). The first band's magnitudes are uniform between them; those
    of the others are uniform as well where they are given, and else on the fiducial line: ``fiducial`` is a table with one
    column of magnitudes a band, or empty for the catalogue's own sequence (of stars good to 0.1 mag in both bands, then
    straight on). Without ``magnitudes`` the first band's go from the brightest unsaturated star to a magnitude below the
    faintest. ``positions`` are ``"uniform"`` over what enough exposures cover, or follow the ``"stars"``. ``table`` names a
    table of x, y (master pixels) or ra, dec, and a column of magnitudes a band, instead of all these. The same ``seed`` gives
    the same stars.

    Over several epochs stars move by ``motion``, [pmra, pmdec] in mas/yr, or as the table's columns of these names say; when not
    set, as most stars of the catalogue do.  ``epsf_error`` (say 0.01) puts them in with ePSFs that are wider, narrower or longer
    than those they are measured with, by this relative width (one sigma), another one for each star and exposure: with the same
    ePSF, errors of bright artificial stars are a lower limit of the real ones'.
    """

    n: Annotated[int, Ge(0)] = 0
    magnitudes: dict[str, tuple[float, float]] = field(default_factory=dict)
    fiducial: str = _file("")
    positions: Literal["uniform", "stars"] = "uniform"
    table: str = _file("")
    seed: Annotated[int, Ge(0)] = 1
    motion: tuple[float, float] | None = None
    epsf_error: Annotated[float, Ge(0), Le(0.2)] = 0.0


@dataclass(frozen=True)
class SelectionOptions:
    """``[selection]``: which stars count as well measured, real and artificial ones alike; needs ``[artificial_stars]``.

    Each of the ``quantities`` (a band's columns without its prefix) is cut in each of the ``bands`` (all when empty) at every
    magnitude so that ``keep`` of the well-recovered artificial stars pass.  ``regions`` names a file of
    `dpm.science.write_selections` (footprints, parts of the colour-magnitude diagram, motions) that stars have to lie in as well;
    they come first.
    """

    keep: Annotated[float, Gt(0), Lt(1)] = 0.99
    quantities: tuple[str, ...] = ("sky_rms", "radxs", "qfit", "mag_error", "neighbor_ratio")
    bands: tuple[str, ...] = ()
    regions: str = _file("")


@dataclass(frozen=True)
class MotionsOptions:
    """``[motions]``: members, and motions against them, where stars were seen at two epochs.

    ``reference`` is a catalogue of another time that serves as first epoch where the exposures have only one ([input]
    reference when empty), and whose motions are compared.  Members are chosen by their motions, among the stars of ``members``
    (a table of ra, dec) and of ``cmd_polygon`` (corners in colour and magnitude of ``cmd_bands``: blue, red, magnitude) where
    these are given; ``center`` (ra, dec in degrees) lets the cluster's share fall outwards.  ``neighbors``: the nearest
    reference stars of a local transform, 0 for one transform of all.  ``corrections`` subtracts the members' mean motion about
    each star, on the sky and in magnitude; ``parallax`` solves for parallaxes; ``priors`` combines the reference's motions with
    the new positions.  ``max_motion`` (mas/yr) limits the search for partners in a catalogue without motions.
    """

    reference: str = _file("")
    members: str = _file("")
    cmd_bands: tuple[str, ...] = ()
    cmd_polygon: tuple[tuple[float, float], ...] = ()
    center: tuple[float, float] | None = None
    neighbors: Annotated[int, Ge(0)] = 0
    corrections: bool = False
    parallax: bool = False
    priors: bool = False
    max_motion: Annotated[float, Gt(0)] = 10.0


@dataclass(frozen=True)
class AtlasOptions:
    """``[atlas]``: stacked and colour images of the field, which ``make`` asks for.

    ``scale`` is arcsec per pixel (the master frame's when not set); exposures are drizzled with drops of ``pixfrac`` of their
    pixels a side.  ``colour_bands`` names the red, (green,) and blue bands of the colour image; without it, every epoch's longest
    and shortest are red and blue.  A FITS file is at most ``max_side`` pixels a side (rounded up to 1024); larger fields are cut.
    """

    make: bool = False
    scale: Annotated[float, Gt(0)] | None = None
    pixfrac: Annotated[float, Gt(0), Le(1)] = 1.0
    colour_bands: tuple[str, ...] = ()
    max_side: Annotated[int, Ge(1)] = 8192


@dataclass(frozen=True)
class PopulationOptions:
    """``[population]``: models that the report draws over colour-magnitude diagrams; part of no stage's key.

    ``isochrones`` are files of BaSTI-IAC, PARSEC or MIST, ``tracks`` white dwarf cooling tracks (Montreal, BaSTI), of which
    ``surface_colors``, a Bergeron table, gives the magnitudes where it is set.  ``bands`` says what the files call the catalogue's
    bands, {niriss_f090w = "F090W"}; ``track_bands`` the same for tracks or table where they differ; ``system`` is that of their
    magnitudes.  ``ages`` (Gyr) picks isochrones.  Every star has the same ``distance_modulus``, (m - M)_0, and extinction: A_V is
    ``r_v`` times ``e_bv``, and other bands' that of the ``law`` (wang_chen_2019, or a name of dust_extinction) or of
    ``extinction_ratios``, A / A_V by band.  Loci of binaries are drawn for each of the ``mass_ratios``.
    """

    isochrones: tuple[str, ...] = field(default=(), metadata={"file": True, "words": ()})
    tracks: tuple[str, ...] = field(default=(), metadata={"file": True, "words": ()})
    surface_colors: str = _file("")
    bands: dict[str, str] = field(default_factory=dict)
    track_bands: dict[str, str] = field(default_factory=dict)
    ages: tuple[Annotated[float, Gt(0)], ...] = ()
    distance_modulus: float | None = None
    e_bv: Annotated[float, Ge(0)] = 0.0
    r_v: Annotated[float, Gt(0)] = 3.1
    law: str = "wang_chen_2019"
    extinction_ratios: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    system: Literal["vega", "ab"] = "vega"
    mass_ratios: tuple[Annotated[float, Gt(0), Le(1)], ...] = (1.0,)


@dataclass(frozen=True)
class ClusterOptions:
    """``[cluster]``: where the work is done and how a local cluster is sized; never part of a stage's key.

    ``use`` is what ``--cluster`` overrides: ``"auto"``, ``"none"``, ``"threads"``, ``"local"``, ``"slurm"``, ``"pbs"``, a
    scheduler's address or file.
    ``worker_timeout`` is how long (seconds) a cluster may be without any worker.  A task that takes longer than ``task_timeout``
    (seconds; no limit when not set) ends its worker, is tried once more, and then fails; for workers of one thread.  ``tls``
    encrypts and authenticates all traffic, with certificates made for the run, or those of the folder ``certificates``
    (ca.pem, cert.pem, key.pem).
    """

    use: str = "auto"
    workers: Annotated[int, Ge(1)] | None = None
    memory_per_worker: str = "1.5GiB"
    worker_timeout: Annotated[float, Gt(0)] = 300.0
    task_timeout: Annotated[float, Gt(0)] | None = None
    tls: bool = False
    certificates: str = _file("")


@dataclass(frozen=True)
class Options:
    """Everything a run can be told."""

    run: RunOptions = field(default_factory=RunOptions)
    input: InputOptions = field(default_factory=InputOptions)
    psf: PsfOptions = field(default_factory=PsfOptions)
    distortion: DistortionOptions = field(default_factory=DistortionOptions)
    frame: FrameOptions = field(default_factory=FrameOptions)
    find: FindOptions = field(default_factory=FindOptions)
    photometry: PhotometryOptions = field(default_factory=PhotometryOptions)
    artificial_stars: ArtificialStarsOptions = field(default_factory=ArtificialStarsOptions)
    motions: MotionsOptions = field(default_factory=MotionsOptions)
    selection: SelectionOptions = field(default_factory=SelectionOptions)
    atlas: AtlasOptions = field(default_factory=AtlasOptions)
    population: PopulationOptions = field(default_factory=PopulationOptions)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
