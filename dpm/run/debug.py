"""One part of the second pass here, serially (``dpm debug``)."""

from __future__ import annotations

import shutil
from typing import Any

from dpm.execute.base import Executor
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.run.pipeline import Runner, at_work
from dpm.run.single import UsageError

__all__ = ["debug_part"]

STAGE = "second_pass"


def debug_part(folder: RunFolder, options: Options, executor: Executor, name: str) -> dict[str, Any]:
    """Run one part of the second pass in this thread; returns what it returned.

    Files that a stopped run left for its next parts are used and stay; after a complete run they are made again, as far as the part
    needs them, and removed.

    Parameters
    ----------
    folder : RunFolder
    options : Options
    executor : Executor
        Only to know the run's keys: nothing is sent to it.
    name : str
        Of the part, or the number of a tile.

    Raises
    ------
    UsageError
        If there is no such part.
    IncompleteError
        If a stage upstream is not complete.
    """
    from dpm.stages.second_pass.debug import UnknownPartError, run_part
    from dpm.stages.second_pass.field import files_folder

    with at_work(folder, executor):
        runner = Runner(folder, options, executor)
        runner.require_upstream(STAGE)
        parts = runner.parts(STAGE)
        resumable = parts.plan() is not None and parts.finished() is None
        if not resumable:
            shutil.rmtree(files_folder(folder), ignore_errors=True)
        try:
            return run_part(folder, options, name)
        except UnknownPartError as error:
            raise UsageError(str(error)) from None
        finally:
            if not resumable:
                shutil.rmtree(files_folder(folder), ignore_errors=True)
