"""Magnitudes: scatter over exposures, colour-magnitude diagrams, numbers of stars."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dpm.models.detectors import band_wavelength
from dpm.report.data import RunData, Sample, band_label
from dpm.report.figures import (
    COLORS,
    Image,
    add_legend,
    draw_median,
    draw_points,
    encode,
    limits,
    new_figure,
    running_median,
)
from dpm.report.select import scatter_of_stars

__all__ = ["color_pairs", "plot_cmd", "plot_luminosity", "plot_magnitude_rms"]


def plot_magnitude_rms(data: RunData, band: str, sample: Sample | None, mag_label: str) -> Image | None:
    """Scatter of single-exposure magnitudes against magnitude, with the formal error of one exposure.

    The frame catalogue's ``mag_rms`` is drawn; where it is absent, the scatter is taken from the match tables.
    """
    mag, rms = data.frame_column(f"{band}_mag"), data.frame_column(f"{band}_mag_rms")
    stars = scatter_of_stars(data, sample) if sample is not None else None
    if mag is None or rms is None or not np.isfinite(rms).any():
        if stars is None:
            return None
        mag, rms = stars.mag, stars.mag_rms
    good = np.isfinite(mag) & np.isfinite(rms) & (rms > 0)
    if not good.any():
        return None
    mag, rms = mag[good].astype(float), rms[good].astype(float)
    figure, axes = new_figure()
    low, high = np.percentile(rms, [0.5, 99.5])
    if stars is not None and stars.mag.size:
        low = min(low, float(np.nanpercentile(stars.formal_mag, 2)))
    draw_points(axes, mag, rms, limits(mag, 0.2, 99.8), (max(low / 1.5, 1e-5), high * 2), log_y=True, label="stars")
    draw_median(axes, mag, rms, "median scatter")
    if stars is not None and stars.mag.size:
        draw_median(axes, stars.mag, stars.formal_mag, "formal error of one exposure", formal=True)
    axes.set_xlabel(mag_label)
    axes.set_ylabel("scatter of single exposures [mag]")
    axes.set_title(band_label(band))
    add_legend(axes, loc="upper left")
    bright = mag <= np.percentile(mag, 30)
    note = f"Median of the brightest three tenths: {np.median(rms[bright]):.4f} mag."
    return encode(figure, f"Magnitude scatter against magnitude, {band_label(band)}", note)


def color_pairs(data: RunData) -> list[tuple[str, str]]:
    """Pairs of bands, blue first, with stars measured in both: neighbours in wavelength, then the widest others.

    Bands of the same filter (at two epochs, or in two instruments) give no colour and are left out.
    """
    bands = []
    for band in data.bands:
        mag = data.catalog_column(f"{band}_mag")
        if mag is not None and np.isfinite(mag).any():
            bands.append(band)
    pairs = []
    for blue, red in combinations(bands, 2):
        if not band_wavelength(blue) < band_wavelength(red):
            continue
        both = np.isfinite(_finite_column(data, f"{blue}_mag")) & np.isfinite(_finite_column(data, f"{red}_mag"))
        if both.any():
            apart = bands.index(red) - bands.index(blue)
            pairs.append((apart != 1, -apart, blue, red))
    return [(blue, red) for _, _, blue, red in sorted(pairs, key=lambda pair: pair[:2])]


def plot_cmd(data: RunData, blue: str, red: str, system: str) -> Image | None:
    """Colour-magnitude diagram: well-measured stars in colour, the others grey, errors at the side."""
    mag = _finite_column(data, f"{blue}_mag")
    color = mag - _finite_column(data, f"{red}_mag")
    shown = np.isfinite(color)
    if not shown.any():
        return None
    good = shown & _well_measured_stars(data, blue) & _well_measured_stars(data, red)
    figure, axes = new_figure(4.2, 4.8)
    xlim = limits(color[shown], 1, 99, 0.25)
    ylim = limits(mag[shown], 0, 99.9)[::-1]
    others = np.flatnonzero(shown & ~good)
    others = others[:: max(1, others.size // 8000)]
    axes.scatter(
        color[others], mag[others], s=float(np.clip(3000 / max(1, others.size), 0.8, 14)), color="#b9c0c8", linewidths=0
    )
    draw_points(axes, color[good], mag[good], xlim, ylim)
    errors = np.hypot(_finite_column(data, f"{blue}_mag_error"), _finite_column(data, f"{red}_mag_error"))
    place, half_width, _ = running_median(mag[good], errors[good], 9)
    if place.size:
        side = np.full(place.size, xlim[1] - 0.07 * (xlim[1] - xlim[0]))
        axes.errorbar(side, place, xerr=half_width, fmt="none", color=COLORS["vermillion"], lw=1.2, capsize=1.5)
    axes.set_xlim(*xlim)
    axes.set_ylim(*ylim)
    axes.set_xlabel(f"{band_label(blue)} − {band_label(red)} [mag]")
    axes.set_ylabel(f"{band_label(blue)} [mag, {system}]")
    note = f"{int(shown.sum()):,} stars in both bands, {int(good.sum()):,} of them well measured; bars: colour error."
    return encode(
        figure, f"Colour-magnitude diagram {band_label(blue)} against {band_label(blue)} − {band_label(red)}", note
    )


def plot_luminosity(data: RunData, system: str) -> Image | None:
    """Number of stars in bins of magnitude, every band, with Poisson errors."""
    figure, axes = new_figure()
    colors = [COLORS[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky")]
    drawn, lowest = 0, np.inf
    for band in data.bands:
        mag = _finite_column(data, f"{band}_mag")
        mag = mag[np.isfinite(mag)]
        if not mag.size:
            continue
        width = 0.25 if mag.size > 500 else 0.5
        edges = np.arange(np.floor(mag.min() / width) * width, mag.max() + width, width)
        if edges.size < 2:
            edges = np.array([mag.min() - width, mag.min() + width])
        count, _ = np.histogram(mag, edges)
        some = count > 0
        middle = 0.5 * (edges[1:] + edges[:-1])[some]
        per_mag = count[some] / width
        low = np.minimum(np.sqrt(count[some]), count[some] * 0.999) / width
        color = colors[drawn % len(colors)]
        label = f"{band_label(band)}: {mag.size:,} stars"
        axes.errorbar(
            middle,
            per_mag,
            [low, np.sqrt(count[some]) / width],
            color=color,
            marker="o",
            ms=3,
            lw=1.2,
            capsize=0,
            label=label,
        )
        drawn += 1
        lowest = min(lowest, float(per_mag.min()))
    if not drawn:
        return None
    axes.set_yscale("log")
    axes.set_ylim(bottom=lowest / 2.5)
    axes.set_xlabel(f"magnitude [{system}]")
    axes.set_ylabel("stars per magnitude")
    add_legend(axes, loc="lower right")
    return encode(
        figure, "Number of stars against magnitude", "As counted: not corrected for completeness. Bars: Poisson."
    )


def _finite_column(data: RunData, name: str) -> NDArray[np.float64]:
    column = data.catalog_column(name)
    n = 0 if data.catalog is None else len(data.catalog)
    return np.full(n, np.nan) if column is None else column.astype(float)


def _well_measured_stars(data: RunData, band: str) -> NDArray[np.bool_]:
    """Not saturated, and QFIT below 1.3 times the median of its magnitude plus 0.02."""
    mag, qfit = _finite_column(data, f"{band}_mag"), _finite_column(data, f"{band}_qfit")
    good = np.isfinite(mag)
    saturated = data.catalog_column(f"{band}_saturated")
    if saturated is not None:
        good &= ~saturated.astype(bool)
    center, median, _ = running_median(mag, qfit, 16)
    if center.size:
        good &= ~(qfit > 1.3 * np.interp(mag, center, median) + 0.02)
    return good
