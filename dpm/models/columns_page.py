"""The page of columns and flags, made from the registries: ``python -m dpm.models.columns_page docs/columns.md``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpm.models.columns import (
    ARTIFICIAL_FATE_COLUMNS,
    ARTIFICIAL_INPUT_COLUMNS,
    CATALOG_COLUMNS,
    CATALOG_FILTER_COLUMNS,
    DETECTION_COLUMNS,
    DETECTOR_MAP_COLUMNS,
    EXPOSURE_COLUMNS,
    MATCH_COLUMNS,
    MEASUREMENT_COLUMNS,
    MOTION_COLUMNS,
    SELECTION_COLUMNS,
    SELECTION_COUNT_COLUMNS,
    STAR_COMPLETENESS_COLUMNS,
    STAR_COMPLETENESS_FILTER_COLUMNS,
    Column,
    markdown_table,
)
from dpm.models.flags import PIXEL_FLAG_MEANINGS, STAR_FLAG_MEANINGS

__all__ = ["columns_page"]

_HEAD = """# Columns and flags

This page is made from `dpm/models/columns.py` and `dpm/models/flags.py`. After a change there, run
`python -m dpm.models.columns_page docs/columns.md`.

A column that no stage of the run has filled is absent from its table. The unit `flux` stands for the unit of the
band's exposures, DN/s (JWST, NICMOS) or electron/s (ACS, WFC3); the tables themselves say which. Errors are one
standard deviation. Pixel positions are 0-based, and the centre of the first pixel is (0, 0).
"""


def columns_page() -> str:
    """The page as Markdown, with a final line break."""
    parts: list[tuple[str, str, tuple[Column, ...], str]] = [
        (
            "`tables/catalog.parquet`",
            "One row a star, from the second pass. `tables/frame_catalog.parquet` has the same columns from the first pass alone.",
            CATALOG_COLUMNS,
            "",
        ),
        (
            "`tables/catalog.parquet`, columns of every filter",
            "`{f}` is instrument and filter in lower case, such as `niriss_f090w` or `acswfc_f814w`, with `_<year>` "
            "after it where a filter comes back at another epoch.",
            CATALOG_FILTER_COLUMNS,
            "{f}_",
        ),
        (
            "`tables/artificial_stars.parquet`",
            "One row an artificial star, in the order drawn. Also `in_{f}_mag`, the magnitude put in; "
            "`in_{f}_sky_rms`, the sky scatter at its place, lost or not; and all columns of the catalogue but its `id` as "
            "`out_<column>`: NaN, or 0 for whole numbers, where the star is lost.",
            (*ARTIFICIAL_INPUT_COLUMNS, *ARTIFICIAL_FATE_COLUMNS),
            "",
        ),
        (
            "`tables/motions.parquet`",
            "One row a star of the catalogue, in its order, of a run with motions ([motions.md](motions.md)).",
            MOTION_COLUMNS,
            "",
        ),
        (
            "`tables/detector_maps.parquet`",
            "One row a cell of a detector at one epoch; dithered stars are in several cells.",
            DETECTOR_MAP_COLUMNS,
            "",
        ),
        (
            "`tables/selection/catalog.parquet`, `tables/selection/artificial_stars.parquet`",
            "Which stars pass the selection; one row a star, in the order of its table. `tables/selection/cuts.ecsv` has the cuts: "
            "read them with `dpm.science.read_selections`.",
            SELECTION_COLUMNS,
            "",
        ),
        (
            "`tables/selection/completeness.parquet`",
            "Completeness at every star of the catalogue, in its order; its measured magnitudes are taken for the true ones. The "
            "metadata's `two_bands` names the first two bands.",
            STAR_COMPLETENESS_COLUMNS,
            "",
        ),
        (
            "`tables/selection/completeness.parquet`, columns of every filter",
            "`{f}` as in the catalogue.",
            STAR_COMPLETENESS_FILTER_COLUMNS,
            "{f}_",
        ),
        ("`tables/selection/counts.parquet`", "Stars left after each step.", SELECTION_COUNT_COLUMNS, ""),
        ("`tables/exposures.parquet`", "One row an exposure of a detector.", EXPOSURE_COLUMNS, ""),
        ("`tables/detections/`", "First pass, one part an exposure of a detector.", DETECTION_COLUMNS, ""),
        (
            "`tables/matches/`",
            "Which detection belongs to which star of `tables/frame_catalog.parquet`; one part an exposure of a detector.",
            MATCH_COLUMNS,
            "",
        ),
        (
            "`tables/measurements/`",
            "Second pass, one row a star and exposure that covers it, one part an exposure of a detector.",
            MEASUREMENT_COLUMNS,
            "",
        ),
    ]
    sections = [
        f"## {title}\n\n{text}\n\n{markdown_table(columns, prefix)}\n" for title, text, columns, prefix in parts
    ]
    sections.append(_flags("Flags of detections and stars", "The column `flags`.", STAR_FLAG_MEANINGS))
    sections.append(_flags("Flags of pixels", "The plane `dq` of the cubes.", PIXEL_FLAG_MEANINGS))
    return "\n".join([_HEAD, *sections])


def _flags(title: str, text: str, meanings: Mapping[Any, str]) -> str:
    rows = ["| bit | name | meaning |", "|---|---|---|"]
    rows += [f"| {int(flag)} | `{flag.name}` | {meaning} |" for flag, meaning in meanings.items()]
    return f"## {title}\n\n{text}\n\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(columns_page(), encoding="utf-8")
