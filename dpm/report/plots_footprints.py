"""Where the exposures lie on the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpm.models.transform import LinearTransform
from dpm.report.data import RunData, band_label
from dpm.report.figures import COLORS, Image, add_legend, encode, new_figure

__all__ = ["footprints", "plot_footprints"]

DARKEST = 0.4  # opacity where all exposures of a band overlap
STROKES = ("-", "--", ":")  # bands with the same dithers lie on one another
HUES = ("blue", "vermillion", "green", "orange", "purple", "sky")


def footprints(data: RunData) -> dict[str, list[NDArray[np.float64]]]:
    """Corners (4, 2) of every placed exposure by band: arcsec East and North of the frame's tangent point.

    By the frame's transforms alone; distortion bends the sides by some pixels.
    """
    table = data.exposures
    needed = {"a", "b", "c", "d", "x_shift", "y_shift", "nx", "ny", "band"}
    if table is None or not needed <= set(table.colnames) or "master_frame" not in table.meta:
        return {}
    frame = table.meta["master_frame"]
    out: dict[str, list[NDArray[np.float64]]] = {}
    for row in table:
        transform = LinearTransform(*(float(row[key]) for key in ("a", "b", "c", "d", "x_shift", "y_shift")))
        if not np.isfinite(transform.a):
            continue
        half_x, half_y = 0.5 * float(row["nx"]), 0.5 * float(row["ny"])
        x, y = transform(np.array([-1, 1, 1, -1]) * half_x, np.array([-1, -1, 1, 1]) * half_y)
        place = np.column_stack([float(frame.get("x0", 0.0)) - x, y - float(frame.get("y0", 0.0))])
        out.setdefault(str(row["band"]), []).append(place * float(frame["scale"]))
    return out


def plot_footprints(data: RunData) -> Image | None:
    """Outlines of all exposures, a colour a band; None where none has a place."""
    from matplotlib.collections import PolyCollection

    found = footprints(data)
    if not found:
        return None
    frame = data.exposures.meta["master_frame"]  # type: ignore[union-attr]
    figure, axes = new_figure(5.2, 4.8)
    for number, (band, corners) in enumerate(sorted(found.items())):
        color = COLORS[HUES[number % len(HUES)]]
        fill = min(DARKEST / len(corners), 0.1)
        look = STROKES[number % len(STROKES)]
        axes.add_collection(PolyCollection(corners, facecolors=color, edgecolors="none", alpha=fill))
        axes.add_collection(PolyCollection(corners, facecolors="none", edgecolors=color, linewidths=0.9, linestyles=look))
        axes.plot([], [], color=color, linestyle=look, label=f"{band_label(band)} ({len(corners)})")
    every = np.concatenate([corner for corners in found.values() for corner in corners])
    middle, reach = 0.5 * (every.min(axis=0) + every.max(axis=0)), 0.55 * float(np.ptp(every, axis=0).max())
    axes.set_xlim(middle[0] + reach, middle[0] - reach)
    axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_aspect("equal")
    axes.set_xlabel("East [arcsec]")
    axes.set_ylabel("North [arcsec]")
    add_legend(axes, loc="upper right")
    origin = f"RA {float(frame['ra0']):.5f}, Dec {float(frame['dec0']):+.5f}"
    note = f"Footprints on the sky, from {origin}: outlines by the frame's transforms, without distortion."
    return encode(figure, "Footprints of the exposures on the sky", note)
