"""Dask's own performance report of a run, one HTML file: what every worker did when, profiles, the scheduler's log."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path

from distributed import Client, Scheduler

from dpm.execute.base import ClusterError
from dpm.io.atomic import replacing

__all__ = ["PerformanceReport"]

log = logging.getLogger(__name__)

# Seconds that the scheduler may take to draw the report.
PATIENCE = 120.0


def _begin(dask_scheduler: Scheduler) -> int | None:
    """Count of the scheduler's monitor now; None where it cannot draw."""
    return dask_scheduler.monitor.count if importlib.util.find_spec("bokeh") else None


class PerformanceReport:
    """Begins with its making; `write` draws it.

    Parameters
    ----------
    client : distributed.Client
    path : Path
        The HTML file.

    Raises
    ------
    ClusterError
        If the scheduler cannot draw, for it has no bokeh.
    """

    def __init__(self, client: Client, path: Path) -> None:
        self._client, self._path, self._start = client, path, time.time()
        count = client.run_on_scheduler(_begin)
        if count is None:
            raise ClusterError("a performance report needs bokeh where the scheduler runs: pip install 'bokeh>=3.1'")
        self._count = count
        # From here on the scheduler keeps what its workers did when.
        client.get_task_stream(start=0, stop=0)

    def write(self) -> None:
        """Draw it, with all that its pages need inside; what goes wrong is a warning."""
        try:
            text = self._client.sync(
                getattr(self._client.scheduler, "performance_report"),  # noqa: B009 - an operation of the scheduler, no attribute
                start=self._start,
                last_count=self._count,
                code="dpm",
                mode="inline",
                callback_timeout=PATIENCE,
            )
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except Exception as error:
            log.warning("no performance report: %s: %s", type(error).__name__, error)
