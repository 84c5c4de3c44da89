"""What artificial stars tell: completeness with its limits, recovered minus inserted, selections, completeness over the field.

Functions of tables and of what `dpm.science` makes from them; each returns a matplotlib figure, which a notebook shows, ``savefig``
writes, and `dpm.report.figures.encode` puts on a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpm.report.data import band_label, filter_label
from dpm.report.figures import COLORS, add_legend, draw_points, limits, new_figure, outline, style
from dpm.science.completeness import completeness_in_bins
from dpm.science.completeness_curve import CompletenessCurve, fit_completeness
from dpm.science.completeness_map import CompletenessMap
from dpm.science.random_errors import random_errors
from dpm.science.selections import Selection, apply_selections, quantity
from dpm.science.table_access import in_magnitudes, measured_values, out_magnitudes, row_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "plot_completeness",
    "plot_completeness_map",
    "plot_recovered_minus_inserted",
    "plot_selection_planes",
    "plot_selection_steps",
]

_CURVE_COLORS = "ink", "blue", "purple", "green", "vermillion", "orange"
_LIMITS = 0.5, 0.25
_MAX_STEPS = 6
_FAILED = "#b9c0c8"


def plot_completeness(
    table: Any,
    band: str,
    samples: Mapping[str, tuple[Any, Any]] | None = None,
    magnitudes: tuple[float, float] | None = None,
    bins: float = 0.25,
) -> Figure:
    """Inserted and recovered stars above, completeness with its fitted curves and limits below (paper 1, figure A3).

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band of the inserted magnitude.
    samples : mapping of str to (passed, among), optional
        Curves by label, as in `completeness_table`; the recovered stars by default.  The last one's limits are marked.
    magnitudes : (float, float), optional
        Brightest and faintest magnitude of the fits; see `fit_completeness`.
    bins : float
        Width of the bins, mag.
    """
    samples = samples or {"recovered": ("recovered", None)}
    with style():
        figure, (top, bottom) = new_figure(4.6, 5.0, nrows=2, sharex=True, height_ratios=[1, 1.7])
        curve: CompletenessCurve | None = None
        for number, (label, (passed, among)) in enumerate(samples.items()):
            color = COLORS[_CURVE_COLORS[number % len(_CURVE_COLORS)]]
            binned = completeness_in_bins(table, band, passed, among, bins)
            edges = np.append(binned["mag_low"], binned["mag_high"][-1])
            if number == 0:
                top.stairs(binned["n_inserted"], edges, color=COLORS["grey"], label="inserted")
            top.stairs(binned["n_passed"], edges, color=color, lw=1.3, label=label)
            shown = binned[binned["n_inserted"] > 0]
            error = [shown["completeness"] - shown["completeness_low"], shown["completeness_high"] - shown["completeness"]]
            bottom.errorbar(shown["mag"], shown["completeness"], np.maximum(error, 0), fmt="o", ms=2.6, lw=0.9, color=color)
            curve = fit_completeness(table, band, passed, among, magnitudes=magnitudes)
            mag = np.linspace(curve.brightest, curve.faintest, 400)
            low, high = curve.interval(mag)
            bottom.fill_between(mag, low, high, color=color, alpha=0.25, lw=0)
            bottom.plot(mag, curve(mag), color=color, lw=1.3, label=f"{label} ({curve.form}, p = {curve.p_value:.2g})")
        assert curve is not None
        inserted = in_magnitudes(table, band)
        bottom.set_xlim(*limits(inserted, 0, 100, 0.02))
        _mark_limits(bottom, curve)
        top.set_ylabel(f"stars per {bins:g} mag")
        top.set_title(_band_name(band, whole=True))
        top.set_ylim(bottom=0)
        bottom.set_ylim(0, 1.02)
        bottom.set_xlabel(f"inserted {_band_name(band)} [mag]")
        bottom.set_ylabel("completeness")
        add_legend(top, loc="upper left")
        add_legend(bottom, loc="center left", bbox_to_anchor=(0.0, 0.7))
    return figure


def _mark_limits(axes: Any, curve: CompletenessCurve) -> None:
    for completeness in _LIMITS:
        mag, error = curve.limit(completeness)
        if not np.isfinite(mag):
            continue
        axes.plot([axes.get_xlim()[0], mag], [completeness] * 2, ls=":", lw=1, color=COLORS["vermillion"])
        axes.plot([mag, mag], [0, completeness], ls=":", lw=1, color=COLORS["vermillion"])
        text = f"{100 * completeness:.0f} %: {mag:.3f} ± {error:.3f}"
        axes.annotate(
            text, (mag, completeness), (-4, 3), textcoords="offset points", ha="right", fontsize=7.5, path_effects=outline()
        )


def plot_recovered_minus_inserted(table: Any, band: str, passed: Any = "recovered", step: float = 0.5) -> Figure:
    """Measured minus inserted magnitude against the inserted one: bias, random error and the 2.3 and 97.7 % quantiles.

    Parameters
    ----------
    table : table
        Artificial stars.
    band : str
        Band.
    passed, step
        See `random_errors`.
    """
    inserted = in_magnitudes(table, band)
    difference = np.where(row_mask(table, passed), out_magnitudes(table, band) - inserted, np.nan)
    errors = random_errors(table, [band], passed, step)
    with style():
        figure, (top, bottom) = new_figure(4.6, 5.0, nrows=2, sharex=True, height_ratios=[1.7, 1])
        reach = 1.6 * float(np.max(np.abs([errors["quantile_02"], errors["quantile_98"]]))) if len(errors) else 1.0
        shown = inserted[np.isfinite(difference)]
        draw_points(top, inserted, difference, limits(shown, 0, 100, 0.02), (-reach, reach))
        top.plot(errors["mag"], errors["bias"], color=COLORS["ink"], lw=1.6, label="median", path_effects=outline())
        for sign in (-1, 1):
            edge = errors["bias"] + sign * errors["random_error"]
            label = "middle 68 %" if sign < 0 else None
            top.plot(errors["mag"], edge, color=COLORS["vermillion"], lw=1.3, label=label, path_effects=outline())
        for name, label in (("quantile_02", "2.3 and 97.7 %"), ("quantile_98", None)):
            top.plot(errors["mag"], errors[name], color=COLORS["orange"], lw=1.1, ls="--", label=label, path_effects=outline())
        bottom.errorbar(
            errors["mag"], errors["random_error"], errors["random_error_error"], fmt="o-", ms=3, lw=1.1,
            color=COLORS["vermillion"], label="random error",
        )  # fmt: skip
        bias = np.abs(errors["bias"])
        bottom.errorbar(errors["mag"], bias, errors["bias_error"], fmt="s--", ms=2.6, lw=0.9, color=COLORS["ink"], label="|bias|")
        bottom.set_yscale("log")
        if len(errors):
            highest = max(errors["random_error"].max(), bias.max())
            bottom.set_ylim(0.5 * min(errors["random_error"].min(), np.percentile(bias, 20)), 2.0 * highest)
        top.set_ylabel("measured − inserted [mag]")
        bottom.set_ylabel("[mag]")
        bottom.set_xlabel(f"inserted {_band_name(band)} [mag]")
        top.set_title(_band_name(band, whole=True))
        add_legend(top, loc="upper left")
        add_legend(bottom, loc="upper left")
    return figure


def plot_selection_steps(
    catalog: Any, artificial: Any, selections: Sequence[Selection], blue: str, red: str, recovered: Any = "recovered"
) -> Figure:
    """Colour-magnitude diagrams after each step, real stars above artificial ones (paper 1, figures A1 and A2).

    Some of the inserted magnitudes are purple.

    Parameters
    ----------
    catalog, artificial : table
        Real and artificial stars.
    selections : sequence of Selection
        Steps in order; those of one name are one step, and of many the last six are shown.
    blue, red : str
        Bands of the diagram.
    recovered : str or array_like of bool (n,)
        Artificial stars to begin with.
    """
    names = list(dict.fromkeys(selection.name for selection in selections))
    tables = (("real", catalog, None), ("artificial", artificial, recovered))
    with style():
        columns = min(len(names), _MAX_STEPS) + 1
        figure, axes = new_figure(1.75 * columns + 0.6, 5.2, nrows=2, ncols=columns, sharex=True, sharey=True, squeeze=False)
        color, mag = _cmd(catalog, blue, red)
        xlim, ylim = limits(color, 0.5, 99.5, 0.15), limits(mag, 0.1, 99.9)[::-1]
        for row, (kind, table, start) in enumerate(tables):
            color, mag = _cmd(table, blue, red)
            passing = row_mask(table, start)
            for number, name in enumerate(["all" if row == 0 else "recovered", *names]):
                mine = [selection for selection in selections if selection.name == name] if number else []
                passing = apply_selections(table, mine, passing)
                column = number - (len(names) + 1 - columns)
                if column < 0:
                    continue
                panel = axes[row, column]
                if row == 1 and number == 0:
                    _draw_inserted(panel, table, blue, red, passing)
                draw_points(panel, color[passing], mag[passing], xlim, ylim, COLORS["blue" if row == 0 else "ink"])
                for selection in mine:
                    if (selection.x, selection.y) == (f"{blue}_mag - {red}_mag", f"{blue}_mag"):
                        _draw_region(panel, selection)
                panel.set_title(f"{name}\n{int(passing.sum()):,}", fontsize=8.5)
            axes[row, 0].set_ylabel(f"{kind}: {_band_name(blue)} [mag]")
        for panel in axes[1]:
            panel.set_xlabel(f"{_band_name(blue)} − {_band_name(red)}")
    return figure


def plot_selection_planes(catalog: Any, artificial: Any, selections: Sequence[Selection], recovered: Any = "recovered") -> Figure:
    """Every step in the plane in which it cuts, real stars above artificial ones; grey are those that it removes.

    Parameters
    ----------
    catalog, artificial, selections, recovered
        See `plot_selection_steps`.
    """
    planes: dict[tuple[str, str, str], list[Selection]] = {}
    for selection in selections:
        planes.setdefault((selection.name, selection.x, selection.y), []).append(selection)
    with style():
        figure, axes = new_figure(
            2.3 * len(planes) + 0.6, 5.0, nrows=2, ncols=len(planes), sharex="col", sharey="col", squeeze=False
        )
        views: dict[int, tuple[tuple[float, float], tuple[float, float]]] = {}
        for row, (kind, table, start) in enumerate((("real", catalog, None), ("artificial", artificial, recovered))):
            passing = row_mask(table, start)
            for column, ((name, x_name, y_name), mine) in enumerate(planes.items()):
                panel = axes[row, column]
                x, y = quantity(table, x_name), quantity(table, y_name)
                before = passing
                passing = apply_selections(table, mine, passing)
                if column not in views:
                    vertices = np.concatenate([selection.points for selection in mine])
                    is_cmd = mine[0].kind == "inside" and y_name.endswith("_mag")
                    # The cut has to be seen, and the crowd about it.
                    ylim = limits(np.append(y[before], np.repeat(vertices[:, 1], 3)), 0.5, 98.5, 0.15)
                    views[column] = limits(x[before], 0.2, 99.8), ylim[::-1] if is_cmd else ylim
                xlim, ylim = views[column]
                failed = np.flatnonzero(before & ~passing)
                failed = failed[:: max(1, failed.size // 8000)]
                panel.scatter(x[failed], y[failed], s=1.2, color=_FAILED, linewidths=0)
                draw_points(panel, x[passing], y[passing], xlim, ylim, COLORS["blue" if row == 0 else "ink"])
                for selection in mine:
                    _draw_region(panel, selection)
                panel.set_title(f"{name}\n{int(before.sum()):,} → {int(passing.sum()):,}", fontsize=8.5)
                panel.set_ylabel((f"{kind}: " if column == 0 else "") + y_name, fontsize=7.5)
                if row == 1:
                    panel.set_xlabel(x_name, fontsize=7.5)
    return figure


def plot_completeness_map(completeness_map: CompletenessMap, magnitude: float | None = None) -> Figure:
    """Completeness over the field at one magnitude, and how deep each place is.

    Parameters
    ----------
    completeness_map : CompletenessMap
        See `fit_completeness_map`.
    magnitude : float, optional
        Where its typical curve is at 50 % by default.
    """
    shown = completeness_map
    if magnitude is None:
        magnitude = shown.curve.limit(0.5)[0]
        magnitude = 0.5 * (shown.curve.brightest + shown.curve.faintest) if np.isnan(magnitude) else magnitude
    x, y = (0.5 * (edges[1:] + edges[:-1]) for edges in (shown.x_edges, shown.y_edges))
    values = shown(magnitude, x[None, :], y[:, None])
    with style():
        figure, axes = new_figure(8.2, 3.7, ncols=2, sharex=True, sharey=True)
        reach = max(float(np.nanmax(np.abs(shown.depth))), 0.02)
        pictures = (
            (values, "viridis", (0.0, 1.0), f"completeness at {_band_name(shown.curve.band)} = {magnitude:.2f}"),
            (shown.depth, "RdBu", (-reach, reach), "limit minus typical limit [mag]"),
        )
        for panel, (array, colors, (low, high), title) in zip(axes, pictures):
            mesh = panel.pcolormesh(shown.x_edges, shown.y_edges, np.ma.masked_invalid(array), cmap=colors, vmin=low, vmax=high)
            figure.colorbar(mesh, ax=panel, shrink=0.85)
            panel.set_aspect("equal")
            panel.set_title(title)
            panel.set_xlabel("x")
            panel.grid(False)
        axes[0].set_ylabel("y")
    return figure


def _cmd(table: Any, blue: str, red: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mag = measured_values(table, f"{blue}_mag")
    return mag - measured_values(table, f"{red}_mag"), mag


def _draw_inserted(axes: Any, table: Any, blue: str, red: str, passing: NDArray[np.bool_]) -> None:
    some = np.flatnonzero(passing)
    some = some[:: max(1, some.size // 1500)]
    first, second = in_magnitudes(table, blue)[some], in_magnitudes(table, red)[some]
    axes.scatter(first - second, first, s=2.0, color=COLORS["purple"], linewidths=0, zorder=3)


def _band_name(band: str, whole: bool = False) -> str:
    """The band as plots name it; as it is where it has no detector before the filter."""
    return (band_label(band) if whole else filter_label(band)) if "_" in band else band


def _draw_region(axes: Any, selection: Selection) -> None:
    points = np.array(selection.points)
    if selection.kind == "inside":
        points = np.vstack([points, points[:1]])
    else:
        ends = axes.get_xlim()
        points = np.vstack([[min(ends), points[0, 1]], points, [max(ends), points[-1, 1]]])
        points = points[np.argsort(points[:, 0], kind="stable")]
    axes.plot(*points.T, color=COLORS["green"], lw=1.3, path_effects=outline(), scalex=False, scaley=False)
