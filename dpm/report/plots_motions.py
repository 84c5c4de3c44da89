"""Motions of the catalogue's stars, where it has several epochs."""

from __future__ import annotations

import numpy as np

from dpm.models.flags import StarFlag
from dpm.report.data import RunData
from dpm.report.figures import COLORS, Image, draw_median, draw_points, encode, limits, new_figure

__all__ = ["describe_zero_point", "plot_motions"]

# Largest error of a motion in the diagram, over the spread of the motions.
MOST_ERROR = 0.3


def plot_motions(data: RunData) -> list[Image]:
    """The vector-point diagram, and errors of motions against magnitude."""
    pmra, pmdec = data.catalog_column("pmra"), data.catalog_column("pmdec")
    if pmra is None or pmdec is None or data.catalog is None or not np.isfinite(pmra).any():
        return []
    error = np.sqrt(0.5 * (np.array(data.catalog["pmra_error"], float) ** 2 + np.array(data.catalog["pmdec_error"], float) ** 2))
    bad = (np.array(data.catalog["flags"]) & int(StarFlag.SATURATED | StarFlag.HIDDEN_NEIGHBOR)) != 0
    known = np.isfinite(pmra) & np.isfinite(pmdec)
    spread = max(float(np.ptp(np.percentile(pmra[known], [5, 95]))), float(np.ptp(np.percentile(pmdec[known], [5, 95]))))
    good = known & ~bad & (error < MOST_ERROR * max(spread, 1e-9))
    if good.sum() < 3:
        return []
    figure, axes = new_figure(4.2, 4.2)
    xlim, ylim = limits(pmra[good], 0.5, 99.5, 0.1), limits(pmdec[good], 0.5, 99.5, 0.1)
    draw_points(axes, pmra[good], pmdec[good], xlim[::-1], ylim)
    for draw in (axes.axhline, axes.axvline):
        draw(0.0, color=COLORS["grey"], lw=0.8, zorder=0)
    axes.set_xlabel("pmra [mas/yr]")
    axes.set_ylabel("pmdec [mas/yr]")
    note = f"{int(good.sum()):,} stars, motions good to {MOST_ERROR * spread:.2f} mas/yr. {describe_zero_point(data)}"
    out = [encode(figure, "Vector-point diagram", note)]
    band = data.bands[0] if data.bands else ""
    mag = data.catalog_column(f"{band}_mag")
    if mag is not None and (known & np.isfinite(mag)).any():
        shown = known & np.isfinite(mag) & (error > 0)
        figure, axes = new_figure()
        x, y = mag[shown].astype(float), error[shown]
        low, high = np.percentile(y, [0.5, 99.5])
        draw_points(axes, x, y, limits(x, 0.2, 99.8), (low / 1.5, high * 1.5), log_y=True)
        draw_median(axes, x, y, "median")
        axes.set_xlabel(band)
        axes.set_ylabel("error of motion, one axis [mas/yr]")
        out.append(encode(figure, f"Errors of motions against {band}"))
    return out


def describe_zero_point(data: RunData) -> str:
    """What the motions count from, in a sentence; empty without motions."""
    meta = data.catalog.meta if data.catalog is not None else {}
    text = str(meta.get("pm_zero_point", ""))
    error = meta.get("pm_zero_point_error")
    if not text:
        return ""
    if not error or not np.isfinite(error).all():
        return f"Zero point {text}."
    return f"Zero point {text}, to {error[0]:.4f} and {error[1]:.4f} mas/yr by {meta.get('pm_reference_stars', 0)} of its stars."
