"""Figures of the report: one style, points or density, small PNGs embedded as base64.

Only `matplotlib.figure.Figure` with its Agg canvas is used, never pyplot, so that a user's backend and open figures
stay as they are.  matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import MEDIAN_TO_MEAN_ERROR, robust_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "MAX_POINTS",
    "Image",
    "draw_median",
    "draw_points",
    "add_legend",
    "encode",
    "limits",
    "new_figure",
    "outline",
    "plain_log_axis",
    "running_median",
    "style",
]

# Okabe & Ito's colours, which stay apart for colour-blind readers.
COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "grey": "#8a929b",
    "ink": "#1d2733",
    "tint": "#f2d5c4",
}
MAX_POINTS = 15_000
_DPI = 190
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#6b7580",
    "axes.labelcolor": COLORS["ink"],
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.6,
    "text.color": COLORS["ink"],
    "xtick.color": "#46505b",
    "ytick.color": "#46505b",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "image.interpolation": "nearest",
    "image.origin": "lower",
}


@dataclass(frozen=True)
class Image:
    """A picture ready for the page: ``data`` is a base64 PNG, ``width`` its natural width on the page in CSS pixels."""

    data: str
    width: int
    height: int
    alt: str
    caption: str = ""


@contextmanager
def style() -> Iterator[None]:
    """matplotlib settings of the report, for the time of the block."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float = 4.2, height: float = 3.4, **subplots: Any) -> tuple[Figure, Any]:
    """A figure with axes; sizes in inches, ``subplots`` as for `matplotlib.figure.Figure.subplots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**subplots)


def encode(figure: Figure, alt: str, caption: str = "", colors: int = 96) -> Image:
    """Draw a figure as a PNG of few colours (about a third of the bytes of a plain one)."""
    from PIL import Image as Picture

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    picture = Picture.fromarray(np.ascontiguousarray(pixels))
    small = picture.quantize(palette=_palette(picture, colors), dither=Picture.Dither.NONE)
    indices = np.array(small)
    indices[(pixels == 255).all(axis=-1)] = 0  # the nearest-colour search is not exact, and paper has to be white
    small.putdata(indices.ravel())
    stream = io.BytesIO()
    small.save(stream, format="PNG", optimize=True)
    height, width = pixels.shape[:2]
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Image(data, round(width / 2), round(height / 2), alt, caption)


def _palette(picture: Any, colors: int) -> Any:
    """The picture's own most useful colours and all of `COLORS`, which thin lines would otherwise lose."""
    from PIL import Image as Picture

    frequent = picture.quantize(colors, method=Picture.Quantize.MEDIANCUT).getpalette()[: 3 * colors]
    fixed = [int(code[place : place + 2], 16) for code in ("#ffffff", *COLORS.values()) for place in (1, 3, 5)]
    palette = Picture.new("P", (1, 1))
    palette.putpalette(fixed + frequent)
    return palette


def add_legend(axes: Axes, **options: Any) -> None:
    """A legend whose markers are large and opaque, however faint the points; none where nothing has a label."""
    from matplotlib.collections import PathCollection

    if not axes.get_legend_handles_labels()[0]:
        return
    legend = axes.legend(**options)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_alpha(1.0)
            handle.set_sizes([16.0])


def limits(values: NDArray[Any], low: float = 0.5, high: float = 99.5, pad: float = 0.06) -> tuple[float, float]:
    """Axis limits that hold the percentiles ``low`` to ``high`` of the finite values, with a margin."""
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    if array.size == 0:
        return 0.0, 1.0
    bottom, top = np.percentile(array, [low, high])
    margin = pad * (top - bottom) if top > bottom else max(abs(top) * 0.1, 0.5)
    return float(bottom - margin), float(top + margin)


def draw_points(
    axes: Axes,
    x: NDArray[Any],
    y: NDArray[Any],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    color: str = COLORS["blue"],
    label: str | None = None,
    log_y: bool = False,
) -> int:
    """Points where there are few, a two-dimensional histogram (viridis, logarithmic) where there are many.

    Parameters
    ----------
    axes : matplotlib Axes
        Where to draw; its limits are set.
    x, y : array_like, 1-D
        Values; those that are not finite are left out.
    xlim, ylim : (float, float)
        Limits of the axes; ``xlim`` may run backwards.
    color, label : str
        Of the points.
    log_y : bool
        Logarithmic ordinate.

    Returns
    -------
    int
        Number of values inside the limits.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    inside = np.isfinite(x) & np.isfinite(y)
    inside &= (x >= min(xlim)) & (x <= max(xlim)) & (y >= min(ylim)) & (y <= max(ylim))
    x, y = x[inside], y[inside]
    if log_y:
        axes.set_yscale("log")
        plain_log_axis(axes.yaxis, ylim)
    if x.size > MAX_POINTS:
        _draw_density(axes, x, y, xlim, ylim, log_y)
    elif x.size:
        size = float(np.clip(5000.0 / x.size, 1.6, 22.0))
        alpha = float(np.clip(1800.0 / x.size, 0.35, 0.85))
        axes.scatter(x, y, s=size, color=color, alpha=alpha, linewidths=0, label=label)
    axes.set_xlim(*xlim)
    axes.set_ylim(*ylim)
    return int(x.size)


def _draw_density(
    axes: Axes, x: NDArray[Any], y: NDArray[Any], xlim: tuple[float, float], ylim: tuple[float, float], log_y: bool
) -> None:
    from matplotlib.colors import LogNorm

    x_edges = np.linspace(min(xlim), max(xlim), 181)
    y_edges = np.geomspace(min(ylim), max(ylim), 141) if log_y else np.linspace(min(ylim), max(ylim), 141)
    counts, _, _ = np.histogram2d(x, y, bins=(x_edges, y_edges))
    shown = np.ma.masked_equal(counts.T, 0)
    axes.pcolormesh(x_edges, y_edges, shown, cmap="viridis", norm=LogNorm(1, max(2.0, counts.max())), rasterized=True)


def outline() -> list[Any]:
    """Path effects that set lines and letters off from crowded points."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3.0, foreground="white", alpha=0.85)]


def plain_log_axis(axis: Any, limits: tuple[float, float]) -> None:
    """Plain numbers (0.02, not 2 x 10^-2) on a logarithmic axis, at 1, 2 and 5 where it spans few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = np.log10(max(limits) / min(limits))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def draw_median(axes: Axes, x: NDArray[Any], y: NDArray[Any], label: str, formal: bool = False) -> None:
    """The running median of ``y`` as a line: black for what was measured, red and dashed for what formal errors say."""
    centers, medians, _ = running_median(x, y)
    if centers.size:
        color, width, dashes = ("vermillion", 1.4, "--") if formal else ("ink", 1.6, "-")
        axes.plot(centers, medians, color=COLORS[color], lw=width, ls=dashes, label=label, path_effects=outline())


def running_median(
    x: NDArray[Any], y: NDArray[Any], n_bins: int = 24, minimum: int = 5
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Medians of ``y`` in equal bins of ``x``.

    Parameters
    ----------
    x, y : array_like, 1-D
        Values; those that are not finite are left out.
    n_bins : int
        Bins between the 0.2nd and 99.8th percentile of ``x``.
    minimum : int
        Values that a bin needs.

    Returns
    -------
    centers, medians, errors : ndarray (m,)
        Bin centres, medians and their errors from the median absolute deviation, only for bins with enough values.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    empty = np.zeros(0)
    if x.size < minimum:
        return empty, empty, empty
    low, high = np.percentile(x, [0.2, 99.8])
    if not high > low:
        return empty, empty, empty
    edges = np.linspace(low, high, n_bins + 1)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    starts = np.searchsorted(x, edges)
    rows = []
    for first, last, left, right in zip(starts[:-1], starts[1:], edges[:-1], edges[1:]):
        if last - first >= minimum:
            middle = float(np.median(y[first:last]))
            spread = robust_width(y[first:last], middle)
            rows.append((0.5 * (left + right), middle, MEDIAN_TO_MEAN_ERROR * spread / np.sqrt(last - first)))
    if not rows:
        return empty, empty, empty
    centers, medians, errors = np.array(rows).T
    return centers, medians, errors
