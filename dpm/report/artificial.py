"""What artificial stars say, as pictures and a table of the report: completeness, its limits, errors, and the map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpm.io.tables import read_table, table_names
from dpm.report.data import RunData, band_label
from dpm.report.figures import Image, encode
from dpm.report.plots_artificial import (
    plot_completeness,
    plot_completeness_map,
    plot_recovered_minus_inserted,
    plot_selection_planes,
    plot_selection_steps,
)
from dpm.report.summary import HtmlTable
from dpm.science.completeness_map import fit_completeness_map
from dpm.science.random_errors import random_errors
from dpm.science.selections import Selection, quantity_columns, read_selections
from dpm.science.table_access import artificial_bands

__all__ = ["artificial_stars"]


def artificial_stars(data: RunData) -> tuple[list[Image], list[HtmlTable], str]:
    """Pictures, tables of limits and of the selection's counts, and why something is not there.

    Parameters
    ----------
    data : RunData
        Of a run with ``tables/artificial_stars.parquet``.
    """
    folder = data.folder
    cuts = read_selections(folder.selection / "cuts.ecsv") if (folder.selection / "cuts.ecsv").is_file() else []
    stars = read_table(folder.artificial_stars, _needed(table_names(folder.artificial_stars), cuts))
    images: list[Image] = []
    maps: list[Image] = []
    missing: list[str] = []
    samples: dict[str, tuple[Any, Any]] = {"recovered": ("recovered", None)}
    if cuts:
        passed = np.asarray(read_table(folder.selection / "artificial_stars.parquet", ["selected"])["selected"])
        samples = {"after the selection": (passed, None), **samples}
    for band in artificial_bands(stars):
        label = band_label(band)
        if len(random_errors(stars, [band])):
            images.append(encode(plot_recovered_minus_inserted(stars, band), f"Recovered minus inserted magnitude in {label}"))
        else:
            missing.append(f"{label}: too few recovered stars for errors.")
        try:
            caption = f"Completeness in {label} with the 50 % and 25 % limits of all recovered stars"
            images.append(encode(plot_completeness(stars, band, samples), caption))
            field = fit_completeness_map(stars, band)
        except ValueError as error:
            # Too few stars for a curve or a map: the bins are in the table.
            missing.append(f"{label}: {error}.")
        else:
            maps.append(encode(plot_completeness_map(field), f"Completeness over the field in {label}"))
    tables = [_limits(data)] if folder.completeness.is_file() else []
    if cuts:
        tables.append(_counts(data))
        maps += _selection_panels(data, stars, cuts)
    return images + maps, tables, " ".join(missing)


def _needed(names: Sequence[str], cuts: Sequence[Selection]) -> list[str]:
    """Columns of the artificial stars that pictures show: a million stars with all of them would fill the memory."""
    wanted = {"x", "y"} | {name for cut in cuts for axis in (cut.x, cut.y) for name in quantity_columns(axis)}
    return [n for n in names if n in ("id", "recovered") or n.endswith("_mag") or n.partition("_")[2] in wanted]


def _selection_panels(data: RunData, stars: Any, cuts: Sequence[Selection]) -> list[Image]:
    """Colour-magnitude diagrams after each step, and each band's cuts in the planes in which they lie."""
    columns = {name for cut in cuts for axis in (cut.x, cut.y) for name in quantity_columns(axis)}
    bands = list(artificial_bands(stars))
    wanted = columns | {f"{band}_mag" for band in bands}
    catalog = read_table(data.folder.catalog, [name for name in table_names(data.folder.catalog) if name in wanted])
    images = []
    if len(bands) > 1:
        figure = plot_selection_steps(catalog, stars, cuts, *bands[:2])
        images.append(encode(figure, "Diagrams after each step, real stars above artificial ones; purple: put in"))
    for band in bands:
        mine = [cut for cut in cuts if cut.x == f"{band}_mag"]
        if mine:
            caption = f"The cuts in {band_label(band)} alone, one after the other"
            images.append(encode(plot_selection_planes(catalog, stars, mine), caption))
    return images


def _counts(data: RunData) -> HtmlTable:
    """Stars left after each step."""
    counts = read_table(data.folder.selection / "counts.parquet")
    rows = [[str(row["step"]), f"{row['n_real']:,}", f"{row['n_artificial']:,}"] for row in counts]
    return HtmlTable(["step", "real", "artificial"], rows, frozenset({1, 2}), "Stars left after each step of the selection")


def _limits(data: RunData) -> HtmlTable:
    """The 50 % and 25 % limits of every curve."""
    limits = read_table(data.folder.completeness).meta["limits"]
    rows = []
    for name, limit in limits.items():
        band, sample = name.split(":")
        if "absent" in limit:
            rows.append([band_label(band), sample, limit["absent"], "", ""])
            continue
        ends = [f"{limit[key]:.3f} ± {limit[f'{key}_error']:.3f}" for key in ("mag_50", "mag_25")]
        rows.append([band_label(band), sample, *ends, f"{limit['p_value']:.2g}"])
    caption = "Magnitudes at which half and a quarter of the artificial stars are recovered"
    return HtmlTable(["filter", "stars", "50 %", "25 %", "p of the curve"], rows, frozenset({2, 3, 4}), caption)
