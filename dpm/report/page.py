"""The page: sections into one self-contained HTML file."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dpm import __version__
from dpm.io.atomic import replacing
from dpm.io.run_folder import RunFolder
from dpm.report.data import MAX_ROWS, load_run

__all__ = ["read_section", "write_report"]

if TYPE_CHECKING:
    from dpm.report.section import Section

logger = logging.getLogger(__name__)


def write_report(folder: RunFolder | str | os.PathLike[str], max_rows: int = MAX_ROWS) -> Path:
    """Write ``report/index.html`` of a run folder (DESIGN section 5), from the folder's files alone.

    Pictures, style and text are all inside the one file; nothing is loaded from a network.  Sections without input are
    replaced by one line that says why.

    Parameters
    ----------
    folder : RunFolder or path
        Run folder, finished or not.
    max_rows : int
        Detections of a band that the plots rest on; larger tables are thinned by whole stars.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from dpm.report import summary
    from dpm.report.figures import style
    from dpm.report.notices import collect_warnings
    from dpm.report.sections import build_sections

    run = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
    started = time.perf_counter()
    data = load_run(run, max_rows)
    with style():
        sections = build_sections(data)
    loader = PackageLoader("dpm.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("report.html.j2").render(
        name=data.name,
        root=str(run.root.resolve()),
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        figures=summary.key_figures(data),
        warnings=collect_warnings(data),
        sections=sections,
        has_catalog=data.catalog is not None,
        settings=summary.settings(data),
    )
    run.report.parent.mkdir(parents=True, exist_ok=True)
    with replacing(run.report) as temporary:
        temporary.write_text(html, encoding="utf-8")
    logger.info("report written in %.1f s, %.1f MB: %s", time.perf_counter() - started, len(html) / 1e6, run.report)
    return run.report


def read_section(folder: RunFolder, name: str, max_rows: int = MAX_ROWS) -> Section:
    """One section of the report, drawn now; a notebook shows it.

    Parameters
    ----------
    folder : RunFolder
    name : str
        Such as ``residual_maps``.
    max_rows : int
        As for `write_report`.

    Raises
    ------
    KeyError
        If there is no such section; the message names all.
    """
    from dpm.report.figures import style
    from dpm.report.sections import build_sections

    with style():
        return build_sections(load_run(folder, max_rows), name)[0]
