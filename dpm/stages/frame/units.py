"""What the frame stage knows of one unit (one exposure of one detector): its detections and how they lie on the sky."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dpm.models.distortion_errors import DistortionErrors
from dpm.models.flags import StarFlag
from dpm.models.transform import LinearFit, LinearTransform

__all__ = ["EPOCH_GAP", "NOT_CLEAN", "Unit", "by_unit", "epoch_groups", "gather", "match_radius", "placed_epochs", "stack"]

Floats = NDArray[np.float64]

# Exposures further apart than this (years) are different epochs.
EPOCH_GAP = 0.1

# Detections with any of these bits neither carry transforms nor judge errors.
NOT_CLEAN = int(
    StarFlag.SATURATED
    | StarFlag.NOT_CONVERGED
    | StarFlag.SHARP
    | StarFlag.EXTENDED
    | StarFlag.FEW_PIXELS
    | StarFlag.EDGE
    | StarFlag.NEAR_SATURATED
)


@dataclass
class Unit:
    """Detections of one exposure of one detector.

    Positions ``u, v`` are corrected for distortion, in pixels of the nominal scale from the detector's centre;
    ``start`` takes them to the master frame as the header says, ``transform`` as the solution says (None: not matched).

    Parameters
    ----------
    exposure, detector, band : str
        Names; `band` is the catalogue's prefix.
    epoch : float
        Decimal year.
    u, v : ndarray (n,)
        Corrected positions.
    x_error, y_error : ndarray (n,)
        One-sigma errors, pixels.
    flux, flux_error : ndarray (n,)
        With the pixel area applied.
    flags : ndarray (n,), int32
        Bits of `StarFlag`.
    row : ndarray (n,), int32
        Row of each detection in its file.
    outline_u, outline_v : ndarray (k,)
        Corners of the detector, corrected.
    start : LinearTransform
        To the master frame, from the header.
    to_raw : callable
        Corrected to raw positions (0-based), good to a tenth of a pixel.
    load : callable
        A column of the detections file by name, for the rows kept.
    pixel_scale : float
        Nominal, arcsec.
    bounds : tuple of float
        Raw x and y limits of the array: x_min, x_max, y_min, y_max.
    zero_point_prior : float
        Zero point from the header or the configuration, which ties units that share no stars; NaN for none.
    epsf_error : float
        Relative error of bright stars' fluxes that the ePSF's own error brings; all units share it.
    filter : str
        Name of the filter.
    x, y : ndarray (n,)
        Raw positions, 0-based pixels of the full detector.
    forward : callable
        Raw to corrected positions, as `u` and `v` were made.
    va_scale : float
        Velocity aberration's scale: ideal offset = sky offset / va_scale; 1 where it is unknown.
    map_errors : DistortionErrors, optional
        Errors of a distortion solved from the data.
    """

    exposure: str
    detector: str
    band: str
    epoch: float
    u: Floats
    v: Floats
    x_error: Floats
    y_error: Floats
    flux: Floats
    flux_error: Floats
    flags: NDArray[np.int32]
    row: NDArray[np.int32]
    outline_u: Floats
    outline_v: Floats
    start: LinearTransform
    to_raw: Callable[[Floats, Floats], tuple[Floats, Floats]]
    load: Callable[[str], NDArray]
    pixel_scale: float
    bounds: tuple[float, float, float, float]
    zero_point_prior: float = float("nan")
    epsf_error: float = 0.0
    filter: str = ""
    x: Floats = field(default_factory=lambda: np.zeros(0))
    y: Floats = field(default_factory=lambda: np.zeros(0))
    forward: Callable[[Floats, Floats], tuple[Floats, Floats]] | None = None
    va_scale: float = 1.0
    map_errors: DistortionErrors | None = None
    transform: LinearTransform | None = None
    fit: LinearFit | None = None
    zero_point: float = float("nan")
    zero_point_error: float = float("nan")
    residual_rms: float = float("nan")
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.u)

    @property
    def name(self) -> str:
        """Name for messages and files."""
        return f"{self.exposure}_{self.detector}"

    @property
    def instrumental(self) -> Floats:
        """Instrumental magnitudes; NaN where the flux is not positive."""
        return -2.5 * np.log10(np.where(self.flux > 0, self.flux, np.nan))

    def bright(self, most: int) -> NDArray[np.int64]:
        """Indices of the brightest well-measured detections, brightest first.

        Where nearly everything is flagged (a field of galaxies, an odd ePSF), the flags are given up.
        """
        usable = np.isfinite(self.u) & np.isfinite(self.v) & (self.flux > 0)
        clean = usable & ((self.flags & NOT_CLEAN) == 0)
        chosen = np.flatnonzero(clean if clean.sum() >= min(10, usable.sum()) else usable)
        return chosen[np.argsort(-self.flux[chosen], kind="stable")[:most]]

    def jacobian(self, u: Floats, v: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Derivatives dx/du, dx/dv, dy/du, dy/dv of raw by corrected positions."""
        (x1, y1), (x0, y0) = self.to_raw(u + 0.5, v), self.to_raw(u - 0.5, v)
        (x3, y3), (x2, y2) = self.to_raw(u, v + 0.5), self.to_raw(u, v - 0.5)
        return x1 - x0, x3 - x2, y1 - y0, y3 - y2

    def position(self) -> tuple[Floats, Floats]:
        """Detections on the master frame by the solution, or by the header where there is none."""
        return (self.transform or self.start)(self.u, self.v)

    def outline(self) -> tuple[Floats, Floats]:
        """Corners of the detector on the master frame."""
        return (self.transform or self.start)(self.outline_u, self.outline_v)


def epoch_groups(units: Sequence[Unit]) -> list[list[int]]:
    """Indices of units by epoch, oldest first; epochs are apart by `EPOCH_GAP` or more."""
    order = sorted(range(len(units)), key=lambda k: (units[k].epoch, units[k].exposure, units[k].detector))
    groups: list[list[int]] = []
    for k in order:
        if groups and units[k].epoch - units[groups[-1][-1]].epoch < EPOCH_GAP:
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups


def placed_epochs(units: Sequence[Unit]) -> list[list[int]]:
    """Indices by epoch of the units on the master frame, oldest first."""
    placed = [k for k, unit in enumerate(units) if unit.transform is not None]
    return [[placed[k] for k in members] for members in epoch_groups([units[k] for k in placed])]


def match_radius(units: Sequence[Unit], pixels: float, scale: float) -> float:
    """A radius in pixels of the units' coarsest detector, whose positions scatter most, as master pixels.

    Parameters
    ----------
    units : sequence of Unit
        Units of one epoch.
    pixels : float
        ``[frame] match_radius``.
    scale : float
        Arcsec per master pixel.
    """
    return pixels * max(unit.pixel_scale for unit in units) / scale


def stack(parts: Sequence[NDArray]) -> tuple[NDArray, NDArray[np.int64]]:
    """Parts end to end, and where each begins (with the total at the end)."""
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return (np.concatenate(parts) if parts else np.zeros(0)), starts


def by_unit(rows: NDArray[np.int64], unit: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Rows of stacked detections, which are in the order of units, split by unit: (unit, rows)."""
    edges = np.flatnonzero(np.diff(unit[rows])) + 1
    return [(int(unit[part[0]]), part) for part in np.split(rows, edges) if len(part)]


def gather(
    rows: NDArray[np.int64], unit: NDArray[np.int64], starts: NDArray[np.int64], units: Sequence[Unit], name: str
) -> NDArray:
    """An attribute of the units' detections at rows of the stack (in the order of units)."""
    empty = getattr(units[0], name)[:0]
    return np.concatenate([empty, *(getattr(units[k], name)[part - starts[k]] for k, part in by_unit(rows, unit))])
