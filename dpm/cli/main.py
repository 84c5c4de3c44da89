"""The ``dpm`` command: only the commands' arguments stand here, and everything else is imported when a command runs."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from dpm import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="dpm",
    help="Photometry and proper motions from dithered JWST and HST exposures of star fields.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CLUSTER = typer.Option(
    "--cluster", help="auto, none (serial), threads, local, a scheduler's address, or a scheduler file."
)
WORKERS = typer.Option("--workers", min=1, help="Threads, or processes of a local cluster.")
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or its TOML file.")]


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"dpm {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an unexpected error came from.")] = False,
) -> None:
    from dpm.cli import guard

    guard.show_tracebacks = traceback


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="New folder for the simulated files and the run.")] = Path("demo"),
    cluster: Annotated[str | None, CLUSTER] = None,
    workers: Annotated[int | None, WORKERS] = None,
) -> None:
    """Simulate a small field, run everything on it and compare the catalogue with the truth."""
    from dpm.cli.demo import run_demo

    run_demo(folder, cluster, workers)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder with _cal, _flc or _flt files.")] = Path("."),
    output: Annotated[Path, typer.Option("--output", "-o", help="The TOML file to write.")] = Path("field.toml"),
) -> None:
    """Look at the FITS files of a folder and write a TOML file to start from."""
    from dpm.cli.init import write_config

    write_config(folder, output)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="FIELD.TOML", help="The TOML file, or a run folder to go on with.")],
    restart: Annotated[bool, typer.Option("--restart", help="Forget all finished parts first.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done and what it takes, and stop.")] = False,
    exposures: Annotated[int | None, typer.Option("--exposures", min=1, help="With --plan: for so many instead.")] = None,
    stars: Annotated[float | None, typer.Option("--stars", min=0, help="With --plan: stars in an exposure.")] = None,
    cluster: Annotated[str | None, CLUSTER] = None,
    workers: Annotated[int | None, WORKERS] = None,
    performance: Annotated[
        bool, typer.Option("--performance-report", help="Keep Dask's performance report in logs/ (needs bokeh).")
    ] = False,
) -> None:
    """Run every stage that is not up to date, then the report; goes on from where it was stopped."""
    from dpm.cli.run import plan_run, run_field

    if plan:
        plan_run(config, exposures, stars, workers)
    else:
        run_field(config, cluster, workers, restart, performance)


@app.command()
def status(run: RunPath) -> None:
    """Say what state every stage is in (exit code 3 unless all are complete)."""
    from dpm.cli.run import show_status

    show_status(run)


@app.command()
def stage(
    name: Annotated[
        str,
        typer.Argument(help="The stage, such as first_pass; `dpm status` lists them."),
    ],
    run: RunPath,
    partition: Annotated[
        int | None, typer.Option("--partition", min=0, help="Do only this share of the parts, from 0.")
    ] = None,
    of: Annotated[int | None, typer.Option("--of", min=1, help="Number of shares.")] = None,
    finalise: Annotated[bool, typer.Option("--finalise", help="Close the stage after all partitions.")] = False,
    cluster: Annotated[str | None, CLUSTER] = None,
    workers: Annotated[int | None, WORKERS] = None,
) -> None:
    """Run one stage alone: whole, one partition of a job array, or the closing step after all partitions."""
    from dpm.cli.run import run_one_stage

    if (partition is None) != (of is None):
        raise typer.BadParameter("--partition I and --of N go together")
    if partition is not None and finalise:
        raise typer.BadParameter("--finalise comes after the partitions, on its own")
    run_one_stage(name, run, None if partition is None or of is None else (partition, of), finalise, cluster, workers)


@app.command()
def debug(
    run: RunPath,
    tile: Annotated[
        str,
        typer.Option("--tile", help="The part as a failed run names it, such as find_12, or a number: measure that tile."),
    ],
) -> None:
    """Run one tile of the second pass here, serially, with its log on the terminal."""
    from dpm.cli.debug import debug_tile

    debug_tile(run, tile)


@app.command()
def report(run: RunPath) -> None:
    """Write report/index.html again from the run folder alone."""
    from dpm.cli.products import make_report

    make_report(run)


@app.command()
def residuals(
    run: RunPath,
    exposure: Annotated[
        list[str] | None,
        typer.Option("--exposure", "-e", help="One or more times: only these exposures, and no stacks."),
    ] = None,
) -> None:
    """Write data minus model to images/: every exposure, and each filter's stack beside its residual's."""
    from dpm.cli.products import make_residuals

    make_residuals(run, exposure or [])


@app.command()
def chart(
    run: RunPath,
    id: Annotated[list[int] | None, typer.Option("--id", help="One or more times: number of a star of the catalogue.")] = None,
    at: Annotated[list[str] | None, typer.Option("--at", help="One or more times: RA,DEC in degrees or sexagesimal.")] = None,
    size: Annotated[float, typer.Option("--size", help="Side in arcsec.")] = 20.0,
    stack: Annotated[str | None, typer.Option("--stack", help="The stack to draw; the last one by default.")] = None,
) -> None:
    """Draw finding charts of chosen stars from the atlas, to images/charts."""
    from dpm.cli.products import make_charts

    make_charts(run, id or [], at or [], size, stack)


@app.command()
def export(
    run: RunPath,
    output: Annotated[Path, typer.Argument(help="The file to write; with --release (or for HATS) the folder.")],
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="ecsv, votable, fits, parquet or hats; by default from the name.")
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Write the folder that goes with a paper.")] = False,
    title: Annotated[str, typer.Option("--title", help="Of the release's ReadMe; the run's name by default.")] = "",
    need: Annotated[
        list[str] | None,
        typer.Option("--need", help="One or more times: members, artificial_stars, psf, distortion or atlas has to be in it."),
    ] = None,
) -> None:
    """Write the catalogue in another format, with units and UCDs, or a release of everything."""
    from dpm.cli.products import export_run, release_run

    if release:
        release_run(run, output, title, need or [])
    else:
        export_run(run, output, format)


@app.command()
def simulate(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the files and their truth.")],
    instrument: Annotated[
        list[str] | None,
        typer.Option("--instrument", "-i", help="One or more times: niriss, nircam_a1, acs_wfc, wfc3_uvis ..."),
    ] = None,
    filters: Annotated[
        str, typer.Option("--filters", help="Filters by commas; the instrument's first two by default.")
    ] = "",
    dithers: Annotated[int, typer.Option("--dithers", min=1, help="Exposures a filter.")] = 9,
    stars: Annotated[int, typer.Option("--stars", min=1, help="Stars in the field.")] = 5000,
    size: Annotated[int, typer.Option("--size", help="Side of the frames in pixels; 0 for the whole detector.")] = 512,
    epochs: Annotated[str, typer.Option("--epochs", help="Epochs by commas, one a visit.")] = "2022.33",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")] = 1,
) -> None:
    """Simulate JWST- and HST-like exposures of a star field, with the full truth."""
    from dpm.cli.products import simulate_files

    simulate_files(output, instrument or ["niriss"], filters, dithers, stars, size, epochs, seed)


def main() -> None:
    """Entry point of the ``dpm`` command; see DESIGN section 5 for its exit codes."""
    # Parallelism is dpm's own: BLAS threads would only get in its way. This has to stand before numpy is imported.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(name, "1")
    from dpm.cli.guard import prepare_process

    prepare_process()
    try:
        app()
    except SystemExit as end:
        if end.code == 130 and any(thread.name.startswith("dpm") for thread in threading.enumerate()):
            # Threads are still inside a part; they must not hold up an interrupted command.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise
