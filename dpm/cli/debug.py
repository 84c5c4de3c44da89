"""``dpm debug``."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import typer

from dpm.cli.guard import guarded
from dpm.config import open_run
from dpm.execute import create_executor
from dpm.execute.base import peak_memory

__all__ = ["debug_tile"]


@guarded
def debug_tile(run: Path, tile: str) -> None:
    """Run the part with the whole log, and the traceback of a failure, on standard error."""
    from dpm.run.debug import debug_part
    from dpm.run.errors import RunError

    folder, options = open_run(run)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(relativeCreated)7d ms %(levelname)-7s %(name)s: %(message)s"))
    # The traceback of a defect is what one came for; what the command itself refuses needs none.
    handler.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], RunError)))
    logger, stage = logging.getLogger("dpm"), logging.getLogger("dpm.stages.second_pass")
    level = stage.level
    logger.addHandler(handler)
    stage.setLevel(logging.DEBUG)
    executor = create_executor("none", options.cluster)
    start = time.perf_counter()
    try:
        result = debug_part(folder, options, executor, tile)
    finally:
        executor.close()
        logger.removeHandler(handler)
        stage.setLevel(level)
    figures = ", ".join(f"{key} {value}" for key, value in result.items() if key not in ("name", "step", "warnings"))
    typer.echo(f"{result['name']}: {figures or 'done'}")
    typer.echo(f"{time.perf_counter() - start:.1f} s, peak memory of this process {peak_memory() / 2**20:.0f} MiB")
