"""``dpm report``, ``dpm export`` and ``dpm simulate``: what needs one call of another layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dpm.cli.guard import guarded
from dpm.config import open_run
from dpm.io.run_folder import RunFolder
from dpm.run.errors import IncompleteError, RunError
from dpm.run.single import UsageError

if TYPE_CHECKING:
    from dpm.simulate import SimulationOptions

__all__ = [
    "export_run",
    "make_charts",
    "make_report",
    "make_residuals",
    "release_run",
    "simulate_files",
    "simulate_with_bar",
]

SUFFIXES = {
    ".ecsv": "ecsv",
    ".xml": "votable",
    ".vot": "votable",
    ".votable": "votable",
    ".fits": "fits",
    ".fit": "fits",
    ".parquet": "parquet",
    ".hats": "hats",
}


def _with_catalog(run: Path) -> RunFolder:
    folder, _ = open_run(run)
    if not folder.catalog.is_file():
        raise IncompleteError(f"{folder.root}: there is no catalogue yet; `dpm run` makes it")
    return folder


@guarded
def make_report(run: Path) -> None:
    """``dpm report``."""
    from dpm.report import write_report

    folder = _with_catalog(run)
    write_report(folder)
    typer.echo(f"report     {folder.report}")


@guarded
def make_residuals(run: Path, exposures: list[str]) -> None:
    """``dpm residuals``."""
    from dpm.stages.residuals.write import write_residuals

    folder = _with_catalog(run)
    if not folder.measurements.is_dir():
        raise IncompleteError(f"{folder.root}: the second pass has not run yet; `dpm run` makes what residuals need")
    try:
        files = write_residuals(folder, open_run(run)[1], exposures)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None
    typer.echo(f"residuals  {len(files)} images in {folder.images}")


@guarded
def make_charts(run: Path, ids: list[int], places: list[str], size: float, stack: str | None) -> None:
    """``dpm chart``."""
    from dpm.io.tables import read_table
    from dpm.report.charts import catalog_targets, draw_charts, position_target

    folder = _with_catalog(run)
    if not ids and not places:
        raise UsageError("name stars with --id, or positions with --at")
    if not folder.atlas_index.is_file():
        raise IncompleteError(f"{folder.root}: there is no atlas yet; [atlas] make = true and `dpm run` make it")
    try:
        targets = catalog_targets(read_table(folder.catalog, ["id", "ra", "dec"]), ids) + [position_target(text) for text in places]
        files = draw_charts(folder, targets, size, stack)
    except (KeyError, ValueError) as error:
        raise UsageError(str(error.args[0])) from None
    for path in files:
        typer.echo(f"chart      {path}")


@guarded
def export_run(run: Path, output: Path, format: str | None) -> None:
    """``dpm export``."""
    from dpm.io.export import export_catalog

    kind = format or SUFFIXES.get(output.suffix.lower(), "")
    if kind not in SUFFIXES.values():
        raise UsageError(
            f"{kind or output.name!r}: the formats are {', '.join(sorted(set(SUFFIXES.values())))}; "
            "name one with --format"
        )
    folder = _with_catalog(run)
    export_catalog(folder, kind, output)
    typer.echo(f"catalogue  {output}")


@guarded
def release_run(run: Path, output: Path, title: str, needed: list[str]) -> None:
    """``dpm export --release``."""
    from dpm.run.status import stage_states
    from dpm.stages.release import write_release

    folder = _with_catalog(run)
    try:
        states = stage_states(folder, open_run(run)[1])
    except FileNotFoundError:
        states = []  # the exposures lie elsewhere by now, and nothing tells whether they changed
    late = [f"{state.name} ({state.reason})" for state in states if state.state in ("stale", "partial")]
    if late:
        raise IncompleteError(f"{folder.root}: `dpm run` first; its tables would be of different runs: {', '.join(late)}")
    _, absent = write_release(folder, output, title, needed)
    typer.echo(f"release    {output}")
    if absent:
        typer.echo(f"not in it  {', '.join(absent)}: this run has none")


def simulate_with_bar(output: Path, options: SimulationOptions) -> None:
    """Simulate, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from dpm.simulate import simulate_field

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("simulating", total=sum(visit.n_dithers * len(visit.filter_names) for visit in options.visits))
        simulate_field(output, options, progress=lambda path: progress.advance(bar))


@guarded
def simulate_files(
    output: Path, instruments: list[str], filters: str, dithers: int, stars: int, size: int, epochs: str, seed: int
) -> None:
    """``dpm simulate``."""
    from dpm.simulate import SimulationOptions, Visit

    if output.is_dir() and any(output.iterdir()):
        raise RunError(f"{output} holds other files: name a new folder")
    try:
        years = [float(text) for text in epochs.split(",")]
    except ValueError:
        raise UsageError(f"--epochs {epochs!r}: write years by commas, such as 2006.4,2022.3") from None
    names = tuple(name.strip().upper() for name in filters.split(",") if name.strip())
    try:
        visits = tuple(
            Visit(instrument=instrument, filters=names, epoch=year, n_dithers=dithers)
            for instrument in instruments
            for year in years
        )
        options = SimulationOptions(visits=visits, n_pixels=size, n_stars=stars, seed=seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    simulate_with_bar(output, options)
    typer.echo(f"files and truth  {output}")
