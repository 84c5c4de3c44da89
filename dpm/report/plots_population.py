"""Figures of the analysis: luminosity function, sequences with their shares, populations over a CMD, differential reddening.

Functions of what `dpm.science` makes; each returns a matplotlib figure, which a notebook shows, ``savefig`` writes, and
`dpm.report.figures.encode` puts on a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpm.report.data import band_label, filter_label
from dpm.report.figures import COLORS, add_legend, draw_points, limits, new_figure, outline, style
from dpm.science.cmd.fiducial import FiducialLine, rectified_color
from dpm.science.cmd.fractions import SequenceFractions
from dpm.science.cmd.reddening import ReddeningMap
from dpm.science.isochrones.isochrone import Isochrone
from dpm.science.luminosity_function import LuminosityFunction
from dpm.science.populations.models import Models, binary_locus
from dpm.science.populations.synthetic import COMPANION, PAIR, SINGLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_luminosity_function", "plot_models", "plot_population", "plot_reddening_map", "plot_sequences"]

_THEORY_COLORS = "vermillion", "blue", "green", "purple"
_TRACK_COLORS = "sky", "orange", "purple", "grey"
_SHADES = {0.5: "#e7e9ec", 0.25: "#cdd1d6"}


def plot_luminosity_function(
    observed: LuminosityFunction,
    band: str,
    theory: Mapping[str, NDArray[np.float64]] | None = None,
    normalized: tuple[float, float] | None = None,
) -> Figure:
    """Observed counts (thin), corrected ones with errors (thick), theory; doubtful magnitudes shaded (paper 1, figure 6).

    Parameters
    ----------
    observed : LuminosityFunction
    band : str
        Band of its magnitudes.
    theory : mapping of str to ndarray (bins,), optional
        Expected stars in the same bins by label; see `theoretical_luminosity_function`.
    normalized : (float, float), optional
        Magnitudes between which theory was normalised; marked.
    """
    table = observed.to_table()
    with style():
        figure, axes = new_figure(4.8, 3.6)
        edges = observed.edges
        first, last = np.flatnonzero(observed.counts > 0)[[0, -1]]
        axes.set_xlim(edges[first], edges[last + 1] + (edges[last + 1] - edges[first]) * 0.05)
        _shade(axes, observed.limits)
        axes.stairs(observed.counts, edges, color=COLORS["grey"], lw=0.9, label="observed")
        axes.stairs(np.nan_to_num(observed.corrected), edges, color=COLORS["ink"], lw=1.5, label="corrected for completeness")
        shown = table[np.isfinite(table["corrected"]) & (table["n"] > 0)]
        error = [shown["corrected"] - shown["corrected_low"], shown["corrected_high"] - shown["corrected"]]
        axes.errorbar(shown["mag"], shown["corrected"], error, fmt="none", lw=0.8, color=COLORS["ink"])
        for color, (label, expected) in zip(_THEORY_COLORS, (theory or {}).items()):
            axes.stairs(expected, edges, color=COLORS[color], lw=1.3, label=label)
        if normalized is not None:
            axes.axvspan(*normalized, color=COLORS["tint"], alpha=0.5, lw=0, zorder=0, label="normalised here")
        # Bins below 25 % may be as large as they like.
        good = shown[shown["mag"] < observed.limits.get(0.25, np.inf)]
        tops = [np.max(good["corrected_high"])] + [np.nanmax(expected) for expected in (theory or {}).values()]
        axes.set_ylim(0, 1.08 * max(tops))
        axes.set_xlabel(f"{_name(band)} [mag]")
        width = np.unique(np.round(np.diff(edges), 6))
        axes.set_ylabel(f"stars per {width[0]:g} mag" if width.size == 1 else "stars per bin")
        axes.set_title(band_label(band) if "_" in band else band)
        add_legend(axes, loc="upper left")
    return figure


def plot_sequences(
    magnitude: Any,
    color: Any,
    blue: FiducialLine,
    red: FiducialLine,
    fractions: SequenceFractions,
    blue_band: str,
    red_band: str,
    magnitude_band: str | None = None,
) -> Figure:
    """CMD with two fiducial lines, rectified CMD, and the colours' distribution with the fitted Gaussians (paper 1, figure 8).

    Parameters
    ----------
    magnitude, color : array_like (n,)
        Stars.
    blue, red : FiducialLine
        Lines of the sequences.
    fractions : SequenceFractions
        Of the rectified colours.
    blue_band, red_band, magnitude_band : str
        Bands of the colour, and of the magnitude (the blue one by default).
    """
    mag, col = np.asarray(magnitude, dtype=float), np.asarray(color, dtype=float)
    rectified, _ = rectified_color(mag, col, blue, red)
    ylim = limits(mag, 0.0, 100.0, 0.03)[::-1]
    with style():
        figure, (cmd, flat, sides) = new_figure(9.0, 3.4, ncols=3, width_ratios=[1.0, 1.0, 1.2])
        name = f"{_name(blue_band)} − {_name(red_band)}"
        draw_points(cmd, col, mag, limits(col, 0.5, 99.5, 0.2), ylim, COLORS["ink"])
        for line, shade in ((blue, "blue"), (red, "vermillion")):
            at = np.linspace(line.brightest, line.faintest, 200)
            cmd.plot(line(at), at, color=COLORS[shade], lw=1.6, path_effects=outline())
            cmd.errorbar(line.color, line.magnitude, xerr=line.error, fmt="o", ms=2.4, lw=0.7, color=COLORS[shade])
        cmd.set_xlabel(f"{name} [mag]")
        cmd.set_ylabel(f"{_name(magnitude_band or blue_band)} [mag]")
        xlim = limits(rectified, 0.5, 99.5, 0.15)
        draw_points(flat, rectified, mag, xlim, ylim, COLORS["ink"])
        for mean, shade in zip(fractions.means, ("blue", "vermillion", "green")):
            flat.axvline(mean, color=COLORS[shade], lw=1.2)
        flat.set_xlabel(f"Δ({name})")
        _draw_distribution(sides, fractions, xlim)
        sides.set_xlabel(f"Δ({name})")
    return figure


def plot_population(
    magnitude: Any,
    color: Any,
    simulated: Any,
    measured: NDArray[np.float64],
    isochrones: Mapping[str, Isochrone],
    blue_band: str,
    red_band: str,
    magnitude_band: str | None = None,
) -> Figure:
    """Observed CMD with isochrones, and a simulated one by kind of system (paper 1, figure 9).

    Parameters
    ----------
    magnitude, color : array_like (n,)
        Observed stars.
    simulated : table
        See `draw_population`; its column ``kind``.
    measured : ndarray (n, 2)
        Simulated magnitudes and colours, NaN where lost.
    isochrones : mapping of str to Isochrone
        By label, at their distance and extinction; the equal-mass pairs of the first are dashed.
    blue_band, red_band, magnitude_band : str
        Bands of the colour, and of the magnitude (the blue one by default).
    """
    mag, col = np.asarray(magnitude, dtype=float), np.asarray(color, dtype=float)
    band = magnitude_band or blue_band
    xlim = limits(np.concatenate([col, measured[:, 1]]), 0.3, 99.7, 0.1)
    ylim = limits(np.concatenate([mag, measured[:, 0]]), 0.1, 99.9, 0.04)[::-1]
    kind = np.asarray(simulated["kind"])
    with style():
        figure, (left, right) = new_figure(6.8, 3.9, ncols=2, sharex=True, sharey=True)
        draw_points(left, col, mag, xlim, ylim, COLORS["ink"])
        for number, (label, isochrone) in enumerate(isochrones.items()):
            x = isochrone.magnitudes[blue_band] - isochrone.magnitudes[red_band]
            shade = COLORS[_THEORY_COLORS[number % 4]]
            left.plot(x, isochrone.magnitudes[band], color=shade, lw=1.3, label=label, path_effects=outline())
            if number == 0:
                twice = isochrone.magnitudes[band] - 2.5 * np.log10(2.0)
                left.plot(x, twice, color=shade, lw=1.0, ls="--", label="equal masses")
        left.set_title("observed")
        labels = {SINGLE: ("single", "purple"), PAIR: ("two white dwarfs", "sky"), COMPANION: ("with companion", "blue")}
        for number, (label, shade) in labels.items():
            mine = kind == number
            if mine.any():
                right.scatter(measured[mine, 1], measured[mine, 0], s=4, lw=0, color=COLORS[shade], alpha=0.7, label=label)
        right.set_title("simulated")
        for axes in (left, right):
            axes.set_xlabel(f"{_name(blue_band)} − {_name(red_band)} [mag]")
            add_legend(axes, loc="upper right")
        left.set_ylabel(f"{_name(band)} [mag]")
    return figure


def plot_models(
    stars: Mapping[str, Any],
    models: Models,
    blue: str,
    red: str,
    system: str = "",
    chosen: Any = None,
) -> Figure:
    """CMD with isochrones, cooling tracks and loci of binaries: apparent on the left, absolute and dereddened on the right.

    Parameters
    ----------
    stars : mapping of str to array_like (n,)
        Apparent magnitudes of the two bands.
    models : Models
        See `read_models`.
    blue, red : str
        Bands of the colour; magnitudes are the blue one's.
    system : str
        Of the magnitudes, for the labels.
    chosen : ndarray of bool (n,), optional
        Stars in front, such as members; the others are grey.
    """
    mag = np.asarray(stars[blue], dtype=float)
    color = mag - np.asarray(stars[red], dtype=float)
    front = np.isfinite(color) if chosen is None else np.isfinite(color) & np.asarray(chosen, dtype=bool)
    reddening = models.extinction[blue] - models.extinction[red]
    x, y = limits(color, 1.0, 99.0, 0.3), limits(mag, 0.0, 99.9, 0.05)[::-1]
    words = f", {system}" if system else ""
    with style():
        figure, (left, right) = new_figure(8.2, 5.0, ncols=2)
        for axes, dm, shift in ((left, 0.0, 0.0), (right, models.shift(blue), reddening)):
            xlim, ylim = (x[0] - shift, x[1] - shift), (y[0] - dm, y[1] - dm)
            rest = np.isfinite(color) & ~front
            axes.scatter(color[rest] - shift, mag[rest] - dm, s=1.6, color="#c3c9d0", linewidths=0)
            draw_points(axes, color[front] - shift, mag[front] - dm, xlim, ylim, COLORS["ink"])
            _draw_models(axes, models, blue, red, models.shift(blue) - dm, reddening - shift)
            axes.set_xlim(*xlim)
            axes.set_ylim(*ylim)
        left.set_title("apparent")
        left.set_xlabel(f"{_name(blue)} − {_name(red)} [mag]")
        left.set_ylabel(f"{_name(blue)} [mag{words}]")
        right.set_title("absolute, dereddened")
        right.set_xlabel(f"({_name(blue)} − {_name(red)})$_0$ [mag]")
        right.set_ylabel(f"M({_name(blue)})$_0$ [mag{words}]")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def plot_reddening_map(reddening: ReddeningMap) -> Figure:
    """Differential reddening over the field, and the main sequence along the reddening vector before and after the correction."""
    shown = reddening
    value, error = shown(shown.x, shown.y)
    with style():
        figure, (field, sides) = new_figure(7.6, 3.5, ncols=2)
        reach = float(np.nanpercentile(np.abs(value), 99))
        x, y = (np.linspace(v.min(), v.max(), 60) for v in (shown.x, shown.y))
        grid, _ = shown(x[None, :], y[:, None])
        mesh = field.pcolormesh(x, y, grid, cmap="RdBu_r", vmin=-reach, vmax=reach, shading="nearest")
        figure.colorbar(mesh, ax=field, shrink=0.85, label="ΔE(B−V) [mag]")
        field.set_aspect("equal")
        field.grid(False)
        field.set_xlabel("x")
        field.set_ylabel("y")
        field.set_title(f"error {np.nanmedian(error):.4f} mag")
        edges = np.linspace(*limits(shown.reddening, 1.0, 99.0, 0.1), 60)
        before, after = shown.reddening - np.median(shown.reddening), shown.reddening - value
        sides.hist(before, edges, histtype="step", color=COLORS["grey"], lw=1.2, label="before")
        sides.hist(after, edges, histtype="step", color=COLORS["blue"], lw=1.4, label="after")
        sides.set_xlabel("from the main sequence [mag of E(B−V)]")
        sides.set_ylabel("stars")
        add_legend(sides, loc="upper left")
    return figure


def _draw_models(axes: Any, models: Models, blue: str, red: str, magnitude: float, color: float) -> None:
    """Lines of the models, shifted; binaries are dashed in the colour of their isochrone."""
    for number, isochrone in enumerate(models.isochrones):
        shade = COLORS[_THEORY_COLORS[number % 4]]
        lines = [(isochrone, f"{isochrone.age:.4g} Gyr", "-")]
        for ratio, dash in zip(models.mass_ratios, cycle(("--", ":", "-."))):
            words = "equal masses" if ratio == 1 else f"mass ratio {ratio:g}"
            lines.append((binary_locus(isochrone, ratio), words if number == 0 else "", dash))
        for line, label, dash in lines:
            mags, width = line.magnitudes, 1.3 if dash == "-" else 1.0
            place = mags[blue] - mags[red] + color, mags[blue] + magnitude
            axes.plot(*place, color=shade, lw=width, ls=dash, label=label, path_effects=outline())
    for number, track in enumerate(models.tracks):
        if len(models.tracks) <= len(_TRACK_COLORS):
            shade = COLORS[_TRACK_COLORS[number]]
            label = f"white dwarfs, {track.mass:g} M$_\\odot$, {track.atmosphere}".removesuffix(", ")
        else:
            shade = COLORS[_TRACK_COLORS[0]]
            label = "" if number else f"white dwarfs, {track.mass:g} to {models.tracks[-1].mass:g} M$_\\odot$"
        x, y = track.magnitudes[blue] - track.magnitudes[red] + color, track.magnitudes[blue] + magnitude
        axes.plot(x, y, color=shade, lw=1.1, label=label, path_effects=outline())
        if 1.0 in models.mass_ratios:
            axes.plot(x, y - 2.5 * np.log10(2.0), color=shade, lw=0.8, ls="--")


def _draw_distribution(axes: Any, fractions: SequenceFractions, xlim: tuple[float, float]) -> None:
    """Histogram and Gaussians; for a mixture each star counts by its membership, in shades."""
    shades = "blue", "vermillion", "green"
    if fractions.histogram.size:
        edges = fractions.edges
        axes.stairs(fractions.histogram, edges, color=COLORS["ink"], lw=1.2)
        at = np.linspace(*xlim, 400)
        n_stars = fractions.histogram.sum() * (edges[1] - edges[0])
        curves = [
            share * n_stars / (width * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((at - mean) / width) ** 2)
            for share, mean, width in zip(fractions.fractions, fractions.means, fractions.widths)
        ]
        for curve, shade in zip(curves, shades):
            axes.plot(at, curve, color=COLORS[shade], lw=1.2)
        axes.plot(at, np.sum(curves, axis=0), color=COLORS["grey"], lw=1.0, ls="--")
        axes.set_ylabel("stars per bin, mean of noisy draws")
    else:
        edges = np.linspace(*xlim, 40)
        below = np.zeros(edges.size - 1)
        for member, shade in zip(fractions.membership.T, shades):
            counts = np.histogram(fractions.values, edges, weights=member)[0]
            axes.stairs(below + counts, edges, baseline=below, fill=True, color=COLORS[shade], alpha=0.6)
            below = below + counts
        axes.set_ylabel("stars")
    axes.set_xlim(*xlim)
    top = axes.get_ylim()[1] * 1.15
    axes.set_ylim(0, top)
    parts = zip(fractions.fractions, fractions.errors, fractions.means, shades)
    for number, (share, error, _, shade) in enumerate(parts):
        text = f"{100 * share:.0f} ± {100 * error:.0f} %"
        axes.annotate(text, (0.97, 0.95 - 0.09 * number), xycoords="axes fraction", ha="right", va="top", color=COLORS[shade])


def _shade(axes: Any, levels: Mapping[float, float]) -> None:
    end = axes.get_xlim()[1]
    for level, shade in _SHADES.items():
        if level in levels and levels[level] < end:
            axes.axvspan(levels[level], end, color=shade, lw=0, zorder=0, label=f"completeness below {100 * level:.0f} %")


def _name(band: str) -> str:
    return filter_label(band) if "_" in band else band
