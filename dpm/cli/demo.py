"""``dpm demo``: a small simulated field through everything, and the catalogue beside the truth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dpm.cli.guard import guarded, say
from dpm.cli.products import simulate_with_bar
from dpm.cli.run import run_options
from dpm.config import open_run
from dpm.run.errors import RunError

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["run_demo"]

FILTERS = ("F090W", "F150W")
TOML = """\
# The demo's field: two filters, nine dithers each, with a reference catalogue of the bright stars.
[run]
name = "demo"
directory = "run"

[input]
exposures = ["exposures/*_cal.fits"]
reference = "exposures/reference.ecsv"

[psf]
source = "build"
"""


@guarded
def run_demo(folder: Path, cluster: str | None, workers: int | None) -> None:
    """``dpm demo``."""
    config = folder / "field.toml"
    if folder.exists() and {path.name for path in folder.iterdir()} - {"exposures", "field.toml", "run"}:
        raise RunError(f"{folder} holds other files: name a new folder, such as `dpm demo my_demo`")
    start = time.perf_counter()
    if not config.is_file():
        _simulate(folder)
        config.write_text(TOML, encoding="utf-8")
        say(
            f"simulated    {time.perf_counter() - start:7.1f} s  18 exposures of 512 x 512 pixels "
            f"in {folder / 'exposures'}"
        )
    run_folder, options = open_run(config, check_files=True)
    result = run_options(run_folder, options, cluster, workers)
    from dpm.io.tables import read_table
    from dpm.models.detectors import band_name
    from dpm.simulate.compare import compare_catalog

    catalog = read_table(run_folder.catalog)
    for name in FILTERS:
        table = compare_catalog(catalog, folder / "exposures" / "truth", name, band_name("NIRISS", name))
        typer.echo(f"\n{name}: found against true")
        typer.echo(_format(table))
    typer.echo(
        "\nfound: of the true stars in three exposures or more; false: of the catalogue's rows. RMS and pulls are\n"
        "robust widths of (measured - true), an axis; a pull of 1 means that the catalogue's errors are right.\n"
    )
    for text in result.warnings:
        say(f"warning: {text}")
    typer.echo(f"{len(catalog)} stars after {time.perf_counter() - start:.0f} s")
    typer.echo(f"catalogue  {run_folder.catalog}")
    typer.echo(f"report     {run_folder.report}")


def _simulate(folder: Path) -> None:
    """The demo's exposures."""
    from dpm.simulate import SimulationOptions, Visit

    options = SimulationOptions(visits=(Visit(instrument="niriss", filters=FILTERS, n_dithers=9),), n_stars=4000)
    simulate_with_bar(folder / "exposures", options)


def _format(table: Table) -> str:
    """The comparison as text."""
    heads = ("mag", "true", "found", "false", "position RMS", "pull", "mag RMS", "pull")
    units = ("", "", "%", "%", "mas", "", "mag", "")
    lines = ["".join(f"{head:>14s}" for head in heads), "".join(f"{unit:>14s}" for unit in units)]
    for row in table:
        values = (
            f"{row['mag']:.1f}",
            f"{row['n_true']:d}",
            f"{100 * row['found']:.1f}",
            f"{100 * row['false']:.1f}",
            f"{row['position_rms']:.2f}",
            f"{row['position_pull']:.2f}",
            f"{row['mag_rms']:.4f}",
            f"{row['mag_pull']:.2f}",
        )
        lines.append("".join(f"{value:>14s}" for value in values).replace("nan", "  -"))
    return "\n".join(lines)
