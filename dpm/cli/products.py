"""``dpm report``, ``dpm export`` and ``dpm simulate``: what needs one call of another layer."""

from __future__ import annotations

from pathlib import Path

import typer

from dpm.cli.guard import guarded
from dpm.config import open_run
from dpm.io.run_folder import RunFolder
from dpm.run.errors import IncompleteError
from dpm.run.single import UsageError

__all__ = ["export_run", "make_report", "simulate_files"]

SUFFIXES = {
    ".ecsv": "ecsv",
    ".xml": "votable",
    ".vot": "votable",
    ".votable": "votable",
    ".fits": "fits",
    ".fit": "fits",
    ".parquet": "parquet",
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
def simulate_files(
    output: Path, instruments: list[str], filters: str, dithers: int, stars: int, size: int, epochs: str, seed: int
) -> None:
    """``dpm simulate``."""
    from dpm.simulate import SimulationOptions, Visit, simulate_field

    try:
        years = [float(text) for text in epochs.split(",")]
    except ValueError:
        raise UsageError(f"--epochs {epochs!r}: write years by commas, such as 2006.4,2022.3") from None
    names = tuple(name.strip().upper() for name in filters.split(",") if name.strip())
    visits = tuple(
        Visit(instrument=instrument, filters=names, epoch=year, n_dithers=dithers)
        for instrument in instruments
        for year in years
    )
    simulate_field(output, SimulationOptions(visits=visits, n_pixels=size, n_stars=stars, seed=seed))
    typer.echo(f"files and truth  {output}")
