"""Positions: scatter over exposures, residual maps, pixel phase, pulls (paper 2, figures 3, 9, 12 and 16)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import MAG_PER_RELATIVE_FLUX, MEDIAN_TO_MEAN_ERROR
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
    plain_log_axis,
    running_median,
)
from dpm.report.select import clean, finite_width, measured_residuals, scatter_of_stars

__all__ = [
    "MINIMUM_FOR_MAPS",
    "MINIMUM_FOR_PULLS",
    "Area",
    "plot_cloud",
    "plot_pixel_phase",
    "plot_position_rms",
    "plot_pulls",
    "plot_residual_map",
    "plot_residual_trends",
    "round_scale",
]

MINIMUM_FOR_MAPS = 12
MINIMUM_FOR_CELLS = 150
MINIMUM_FOR_PULLS = 20
Area = tuple[float, float, float, float]


def plot_position_rms(data: RunData, sample: Sample, pixel_scale: float | None, mag_label: str) -> Image | None:
    """Scatter of one axis over the exposures against magnitude, with the formal error."""
    stars = scatter_of_stars(data, sample)
    positive = stars.rms > 0
    if not positive.any():
        return None
    mag, rms = stars.mag[positive], stars.rms[positive]
    figure, axes = new_figure()
    low, high = np.percentile(rms, [0.5, 99.5])
    ylim = (max(low / 1.5, 1e-5), high * 2.0)
    draw_points(axes, mag, rms, limits(mag, 0.2, 99.8), ylim, log_y=True, label="stars")
    draw_median(axes, mag, rms, "median scatter")
    draw_median(axes, stars.mag, stars.formal, "formal error of one exposure", formal=True)
    axes.set_xlabel(mag_label)
    axes.set_ylabel("scatter of one axis [raw pixels]")
    axes.set_title(band_label(sample.band))
    add_legend(axes, loc="upper left")
    if pixel_scale:
        factor = 1000.0 * pixel_scale
        second = axes.secondary_yaxis("right", functions=(lambda value: value * factor, lambda value: value / factor))
        second.set_ylabel("[mas]")
        plain_log_axis(second.yaxis, (ylim[0] * factor, ylim[1] * factor))
    return encode(
        figure, f"Position scatter against magnitude, {band_label(sample.band)}", _best_stars(mag, rms, pixel_scale)
    )


def plot_cloud(sample: Sample, pixel_scale: float | None) -> Image | None:
    """Residuals dy against dx of well-measured stars with their histograms and widths."""
    good, factor = measured_residuals(sample)
    if good.sum() < 5:
        return None
    dx, dy = factor * sample["dx"][good], factor * sample["dy"][good]
    width_x, width_y = finite_width(dx), finite_width(dy)
    half = max(5.0 * max(width_x, width_y), 1e-4)
    grid = {"width_ratios": [4, 1.15], "height_ratios": [1.15, 4], "wspace": 0.02, "hspace": 0.02}
    figure, axes = new_figure(4.0, 3.8, nrows=2, ncols=2, gridspec_kw=grid)
    axes[0, 1].remove()
    main, top, side = axes[1, 0], axes[0, 0], axes[1, 1]
    draw_points(main, dx, dy, (-half, half), (-half, half))
    main.axhline(0, color=COLORS["grey"], lw=0.7)
    main.axvline(0, color=COLORS["grey"], lw=0.7)
    main.set_aspect("equal")
    main.set_xlabel("dx [raw pixels]")
    main.set_ylabel("dy [raw pixels]")
    edges = np.linspace(-half, half, 41)
    grid_x = np.linspace(-half, half, 200)
    for axis, values, width, vertical in ((top, dx, width_x, False), (side, dy, width_y, True)):
        axis.hist(values, edges, color=COLORS["sky"], orientation="horizontal" if vertical else "vertical")
        inside = np.abs(values) < half
        if width > 0:
            center = np.median(values)
            curve = (
                inside.sum()
                * (edges[1] - edges[0])
                * np.exp(-0.5 * ((grid_x - center) / width) ** 2)
                / (np.sqrt(2 * np.pi) * width)
            )
            axis.plot(*((curve, grid_x) if vertical else (grid_x, curve)), color=COLORS["vermillion"], lw=1.2)
        axis.set_xlim(*((0, None) if vertical else (-half, half)))
        axis.set_ylim(*((-half, half) if vertical else (0, None)))
        axis.tick_params(labelbottom=False, labelleft=False)
    top.set_title(band_label(sample.band))
    note = f"σ(x) = {width_x:.4f}, σ(y) = {width_y:.4f} pixel"
    if pixel_scale:
        note += f" ({1000 * pixel_scale * width_x:.2f}, {1000 * pixel_scale * width_y:.2f} mas)"
    note += f"; {good.sum():,} well-measured detections, widths from the median absolute deviation."
    return encode(figure, f"Position residuals dy against dx, {band_label(sample.band)}", note)


def plot_residual_map(x: NDArray, y: NDArray, dx: NDArray, dy: NDArray, area: Area, title: str) -> Image | None:
    """Median residual vectors in cells of the raw detector.

    Parameters
    ----------
    x, y, dx, dy : ndarray (n,)
        Raw positions and residuals of well-measured detections, pixels.
    area : (float, float, float, float)
        First and last raw column, first and last raw row of what the exposures cover.
    title : str
        Title of the map.

    Returns
    -------
    Image or None
        None where fewer than `MINIMUM_FOR_MAPS` residuals are given, or no cell has four of them.
    """
    if x.size < MINIMUM_FOR_MAPS:
        return None
    nx, ny = area[1] - area[0], area[3] - area[2]
    singles = x.size < MINIMUM_FOR_CELLS
    cells = 8.0 if singles else float(np.clip(np.sqrt(x.size / 12.0), 1, 20))
    columns = max(1, round(cells * min(1.0, nx / ny)))
    rows = max(1, round(cells * min(1.0, ny / nx)))
    if singles:
        place_x, place_y, median_x, median_y, count = x, y, dx, dy, np.ones(x.size)
    else:
        place_x, place_y, median_x, median_y, count = _cell_medians(x, y, dx, dy, (rows, columns), area)
    if place_x.size == 0:
        return None
    length = np.hypot(median_x, median_y)
    unit = round_scale(float(np.percentile(length, 90)))
    cell = max(nx / columns, ny / rows)
    figure, axes = new_figure(4.8, float(np.clip(4.2 * ny / nx + 0.7, 2.2, 5.4)))
    arrows = axes.quiver(
        place_x,
        place_y,
        median_x,
        median_y,
        angles="xy",
        scale_units="xy",
        scale=unit / (0.9 * cell),
        width=0.0035,
        color=COLORS["blue"],
    )
    key = {"labelpos": "W", "coordinates": "axes", "color": COLORS["vermillion"], "labelcolor": COLORS["vermillion"]}
    axes.quiverkey(arrows, 0.8, 1.035, unit, f"{unit:g} pixel", **key)
    axes.set_xlim(area[0] - 0.02 * nx, area[1] + 0.02 * nx)
    axes.set_ylim(area[2] - 0.02 * ny, area[3] + 0.02 * ny)
    axes.set_aspect("equal")
    axes.set_xlabel("x raw [pixels]")
    axes.set_ylabel("y raw [pixels]")
    axes.set_title(title)
    noise = np.median(MEDIAN_TO_MEAN_ERROR * np.hypot(finite_width(dx), finite_width(dy)) / np.sqrt(count))
    note = (
        f"Medians of {x.size:,} residuals in {place_x.size} cells: RMS {np.sqrt(np.mean(length**2)):.4f} pixel, "
        f"of which about {noise:.4f} is noise; arrows magnified {0.9 * cell / unit:,.0f} times."
    )
    if singles:
        note = f"Too few stars for medians: {x.size} single residuals, RMS {np.sqrt(np.mean(length**2)):.4f} pixel."
    return encode(figure, f"Residual map, {title}", note)


def plot_residual_trends(x: NDArray, y: NDArray, dx: NDArray, dy: NDArray, area: Area, title: str) -> Image | None:
    """The two residuals against the two raw coordinates, with medians; parameters as for `plot_residual_map`."""
    if x.size < MINIMUM_FOR_MAPS:
        return None
    half = max(4.0 * max(finite_width(dx), finite_width(dy)), 1e-4)
    figure, axes = new_figure(4.6, 3.9, nrows=2, ncols=2, sharey=True, sharex="col")
    for row, (residual, name) in enumerate(((dx, "dx"), (dy, "dy"))):
        for column, (place, axis_name, extent) in enumerate(((x, "x", area[:2]), (y, "y", area[2:]))):
            panel = axes[row, column]
            draw_points(panel, place, residual, extent, (-half, half), color=COLORS["sky"])
            center, median, error = running_median(place, residual, 20, 8)
            panel.axhline(0, color=COLORS["grey"], lw=0.7)
            panel.errorbar(center, median, error, color=COLORS["ink"], lw=1.2, capsize=0)
            if column == 0:
                panel.set_ylabel(f"{name} [pixels]")
            if row == 1:
                panel.set_xlabel(f"{axis_name} raw [pixels]")
    axes[0, 0].set_title(title)
    return encode(
        figure,
        f"Residuals against raw position, {title}",
        "Points: well-measured detections; line: medians with errors.",
    )


def plot_pixel_phase(sample: Sample) -> Image | None:
    """Residuals against the position inside the pixel, with medians."""
    good, _ = measured_residuals(sample, 50.0)
    if good.sum() < MINIMUM_FOR_MAPS:
        return None
    figure, axes = new_figure(4.6, 3.9, nrows=2, sharex=True)
    notes = []
    for panel, name in zip(axes, ("x", "y")):
        phase = sample[name][good] - np.round(sample[name][good])
        residual = sample[f"d{name}"][good].astype(float)
        half = max(4.0 * finite_width(residual), 1e-4)
        draw_points(panel, phase, residual, (-0.5, 0.5), (-half, half), color=COLORS["sky"])
        n_bins = int(np.clip(phase.size // 40, 4, 20))
        center, median, error = running_median(phase, residual, n_bins)
        panel.axhline(0, color=COLORS["grey"], lw=0.7)
        panel.errorbar(center, median, error, color=COLORS["ink"], lw=1.3, capsize=0, marker="o", ms=2.5)
        panel.set_ylabel(f"d{name} [raw pixels]")
        notes.append(_harmonic_note(name, phase, residual, half))
    axes[1].set_xlabel("pixel phase  (0: star on the pixel's centre, ±0.5: on its edge)")
    axes[0].set_title(band_label(sample.band))
    return encode(figure, f"Position residuals against pixel phase, {band_label(sample.band)}", "; ".join(notes) + ".")


def plot_pulls(sample: Sample) -> list[Image]:
    """Residuals over formal errors: their histogram beside a unit Gaussian, and their width against magnitude."""
    pulls, mag = _pulls_of(sample)
    finite = {name: np.isfinite(values) for name, values in pulls.items()}
    shown = [name for name in pulls if finite[name].sum() >= MINIMUM_FOR_PULLS]
    if not shown:
        return []
    histogram, left = new_figure()
    widths, right = new_figure()
    edges = np.linspace(-5, 5, 61 if mag.size > 2000 else 31)
    middle = 0.5 * (edges[1:] + edges[:-1])
    gaussian = np.exp(-0.5 * middle**2) / np.sqrt(2 * np.pi)
    left.plot(middle, gaussian, color=COLORS["grey"], lw=3, alpha=0.6, label="unit Gaussian")
    right.axhspan(0.9, 1.1, color=COLORS["green"], alpha=0.12, lw=0)
    right.axhline(1, color=COLORS["grey"], lw=0.8)
    notes, highest = [], 1.5
    colors = {"x": COLORS["blue"], "y": COLORS["green"], "magnitude": COLORS["vermillion"]}
    for name in shown:
        values = pulls[name][finite[name]]
        density = np.histogram(values, edges)[0] / (values.size * (edges[1] - edges[0]))
        left.step(middle, density, where="mid", color=colors[name], lw=1.2, label=name)
        center, width = _width_against(mag[finite[name]], values)
        right.plot(center, width, color=colors[name], lw=1.3, marker="o", ms=3, label=name)
        highest = max(highest, 1.15 * float(width.max()))
        notes.append(f"{name}: width {finite_width(values):.2f}, {100 * np.mean(np.abs(values) > 4):.1f} % beyond 4σ")
    left.set_xlabel("pull = residual / formal error")
    left.set_ylabel("probability density")
    right.set_xlabel("instrumental magnitude, −2.5 log10(flux)")
    right.set_ylabel("width of the pulls")
    if highest > 4:
        right.set_yscale("log")
        right.set_ylim(0.5, highest)
        plain_log_axis(right.yaxis, (0.5, highest))
    else:
        right.set_ylim(0, highest)
    label = band_label(sample.band)
    for axes in (left, right):
        axes.set_title(label)
        add_legend(axes, loc="best")
    return [
        encode(histogram, f"Pulls of positions and magnitudes, {label}", "; ".join(notes) + "."),
        encode(widths, f"Width of the pulls against magnitude, {label}", "Bins of equal numbers; shaded: 0.9 to 1.1."),
    ]


def _pulls_of(sample: Sample) -> tuple[dict[str, NDArray], NDArray]:
    """Pulls of the clean detections of stars in two or more exposures, and their instrumental magnitudes.

    A residual is taken about a mean that the detection is part of, which makes it smaller by sqrt(1 - 1/n).
    """
    good = clean(sample) & np.isfinite(sample["dx"])
    _, group, count = np.unique(sample["id"][good], return_inverse=True, return_counts=True)
    n = count[group]
    several = n > 1
    inflate = np.sqrt(n[several] / (n[several] - 1.0))
    pulls: dict[str, NDArray] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in ("x", "y"):
            pulls[name] = (sample[f"d{name}"][good] / sample[f"{name}_error"][good])[several] * inflate
        error = MAG_PER_RELATIVE_FLUX * sample["flux_error"][good] / sample["flux"][good]
        pulls["magnitude"] = (sample["dmag"][good] / error)[several] * inflate
    return pulls, sample["mag"][good][several]


def _best_stars(mag: NDArray, rms: NDArray, pixel_scale: float | None) -> str:
    """Scatter of the best-measured stars: the fifth, in order of magnitude, with the smallest median."""
    order = np.argsort(mag, kind="stable")
    if mag.size < 50:
        brighter = order[: (mag.size + 1) // 2]
        return f"Median of the brighter {brighter.size} of {mag.size} stars: {np.median(rms[brighter]):.4f} pixel."
    width = int(0.2 * mag.size)
    starts = range(0, mag.size - width + 1, max(1, width // 10))
    medians = [float(np.median(rms[order[start : start + width]])) for start in starts]
    best = int(np.argmin(medians))
    chosen = order[starts[best] : starts[best] + width]
    between = f"magnitude {mag[chosen].min():.1f} to {mag[chosen].max():.1f}"
    note = f"Median of the best fifth of the stars ({between}): {medians[best]:.4f} pixel"
    return note + (f" = {1000 * pixel_scale * medians[best]:.2f} mas." if pixel_scale else ".")


def _cell_medians(
    x: NDArray, y: NDArray, dx: NDArray, dy: NDArray, cells: tuple[int, int], area: Area, minimum: int = 4
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """Centres, medians and numbers of the cells with at least ``minimum`` residuals."""
    rows, columns = cells
    width, height = (area[1] - area[0]) / columns, (area[3] - area[2]) / rows
    column = ((x - area[0]) / width).astype(int).clip(0, columns - 1)
    row = ((y - area[2]) / height).astype(int).clip(0, rows - 1)
    cell = row * columns + column
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(rows * columns + 1))
    found = []
    for number, (first, last) in enumerate(zip(bounds[:-1], bounds[1:])):
        if last - first >= minimum:
            chosen = order[first:last]
            center_x = area[0] + (number % columns + 0.5) * width
            center_y = area[2] + (number // columns + 0.5) * height
            found.append((center_x, center_y, np.median(dx[chosen]), np.median(dy[chosen]), last - first))
    if not found:
        empty = np.zeros(0)
        return empty, empty, empty, empty, empty
    place_x, place_y, median_x, median_y, count = np.array(found).T
    return place_x, place_y, median_x, median_y, count


def round_scale(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if not value > 0:
        return 0.001
    power = 10.0 ** np.floor(np.log10(value))
    for factor in (1.0, 2.0, 5.0, 10.0):
        if value <= factor * power:
            return float(factor * power)
    return float(10.0 * power)


def _harmonic_note(name: str, phase: NDArray, residual: NDArray, half: float) -> str:
    """Amplitude of the first harmonic of the residual in pixel phase, by least squares without the outliers."""
    inside = np.abs(residual - np.median(residual)) < half
    angle = 2 * np.pi * phase[inside]
    design = np.stack([np.ones_like(angle), np.sin(angle), np.cos(angle)], axis=1)
    solution, *_ = np.linalg.lstsq(design, residual[inside], rcond=None)
    error = finite_width(residual[inside]) * np.sqrt(2.0 / inside.sum())
    return f"first harmonic in {name}: {np.hypot(solution[1], solution[2]):.5f} ± {error:.5f} pixel"


def _width_against(mag: NDArray, values: NDArray) -> tuple[NDArray, NDArray]:
    """Robust width of the values in bins of magnitude with equal numbers."""
    n_bins = int(np.clip(mag.size // 100, 1, 12))
    order = np.argsort(mag, kind="stable")
    parts = np.array_split(order, n_bins)
    return np.array([np.median(mag[part]) for part in parts]), np.array([finite_width(values[part]) for part in parts])
