"""Second pass: data beside residuals, pulls, errors, gain over the first pass, and the three methods' scatter."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.stats import norm

from dpm.io.fits_files import checksum
from dpm.io.tables import read_columns
from dpm.models.statistics import MAG_PER_RELATIVE_FLUX, robust_width
from dpm.report.data import RunData, band_label
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
from dpm.stages.residuals.exposure import ResidualImage, RunScene
from dpm.stages.residuals.write import CATALOG_DIGITS

__all__ = ["plot_errors", "plot_gain", "plot_methods", "plot_quality", "plot_residuals", "plot_stacks"]

logger = logging.getLogger(__name__)

SIDE = 200  # pixels of a cut-out
PULL_LIMIT = 6.0
LOW, HIGH = 5.0, 20.0  # of the residual's scatter, shown below and above the sky
MAX_ROWS = 400_000
METHODS = (("flux_free", "1", "blue"), ("flux", "2", "ink"), ("flux_small", "3", "green"))


def plot_residuals(data: RunData) -> list[Image]:
    """For the middle exposure of each band: a cut-out of data and residual, and the pulls of all its pixels."""
    source = str(data.config.get("distortion", {}).get("source", "solve"))
    threshold = float(data.config.get("find", {}).get("threshold", 5.0))
    out: list[Image] = []
    try:
        scene = RunScene(data.folder, source, threshold)
        for band, names in scene.bands().items():
            name = names[len(names) // 2]
            result = scene.residual(name)
            title = f"{result.row['exposure']}, {result.row['detector']}, {band_label(band)}"
            x, y, _ = result.placement(*scene.epoch_positions(name))
            box = _richest_box(x - result.image.x_origin, y - result.image.y_origin, result.image.shape)
            sci = np.where(result.good, result.image.sci, np.nan)
            out.append(_pair(sci, result.residual, box, title, "raw"))
            out.append(_pulls(result, title))
    except (OSError, ValueError, KeyError) as error:
        data.warnings.append(f"residual images could not be made: {error}")
        logger.warning("report: residual images: %s", error)
    return out


def plot_stacks(data: RunData) -> tuple[list[Image], str]:
    """Cut-outs of the stacks in ``images``, and what to say where they are absent or of another catalogue."""
    out, old = [], False
    digits = checksum(data.folder.catalog)[:CATALOG_DIGITS]
    for band in data.bands:
        files = [data.folder.images / f"{kind}_{band}.fits" for kind in ("stack", "residual_stack")]
        if not all(path.is_file() for path in files):
            continue
        with fits.open(files[0]) as stack, fits.open(files[1]) as residual:
            if {part[0].header.get("CATSUM") for part in (stack, residual)} != {digits}:
                old = True
                continue
            assert data.catalog is not None
            pixels, left = np.array(stack[0].data), np.array(residual[0].data)
            box = _richest_box(np.array(data.catalog["x"]), np.array(data.catalog["y"]), pixels.shape)
            out.append(_pair(pixels, left, box, f"{band_label(band)}, stack of {stack[0].header['NEXP']} exposures", "master"))
    if old:
        return out, " The stacks in images/ are of an earlier catalogue: `dpm residuals` makes them again."
    return out, "" if out else " `dpm residuals` makes images of all exposures and stacks; `dpm report` then shows the stacks here."


def plot_quality(data: RunData, band: str, mag_label: str) -> list[Image]:
    """chi and QFIT of the catalogue against magnitude."""
    out = []
    for name, label in (("chi", "chi  (reduced)"), ("qfit", "QFIT")):
        mag, values = data.catalog_column(f"{band}_mag"), data.catalog_column(f"{band}_{name}")
        picture = _against_magnitude(mag, values, mag_label, label, band, name, 1.0 if name == "chi" else None)
        out += [] if picture is None else [picture]
    return out


def plot_errors(data: RunData, band: str, mag_label: str) -> list[Image]:
    """Errors of position (one axis) and magnitude against magnitude."""
    mag, out = data.catalog_column(f"{band}_mag"), []
    ra, dec = data.catalog_column("ra_error"), data.catalog_column("dec_error")
    position = None if ra is None or dec is None else np.sqrt(0.5 * (ra.astype(float) ** 2 + dec.astype(float) ** 2))
    for values, label, name in (
        (position, "position error, one axis [mas]", "position error"),
        (data.catalog_column(f"{band}_mag_error"), "magnitude error [mag]", "magnitude error"),
    ):
        picture = _against_magnitude(mag, values, mag_label, label, band, name)
        out += [] if picture is None else [picture]
    return out


def plot_gain(data: RunData, band: str, mag_label: str) -> Image | None:
    """Stars by magnitude in the first pass's averages and in the catalogue."""
    columns = {"first pass": data.frame_column(f"{band}_mag"), "second pass": data.catalog_column(f"{band}_mag")}
    mags = {name: values[np.isfinite(values)] for name, values in columns.items() if values is not None}
    if len(mags) < 2 or not all(values.size for values in mags.values()):
        return None
    everyone = np.concatenate(list(mags.values()))
    low, high = np.floor(2 * everyone.min()) / 2, np.ceil(2 * np.percentile(everyone, 99.9)) / 2
    edges = np.arange(low, high + 0.25, 0.5)
    figure, axes = new_figure()
    for (name, values), color in zip(mags.items(), ("grey", "blue")):
        axes.stairs(np.histogram(values, edges)[0], edges, color=COLORS[color], lw=1.6, label=f"{name}, {values.size:,} stars")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_xlabel(mag_label)
    axes.set_ylabel("stars in half a magnitude")
    axes.set_title(band_label(band))
    add_legend(axes, loc="upper left")
    return encode(figure, f"Stars by magnitude in both passes, {band_label(band)}")


def plot_methods(data: RunData, band: str, mag_label: str) -> Image | None:
    """Scatter over exposures of the magnitudes of the three methods, against magnitude."""
    rows = _measurements(data, band)
    mag, ids = data.catalog_column(f"{band}_mag"), data.catalog_column("id")
    if rows is None or mag is None or ids is None or not ids.size:
        return None
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], rows["id"]).clip(0, ids.size - 1)
    star = order[place]
    known = (ids[star] == rows["id"]) & np.isfinite(mag[star]) & (rows["id"] > 0)
    figure, axes = new_figure()
    drawn = False
    for name, number, color in METHODS:
        good = known & np.isfinite(rows[name]) & (rows[name] > 0)
        if good.sum() < 20:
            continue
        deviation, of_star = _deviations(star[good], -2.5 * np.log10(rows[name][good]) + rows["zero_point"][good])
        center, median, _ = running_median(mag[of_star], np.abs(deviation))
        axes.plot(center, median / norm.ppf(0.75), color=COLORS[color], lw=1.5, label=f"method {number} ({name})")
        drawn = drawn or center.size > 0
    if not drawn:
        return None
    formal = known & (rows["flux"] > 0)
    error = MAG_PER_RELATIVE_FLUX * rows["flux_error"][formal] / rows["flux"][formal]
    draw_median(axes, mag[star[formal]], error, "formal, method 2", formal=True)
    axes.set_yscale("log")
    axes.set_xlabel(mag_label)
    axes.set_ylabel("scatter of one exposure [mag]")
    axes.set_title(band_label(band))
    add_legend(axes, loc="upper left")
    note = "Robust width of positive fluxes about each star's median; faint stars' negative fluxes have no magnitude."
    return encode(figure, f"Scatter of the three methods against magnitude, {band_label(band)}", note)


def _deviations(star: NDArray[np.int64], value: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values about their star's mean, widened for the mean's own error, and their stars; stars with two values or more."""
    n, total = np.bincount(star), np.bincount(star, value)
    several = n[star] > 1
    star, value = star[several], value[several]
    return (value - total[star] / n[star]) * np.sqrt(n[star] / (n[star] - 1.0)), star


def _measurements(data: RunData, band: str) -> dict[str, NDArray[Any]] | None:
    """Measurements of a band with what makes their magnitudes comparable; thinned by whole stars."""
    sample = data.samples.get(band)
    if sample is None or data.exposures is None or data.catalog is None:
        return None
    numbers = np.unique(sample["exposure"])
    step = max(1, int(np.ceil(len(data.catalog) * len(numbers) / MAX_ROWS)))
    names = ["id", "area", "flux", "flux_error", "flux_free", "flux_small"]
    pieces = []
    for number in numbers:
        row = data.exposures[int(number)]
        path = data.folder.measurements_file(str(row["exposure"]), str(row["detector"]))
        if not path.is_file():
            continue
        part = read_columns(path, names)
        part = {name: values[part["id"] % step == 0] for name, values in part.items()}
        zero_point = float(row["zero_point"])
        with np.errstate(divide="ignore", invalid="ignore"):
            part["zero_point"] = (zero_point if np.isfinite(zero_point) else 0.0) - 2.5 * np.log10(part["area"])
        pieces.append(part)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else None


def _against_magnitude(
    mag: NDArray | None, values: NDArray | None, mag_label: str, label: str, band: str, name: str, level: float | None = None
) -> Image | None:
    if mag is None or values is None:
        return None
    good = np.isfinite(mag) & np.isfinite(values) & (values > 0)
    if not good.any():
        return None
    mag, values = mag[good].astype(float), values[good].astype(float)
    low, high = np.percentile(values, [0.5, 99.5])
    figure, axes = new_figure()
    draw_points(axes, mag, values, limits(mag, 0.2, 99.8), (low / 1.5, high * 1.5), log_y=True, label="stars")
    draw_median(axes, mag, values, "median")
    if level is not None:
        axes.axhline(level, color=COLORS["vermillion"], lw=1.0, zorder=3)
    axes.set_xlabel(mag_label)
    axes.set_ylabel(label)
    axes.set_title(band_label(band))
    add_legend(axes, loc="upper left")
    return encode(figure, f"{name} of the second pass against magnitude, {band_label(band)}")


def _richest_box(x: NDArray, y: NDArray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The cut-out with the most stars, on a grid of half its side."""
    ny, nx = shape[:2]
    best, place = -1, (0, 0)
    for row in range(0, max(ny - SIDE, 0) + 1, SIDE // 2):
        for column in range(0, max(nx - SIDE, 0) + 1, SIDE // 2):
            count = int(np.sum((x >= column) & (x < column + SIDE) & (y >= row) & (y < row + SIDE)))
            if count > best:
                best, place = count, (row, column)
    return slice(place[0], min(place[0] + SIDE, ny)), slice(place[1], min(place[1] + SIDE, nx))


def _pair(pixels: NDArray, residual: NDArray, box: tuple[slice, slice], title: str, frame: str) -> Image:
    """Data beside residual in one linear grey scale."""
    from matplotlib import colormaps

    rows, columns = box
    left = residual[box]
    finite = left[np.isfinite(left)]
    sky, noise = (float(np.median(finite)), max(robust_width(finite), 1e-12)) if finite.size > 1 else (0.0, 1.0)
    extent = (columns.start - 0.5, columns.stop - 0.5, rows.start - 0.5, rows.stop - 0.5)
    figure, axes = new_figure(7.2, 4.1, ncols=2, sharey=True)
    colors = colormaps["gray_r"].with_extremes(bad=COLORS["tint"])
    for axis, part, words in ((axes[0], pixels[box], "data"), (axes[1], left, "data minus model")):
        scaled = np.round(np.clip((part - sky + LOW * noise) / ((LOW + HIGH) * noise), 0, 1) * 40) / 40
        shown = np.ma.masked_invalid(scaled)
        axis.imshow(shown, cmap=colors, vmin=0, vmax=1, extent=extent, origin="lower", interpolation="nearest")
        axis.grid(False)
        axis.set_title(words)
        axis.set_xlabel(f"x, {frame} [pixels]" if frame == "master" else "x in the array [pixels]")
    axes[0].set_ylabel("y [pixels]")
    note = f"{title}. Grey from {LOW:.0f} below to {HIGH:.0f} above the sky, in units of the residual's scatter; "
    note += "tinted: no good pixel."
    return encode(figure, f"Data beside data minus model, {title}", note)


def _pulls(result: ResidualImage, title: str) -> Image:
    """Histogram of the residual over its noise, local sky taken off."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pull = (result.residual - result.local_sky()) / np.sqrt(result.variance())
    pull = pull[np.isfinite(pull)]
    edges = np.linspace(-PULL_LIMIT, PULL_LIMIT, 97)
    figure, axes = new_figure()
    density = np.histogram(pull, edges)[0] / max(pull.size, 1) / np.diff(edges)
    axes.stairs(density, edges, fill=True, color=COLORS["blue"], alpha=0.6)
    axes.plot(edges, norm.pdf(edges), color=COLORS["vermillion"], lw=1.3, label="unit Gaussian")
    axes.set_yscale("log")
    axes.set_ylim(1e-6, 1.0)
    axes.set_xlabel("residual / noise of the pixel")
    axes.set_ylabel("density")
    axes.set_title("Residual pulls")
    add_legend(axes, loc="upper left")
    beyond = np.mean(np.abs(pull) > 5) if pull.size else np.nan
    width = robust_width(pull) if pull.size > 1 else np.nan
    note = f"{title}. Robust width {width:.3f}; {100 * beyond:.2f} % beyond 5 sigma."
    return encode(figure, f"Pulls of the residual, {title}", note)
