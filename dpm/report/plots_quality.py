"""QFIT, RADXS and chi against magnitude (paper 2, figures 5 and 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.report.data import Sample, band_label
from dpm.report.figures import (
    COLORS,
    MAX_POINTS,
    Image,
    add_legend,
    draw_median,
    draw_points,
    encode,
    limits,
    new_figure,
    outline,
    running_median,
)
from dpm.report.select import well_measured

__all__ = ["plot_chi", "plot_qfit", "plot_radxs"]

_MAX_UNMATCHED = 4000


def plot_qfit(sample: Sample) -> Image:
    """QFIT of every detection, the median, what noise alone gives, and the median of the well-measured stars."""
    top = _upper(sample, "qfit", 1.35, ceiling=2.0)
    figure, axes = _panel(sample, "qfit", (0.0, top), "QFIT  (0 is perfect)")
    shown = _shown(sample)
    draw_median(axes, sample["mag"][shown], sample["qfit_expected"][shown], "expected from noise alone", formal=True)
    add_legend(axes, loc="upper left")
    return encode(
        figure, f"QFIT against instrumental magnitude, {band_label(sample.band)}", _bright_note(sample, "qfit")
    )


def plot_radxs(sample: Sample) -> Image:
    """RADXS of every detection: cosmic rays lie below zero, galaxies above."""
    half = min(max(_upper(np.abs(sample["radxs"]), None, 1.6), 0.05), 3.0)
    figure, axes = _panel(sample, "radxs", (-half, half), "RADXS  (1 ≤ r < 2.5 pixels)")
    axes.axhline(0, color=COLORS["vermillion"], lw=1.0, zorder=3)
    for words, height, align in (("extended", 0.97, "top"), ("too sharp", 0.03, "bottom")):
        place = {"xycoords": "axes fraction", "ha": "right", "va": align}
        axes.annotate(words, (0.99, height), size=7.5, path_effects=outline(), **place)
    add_legend(axes, loc="upper left")
    return encode(
        figure, f"RADXS against instrumental magnitude, {band_label(sample.band)}", _bright_note(sample, "radxs")
    )


def plot_chi(sample: Sample) -> Image:
    """Reduced chi of every detection; noise planes and ePSF are right where it lies at one."""
    shown = _shown(sample)
    _, median, _ = running_median(sample["mag"][shown], sample["chi"][shown])
    high = max(3.0, _upper(sample, "chi", 1.5, ceiling=50.0), 1.5 * float(median.max(initial=1.0)))
    figure, axes = _panel(sample, "chi", (0.3, high), "chi  (reduced)", log_y=True)
    axes.axhline(1, color=COLORS["vermillion"], lw=1.0, zorder=3)
    add_legend(axes, loc="upper left")
    return encode(figure, f"chi against instrumental magnitude, {band_label(sample.band)}", _bright_note(sample, "chi"))


def _shown(sample: Sample) -> NDArray[np.bool_]:
    """Detections that the curves rest on: those of catalogue stars, or all where none is known."""
    return sample.matched if sample.matched.any() else np.ones(len(sample), dtype=bool)


def _upper(values: Sample | NDArray, name: str | None, factor: float, ceiling: float = np.inf) -> float:
    array = values[name][_shown(values)] if isinstance(values, Sample) and name else np.asarray(values)
    array = array[np.isfinite(array)]
    return float(min(factor * np.percentile(array, 97.0), ceiling)) if array.size else 1.0


def _panel(sample: Sample, name: str, ylim: tuple[float, float], label: str, log_y: bool = False) -> tuple[Any, Any]:
    figure, axes = new_figure()
    shown = _shown(sample)
    mag, values = sample["mag"], sample[name]
    xlim = limits(mag, 0.2, 99.8)
    matched = sample.matched.any()
    others = np.flatnonzero(~shown)
    if others.size:
        others = others[:: max(1, others.size // _MAX_UNMATCHED)]
        size = float(np.clip(2500.0 / others.size, 2.0, 14.0))
        look = {"s": size, "color": COLORS["grey"], "alpha": 0.6, "linewidths": 0}
        axes.scatter(mag[others], values[others], label="no catalogue star", **look)
    draw_points(
        axes,
        mag[shown],
        values[shown],
        xlim,
        ylim,
        label="of a catalogue star" if matched else "detections",
        log_y=log_y,
    )
    draw_median(axes, mag[shown], values[shown], "median")
    axes.set_xlabel("instrumental magnitude, −2.5 log10(flux)")
    axes.set_ylabel(label)
    axes.set_title(band_label(sample.band))
    return figure, axes


def _bright_note(sample: Sample, name: str) -> str:
    good = well_measured(sample)
    values = sample[name][good]
    values = values[np.isfinite(values)]
    words = []
    if values.size:
        median = round(float(np.median(values)), 3) + 0.0
        words.append(f"Median of {values.size:,} well-measured detections: {median:.3f}.")
    if name == "qfit":
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = sample["qfit"][good] / sample["qfit_expected"][good]
        ratio = ratio[np.isfinite(ratio)]
        words += [f"Their median is {np.median(ratio):.2f} times what noise alone gives."] if ratio.size else []
    if _shown(sample).sum() > MAX_POINTS:
        words.append("Colour: number of detections, logarithmic.")
    if len(sample) < sample.n_total:
        words.append(f"Drawn: {len(sample):,} of {sample.n_total:,} detections.")
    return " ".join(words)
