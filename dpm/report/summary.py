"""Words and numbers of the report: key figures, warnings, tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpm.io.tables import catalog_columns
from dpm.models.columns import DETECTION_COLUMNS, MATCH_COLUMNS, MEASUREMENT_COLUMNS, Column
from dpm.models.flags import STAR_FLAG_MEANINGS
from dpm.report.data import RunData, band_label
from dpm.report.select import finite_width, measured_residuals

__all__ = [
    "HtmlTable",
    "column_tables",
    "exposure_table",
    "file_table",
    "frame_scale",
    "flag_table",
    "key_figures",
    "magnitude_label",
    "magnitude_system",
    "pixel_scale",
    "provenance_tables",
    "settings",
    "stage_entries",
]


_EXPOSURE_CELLS = (
    ("exposure", "exposure", "{}"),
    ("detector", "detector", "{}"),
    ("filter", "filter", "{}"),
    ("epoch", "epoch [yr]", "{:.4f}"),
    ("exptime", "time [s]", "{:.1f}"),
    ("n_detections", "detections", "{:,}"),
    ("n_matched", "of stars", "{:,}"),
    ("residual_rms", "residual RMS [pix]", "{:.4f}"),
    ("zero_point", "zero point [mag]", "{:+.4f}"),
    ("zero_point_error", "± [mag]", "{:.4f}"),
    ("n_reference", "in transform", "{:,}"),
    ("target", "target", "{}"),
    ("noise_source", "noise from", "{}"),
    ("calibration_version", "CAL_VER", "{}"),
    ("file", "file", "{}"),
)


@dataclass(frozen=True)
class HtmlTable:
    """A table of the page: ``head`` and ``rows`` of text, and the columns (by place) that hold numbers.

    Where the first head is empty, rows begin with a quantity's name, which wraps on narrow screens.
    """

    head: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    caption: str = ""


def pixel_scale(data: RunData, band: str) -> float | None:
    """Nominal arcseconds per raw pixel of the band's first exposure; None where unknown."""
    if data.exposures is None or "pixel_scale" not in data.exposures.colnames or band not in data.samples:
        return None
    rows = data.samples[band]["exposure"]
    if not rows.size:
        return None
    scale = float(data.exposures["pixel_scale"][int(rows[0])])
    return scale if np.isfinite(scale) and scale > 0 else None


def frame_scale(data: RunData) -> float | None:
    """Arcseconds per pixel of the master frame; None where unknown."""
    for table in (data.catalog, data.exposures):
        frame = table.meta.get("master_frame", {}) if table is not None else {}
        if isinstance(frame, dict) and isinstance(frame.get("scale"), int | float):
            return float(frame["scale"])
    return None


def magnitude_system(data: RunData, band: str) -> str:
    """What the catalogue's magnitudes of a band are, from the table's or the column's metadata."""
    if data.catalog is None:
        return "instrumental"
    system = data.catalog.meta.get("mag_system")
    if isinstance(system, dict):
        system = system.get(band)
    name = f"{band}_mag"
    if system is None and name in data.catalog.colnames:
        system = data.catalog[name].meta.get("system")
    return str(system or "instrumental")


def magnitude_label(data: RunData, band: str) -> str:
    """Axis label of a band's catalogue magnitudes."""
    return f"{band_label(band)} [mag, {magnitude_system(data, band)}]"


def key_figures(data: RunData) -> list[tuple[str, str]]:
    """What was found, as (number, words)."""
    figures: list[tuple[str, str]] = []
    if data.catalog is not None:
        figures.append((f"{len(data.catalog):,}", "stars in the catalogue"))
    if data.exposures is not None:
        detectors = {str(name) for name in data.exposures["detector"]}
        words = "image of " if len(data.exposures) == 1 else "images of "
        words += _plural(len({str(name) for name in data.exposures["exposure"]}), "exposure")
        figures.append((f"{len(data.exposures):,}", f"{words}, {_plural(len(detectors), 'detector')}"))
        epochs = np.asarray(data.exposures["epoch"], dtype=float)
        if np.isfinite(epochs).any():
            low, high = np.nanmin(epochs), np.nanmax(epochs)
            figures.append((f"{low:.3f}" if high - low < 0.002 else f"{low:.2f} to {high:.2f}", "epoch, Julian years"))
    if data.samples:
        total = sum(sample.n_total for sample in data.samples.values())
        words = "detections in single exposures"
        if data.has_matches:
            share = np.mean(np.concatenate([sample.matched for sample in data.samples.values()]))
            words += f", {100 * share:.0f} % of them of stars of the master frame"
        figures.append((f"{total:,}", words))
    for band, sample in data.samples.items():
        good, factor = measured_residuals(sample)
        scale = pixel_scale(data, band)
        if good.sum() >= 5:
            widths = [finite_width(factor * sample[name][good]) for name in ("dx", "dy")]
            width = np.sqrt(0.5 * (widths[0] ** 2 + widths[1] ** 2))
            words = f"pixel: position scatter of one exposure, well-measured stars, {band_label(band)}"
            figures.append((f"{width:.4f}", words + (f" ({1000 * scale * width:.2f} mas)" if scale else "")))
    seconds = _run_seconds(data)
    if seconds is not None:
        figures.append((_duration(seconds), "run time of the stages"))
    return figures


def exposure_table(data: RunData) -> HtmlTable | None:
    """One row an image: what it is, what was found, how well it fits."""
    table = data.exposures
    if table is None or len(table) == 0:
        return None
    present = [entry for entry in _EXPOSURE_CELLS if entry[0] in table.colnames]
    head = [words for _, words, _ in present]
    numeric = frozenset(place for place, (_, _, form) in enumerate(present) if form != "{}")
    rows = [[_cell(row[name], form) for name, _, form in present] for row in table]
    scale = _scale_columns(data)
    if scale is not None:
        place = head.index("± [mag]") + 1 if "± [mag]" in head else len(head)
        head[place:place] = ["pixel scale [arcsec]", "rotation [deg]"]
        for row, extra in zip(rows, scale):
            row[place:place] = extra
        numeric = frozenset({number if number < place else number + 2 for number in numeric} | {place, place + 1})
    return HtmlTable(head, rows, numeric)


def _scale_columns(data: RunData) -> list[list[str]] | None:
    """Pixel scale and angle of each exposure's linear terms, where the frame's own scale is known."""
    table = data.exposures
    assert table is not None
    if not {"a", "b", "c", "d"} <= set(table.colnames):
        return None
    scale = frame_scale(data)
    if scale is None:
        return None
    rows = []
    for row in table:
        determinant = float(row["a"]) * float(row["d"]) - float(row["b"]) * float(row["c"])
        angle = np.degrees(np.arctan2(float(row["c"]) - float(row["b"]), float(row["a"]) + float(row["d"])))
        rows.append([_cell(scale * np.sqrt(abs(determinant)), "{:.6f}"), _cell(angle, "{:.4f}")])
    return rows


def flag_table(data: RunData) -> HtmlTable | None:
    """How many stars and detections carry each flag."""
    stars = data.catalog_column("flags")
    parts = [sample["flags"] for sample in data.samples.values()]
    detections = np.concatenate(parts) if parts else None
    if stars is None and detections is None:
        return None
    rows = []
    for flag, meaning in STAR_FLAG_MEANINGS.items():
        cells = [str(int(flag)), str(flag.name)]
        for values in (stars, detections):
            if values is not None:
                count = int(np.count_nonzero(values & int(flag)))
                cells.append(f"{count:,} ({100 * count / max(1, values.size):.1f} %)" if count else "0")
        rows.append([*cells, meaning])
    head = ["bit", "flag"] + ["stars"] * (stars is not None) + ["detections"] * (detections is not None) + ["meaning"]
    thinned = any(len(sample) < sample.n_total for sample in data.samples.values())
    caption = "Detections are counted in a sample of the stars." if thinned else ""
    return HtmlTable(head, rows, frozenset(range(len(head) - 1)) - {1}, caption)


def column_tables(data: RunData) -> list[HtmlTable]:
    """Name, unit and meaning of the columns of the catalogue, the detections and the matches."""
    bands = [band for band in data.bands if data.catalog_column(f"{band}_mag") is not None]
    tables = []
    if data.catalog is not None:
        written = set(data.catalog.colnames)
        shown: list[list[str]] = []
        units = {name: str(data.catalog[name].unit or "") for name in written}
        first = f"{bands[0]}_" if bands else None
        for column in catalog_columns(bands[:1]):
            if column.name not in written:
                continue
            name = column.name
            if first and name.startswith(first):
                name = "{band}_" + name.removeprefix(first)
            shown.append([name, column.dtype, units[column.name], column.description])
        caption = (
            f"tables/catalog.parquet; {{band}} is one of {', '.join(bands)}." if bands else "tables/catalog.parquet"
        )
        tables.append(HtmlTable(["column", "type", "unit", "meaning"], shown, caption=caption))
    if data.samples:
        tables.append(_registry_table(DETECTION_COLUMNS, "tables/detections/*.parquet"))
    if data.folder.measurements.is_dir():
        tables.append(_registry_table(MEASUREMENT_COLUMNS, "tables/measurements/*.parquet"))
    if data.has_matches:
        tables.append(_registry_table(MATCH_COLUMNS, "tables/matches/*.parquet"))
    return tables


def _registry_table(columns: Iterable[Column], caption: str) -> HtmlTable:
    rows = [[c.name, c.dtype, "of the band's fluxes" if c.unit == "flux" else c.unit, c.description] for c in columns]
    return HtmlTable(["column", "type", "unit", "meaning"], rows, caption=caption)


def file_table(data: RunData) -> HtmlTable:
    """Where the products lie and how large they are."""
    folder = data.folder
    entries = [
        (folder.catalog, "the catalogue, one row a star"),
        (folder.measurements, "second pass, one row a star and exposure"),
        (folder.images, "residual images and stacks, FITS"),
        (folder.frame_catalog, "averages of the first pass; the matches' ids are its own"),
        (folder.exposures, "one row an exposure: transform, zero point, scatter"),
        (folder.detections, "first pass, one part an exposure"),
        (folder.matches, "which detection belongs to which star, with residuals"),
        (folder.cubes, "pixels, one zarr cube a detector and filter"),
        (folder.psf, "ePSF libraries used"),
        (folder.config, "the configuration with every default written out"),
        (folder.provenance, "versions, checksums of the inputs, timings"),
        (folder.logs, "log files"),
    ]
    rows = []
    for path, meaning in entries:
        if path.exists():
            if path.is_dir():
                n = sum(1 for part in path.iterdir() if not part.name.startswith("."))
                size = _plural(n, "entry", "entries")
            else:
                size = _bytes(path.stat().st_size)
            rows.append([path.relative_to(folder.root).as_posix() + ("/" if path.is_dir() else ""), size, meaning])
    return HtmlTable(["in the run folder", "size", "what it is"], rows, frozenset({1}))


def provenance_tables(data: RunData) -> list[HtmlTable]:
    """Versions and stage timings of ``provenance.json``."""
    tables = []
    stages = _stage_rows(data)
    if stages:
        tables.append(HtmlTable(["stage", "time", "more"], stages, frozenset({1}), "Stages"))
    versions = data.provenance.get("versions", {})
    rows = [[str(name), str(value)] for name, value in versions.items()] if isinstance(versions, dict) else []
    skip = ("versions", "stages", "warnings", "inputs")
    rows += [[name, _short(value)] for name, value in data.provenance.items() if name not in skip and _is_plain(value)]
    inputs = data.provenance.get("inputs")
    if isinstance(inputs, dict | list) and inputs:
        rows.append(["inputs", f"{len(inputs):,} files; sizes and checksums in provenance.json"])
    if rows:
        tables.append(HtmlTable(["what", "value"], rows, caption="Versions and machine"))
    return tables


def stage_entries(data: RunData) -> dict[str, dict[str, Any]]:
    """What ``provenance.json`` says of each stage."""
    stages = data.provenance.get("stages", {})
    if isinstance(stages, list):
        stages = {
            str(entry.get("stage", entry.get("name", n))): entry
            for n, entry in enumerate(stages)
            if isinstance(entry, dict)
        }
    if not isinstance(stages, dict):
        return {}
    return {name: entry if isinstance(entry, dict) else {"seconds": entry} for name, entry in stages.items()}


def _stage_rows(data: RunData) -> list[list[str]]:
    rows = []
    for name, entry in stage_entries(data).items():
        seconds = _seconds(entry)
        more = [f"{key} {_short(value)}" for key, value in entry.items() if _is_plain(value) and key not in _SECONDS]
        rows.append([name, "" if seconds is None else _duration(seconds), ", ".join(more)])
    return rows


_SECONDS = ("seconds", "wall_seconds", "wall", "elapsed", "duration")


def _seconds(entry: dict[str, Any]) -> float | None:
    for name in _SECONDS:
        if isinstance(entry.get(name), int | float):
            return float(entry[name])
    return None


def _run_seconds(data: RunData) -> float | None:
    times = [seconds for entry in stage_entries(data).values() if (seconds := _seconds(entry)) is not None]
    return sum(times) if times else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _cell(value: Any, form: str) -> str:
    if isinstance(value, float | np.floating) and not np.isfinite(value):
        return "–"
    return form.format(value)


def _plural(number: int, word: str, plural: str = "") -> str:
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def settings(data: RunData) -> str:
    """One line on how the run was made: ePSF, distortion, frame."""
    words = []
    for table, key, label in (("psf", "source", "ePSF"), ("distortion", "source", "distortion")):
        value = data.config.get(table, {}).get(key)
        if value:
            words.append(f"{label}: {value}")
    if data.catalog is not None:
        if data.catalog.meta.get("reference"):
            words.append(f"frame registered to {data.catalog.meta['reference']}")
        systematic = data.catalog.meta.get("position_systematic_mas")
        if isinstance(systematic, int | float) and systematic > 0:
            words.append(f"{systematic:.2f} mas systematic error in each position error")
    scale = frame_scale(data)
    if scale is not None:
        words.append(f"{scale * 1000:.2f} mas a pixel of the master frame")
    return " · ".join(words)
