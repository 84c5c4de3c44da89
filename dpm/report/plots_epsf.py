"""ePSF libraries and how they were built: nodes, convergence, sampling scatter, pixel phase (paper 2, figures 1 to 4)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from dpm.io.quiet import ignored
from dpm.report.calibration import Build
from dpm.report.figures import COLORS, Image, add_legend, encode, new_figure, plain_log_axis

__all__ = ["plot_build_phase", "plot_convergence", "plot_epsf", "plot_sampling_scatter"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
# Samples a pixel of an STDPSF library, and the radius (pixels) within which nodes are compared, as the build does.
_OVERSAMPLING = 4
_CORE_RADIUS = 1.5


def plot_epsf(path: Path) -> list[Image]:
    """An ePSF library: every node on a logarithmic scale, and each node's difference from their mean.

    Parameters
    ----------
    path : Path
        STDPSF file with cubes (node, y, x), node numbers growing with x first.

    Returns
    -------
    list of Image
        One image for a single ePSF, two for a grid; empty where the file holds no such cube.
    """
    try:
        # Warnings are of cut files, which are left out.
        with ignored(AstropyWarning), fits.open(path) as hdus:
            values = np.atleast_3d(np.asarray(hdus[0].data, dtype=float))
            columns = int(hdus[0].header.get("NXPSFS", 1))
            weak = len(str(hdus[0].header.get("DPMWEAK", "")).split())
    except (OSError, ValueError, TypeError) as error:
        logger.warning("report: %s could not be read: %s", path, error)
        return []
    if values.ndim == 4:
        values = values[values.shape[0] // 2]
    nodes, size = values.shape[0], values.shape[-1]
    if nodes % max(columns, 1) or size < 9:
        return []
    middle, half = size // 2, min(size // 2, 22)
    cut = values[:, middle - half : middle + half + 1, middle - half : middle + half + 1]
    grid = nodes // columns, columns
    label = path.stem.removeprefix("STDPSF_").replace("_", " ")
    peak = float(np.nanmax(cut))
    logarithm = np.log10(cut.clip(peak * 1e-5) / peak)
    note = _grid_note(grid, 2 * half + 1, weak)
    images = [_montage(logarithm, grid, label, "log10(ePSF / highest value)", -4.0, note)]
    if nodes > 1:
        mean = cut.mean(axis=0)
        difference = 100.0 * (cut - mean) / mean.max()
        note = _difference_note(difference, half)
        images.append(_montage(difference, grid, label, "node minus mean [% of the peak]", None, note))
    return images


def plot_convergence(build: Build) -> Image | None:
    """What every round of a build changed, beside the error that the stars' noise leaves; None without rounds."""
    change, noise = (_column(build.updates, name, 100.0) for name in ("change", "noise"))
    rounds = np.arange(1, change.size + 1)
    positive = np.concatenate([change[change > 0], noise[noise > 0]])
    if not positive.size:
        return None
    figure, axes = new_figure()
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.plot(rounds, change, color=COLORS["blue"], marker="o", ms=3, lw=1.2, label="change in a round")
    axes.plot(rounds, noise, color=COLORS["vermillion"], ls="--", lw=1.4, label="error from the stars' noise")
    axes.set_yscale("log")
    bounds = (positive.min() / 1.5, positive.max() * 2.0)
    axes.set_ylim(*bounds)
    plain_log_axis(axes.yaxis, bounds)
    starts = [k for k in range(1, rounds.size) if build.updates[k].get("outer") != build.updates[k - 1].get("outer")]
    for number, k in enumerate(starts):
        words = {"label": "frame and distortion made anew"} if number == 0 else {}
        axes.axvline(k + 0.5, color=COLORS["grey"], ls=":", lw=1.0, **words)
    axes.set_xlabel("round")
    axes.set_ylabel("RMS within 1.5 pixels [% of the peak]")
    axes.set_title(_label(build))
    add_legend(axes, loc="upper right")
    note = (
        f"{rounds.size} rounds: change from {change[0]:.3f} % of the peak to {change[-1]:.3f} %; "
        f"error of the last ePSF {noise[-1]:.3f} %."
    )
    return encode(figure, f"Convergence of the ePSF build, {_label(build)}", note)


def plot_sampling_scatter(build: Build) -> Image | None:
    """Scatter of the samplings about the ePSF in units of their errors, by radius, in the first and the last round."""
    rings = [(entry, np.asarray(entry["ring_chi"], dtype=float)) for entry in build.updates if entry.get("ring_chi")]
    if not rings or rings[0][1].shape != rings[-1][1].shape:
        return None
    first, last = rings[0][1], rings[-1][1]
    radius = np.arange(first.size) + 0.5
    figure, axes = new_figure()
    axes.plot(radius, first, color=COLORS["orange"], marker="s", ms=3, lw=1.2, label="before: first round")
    axes.plot(radius, last, color=COLORS["blue"], marker="o", ms=3, lw=1.2, label="after: last round")
    axes.axhline(1, color=COLORS["vermillion"], lw=1.0, ls="--", label="noise alone")
    axes.set_ylim(0, 1.15 * max(float(np.nanmax(first)), float(np.nanmax(last)), 1.0))
    axes.set_xlabel("distance from the star [pixels]")
    axes.set_ylabel("scatter of the samplings / their error")
    axes.set_title(_label(build))
    add_legend(axes, loc="upper right")
    note = (
        f"Innermost pixel: {first[0]:.2f} before, {last[0]:.2f} after; median of all rings {np.nanmedian(first):.2f} and "
        f"{np.nanmedian(last):.2f}."
    )
    if last[0] < 1:
        note += " Below one in the core: positions and fluxes follow the same pixels."
    return encode(figure, f"Sampling scatter before and after, {_label(build)}", note)


def plot_build_phase(build: Build) -> Image | None:
    """Bias of bright stars' free positions with pixel phase, in the first and the last round, x above y."""
    entries = [entry for entry in build.averages if _phase(entry) is not None]
    if not entries:
        return None
    plain = build.average_over_dithers()
    chosen = [(entries[0], "before: first round", "orange", "s")]
    if plain is not None and plain is not entries[0] and plain is not entries[-1] and _phase(plain) is not None:
        chosen.append((plain, "last against pure averages", "green", "^"))
    if len(entries) > 1:
        chosen.append((entries[-1], "after: last round", "blue", "o"))
    figure, axes = new_figure(4.6, 3.9, nrows=2, sharex=True, sharey=True)
    for entry, words, color, marker in chosen:
        phase, bias = _phase(entry) or (np.zeros(0), np.zeros((2, 0)))
        for panel, values in zip(axes, bias, strict=True):
            panel.plot(phase, 1000 * values, color=COLORS[color], marker=marker, ms=3, lw=1.2, label=words)
    for panel, name in zip(axes, ("x", "y"), strict=True):
        panel.axhline(0, color=COLORS["grey"], lw=0.7)
        panel.set_ylabel(f"{name}: measured − averaged\n[0.001 pixel]")
        panel.set_xlim(-0.5, 0.5)
    axes[1].set_xlabel("pixel phase  (0: star on the pixel's centre, ±0.5: on its edge)")
    axes[0].set_title(_label(build))
    add_legend(axes[0], loc="upper right")
    amplitudes = [f"{words}: {float(entry.get('amplitude') or np.nan):.5f} pixel" for entry, words, _, _ in chosen]
    note = f"Amplitude of the first harmonic, the worse axis: {'; '.join(amplitudes)}."
    if entries[-1].get("mix"):
        note += " The last rounds' averages hold a share of each exposure's own position, which hides part of a bias."
    return encode(figure, f"Pixel-phase residuals of the ePSF build, {_label(build)}", note)


def _label(build: Build) -> str:
    return build.cube.replace("_", " ")


def _column(entries: list[dict[str, Any]], name: str, factor: float) -> Floats:
    return np.array([factor * float(entry.get(name) or np.nan) for entry in entries])


def _phase(entry: dict[str, Any]) -> tuple[Floats, Floats] | None:
    """Bin centres and the two biases (pixels, NaN where a bin has too few stars); None where the entry lacks them."""
    phase, bias = np.asarray(entry.get("phase") or [], dtype=float), np.asarray(entry.get("bias") or [], dtype=float)
    return (phase, bias) if phase.size and bias.shape == (2, phase.size) and np.isfinite(bias).any() else None


def _grid_note(grid: tuple[int, int], size: int, weak: int) -> str:
    if grid == (1, 1):
        return f"One ePSF for the whole detector; {size} samples wide."
    note = f"{grid[1]} × {grid[0]} nodes, detector x to the right and y up; each {size} samples wide."
    return note + (f" {weak} of them have too few stars near by and lean on the others." if weak else "")


def _difference_note(difference: Floats, half: int) -> str:
    """How far nodes are from their mean within the core."""
    offset = np.arange(-half, half + 1) / _OVERSAMPLING
    core = difference[:, np.hypot(offset[:, None], offset) <= _CORE_RADIUS]
    rms = np.sqrt(np.mean(core**2, axis=1))
    return (
        f"Within {_CORE_RADIUS:g} pixels nodes differ from their mean by {np.median(rms):.2f} % of the peak RMS (median node), "
        f"{rms.max():.2f} % (worst); largest difference {np.abs(core).max():.2f} %."
    )


def _montage(nodes: NDArray, grid: tuple[int, int], label: str, bar: str, low: float | None, note: str) -> Image:
    """The nodes of a library side by side, the first at the lower left."""
    rows, columns = grid
    size = nodes.shape[-1]
    canvas = np.full((rows * (size + 1) - 1, columns * (size + 1) - 1), np.nan)
    for number, node in enumerate(nodes):
        bottom, left = (number // columns) * (size + 1), (number % columns) * (size + 1)
        canvas[bottom : bottom + size, left : left + size] = node
    width = 4.9 if rows * columns > 1 else 3.8
    figure, axes = new_figure(width, float(np.clip((width - 0.8) * rows / columns + 0.4, 2.2, 5.6)))
    if low is None:
        limit = max(float(np.nanpercentile(np.abs(canvas), 99.8)), 1e-6)
        shown = axes.imshow(canvas, cmap="RdBu_r", vmin=-limit, vmax=limit)
    else:
        shown = axes.imshow(canvas, cmap="viridis", vmin=low, vmax=0)
    figure.colorbar(shown, ax=axes, label=bar, shrink=0.9, pad=0.02)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_title(label)
    return encode(figure, f"ePSF {label}: {bar}", note)
