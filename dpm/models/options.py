"""What a run can be told, with every default: one frozen dataclass a table of the TOML file.

``config.py`` parses the file into these; stages take only the tables that they declare.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "ClusterOptions",
    "DistortionOptions",
    "FindOptions",
    "FrameOptions",
    "InputOptions",
    "Options",
    "PhotometryOptions",
    "PsfOptions",
    "RunOptions",
]


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

    exposures: tuple[str, ...] = ()
    reference: str = ""
    remove_stripes: bool = False
    gwcs: bool = False
    gain: float | None = None
    read_noise: float | None = None


@dataclass(frozen=True)
class PsfOptions:
    """``[psf]``: ``source`` is ``"build"``, an STDPSF file, or a folder of them."""

    source: str = "build"


@dataclass(frozen=True)
class DistortionOptions:
    """``[distortion]``: ``source`` is ``"wcs"``, an STDGDC file, or a folder of them."""

    source: str = "wcs"


@dataclass(frozen=True)
class FrameOptions:
    """``[frame]``: scale (arcsec per pixel; the finest detector's when None) and the exposures that a star must be in.

    ``max_offset`` is how far off (arcsec) the headers' pointing may be.
    """

    scale: float | None = None
    min_exposures: int = 3
    max_offset: float = 5.0
    match_radius: float = 0.5
    clip_sigma: float = 3.5


@dataclass(frozen=True)
class FindOptions:
    """``[find]``: what counts as a star in one exposure.

    ``threshold`` is in units of the matched filter's noise; ``passes`` counts find-and-fit rounds, each on the residuals of
    the rounds before; ``fit_sky`` fits the sky with the star instead of taking it from the annulus.
    """

    threshold: float = 5.0
    passes: int = 2
    fit_sky: bool = False
    max_qfit: float = 0.0


@dataclass(frozen=True)
class PhotometryOptions:
    """``[photometry]``: zero points by band (``niriss_f090w``) or band and detector (``niriss_f090w.NIS``); ``system``."""

    zero_points: dict[str, float] = field(default_factory=dict)
    system: str = "instrumental"


@dataclass(frozen=True)
class ClusterOptions:
    """``[cluster]``: how the local cluster is sized; never part of a stage's key."""

    workers: int | None = None
    memory_per_worker: str = "1.5GiB"
    worker_timeout: float = 300.0


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
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
