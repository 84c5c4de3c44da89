"""Solved distortions: correction, residuals after every term, pixel scales, filters (paper 2, figures 7 to 13 and 16 to 19)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.report.calibration import Solution
from dpm.report.figures import COLORS, Image, encode, new_figure
from dpm.report.plots_astrometry import round_scale

__all__ = [
    "TERM_WORDS",
    "fit_gaussian",
    "plot_correction",
    "plot_exposure_changes",
    "plot_filter_differences",
    "plot_pixel_scales",
    "plot_term_histograms",
    "plot_term_maps",
    "rms_length",
    "scale_offsets",
]

Floats = NDArray[np.float64]
_ARROWS = 20  # along a side of a map
_MOST_FILTERS = 8  # panels of one figure
_FEWEST_COUNTS = 10  # in a histogram that a Gaussian is fitted to
_DAYS_OVER = 0.3  # years that exposures span, below which the abscissa counts days
_DAYS_A_YEAR = 365.25
TERM_WORDS = {
    "START": "before any term",
    "POLYNOMIAL": "after the polynomials",
    "TABLE": "after the look-up table",
    "FINE": "after the per-pixel term",
}


def rms_length(vectors: Floats) -> float:
    """RMS length of the finite vectors of a map (2 or more, rows, columns), of which the first two are x and y."""
    length2 = vectors[0] ** 2 + vectors[1] ** 2
    return float(np.sqrt(np.mean(length2[np.isfinite(length2)]))) if np.isfinite(length2).any() else float("nan")


def fit_gaussian(low: Floats, high: Floats, counts: Floats) -> tuple[float, float, float] | None:
    """Least-squares Gaussian of a histogram, integrated over its bins.

    Parameters
    ----------
    low, high : ndarray (bins,)
        Edges of the bins.
    counts : ndarray (bins,)
        Numbers.

    Returns
    -------
    number, mean, sigma : float
        Area of the Gaussian and its parameters in the edges' unit; None for fewer than ten counts or where no width is found.
    """
    from scipy.optimize import least_squares
    from scipy.special import erf

    total = float(counts.sum())
    if total < _FEWEST_COUNTS:
        return None
    middle = 0.5 * (low + high)
    mean = float(np.sum(counts * middle) / total)
    width = float(np.sqrt(np.sum(counts * (middle - mean) ** 2) / total))
    unit = max(width, float(np.median(high - low)))

    def residual(p: Floats) -> Floats:
        scale = np.sqrt(2.0) * np.exp(p[2])
        inside = 0.5 * (erf((high / unit - p[1]) / scale) - erf((low / unit - p[1]) / scale))
        return np.asarray(p[0] * inside - counts / total)

    found = least_squares(residual, np.array([1.0, mean / unit, np.log(0.7)]))
    sigma = float(unit * np.exp(found.x[2]))
    if not found.success or sigma > high[-1] - low[0]:
        return None
    return float(total * found.x[0]), float(unit * found.x[1]), sigma


def plot_correction(solution: Solution, filter_name: str) -> Image | None:
    """What is added to raw positions: arrows, and their length as colour."""
    correction = solution.image(f"{filter_name}_CORRECTION", 3)
    if correction is None or not np.isfinite(correction[:2]).any():
        return None
    x, y, extent = _places(solution, correction.shape[1:])
    length = np.hypot(correction[0], correction[1])
    figure, axes = new_figure(4.8, _height(extent, 3.9))
    shown = axes.imshow(length, cmap="YlGnBu", extent=extent, vmin=0, alpha=0.75)
    figure.colorbar(shown, ax=axes, label="length [raw pixels]", shrink=0.9, pad=0.02)
    step = max(1, round(max(correction.shape[1:]) / _ARROWS))
    part = np.s_[step // 2 :: step, step // 2 :: step]
    factor = _arrows(axes, x[part], y[part], correction[0][part], correction[1][part])
    _frame(axes, solution, extent)
    axes.set_title(_title(solution, filter_name))
    note = (
        f"Corrected minus raw position, zero at the detector's centre: largest {np.nanmax(length):.3f} pixels, RMS length "
        f"{rms_length(correction):.3f}; arrows magnified {factor:,.0f} times."
    )
    error = solution.image(f"{filter_name}_ERROR", 3)
    if error is not None:
        per_axis = np.sqrt(np.nanmean(error[:2] ** 2))
        note += f" Error of the map, one axis: {per_axis:.4f} pixel RMS, {np.nanmax(error[:2]):.4f} at worst (drawn errors)."
    return encode(figure, f"Distortion correction {_title(solution, filter_name)}", note)


def plot_term_maps(solution: Solution, filter_name: str) -> Image | None:
    """Residual vectors in cells of the detector after each term."""
    terms = [
        (term, image)
        for term in solution.terms(filter_name)
        if (image := solution.image(f"{filter_name}_{term}", 3)) is not None and np.isfinite(image[:2]).any()
    ]
    if not terms:
        return None
    figure, panels = _panels(len(terms), _places(solution, terms[0][1].shape[1:])[2])
    notes = []
    for panel, (term, image) in zip(panels, terms, strict=False):
        x, y, extent = _places(solution, image.shape[1:])
        _arrows(panel, x, y, image[0], image[1], key=True)
        _frame(panel, solution, extent, labels=False)
        panel.set_title(TERM_WORDS[term], fontsize=8, pad=14)
        notes.append(f"{rms_length(image):.4f} {TERM_WORDS[term]}")
    figure.suptitle(_title(solution, filter_name), fontsize=9.5, fontweight="bold", x=0.02, ha="left")
    note = f"RMS length of the cells' clipped mean residuals [pixels]: {', '.join(notes)}."
    noise = _noise_of_cells(solution, filter_name, *terms[-1])
    if np.isfinite(noise):
        note += f" Of the last, about {noise:.4f} is noise. Each panel has its own scale (red arrow)."
    return encode(figure, f"Distortion residuals before and after each term, {_title(solution, filter_name)}", note)


def plot_term_histograms(solution: Solution, filter_name: str) -> Image | None:
    """Residuals of single measurements in x and y after each term, with Gaussian fits."""
    terms = [
        (term, image)
        for term in solution.terms(filter_name)
        if (image := solution.image(f"{filter_name}_{term}_HISTOGRAM", 2)) is not None and len(image) == 4
    ]
    if not terms:
        return None
    figure, panels = new_figure(4.9, 2.1 * ((len(terms) + 1) // 2) + 0.4, nrows=(len(terms) + 1) // 2, ncols=min(2, len(terms)))
    panels = np.atleast_1d(panels).ravel()
    notes = []
    for panel, (term, image) in zip(panels, terms, strict=False):
        widths = [
            _histogram(panel, image[0], image[1], image[row], name, color)
            for row, name, color in ((2, "x", "blue"), (3, "y", "vermillion"))
        ]
        panel.set_title(TERM_WORDS[term], fontsize=8)
        panel.tick_params(labelleft=False)
        panel.set_xlabel("residual [raw pixels]")
        panel.legend(loc="upper left", fontsize=6.5, handlelength=1.0)
        notes.append(f"{TERM_WORDS[term]} {widths[0]}, {widths[1]}")
    for panel in panels[len(terms) :]:
        panel.remove()
    figure.suptitle(_title(solution, filter_name), fontsize=9.5, fontweight="bold", x=0.02, ha="left")
    number = f"{terms[-1][1][2].sum():,.0f}"
    note = (
        f"σ of the Gaussian fits in x, y [pixels]: {'; '.join(notes)}. {number} measurements within the last histogram; bright "
        "stars make its middle, faint ones its wings."
    )
    return encode(figure, f"Histograms of distortion residuals with Gaussian fits, {_title(solution, filter_name)}", note)


def scale_offsets(solution: Solution, filter_name: str) -> tuple[Floats, Floats, Floats, float, float] | None:
    """Pixel scales of a filter's exposures about their mean.

    Returns
    -------
    epoch : ndarray (n,)
        Years.
    offset, error : ndarray (n,)
        Parts per million of the mean; the error is that against the other exposures.
    mean, mean_error : float
        arcsec a pixel, and the error of one exposure's in parts per million, NaN without a reference; None instead of all
        where the table lacks the filter or its columns.
    """
    units = solution.units
    names = ("epoch", "pixel_scale", "pixel_scale_relative_error", "pixel_scale_error")
    if units is None or not {"filter", *names} <= set(units.colnames):
        return None
    mine = np.array([str(name).strip().upper() == filter_name for name in units["filter"]], dtype=bool)
    epoch, scale, error, whole = (np.asarray(units[name], dtype=float)[mine] for name in names)
    good = np.isfinite(epoch) & np.isfinite(scale)
    if not good.any():
        return None
    mean = float(scale[good].mean())
    return epoch[good], 1e6 * (scale[good] / mean - 1), 1e6 * error[good] / mean, mean, 1e6 * float(np.median(whole[good])) / mean


def plot_pixel_scales(solution: Solution) -> Image | None:
    """Pixel scale of every exposure against its epoch, a panel a filter, in parts per million of the filter's mean."""
    filters = [(name, found) for name in solution.filters if (found := scale_offsets(solution, name)) is not None]
    filters = filters[:_MOST_FILTERS]
    if not filters:
        return None
    epochs = np.concatenate([found[0] for _, found in filters])
    start, days = float(epochs.min()), float(np.ptp(epochs)) < _DAYS_OVER
    figure, panels = new_figure(4.8, 1.3 * len(filters) + 1.0, nrows=len(filters), sharex=True, sharey=True)
    notes = []
    for panel, (name, (epoch, offset, error, mean, whole)) in zip(np.atleast_1d(panels), filters, strict=True):
        place = (epoch - start) * _DAYS_A_YEAR if days else epoch
        look: Any = {"fmt": "o", "ms": 3.5, "lw": 1.0, "color": COLORS["blue"], "ecolor": COLORS["grey"]}
        panel.errorbar(place, offset, error, **look)
        panel.axhline(0, color=COLORS["grey"], lw=0.7)
        panel.set_title(name, fontsize=8)
        scatter = f"{np.std(offset, ddof=1):.1f}" if offset.size > 1 else "–"
        known = f"± {whole:.1f} ppm" if np.isfinite(whole) else "(as in the headers: there is no reference)"
        notes.append(f"{name} {mean:.6f} arcsec {known}, scatter {scatter} ppm")
    figure.supylabel("pixel scale − mean [ppm]", fontsize=9)
    figure.suptitle(solution.detector, fontsize=9.5, fontweight="bold", x=0.02, ha="left")
    np.atleast_1d(panels)[-1].set_xlabel(f"days since {start:.4f}" if days else "epoch [yr]")
    note = (
        f"Velocity aberration taken out. Mean over the exposures: {'; '.join(notes)}. Bars are the errors of one exposure "
        "against the others."
    )
    return encode(figure, f"Pixel scale of every exposure, {solution.detector}", note)


def plot_exposure_changes(solution: Solution) -> Image | None:
    """What each exposure's distortion has beyond its filter's map, against the epoch; None where the solution does not tell."""
    units = solution.units
    if units is None or "skew_x" not in units.colnames:
        return None
    epoch = np.asarray(units["epoch"], float)
    filters = np.array([str(name).strip().upper() for name in units["filter"]])
    start, days = float(epoch.min()), float(np.ptp(epoch)) < _DAYS_OVER
    names = list(solution.filters)[:_MOST_FILTERS]
    figure, panels = new_figure(4.8, 1.4 * len(names) + 1.0, nrows=len(names), sharex=True, sharey=True)
    notes = []
    for panel, name in zip(np.atleast_1d(panels), names, strict=True):
        mine = filters == name
        place = (epoch[mine] - start) * _DAYS_A_YEAR if days else epoch[mine]
        for column, words, color in (("skew_x", "x longer than y", "blue"), ("skew_y", "axes not square", "vermillion")):
            value, error = (np.asarray(units[key], float)[mine] for key in (column, f"{column}_error"))
            panel.errorbar(place, value, error, fmt="o", ms=3.5, lw=1.0, color=COLORS[color], label=words)
        panel.axhline(0, color=COLORS["grey"], lw=0.7)
        panel.set_title(name, fontsize=8)
        bend, chi2 = (np.asarray(units[key], float)[mine] for key in ("bend", "bend_chi2"))
        if np.isfinite(bend).any():
            notes.append(f"{name} {np.nanmedian(bend):.4f}, at most {np.nanmax(bend):.4f}, χ² a term {np.nanmedian(chi2):.1f}")
    np.atleast_1d(panels)[0].legend(loc="upper left", fontsize=6.5, handlelength=1.0)
    figure.supylabel("skew at the detector's edge − map [pix]", fontsize=9)
    figure.suptitle(solution.detector, fontsize=9.5, fontweight="bold", x=0.02, ha="left")
    np.atleast_1d(panels)[-1].set_xlabel(f"days since {start:.4f}" if days else "epoch [yr]")
    note = (
        "How single exposures differ from the map of their filter beyond shift, scale and rotation, errors included. RMS over "
        f"the detector of skew and second order together [pixels], median over the exposures: {'; '.join(notes)}. What changes "
        "along with the pointing is taken for star positions."
    )
    return encode(figure, f"Distortion of every exposure less the map, {solution.detector}", note)


def plot_filter_differences(solution: Solution) -> Image | None:
    """What each filter's correction has beyond the mean of the filters; None for one filter."""
    maps = [(name, image) for name in solution.filters if (image := solution.image(f"{name}_OFF_MEAN", 3)) is not None]
    maps = maps[:_MOST_FILTERS]
    if not maps:
        return None
    figure, panels = _panels(len(maps), _places(solution, maps[0][1].shape[1:])[2])
    notes = []
    for panel, (name, image) in zip(panels, maps, strict=False):
        x, y, extent = _places(solution, image.shape[1:])
        step = max(1, round(max(image.shape[1:]) / _ARROWS))
        part = np.s_[step // 2 :: step, step // 2 :: step]
        _arrows(panel, x[part], y[part], image[0][part], image[1][part], key=True)
        _frame(panel, solution, extent, labels=False)
        panel.set_title(name, fontsize=8, pad=14)
        error = solution.image(f"{name}_ERROR", 3)
        words = f" ± {rms_length(error):.4f}" if error is not None else ""
        notes.append(f"{name} {rms_length(image):.4f}{words}")
    figure.suptitle(solution.detector, fontsize=9.5, fontweight="bold", x=0.02, ha="left")
    note = f"A filter's correction minus the mean of all filters', RMS length and error [pixels]: {', '.join(notes)}."
    return encode(figure, f"Filter dependence of the distortion, {solution.detector}", note)


def _title(solution: Solution, filter_name: str) -> str:
    return f"{solution.detector} {filter_name}"


def _places(solution: Solution, shape: tuple[int, ...]) -> tuple[Floats, Floats, tuple[float, float, float, float]]:
    """Cells' centres and the outer edges; parts of the side where the file of errors, which has the size, is absent."""
    low_x, high_x, low_y, high_y = solution.extent or (0.0, 1.0, 0.0, 1.0)
    rows, columns = shape
    x = low_x + (np.arange(columns) + 0.5) / columns * (high_x - low_x)
    y = low_y + (np.arange(rows) + 0.5) / rows * (high_y - low_y)
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y, (low_x, high_x, low_y, high_y)


def _height(extent: tuple[float, float, float, float], height: float) -> float:
    ratio = (extent[3] - extent[2]) / max(extent[1] - extent[0], 1e-9)
    return float(np.clip(height * ratio, 2.2, 5.4))


def _panels(number: int, extent: tuple[float, float, float, float]) -> tuple[Any, NDArray[Any]]:
    """A figure with two panels in a row, and as many of them as there is something to draw."""
    rows = (number + 1) // 2
    figure, panels = new_figure(
        4.9, rows * _height(extent, 2.6) + 0.3, nrows=rows, ncols=min(2, number), sharex=True, sharey=True
    )
    panels = np.atleast_1d(panels).ravel()
    for panel in panels[number:]:
        panel.remove()
    return figure, panels[:number]


def _arrows(axes: Any, x: Floats, y: Floats, dx: Floats, dy: Floats, key: bool = False) -> float:
    """Draw vectors such that the 90th percentile fills a cell; with a red arrow for scale.  Returns the magnification."""
    good = np.isfinite(dx) & np.isfinite(dy)
    length = np.hypot(dx[good], dy[good])
    unit = round_scale(float(np.percentile(length, 90))) if length.size else 1.0
    cell = max(float(np.ptp(x)) / max(x.shape[1] - 1, 1), float(np.ptp(y)) / max(x.shape[0] - 1, 1))
    factor = (1.1 if key else 1.4) * cell / unit
    look: Any = {"angles": "xy", "scale_units": "xy", "scale": 1.0 / factor, "width": 0.004}
    color = COLORS["blue"] if key else COLORS["ink"]
    arrows = axes.quiver(x[good], y[good], dx[good], dy[good], color=color, **look)
    if key:
        place: Any = {"labelpos": "E", "coordinates": "axes", "color": COLORS["vermillion"], "labelsep": 0.05}
        text: Any = {"labelcolor": COLORS["vermillion"], "fontproperties": {"size": 7}}
        axes.quiverkey(arrows, 0.14, 1.05, 2 * unit, f"{2 * unit:g} pix", **place, **text)
    return factor


def _frame(axes: Any, solution: Solution, extent: tuple[float, float, float, float], labels: bool = True) -> None:
    margin_x, margin_y = 0.03 * (extent[1] - extent[0]), 0.03 * (extent[3] - extent[2])
    axes.set_xlim(extent[0] - margin_x, extent[1] + margin_x)
    axes.set_ylim(extent[2] - margin_y, extent[3] + margin_y)
    axes.set_aspect("equal")
    axes.grid(False)
    if labels:
        unit = "[pixels]" if solution.extent else "[part of the side]"
        axes.set_xlabel(f"x raw {unit}")
        axes.set_ylabel(f"y raw {unit}")


def _histogram(axes: Any, low: Floats, high: Floats, counts: Floats, name: str, color: str) -> str:
    """One axis's histogram and its Gaussian; the width in words."""
    fit = fit_gaussian(low, high, counts)
    words = f"{fit[2]:.4f}" if fit is not None else "–"
    axes.stairs(counts, np.append(low, high[-1]), color=COLORS[color], lw=0.9, label=f"{name}: σ = {words}")
    if fit is not None:
        place = np.linspace(low[0], high[-1], 200)
        number, mean, sigma = fit
        curve = number * np.median(high - low) * np.exp(-0.5 * ((place - mean) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
        axes.plot(place, curve, color=COLORS[color], lw=1.0, ls="--")
    return words


def _noise_of_cells(solution: Solution, filter_name: str, term: str, image: Floats) -> float:
    """RMS length that the measurements' own scatter leaves in the cells' means; NaN where it cannot be told."""
    histogram = solution.image(f"{filter_name}_{term}_HISTOGRAM", 2)
    if histogram is None or len(histogram) != 4 or len(image) < 3 or not histogram[2:].sum(axis=1).all():
        return float("nan")
    middle = 0.5 * (histogram[0] + histogram[1])
    variance = sum(float(np.average(middle**2, weights=counts)) for counts in histogram[2:])
    count = image[2][image[2] > 0]
    return float(np.sqrt(variance * np.mean(1.0 / count))) if count.size else float("nan")
