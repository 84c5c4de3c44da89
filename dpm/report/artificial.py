"""What artificial stars say, as pictures and a table of the report: completeness, its limits, errors, and the map."""

from __future__ import annotations

from dpm.io.tables import read_table
from dpm.report.data import RunData, band_label
from dpm.report.figures import Image, encode
from dpm.report.plots_artificial import plot_completeness, plot_completeness_map, plot_recovered_minus_inserted
from dpm.report.summary import HtmlTable
from dpm.science.completeness_map import fit_completeness_map
from dpm.science.random_errors import random_errors
from dpm.science.table_access import artificial_bands

__all__ = ["artificial_stars"]


def artificial_stars(data: RunData) -> tuple[list[Image], list[HtmlTable], str]:
    """Pictures, the table of limits, and why something is not there.

    Parameters
    ----------
    data : RunData
        Of a run with ``tables/artificial_stars.parquet``.
    """
    stars = read_table(data.folder.artificial_stars)
    images: list[Image] = []
    maps: list[Image] = []
    missing: list[str] = []
    for band in artificial_bands(stars):
        label = band_label(band)
        if len(random_errors(stars, [band])):
            images.append(encode(plot_recovered_minus_inserted(stars, band), f"Recovered minus inserted magnitude in {label}"))
        else:
            missing.append(f"{label}: too few recovered stars for errors.")
        try:
            images.append(encode(plot_completeness(stars, band), f"Completeness in {label} with its 50 % and 25 % limits"))
            field = fit_completeness_map(stars, band)
        except ValueError as error:
            # Too few stars for a curve or a map: the bins are in the table.
            missing.append(f"{label}: {error}.")
        else:
            maps.append(encode(plot_completeness_map(field), f"Completeness over the field in {label}"))
    return images + maps, [_limits(data)], " ".join(missing)


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
