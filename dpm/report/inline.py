"""A section of the report alone, for a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from dpm.report.figures import Image
from dpm.report.summary import HtmlTable

if TYPE_CHECKING:
    from dpm.report.section import Section

__all__ = ["section_html"]

MOST_ROWS = 30  # of a table: the page has them all


def section_html(section: Section) -> str:
    """Title, text, pictures and the first rows of the tables; all text is escaped."""
    if section.empty:
        return (
            f"<div><b>{html.escape(section.title)}</b><p>{html.escape(section.absent or 'Absent: this run made none.')}</p></div>"
        )
    pictures = "".join(_picture(image) for image in section.images)
    tables = "".join(_table(table) for table in section.tables)
    return (
        f"<div><b>{html.escape(section.title)}</b><p>{html.escape(section.text)}</p>"
        f"<div style='display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start'>{pictures}</div>{tables}</div>"
    )


def _picture(image: Image) -> str:
    size = f"width='{image.width}' height='{image.height}'"
    return (
        f"<figure style='margin:0;max-width:{image.width}px'><img src='data:image/png;base64,{image.data}' {size} "
        f"alt='{html.escape(image.alt)}'><figcaption>{html.escape(image.caption)}</figcaption></figure>"
    )


def _table(table: HtmlTable) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows[:MOST_ROWS])
    more = f"<p>{len(table.rows) - MOST_ROWS} more rows in the report</p>" if len(table.rows) > MOST_ROWS else ""
    return (
        f"<table><caption>{html.escape(table.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"
    )
