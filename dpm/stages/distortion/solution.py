"""What a distortion solution gives: maps, transforms, mean star positions, their errors, and diagnostics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.models.distortion import MapDistortion
from dpm.models.distortion_errors import DistortionErrors
from dpm.models.transform import LinearTransform
from dpm.stages.distortion.changes import Change

__all__ = ["DetectorSolution", "DistortionSolution", "TermResiduals", "UnitSolution"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Key = tuple[str, str]


@dataclass(frozen=True)
class TermResiduals:
    """Residuals of one filter after one term of the solution: what the report draws.

    Parameters
    ----------
    term : str
        ``"start"``, ``"polynomial"``, ``"table"`` or ``"fine"``: everything up to it is applied.
    dx, dy : ndarray (20, 20)
        Clipped means in cells, star's mean less measurement, raw pixels; NaN where there are no stars.
    count : ndarray (20, 20)
        Measurements in each cell.
    rms : tuple of float
        Robust scatter along x and y of all used measurements.
    histogram : ndarray (2, bins)
        Counts along x and y between `edges`.
    edges : ndarray (bins + 1,)
        Pixels.
    """

    term: str
    dx: Floats
    dy: Floats
    count: Floats
    rms: tuple[float, float]
    histogram: Floats
    edges: Floats


@dataclass
class UnitSolution:
    """One unit's part in the solution.

    Parameters
    ----------
    name : str
        Of the unit.
    transform : LinearTransform
        Four parameters: from corrected pixels about the detector's centre (the map's value less `centre`) to the master
        frame.
    pixel_scale, pixel_scale_error : float
        Arcsec at the detector's centre with velocity aberration taken out, and its error; NaN without a reference, where
        the headers alone tell the scale of all.
    pixel_scale_relative_error : float
        The error against the mean of the filter's exposures, arcsec.
    n_used : int
        Measurements used.
    rms : float
        Robust scatter of their residuals, raw pixels.
    change : Change
        Its distortion less the map.
    star : ndarray (n,)
        Star of every detection of the unit, -1 for none (only detections good enough to be solved with have one).
    """

    name: str
    transform: LinearTransform
    pixel_scale: float
    pixel_scale_error: float
    pixel_scale_relative_error: float
    n_used: int
    rms: float
    change: Change
    star: Ints


@dataclass
class DetectorSolution:
    """Solution of one detector, all its filters together.

    Parameters
    ----------
    detector : str
    filters : list of str
    order : int
        Of the polynomial.
    centre : tuple of float
        Raw position of the gauge's centre.
    units : list of int
        Indices of its units in the list that was solved.
    star_x, star_y, star_error : ndarray (n_stars,)
        Mean positions on the master frame and their errors per axis, the distortion's not included.
    residuals : dict
        For each filter a list of `TermResiduals`.
    error_rms : float
        Expected error of the maps, RMS per axis over pixels with four parameters removed, from the solution's
        covariance.
    bent_rms : float
        The same with six parameters removed: without the error of skew, which dithers of one roll cannot tell.
    errors : DistortionErrors
        Draws of the errors of maps and transforms.
    floor : dict
        Error beyond the formal ones by filter, pixels.
    summary : dict
        Numbers for the log: priors, rounds, reference.
    """

    detector: str
    filters: list[str]
    order: int
    centre: tuple[float, float]
    units: list[int]
    star_x: Floats
    star_y: Floats
    star_error: Floats
    residuals: dict[str, list[TermResiduals]]
    error_rms: float
    bent_rms: float
    errors: DistortionErrors
    floor: dict[str, float]
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass
class DistortionSolution:
    """Everything that `solve_distortion` found.

    Parameters
    ----------
    maps : dict
        ``(detector, filter)`` to its map; detectors that could not be solved are missing.
    units : dict
        Index of a unit in the list that was solved, to its `UnitSolution`; units left out are missing.
    detectors : dict
        By name.
    warnings : list of str
        In words, with what was done about it.
    """

    maps: dict[Key, MapDistortion] = field(default_factory=dict)
    units: dict[int, UnitSolution] = field(default_factory=dict)
    detectors: dict[str, DetectorSolution] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def raw_positions(self, index: int, detector: str, filter_name: str) -> tuple[Floats, Floats]:
        """Mean star positions brought back to the raw frame of a unit, for every detection of it.

        Parameters
        ----------
        index : int
            Of the unit in the list that was solved.
        detector, filter_name : str
            Of that unit.

        Returns
        -------
        x, y : ndarray (n,)
            Raw pixels; NaN for detections that belong to no star, or where the unit was left out.
        """
        unit, solution = self.units[index], self.detectors[detector]
        x, y = np.full(len(unit.star), np.nan), np.full(len(unit.star), np.nan)
        known = unit.star >= 0
        star = unit.star[known]
        u, v = unit.transform.inverse()(solution.star_x[star], solution.star_y[star])
        centre_x, centre_y = solution.centre
        x[known], y[known] = self.maps[detector, filter_name].inverse(u + centre_x, v + centre_y)
        return x, y
