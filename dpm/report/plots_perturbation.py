"""What the ePSF of a filter leaves out: changes from exposure to exposure, with brightness, and with colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.io.brightness_file import read_brightness
from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf
from dpm.report.data import band_label
from dpm.report.figures import COLORS, Image, add_legend, encode, new_figure
from dpm.report.summary import HtmlTable

__all__ = [
    "brightness_table",
    "colour_table",
    "exposure_table",
    "plot_brightness_curve",
    "plot_changes",
    "plot_colour_slopes",
    "plot_exposures",
    "plot_term",
]

Floats = NDArray[np.float64]
Entries = dict[str, dict[str, Any]]
_OVERSAMPLING = 4
_REACH = 12  # samples: three pixels
_MOST_CHANGES = 4  # exposures whose change is drawn, the largest first
_QUANTITIES = (
    ("radxs", "RADXS", 1.0, "{:+.4f} ± {:.4f}"),
    ("qfit_ratio", "QFIT / expected", 1.0, "{:+.3f} ± {:.3f}"),
    ("phase_x", "wave in x [0.001 pix]", 1000.0, "{:+.2f} ± {:.2f}"),
    ("phase_y", "wave in y [0.001 pix]", 1000.0, "{:+.2f} ± {:.2f}"),
)


def plot_exposures(exposures: Entries) -> Image | None:
    """QFIT of stars left out, with the library and with the exposure's own ePSF; None where no exposure had enough stars."""
    judged = [(name, values) for name, values in exposures.items() if "qfit_before" in values]
    if not judged:
        return None
    place = np.arange(1, len(judged) + 1)
    before, after = (np.array([values[key] for _, values in judged], float) for key in ("qfit_before", "qfit_after"))
    applied = np.array([bool(values.get("applied")) for _, values in judged])
    figure, axes = new_figure(4.9, 3.4)
    axes.vlines(place, before, after, color=COLORS["grey"], lw=0.8)
    axes.plot(place, before, color=COLORS["orange"], marker="s", ms=3.5, ls="", label="with the library")
    for mask, face, words in ((applied, COLORS["blue"], "with its own, used"), (~applied, "white", "with its own, not used")):
        if mask.any():
            axes.plot(place[mask], after[mask], color=COLORS["blue"], marker="o", ms=4, ls="", mfc=face, label=words)
    axes.set_ylim(0, 1.3 * float(max(before.max(), after.max())))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("exposure, in the order of the table")
    axes.set_ylabel("median QFIT of stars left out")
    axes.set_title("ePSF of single exposures")
    add_legend(axes, loc="upper right")
    note = f"{applied.sum()} of {len(exposures)} exposures have an ePSF of their own."
    if applied.any():
        note += f" Their QFIT, median: {np.median(before[applied]):.4f} with the library, {np.median(after[applied]):.4f} with it."
    return encode(figure, "QFIT of stars left out, with the library and with each exposure's own ePSF", note)


def plot_changes(folder: RunFolder, exposures: Entries) -> list[Image]:
    """Difference of the exposures' own ePSFs from their libraries, node by node; the largest changes."""
    used = [name for name, values in exposures.items() if values.get("applied")]
    used.sort(key=lambda name: -abs(float(exposures[name].get("core_change", 0.0))))
    images: list[Image] = []
    for name in used[:_MOST_CHANGES]:
        exposure, _, detector = name.rpartition("_")
        paths = sorted((folder.psf / "perturbed").glob(f"STDPSF_{detector}_*_{exposure}.fits"))
        library = [folder.psf / f"{path.stem.removesuffix(f'_{exposure}')}.fits" for path in paths]
        if not paths or not library[0].exists():
            continue
        try:
            own, base = read_stdpsf(paths[0], centre=False), read_stdpsf(library[0], centre=False)
        except InputError:
            continue
        places = [(float(x), float(y)) for y in own.node_y for x in own.node_x]
        change = np.array([own.blended(x, y) - base.blended(x, y) for x, y in places]) / base.samples.max()
        middle = change.shape[-1] // 2
        cut = 100.0 * change[:, middle - _REACH : middle + _REACH + 1, middle - _REACH : middle + _REACH + 1]
        rows, columns = own.node_y.size, own.node_x.size
        label = f"{exposure} {library[0].stem.removeprefix('STDPSF_').replace('_', ' ')}"
        note = (
            f"Three pixels on each side of the star, {columns} × {rows} nodes. Central sample: "
            f"{100 * float(exposures[name].get('core_change', np.nan)):+.2f} %, mean over zones; "
            f"error within 1.5 pixels {100 * float(exposures[name].get('error', np.nan)):.2f} % of the peak."
        )
        images.append(_map(_joined(cut, rows, columns), label, "own minus library [% of the peak]", note))
    return images


def plot_term(path: Path) -> Image | None:
    """The change of psi of the brightest star, as a map; None where it is not applied."""
    if not path.exists():
        return None
    try:
        term = read_brightness(path)
    except InputError:
        return None
    middle = term.samples.shape[0] // 2
    cut = term.samples[middle - _REACH : middle + _REACH + 1, middle - _REACH : middle + _REACH + 1] * term.brightest
    label = path.stem.removeprefix("BFPSF_").replace("_", " ")
    note = (
        f"psi of a star of {term.brightest:,.0f} electrons minus psi of a faint one, three pixels on each side. The library itself "
        f"holds at {term.reference:,.0f} electrons. Error within 1.5 pixels: {100 * term.error:.2f} % of the peak."
    )
    return _map(100.0 * cut, label, "change of psi [% of a star's light]", note)


def plot_brightness_curve(cube: str, term: dict[str, Any]) -> Image | None:
    """QFIT over its expectation against charge, without and with the term; None where it could not be judged."""
    curve = term.get("curve")
    if not isinstance(curve, dict) or not curve.get("charge"):
        return None
    charge, before, after = (np.asarray(curve[name], float) for name in ("charge", "before", "after"))
    figure, axes = new_figure(4.9, 3.4)
    axes.plot(charge, before, color=COLORS["orange"], marker="s", ms=3.5, lw=1.2, label="one ePSF for all")
    axes.plot(charge, after, color=COLORS["blue"], marker="o", ms=3.5, lw=1.2, label="with the change")
    axes.axhline(1, color=COLORS["vermillion"], lw=1.0, ls="--", label="noise alone")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.25 * float(max(before.max(), after.max(), 1.0)))
    axes.set_xlabel("charge of the star [electrons, from its photon noise]")
    axes.set_ylabel("QFIT / expected")
    axes.set_title(cube.replace("_", " "))
    add_legend(axes, loc="upper left")
    words = str(term.get("words", ""))
    return encode(figure, f"QFIT over its expectation against charge, {cube.replace('_', ' ')}", f"{words}.")


def plot_colour_slopes(colour: list[str], bands: Entries) -> Image | None:
    """Slopes of every band with their errors, one panel a quantity."""
    names = list(bands)
    figure, panels = new_figure(4.9, 1.6 + 0.28 * len(names) * 2, nrows=2, ncols=2, sharey=True)
    drawn = False
    place = np.arange(len(names))
    for axes, (key, words, factor, _) in zip(np.ravel(panels), _QUANTITIES, strict=True):
        pairs = np.array([_pair(bands[name].get(key)) for name in names]) * factor
        axes.axvline(0, color=COLORS["vermillion"], lw=1.0, ls="--")
        axes.errorbar(pairs[:, 0], place, xerr=pairs[:, 1], color=COLORS["blue"], marker="o", ms=3.5, ls="", lw=1.2)
        axes.set_yticks(place, [band_label(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"{words} / mag")
        axes.locator_params(axis="x", nbins=4)
        drawn |= bool(np.isfinite(pairs).any())
    if not drawn:
        return None
    label = " − ".join(band_label(name) for name in colour)
    note = f"Per magnitude of {label}. Zero: the fits do not depend on colour. Wave: of the residual with the place in the pixel."
    return encode(figure, "Slopes of the fits over colour", note)


def exposure_table(exposures: Entries) -> HtmlTable:
    """An exposure a row."""
    rows = []
    for number, (name, values) in enumerate(exposures.items(), start=1):
        zones = values.get("zones") or [0, 0]
        rows.append(
            [
                str(number), name, f"{values.get('stars', 0):,}", f"{zones[1]} × {zones[0]}",
                "yes" if values.get("applied") else "no",
                _number(values.get("qfit_before"), "{:.4f}"), _number(values.get("qfit_after"), "{:.4f}"),
                _number(values.get("significance"), "{:+.1f}"), _number(values.get("core_change"), "{:+.2f}", 100.0),
                _number(values.get("error"), "{:.2f}", 100.0),
            ]
        )  # fmt: skip
    head = ["", "exposure", "stars", "zones", "own ePSF", "QFIT, library", "QFIT, own", "sigma", "centre [%]", "error [%]"]
    caption = (
        "QFIT: median of the brighter half of the stars, each fitted with an ePSF that it had no part in. Sigma: of more stars "
        "that fit better than worse. Centre: change of the central sample; error: of the ePSF within 1.5 pixels, of the peak."
    )
    return HtmlTable(head, rows, frozenset({2, 5, 6, 7, 8, 9}), caption)


def brightness_table(cubes: Entries) -> HtmlTable:
    """A cube a row."""
    rows = []
    for cube, entry in cubes.items():
        term, slope = entry["term"], entry.get("slope") or {}
        change = f"{100 * slope['change']:+.2f} ± {100 * slope['error']:.2f}" if {"change", "error"} <= set(slope) else "–"
        rows.append(
            [
                cube.replace("_", " "), f"{term.get('stars', 0):,}", "yes" if term.get("applied") else "no",
                _number(term.get("qfit_before"), "{:.4f}"), _number(term.get("qfit_after"), "{:.4f}"),
                _number(term.get("significance"), "{:+.1f}"), _number(term.get("core_change"), "{:+.2f}", 100.0),
                _number(term.get("error"), "{:.2f}", 100.0), change,
            ]
        )  # fmt: skip
    head = ["", "star images", "used", "QFIT, one ePSF", "QFIT, with it", "sigma", "centre [%]", "error [%]", "slope [%]"]
    caption = (
        "Centre: change of the ePSF's central sample at the charge of the brightest star, and the error of the change within 1.5 "
        "pixels. Slope: change of the light at the stars' centres up to the brightest pixel, measured without a model of its shape."
    )
    return HtmlTable(head, rows, frozenset(range(1, len(head))) - {2}, caption)


def colour_table(colour: list[str], bands: Entries) -> HtmlTable:
    """A band a row."""
    rows = []
    for band, values in bands.items():
        low, high = values.get("range") or [np.nan, np.nan]
        pairs = [(_pair(values.get(key)), factor, form) for key, _, factor, form in _QUANTITIES]
        cells = [form.format(factor * pair[0], factor * pair[1]) if np.isfinite(pair[0]) else "–" for pair, factor, form in pairs]
        rows.append([band_label(band), f"{values.get('stars', 0):,}", f"{low:.2f} to {high:.2f}", *cells])
    head = ["", "stars", "colours", *(words for _, words, _, _ in _QUANTITIES)]
    caption = f"Per magnitude of {' − '.join(band_label(name) for name in colour)}; colours: 5 to 95 % of the stars."
    return HtmlTable(head, rows, frozenset(range(1, len(head))), caption)


def _joined(nodes: Floats, rows: int, columns: int) -> Floats:
    """Nodes side by side, the first at the lower left, with a blank line between them."""
    size = nodes.shape[-1]
    canvas = np.full((rows * (size + 1) - 1, columns * (size + 1) - 1), np.nan)
    for number, node in enumerate(nodes):
        bottom, left = (number // columns) * (size + 1), (number % columns) * (size + 1)
        canvas[bottom : bottom + size, left : left + size] = node
    return canvas


def _map(values: Floats, label: str, bar: str, note: str) -> Image:
    """A map with a scale about zero."""
    figure, axes = new_figure(4.9, float(np.clip(4.1 * values.shape[0] / values.shape[1] + 0.4, 2.2, 5.6)))
    limit = max(float(np.nanmax(np.abs(values))), 1e-6)
    shown = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(shown, ax=axes, label=bar, shrink=0.9, pad=0.02)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_title(label)
    return encode(figure, f"{label}: {bar}", note)


def _pair(value: Any) -> tuple[float, float]:
    return (float(value[0]), float(value[1])) if isinstance(value, list) and len(value) == 2 else (np.nan, np.nan)


def _number(value: Any, form: str, factor: float = 1.0) -> str:
    return form.format(factor * value) if isinstance(value, int | float) and np.isfinite(value) else "–"
