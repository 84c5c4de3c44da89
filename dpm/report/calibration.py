"""What a run folder holds of its own calibration: the history of an ePSF build, and solved distortions."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from dpm.io.distortion_files import errors_file
from dpm.io.quiet import ignored
from dpm.report.data import RunData, read_json

__all__ = ["TERMS", "Build", "Solution", "load_builds", "load_solutions"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
# Terms of a solved distortion in the order in which they are fitted, as the extensions are named.
TERMS = ("START", "POLYNOMIAL", "TABLE", "FINE")
_EXTENSION = re.compile(rf"(.+?)_(?:(?:{'|'.join(TERMS)})(?:_HISTOGRAM)?|CORRECTION|OFF_MEAN|ERROR)")


@dataclass(frozen=True)
class Build:
    """Rounds of an ePSF build of one cube, as ``calibration/psf/build.json`` has them.

    Parameters
    ----------
    cube : str
        ``<DETECTOR>_<FILTER>``.
    updates : list of dict
        One entry a round: ``change`` and ``noise`` (RMS within 1.5 pixels over the peak), ``ring_chi`` (12,), ``stars``,
        ``averaged``, ``nodes`` (2,), ``node_stars``, ``outer``, ``inner``.
    averages : list of dict
        One entry a round: ``phase`` (bins,), ``bias`` (2, bins) in pixels, ``amplitude``, ``scatter``, ``qfit``, ``mix``.
    phase_spread : float
        How evenly dithers spread a star over pixel phases, 0 to 1; NaN where unknown.
    """

    cube: str
    updates: list[dict[str, Any]]
    averages: list[dict[str, Any]]
    phase_spread: float

    def average_over_dithers(self) -> dict[str, Any] | None:
        """The last round whose positions are averages alone, without a share of each exposure's own."""
        plain = [entry for entry in self.averages if not entry.get("mix")]
        return plain[-1] if plain else None


@dataclass
class Solution:
    """Diagnostics of one detector's distortion, as ``solution_<DETECTOR>.fits`` has them.

    Parameters
    ----------
    detector : str
    header : dict
        Keywords of the primary header.
    units : Table or None
        One row an exposure.
    filters : tuple of str
    images : dict of ndarray
        Image extensions by name; those of a residual map are (3, cells, cells): dx, dy (pixels) and number.
    extent : (float, float, float, float) or None
        First and last raw column, first and last raw row of the maps; None where the file of errors is absent.
    """

    detector: str
    header: dict[str, Any]
    units: Table | None
    filters: tuple[str, ...]
    images: dict[str, Floats] = field(default_factory=dict)
    extent: tuple[float, float, float, float] | None = None

    def terms(self, filter_name: str) -> list[str]:
        """Terms after which a filter has a residual map or a histogram, in order."""
        names = [f"{filter_name}_{term}" for term in TERMS]
        return [
            term
            for term, name in zip(TERMS, names, strict=True)
            if self.image(name, 3) is not None or self.image(f"{name}_HISTOGRAM", 2) is not None
        ]

    def image(self, name: str, dimensions: int) -> Floats | None:
        """An extension with as many dimensions and at least two layers, None where the file has no such."""
        found = self.images.get(name)
        return found if found is not None and found.ndim == dimensions and len(found) >= 2 else None


def load_builds(data: RunData) -> list[Build]:
    """Histories of ePSF builds by cube; none where the library was not built here or the file cannot be read."""
    history = read_json(data.folder.psf / "build.json", data.warnings)
    builds = []
    for cube, entry in sorted(history.items()):
        if not isinstance(entry, dict):
            continue
        updates, averages = (_entries(entry.get(key)) for key in ("updates", "averages"))
        if updates or averages:
            spread = entry.get("phase_spread", "nan")
            known = isinstance(spread, int | float)
            builds.append(Build(str(cube), updates, averages, float(spread if known else "nan")))
    return builds


def load_solutions(data: RunData) -> list[Solution]:
    """Diagnostics of solved distortions by detector; files that cannot be read are named in ``data.warnings``."""
    folder = data.folder.distortion
    solutions = []
    for path in sorted(folder.glob("solution_*.fits")) if folder.is_dir() else []:
        try:
            solutions.append(_read_solution(path))
        except (OSError, ValueError, TypeError, KeyError) as error:
            data.warnings.append(f"{path.name} could not be read: {error}")
            logger.warning("report: %s could not be read: %s", path, error)
    return solutions


def _entries(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _read_solution(path: Path) -> Solution:
    detector = path.stem.removeprefix("solution_")
    # Warnings are of cut files, which the report names itself.
    with ignored(AstropyWarning), fits.open(path, memmap=False) as hdus:
        header = dict(hdus[0].header)
        units = Table(hdus["UNITS"].data) if "UNITS" in hdus else None
        images = {
            hdu.name: np.asarray(hdu.data, dtype=float)
            for hdu in hdus[1:]
            if isinstance(hdu, fits.ImageHDU) and hdu.data is not None
        }
    if not images:
        raise ValueError("it holds no map; run the distortion stage again")
    found = [match.group(1) for match in map(_EXTENSION.fullmatch, images) if match]
    filters = tuple(dict.fromkeys(found))
    return Solution(detector, header, units, filters, images, _extent(errors_file(path.parent, detector)))


def _extent(path: Path) -> tuple[float, float, float, float] | None:
    """Raw pixels of the maps' first and last nodes."""
    try:
        with fits.open(path, memmap=False) as hdus:
            x, y = np.asarray(hdus["NODE_X"].data, dtype=float), np.asarray(hdus["NODE_Y"].data, dtype=float)
        return float(x.min()), float(x.max()), float(y.min()), float(y.max())
    except (OSError, ValueError, TypeError, KeyError):
        return None
