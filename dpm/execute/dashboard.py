"""dpm's page in the Dask dashboard: ``/dpm``, and the same as JSON at ``/dpm/json``.

This runs in the scheduler.  A driver sends what its run does about once a second (`dpm.execute.publish`); what the scheduler
itself knows, tasks at work and workers, is looked up when somebody asks for the page, so that nothing is added to any task.  Two
ways lead here: the module's name in the setting ``distributed.scheduler.http.routes`` of a scheduler, or `DashboardPlugin`,
which every driver registers and which adds the same routes to a scheduler that is already up.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.http.utils import RequestHandler, get_handlers
from distributed.scheduler import Scheduler, WorkerState

__all__ = ["HANDLER", "DashboardPlugin", "routes", "task_key", "task_name"]

PLUGIN = "dpm-dashboard"
# Name under which the scheduler takes what drivers send.
HANDLER = "dpm_run_state"
# Runs that are kept after their driver has gone: somebody may want to see how they ended.
KEPT = 8
# Workers that are listed; their sums hold all of them.
MOST_WORKERS = 500
SUFFIX = 8  # hexadecimal digits after a task's name in its key

PAGE = (Path(__file__).parent / "dashboard.html").read_text(encoding="utf-8")


def _hashes(tag: str) -> str:
    """What the page's own scripts or styles are, for the browser to run these and nothing else."""
    blocks = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
    "base-uri 'none'; form-action 'none'"
)


def task_key(name: str, unique: str) -> str:
    """Key of a task in Dask, which tells its name and is its own."""
    return f"{name}-{unique[:SUFFIX]}"


def task_name(key: Any) -> str:
    """Name of the task of a key."""
    return str(key)[: -SUFFIX - 1]


class DashboardPlugin(SchedulerPlugin):
    """Takes what drivers say of their runs, and adds the page to a scheduler that is up."""

    name = PLUGIN
    idempotent = True

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}

    async def start(self, scheduler: Scheduler) -> None:
        """See `SchedulerPlugin`."""
        scheduler.handlers[HANDLER] = self.receive
        scheduler.http_application.add_handlers(".*", get_handlers(scheduler, [__name__]))

    def receive(self, client: str, state: dict[str, Any]) -> None:
        """What the driver that is this client says of its run."""
        before = self.runs.pop(client, {})
        if state.get("plan") is None:
            state["plan"] = before.get("plan")
        self.runs[client] = state
        gone = [name for name, run in self.runs.items() if run.get("gone")]
        for name in gone[: max(len(gone) - KEPT, 0)]:
            del self.runs[name]

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """See `SchedulerPlugin`."""
        if client in self.runs:
            self.runs[client].setdefault("gone", time.time())


def _running(worker: WorkerState) -> Iterator[tuple[Any, float | None]]:
    """Tasks at work and for how long (None: since the worker's last report)."""
    if worker.executing:
        yield from worker.executing.items()
        return
    for _, task in zip(range(worker.nthreads), worker.processing):
        yield task, None


def _worker(worker: WorkerState) -> dict[str, Any]:
    """One worker's line."""
    return {
        "name": str(worker.name),
        "address": worker.address,
        "threads": worker.nthreads,
        "memory": int(worker.metrics.get("memory", 0)),
        "limit": int(worker.memory_limit or 0),
        "cpu": round(float(worker.metrics.get("cpu", 0.0)), 1),
        "seen": round(time.time() - worker.last_seen, 1),
        "tasks": [[task_name(task.key), seconds and round(seconds, 1)] for task, seconds in _running(worker)][: worker.nthreads],
    }


def page_content(scheduler: Scheduler, known: set[str]) -> dict[str, Any]:
    """What the page shows.

    Parameters
    ----------
    scheduler : Scheduler
    known : set of str
        Ids of plans that the page has: they are left out.
    """
    plugin = scheduler.plugins.get(PLUGIN)
    workers = list(scheduler.workers.values())
    running: dict[str, list[str]] = {}
    for worker in workers:
        for task, _ in _running(worker):
            for client in task.who_wants or ():
                running.setdefault(client.client_key, []).append(task_name(task.key))
    runs = []
    for client, state in reversed(plugin.runs.items() if isinstance(plugin, DashboardPlugin) else ()):
        plan = state.get("plan")
        names = running.get(client, [])
        out = state | {"client": client, "running": [], "running_names": names[:MOST_WORKERS]}
        if plan:
            cells = plugin_cells(plan)
            out["running"] = sorted({cells[name] for name in names if name in cells})
            out["plan"] = None if plan["id"] in known else {"id": plan["id"], "cells": plan["cells"]}
        runs.append(out)
    return {
        "now": time.time(),
        "scheduler": scheduler.address,
        "workers": [_worker(worker) for worker in workers[:MOST_WORKERS]],
        "n_workers": len(workers),
        "memory": sum(int(worker.metrics.get("memory", 0)) for worker in workers),
        "limit": sum(int(worker.memory_limit or 0) for worker in workers),
        "runs": runs,
    }


def plugin_cells(plan: dict[str, Any]) -> dict[str, int]:
    """Cell of each part's name; made once for a plan."""
    if "index" not in plan:
        plan["index"] = dict(zip(plan.pop("names"), plan.pop("cell_of")))
    return plan["index"]


class _Handler(RequestHandler):
    def set_default_headers(self) -> None:
        """Nothing but the page's own script runs in it, and no other page shows it in a frame of its own making."""
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")


class PageHandler(_Handler):
    """The page: one file without any data, which asks for the JSON."""

    def get(self) -> None:
        """See tornado."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.write(PAGE)


class StateHandler(_Handler):
    """What the page shows, as JSON; ``?known=ID,ID`` leaves out plans that the asker has."""

    def get(self) -> None:
        """See tornado."""
        known = set(self.get_argument("known", "").split(","))
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.write(json.dumps(page_content(self.server, known)))


routes: list[tuple[str, type, dict[str, Any]]] = [("dpm", PageHandler, {}), ("dpm/json", StateHandler, {})]
