"""``dpm run``, ``dpm stage`` and ``dpm status``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from dpm.cli.guard import guarded, say
from dpm.cli.progress import show_progress
from dpm.config import ConfigError, open_run, render_options
from dpm.execute import create_executor
from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.run.files import write_text
from dpm.run.inputs import check_same_field
from dpm.run.pipeline import Finish, RunResult, run_pipeline
from dpm.run.single import finalise_stage, run_partition, run_stage
from dpm.run.status import stage_states

__all__ = ["plan_run", "run_field", "run_one_stage", "run_options", "show_status"]


def report_step() -> Finish:
    """The report as the closing step of a run."""

    def write(folder: RunFolder) -> Any:
        from dpm.report import write_report

        return write_report(folder)

    return ("report", write, ("report/index.html",))


def _open(path: Path) -> tuple[RunFolder, Options]:
    folder, options = open_run(path, check_files=True)
    if not options.input.exposures:
        raise ConfigError(
            f'{path}: [input] exposures is empty: name the files, such as exposures = ["data/*_cal.fits"]'
        )
    return folder, options


def run_options(
    folder: RunFolder,
    options: Options,
    cluster: Any = None,
    workers: int | None = None,
    restart: bool = False,
    last: Sequence[Finish] | None = None,
    performance: bool = False,
) -> RunResult:
    """Run a folder with progress on the screen; ``cluster`` and ``workers`` override ``[cluster]``.

    With ``performance`` Dask's performance report is kept beside the log.
    """
    sizes = options.cluster if workers is None else replace(options.cluster, workers=workers)
    executor = create_executor(cluster or options.cluster.use, sizes)
    try:
        if performance:
            executor.keep_performance(folder.logs / f"performance-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.html")
        with show_progress() as observer:
            return run_pipeline(
                folder,
                options,
                executor,
                last=[report_step()] if last is None else last,
                restart=restart,
                observer=observer,
                config_text=render_options(options),
            )
    finally:
        executor.close()


@guarded
def run_field(config: Path, cluster: str | None, workers: int | None, restart: bool, performance: bool) -> None:
    """``dpm run``."""
    folder, options = _open(config)
    result = run_options(folder, options, cluster, workers, restart, performance=performance)
    _summarise(result)


def _say_warnings(folder: RunFolder, warnings: list[str], most: int = 10) -> None:
    """The first of them; the rest stand in a file."""
    for text in warnings[:most]:
        say(f"warning: {text}")
    if len(warnings) > most:
        say(f"and {len(warnings) - most} more warnings in {folder.provenance}")


def _summarise(result: RunResult) -> None:
    """What was found, and where it lies."""
    folder = result.folder
    _say_warnings(folder, result.warnings)
    if folder.catalog.is_file():
        import pyarrow.parquet as pq

        schema = pq.ParquetFile(folder.catalog)
        bands = sorted(name.removesuffix("_mag") for name in schema.schema_arrow.names if name.endswith("_mag"))
        typer.echo(
            f"\n{schema.metadata.num_rows} stars in {', '.join(bands) or 'no band'}, after {result.seconds:.1f} s"
        )
        typer.echo(f"catalogue  {folder.catalog}")
    if folder.exposures.is_file():
        typer.echo(f"exposures  {folder.exposures}")
    if folder.report.is_file():
        typer.echo(f"report     {folder.report}")


@guarded
def plan_run(config: Path, exposures: int | None, stars: float | None, workers: int | None) -> None:
    """``dpm run --plan``."""
    folder, options = _open(config)
    check_same_field(folder, options)
    typer.echo(f"run folder {folder.root}, {len(options.input.exposures)} files")
    before = True
    for state in stage_states(folder, options):
        if state.state == "complete" and before:
            typer.echo(f"{state.name:12s} nothing to do")
            continue
        before = False
        todo = f"{state.parts - state.done} parts to do, " if state.parts else ""
        typer.echo(f"{state.name:12s} to run: {todo}{state.reason or 'a stage before it runs again'}")
    _say_estimates(folder, options, exposures, stars, workers)


def _say_estimates(
    folder: RunFolder, options: Options, exposures: int | None, stars: float | None, workers: int | None
) -> None:
    """What the whole run takes, from its beginning."""
    from dpm.execute.base import usable_cpus
    from dpm.run.estimate import estimate_run, field_size, wall_seconds
    from dpm.stages import STAGES

    try:
        size = field_size(folder, options, exposures, stars)
    except InputError as error:
        say(f"\nno estimate of what it takes: {error}")
        return
    estimates = [entry for entry in estimate_run(size, options, STAGES) if entry.tasks]
    count = workers or options.cluster.workers or usable_cpus()
    typer.echo(
        f"\nfrom the beginning: {size.exposures} exposures of {size.megapixels:.3g} megapixels with {size.stars:,.0f} stars each\n"
        f"{'stage':16s} {'tasks':>7s} {'CPU s':>9s} {'longest s':>9s} {'read GB':>8s} {'written GB':>10s} {'GB a worker':>11s}"
    )
    for entry in estimates:
        typer.echo(
            f"{entry.name:16s} {entry.tasks:7d} {entry.seconds:9.1f} {entry.longest:9.1f} {entry.bytes_read / 1e9:8.2f} "
            f"{entry.bytes_written / 1e9:10.2f} {entry.memory / 1e9:11.2f}"
        )
    typer.echo(
        f"about {wall_seconds(estimates, count) / 60:.1f} min with {count} workers, kernels compiled, the disk no limit"
    )


@guarded
def show_status(run: Path) -> None:
    """``dpm status``."""
    from dpm.run.lock import live_owner

    folder, options = open_run(run)
    if not folder.root.is_dir():
        say(f"{folder.root}: not run yet")
        raise typer.Exit(3)
    typer.echo(f"run folder {folder.root}, {len(options.input.exposures)} files")
    owner = live_owner(folder.lock)
    if owner is not None:
        typer.echo(f"in use by process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}")
    states = stage_states(folder, options)
    for state in states:
        more = state.reason or f"{state.parts} parts, {state.seconds:.1f} s"
        typer.echo(f"{state.name:12s} {state.state:9s} {more}")
    for path, what in ((folder.catalog, "catalogue"), (folder.report, "report")):
        if path.is_file():
            typer.echo(f"{what:12s} {path}")
    if any(state.state != "complete" for state in states):
        raise typer.Exit(3)


@guarded
def run_one_stage(
    name: str, run: Path, partition: tuple[int, int] | None, finalise: bool, cluster: str | None, workers: int | None
) -> None:
    """``dpm stage``."""
    folder, options = _open(run)
    check_same_field(folder, options)
    folder.create()
    if not folder.config.is_file() or partition is None:
        write_text(folder.config, render_options(options))
    sizes = options.cluster if workers is None else replace(options.cluster, workers=workers)
    # A partition is one share of a job array: its processors are its own, and a cluster inside would be one too many.
    usual = "threads" if partition else options.cluster.use
    executor = create_executor(cluster or usual, sizes)
    try:
        with show_progress() as observer:
            if partition is not None:
                done = run_partition(folder, options, executor, name, *partition, observer=observer)
                say(f"{name:12s} partition {partition[0]} of {partition[1]}: {done} parts done")
            elif finalise:
                summary = finalise_stage(folder, options, executor, name, observer=observer)
            else:
                summary = run_stage(folder, options, executor, name, observer=observer)
        if partition is None:
            _say_warnings(folder, summary.get("warnings", []))
    finally:
        executor.close()
