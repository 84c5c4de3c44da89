"""Tables of the calibration's sections: one column an ePSF build, one column a detector and filter of a solved distortion."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.report.calibration import TERMS, Build, Solution
from dpm.report.data import RunData
from dpm.report.plots_distortion import TERM_WORDS, fit_gaussian, rms_length, scale_offsets
from dpm.report.select import well_measured
from dpm.report.summary import HtmlTable

__all__ = ["build_table", "solution_table"]

_NONE = "–"


def build_table(data: RunData, builds: list[Build]) -> HtmlTable:
    """Stars, rounds, errors and what the fits with the built ePSF say, a cube a column."""
    caption = (
        "Pixel phase and scatter, last: against averages over dithers alone. QFIT in the build: median of bright stars; QFIT "
        "over what noise alone gives and RADXS: medians of the first pass's well-measured detections. Phase spread: 1 where "
        "dithers spread a star evenly over pixel phases."
    )
    return _turned([build.cube.replace("_", " ") for build in builds], [_build_cells(data, build) for build in builds], caption)


def solution_table(solutions: list[Solution]) -> HtmlTable:
    """What the solution rests on, its expected error, and residuals after every term, a detector and filter a column."""
    pairs = [(solution, name) for solution in solutions for name in solution.filters]
    caption = (
        "Measurements, stars and error are the detector's, all filters together. Cells: RMS length of the clipped mean residuals "
        "in cells. σ: Gaussian fits of single residuals."
    )
    heads = [f"{solution.detector} {name}" for solution, name in pairs]
    return _turned(heads, [_solution_cells(solution, name) for solution, name in pairs], caption)


def _turned(heads: list[str], columns: list[list[tuple[str, str]]], caption: str) -> HtmlTable:
    """A table with a quantity a row from columns of quantities and their values."""
    rows = [[words, *(column[k][1] for column in columns)] for k, (words, _) in enumerate(columns[0] if columns else [])]
    return HtmlTable(["", *heads], rows, frozenset(range(1, len(heads) + 1)), caption)


def _build_cells(data: RunData, build: Build) -> list[tuple[str, str]]:
    last = build.updates[-1] if build.updates else {}
    first_average, last_average = (build.averages[0], build.averages[-1]) if build.averages else ({}, {})
    plain = build.average_over_dithers() or last_average
    nodes = last.get("nodes")
    node_stars = np.ravel(last.get("node_stars") or [])
    ratio, radxs = _quality(data, build.cube)
    return [
        ("ePSFs", f"{nodes[1]} × {nodes[0]}" if isinstance(nodes, list) and len(nodes) == 2 else _NONE),
        ("star images", _number(last.get("stars"), "{:,.0f}")),
        ("of them at averaged positions", _number(last.get("averaged"), "{:,.0f}")),
        ("fewest star images a node", _number(node_stars.min() if node_stars.size else None, "{:.0f}")),
        ("rounds", f"{len(build.updates)}"),
        ("last change [% of the peak]", _number(_percent(last.get("change")), "{:.3f}")),
        ("error [% of the peak]", _number(_percent(last.get("noise")), "{:.3f}")),
        ("pixel-phase amplitude, first [pix]", _number(first_average.get("amplitude"), "{:.5f}")),
        ("pixel-phase amplitude, last [pix]", _number(plain.get("amplitude"), "{:.5f}")),
        ("scatter about averages, first [pix]", _number(first_average.get("scatter"), "{:.4f}")),
        ("scatter about averages, last [pix]", _number(plain.get("scatter"), "{:.4f}")),
        ("QFIT in the build, first", _number(first_average.get("qfit"), "{:.4f}")),
        ("QFIT in the build, last", _number(last_average.get("qfit"), "{:.4f}")),
        ("QFIT over what noise alone gives", _number(ratio, "{:.3f}")),
        ("RADXS", _number(radxs, "{:+.4f}")),
        ("phase spread of the dithers", _number(build.phase_spread, "{:.2f}")),
    ]


def _solution_cells(solution: Solution, name: str) -> list[tuple[str, str]]:
    keys = (
        ("order of the polynomials", "DPMORDER", "{:.0f}"),
        ("measurements", "NMEAS", "{:,.0f}"),
        ("stars", "NSTARS", "{:,.0f}"),
        ("of the reference", "NREF", "{:,.0f}"),
        ("expected error, one axis [pix]", "DPMERROR", "{:.4f}"),
    )
    cells = [(words, _number(solution.header.get(key), form)) for words, key, form in keys]
    for term in TERMS:
        image = solution.image(f"{name}_{term}", 3)
        length = rms_length(image) if image is not None else None
        cells.append((f"cells {TERM_WORDS[term]} [pix]", _number(length, "{:.4f}")))
    terms = solution.terms(name)
    for words, term in (("first", terms[0]), ("last", terms[-1])) if terms else (("first", ""), ("last", "")):
        widths = _widths(solution, f"{name}_{term}_HISTOGRAM")
        cells += [(f"σ in {axis}, {words} [pix]", _number(width, "{:.4f}")) for axis, width in zip("xy", widths, strict=True)]
    offsets = scale_offsets(solution, name)
    cells += [
        ("pixel scale [arcsec]", _number(offsets[3] if offsets else None, "{:.6f}")),
        ("its error (none without a reference) [ppm]", _number(offsets[4] if offsets else None, "{:.1f}")),
        ("error of one exposure against the others [ppm]", _number(np.median(offsets[2]) if offsets else None, "{:.1f}")),
        ("its scatter over exposures [ppm]", _number(_scatter(offsets[1]) if offsets else None, "{:.1f}")),
        ("part of pixels with a term of their own", _number(solution.header.get("FINEPART"), "{:.4f}")),
    ]
    return cells


def _quality(data: RunData, cube: str) -> tuple[float, float]:
    """Medians of QFIT over its photon expectation and of RADXS for a cube's well-measured detections; NaN without any."""
    table = data.exposures
    if table is None or "cube" not in table.colnames:
        return float("nan"), float("nan")
    mine = np.flatnonzero([str(name).removesuffix(".zarr") == cube for name in table["cube"]])
    ratios, excesses = [np.zeros(0)], [np.zeros(0)]
    for sample in data.samples.values():
        chosen = well_measured(sample) & np.isin(sample["exposure"], mine) & (sample["qfit_expected"] > 0)
        ratios.append(sample["qfit"][chosen] / sample["qfit_expected"][chosen])
        excesses.append(sample["radxs"][chosen])
    ratio, excess = np.concatenate(ratios), np.concatenate(excesses)
    ratio, excess = ratio[np.isfinite(ratio)], excess[np.isfinite(excess)]
    return (
        float(np.median(ratio)) if ratio.size else float("nan"),
        float(np.median(excess)) if excess.size else float("nan"),
    )


def _widths(solution: Solution, name: str) -> tuple[float, float]:
    image = solution.image(name, 2)
    if image is None or len(image) != 4:
        return float("nan"), float("nan")
    fits = [fit_gaussian(image[0], image[1], counts) for counts in image[2:]]
    widths = [fit[2] if fit is not None else float("nan") for fit in fits]
    return widths[0], widths[1]


def _scatter(values: NDArray[np.float64]) -> float:
    return float(np.std(values, ddof=1)) if values.size > 1 else float("nan")


def _percent(value: Any) -> float | None:
    return 100.0 * value if isinstance(value, int | float) else None


def _number(value: Any, form: str) -> str:
    """A number in its form, a dash where there is none."""
    if not isinstance(value, int | float | np.number) or not np.isfinite(value):
        return _NONE
    return form.format(float(value))
