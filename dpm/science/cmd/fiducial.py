"""Fiducial lines of sequences, and colours relative to two of them (paper 1, section 4.4, equation 1; Libralato et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import UnivariateSpline

from dpm.models.statistics import MEDIAN_TO_MEAN_ERROR, robust_width
from dpm.science.selections import Selection, cmd_region

__all__ = ["FiducialLine", "fiducial_line", "rectified_color", "sequence_region"]

BIN_WIDTH, BIN_STEP = 1.0, 0.2  # mag (paper 1)
CLIP, MAX_CLIPS = 3.0, 20
MIN_STARS = 5  # of a bin: the error of a median comes from the scatter about it
MIN_NODES = 4  # of a cubic spline
N_VERTICES = 60  # of a region along a line: no side is longer than a tenth of a magnitude or two


@dataclass(frozen=True)
class FiducialLine:
    """Colour of a sequence against magnitude; call it with magnitudes.

    Beyond the first and last node it is straight for half a bin, whose stars are there or might be; NaN farther out.

    Parameters
    ----------
    magnitude, color, error : ndarray (k,)
        Clipped medians of the sliding bins, and one-sigma errors of the colours.  Neighbouring bins share stars.
    n_stars : ndarray (k,)
        Stars of each bin.
    spline : UnivariateSpline
        The smoothed line.
    brightest, faintest : float
        Its ends.  They do not depend on where the very first and last star happen to be, which would favour one sequence's shares.
    """

    magnitude: NDArray[np.float64]
    color: NDArray[np.float64]
    error: NDArray[np.float64]
    n_stars: NDArray[np.int64]
    spline: UnivariateSpline
    brightest: float
    faintest: float

    def __call__(self, magnitude: Any) -> NDArray[np.float64]:
        """Colour at these magnitudes."""
        mag = np.asarray(magnitude, dtype=float)
        at = np.clip(mag, self.magnitude[0], self.magnitude[-1])
        return self._known(mag, self.spline(at) + (mag - at) * self.spline.derivative()(at))

    def slope(self, magnitude: Any) -> NDArray[np.float64]:
        """Change of colour per magnitude."""
        mag = np.asarray(magnitude, dtype=float)
        return self._known(mag, self.spline.derivative()(np.clip(mag, self.magnitude[0], self.magnitude[-1])))

    def color_error(self, magnitude: Any) -> NDArray[np.float64]:
        """One-sigma error of the line's colour: that of the medians about."""
        mag = np.asarray(magnitude, dtype=float)
        return self._known(mag, np.interp(mag, self.magnitude, self.error))

    def _known(self, mag: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where((mag >= self.brightest) & (mag <= self.faintest), values, np.nan)


def fiducial_line(magnitude: Any, color: Any, width: float = BIN_WIDTH, step: float = BIN_STEP) -> FiducialLine:
    """Medians of magnitude and colour, clipped at 3 sigma in colour, in sliding bins, smoothed with a cubic spline.

    Parameters
    ----------
    magnitude, color : array_like (n,)
        Stars of ONE sequence; those without either are left out.
    width, step : float
        Of the bins, mag.  A bin averages the line over its width: a bend sharper than that is cut off.

    Returns
    -------
    FiducialLine

    Raises
    ------
    ValueError
        If fewer than four bins have five stars.
    """
    mag, col = np.asarray(magnitude, dtype=float), np.asarray(color, dtype=float)
    good = np.isfinite(mag) & np.isfinite(col)
    mag, col = mag[good], col[good]
    rows: list[tuple[float, float, float, int]] = []
    if mag.size:
        # Bins reach half a width beyond the stars, whose ends would otherwise have no node.
        for middle in np.arange(mag.min(), mag.max() + 0.5 * step, step):
            mine = np.abs(mag - middle) <= 0.5 * width
            kept = _clipped(col[mine] - _trend(mag[mine], col[mine]))
            if kept.sum() < MIN_STARS:
                continue
            stars_mag, stars_color = mag[mine][kept], col[mine][kept]
            # The median of colours about the bin's trend, at the median magnitude: a sloping line does not widen the error.
            residual = stars_color - _trend(stars_mag, stars_color)
            error = MEDIAN_TO_MEAN_ERROR * robust_width(residual, float(np.median(residual))) / np.sqrt(kept.sum())
            rows.append((float(np.median(stars_mag)), float(np.median(stars_color)), error, int(kept.sum())))
    nodes = np.array(sorted(rows))
    if nodes.size:
        nodes = nodes[np.concatenate([[True], np.diff(nodes[:, 0]) > 1e-3 * step])]
    if len(nodes) < MIN_NODES:
        raise ValueError(f"{mag.size} stars fill {len(nodes)} bins of {MIN_STARS} or more; a fiducial line needs {MIN_NODES}")
    error = np.maximum(nodes[:, 2], 1e-6)
    # Bins that share stars share errors: of width / step nodes one is independent, and the rest of the scatter is no misfit.
    smoothing = len(nodes) * step / width
    spline = UnivariateSpline(nodes[:, 0], nodes[:, 1], w=1.0 / error, k=3, s=smoothing)
    ends = float(nodes[0, 0] - 0.5 * width), float(nodes[-1, 0] + 0.5 * width)
    return FiducialLine(nodes[:, 0], nodes[:, 1], nodes[:, 2], nodes[:, 3].astype(np.int64), spline, *ends)


def rectified_color(magnitude: Any, color: Any, blue: FiducialLine, red: FiducialLine) -> tuple[Any, Any]:
    """Colour relative to two lines: 0 on the blue one, 1 on the red one (paper 1, equation 1).

    Parameters
    ----------
    magnitude, color : array_like (n,)
        Stars.
    blue, red : FiducialLine
        The lines.

    Returns
    -------
    rectified : ndarray (n,)
        NaN where a line is missing, or the red one is not redder than the blue one.
    separation : ndarray (n,)
        Colour between the lines, mag: errors of colours are divided by it.
    """
    left, right = blue(magnitude), red(magnitude)
    separation = np.where(right > left, right - left, np.nan)
    return (np.asarray(color, dtype=float) - left) / separation, separation


def sequence_region(
    line: FiducialLine, blue: str, red: str, width: Any, magnitude: str | None = None, name: str = "sequence"
) -> Selection:
    """Stars along a fiducial line, as a selection that holds for real and artificial stars alike; see `apply_selections`.

    Parameters
    ----------
    line : FiducialLine
        Of colours blue minus red.
    blue, red : str
        Bands of the colour.
    width : float or callable
        Largest distance in colour, mag: a number, or a function of magnitude such as three times the colours' error.
    magnitude : str, optional
        Band of the magnitude; the blue one by default.
    name : str
        See `Selection`.
    """
    mag = np.linspace(line.brightest, line.faintest, N_VERTICES)
    half = width(mag) if callable(width) else np.full(mag.size, float(width))
    left, right = np.column_stack([line(mag) - half, mag]), np.column_stack([line(mag) + half, mag])
    return cmd_region(blue, red, np.vstack([left, right[::-1]]).tolist(), magnitude, name)


def _trend(mag: NDArray[np.float64], color: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median colours of the brighter and fainter half, joined by a straight line."""
    if mag.size < 2 * MIN_STARS:
        return np.full(mag.size, np.median(color) if mag.size else np.nan)
    middle = np.median(mag)
    bright, faint = mag < middle, mag >= middle
    if not bright.any():
        return np.full(mag.size, np.median(color))
    x = np.median(mag[bright]), np.median(mag[faint])
    y = np.median(color[bright]), np.median(color[faint])
    return y[0] + (mag - x[0]) * (y[1] - y[0]) / max(x[1] - x[0], 1e-9)


def _clipped(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values stay when those beyond 3 sigma (robust) of the median are left out until none is."""
    kept = np.ones(values.size, dtype=bool)
    for _ in range(MAX_CLIPS):
        if kept.sum() < MIN_STARS:
            break
        middle = float(np.median(values[kept]))
        width = robust_width(values[kept], middle)
        inside = np.abs(values - middle) <= CLIP * max(width, 1e-9)
        if (inside == kept).all():
            break
        kept = inside
    return kept
